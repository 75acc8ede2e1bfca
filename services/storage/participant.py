"""What a participant remembers: messages handled (inbox), its slot per order, effects carried out.

An effect, its slot and its inbox entry are written in one transaction: delivery is at least once, effects happen once.
"""

import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, distinct, func, insert, select, update

from services.domain.order import Slot
from services.storage.database import EFFECTS, FAILURES, INBOX, STEPS, Database


class Overtaken(Exception):
    """Somebody else settled this cause or this order's slot in the meantime; look again."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known before a command is carried out. ``answer`` is (type, JSON) if its cause was handled before."""

    slot: Slot
    reason: str | None
    answer: tuple[str, bytes] | None


class ParticipantStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def recall(self, cause: str | None, order_id: str) -> Memory:
        """What is known of ``order_id``, and of ``cause`` (the id of a message; None for a call, which the slot alone
        makes idempotent)."""

        def look(connection: Connection) -> Memory:
            handled = None
            if cause is not None:
                handled = connection.execute(select(INBOX).where(INBOX.c.cause == cause)).first()
            step = connection.execute(select(STEPS).where(STEPS.c.order_id == order_id)).first()
            return Memory(
                slot=Slot(step.slot) if step else Slot.PENDING,
                reason=step.reason if step else None,
                answer=(handled.answer_type, handled.answer) if handled else None,
            )

        return await self._database.read(look)

    async def settle(
        self,
        cause: str | None,
        order_id: str,
        *,
        was: Slot,
        slot: Slot,
        reason: str | None,
        answer: tuple[str, bytes],
        effect: str | None,
    ) -> None:
        """Remember an answer and, where there is one, its effect. Raises ``Overtaken`` and writes nothing if ``cause``
        was handled or the slot changed since ``recall``."""
        now_ns = time.time_ns()

        def write(connection: Connection) -> None:
            if cause is not None:
                first = connection.execute(
                    self._database.insert(INBOX)
                    .values(cause=cause, answer_type=answer[0], answer=answer[1], handled_at_ns=now_ns)
                    .on_conflict_do_nothing()
                )
                if first.rowcount != 1:
                    raise Overtaken(cause)
            if slot is was:
                return
            if was is Slot.PENDING:
                changed = connection.execute(
                    self._database.insert(STEPS)
                    .values(order_id=order_id, slot=slot.value, reason=reason)
                    .on_conflict_do_nothing()
                )
            else:
                changed = connection.execute(
                    update(STEPS).where(STEPS.c.order_id == order_id, STEPS.c.slot == was.value).values(slot=slot.value)
                )
            if changed.rowcount != 1:
                raise Overtaken(order_id)
            if effect is not None:
                connection.execute(
                    insert(EFFECTS).values(order_id=order_id, action=effect, cause=cause or "call", at_ns=now_ns)
                )

        await self._database.write(write)

    async def effects(self) -> dict[str, tuple[int, int]]:
        """Per action: how often it was carried out, and for how many orders. Equal unless something was done twice."""
        query = select(EFFECTS.c.action, func.count(), func.count(distinct(EFFECTS.c.order_id))).group_by(
            EFFECTS.c.action
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {action: (times, orders) for action, times, orders in rows}


class Failures:
    """How often handling a message has failed, so that attempts are counted across restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, cause: str) -> int:
        """Count one more failure of ``cause``; gives the count."""
        statement = (
            self._database.insert(FAILURES)
            .values(cause=cause, count=1)
            .on_conflict_do_update(index_elements=[FAILURES.c.cause], set_={"count": FAILURES.c.count + 1})
            .returning(FAILURES.c.count)
        )
        count: int = await self._database.write(lambda connection: connection.execute(statement).scalar_one())
        return count

    async def forget(self, cause: str) -> None:
        """Start counting anew."""
        statement = delete(FAILURES).where(FAILURES.c.cause == cause)
        await self._database.write(lambda connection: connection.execute(statement))
