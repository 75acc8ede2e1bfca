"""What every broker must do, stated once. A transport's test class says how it is reached and what only it can show.

Waiting is for conditions, each with a deadline and a word on what did not come. That something does *not* come is
shown by something else that came later: a round trip over another channel.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from opentelemetry.baggage import set_baggage
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, get_current_span

from services.domain.messages import Line, Order, OrderPlaced
from services.telemetry import conventions as c
from services.telemetry.messaging import Shape
from services.telemetry.setup import Telemetry, set_up
from services.transports import cloudevents
from services.transports.errors import Undecodable, Unroutable
from services.transports.formats import FORMATS
from services.transports.ports import Broker, Delivery

PATIENCE_S = 20

Connect = Callable[..., Broker]
Handler = Callable[[Delivery], Awaitable[None]]


@dataclass
class Dead:
    """A dead letter, as it lies with the broker."""

    headers: dict[str, str]
    body: bytes
    reason: str
    attempts: int


def event(number: int = 1, order: str = "o-1") -> tuple[dict[str, str], bytes]:
    """Headers and body of an event that any of our services would understand."""
    payload = OrderPlaced(Order(order, "c-1", "4242424242424242", "Lisbon", (Line("tea", 1),), 100))
    message = cloudevents.compose(payload, source="orders", cause=str(number), style="choreography", transport="x")
    return cloudevents.encode(message)


class Reader:
    """A subscriber that keeps what it gets; each delivery is handled in a task of its own, as the runtime does it."""

    def __init__(
        self, broker: Broker, channel: str, group: str, handle: Handler | None = None, *, max_in_flight: int = 16
    ) -> None:
        self.deliveries: list[Delivery] = []
        self._handle = handle
        self._handling: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._read(broker, channel, group, max_in_flight))

    async def _read(self, broker: Broker, channel: str, group: str, max_in_flight: int) -> None:
        async with aclosing(broker.subscribe(channel, group, max_in_flight=max_in_flight)) as deliveries:  # type: ignore[type-var]
            async for delivery in deliveries:
                self.deliveries.append(delivery)
                self._arrived.set()
                if self._handle is not None:
                    task = asyncio.create_task(self._handle(delivery))  # type: ignore[arg-type]
                    self._handling.add(task)
                    task.add_done_callback(self._handling.discard)

    @property
    def ids(self) -> list[str]:
        return [delivery.headers.get("ce-id", "") for delivery in self.deliveries]

    async def until(self, count: int) -> list[Delivery]:
        """The deliveries, once there are ``count``."""
        await self.wait_for(lambda: len(self.deliveries) >= count, f"{count} deliveries")
        return self.deliveries

    async def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    if self._task.done():
                        self._task.result()
                    self._arrived.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._arrived.wait(), 0.1)
        except TimeoutError:
            pytest.fail(f"waited {PATIENCE_S} s for {what}, got {len(self.deliveries)}: {self.ids[:20]}")

    async def stop(self) -> None:
        """Stop taking; what is in hand goes on to its end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        while self._handling:
            await asyncio.wait(self._handling)


async def ack(delivery: Delivery) -> None:
    await delivery.ack()


def processing(broker: Broker, telemetry: Telemetry) -> Handler:
    """Settle within a process span, as the runtime does."""

    async def handle(delivery: Delivery) -> None:
        with telemetry.messaging.process(
            broker.words,
            delivery.destination or delivery.channel,
            delivery.group,
            delivery.headers,
            attempt=delivery.attempt,
            attributes=delivery.attributes,
            received_with=delivery.received_with,
            released_at_ns=delivery.released_at_ns,
        ):
            await delivery.ack()

    return handle


