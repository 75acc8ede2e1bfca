"""What orders remembers: each order's state and history, its outbox, the lab's settings.

Accepting an order writes it and its outgoing messages in one transaction. A *lease* says until when somebody is busy
with a row (a conversation, an outgoing message); what nobody holds any more is picked up by whoever looks next, so
that a killed process leaves nothing behind for good.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from services.domain.messages import Event, Order, type_name
from services.domain.order import OrderState, Slot, Verdict, evolve
from services.storage.database import HISTORY, INBOX, ORDERS, OUTBOX, SETTINGS, Database

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


class OrderStore:
    def __init__(self, database: Database) -> None:
        self._database = database

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
    ) -> tuple[StoredOrder, list[Parcel]]:
        """Accept an order: the row, its first line of history and its parcels, or nothing. The lease on the parcels
        (and, with ``conversation``, on the order) is the caller's. Raises ``KeyTaken``."""
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
            return [_store(connection, parcel, until_ns) for parcel in parcels]

        stored = await self._database.write(write)
        accepted = StoredOrder(state, style, transport, state.verdict, None, now_ns, None, body_hash, dict(carrier))
        return accepted, stored

    async def record(
        self, order_id: str, event: Event, *, cause: str | None = None, reason: str | None = None
    ) -> tuple[StoredOrder, bool]:
        """Fold ``event`` into the order; gives the order and whether it ended just now. A ``cause`` heard before
        changes nothing. ``reason`` is used if the order ends rejected and no refusal gives one. Raises KeyError for
        an unknown order."""
        now_ns = time.time_ns()

        def fold(connection: Connection) -> tuple[StoredOrder, bool]:
            row = connection.execute(select(ORDERS).where(ORDERS.c.id == order_id).with_for_update()).first()
            if row is None:
                raise KeyError(order_id)
            before = _stored(row)
            if cause is not None:
                first = connection.execute(
                    self._database.insert(INBOX).values(cause=cause, handled_at_ns=now_ns).on_conflict_do_nothing()
                )
                if first.rowcount != 1:
                    return before, False
            state = evolve(before.state, event)
            # the first end that was reached stays: what is heard later may only fill in the slots
            verdict = before.verdict if before.ended else state.verdict
            ended = not before.ended and verdict is not Verdict.ACCEPTED
            values: dict[str, Any] = {**_slots(state), "state": verdict.value}
            if ended:
                values["lease_until_ns"] = None
                values["completed_at_ns"] = now_ns
                if verdict is Verdict.REJECTED:
                    values["reason"] = state.reason or reason
            connection.execute(update(ORDERS).where(ORDERS.c.id == order_id).values(**values))
            connection.execute(insert(HISTORY).values(order_id=order_id, at_ns=now_ns, event=type_name(type(event))))
            return _stored(row, state=state, values=values), ended

        return await self._database.write(fold)

    async def get(self, order_id: str) -> StoredOrder | None:
        return await self._one(ORDERS.c.id == order_id)

    async def by_key(self, idempotency_key: str) -> StoredOrder | None:
        return await self._one(ORDERS.c.idempotency_key == idempotency_key)

    async def _one(self, where: Any) -> StoredOrder | None:
        query = select(ORDERS).where(where)
        row = await self._database.read(lambda connection: connection.execute(query).first())
        return _stored(row) if row else None

    async def history(self, order_id: str) -> list[tuple[int, str]]:
        """(instant in ns, event) in the order in which orders heard them."""
        query = select(HISTORY.c.at_ns, HISTORY.c.event).where(HISTORY.c.order_id == order_id).order_by(HISTORY.c.id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [(at_ns, event) for at_ns, event in rows]

    # --- leases --------------------------------------------------------------------------------------------------
    async def lease(self, order_id: str, lease_s: float) -> None:
        """Hold an unfinished order's conversation for ``lease_s`` more; 0 gives it up for whoever looks next."""
        statement = (
            update(ORDERS)
            .where(ORDERS.c.id == order_id, ORDERS.c.state == Verdict.ACCEPTED.value)
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
        return [_stored(row) for row in await self._database.write(lambda connection: connection.execute(take).all())]

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


def _stored(row: Row[Any], *, state: OrderState | None = None, values: Mapping[str, Any] | None = None) -> StoredOrder:
    new = {**row._asdict(), **(values or {})}
    if state is None:
        state = OrderState(
            _ORDER.validate_json(row.order_json),
            {name: Slot(slot) for name, slot in json.loads(row.slots).items()},
            json.loads(row.reasons),
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
