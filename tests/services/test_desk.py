"""The desk: what was accepted is sent, heard and brought to an end, whoever is away or dies in the middle."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import REGISTRY

from services import inventory, notifications, payment, shipping
from services.domain import messages as m
from services.domain.order import OrderState, Verdict, place
from services.runtime import desk as desk_module
from services.runtime.desk import Desk
from services.storage.orders import KeyTaken, OrderStore, Parcel, StoredOrder
from services.styles import STYLES
from services.telemetry import conventions as c
from services.transports.errors import DeadlineExceeded, PeerFailed, TransportError, Unavailable
from services.transports.messaging.memory import Network
from tests.services.lab import NO_WORK, ORDER, MemoryLab, memory_lab
from tests.services.parts import Part, effects_of, ended, eventually, live, metric, order, part

PARTICIPANTS = {
    "inventory": inventory.handlers,
    "payment": payment.handlers,
    "shipping": shipping.handlers,
    "notifications": notifications.handlers,
}
SYNC = STYLES["request_response"]
ASYNC = STYLES["choreography"]
DONE = ["reserve.stock", "charge.payment", "book.shipment", "notify.customer"]


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LEASE_S", 0.1)
    monkeypatch.setattr(desk_module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(desk_module.random, "uniform", lambda low, high: 0.02)


@dataclass
class Choir:
    """Orders' desk and the four participants, who answer calls over a memory network."""

    parts: dict[str, Part]
    desk: Desk
    network: Network
    exporter: InMemorySpanExporter

    @property
    def orders(self) -> Part:
        return self.parts["orders"]

    def away(self, service: str) -> Any:
        """Take ``service`` off the network; gives what brings it back."""
        return self.network.servers.pop(service)

    async def effects(self, order_id: str = "o-1") -> list[str]:
        return [
            action for service in PARTICIPANTS for action in await effects_of(self.parts[service].database, order_id)
        ]

    async def accept(self, order_id: str = "o-1", style: Any = SYNC, key: str | None = None) -> StoredOrder:
        """Accept an order within a span, as the front door does."""
        context = baggage.set_baggage(c.LAB_STYLE, style.name)
        token = attach(baggage.set_baggage(c.LAB_RUN_ID, "r-1", context))
        try:
            with self.orders.telemetry.tracer.start_as_current_span("POST /orders"):
                return await self.desk.accept(order(order_id), style, "memory", idempotency_key=key, body_hash="h")
        finally:
            detach(token)

    async def break_off(self, order_id: str = "o-1", error: type[TransportError] = Unavailable) -> None:
        with pytest.raises(error):
            await self.desk.converse(await self.accept(order_id), SYNC)

    async def end(self, order_id: str = "o-1") -> StoredOrder:
        async def look() -> StoredOrder | None:
            stored = await self.desk.store.get(order_id)
            return stored if stored and stored.ended else None

        stored = await eventually(look, f"{order_id} ends")
        assert stored is not None
        return stored

    def recovering(self) -> contextlib.AbstractAsyncContextManager[asyncio.Task[Any]]:
        return ended(asyncio.create_task(self.desk.recover()))

    def relaying(self) -> contextlib.AbstractAsyncContextManager[asyncio.Task[Any]]:
        return ended(asyncio.create_task(self.desk.relay()))

    def measuring(self) -> contextlib.AbstractAsyncContextManager[asyncio.Task[Any]]:
        return ended(asyncio.create_task(self.desk.measure([("choreography", "memory")])))


@pytest.fixture
async def choir(tmp_path: Path) -> AsyncIterator[Choir]:
    network, exporter = Network(), InMemorySpanExporter()
    async with contextlib.AsyncExitStack() as stack:
        parts = {
            service: await stack.enter_async_context(part(service, tmp_path, network, exporter))
            for service in ("orders", *PARTICIPANTS)
        }
        for service, handlers in PARTICIPANTS.items():
            await parts[service].rpc().serve(service, parts[service].worker(handlers).calls())
        network.groups["orders.events"].add("inventory")
        own = parts["orders"]
        rpcs, brokers = {"memory": own.rpc()}, {"memory": own.broker()}
        desk = Desk(OrderStore(own.database), own.telemetry, own.live, rpcs, brokers)  # type: ignore[arg-type]
        yield Choir(parts, desk, network, exporter)
        async with asyncio.timeout(30):
            await desk.drained()


