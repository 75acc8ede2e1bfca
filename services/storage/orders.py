"""What orders remembers: each order's state and history, its outbox, the lab's settings.

Accepting an order writes it and its outgoing messages in one transaction. A *lease* says until when somebody is busy
with a row (a conversation, an outgoing message); what nobody holds any more is picked up by whoever looks next, so
that a killed process leaves nothing behind for good.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from services.domain.messages import Event, Order, type_name
from services.domain.order import IN_TURN, OrderState, Plan, Slot, Verdict, evolve
from services.storage.database import CONVERSATIONS, HISTORY, INBOX, ORDERS, OUTBOX, SETTINGS, Database

_ORDER = TypeAdapter(Order)
_SECOND_NS = 1_000_000_000


class KeyTaken(Exception):
    """An order with this Idempotency-Key is there already."""


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """A row of orders. Instants are ns since 1970-01-01 UTC; ``carrier`` is the W3C context it was accepted in."""

    state: OrderState
    style: str
    transport: str
    verdict: Verdict
    reason: str | None
    accepted_at_ns: int
    completed_at_ns: int | None
    body_hash: str | None
    carrier: Mapping[str, str]

    @property
    def ended(self) -> bool:
        return self.verdict is not Verdict.ACCEPTED


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message in the outbox, with the context that it was written in. ``id`` is 0 until it is stored."""

    order_id: str
    broker: str
    channel: str
    headers: Mapping[str, str]
    body: bytes
    carrier: Mapping[str, str]
    written_at_ns: int
    id: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What a style makes of what was heard, in the words of the store: messages to send, events of orders' own, what
    it notes (None: as before) and when it wants to be woken (None: as before; infinite: never)."""

    parcels: Sequence[Parcel] = ()
    events: Sequence[Event] = ()
    memory: Mapping[str, Any] | None = None
    alarm_s: float | None = None
    late: bool = False


Decide = Callable[[OrderState, OrderState, Mapping[str, Any]], Turn]
"""The order before and after, and what was noted; runs in the transaction, in another thread."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """``ended``: the order reached its end just now. ``again``: this cause was heard before, and nothing changed.
    ``parcels`` are stored, and the caller's to send. ``late``: the style expected it no more."""

    order: StoredOrder
    ended: bool = False
    again: bool = False
    parcels: Sequence[Parcel] = ()
    late: bool = False


