"""What every broker must do, stated once. A transport's test class says how it is reached and what only it can show.

Waiting is for conditions, each with a deadline and a word on what did not come. That something does *not* come is
shown by something else that came later: a round trip over another channel.
"""

import asyncio
import time
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
from services.transports.ports import Broker, DeadLetter, Delivery, Log, dead_letter_id

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


async def give_up(delivery: Delivery) -> None:
    await delivery.reject("no such card")


def meant(delivery: Delivery) -> bool:
    """Whether its group has to handle it, or just to settle it: it was put back for another one."""
    return delivery.headers.get("ce-labonlygroup", delivery.group) == delivery.group


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
    dies_in_order: ClassVar[bool] = True
    """False where those that die in the same millisecond have no order among them."""
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

    async def buried(
        self, broker: Broker, channel: str, messages: Iterable[tuple[dict[str, str], bytes]]
    ) -> list[DeadLetter]:
        """Have payment give up on ``messages``, one after the other."""
        sent = [(headers, body, "o-1") for headers, body in messages]
        reader = await self.read(broker, channel, "payment", sent, give_up, max_in_flight=1)
        await reader.until(len(sent))
        await reader.stop()
        return await broker.dead_letters(channel, "payment")

    async def holds(self, broker: Broker, channel: str, count: int) -> None:
        """Return when ``channel`` holds ``count`` messages for payment."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (held := await broker.held(channel, "payment")) != count:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"waited {PATIENCE_S} s for {count} messages to be held, there are {held}")

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

    # --- what was given up, and what is held -----------------------------------------------------------------------
    async def test_dead_letters_can_be_read(self, connect: Connect, channel: str) -> None:
        """As they were delivered, with nothing of the broker's own among the headers; they stay, for any process."""
        broker, desk = connect("payment"), connect("orders")
        others = {"shipping"} if self.fans_out else set()
        for each in (broker, desk):
            await each.open({channel: frozenset({"payment", *others})})
        assert await desk.dead_letters(channel, "payment") == []
        headers, body = event()

        async def second_time(delivery: Delivery) -> None:
            await delivery.reject("no such card", retry_after_s=0.01 if delivery.attempt == 1 else None)

        reader = await self.read(broker, channel, "payment", [(headers, body, "o-1")], second_time)
        delivered = (await reader.until(2))[1]
        await reader.stop()
        [letter] = await desk.dead_letters(channel, "payment")
        assert (letter.id, letter.channel, letter.group) == (headers["ce-id"], channel, "payment")
        assert (letter.reason, letter.attempts, letter.body) == ("no such card", 2, body)
        assert letter.headers == delivered.headers
        assert letter.died_at_ns is None or abs(time.time_ns() - letter.died_at_ns) < 60e9
        assert await desk.dead_letters(channel, "payment") == [letter]
        assert await broker.dead_letters(channel, "payment") == [letter]
        for other in others:
            assert await desk.dead_letters(channel, other) == []

    async def test_a_dead_letter_is_dropped_once(self, connect: Connect, channel: str) -> None:
        """Exactly that one, and for good."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        first, second, third = await self.buried(broker, channel, [event(number) for number in range(3)])
        assert await broker.settle_dead_letter(channel, "payment", second.id, replay=False) is True
        assert await broker.dead_letters(channel, "payment") == [first, third]
        assert await broker.settle_dead_letter(channel, "payment", second.id, replay=False) is False
        assert await broker.settle_dead_letter(channel, "payment", second.id, replay=True) is False
        assert await broker.dead_letters(channel, "payment") == [first, third]
        reader = await self.read(broker, channel, "payment", [(*event(9), "o-1")], ack)
        await reader.until(1)
        await self.nothing_else(broker)
        assert reader.ids == [event(9)[0]["ce-id"]]
        await reader.stop()

    async def test_a_dead_letter_is_replayed_for_its_group_alone(self, connect: Connect, channel: str) -> None:
        """It comes as the message that it was, attempt 1, and says when it was put back; it may die again."""
        broker, desk = connect("payment"), connect("orders")
        others = ["shipping"] if self.fans_out else []
        for each in (broker, desk):
            await each.open({channel: frozenset({"payment", *others})})
        dying = Reader(broker, channel, "payment", give_up)
        readers = [Reader(broker, channel, other, ack) for other in others]
        await self.listening(channel, 1 + len(others))
        await broker.publish(*event(), channel=channel, key="o-1")
        for reader in (dying, *readers):
            await reader.until(1)
        while dying._handling:
            await asyncio.wait(dying._handling)
        [letter] = await desk.dead_letters(channel, "payment")

        began_ns = time.time_ns()
        assert await desk.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
        await dying.until(2)
        first, again = dying.deliveries
        assert (again.body, again.key, again.attempt) == (first.body, first.key, 1)
        assert {name: again.headers[name] for name in first.headers} == first.headers
        assert set(again.headers) - set(first.headers) <= {"ce-labreplayed", "ce-labonlygroup"}
        assert began_ns <= int(again.headers["ce-labreplayed"]) <= time.time_ns()
        assert meant(again)
        await dying.stop()
        [died_again] = await desk.dead_letters(channel, "payment")
        assert (died_again.id, died_again.attempts, died_again.headers) == (letter.id, 1, again.headers)

        living = Reader(broker, channel, "payment", ack)
        await self.listening(channel, 1 + len(others))
        assert await desk.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
        await living.until(1)
        assert int(living.deliveries[0].headers["ce-labreplayed"]) > int(again.headers["ce-labreplayed"])
        assert await desk.dead_letters(channel, "payment") == []
        assert await desk.settle_dead_letter(channel, "payment", letter.id, replay=True) is False
        await broker.publish(*event(2), channel=channel, key="o-1")
        for reader in (living, *readers):
            await reader.wait_for(lambda reader=reader: event(2)[0]["ce-id"] in reader.ids, "what was sent after it")
        assert len(living.ids) == 2
        for reader in readers:
            assert [d.headers["ce-id"] for d in reader.deliveries if meant(d)] == [
                event(number)[0]["ce-id"] for number in (1, 2)
            ]
        for reader in (living, *readers):
            await reader.stop()

    async def test_a_strangers_bytes_are_a_dead_letter_like_any(self, connect: Connect, channel: str) -> None:
        """Without any CloudEvents attribute it has an id, of which it can be dropped, or replayed as it was."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        bodies = [self.garbage_body, self.garbage_body + b"2"]
        reader = Reader(broker, channel, "payment", give_up, max_in_flight=1)
        await self.listening(channel)
        for body in bodies:
            await self.publish_raw(channel, {}, body)
        await reader.until(2)
        await reader.stop()
        letters = await broker.dead_letters(channel, "payment")
        assert sorted(letter.body for letter in letters) == sorted(bodies)
        assert all(letter.id == dead_letter_id(letter.headers, letter.body) for letter in letters)
        first, second = letters
        assert first.id != second.id
        assert await broker.settle_dead_letter(channel, "payment", second.id, replay=False) is True
        reader = Reader(broker, channel, "payment", give_up)
        await self.listening(channel)
        assert await broker.settle_dead_letter(channel, "payment", first.id, replay=True) is True
        [again] = await reader.until(1)
        assert (again.body, again.attempt) == (first.body, 1)
        await reader.stop()
        [died_again] = await broker.dead_letters(channel, "payment")
        assert (died_again.id, died_again.body) == (first.id, first.body)

    async def test_two_dead_letters_of_one_id_are_two(self, connect: Connect, channel: str) -> None:
        """A message that was sent twice and died twice: the older one is settled first."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        headers, body = event()
        first, second = await self.buried(broker, channel, [(headers, body), (headers, body)])
        assert first.id == second.id == headers["ce-id"]
        assert await broker.settle_dead_letter(channel, "payment", first.id, replay=False) is True
        assert await broker.dead_letters(channel, "payment") == [second]
        assert await broker.settle_dead_letter(channel, "payment", first.id, replay=False) is True
        assert await broker.dead_letters(channel, "payment") == []
        assert await broker.settle_dead_letter(channel, "payment", first.id, replay=False) is False

    async def test_dead_letters_keep_their_order(self, connect: Connect, channel: str) -> None:
        """Oldest first, however often they were looked at, and whichever of them are settled."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        letters = await self.buried(broker, channel, [event(number) for number in range(20)])
        assert [letter.id for letter in letters] == [event(number)[0]["ce-id"] for number in range(20)]
        assert await broker.dead_letters(channel, "payment", limit=5) == letters[:5]
        assert await broker.dead_letters(channel, "payment") == letters
        reader = Reader(broker, channel, "payment", ack)
        await self.listening(channel)
        for number, replay in ((8, False), (3, True), (19, False), (0, True)):
            assert await broker.settle_dead_letter(channel, "payment", letters[number].id, replay=replay) is True
        left = [letter for number, letter in enumerate(letters) if number not in (0, 3, 8, 19)]
        assert await broker.dead_letters(channel, "payment", limit=5) == left[:5]
        assert await broker.dead_letters(channel, "payment") == left
        await reader.until(2)
        assert sorted(reader.ids) == sorted([letters[0].id, letters[3].id])
        await reader.stop()

    async def test_looking_at_dead_letters_disturbs_nobody(self, connect: Connect, channel: str) -> None:
        """While messages are handled and die, a reader of the dead letters sees each from its death on, and none of
        the others."""
        broker, desk = connect("payment"), connect("orders")
        for each in (broker, desk):
            await each.open({channel: frozenset({"payment"})})

        async def every_third_dies(delivery: Delivery) -> None:
            await (give_up if int(delivery.key) % 3 == 0 else ack)(delivery)

        reader = Reader(broker, channel, "payment", every_third_dies)
        await self.listening(channel)
        seen: list[list[str]] = []

        async def look() -> None:
            while len(reader.deliveries) < 60:
                seen.append([letter.id for letter in await desk.dead_letters(channel, "payment")])
                await asyncio.sleep(0.01)

        looking = asyncio.create_task(look())
        for number in range(60):
            await broker.publish(*event(number, str(number)), channel=channel, key=str(number))
        await reader.until(60)
        await asyncio.wait_for(looking, PATIENCE_S)
        await self.nothing_else(broker)
        await reader.stop()
        dead = {event(number)[0]["ce-id"] for number in range(0, 60, 3)}
        assert len(reader.ids) == len(set(reader.ids)) == 60
        assert {delivery.attempt for delivery in reader.deliveries} == {1}
        letters = [letter.id for letter in await desk.dead_letters(channel, "payment")]
        assert len(letters) == len(dead)
        assert set(letters) == dead
        assert all(len(set(earlier)) == len(earlier) for earlier in seen)
        assert all(set(earlier) <= dead for earlier in seen)
        assert not self.dies_in_order or all(earlier == letters[: len(earlier)] for earlier in seen)

    async def test_what_is_held_is_counted(self, connect: Connect, channel: str) -> None:
        """What waits, and what is in hand, of this process and of any other, until it is settled; 0 where nothing is
        kept."""
        broker, desk = connect("payment"), connect("orders")
        for each in (broker, desk):
            await each.open({channel: frozenset({"payment"})})
        assert await desk.held(channel, "payment") == 0
        messages = [(*event(number), "o-1") for number in range(8)]
        reader = await self.read(broker, channel, "payment", messages, max_in_flight=3)
        first, second, third = await reader.until(3)
        for each in (broker, desk):
            await self.holds(each, channel, 8 if self.keeps else 0)

        def left(count: int) -> int:
            return count if self.keeps else 0

        await first.ack()
        await self.holds(desk, channel, left(7))
        await third.reject("never")
        await self.holds(desk, channel, left(6 if self.settles_each_alone else 7))
        await second.reject("not yet", retry_after_s=0.05)
        await self.holds(desk, channel, left(6 if self.settles_each_alone else 7))
        for count in range(4, 10):
            await (await reader.until(count))[count - 1].ack()
        assert [d.headers["ce-id"] for d in reader.deliveries if d.attempt == 2] == [second.headers["ce-id"]]
        await self.holds(desk, channel, 0)
        await reader.stop()

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


