"""The consumer: what becomes of each delivery. Done, tried again or a dead letter, and it always goes on."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import baggage
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from prometheus_client import REGISTRY
from sqlalchemy.exc import OperationalError

from services import inventory
from services.domain import messages as m
from services.runtime import consumer as consumer_module
from services.runtime.config import Config
from services.runtime.consumer import MAX_BACKOFF_S, Consumer
from services.runtime.process import Process, participant
from services.storage.participant import Failures
from services.telemetry import conventions as c
from services.transports.errors import DeadlineExceeded, TransportError, Unavailable
from services.transports.messaging.memory import DeadLetter, Memory, Network
from services.transports.ports import Delivery, Message
from tests.services.parts import Part, ended, eventually, live, metric, order, part, publish_raw, wire

CHANNEL = "orders.events"
SUBSCRIPTION = {"service": "inventory", "messaging_system": "memory", "messaging_destination_name": CHANNEL}
WHAT_FAILS = {
    "lab_messaging_dead_letters_total": {**SUBSCRIPTION, "reason": "failed"},
    "lab_messaging_retries_total": SUBSCRIPTION,
    "lab_messaging_redeliveries_total": SUBSCRIPTION,
}


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "MAX_BACKOFF_S", 0.01)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Part]:
    async with part("inventory", tmp_path) as inventory_part:
        inventory_part.network.groups[CHANNEL].add("inventory")
        yield inventory_part


class Handled:
    """What a style makes of messages: notes them, and does what it is told to for each."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.done: list[str] = []
        self.at_work: list[str] = []
        self.most_at_work = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: Callable[[int], BaseException | None] = lambda _: None
        """What the n-th handling (from 1) raises."""

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)
        if error := self.fails(len(self.messages)):
            raise error
        self.at_work.append(message.subject)
        self.most_at_work = max(self.most_at_work, len(self.at_work))
        try:
            await self.gate.wait()
        finally:
            self.at_work.remove(message.subject)
        self.done.append(message.id)


@dataclass
class Running:
    part: Part
    broker: Memory
    consumer: Consumer
    handled: Handled
    task: asyncio.Task[None]

    @property
    def network(self) -> Network:
        return self.part.network

    @property
    def idle(self) -> bool:
        return not any(self.network.queues.values()) and not self.consumer._in_hand

    async def dead_letter(self) -> DeadLetter:
        letters = self.network.dead_letters
        await eventually(lambda: letters, "there is a dead letter")
        assert len(letters) == 1
        return letters[0]


@contextlib.asynccontextmanager
async def consuming(
    own: Part,
    react: Callable[[Message], Awaitable[None]] | None = None,
    max_in_flight: int = 16,
    **settings: str,
) -> AsyncIterator[Running]:
    handled = Handled()
    broker = own.broker()
    consumer = Consumer(
        broker,
        own.service,
        react or handled,
        spans=own.telemetry.messaging,
        failures=Failures(own.database),
        live=live(**settings),
        max_in_flight=max_in_flight,
    )
    async with ended(asyncio.create_task(consumer.run(CHANNEL))) as task:
        yield Running(own, broker, consumer, handled, task)
    for in_hand in consumer._in_hand:
        in_hand.cancel()
    await asyncio.gather(*consumer._in_hand, return_exceptions=True)


async def publish(own: Part, order_id: str = "o-1", *, cause: str = "cause") -> str:
    """Send ``OrderPlaced`` as orders does; gives the message's id."""
    headers, body = wire(m.OrderPlaced(order(order_id)), cause=f"{cause}/{order_id}")
    await own.broker().publish(headers, body, channel=CHANNEL, key=order_id)
    return headers["ce-id"]


# --- what goes well ---------------------------------------------------------------------------------------------------
async def test_a_message_is_handled_and_acknowledged(own: Part) -> None:
    """Once; nothing is left unsettled, and nothing in the queue."""
    async with consuming(own) as running:
        message_id = await publish(own)
        await eventually(lambda: running.handled.done, "the message is handled")
        await eventually(lambda: running.idle, "nothing is left to do")
        assert running.handled.done == [message_id]
        assert running.broker._unsettled == {}
        assert [span.name for span in own.spans if span.kind is SpanKind.CLIENT] == [f"ack {CHANNEL}"]


