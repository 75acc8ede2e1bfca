"""What storage promises, on SQLite and on PostgreSQL alike: whole transactions, effects once, leases for one."""

import asyncio
import math
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import IntegrityError

from services.domain import messages as m
from services.domain.order import AT_ONCE, PAYMENT_FIRST, QUOTE_FIRST, OrderState, Plan, Slot, Verdict, place
from services.storage import database
from services.storage.database import HISTORY, INBOX, ORDERS, OUTBOX, Database
from services.storage.orders import KeyTaken, OrderStore, Parcel, StoredOrder, Turn
from services.storage.participant import Failures, Overtaken, ParticipantStore

CARRIER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "lab.run_id=r1"}
Databases = tuple[Database, Database]


def order(order_id: str = "o-1") -> m.Order:
    return m.Order(order_id, "c-1", "4242424242424242", "Lisboa ☕", (m.Line("tea", 2),), 900)


def parcel(order_id: str = "o-1", body: bytes = b"{}") -> Parcel:
    return Parcel(order_id, "memory", "orders.events", {"ce-id": f"m-{order_id}"}, body, CARRIER, time.time_ns())


async def put(
    store: OrderStore,
    order_id: str = "o-1",
    *,
    key: str | None = None,
    parcels: Sequence[Parcel] = (),
    lease_s: float = 10,
    conversation: bool = False,
) -> tuple[StoredOrder, list[Parcel]]:
    state, _ = place(order(order_id))
    return await store.place(
        state,
        style="choreography",
        transport="memory",
        carrier=CARRIER,
        idempotency_key=key,
        body_hash=f"hash of {order_id}",
        parcels=parcels,
        lease_s=lease_s,
        conversation=conversation,
    )


async def count(database: Database, table) -> int:
    query = select(func.count()).select_from(table)
    return int(await database.read(lambda connection: connection.execute(query).scalar_one()))


DONE = (m.StockReserved, m.PaymentCharged, m.ShipmentBooked, m.CustomerNotified)


# --- orders: accepting and folding ------------------------------------------------------------------------------------
async def test_a_placed_order_is_read_back_as_it_was_given(database: Database) -> None:
    """``place`` stores the whole order, its context, its first line of history and its parcels."""
    store = OrderStore(database)
    accepted, parcels = await put(store, key="k-1", parcels=[parcel(body=b"\x00\xff")], conversation=True)
    assert await store.get("o-1") == accepted == await store.by_key("k-1")
    assert (accepted.state, accepted.verdict, accepted.ended) == (OrderState(order()), Verdict.ACCEPTED, False)
    assert (accepted.reason, accepted.completed_at_ns, accepted.carrier) == (None, None, CARRIER)
    assert await store.history("o-1") == [(accepted.accepted_at_ns, "order.placed")]
    assert [(p.id > 0, p.body, p.carrier, p.headers) for p in parcels] == [
        (True, b"\x00\xff", CARRIER, {"ce-id": "m-o-1"})
    ]
    assert await store.pending() == 1


async def test_what_is_not_there_is_none(database: Database) -> None:
    store = OrderStore(database)
    assert (await store.get("nobody"), await store.by_key("nobody"), await store.history("nobody")) == (None, None, [])
    assert await store.pending() == 0


async def test_what_waits_is_counted_by_flow_with_the_age_of_the_oldest(database: Database) -> None:
    """Orders that have not ended, those of them that are old, and messages not sent; nothing when there is nothing."""
    store = OrderStore(database)
    assert (await store.open_orders(30), await store.oldest_unsent_ns()) == ({}, 0)
    (first, (oldest,)), _ = await put(store, "o-1", parcels=[parcel("o-1")]), await put(store, "o-2")
    flow = ("choreography", "memory")
    assert await store.open_orders(30) == {flow: (2, 0, first.accepted_at_ns)}
    assert await store.open_orders(-1) == {flow: (2, 2, first.accepted_at_ns)}
    assert await store.oldest_unsent_ns() == oldest.written_at_ns
    for order_id in ("o-1", "o-2"):
        await store.record(order_id, m.StockRefused(order(order_id), "none left"))
    await store.sent([oldest.id])
    assert (await store.open_orders(30), await store.oldest_unsent_ns()) == ({}, 0)