class LogBehaviour(BrokerBehaviour):
    """The behaviours of a broker that remembers (the port ``Log``)."""

    @pytest.fixture
    def journal(self) -> str:
        return f"t{uuid.uuid4().hex[:8]}.journal"

    async def recalled(self, log: Log, journal: str) -> list[str]:
        """The ids of all that it remembers."""
        async with asyncio.timeout(PATIENCE_S):
            return [headers["ce-id"] async for headers, _ in log.read(journal)]

    async def test_an_empty_journal_is_read_to_its_end(self, connect: Connect, journal: str) -> None:
        log = connect()
        await log.open({journal: frozenset({"ledger"})})
        assert await self.recalled(log, journal) == []  # type: ignore[arg-type]

    async def test_a_journal_can_be_read_again(self, connect: Connect, journal: str) -> None:
        """All that was ever published there, as it was published, settled or not, by whoever reads, as often as he
        likes; each order's in order."""
        log, ledger = connect(), connect("ledger")
        await log.open({journal: frozenset({"ledger"})})
        sent = [event(number, f"o-{number % 4}") for number in range(40)]
        reader = await self.read(log, journal, "ledger", [(*each, each[0]["ce-subject"]) for each in sent[:20]])
        for delivery in (await reader.until(16))[:8]:
            await delivery.ack()
        for headers, body in sent[20:]:
            await log.publish(headers, body, channel=journal, key=headers["ce-subject"])
        for each in (log, ledger):
            found = [(dict(headers), body) async for headers, body in each.read(journal)]  # type: ignore[attr-defined]
            assert len(found) == 40
            for order in {headers["ce-subject"] for headers, _ in sent}:
                expected = [(headers["ce-id"], body) for headers, body in sent if headers["ce-subject"] == order]
                assert [(h["ce-id"], body) for h, body in found if h["ce-subject"] == order] == expected
            for headers, _ in found:
                [original] = [h for h, _ in sent if h["ce-id"] == headers["ce-id"]]
                assert {name: headers[name] for name in original} == original
                assert set(headers) - set(original) == {"traceparent", c.HEADER_SENT_AT}
        await reader.stop()

    async def test_reading_a_journal_moves_nobody(self, connect: Connect, journal: str) -> None:
        """While a group is at work, what it is handed is what it would have been; what is published meanwhile ends no
        later than what was there."""
        log, ledger = connect(), connect("ledger")
        await log.open({journal: frozenset({"ledger"})})
        reader = Reader(ledger, journal, "ledger", ack)
        recalled: list[list[str]] = []

        async def recall() -> None:
            while len(reader.deliveries) < 60:
                recalled.append(await self.recalled(log, journal))  # type: ignore[arg-type]
                await asyncio.sleep(0.01)

        recalling = asyncio.create_task(recall())
        wanted = [event(number)[0]["ce-id"] for number in range(60)]
        for number in range(60):
            await log.publish(*event(number), channel=journal, key="o-1")
        await reader.until(60)
        await asyncio.wait_for(recalling, PATIENCE_S)
        assert all(found == wanted[: len(found)] for found in recalled)
        assert await self.recalled(log, journal) == wanted  # type: ignore[arg-type]
        await self.nothing_else(ledger)
        assert sorted(reader.ids) == sorted(wanted)
        assert {delivery.attempt for delivery in reader.deliveries} == {1}
        await reader.stop()

    async def test_a_journal_has_what_every_process_published(self, connect: Connect, journal: str) -> None:
        """And a place that a group begins to read later still finds all of it."""
        logs = [connect("orders"), connect("payment"), connect("shipping")]
        for log in logs:
            await log.open({journal: frozenset({"ledger"})})
        await asyncio.gather(
            *(logs[n % 3].publish(*event(n, f"o-{n}"), channel=journal, key=f"o-{n}") for n in range(90))
        )
        wanted = {event(number)[0]["ce-id"] for number in range(90)}
        for log in logs:
            found = await self.recalled(log, journal)  # type: ignore[arg-type]
            assert len(found) == 90
            assert set(found) == wanted
        reader = Reader(logs[0], journal, "ledger", ack)
        await reader.until(90)
        assert set(reader.ids) == wanted
        await reader.stop()

    async def test_a_replay_adds_nothing_to_a_journal(self, connect: Connect, journal: str) -> None:
        """What a group gave up on and gets again was published once."""
        log = connect()
        await log.open({journal: frozenset({"payment"})})
        letters = await self.buried(log, journal, [event(1), event(2)])
        reader = Reader(log, journal, "payment", ack)
        for letter in letters:
            assert await log.settle_dead_letter(journal, "payment", letter.id, replay=True) is True
        await reader.until(2)
        await reader.stop()
        assert await self.recalled(log, journal) == [event(number)[0]["ce-id"] for number in (1, 2)]  # type: ignore[arg-type]


def _name(context: Any, spans: dict[str, ReadableSpan]) -> str | None:
    if context is None or not context.is_valid:
        return None
    for name, span in spans.items():
        if span.context is not None and span.context.span_id == context.span_id:
            return name
    return "?"