async def test_no_more_than_max_in_flight_are_in_hand_at_once(own: Part) -> None:
    """The rest wait with the broker; each that ends lets the next one in."""
    async with consuming(own, max_in_flight=3) as running:
        running.handled.gate.clear()
        for i in range(10):
            await publish(own, f"o-{i}")
        await eventually(lambda: len(running.handled.at_work) == 3, "three messages are at work")
        await asyncio.sleep(0.05)
        assert len(running.handled.at_work) == 3
        assert len(running.network.queues[CHANNEL, "inventory"]) == 7
        running.handled.gate.set()
        await eventually(lambda: len(running.handled.done) == 10, "all are handled")
        assert running.handled.most_at_work == 3


async def test_messages_about_one_order_are_handled_one_after_the_other_as_they_came(own: Part) -> None:
    """Those about other orders do not wait for them."""
    async with consuming(own) as running:
        running.handled.gate.clear()
        ids = [await publish(own, "o-1", cause=str(i)) for i in range(5)]
        await publish(own, "o-2")
        await eventually(lambda: len(running.handled.at_work) == 2, "one message of each order is at work")
        await asyncio.sleep(0.05)
        assert sorted(running.handled.at_work) == ["o-1", "o-2"]
        running.handled.gate.set()
        await eventually(lambda: len(running.handled.done) == 6, "all are handled")
        assert [message.id for message in running.handled.messages if message.subject == "o-1"] == ids


async def test_a_handler_works_in_the_messages_context_and_in_no_other(own: Part) -> None:
    """Its span and its baggage; not those that were current where the consumer was started."""
    seen: list[tuple[Any, Any]] = []
    bound: list[dict[str, Any]] = []

    async def react(_: Message) -> None:
        seen.append((get_current_span(), baggage.get_baggage(c.LAB_RUN_ID)))
        bound.append(structlog.contextvars.get_contextvars())

    with (
        own.telemetry.tracer.start_as_current_span("start-up"),
        structlog.contextvars.bound_contextvars(phase="start-up"),
    ):
        async with consuming(own, react):
            headers, body = wire(m.OrderPlaced(order()))
            publish_raw(own.network, CHANNEL, {**headers, "baggage": "lab.run_id=r-7"}, body)
            async with own.network.arrived:
                own.network.arrived.notify_all()
            await eventually(lambda: own.named(f"ack {CHANNEL}"), "the message is settled")
    (process,) = own.named(f"process {CHANNEL}")
    assert process.parent is None
    assert [(span.get_span_context().span_id, run) for span, run in seen] == [(process.context.span_id, "r-7")]
    assert (process.attributes or {})[c.LAB_RUN_ID] == "r-7"
    assert bound == [{"service": "inventory", "order_id": "o-1"}], "what its log lines say"


async def test_the_age_of_the_oldest_message_in_hand_is_known_at_any_time(own: Part) -> None:
    """Its ``sent-at``, whichever message is done first; 0 where there is none, and where none says."""
    async with consuming(own) as running:
        oldest = functools.partial(metric, "lab_messaging_oldest_timestamp_seconds", **SUBSCRIPTION)
        assert oldest() == 0
        running.handled.gate.clear()
        headers, body = wire(m.OrderPlaced(order()))
        for sent_at, key in (("no number", "o-1"), ("3000000000", "o-2"), ("2000000000", "o-3"), ("4000000000", "o-4")):
            publish_raw(own.network, CHANNEL, {**headers, "sent-at": sent_at}, body, key)
        async with own.network.arrived:
            own.network.arrived.notify_all()
        await eventually(lambda: len(running.handled.at_work) == 4, "all are at work")
        assert oldest() == 2
        running.handled.gate.set()
        await eventually(lambda: running.idle, "all is done")
        assert oldest() == 0