async def test_an_idempotency_key_is_taken_once_and_nothing_of_the_second_order_is_left(database: Database) -> None:
    """``KeyTaken``; neither the order nor its history nor its parcels are stored."""
    store = OrderStore(database)
    await put(store, "o-1", key="k", parcels=[parcel("o-1")])
    with pytest.raises(KeyTaken):
        await put(store, "o-2", key="k", parcels=[parcel("o-2")])
    assert await store.get("o-2") is None
    assert [await count(database, table) for table in (ORDERS, HISTORY, OUTBOX)] == [1, 1, 1]


async def test_orders_without_a_key_do_not_collide(database: Database) -> None:
    store = OrderStore(database)
    await put(store, "o-1")
    await put(store, "o-2")
    assert await count(database, ORDERS) == 2


@pytest.mark.parametrize("key", [None, "another"])
async def test_only_the_key_raises_key_taken(database: Database, key: str | None) -> None:
    """An order id that is there twice is a defect, and must not be taken for a repeated request."""
    store = OrderStore(database)
    await put(store, "o-1", key="k")
    with pytest.raises(IntegrityError):
        await put(store, "o-1", key=key)
    assert await count(database, HISTORY) == 1


async def test_ten_requests_with_one_key_at_once_place_one_order(databases: Databases) -> None:
    """Over both replicas: one is placed, nine hear ``KeyTaken``."""
    stores = [OrderStore(each) for each in databases]
    outcomes = await asyncio.gather(
        *(put(stores[i % 2], f"o-{i}", key="k", parcels=[parcel(f"o-{i}")]) for i in range(10)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyTaken"] * 9 + ["tuple"]
    assert [await count(databases[0], table) for table in (ORDERS, OUTBOX)] == [1, 1]


async def test_a_failure_while_placing_leaves_nothing(database: Database) -> None:
    """Order and parcels are one transaction: a parcel that cannot be stored takes the order with it."""
    store = OrderStore(database)
    broken = Parcel("o-1", "memory", "orders.events", {}, None, CARRIER, 0)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        await put(store, parcels=[parcel(), broken])
    assert [await count(database, table) for table in (ORDERS, HISTORY, OUTBOX)] == [0, 0, 0]


async def test_events_fold_into_the_order_until_it_ends(database: Database) -> None:
    """``record`` says once that the order has ended, sets the end's instant and gives the lease up."""
    store = OrderStore(database)
    await put(store, conversation=True, lease_s=-1)
    ends = []
    for kind in (*DONE, m.CustomerNotified):
        recorded = await store.record("o-1", kind(order()))
        stored = recorded.order
        assert stored == await store.get("o-1")
        ends.append(recorded.ended)
    assert ends == [False, False, False, True, False]
    assert (stored.verdict, stored.reason) == (Verdict.COMPLETED, None)
    assert stored.accepted_at_ns <= (stored.completed_at_ns or 0) <= time.time_ns()
    assert [event for _, event in await store.history("o-1")] == [
        *("order.placed", "stock.reserved", "payment.charged", "shipment.booked", "customer.notified"),
        "customer.notified",
    ]
    assert await store.abandoned(10) == []


async def test_the_instant_of_the_end_does_not_move(database: Database) -> None:
    store = OrderStore(database)
    await put(store)
    first = await store.record("o-1", m.StockRefused(order(), "no tea"))
    again = await store.record("o-1", m.StockRefused(order(), "no tea"))
    assert (first.ended, again.ended) == (True, False)
    assert first.order.completed_at_ns == again.order.completed_at_ns is not None


async def test_the_first_end_that_was_reached_stays(database: Database) -> None:
    """Whoever was told ``completed`` is never told ``rejected``; the slots go on saying what was heard."""
    store = OrderStore(database)
    await put(store)
    for kind in DONE:
        completed = (await store.record("o-1", kind(order()))).order
    recorded = await store.record("o-1", m.StockReleased(order()))
    late = recorded.order
    assert (recorded.ended, late.verdict, late.reason) == (False, Verdict.COMPLETED, None)
    assert late.completed_at_ns == completed.completed_at_ns
    assert late.state.slots["stock"] is Slot.COMPENSATED
    assert await store.get("o-1") == late


async def test_a_refusals_reason_is_the_orders(database: Database) -> None:
    """The refusal's own reason wins over the one that ``record`` is given for an order that nobody refused."""
    store = OrderStore(database)
    for order_id, event, reason in (
        ("o-1", m.StockRefused(order("o-1"), "no tea"), "no tea"),
        ("o-2", m.StockReleased(order("o-2")), "taken back"),
    ):
        await put(store, order_id)
        recorded = await store.record(order_id, event, reason="taken back")
        stored = recorded.order
        assert (recorded.ended, stored.verdict, stored.reason) == (True, Verdict.REJECTED, reason)
        assert (await store.get(order_id) or stored).reason == reason


def _never(*_: object) -> Turn:
    raise AssertionError("nothing follows from what was heard before")


async def test_a_cause_that_was_heard_before_changes_nothing(database: Database) -> None:
    store = OrderStore(database)
    await put(store)
    first = await store.record("o-1", m.StockReserved(order()), cause="m-1")
    again = await store.record("o-1", m.StockRefused(order(), "late"), cause="m-1", decide=_never)
    assert (first.again, again.again) == (False, True)
    assert (again.order.state.slots["stock"], again.ended, list(again.parcels)) == (Slot.DONE, False, [])
    assert len(await store.history("o-1")) == 2


async def test_recording_for_an_unknown_order_raises_and_remembers_nothing(database: Database) -> None:
    store = OrderStore(database)
    with pytest.raises(KeyError):
        await store.record("nobody", m.StockReserved(order("nobody")), cause="m-1")
    assert await count(database, INBOX) == 0


async def test_events_of_one_order_may_come_at_once_and_from_two_replicas(databases: Databases) -> None:
    """No event is lost, each cause counts once, and exactly one caller hears that the order has ended."""
    stores = [OrderStore(each) for each in databases]
    await put(stores[0])
    events = [kind(order()) for kind in DONE]
    outcomes = await asyncio.gather(
        *(stores[i % 2].record("o-1", events[i % 4], cause=f"m-{i % 4}") for i in range(24)),
    )
    assert [recorded.ended for recorded in outcomes].count(True) == 1
    assert [recorded.again for recorded in outcomes].count(False) == 4
    stored = await stores[0].get("o-1")
    assert stored is not None
    assert stored.verdict is Verdict.COMPLETED
    assert len(await stores[1].history("o-1")) == 5


# --- orders: what a style makes of what was heard -----------------------------------------------------------------
async def test_what_follows_is_written_in_the_transaction_that_folds(database: Database) -> None:
    """Parcels, events of orders' own, notes and an alarm; ``decide`` sees the order before and after, and the notes."""
    store = OrderStore(database)
    await put(store)
    seen: list[tuple[Slot, Slot, dict[str, Any]]] = []

    def decide(before: OrderState, state: OrderState, memory: Mapping[str, Any]) -> Turn:
        seen.append((before.slots["stock"], state.slots["stock"], dict(memory)))
        return Turn([parcel()], [m.PaymentCharged(order())], {"asked": "reserve.stock"}, alarm_s=-1)

    recorded = await store.record("o-1", m.StockReserved(order()), decide=decide, carrier=CARRIER, lease_s=10)
    assert [each.id > 0 for each in recorded.parcels] == [True]
    assert recorded.order.state.slots["payment"] is Slot.DONE
    assert recorded.order == await store.get("o-1")
    assert [event for _, event in await store.history("o-1")] == ["order.placed", "stock.reserved", "payment.charged"]
    assert await store.memory("o-1") == {"asked": "reserve.stock"}
    assert await store.unsent(10) == [], "its lease is the caller's"
    ((due, carrier),) = await store.alarms(10)
    assert (due.state, carrier) == (recorded.order.state, CARRIER)

    await store.record("o-1", None, decide=decide)
    assert seen == [(Slot.PENDING, Slot.DONE, {}), (Slot.DONE, Slot.DONE, {"asked": "reserve.stock"})]


async def test_of_a_turn_that_fails_nothing_is_written(database: Database) -> None:
    """Neither the event nor its cause: it is heard again, and then all of it counts."""
    store = OrderStore(database)
    await put(store)

    def fail(*_: Any) -> Turn:
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError, match="out of paper"):
        await store.record("o-1", m.StockReserved(order()), cause="m-1", decide=fail)
    assert [event for _, event in await store.history("o-1")] == ["order.placed"]
    assert not (await store.record("o-1", m.StockReserved(order()), cause="m-1")).again


async def test_notes_and_alarm_stay_until_they_are_replaced(database: Database) -> None:
    """None leaves either as it is; a placed order may have both from the start."""
    store = OrderStore(database)
    state, _ = place(order())
    await store.place(
        state,
        style="orchestration",
        transport="memory",
        carrier=CARRIER,
        idempotency_key=None,
        body_hash=None,
        parcels=[],
        lease_s=10,
        conversation=False,
        memory={"times": 1},
        alarm_s=-1,
    )
    assert await store.memory("o-1") == {"times": 1}
    await store.record("o-1", m.StockReserved(order()), decide=lambda *_: Turn(alarm_s=60))
    assert (await store.memory("o-1"), await store.alarms(10)) == ({"times": 1}, [])
    await store.record("o-1", m.PaymentCharged(order()), decide=lambda *_: Turn(memory={"times": 2}))
    assert (await store.memory("o-1"), await store.alarms(10)) == ({"times": 2}, [])
    await store.record("o-1", m.ShipmentBooked(order()), decide=lambda *_: Turn(alarm_s=-1))
    assert len(await store.alarms(10)) == 1
    assert await store.memory("nobody") == {}


async def test_an_alarm_can_be_taken_off(database: Database) -> None:
    """Also one that somebody has just taken: it does not ring again."""
    store = OrderStore(database)
    await put(store)
    for leased in (False, True):
        await store.record("o-1", m.StockReserved(order()), decide=lambda *_: Turn(alarm_s=-1))
        assert not leased or len(await store.alarms(-1)) == 1
        await store.record("o-1", m.PaymentCharged(order()), decide=lambda *_: Turn(alarm_s=math.inf))
        assert await store.alarms(10) == []


async def test_an_alarm_rings_for_one_and_again_if_whoever_took_it_dies(databases: Databases) -> None:
    """It is taken for ``lease_s``; a turn that sets another takes its place."""
    one, other = (OrderStore(each) for each in databases)
    await put(one)
    await one.record("o-1", m.StockReserved(order()), decide=lambda *_: Turn(alarm_s=-1))
    taken = await asyncio.gather(one.alarms(10), other.alarms(10))
    assert sorted(len(each) for each in taken) == [0, 1]
    await one.record("o-1", None, decide=lambda *_: Turn(alarm_s=-1))
    assert len(await other.alarms(-1)) == 1
    assert len(await one.alarms(10)) == 1, "whoever took it has died"
    assert await other.alarms(10) == []


async def test_an_order_that_has_ended_is_not_woken(database: Database) -> None:
    """Its alarm is forgotten; one that rings at the same moment finds nothing to do."""
    store = OrderStore(database)
    await put(store)
    await store.record("o-1", m.StockRefused(order(), "no tea"), decide=lambda *_: Turn(alarm_s=-1))
    assert await store.alarms(-1) == []
    late = await store.record("o-1", None, decide=_never)
    assert (late.late, late.order.verdict) == (True, Verdict.REJECTED)
    assert len(await store.history("o-1")) == 2


@pytest.mark.parametrize("plan", [AT_ONCE, PAYMENT_FIRST, QUOTE_FIRST], ids=["at once", "payment first", "quote first"])
async def test_an_order_is_read_back_with_the_plan_of_its_style(database: Database, plan: Plan) -> None:
    store = OrderStore(database, {"hybrid": plan})
    state, _ = place(order(), plan)
    await store.place(
        state,
        style="hybrid",
        transport="memory",
        carrier={},
        idempotency_key=None,
        body_hash=None,
        parcels=[],
        lease_s=10,
        conversation=False,
    )
    stored = await store.get("o-1")
    assert stored is not None
    assert (stored.state, stored.state.plan) == (state, plan)
    recorded = await store.record("o-1", m.PaymentDeclined(order(), "no"))
    assert recorded.ended is (plan is PAYMENT_FIRST), "whatever was asked for before, or at once, may still come"


# --- orders: leases -------------------------------------------------------------------------------------------------
async def test_only_a_conversation_that_nobody_holds_is_abandoned(database: Database) -> None:
    """Without a conversation, or while its lease lasts, or once it has ended, an order is left alone."""
    store = OrderStore(database)
    await put(store, "no-conversation", lease_s=-1)
    await put(store, "held", conversation=True)
    await put(store, "ended", conversation=True, lease_s=-1)
    await store.record("ended", m.StockRefused(order("ended"), "no tea"))
    await put(store, "left", conversation=True, lease_s=-1)
    assert [each.state.order.order_id for each in await store.abandoned(10)] == ["left"]
    assert await store.abandoned(10) == []


async def test_a_lease_can_be_given_up_and_prolonged(database: Database) -> None:
    store = OrderStore(database)
    await put(store, conversation=True)
    await store.hold(["o-1"], 0)
    assert [each.state.order.order_id for each in await store.abandoned(-1)] == ["o-1"]
    await store.hold(["o-1"], 10)
    assert await store.abandoned(10) == []


async def test_the_lease_of_an_ended_order_stays_given_up(database: Database) -> None:
    store = OrderStore(database)
    await put(store, conversation=True)
    await store.record("o-1", m.StockRefused(order(), "no tea"))
    await store.hold(["o-1"], -1)
    assert await store.abandoned(10) == []


async def test_several_leases_are_prolonged_at_once_and_those_of_others_are_left(database: Database) -> None:
    store = OrderStore(database)
    for order_id in ("o-1", "o-2", "other"):
        await put(store, order_id, conversation=True, lease_s=-1)
    await store.hold(["o-1", "o-2", "nobody"], 10)
    assert [each.state.order.order_id for each in await store.abandoned(10)] == ["other"]


async def test_an_order_that_was_handed_over_is_abandoned_by_nobody(database: Database) -> None:
    """From then on messages carry it on: recovery has no business with it, though it has not ended."""
    store = OrderStore(database)
    await put(store, conversation=True, lease_s=-1)
    recorded = await store.record("o-1", m.PaymentCharged(order()), handed_over=True)
    assert not recorded.order.ended
    assert await store.abandoned(10) == []


async def test_an_abandoned_order_brings_its_context_along(database: Database) -> None:
    store = OrderStore(database)
    await put(store, conversation=True, lease_s=-1)
    await store.record("o-1", m.StockReserved(order()))
    (stored,) = await store.abandoned(10)
    assert (stored.carrier, stored.state.slots["stock"]) == (CARRIER, Slot.DONE)


async def test_the_oldest_are_taken_first_and_no_more_than_asked_for(database: Database) -> None:
    store = OrderStore(database)
    for i in range(5):
        await put(store, f"o-{i}", conversation=True, lease_s=-5 + i, parcels=[parcel(f"o-{i}")])
    assert {each.state.order.order_id for each in await store.abandoned(10, limit=2)} == {"o-0", "o-1"}
    assert [each.order_id for each in await store.unsent(10, limit=2)] == ["o-0", "o-1"]


async def test_two_replicas_never_take_the_same_row(databases: Databases) -> None:
    """Conversations and parcels: each is taken by one of those who look at the same time, and none is forgotten."""
    stores = [OrderStore(each) for each in databases]
    for i in range(30):
        await put(stores[0], f"o-{i}", conversation=True, lease_s=-1, parcels=[parcel(f"o-{i}")])
    orders = await asyncio.gather(*(stores[i % 2].abandoned(10, limit=7) for i in range(10)))
    taken = [each.state.order.order_id for batch in orders for each in batch]
    parcels = await asyncio.gather(*(stores[i % 2].unsent(10, limit=7) for i in range(10)))
    sent = [each.id for batch in parcels for each in batch]
    while batch := await stores[0].abandoned(10):  # SKIP LOCKED may pass over a row that is just being looked at
        taken += [each.state.order.order_id for each in batch]
    while rest := await stores[1].unsent(10):
        sent += [each.id for each in rest]
    assert sorted(taken) == sorted(f"o-{i}" for i in range(30))
    assert len(sent) == len(set(sent)) == 30


# --- orders: outbox ---------------------------------------------------------------------------------------------------
async def test_a_parcel_is_unsent_until_it_is_marked_and_its_lease_is_over(database: Database) -> None:
    store = OrderStore(database)
    _, held = await put(store, "held", parcels=[parcel("held")])
    _, lost = await put(store, "lost", parcels=[parcel("lost"), parcel("lost", b"2")], lease_s=-1)
    assert await store.unsent(-1) == lost
    await store.sent([lost[0].id])
    assert await store.unsent(10) == lost[1:]
    assert await store.pending() == 2
    await store.sent([held[0].id, lost[1].id])
    assert (await store.pending(), await store.unsent(10)) == (0, [])


# --- orders: settings -------------------------------------------------------------------------------------------------
async def test_settings_are_put_replaced_and_reset(database: Database) -> None:
    """None goes back to the default; what is not named stays."""
    store = OrderStore(database)
    assert await store.settings() == {}
    await store.put_settings({"a": "1", "b": "2"})
    await store.put_settings({"a": "3", "c": None})
    assert await store.settings() == {"a": "3", "b": "2"}
    await store.put_settings({"a": None})
    assert await store.settings() == {"b": "2"}
    await store.put_settings({})
    assert await store.settings() == {"b": "2"}


async def test_settings_may_be_put_by_both_replicas_at_once(databases: Databases) -> None:
    """Whoever comes last wins; nobody fails."""
    stores = [OrderStore(each) for each in databases]
    await asyncio.gather(*(stores[i % 2].put_settings({"a": str(i)}) for i in range(10)))
    assert set(await stores[0].settings()) == {"a"}


# --- participants -----------------------------------------------------------------------------------------------------
ANSWER = ("stock.reserved", b'{"order": 1}')


async def settle(store: ParticipantStore, cause: str | None, order_id: str = "o-1", **changes) -> None:
    given = {"was": Slot.PENDING, "slot": Slot.DONE, "reason": None, "answer": ANSWER, "effect": "reserve.stock"}
    await store.settle(cause, order_id, **{**given, **changes})


async def test_a_participant_remembers_the_answer_the_slot_and_the_effect(database: Database) -> None:
    store = ParticipantStore(database)
    before = await store.recall("m-1", "o-1")
    assert (before.slot, before.reason, before.answer) == (Slot.PENDING, None, None)
    await settle(store, "m-1")
    known = await store.recall("m-1", "o-1")
    assert (known.slot, known.reason, known.answer) == (Slot.DONE, None, ANSWER)
    other = await store.recall("m-2", "o-1")
    assert (other.slot, other.answer) == (Slot.DONE, None)
    assert (await store.recall(None, "o-1")).slot is Slot.DONE
    assert await store.effects() == {"reserve.stock": (1, 1)}


async def test_a_refusal_is_remembered_with_its_reason_and_has_no_effect(database: Database) -> None:
    store = ParticipantStore(database)
    await settle(store, None, slot=Slot.REFUSED, reason="no tea", effect=None)
    memory = await store.recall(None, "o-1")
    assert (memory.slot, memory.reason) == (Slot.REFUSED, "no tea")
    await settle(store, None, was=Slot.REFUSED, slot=Slot.COMPENSATED, reason="no tea", effect=None)
    assert (await store.recall(None, "o-1")).slot is Slot.COMPENSATED
    assert await store.effects() == {}


async def test_a_cause_is_settled_once(database: Database) -> None:
    """The second is ``Overtaken`` and leaves no trace, even where the slot would let it."""
    store = ParticipantStore(database)
    await settle(store, "m-1")
    with pytest.raises(Overtaken):
        await settle(store, "m-1", was=Slot.DONE, slot=Slot.COMPENSATED, effect="release.stock")
    assert (await store.recall(None, "o-1")).slot is Slot.DONE
    assert await store.effects() == {"reserve.stock": (1, 1)}


@pytest.mark.parametrize("was", [Slot.PENDING, Slot.REFUSED, Slot.COMPENSATED])
async def test_a_slot_that_changed_in_the_meantime_overtakes(database: Database, was: Slot) -> None:
    """Neither effect nor inbox entry of the one who came too late is left."""
    store = ParticipantStore(database)
    await settle(store, "m-1")
    with pytest.raises(Overtaken):
        await settle(store, "m-2", was=was, slot=Slot.DONE if was is Slot.PENDING else Slot.PENDING)
    assert (await store.recall("m-2", "o-1")).answer is None
    assert await store.effects() == {"reserve.stock": (1, 1)}


async def test_an_answer_that_changes_no_slot_is_remembered_all_the_same(database: Database) -> None:
    store = ParticipantStore(database)
    await settle(store, "m-1")
    await settle(store, "m-2", was=Slot.DONE, effect=None)
    assert (await store.recall("m-2", "o-1")).answer == ANSWER
    assert await store.effects() == {"reserve.stock": (1, 1)}


async def test_of_many_replicas_that_settle_one_order_at_once_one_has_the_effect(databases: Databases) -> None:
    stores = [ParticipantStore(each) for each in databases]
    outcomes = await asyncio.gather(
        *(settle(stores[i % 2], f"m-{i}") for i in range(12)),
        *(settle(stores[i % 2], f"n-{i}", f"o-{i}") for i in range(2, 6)),
        return_exceptions=True,
    )
    assert [outcome for outcome in outcomes if outcome is not None and not isinstance(outcome, Overtaken)] == []
    assert await stores[1].effects() == {"reserve.stock": (5, 5)}


async def test_effects_show_what_was_done_twice(database: Database) -> None:
    """The table is append only: (times, orders) differ if, and only if, an effect was repeated."""
    store = ParticipantStore(database)
    await settle(store, "m-1")
    await settle(store, "m-2", "o-2")
    forget = update(INBOX).values(cause=INBOX.c.cause + "-forgotten")  # as if the participant had forgotten
    await database.write(lambda connection: connection.execute(forget))
    await settle(store, "m-1", was=Slot.DONE, slot=Slot.COMPENSATED)
    assert await store.effects() == {"reserve.stock": (3, 2)}


async def test_failures_are_counted_per_cause_and_across_restarts(databases: Databases) -> None:
    counts = await asyncio.gather(*(Failures(databases[i % 2]).add("m-1") for i in range(10)))
    assert sorted(counts) == list(range(1, 11))
    assert await Failures(databases[0]).add("m-2") == 1


# --- the database itself ------------------------------------------------------------------------------------------
async def test_a_transaction_that_raises_has_not_happened(database: Database) -> None:
    store = OrderStore(database)
    await put(store)

    def fail(connection: Connection) -> None:
        connection.execute(update(ORDERS).values(state="completed"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await database.write(fail)
    stored = await store.get("o-1")
    assert stored is not None
    assert stored.verdict is Verdict.ACCEPTED


async def test_a_caller_that_is_cancelled_holds_nobody_up(database: Database) -> None:
    """Its transaction happens whole (SQLite) or not at all (PostgreSQL); the next one goes on either way."""
    store = OrderStore(database)
    await put(store)
    task = asyncio.create_task(store.record("o-1", m.StockReserved(order()), cause="cancelled"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(5):
        recorded = await store.record("o-1", m.StockReserved(order()), cause="cancelled")
    assert recorded.order.state.slots["stock"] is Slot.DONE
    assert len(await store.history("o-1")) == 2


async def test_opening_is_idempotent_and_may_happen_at_once(url: str) -> None:
    """Replicas start together; each makes what is missing."""
    several = [Database(url) for _ in range(4)]
    try:
        await asyncio.gather(*(each.open() for each in several))
        await several[0].open()
        assert [await each.ready() for each in several] == [None] * 4
    finally:
        for each in several:
            await each.close()


async def test_what_was_committed_is_there_after_a_restart(url: str) -> None:
    first = Database(url)
    await first.open()
    await put(OrderStore(first), parcels=[parcel()])
    await first.close()
    second = Database(url)
    await second.open()
    assert await OrderStore(second).get("o-1") is not None
    assert await OrderStore(second).pending() == 1
    await second.close()


async def test_a_database_that_is_not_there_is_not_ready_and_says_why_in_one_line(tmp_path) -> None:
    for address in (
        f"sqlite:///{tmp_path}/missing/folder.sqlite",
        "postgresql+asyncpg://lab:secret@127.0.0.1:1/lab",
    ):
        away = Database(address)
        reason = await away.ready()
        await away.close()
        assert reason is not None
        assert reason.startswith("database: ")
        assert "\n" not in reason
        assert "secret" not in reason


async def test_a_database_in_memory_keeps_transactions_apart() -> None:
    """SQLite in memory is one connection for all: whoever reads must not see, nor end, another's transaction."""
    database = Database("sqlite:///:memory:")
    await database.open()
    store = OrderStore(database)

    async def place_and_look(i: int) -> None:
        await put(store, f"o-{i}", key=f"k-{i}", parcels=[parcel(f"o-{i}")])
        assert await store.get(f"o-{i}") is not None
        await store.record(f"o-{i}", m.StockReserved(order(f"o-{i}")))

    await asyncio.gather(*(place_and_look(i) for i in range(20)), *(store.pending() for _ in range(20)))
    assert [await count(database, table) for table in (ORDERS, OUTBOX, HISTORY)] == [20, 20, 40]
    await database.close()


async def test_a_server_that_does_not_answer_is_a_reason_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection times out, and that error has no words of its own."""
    monkeypatch.setattr(database, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "postgresql+asyncpg://nobody@{}:{}/nothing".format(*silent.getsockname())
        away = database.Database(address)
        with pytest.raises(TimeoutError):
            await away.open()
        assert await away.ready() == "database: TimeoutError"
        await away.close()