def opening(desk: Desk, order_id: str = "o-1", transport: str = "memory") -> tuple[OrderState, Sequence[Parcel]]:
    """A new order, and the message with which its conversation begins, not yet stored."""
    state, placed = place(order(order_id))
    return state, desk._decide(ASYNC, transport, placed, {})(state, state, {}).parcels


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# --- accepting and conversing -----------------------------------------------------------------------------------------
async def test_a_conversation_is_carried_to_its_end_and_counted_once(choir: Choir) -> None:
    """``accepted`` and ``completed`` by one each; the duration is observed; each effect stands once."""
    labels = {"service": "orders", "style": "request_response", "transport": "memory"}

    def counts() -> list[float]:
        return [
            metric("lab_orders_total", **labels, state="accepted"),
            metric("lab_orders_total", **labels, state="completed"),
            metric("lab_order_complete_duration_seconds_count", **labels, state="completed"),
        ]

    before = counts()
    stored = await choir.desk.converse(await choir.accept(), SYNC)
    assert stored.verdict is Verdict.COMPLETED
    assert await choir.effects() == DONE
    await choir.desk.record("o-1", m.CustomerNotified(order()))
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1]


async def test_a_key_is_taken_once(choir: Choir) -> None:
    await choir.accept("o-1", ASYNC, key="k")
    with pytest.raises(KeyTaken):
        await choir.accept("o-2", ASYNC, key="k")
    await choir.desk.drained()
    assert len(choir.network.queues["orders.events", "inventory"]) == 1