async def test_what_can_go_wrong_is_counted_from_zero(own: Part) -> None:
    """A counter that is not there before it rises cannot be seen to rise."""
    fresh = {"messaging_destination_name": "nothing.yet"}
    async with consuming(own) as running, ended(asyncio.create_task(running.consumer.run("nothing.yet"))):
        for name, labels in WHAT_FAILS.items():
            await eventually(
                lambda: REGISTRY.get_sample_value(name, {**labels, **fresh}) == 0,  # noqa: B023
                f"{name} is there",
            )


# --- what fails ---------------------------------------------------------------------------------------------------
async def test_a_failure_of_the_handler_is_tried_again_and_then_a_dead_letter(own: Part) -> None:
    """After ``messaging.max_attempts``; with the reason, the number of attempts and the original context."""
    before = {name: metric(name, **labels) for name, labels in WHAT_FAILS.items()}
    async with consuming(own, messaging__max_attempts="3") as running:
        running.handled.fails = lambda _: ValueError("no such shelf")
        message_id = await publish(own)
        letter = await running.dead_letter()
        await eventually(lambda: running.idle, "nothing is left to do")
    assert [message.id for message in running.handled.messages] == [message_id] * 3
    assert (letter.reason, letter.attempts) == ("ValueError: no such shelf", 3)
    (send,) = own.named(f"send {CHANNEL}")
    assert letter.headers["traceparent"].split("-")[1:3] == [
        f"{send.context.trace_id:032x}",
        f"{send.context.span_id:016x}",
    ]
    assert letter.headers["ce-id"] == message_id
    assert json.loads(letter.body)["order"]["order_id"] == "o-1"
    rose = {name: metric(name, **labels) - before[name] for name, labels in WHAT_FAILS.items()}
    assert rose == {
        "lab_messaging_dead_letters_total": 1,
        "lab_messaging_retries_total": 2,
        "lab_messaging_redeliveries_total": 2,
    }


async def test_a_failed_handling_is_an_error_on_its_span_and_in_its_metrics(own: Part) -> None:
    """``error.type`` and status ERROR on each failed attempt, the reason on the last; none where it went well."""
    labels = {
        "service": "inventory",
        "messaging_system": "memory",
        "messaging_destination_name": CHANNEL,
        "messaging_operation_name": "process",
    }
    name = "messaging_process_duration_seconds_count"
    before = {error: metric(name, **labels, error_type=error) for error in ("", "ValueError")}
    async with consuming(own, messaging__max_attempts="2") as running:
        running.handled.fails = lambda n: ValueError("no such shelf") if n <= 2 else None
        await publish(own)
        await running.dead_letter()
        await publish(own, "o-2")
        await eventually(lambda: len(own.named(f"process {CHANNEL}")) == 3, "all handlings have ended")
    spans = [span.attributes or {} for span in own.named(f"process {CHANNEL}")]
    assert [span.get(c.ERROR_TYPE) for span in spans] == ["ValueError", "ValueError", None]
    assert [span.get(c.LAB_DEAD_LETTER_REASON) for span in spans] == [None, "ValueError: no such shelf", None]
    assert [span.get(c.LAB_DELIVERY_ATTEMPT) for span in spans] == [1, 2, 1]
    codes = [span.status.status_code for span in own.named(f"process {CHANNEL}")]
    assert codes == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    counted = {error: metric(name, **labels, error_type=error) - n for error, n in before.items()}
    assert counted == {"": 1, "ValueError": 2}


@dataclass(slots=True)
class _Delivery(Delivery):
    settled: list[tuple[str, float | None]] = field(default_factory=list)

    async def ack(self) -> None:
        self.settled.append(("ack", None))

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        self.settled.append((reason, retry_after_s))


