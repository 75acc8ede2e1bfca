"""Redis pub/sub: the behaviours of every broker as far as one that keeps nothing has them, and what it loses."""

import asyncio
from typing import Any, ClassVar

import pytest
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.telemetry import conventions as c
from services.telemetry.setup import Telemetry, set_up
from services.transports import cloudevents
from services.transports.errors import Undecodable, Unroutable
from services.transports.messaging.headers import ATTEMPTS, REASON
from services.transports.messaging.redis_client import from_fields
from services.transports.messaging.redis_pubsub import RedisPubSub
from services.transports.messaging.structured import CONTENT_TYPE, pack, unpack
from services.transports.ports import Broker, Delivery, Message, Wiring
from tests.servers import Server, server
from tests.transports.fuzz import ON_THE_WIRE, hammer
from tests.transports.messaging.outage import OutageBehaviour
from tests.transports.messaging.strangers import borne, drawn
from tests.transports.messaging.suite import PATIENCE_S, BrokerBehaviour, Connect, Dead, Reader, ack, event, give_up

pytestmark = pytest.mark.timeout(60)

WHERE = {c.SERVER_ADDRESS, c.SERVER_PORT}


@pytest.fixture
def redis(pytestconfig: pytest.Config) -> Server:
    return server("redis", pytestconfig)


class Wire:
    """What the tests look at behind the adapter's back."""

    url: str

    async def listening(self, channel: str, readers: int = 1) -> None:
        # one that has left is heard of until Redis has seen it go
        async with Redis.from_url(self.url) as client, asyncio.timeout(PATIENCE_S):
            while (await client.pubsub_numsub(channel))[0][1] != readers:
                await asyncio.sleep(0.01)

    def lost(self, channel: str) -> float:
        return counted(f"{c.METRIC_UNDELIVERED}_total", channel)


def counted(name: str, channel: str) -> float:
    """A counter's value over all services."""
    wanted = {c.LABEL_SYSTEM: c.REDIS_PUBSUB_SYSTEM, c.LABEL_DESTINATION: channel}
    return sum(
        sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name and wanted.items() <= sample.labels.items()
    )


def message_of(data: bytes) -> Message:
    return cloudevents.decode(*unpack(data))


def a_good_payload() -> bytes:
    return pack(*event())


async def until_ready(broker: Broker) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await broker.ready() is not None:
            await asyncio.sleep(0.01)


def test_any_payload_is_a_message_or_undecodable() -> None:
    """10,000 payloads: nothing but Undecodable comes out of what is none of ours."""
    hammer(message_of, Undecodable, a_good_payload())