async def test_a_conversation_is_held_for_as_long_as_it_may_take(choir: Choir) -> None:
    """Else recovery would take back what is still being done: until ``order.deadline_s`` have passed, and a little."""
    choir.orders.live.update({"rpc.timeout_s": "1"})
    gone = choir.away("payment")
    asked = asyncio.Event()

    async def never(*_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    choir.network.servers["payment"] = never
    async with ended(asyncio.create_task(choir.desk.converse(await choir.accept(), SYNC))):
        await asked.wait()
        await asyncio.sleep(0.3)  # three leases
        assert await choir.desk.store.abandoned(1) == []
    choir.network.servers["payment"] = gone


# --- the outbox -------------------------------------------------------------------------------------------------------
class _Flaky:
    """The memory broker, behind a wire that can be cut."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self.cut = True
        self.tried = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def publish(self, headers: Any, body: bytes, **where: Any) -> None:
        self.tried += 1
        if self.cut:
            raise Unavailable("the broker is away")
        await self._broker.publish(headers, body, **where)


@pytest.fixture
def flaky(choir: Choir) -> _Flaky:
    flaky = _Flaky(choir.orders.broker())
    choir.desk._brokers = {"memory": flaky}  # type: ignore[dict-item]
    return flaky


async def test_what_is_accepted_is_sent_at_once(choir: Choir) -> None:
    """Without waiting for the relay to look; and marked, so that the relay does not send it again."""
    await choir.accept(style=ASYNC)
    await choir.desk.drained()
    queue = choir.network.queues["orders.events", "inventory"]
    assert [stored.headers["ce-type"] for stored in queue] == ["order.placed"]
    async with choir.relaying():
        await asyncio.sleep(0.2)  # two leases
        assert len(queue) == 1
    assert await choir.desk.store.pending() == 0


@pytest.fixture
def _measured_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "MEASURE_EVERY_S", 0.02)


@pytest.mark.usefixtures("_measured_often")
async def test_open_orders_and_those_that_are_stuck_are_counted_by_flow(
    choir: Choir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From zero on, and down to zero again when they have ended."""
    flow = {"service": "orders", "style": "choreography", "transport": "memory"}

    def seen() -> tuple[float | None, float | None, bool]:
        count, stuck, oldest_s = (
            REGISTRY.get_sample_value(name, flow)
            for name in ("lab_orders_open", "lab_orders_stuck", "lab_orders_oldest_timestamp_seconds")
        )
        return count, stuck, oldest_s is not None and abs(time.time() - oldest_s) < 60

    async with choir.measuring():
        await eventually(lambda: seen() == (0, 0, False), "there is nothing, and that is said")
        assert REGISTRY.get_sample_value("lab_orders_total", {**flow, "state": "rejected"}) is not None
        await choir.accept(style=ASYNC)
        await eventually(lambda: seen() == (1, 0, True), "an order is open")
        monkeypatch.setattr(c, "STUCK_AFTER_S", 0.0)
        await eventually(lambda: seen() == (1, 1, True), "it is stuck")
        await choir.desk.record("o-1", m.StockRefused(order("o-1"), "none left"))
        await eventually(lambda: seen() == (0, 0, False), "it has ended")


@pytest.mark.usefixtures("_measured_often")
async def test_an_order_is_accepted_while_the_broker_is_away_and_sent_when_it_is_back(
    choir: Choir, flaky: _Flaky
) -> None:
    """In the trace, and with the baggage, of the request that was accepted; the wait is the outbox span."""
    await choir.accept(style=ASYNC)
    before_s = time.time()
    async with choir.relaying(), choir.measuring():
        await eventually(lambda: flaky.tried >= 2, "the relay tries again")
        assert await choir.desk.store.pending() == 1
        await eventually(lambda: metric("lab_outbox_pending", service="orders") == 1, "the outbox is seen to wait")
        assert before_s - 5 < metric("lab_outbox_oldest_timestamp_seconds", service="orders") <= before_s
        flaky.cut = False
        await eventually(lambda: choir.network.queues["orders.events", "inventory"], "the message is sent")
        await eventually(lambda: metric("lab_outbox_pending", service="orders") == 0, "the outbox is empty")
        await eventually(lambda: metric("lab_outbox_oldest_timestamp_seconds", service="orders") == 0, "and says so")
    (post,) = choir.orders.named("POST /orders")
    (send,) = choir.orders.named("send orders.events")
    waits = {span.context.span_id: span for span in choir.orders.named("outbox orders")}
    assert send.parent is not None
    outbox = waits[send.parent.span_id]
    assert outbox.parent is not None
    assert outbox.parent.span_id == post.context.span_id
    assert {span.context.trace_id for span in (post, send, *waits.values())} == {post.context.trace_id}
    assert attributes(send)[c.LAB_RUN_ID] == "r-1"
    assert (outbox.end_time or 0) - (outbox.start_time or 0) >= 0.1e9, "it waited for at least one lease"
    (stored,) = choir.network.queues["orders.events", "inventory"]
    assert f"{post.context.trace_id:032x}-{send.context.span_id:016x}" in stored.headers["traceparent"]
    assert "lab.run_id=r-1" in stored.headers["baggage"]


async def test_what_a_killed_process_did_not_send_is_sent_once_its_lease_is_over(choir: Choir) -> None:
    """By whoever looks next, and not before."""
    state, (parcel,) = opening(choir.desk)
    await choir.desk.store.place(
        state,
        style="choreography",
        transport="memory",
        carrier={},
        idempotency_key=None,
        body_hash=None,
        parcels=[parcel],
        lease_s=0.3,
        conversation=False,
    )
    queue = choir.network.queues["orders.events", "inventory"]
    async with choir.relaying():
        await asyncio.sleep(0.1)
        assert not queue
        await eventually(lambda: queue, "the message is sent")
    assert [stored.headers["ce-id"] for stored in queue] == [parcel.headers["ce-id"]]


async def test_two_replicas_send_each_message_once(choir: Choir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LEASE_S", 10)
    desk = choir.desk
    replica = Desk(desk.store, choir.orders.telemetry, live(), {}, {"memory": choir.orders.broker()})  # type: ignore[dict-item]
    for i in range(20):
        state, parcels = opening(desk, f"o-{i}")
        await desk.store.place(
            state,
            style="choreography",
            transport="memory",
            carrier={},
            idempotency_key=None,
            body_hash=None,
            parcels=parcels,
            lease_s=-1,
            conversation=False,
        )

    async def empty() -> bool:
        return await desk.store.pending() == 0

    async with choir.relaying(), ended(asyncio.create_task(replica.relay())):
        await eventually(empty, "all are sent")
    sent = [stored.key for stored in choir.network.queues["orders.events", "inventory"]]
    assert sorted(sent) == sorted(f"o-{i}" for i in range(20))


async def test_a_message_for_a_transport_that_does_not_run_here_waits_and_holds_up_no_other(choir: Choir) -> None:
    store = choir.desk.store
    for order_id, broker in (("stuck", "kafka"), ("o-1", "memory")):
        state, (parcel,) = opening(choir.desk, order_id, broker)
        await store.place(
            state,
            style="choreography",
            transport=broker,
            carrier={},
            idempotency_key=None,
            body_hash=None,
            parcels=[parcel],
            lease_s=-1,
            conversation=False,
        )
    async with choir.relaying() as relay:
        await eventually(lambda: choir.network.queues["orders.events", "inventory"], "the other one is sent")
        await asyncio.sleep(0.2)
        assert not relay.done()
    assert await store.pending() == 1


async def test_what_is_being_sent_is_finished_before_the_desk_is_drained(choir: Choir, flaky: _Flaky) -> None:
    flaky.cut = False
    gate, publish = asyncio.Event(), flaky._broker.publish

    async def slow(*args: Any, **kwargs: Any) -> None:
        await gate.wait()
        await publish(*args, **kwargs)

    flaky._broker.publish = slow
    await choir.accept(style=ASYNC)
    draining = asyncio.create_task(choir.desk.drained())
    await asyncio.sleep(0.05)
    assert not draining.done()
    gate.set()
    async with asyncio.timeout(30):
        await draining
    assert await choir.desk.store.pending() == 0


# --- recovery ---------------------------------------------------------------------------------------------------------
async def test_a_conversation_that_broke_off_is_taken_back_once_its_peer_is_there_again(choir: Choir) -> None:
    """Rejected; what was done is compensated, what was not leaves a tombstone; each effect stands once."""
    labels = {"service": "orders", "style": "request_response", "transport": "memory", "state": "rejected"}
    before = metric("lab_orders_recovered_total", **labels)
    shipping_server = choir.away("shipping")
    await choir.break_off()
    assert await choir.effects() == ["reserve.stock", "charge.payment"]
    async with choir.recovering():
        await eventually(lambda: len(choir.orders.named("recover order")) >= 2, "recovery tries, and tries again")
        stored = await choir.desk.store.get("o-1")
        assert stored is not None
        assert not stored.ended
        choir.network.servers["shipping"] = shipping_server
        stored = await choir.end()
    assert (stored.verdict, stored.reason) == (Verdict.REJECTED, "taken back by recovery")
    assert await choir.effects() == ["reserve.stock", "release.stock", "charge.payment", "refund.payment"]
    events = [event for _, event in await choir.desk.store.history("o-1")]
    assert events == [
        *("order.placed", "stock.reserved", "payment.charged"),
        *("shipment.cancelled", "payment.refunded", "stock.released"),
    ]
    assert metric("lab_orders_recovered_total", **labels) == before + 1
    book = await choir.orders.rpc().call("shipping", m.BookShipment(order()), timeout_s=5)
    assert book == m.ShipmentCancelled(order()), "a booking that comes late finds the tombstone"


async def test_a_recovery_has_a_trace_of_its_own_that_is_linked_to_the_request(choir: Choir) -> None:
    """A root span with ``lab.recovery``, the order and its end, and the baggage of the request."""
    choir.away("payment")
    await choir.break_off()
    await choir.parts["payment"].rpc().serve("payment", choir.parts["payment"].worker(payment.handlers).calls())
    async with choir.recovering():
        await choir.end()
        await eventually(lambda: choir.orders.named("recover order"), "the recovery's span has ended")
    (post,) = choir.orders.named("POST /orders")
    (recovery,) = choir.orders.named("recover order")
    assert recovery.parent is None
    assert [link.context.span_id for link in recovery.links] == [post.context.span_id]
    assert recovery.context.trace_id != post.context.trace_id
    assert attributes(recovery) == {
        c.LAB_ORDER_ID: "o-1",
        c.LAB_RECOVERY: True,
        c.LAB_ORDER_STATE: "rejected",
        c.LAB_RUN_ID: "r-1",
        c.LAB_STYLE: "request_response",
    }
    calls = [span for span in choir.exporter.get_finished_spans() if span.name == "payment/refund.payment"]
    assert {span.context.trace_id for span in calls} == {recovery.context.trace_id}


async def test_a_recovery_that_has_to_wait_is_an_error_on_its_span(choir: Choir) -> None:
    choir.away("inventory")
    await choir.break_off()
    async with choir.recovering():
        await eventually(lambda: choir.orders.named("recover order"), "recovery has tried")
    span = choir.orders.named("recover order")[0]
    assert (span.status.status_code, attributes(span)[c.ERROR_TYPE]) == (StatusCode.ERROR, "Unavailable")
    assert c.LAB_ORDER_STATE not in attributes(span)


async def test_what_was_done_though_its_answer_came_too_late_is_taken_back(choir: Choir) -> None:
    """The caller's deadline passed while payment was at work; it went on. The refund waits for it, and happens."""
    choir.orders.live.update({"rpc.timeout_s": "0.5"})
    choir.parts["payment"].live.update({"payment.work_ms": "1500", "work.jitter": "0"})
    await choir.break_off(error=DeadlineExceeded)
    choir.orders.live.update({"rpc.timeout_s": "2"})
    async with choir.recovering():
        stored = await choir.end()
    assert stored.verdict is Verdict.REJECTED
    assert await choir.effects() == ["reserve.stock", "release.stock", "charge.payment", "refund.payment"]


async def test_a_participant_that_failed_is_asked_to_take_it_back(choir: Choir) -> None:
    """``PeerFailed``: whether it was done is unknown; taking back is harmless where it was not."""
    worker = choir.parts["payment"].worker(payment.handlers)
    handlers, worker._handlers = worker._handlers, {m.ChargePayment: _crash}
    await choir.parts["payment"].rpc().serve("payment", worker.calls())
    await choir.break_off(error=PeerFailed)
    worker._handlers = handlers
    async with choir.recovering():
        assert (await choir.end()).verdict is Verdict.REJECTED
    assert await choir.effects() == ["reserve.stock", "release.stock"]


async def _crash(_: m.Command) -> m.Event:
    raise RuntimeError("out of paper")


@pytest.mark.parametrize("was_told", [False, True], ids=["not told yet", "told, but the answer was lost"])
async def test_an_order_that_lacks_only_its_notification_is_completed(choir: Choir, was_told: bool) -> None:
    """A notification cannot be taken back, so it is asked for again; the customer hears of it once."""
    if was_told:
        server = choir.network.servers["notifications"]

        async def lost(*call: Any) -> Any:
            await server(*call)
            raise Unavailable("the answer is lost")

        choir.network.servers["notifications"] = lost
    else:
        server = choir.away("notifications")
    with pytest.raises(TransportError):
        await choir.desk.converse(await choir.accept(), SYNC)
    choir.network.servers["notifications"] = server
    async with choir.recovering():
        stored = await choir.end()
    assert (stored.verdict, stored.reason) == (Verdict.COMPLETED, None)
    assert await choir.effects() == DONE


async def test_a_conversation_whose_orders_was_killed_is_taken_back_once_its_lease_is_over(choir: Choir) -> None:
    """Killed in the middle of a call: nobody gave the lease up. It lasts as long as the conversation may."""
    choir.orders.live.update({**NO_WORK, "rpc.timeout_s": "0.2", "order.deadline_s": "1"})
    accepted = await choir.accept()
    server = choir.network.servers["shipping"]
    asked = asyncio.Event()

    async def never(*_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    choir.network.servers["shipping"] = never
    carried = desk_module._Conversation(choir.desk, SYNC, "memory")
    conversation = SYNC.converse(accepted.state, choir.orders.rpc(), carried, 60)  # type: ignore[misc]
    async with ended(asyncio.create_task(conversation)), asyncio.timeout(30):
        await asked.wait()
    assert (await choir.desk.store.history("o-1"))[-1][1] == "payment.charged"
    choir.network.servers["shipping"] = server
    async with choir.recovering():
        assert (await choir.end()).verdict is Verdict.REJECTED
    assert await choir.effects() == ["reserve.stock", "release.stock", "charge.payment", "refund.payment"]


async def test_an_order_that_cannot_be_recovered_holds_up_no_other(choir: Choir) -> None:
    """Its transport does not run here any more: it waits for the day that it does, and the pass goes on."""
    store = choir.desk.store
    for order_id, transport in (("stuck", "grpc"), ("o-1", "memory")):
        state, _ = place(order(order_id))
        await store.place(
            state,
            style="request_response",
            transport=transport,
            carrier={},
            idempotency_key=None,
            body_hash=None,
            parcels=[],
            lease_s=-1,
            conversation=True,
        )
    async with choir.recovering() as recovery:
        await choir.end("o-1")
        await eventually(lambda: len(choir.orders.named("recover order")) >= 4, "the other is tried again")
        assert not recovery.done()
    stuck = [span for span in choir.orders.named("recover order") if attributes(span)[c.LAB_ORDER_ID] == "stuck"]
    assert {attributes(span).get(c.ERROR_TYPE) for span in stuck} == {"Unavailable"}


# --- waiting ------------------------------------------------------------------------------------------------------
async def test_all_who_wait_hear_of_the_end_and_nothing_is_kept_for_them(
    choir: Choir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, long before they would look by themselves."""
    monkeypatch.setattr(desk_module, "LOOK_EVERY_S", 30)
    await choir.accept(style=ASYNC)
    waiting = [asyncio.create_task(choir.desk.wait("o-1", 30)) for _ in range(5)]
    await asyncio.sleep(0.02)
    await choir.desk.record("o-1", m.StockRefused(order(), "no tea"))
    async with asyncio.timeout(30):
        ends = await asyncio.gather(*waiting)
    assert {stored.verdict for stored in ends if stored} == {Verdict.REJECTED}
    assert (dict(choir.desk._waiting), dict(choir.desk._news)) == ({}, {})


async def test_an_end_that_a_replica_heard_of_is_seen_too(choir: Choir) -> None:
    await choir.accept(style=ASYNC)
    waiting = asyncio.create_task(choir.desk.wait("o-1", 30))
    await asyncio.sleep(0.02)
    await OrderStore(choir.orders.database).record("o-1", m.StockRefused(order(), "no tea"))
    async with asyncio.timeout(30):
        stored = await waiting
    assert stored is not None
    assert stored.ended


async def test_those_who_wait_are_answered_when_the_process_stops(
    choir: Choir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "LOOK_EVERY_S", 30)
    await choir.accept(style=ASYNC)
    waiting = asyncio.create_task(choir.desk.wait("o-1", 30))
    await asyncio.sleep(0.02)
    choir.desk.stop_waiting()
    async with asyncio.timeout(30):
        stored = await waiting
    assert stored is not None
    assert not stored.ended


# --- through the front door -------------------------------------------------------------------------------------------
@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[MemoryLab]:
    async with memory_lab(tmp_path) as running:
        yield running


async def lab_effects(lab: MemoryLab, order_id: str) -> list[str]:
    return [action for process in lab.participants.values() for action in await effects_of(process.database, order_id)]


@pytest.mark.parametrize(
    ("settings", "status", "title"),
    [({}, 503, "Service Unavailable"), ({"rpc__timeout_s": "0.5"}, 504, "Gateway Timeout")],
    ids=["away", "too slow"],
)
async def test_a_conversation_that_breaks_off_is_answered_with_a_link_to_what_becomes_of_it(
    lab: MemoryLab, settings: dict[str, str], status: int, title: str
) -> None:
    """503 or 504, Retry-After, and the order's address, under which it is soon rejected and taken back."""
    network = lab.orders.process.network
    server = network.servers["shipping"]
    answered = asyncio.Event()
    if settings:

        async def slow(*call: Any) -> Any:
            await answered.wait()
            return await server(*call)

        network.servers["shipping"] = slow
        await lab.put(**settings)
    else:
        del network.servers["shipping"]
    answer = await lab.place(ORDER, "request_response", **{"Idempotency-Key": "k"})
    answered.set()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    document = answer.json()
    assert (document["title"], document["order"]) == (title, f"/orders/{document['order_id']}")
    assert answer.headers["retry-after"] == "1"
    assert "shipping" in document["detail"]
    again = await lab.place(ORDER, "request_response", **{"Idempotency-Key": "k"})
    assert again.json()["id"] == document["order_id"], "a retry with the same key must not order twice"
    network.servers["shipping"] = server
    order = (await lab.client.get(document["order"], params={"wait_s": 10})).json()
    assert (order["state"], order["reason"]) == ("rejected", "taken back by recovery")
    done = await lab_effects(lab, order["id"])
    assert sorted(done) == sorted(["reserve.stock", "release.stock", "charge.payment", "refund.payment"])


async def test_an_orders_that_starts_again_finishes_what_it_had_accepted(tmp_path: Path) -> None:
    """On the same database: the conversation that it was in is taken back, the message not yet sent is sent."""
    network = Network()
    async with part("orders", tmp_path, network) as own, part("inventory", tmp_path, network) as stock:
        # what a killed process leaves: an order with its stock reserved, and an outbox that was not emptied
        desk = Desk(OrderStore(own.database), own.telemetry, own.live, {"memory": own.rpc()}, {})  # type: ignore[dict-item]
        await stock.rpc().serve("inventory", stock.worker(inventory.handlers).calls())
        accepted = await desk.accept(order("sync"), SYNC, "memory", idempotency_key=None, body_hash=None)
        with pytest.raises(Unavailable):
            await desk.converse(accepted, SYNC)
        await desk.accept(order("async"), ASYNC, "memory", idempotency_key=None, body_hash=None)
        await desk.drained()
        assert await effects_of(stock.database, "sync") == ["reserve.stock"]
    async with memory_lab(tmp_path) as lab:
        ends = {}
        for order_id in ("sync", "async"):
            ends[order_id] = (await lab.client.get(f"/orders/{order_id}", params={"wait_s": 10})).json()
        assert {order_id: order["state"] for order_id, order in ends.items()} == {
            "sync": "rejected",
            "async": "completed",
        }
        assert await lab_effects(lab, "sync") == ["reserve.stock", "release.stock"]
        assert await lab_effects(lab, "async") == DONE
        assert await lab.orders.store.pending() == 0


async def test_messages_that_come_three_times_change_nothing(lab: MemoryLab) -> None:
    """At least once: a whole conversation and its compensations, each message of which is delivered three times."""
    sent: set[str] = set()
    for process in lab.processes:
        broker = process.brokers["memory"]

        async def thrice(headers: Any, body: bytes, publish: Any = broker.publish, **where: Any) -> None:
            for _ in range(1 if headers["ce-id"] in sent else 3):  # an answer to a duplicate is a duplicate itself
                await publish(headers, body, **where)
            sent.add(headers["ce-id"])

        broker.publish = thrice  # type: ignore[method-assign]
    order = await lab.finished({**ORDER, "customer": "c-unreachable"}, "choreography")
    spans = await lab.spans()
    assert order["state"] == "rejected"
    taken_back = ["release.stock", "refund.payment", "cancel.shipment"]
    assert sorted(await lab_effects(lab, order["id"])) == sorted([*DONE[:3], *taken_back])
    history = (await lab.client.get(f"/orders/{order['id']}")).json()["history"]
    assert len({entry["event"] for entry in history}) == len(history)
    assert sum(c.LAB_DUPLICATE in (span.attributes or {}) for span in spans) >= len(sent)