@pytest.mark.parametrize("error", [ValueError("x"), Unavailable("x")])
async def test_the_time_between_attempts_doubles_up_to_a_limit(
    own: Part, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """From 0.1 s on, at most 5 s, each shortened by chance to no less than half."""
    monkeypatch.setattr(consumer_module, "MAX_BACKOFF_S", MAX_BACKOFF_S)
    headers, body = wire(m.OrderPlaced(order()))
    deliveries = [_Delivery(CHANNEL, "inventory", "o-1", headers, body, attempt=n) for n in range(1, 12)]
    async with consuming(own, messaging__max_attempts="100") as running:
        running.handled.fails = lambda _: error
        for delivery in deliveries:
            await running.consumer._handle(delivery)
    for n, delivery in enumerate(deliveries, 1):
        ((reason, retry_after_s),) = delivery.settled
        longest = min(0.1 * 2 ** (n - 1), 5.0)
        assert reason == "x"
        assert longest / 2 <= (retry_after_s or 0) <= longest


async def test_a_failure_of_the_wire_never_makes_a_dead_letter(own: Part) -> None:
    """It is nobody's fault: tried again for as long as it takes, whatever ``messaging.max_attempts`` says."""
    async with consuming(own, messaging__max_attempts="1") as running:
        running.handled.fails = lambda n: DeadlineExceeded("the broker is away") if n <= 12 else None
        message_id = await publish(own)
        await eventually(lambda: running.handled.done, "the message is handled at last")
        await eventually(lambda: running.idle, "nothing is left to do")
    assert running.handled.done == [message_id]
    assert len(running.handled.messages) == 13
    assert running.network.dead_letters == []


async def test_failures_of_the_wire_do_not_count_as_failures_of_the_handler(own: Part) -> None:
    """A handler has its ``messaging.max_attempts`` whole, however often the wire failed before."""

    def fails(n: int) -> Exception | None:
        return Unavailable("away") if n <= 6 else ValueError("once") if n == 7 else None

    async with consuming(own, messaging__max_attempts="3") as running:
        running.handled.fails = fails
        await publish(own)
        await eventually(lambda: running.handled.done or running.network.dead_letters, "the message is settled")
        await eventually(lambda: running.idle, "nothing is left to do")
    assert running.network.dead_letters == []
    assert len(running.handled.messages) == 8


async def test_attempts_are_counted_across_restarts(own: Part) -> None:
    """A consumer that comes anew, to a broker that forgets its counts, goes on counting where it was."""
    handled = []
    headers, body = wire(m.OrderPlaced(order()))
    for _ in range(3):
        async with consuming(own, messaging__max_attempts="3") as running:
            running.handled.fails = lambda _: ValueError("no such shelf")
            delivery = _Delivery(CHANNEL, "inventory", "o-1", headers, body, attempt=1)
            await running.consumer._handle(delivery)
            handled += delivery.settled
    assert [retry_after_s is None for _, retry_after_s in handled] == [False, False, True]


async def test_a_failure_that_cannot_be_counted_is_tried_again(own: Part) -> None:
    """While the database is away the handler fails, and so does the count: the message must come again, not hang."""
    async with consuming(own, messaging__max_attempts="1") as running:

        async def away(_: str) -> int:
            raise OperationalError("INSERT", {}, Exception("the database is away"))

        count = running.consumer._failures.add
        running.consumer._failures.add = away  # type: ignore[method-assign]
        running.handled.fails = lambda n: ConnectionRefusedError("the database is away") if n <= 3 else None
        await publish(own)
        await eventually(lambda: running.handled.done, "the message is handled once the database is back")
        await eventually(lambda: running.idle, "nothing is left to do")
        running.consumer._failures.add = count  # type: ignore[method-assign]
    assert running.network.dead_letters == []
    assert running.broker._unsettled == {}


# --- what makes no sense ----------------------------------------------------------------------------------------------
Wire = tuple[dict[str, str], bytes]


def _wire(**headers: str | None) -> Wire:
    good, body = wire(m.OrderPlaced(order("strange")), cause="strange")
    changed = {**good, **{f"ce-{name}": value for name, value in headers.items()}}
    return {name: value for name, value in changed.items() if value is not None}, body


STRANGE: dict[str, tuple[Wire, str]] = {
    # what: (headers and body, what the reason must say)
    "no CloudEvent": (({}, b"hello"), "specversion is missing"),
    "another version": (_wire(specversion="0.3"), "'0.3' is not 1.0"),
    "no id": (_wire(id=None), "ce-id is missing"),
    "an empty id": (_wire(id=""), "id"),
    "no source": (_wire(source=None), "ce-source is missing"),
    "an empty source": (_wire(source=""), "source"),
    "no type": (_wire(type=None), "ce-type is missing"),
    "an unknown type": (_wire(type="order.sung"), "unknown message type 'order.sung'"),
    "no style": (_wire(labstyle=None), "ce-labstyle is missing"),
    "not JSON": ((_wire()[0], b"{"), "order.placed"),
    "not UTF-8": ((_wire()[0], b"\xff\xfe"), "order.placed"),
    "nothing": ((_wire()[0], b""), "order.placed"),
    "another JSON": ((_wire()[0], b'{"order": {"order_id": 1}}'), "order.order_id"),
    "a field missing": ((_wire()[0], b"{}"), "order"),
}


@pytest.mark.parametrize("case", STRANGE)
async def test_what_cannot_be_decoded_is_a_dead_letter_at_once_and_the_consumer_goes_on(own: Part, case: str) -> None:
    """With the reason and its bytes as they came; counted as refused input; the next message is handled."""
    (headers, body), reason = STRANGE[case]
    refused = metric("lab_refused_input_total", service="inventory", transport="memory", reason="undecodable")
    async with consuming(own) as running:
        publish_raw(own.network, CHANNEL, headers, body, "strange")
        good = await publish(own)
        letter = await running.dead_letter()
        await eventually(lambda: running.handled.done, "the message behind it is handled")
        await eventually(lambda: running.idle, "nothing is left to do")
    assert reason in letter.reason
    assert "\n" not in letter.reason
    assert len(letter.reason) < 200
    assert (letter.headers, letter.body, letter.attempts) == (headers, body, 1)
    assert running.handled.done == [good]
    assert (
        metric("lab_refused_input_total", service="inventory", transport="memory", reason="undecodable") == refused + 1
    )
    (span,) = [span for span in own.named(f"process {CHANNEL}") if c.LAB_DEAD_LETTER_REASON in (span.attributes or {})]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})[c.ERROR_TYPE] == "Undecodable"


