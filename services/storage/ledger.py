"""The delivery ledger: what this service said and what it heard, a row each time, for whoever reconciles them.

A row says that a message was handed to a broker (*said*) or what became of one delivery of it (*heard*). Rows are
written before the delivery is acknowledged, so that what was acknowledged is here. They are kept for a day, and no
more than ``MOST_ROWS``: who asks for older ones is told since when they are complete.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from services.storage.database import CONVERSATIONS, EFFECTS, LEDGER, ORDERS, OUTBOX, Database

KEPT_S = 24 * 3600.0
MOST_ROWS = 2_000_000
_FORGOTTEN_AT_ONCE = 20_000
"""So many rows go in one transaction: others wait for it."""
_SECOND_NS = 1_000_000_000
_LONGEST = 200
"""Of an id, a type or a name; what is longer is a stranger's."""
_COLUMNS = tuple(column.name for column in LEDGER.columns if column.name != "id")
_INSERT = f"INSERT INTO ledger ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608


class Outcome(StrEnum):
    """What became of a delivery. Those that are given back, to come again, have no row yet."""

    HANDLED = "handled"
    KNOWN = "known"
    """This very message had been handled before: its effect was not repeated."""
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row. ``outcome`` is None for what was said."""

    message_id: str
    type: str
    broker: str
    channel: str
    order_id: str
    style: str
    transport: str
    outcome: Outcome | None = None
    at_ns: int = field(default_factory=time.time_ns)


def entry(
    headers: Mapping[str, str], *, broker: str, channel: str, message_id: str = "", outcome: Outcome | None = None
) -> Entry:
    """What is noted of a message with these headers; ``message_id`` where they may have none."""
    return Entry(
        message_id=(headers.get("ce-id") or message_id)[:_LONGEST],
        type=headers.get("ce-type", "")[:_LONGEST],
        broker=broker,
        channel=channel,
        order_id=headers.get("ce-subject", "")[:_LONGEST],
        style=headers.get("ce-labstyle", "")[:_LONGEST],
        transport=headers.get("ce-labtransport", "")[:_LONGEST],
        outcome=outcome,
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the order in which they were written. ``after`` asks for the next page; None: there is none.
    ``complete_since_ns``: of what was before, rows may be gone."""

    rows: Sequence[Mapping[str, Any]]
    after: int | None
    complete_since_ns: int = 0


class LedgerStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entries: Sequence[Entry]) -> None:
        """Write all of them, or none."""
        rows = [
            (
                *(each.at_ns, int(each.outcome is None), each.outcome.value if each.outcome else ""),
                *(each.message_id, each.type, each.broker, each.channel, each.order_id, each.style, each.transport),
            )
            for each in entries
        ]

        def write(connection: Connection) -> None:
            if self._database.sqlite:  # as Core writes it, at half its cost, which every message bears
                connection.exec_driver_sql(_INSERT, rows)
            else:
                connection.execute(insert(LEDGER), [dict(zip(_COLUMNS, row, strict=True)) for row in rows])

        await self._database.write(write)

    async def page(self, *, since_ns: int, after: int, limit: int) -> Page:
        """What was said and heard since then."""

        def look(connection: Connection) -> Page:
            # rows are written in about the order of their instants: where the first is, an index knows
            first = connection.execute(select(func.min(LEDGER.c.id)).where(LEDGER.c.at_ns >= since_ns)).scalar()
            oldest = connection.execute(select(LEDGER.c.id, LEDGER.c.at_ns).order_by(LEDGER.c.id).limit(1)).first()
            complete_since_ns = time.time_ns() - int(KEPT_S * _SECOND_NS)
            if oldest is not None and oldest.id > 1:
                complete_since_ns = max(complete_since_ns, oldest.at_ns)
            if first is None:
                return Page([], None, complete_since_ns)
            query = select(LEDGER).where(LEDGER.c.id >= max(first, after + 1), LEDGER.c.at_ns >= since_ns)
            found = connection.execute(query.order_by(LEDGER.c.id).limit(limit)).all()
            rows = [dict(row._mapping) for row in found]  # noqa: SLF001
            return Page(rows, found[-1].id if len(found) == limit else None, complete_since_ns)

        return await self._database.read(look)

    async def effects(self, *, since_ns: int, after: int, limit: int) -> Page:
        """What this service did since then, each time that it did it."""
        query = (
            select(EFFECTS).where(EFFECTS.c.id > after, EFFECTS.c.at_ns >= since_ns).order_by(EFFECTS.c.id).limit(limit)
        )
        return await self._read(query, limit)

    async def outbox(self, *, since_ns: int, after: int, limit: int) -> Page:
        """What orders has said by its outbox since then; ``published_at_ns`` is None for what waits in it."""
        kept = (OUTBOX.c.id, OUTBOX.c.order_id, OUTBOX.c.broker, OUTBOX.c.channel, OUTBOX.c.headers)
        query = (
            select(*kept, OUTBOX.c.written_at_ns, OUTBOX.c.published_at_ns)
            .where(OUTBOX.c.id > after, OUTBOX.c.written_at_ns >= since_ns)
            .order_by(OUTBOX.c.id)
            .limit(limit)
        )
        return await self._read(query, limit)

    async def orders(self, *, since_ns: int, run_id: str, after: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Orders that were accepted since then, by id; with ``run_id``, those whose baggage may name it."""
        query = (
            select(
                *(ORDERS.c.id, ORDERS.c.style, ORDERS.c.transport, ORDERS.c.state, ORDERS.c.slots, ORDERS.c.reason),
                *(ORDERS.c.accepted_at_ns, ORDERS.c.completed_at_ns, ORDERS.c.carrier, ORDERS.c.lease_until_ns),
                CONVERSATIONS.c.alarm_at_ns,
            )
            .outerjoin(CONVERSATIONS, CONVERSATIONS.c.order_id == ORDERS.c.id)
            .where(ORDERS.c.id > after, ORDERS.c.accepted_at_ns >= since_ns)
            .order_by(ORDERS.c.id)
            .limit(limit)
        )
        if run_id:
            query = query.where(ORDERS.c.carrier.contains(run_id, autoescape=True))
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [dict(row._mapping) for row in rows]  # noqa: SLF001

    async def _read(self, query: Any, limit: int) -> Page:
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return Page([dict(row._mapping) for row in found], found[-1].id if len(found) == limit else None)  # noqa: SLF001

    async def forget(self) -> int:
        """Let go of some of what is older, or more, than is kept; gives how many rows. 0 once there are no such."""
        before_ns = time.time_ns() - int(KEPT_S * _SECOND_NS)

        def write(connection: Connection) -> int:
            newest = connection.execute(select(func.max(LEDGER.c.id))).scalar() or 0
            due = select(LEDGER.c.id).where((LEDGER.c.at_ns < before_ns) | (LEDGER.c.id <= newest - MOST_ROWS))
            some = due.order_by(LEDGER.c.id).limit(_FORGOTTEN_AT_ONCE)
            return connection.execute(delete(LEDGER).where(LEDGER.c.id.in_(some.scalar_subquery()))).rowcount

        return await self._database.write(write)