@pytest.mark.servers
class TestRedisPubSub(Wire, BrokerBehaviour):
    keeps = False
    settle_word = ""
    attributes: ClassVar[dict[str, set[str]]] = {"send": {*WHERE, c.REDIS_RECEIVERS}, "process": WHERE}

    @pytest.fixture(autouse=True)
    def _server(self, redis: Server) -> None:
        self.url = redis.address

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return RedisPubSub(Wiring(service, telemetry, servers={"redis": self.url}))

    async def dead_letters(self, channel: str, group: str) -> list[Dead]:
        found = []
        async with Redis.from_url(self.url) as client:
            for _, fields in await client.xrange(f"pubsub.{channel}.{group}.dead"):
                headers, body = from_fields(fields)
                found.append(Dead(headers, body, headers[REASON], int(headers[ATTEMPTS])))
        return found

    def garbage(self) -> dict[str, Any]:
        return {}

    async def publish_raw(self, channel: str, headers: dict[str, Any], body: bytes) -> None:
        async with Redis.from_url(self.url) as client:
            await client.publish(channel, body)

    def official(self, delivery: Delivery) -> Any:
        message = binding.KafkaMessage({"content-type": CONTENT_TYPE.encode()}, None, delivery.native)
        return binding.from_kafka(message, JSONFormat())

    # --- what only this wire does ------------------------------------------------------------------------------------
    async def test_the_loss_is_counted_by_the_publisher(self, connect: Connect, channel: str) -> None:
        """Redis says how many heard it: those that are fewer than the groups will never hear it."""
        exporter = InMemorySpanExporter()
        orders, payment = connect("orders", set_up("orders", exporter=exporter)), connect("payment")
        await orders.open({channel: frozenset({"payment", "shipping", "notifications"})})
        await orders.publish(*event(1), channel=channel, key="o-1")
        assert self.lost(channel) == 3
        reader = Reader(payment, channel, "payment", ack)
        await self.listening(channel)
        await orders.publish(*event(2), channel=channel, key="o-1")
        assert self.lost(channel) == 3 + 2
        await reader.until(1)
        assert reader.ids == [event(2)[0]["ce-id"]]
        assert [span.attributes[c.REDIS_RECEIVERS] for span in exporter.get_finished_spans()] == [0, 1]
        await reader.stop()

    async def test_it_is_not_ready_while_it_does_not_listen(self, connect: Connect, channel: str) -> None:
        """Who is not subscribed misses what is published: readiness says so, and when it is over."""
        broker = connect("payment")
        await broker.open({channel: frozenset({"payment"})})
        reader = Reader(broker, channel, "payment", ack)
        await asyncio.sleep(0)
        assert await broker.ready() == f"not subscribed to {channel}"
        await self.listening(channel)
        await until_ready(broker)
        await reader.stop()
        assert await broker.ready() is None

    async def test_a_subscriber_that_is_too_slow_is_cut_off(self, connect: Connect, channel: str) -> None:
        """What it has no room for waits with Redis, up to a limit: then all of that is gone, and the cut is counted."""
        orders, payment = connect("orders"), connect("payment")
        await orders.open({channel: frozenset({"payment"})})
        async with Redis.from_url(self.url) as client:
            await client.config_set("client-output-buffer-limit", "pubsub 4mb 0 0")
        awake = asyncio.Event()

        async def sleepy(delivery: Delivery) -> None:
            await awake.wait()
            await delivery.ack()

        try:
            reader = Reader(payment, channel, "payment", sleepy, max_in_flight=2)
            await self.listening(channel)
            published = 0
            async with asyncio.timeout(PATIENCE_S):
                while not self.lost(channel):
                    await orders.publish(event(published)[0], b"x" * 65_536, channel=channel, key="o-1")
                    published += 1
            assert len(reader.deliveries) == 2
            awake.set()
            await reader.wait_for(lambda: self.cut(channel) == 1, "the subscriber to notice the cut")
            await self.listening(channel)
            await orders.publish(*event(-1), channel=channel, key="o-1")
            await reader.wait_for(lambda: event(-1)[0]["ce-id"] in reader.ids, "the message behind the cut")
            heard = len(reader.deliveries) - 1
            print(f"pub/sub: {heard} of {published} messages heard by a subscriber that was cut off")
            assert heard < published - self.lost(channel)
        finally:
            async with Redis.from_url(self.url) as client:
                await client.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")
        await reader.stop()

    def cut(self, channel: str) -> float:
        return counted(f"{c.METRIC_SUBSCRIPTIONS_LOST}_total", channel)

    async def test_another_attempt_ends_with_the_process(self, connect: Connect, channel: str) -> None:
        """It waits in memory: closing loses it, and says so."""
        broker = connect("payment")
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")])
        held = asyncio.create_task((await reader.until(1))[0].reject("later", retry_after_s=60))
        await reader.stop()
        await broker.close()
        await asyncio.wait_for(held, 1)
        assert self.lost(channel) == 1

    # --- what is left behind -----------------------------------------------------------------------------------------
    async def test_what_is_held_is_counted(self, connect: Connect, channel: str) -> None:
        """By each process what it has in hand itself, also between two attempts: Redis keeps nothing, so nobody knows
        of what is under way."""
        broker, desk = connect("payment"), connect("orders")
        for each in (broker, desk):
            await each.open({channel: frozenset({"payment"})})
        assert await broker.held(channel, "payment") == 0
        messages = [(*event(number), "o-1") for number in range(8)]
        reader = await self.read(broker, channel, "payment", messages, max_in_flight=3)
        first, second, third = await reader.until(3)
        assert [await each.held(channel, "payment") for each in (broker, desk)] == [3, 0]
        assert await broker.held(channel, "shipping") == 0
        waiting = asyncio.create_task(first.reject("not yet", retry_after_s=0.05))
        await asyncio.sleep(0)
        await second.ack()
        await third.reject("never")
        for count in range(4, 10):
            await (await reader.until(count))[count - 1].ack()
        await waiting
        await self.holds(broker, channel, 0)
        await reader.stop()

    async def test_a_replay_that_nobody_hears_is_none(self, connect: Connect, channel: str) -> None:
        """Others that listen to the channel do not count: the dead letter stays until its group listens; and what is
        replayed then only its group hears."""
        broker = connect()
        await broker.open({channel: frozenset({"payment", "shipping"})})
        letters = await self.buried(broker, channel, [event(1), event(2)])
        other = Reader(broker, channel, "shipping", ack)
        await self.listening(channel)
        with pytest.raises(Unroutable, match=f"nobody of payment listens to {channel}"):
            await broker.settle_dead_letter(channel, "payment", letters[1].id, replay=True)
        assert await broker.dead_letters(channel, "payment") == letters
        reader = Reader(broker, channel, "payment", ack)
        await self.listening(channel, 2)
        assert await broker.settle_dead_letter(channel, "payment", letters[1].id, replay=True) is True
        await reader.until(1)
        await self.nothing_else(broker)
        assert (reader.ids, other.ids) == ([letters[1].id], [])
        assert await broker.dead_letters(channel, "payment") == letters[:1]
        await reader.stop()
        await other.stop()

    async def test_a_dead_letter_keeps_its_key(self, connect: Connect, channel: str) -> None:
        """Also where it is not its subject: what is replayed keeps its place among its like."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(), "another key")], give_up)
        await reader.until(1)
        await self.dead(channel, "payment")
        [letter] = await broker.dead_letters(channel, "payment")
        assert letter.headers == reader.deliveries[0].headers
        assert await broker.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
        assert [delivery.key for delivery in await reader.until(2)] == ["another key"] * 2
        await reader.stop()

    async def test_what_strangers_publish(self, connect: Connect, channel: str) -> None:
        """200 payloads that are hardly or not at all ours: each is refused, counted and a dead letter; no connection is
        left."""
        async with Redis.from_url(self.url) as client:
            before = len(await client.client_list())
            await borne(
                connect,
                channel,
                drawn(a_good_payload()),
                lambda data: client.publish(channel, data),
                message_of,
                self.listening,
            )
            letters = await client.xrange(f"pubsub.{channel}.payment.dead")
            assert len(letters) > ON_THE_WIRE / 2
            assert any(b"no JSON" in fields[REASON.encode()] for _, fields in letters)
            async with asyncio.timeout(PATIENCE_S):
                while len(await client.client_list()) > before:
                    await asyncio.sleep(0.02)


@pytest.mark.servers
class TestRedisPubSubAway(Wire, OutageBehaviour):
    @pytest.fixture(autouse=True)
    def _server(self, redis: Server) -> None:
        self.server = redis
        self.url = redis.address

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return RedisPubSub(Wiring(service, telemetry, servers={"redis": self.url}))

    async def what_arrives(self, reader: Reader, channel: str, confirmed: dict[str, float]) -> None:
        """Nothing that was not sent. What is lost was counted, but for what was under way at the kill: each of the four
        publishers had one message at most."""
        last = await self.barrier(channel)
        await reader.wait_for(lambda: last in reader.ids, "a message after the outage")
        lost, counted_as_lost = set(confirmed) - set(reader.ids), self.lost(channel)
        print(f"pub/sub: {len(lost)} of {len(confirmed)} published messages lost, {counted_as_lost:g} of them counted")
        assert 0 <= len(lost) - counted_as_lost <= 4
        assert counted(f"{c.METRIC_SUBSCRIPTIONS_LOST}_total", channel) == 1

    async def barrier(self, channel: str) -> str:
        """The id of a message that comes behind all others."""
        broker = self.broker(set_up("shipping"), "shipping")
        await self.listening(channel)
        headers, body = event(-1)
        await broker.open({channel: frozenset({"payment"})})
        await broker.publish(headers, body, channel=channel, key="o-1")
        await broker.close()
        return headers["ce-id"]