async def test_a_message_of_an_unknown_style_is_a_dead_letter_at_once_and_the_service_goes_on(tmp_path: Path) -> None:
    """Nobody here knows what to make of it, and trying again does not help."""
    network = Network()
    config = Config(transports="memory", database_url=f"sqlite:///{tmp_path / 'inventory'}.sqlite")
    async with participant(Process("inventory", config, network), inventory.handlers) as process:
        await eventually(lambda: not process.opening, "the consumers are there")
        headers, body = wire(m.OrderPlaced(order("strange")), style="telepathy")
        broker = process.brokers["memory"]
        await broker.publish(headers, body, channel=CHANNEL, key="strange")
        await eventually(lambda: network.dead_letters, "there is a dead letter")
        headers, body = wire(m.OrderPlaced(order()))
        await broker.publish(headers, body, channel=CHANNEL, key="o-1")
        await eventually(lambda: network.queues["inventory.events", "payment"], "inventory has reserved the stock")
    (letter,) = network.dead_letters
    assert letter.reason == "unknown style 'telepathy'"
    assert letter.attempts == 1


BAD_TRACEPARENTS = [
    "",
    "hello",
    "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
    "00-" + "1" * 32 + "-" + "0" * 16 + "-01",
    "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
    "00-" + "1" * 31 + "-" + "1" * 16 + "-01",
    "é" * 55,
]