class OrderStore:
    """``plans`` has each style's; the others' orders are asked for in turn."""

    def __init__(self, database: Database, plans: Mapping[str, Plan] = MappingProxyType({})) -> None:
        self._database = database
        self._plans = plans

    async def place(
        self,
        state: OrderState,
        *,
        style: str,
        transport: str,
        carrier: Mapping[str, str],
        idempotency_key: str | None,
        body_hash: str | None,
        parcels: Sequence[Parcel],
        lease_s: float,
        conversation: bool,
        memory: Mapping[str, Any] | None = None,
        alarm_s: float | None = None,
    ) -> tuple[StoredOrder, list[Parcel]]:
        """Accept an order: the row, its first line of history, its parcels and its style's notes, or nothing. The
        lease on the parcels (and, with ``conversation``, on the order) is the caller's. Raises ``KeyTaken``."""
        now_ns = time.time_ns()
        until_ns = now_ns + int(lease_s * _SECOND_NS)
        order_id = state.order.order_id

        def write(connection: Connection) -> list[Parcel]:
            placed = connection.execute(
                self._database.insert(ORDERS)
                .values(
                    id=order_id,
                    style=style,
                    transport=transport,
                    state=state.verdict.value,
                    order_json=_ORDER.dump_json(state.order),
                    **_slots(state),
                    accepted_at_ns=now_ns,
                    idempotency_key=idempotency_key,
                    body_hash=body_hash,
                    carrier=json.dumps(dict(carrier)),
                    lease_until_ns=until_ns if conversation else None,
                )
                .on_conflict_do_nothing(index_elements=[ORDERS.c.idempotency_key])
            )
            if placed.rowcount != 1:
                raise KeyTaken(idempotency_key)
            connection.execute(insert(HISTORY).values(order_id=order_id, at_ns=now_ns, event="order.placed"))
            self._note(connection, order_id, Turn(memory=memory, alarm_s=alarm_s), carrier, now_ns)
            return [_store(connection, parcel, until_ns) for parcel in parcels]

        stored = await self._database.write(write)
        accepted = StoredOrder(state, style, transport, state.verdict, None, now_ns, None, body_hash, dict(carrier))
        return accepted, stored

    async def record(
        self,
        order_id: str,
        event: Event | None,
        *,
        cause: str | None = None,
        reason: str | None = None,
        decide: Decide | None = None,
        carrier: Mapping[str, str] = MappingProxyType({}),
        lease_s: float = 0,
        handed_over: bool = False,
    ) -> Recorded:
        """Fold ``event`` into the order (None: an alarm rang), let ``decide`` say what follows, and write it all down,
        or nothing. A ``cause`` heard before changes nothing. ``reason`` is used if the order ends rejected and no
        refusal gives one; ``carrier`` is the trace context of this turn; the lease on the new parcels is the caller's.
        ``handed_over``: nobody carries the conversation on any more. Raises KeyError for an unknown order."""
        now_ns = time.time_ns()

        def fold(connection: Connection) -> Recorded:
            row = connection.execute(select(ORDERS).where(ORDERS.c.id == order_id).with_for_update()).first()
            if row is None:
                raise KeyError(order_id)
            before = self._stored(row)
            if cause is not None:
                first = connection.execute(
                    self._database.insert(INBOX).values(cause=cause, handled_at_ns=now_ns).on_conflict_do_nothing()
                )
                if first.rowcount != 1:
                    return Recorded(before, again=True)
            if event is None and before.ended:
                return Recorded(before, late=True)
            state = before.state if event is None else evolve(before.state, event)
            turn = Turn()
            if decide is not None:
                turn = decide(before.state, state, self._memory(connection, order_id))
                self._note(connection, order_id, turn, carrier, now_ns)
            for own in turn.events:
                state = evolve(state, own)
            # the first end that was reached stays: what is heard later may only fill in the slots
            verdict = before.verdict if before.ended else state.verdict
            ended = not before.ended and verdict is not Verdict.ACCEPTED
            values: dict[str, Any] = {**_slots(state), "state": verdict.value}
            if ended or handed_over:
                values["lease_until_ns"] = None
            if ended:
                values["completed_at_ns"] = now_ns
                if verdict is Verdict.REJECTED:
                    values["reason"] = state.reason or reason
            connection.execute(update(ORDERS).where(ORDERS.c.id == order_id).values(**values))
            for heard in (*([event] if event else []), *turn.events):
                connection.execute(
                    insert(HISTORY).values(order_id=order_id, at_ns=now_ns, event=type_name(type(heard)))
                )
            until_ns = now_ns + int(lease_s * _SECOND_NS)
            parcels = [_store(connection, parcel, until_ns) for parcel in turn.parcels]
            return Recorded(self._stored(row, state=state, values=values), ended, parcels=parcels, late=turn.late)

        return await self._database.write(fold)

    def _memory(self, connection: Connection, order_id: str) -> Mapping[str, Any]:
        query = select(CONVERSATIONS.c.memory).where(CONVERSATIONS.c.order_id == order_id)
        memory = connection.execute(query).scalar_one_or_none()
        noted: Mapping[str, Any] = json.loads(memory) if memory else {}
        return noted

    def _note(self, connection: Connection, order_id: str, turn: Turn, carrier: Mapping[str, str], now_ns: int) -> None:
        values: dict[str, Any] = {}
        if turn.memory is not None:
            values["memory"] = json.dumps(dict(turn.memory))
        if turn.alarm_s is not None:
            rings = math.isfinite(turn.alarm_s)
            values["alarm_at_ns"] = now_ns + int(turn.alarm_s * _SECOND_NS) if rings else None
        if not values:
            return
        values["carrier"] = json.dumps(dict(carrier))
        connection.execute(
            self._database.insert(CONVERSATIONS)
            .values({"order_id": order_id, "memory": "{}", **values})
            .on_conflict_do_update(index_elements=[CONVERSATIONS.c.order_id], set_=values)
        )

    async def memory(self, order_id: str) -> Mapping[str, Any]:
        """What the order's style has noted; empty where it notes nothing."""
        return await self._database.read(lambda connection: self._memory(connection, order_id))

    async def alarms(self, lease_s: float, limit: int = 50) -> list[tuple[StoredOrder, Mapping[str, str]]]:
        """Take the open orders whose alarm is due, each with the context of its last turn. Unless a turn sets another
        alarm, it rings again after ``lease_s``: whoever took it may die."""
        now_ns = time.time_ns()

        def take(connection: Connection) -> list[tuple[StoredOrder, Mapping[str, str]]]:
            due = (
                select(CONVERSATIONS.c.order_id, CONVERSATIONS.c.carrier)
                .where(CONVERSATIONS.c.alarm_at_ns < now_ns)
                .order_by(CONVERSATIONS.c.alarm_at_ns)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            carriers = {row.order_id: json.loads(row.carrier) for row in connection.execute(due)}
            if not carriers:
                return []
            query = select(ORDERS).where(ORDERS.c.id.in_(carriers), ORDERS.c.state == Verdict.ACCEPTED.value)
            taken = [(self._stored(row), carriers[row.id]) for row in connection.execute(query)]
            still_open = [stored.state.order.order_id for stored, _ in taken]
            change = update(CONVERSATIONS).where(CONVERSATIONS.c.order_id.in_(carriers))
            connection.execute(change.values(alarm_at_ns=None))
            again = update(CONVERSATIONS).where(CONVERSATIONS.c.order_id.in_(still_open))
            connection.execute(again.values(alarm_at_ns=now_ns + int(lease_s * _SECOND_NS)))
            return taken

        return await self._database.write(take)

    async def get(self, order_id: str) -> StoredOrder | None:
        return await self._one(ORDERS.c.id == order_id)

    async def by_key(self, idempotency_key: str) -> StoredOrder | None:
        return await self._one(ORDERS.c.idempotency_key == idempotency_key)

    async def _one(self, where: Any) -> StoredOrder | None:
        query = select(ORDERS).where(where)
        row = await self._database.read(lambda connection: connection.execute(query).first())
        return self._stored(row) if row else None

    async def history(self, order_id: str) -> list[tuple[int, str]]:
        """(instant in ns, event) in the order in which orders heard them."""
        query = select(HISTORY.c.at_ns, HISTORY.c.event).where(HISTORY.c.order_id == order_id).order_by(HISTORY.c.id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [(at_ns, event) for at_ns, event in rows]

    def _stored(
        self, row: Row[Any], *, state: OrderState | None = None, values: Mapping[str, Any] | None = None
    ) -> StoredOrder:
        new = {**row._asdict(), **(values or {})}
        if state is None:
            state = OrderState(
                _ORDER.validate_json(row.order_json),
                {name: Slot(slot) for name, slot in json.loads(row.slots).items()},
                json.loads(row.reasons),
                self._plans.get(row.style, IN_TURN),
            )
        return StoredOrder(
            state=state,
            style=row.style,
            transport=row.transport,
            verdict=Verdict(new["state"]),
            reason=new["reason"],
            accepted_at_ns=row.accepted_at_ns,
            completed_at_ns=new["completed_at_ns"],
            body_hash=row.body_hash,
            carrier=json.loads(row.carrier),
        )

    # --- leases --------------------------------------------------------------------------------------------------
    async def hold(self, order_ids: Sequence[str], lease_s: float) -> None:
        """Hold unfinished orders' conversations for ``lease_s`` more; 0 gives them up for whoever looks next."""
        statement = (
            update(ORDERS)
            .where(ORDERS.c.id.in_(order_ids), ORDERS.c.state == Verdict.ACCEPTED.value)
            .values(lease_until_ns=time.time_ns() + int(lease_s * _SECOND_NS))
        )
        await self._database.write(lambda connection: connection.execute(statement))

    async def abandoned(self, lease_s: float, limit: int = 50) -> list[StoredOrder]:
        """Take the conversations that nobody carries on any more."""
        now_ns = time.time_ns()
        due = (
            select(ORDERS.c.id)
            .where(ORDERS.c.state == Verdict.ACCEPTED.value, ORDERS.c.lease_until_ns < now_ns)
            .order_by(ORDERS.c.lease_until_ns)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        take = (
            update(ORDERS)
            .where(ORDERS.c.id.in_(due.scalar_subquery()))
            .values(lease_until_ns=now_ns + int(lease_s * _SECOND_NS))
            .returning(ORDERS)
        )
        return [
            self._stored(row) for row in await self._database.write(lambda connection: connection.execute(take).all())
        ]

    async def unsent(self, lease_s: float, limit: int = 100) -> list[Parcel]:
        """Take the parcels that nobody is sending any more, oldest first."""
        now_ns = time.time_ns()
        due = (
            select(OUTBOX.c.id)
            .where(OUTBOX.c.published_at_ns.is_(None), OUTBOX.c.lease_until_ns < now_ns)
            .order_by(OUTBOX.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        take = (
            update(OUTBOX)
            .where(OUTBOX.c.id.in_(due.scalar_subquery()))
            .values(lease_until_ns=now_ns + int(lease_s * _SECOND_NS))
            .returning(OUTBOX)
        )
        rows = await self._database.write(lambda connection: connection.execute(take).all())
        return sorted((_parcel(row) for row in rows), key=lambda parcel: parcel.id)

    async def put_back(self, parcel_ids: Sequence[int], wait_s: float) -> None:
        """Not sent: whoever looks after ``wait_s`` takes them."""
        until_ns = time.time_ns() + int(wait_s * _SECOND_NS)
        statement = update(OUTBOX).where(OUTBOX.c.id.in_(parcel_ids)).values(lease_until_ns=until_ns)
        await self._database.write(lambda connection: connection.execute(statement))

    async def sent(self, parcel_ids: Sequence[int]) -> None:
        statement = update(OUTBOX).where(OUTBOX.c.id.in_(parcel_ids)).values(published_at_ns=time.time_ns())
        await self._database.write(lambda connection: connection.execute(statement))

    # --- figures -----------------------------------------------------------------------------------------------------
    async def pending(self) -> int:
        """How many parcels have not been sent."""
        query = select(func.count()).where(OUTBOX.c.published_at_ns.is_(None))
        count: int = await self._database.read(lambda connection: connection.execute(query).scalar_one())
        return count

    async def oldest_unsent_ns(self) -> int:
        """When the oldest parcel was written that has not been sent; 0 if there is none."""
        query = select(func.min(OUTBOX.c.written_at_ns)).where(OUTBOX.c.published_at_ns.is_(None))
        written_at_ns = await self._database.read(lambda connection: connection.execute(query).scalar_one())
        return written_at_ns or 0

    async def open_orders(self, stuck_after_s: float) -> dict[tuple[str, str], tuple[int, int, int]]:
        """By style and transport: how many orders have not ended, how many of them were accepted more than
        ``stuck_after_s`` ago, and when the oldest was accepted (ns). Reads the open orders only, by an index."""
        before_ns = time.time_ns() - int(stuck_after_s * _SECOND_NS)
        accepted = ORDERS.c.accepted_at_ns
        query = (
            select(
                *(ORDERS.c.style, ORDERS.c.transport, func.count(), func.min(accepted)),
                func.count().filter(accepted < before_ns),
            )
            .where(ORDERS.c.state == Verdict.ACCEPTED.value)
            .group_by(ORDERS.c.style, ORDERS.c.transport)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {(style, transport): (count, stuck, oldest) for style, transport, count, oldest, stuck in rows}

    # --- settings ----------------------------------------------------------------------------------------------------
    async def settings(self) -> dict[str, str]:
        rows = await self._database.read(lambda connection: connection.execute(select(SETTINGS)).all())
        return {row.name: row.value for row in rows}

    async def put_settings(self, values: Mapping[str, str | None]) -> None:
        """Set each of ``values``; None goes back to the default."""

        def write(connection: Connection) -> None:
            reset = [name for name, value in values.items() if value is None]
            connection.execute(delete(SETTINGS).where(SETTINGS.c.name.in_(reset)))
            put = self._database.insert(SETTINGS)
            put = put.on_conflict_do_update(index_elements=[SETTINGS.c.name], set_={"value": put.excluded.value})
            for name, value in sorted(values.items()):  # in one order: two replicas must not wait for each other
                if value is not None:
                    connection.execute(put.values(name=name, value=value))

        await self._database.write(write)


def _store(connection: Connection, parcel: Parcel, until_ns: int) -> Parcel:
    result = connection.execute(
        insert(OUTBOX)
        .values(
            order_id=parcel.order_id,
            broker=parcel.broker,
            channel=parcel.channel,
            headers=json.dumps(dict(parcel.headers)),
            body=parcel.body,
            carrier=json.dumps(dict(parcel.carrier)),
            written_at_ns=parcel.written_at_ns,
            lease_until_ns=until_ns,
        )
        .returning(OUTBOX)
    )
    return _parcel(result.one())


def _parcel(row: Row[Any]) -> Parcel:
    return Parcel(
        order_id=row.order_id,
        broker=row.broker,
        channel=row.channel,
        headers=json.loads(row.headers),
        body=row.body,
        carrier=json.loads(row.carrier),
        written_at_ns=row.written_at_ns,
        id=row.id,
    )


def _slots(state: OrderState) -> dict[str, str]:
    return {"slots": json.dumps(dict(state.slots)), "reasons": json.dumps(dict(state.reasons))}