class BrokerBehaviour:
    """The behaviours. ``connect(service)`` makes a broker; all of one test's brokers see the same wire."""

    receives: ClassVar[bool] = False
    """Whether it is pulled, and so writes receive spans."""
    settle_word: ClassVar[str] = "ack"
    """Empty where the wire knows no settling, which then has no span."""
    keeps: ClassVar[bool] = True
    """Whether a message waits for its readers, who share it. Without it those that listen get a copy each, and what
    nobody got is lost, and counted."""
    fans_out: ClassVar[bool] = True
    """False where one group reads a channel, and a second one is refused."""
    garbage_body: ClassVar[bytes] = b"\xff\x00garbage"
    """What a stranger can put on this wire: bytes, or text."""
    settles_each_alone: ClassVar[bool] = True
    """False where a group's place is an offset: what is done behind something undone comes again too."""
    attributes: ClassVar[dict[str, set[str]]] = {}
    """The attributes that the transport adds, by operation type."""

    @pytest.fixture
    def connect(self, make: Connect) -> Connect:
        return make

    @pytest.fixture
    async def make(self) -> AsyncIterator[Connect]:
        made: list[Broker] = []

        def make(service: str = "orders", telemetry: Telemetry | None = None) -> Broker:
            broker = self.broker(telemetry or set_up(service), service)
            made.append(broker)
            return broker

        yield make
        for broker in made:
            await broker.close()

    @pytest.fixture
    def channel(self) -> str:
        return f"t{uuid.uuid4().hex[:8]}.events"

    # --- what a transport fills in -------------------------------------------------------------------------------
    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        raise NotImplementedError

    async def dead_letters(self, channel: str, group: str) -> list[Dead]:
        """Look at the dead letters, without taking them."""
        raise NotImplementedError

    async def publish_raw(self, channel: str, headers: dict[str, Any], body: bytes) -> None:
        """Put a message on the wire behind the adapter's back; ``headers`` as the wire has them."""
        raise NotImplementedError

    def garbage(self) -> dict[str, Any]:
        """Header values that no client of ours would write."""
        raise NotImplementedError

    def official(self, delivery: Delivery) -> Any:
        """``delivery``, read from its native form by the official CloudEvents library."""
        raise NotImplementedError

    def destinations(self, channel: str, group: str) -> tuple[str, str]:
        """``messaging.destination.name`` as the producer and as the consumer have to name it."""
        return channel, channel

    async def listening(self, channel: str, readers: int = 1) -> None:
        """Return when that many readers are heard by the broker; where messages wait, nobody has to."""

    def lost(self, channel: str) -> float:
        """How many messages were counted as lost, by whoever publishes to ``channel`` or reads it."""
        return 0.0

    # --- helpers -------------------------------------------------------------------------------------------------
    async def read(
        self,
        broker: Broker,
        channel: str,
        group: str,
        messages: Iterable[tuple[dict[str, str], bytes, str]],
        handle: Handler | None = None,
        *,
        max_in_flight: int = 16,
    ) -> Reader:
        """A reader to whom ``messages`` (with their keys) come. Where they can wait for it, they have to."""

        async def publish() -> None:
            for headers, body, key in messages:
                await broker.publish(headers, body, channel=channel, key=key)

        if self.keeps:
            await publish()
        reader = Reader(broker, channel, group, handle, max_in_flight=max_in_flight)
        if not self.keeps:
            await self.listening(channel)
            await publish()
        return reader

    async def nothing_else(self, broker: Broker) -> None:
        """Return when a message that is sent now has arrived elsewhere: what was under way before it would have too."""
        other = f"t{uuid.uuid4().hex[:8]}.events"
        await broker.open({other: frozenset({"barrier"})})
        reader = Reader(broker, other, "barrier", ack)
        await self.listening(other)
        await broker.publish(*event(), channel=other, key="o")
        await reader.until(1)
        await reader.stop()

    async def dead(self, channel: str, group: str) -> list[Dead]:
        """The dead letters, once there is one."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await self.dead_letters(channel, group)):
                await asyncio.sleep(0.05)
        return found

    # --- delivery ------------------------------------------------------------------------------------------------
    async def test_what_was_published_is_delivered(self, connect: Connect, channel: str) -> None:
        """Headers, key and body arrive as they were sent, and the trace context beside them."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        headers, body = event()
        reader = await self.read(broker, channel, "payment", [(headers, body, "o-1")], ack)
        [delivery] = await reader.until(1)
        assert {name: delivery.headers[name] for name in headers} == headers
        assert set(delivery.headers) - set(headers) == {"traceparent", c.HEADER_SENT_AT}
        assert (delivery.channel, delivery.group, delivery.key) == (channel, "payment", "o-1")
        assert (delivery.body, delivery.attempt, delivery.released_at_ns) == (body, 1, None)
        assert cloudevents.decode(delivery.headers, delivery.body).subject == "o-1"
        await reader.stop()

    async def test_every_group_gets_a_copy(self, connect: Connect, channel: str) -> None:
        """Fan-out: one copy per group, whether its members were there at the time or came later; or a refusal."""
        broker = connect()
        if not self.fans_out:
            with pytest.raises(ValueError, match=f"{channel} cannot be read by payment and shipping"):
                await broker.open({channel: frozenset({"payment", "shipping"})})
            return
        await broker.open({channel: frozenset({"payment", "shipping"})})
        early = Reader(broker, channel, "payment", ack)
        await self.listening(channel)
        await broker.publish(*event(), channel=channel, key="o-1")
        await early.until(1)
        late = Reader(broker, channel, "shipping", ack)
        await self.listening(channel, 2)
        if not self.keeps:
            assert self.lost(channel) == 1
            await broker.publish(*event(2), channel=channel, key="o-1")
        await late.until(1)
        await early.until(1 if self.keeps else 2)
        assert early.ids[-1:] == late.ids
        await early.stop()
        await late.stop()

    async def test_members_of_a_group_share(self, connect: Connect, channel: str) -> None:
        """Each message goes to one member of the group; to each where none is kept for whoever is first."""
        brokers = [connect("payment"), connect("payment")]
        await brokers[0].open({channel: frozenset({"payment"})})
        readers = [Reader(broker, channel, "payment", ack) for broker in brokers]
        await self.listening(channel, 2)
        copies = 1 if self.keeps else 2
        for number in range(40):
            await brokers[0].publish(*event(number), channel=channel, key=f"o-{number}")
        await readers[0].wait_for(
            lambda: sum(len(r.deliveries) for r in readers) >= 40 * copies, f"40 deliveries, {copies} times"
        )
        await self.nothing_else(brokers[0])
        got = [each for reader in readers for each in reader.ids]
        assert len(got) == len(set(got)) * copies == 40 * copies
        for reader in readers:
            await reader.stop()

    async def test_no_more_than_max_in_flight_are_unsettled(self, connect: Connect, channel: str) -> None:
        """One more comes for each that is settled."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        messages = [(*event(number), f"o-{number}") for number in range(8)]
        reader = await self.read(broker, channel, "payment", messages, max_in_flight=3)
        await reader.until(3)
        await self.nothing_else(broker)
        assert len(reader.deliveries) == 3
        await reader.deliveries[1].ack()
        await reader.until(4)
        await self.nothing_else(broker)
        assert len(reader.deliveries) == 4
        for delivery in list(reader.deliveries):
            if delivery is not reader.deliveries[1]:
                await delivery.ack()
        await reader.until(7)
        await reader.stop()

    async def test_a_payload_in_any_format_arrives(self, connect: Connect, channel: str) -> None:
        """Text or not: the bytes, their content-type and their schema are what was sent."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        placed = [cloudevents.decode(*event(number)) for number in range(len(FORMATS))]
        sent = [cloudevents.encode(message, each) for message, each in zip(placed, FORMATS.values(), strict=True)]
        reader = await self.read(broker, channel, "payment", [(*message, "o-1") for message in sent], ack)
        got = {delivery.headers["content-type"]: delivery for delivery in await reader.until(len(sent))}
        for message, (headers, body) in zip(placed, sent, strict=True):
            delivery = got[headers["content-type"]]
            assert delivery.headers.get("ce-dataschema") == headers.get("ce-dataschema")
            assert delivery.body == body
            assert cloudevents.decode(delivery.headers, delivery.body) == message
        await reader.stop()

    async def test_many_publish_at_once(self, connect: Connect, channel: str) -> None:
        """Publishing is safe from any number of tasks and processes."""
        brokers = [connect("orders"), connect("payment")]
        for broker in brokers:
            await broker.open({channel: frozenset({"shipping"})})
        reader = await self.read(brokers[0], channel, "shipping", [], ack)
        await asyncio.gather(*(brokers[n % 2].publish(*event(n), channel=channel, key=f"o-{n}") for n in range(200)))
        await reader.until(200)
        assert len(set(reader.ids)) == 200
        await reader.stop()

    async def test_a_channel_that_nobody_reads(self, connect: Connect, channel: str) -> None:
        """The publisher hears that it is so, or at least counts it."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        with pytest.raises(Unroutable) if self.keeps else nullcontext():
            await broker.publish(*event(), channel=f"not-{channel}", key="o-1")
        assert self.lost(f"not-{channel}") == (0 if self.keeps else 1)

    async def test_bodies_are_bytes(self, connect: Connect, channel: str) -> None:
        """64 KiB, nothing, and bytes that are no text: all pass unchanged."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        bodies = [b"x" * 65_536, b"", bytes(range(256))]
        messages = [(event(number)[0], body, "o-1") for number, body in enumerate(bodies)]
        reader = await self.read(broker, channel, "payment", messages, ack)
        assert [delivery.body for delivery in await reader.until(3)] == bodies
        await reader.stop()

    async def test_garbage_does_not_end_a_subscription(self, connect: Connect, channel: str) -> None:
        """What cannot be understood is delivered, and can be given up; what comes behind it is delivered too."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        if self.keeps:
            await self.publish_raw(channel, self.garbage(), self.garbage_body)
        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")])
        if not self.keeps:
            await self.publish_raw(channel, self.garbage(), self.garbage_body)
        deliveries = {d.headers.get("ce-id"): d for d in await reader.until(2)}
        good = deliveries.pop(event()[0]["ce-id"])
        [bad] = deliveries.values()
        assert all(isinstance(each, str) for item in bad.headers.items() for each in item)
        with pytest.raises(Undecodable):
            cloudevents.decode(bad.headers, bad.body)
        await bad.reject("what is this?")
        await good.ack()
        assert [(letter.body, letter.reason) for letter in await self.dead(channel, "payment")] == [
            (self.garbage_body, "what is this?")
        ]
        await reader.stop()

    # --- settling ------------------------------------------------------------------------------------------------
    async def test_rejected_with_a_delay_it_comes_again(self, connect: Connect, channel: str) -> None:
        """The same message, one attempt further, as often as it is rejected."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})

        async def third_time_lucky(delivery: Delivery) -> None:
            if delivery.attempt < 3:
                await delivery.reject("not yet", retry_after_s=0.05)
            else:
                await delivery.ack()

        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")], third_time_lucky)
        first, *again = await reader.until(3)
        assert [delivery.attempt for delivery in reader.deliveries] == [1, 2, 3]
        sent_ns = int(first.headers[c.HEADER_SENT_AT])
        for delivery in again:
            assert (delivery.headers, delivery.body, delivery.key) == (first.headers, first.body, first.key)
            assert delivery.released_at_ns is not None
            assert delivery.released_at_ns > sent_ns
        await self.nothing_else(broker)
        assert len(reader.deliveries) == 3
        await reader.stop()

    async def test_rejected_for_good_it_is_a_dead_letter(self, connect: Connect, channel: str) -> None:
        """It lies there with its reason, attempts and original headers, for its group alone, and never comes again."""
        broker = connect()
        others = {"shipping"} if self.fans_out else set()
        await broker.open({channel: frozenset({"payment", *others})})
        headers, body = event()

        async def give_up(delivery: Delivery) -> None:
            await delivery.reject("no such card", retry_after_s=0.01 if delivery.attempt == 1 else None)

        reader = await self.read(broker, channel, "payment", [(headers, body, "o-1")], give_up)
        delivered = (await reader.until(2))[1]
        [letter] = await self.dead(channel, "payment")
        assert (letter.reason, letter.attempts, letter.body) == ("no such card", 2, body)
        assert {name: letter.headers[name] for name in delivered.headers} == delivered.headers
        for other in others:
            assert await self.dead_letters(channel, other) == []
        await reader.stop()
        await broker.close()
        successor = connect()
        await successor.open({channel: frozenset({"payment"})})
        later = await self.read(successor, channel, "payment", [(*event(2), "o-1")], ack)
        await later.until(1)
        assert later.ids == [event(2)[0]["ce-id"]]
        await later.stop()

    async def test_what_was_not_settled_comes_again(self, connect: Connect, channel: str) -> None:
        """A subscriber that goes away leaves to the others what it had in hand, and only that; or loses it."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        leaver = await self.read(broker, channel, "payment", [(*event(n), f"o-{n}") for n in range(5)])
        deliveries = await leaver.until(5)
        settled = {deliveries[n].headers["ce-id"] for n in (1, 3)}
        await deliveries[1].ack()
        await deliveries[3].ack()
        await leaver.stop()
        await broker.close()
        successor = connect()
        reader = Reader(successor, channel, "payment", ack)
        rest = set(leaver.ids) - settled
        if not self.keeps:
            await self.listening(channel)
            await self.nothing_else(successor)
            assert self.lost(channel) == len(rest)
            rest = set()
        await reader.wait_for(lambda: rest <= set(reader.ids), "the three that were not settled")
        assert set(reader.ids) == rest or not self.settles_each_alone
        await reader.stop()

    async def test_close_takes_the_acks_along(self, connect: Connect, channel: str) -> None:
        """After a clean close nothing comes twice; acks may be given after the subscription ended."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        messages = [(*event(number), f"o-{number}") for number in range(60)]
        reader = await self.read(broker, channel, "payment", messages, max_in_flight=60)
        await reader.until(60)
        await reader.stop()
        await asyncio.gather(*(delivery.ack() for delivery in reader.deliveries))
        await broker.close()
        await broker.close()
        assert await broker.ready() is not None
        successor = connect()
        await successor.open({channel: frozenset({"payment"})})
        later = await self.read(successor, channel, "payment", [(*event(99), "o-99")], ack)
        await later.until(1)
        await self.nothing_else(successor)
        assert later.ids == [event(99)[0]["ce-id"]]
        await later.stop()

    async def test_ready_once_open(self, connect: Connect, channel: str) -> None:
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        await broker.open({channel: frozenset({"payment"})})
        assert await broker.ready() is None

    # --- wire and traces -----------------------------------------------------------------------------------------
    async def test_the_official_library_reads_it(self, connect: Connect, channel: str) -> None:
        """CloudEvents 1.0 in binary mode, by the transport's protocol binding."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        headers, body = event()
        reader = await self.read(broker, channel, "payment", [(headers, body, "o-1")], ack)
        read = self.official((await reader.until(1))[0])
        attributes = read.get_attributes()
        for name in ("specversion", "id", "source", "type", "subject", "labstyle", "labtransport"):
            assert attributes[name] == headers[f"ce-{name}"]
        assert attributes["time"].isoformat().replace("+00:00", "Z") == headers["ce-time"]
        assert attributes["datacontenttype"] == "application/json"
        assert read.get_data()["order"]["order_id"] == "o-1"
        await reader.stop()

    async def test_forwarding_replaces_the_trace_context(self, connect: Connect, channel: str) -> None:
        """A message made from another one's headers carries its own context, once."""
        telemetry = set_up("orders")
        broker = connect("orders", telemetry)
        await broker.open({channel: frozenset({"payment"})})
        stale = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", c.HEADER_SENT_AT: "1"}
        headers, body = event()
        with telemetry.tracer.start_as_current_span("work"):
            trace_id = f"{get_current_span().get_span_context().trace_id:032x}"
            reader = await self.read(broker, channel, "payment", [({**headers, **stale}, body, "o-1")], ack)
        [delivery] = await reader.until(1)
        assert delivery.headers["traceparent"].split("-")[1] == trace_id
        assert int(delivery.headers[c.HEADER_SENT_AT]) > 1
        await reader.stop()

    async def test_baggage_travels(self, connect: Connect, channel: str) -> None:
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        token = attach(set_baggage(c.LAB_RUN_ID, "run 1"))
        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")], ack)
        detach(token)
        [delivery] = await reader.until(1)
        assert delivery.headers["baggage"] == f"{c.LAB_RUN_ID}=run+1"
        await reader.stop()

    @pytest.mark.parametrize("shape", Shape)
    async def test_spans_of_one_message(self, connect: Connect, channel: str, shape: Shape) -> None:
        """send, receive where it is pulled, queue, process and settle hang together as the shape says."""
        exporter = InMemorySpanExporter()
        telemetry = set_up("orders", exporter=exporter)
        telemetry.shape = shape
        broker = connect("orders", telemetry)
        await broker.open({channel: frozenset({"payment"})})
        reader = Reader(broker, channel, "payment", processing(broker, telemetry))
        await self.listening(channel)
        await broker.publish(*event(), channel=channel, key="o-1")
        await reader.until(1)
        await reader.stop()
        await broker.close()
        spans = {span.name.split()[0]: span for span in exporter.get_finished_spans()}
        to, at = self.destinations(channel, "payment")
        send, receive, settle = broker.words.send, broker.words.receive, self.settle_word
        pulled = [receive] if self.receives else []
        settled = [settle] if settle else []
        assert sorted(span.name for span in exporter.get_finished_spans()) == sorted(
            [f"{send} {to}", *(f"{name} {at}" for name in [*pulled, "queue", broker.words.process, *settled])]
        )
        parents = {name: _name(span.parent, spans) for name, span in spans.items()}
        links = {name: {_name(link.context, spans) for link in span.links} for name, span in spans.items()}
        linked = set() if shape is Shape.PARENT else {send}
        process = broker.words.process
        hop = None if shape is Shape.LINK else send
        own = receive if self.receives and shape is Shape.LINK else hop
        assert parents == {
            send: None,
            **dict.fromkeys(pulled, hop),
            "queue": process if shape is Shape.LINK else send,
            process: own,
            **dict.fromkeys(settled, process),
        }
        assert {name: found for name, found in links.items() if found} == (
            {name: linked for name in [*pulled, process] if linked}
        )
        self.check_attributes(spans, to, at)

    def check_attributes(self, spans: dict[str, ReadableSpan], to: str, at: str) -> None:
        kinds = {
            "send": SpanKind.PRODUCER,
            "receive": SpanKind.CLIENT,
            "process": SpanKind.CONSUMER,
            "settle": SpanKind.CLIENT,
        }
        for span in spans.values():
            found = dict(span.attributes or {})
            assert found[c.MESSAGE_ID] == event()[0]["ce-id"]
            assert found[c.LAB_ORDER_ID] == "o-1"
            if found.get(c.LAB_WAIT):
                assert span.kind is SpanKind.INTERNAL
                continue
            operation = found[c.OPERATION_TYPE]
            assert found[c.OPERATION_NAME] == span.name.split()[0]
            assert found[c.DESTINATION_NAME] == (to if operation == "send" else at)
            assert found[c.MESSAGING_SYSTEM]
            assert span.kind is kinds[operation]
            missing = self.attributes.get(operation, set()) - found.keys()
            assert not missing, f"{span.name} lacks {missing}"
            assert c.ERROR_TYPE not in found


def _name(context: Any, spans: dict[str, ReadableSpan]) -> str | None:
    if context is None or not context.is_valid:
        return None
    for name, span in spans.items():
        if span.context is not None and span.context.span_id == context.span_id:
            return name
    return "?"