@pytest.mark.parametrize("traceparent", BAD_TRACEPARENTS)
async def test_a_message_whose_trace_context_cannot_be_read_is_handled_in_a_new_trace(
    own: Part, traceparent: str
) -> None:
    """And counted; the baggage beside it is used."""
    before = metric("lab_bad_trace_context_total", service="inventory")
    async with consuming(own) as running:
        headers, body = wire(m.OrderPlaced(order()))
        await _put(own, {**headers, "traceparent": traceparent, "baggage": "lab.run_id=r-1"}, body)
        await eventually(lambda: running.handled.done, "the message is handled")
        await eventually(lambda: running.idle, "nothing is left to do")
    (process,) = own.named(f"process {CHANNEL}")
    assert (process.parent, list(process.links)) == (None, [])
    assert c.LAB_PRODUCER_TRACE_ID not in (process.attributes or {})
    assert (process.attributes or {})[c.LAB_RUN_ID] == "r-1"
    assert metric("lab_bad_trace_context_total", service="inventory") == before + 1


@pytest.mark.parametrize(
    "sent_at", ["", "yesterday", "-1", "1.5", "²", "٣", "9" * 19, "9" * 25, "9" * 400, "9" * 5000], ids=lambda t: t[:25]
)
async def test_a_message_with_a_strange_sent_at_is_handled(own: Part, sent_at: str) -> None:
    """Whatever stands there: the wait is left out, or has no length; the message is not lost over it."""
    async with consuming(own) as running:
        headers, body = wire(m.OrderPlaced(order()))
        await _put(own, {**headers, "sent-at": sent_at}, body)
        await eventually(lambda: running.handled.done, "the message is handled")
        await eventually(lambda: running.idle, "nothing is left to do")
    assert running.broker._unsettled == {}
    for span in own.named(f"queue {CHANNEL}"):
        assert 0 <= (span.end_time or 0) - (span.start_time or 0) < 60e9


async def _put(own: Part, headers: Mapping[str, str], body: bytes) -> None:
    publish_raw(own.network, CHANNEL, headers, body)
    async with own.network.arrived:
        own.network.arrived.notify_all()


# --- what breaks off ----------------------------------------------------------------------------------------------
async def test_what_a_killed_consumer_had_in_hand_comes_again(own: Part) -> None:
    """Unsettled, it goes back to the queue; whoever consumes next gets it, as a second attempt."""
    async with consuming(own) as running:
        running.handled.gate.clear()
        message_id = await publish(own)
        await eventually(lambda: running.handled.at_work, "the message is in hand")
    await running.broker.close()
    async with consuming(own) as successor:
        await eventually(lambda: successor.handled.done, "the successor handles it")
        await eventually(lambda: successor.idle, "nothing is left to do")
    assert (running.handled.done, successor.handled.done) == ([], [message_id])
    attempts = [(span.attributes or {})[c.LAB_DELIVERY_ATTEMPT] for span in own.named(f"process {CHANNEL}")]
    assert attempts == [1, 2]


async def test_what_is_in_hand_is_finished_after_the_intake_has_stopped(own: Part) -> None:
    """``drained`` returns when it is settled, and takes nothing more from the queue."""
    async with consuming(own) as running:
        running.handled.gate.clear()
        in_hand = await publish(own, "o-1")
        await eventually(lambda: running.handled.at_work, "the message is in hand")
        running.task.cancel()
        await asyncio.wait([running.task])
        await publish(own, "o-2")
        draining = asyncio.create_task(running.consumer.drained())
        await asyncio.sleep(0.05)
        assert not draining.done()
        running.handled.gate.set()
        async with asyncio.timeout(5):
            await draining
        assert running.handled.done == [in_hand]
        assert running.broker._unsettled == {}
        assert len(own.network.queues[CHANNEL, "inventory"]) == 1


async def test_a_settlement_that_fails_ends_nothing(own: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker will bring again what it has not heard of; the next message is handled."""
    async with consuming(own) as running:
        settled = running.broker.settled

        def fail_once(delivery: Any) -> None:
            monkeypatch.setattr(running.broker, "settled", settled)
            raise TransportError("the connection is gone")

        monkeypatch.setattr(running.broker, "settled", fail_once)
        first = await publish(own, "o-1")
        await eventually(lambda: running.handled.done, "the first is handled")
        second = await publish(own, "o-2")
        await eventually(lambda: len(running.handled.done) == 2, "the second is handled")
        assert running.handled.done == [first, second]
        assert not running.task.done()
