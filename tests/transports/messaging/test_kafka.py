"""Kafka: the behaviours of every broker, and what only a log with groups can show."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from services.telemetry import conventions as c
from services.telemetry.setup import Telemetry, set_up
from services.transports.errors import Unavailable
from services.transports.messaging import kafka_member
from services.transports.messaging.headers import ATTEMPTS, REASON
from services.transports.messaging.kafka import PARTITIONS, Kafka
from services.transports.messaging.kafka_wire import from_wire, to_wire
from services.transports.ports import Broker, Delivery, Wiring
from tests.servers import Server, server
from tests.transports.fuzz import ON_THE_WIRE
from tests.transports.messaging.outage import OutageBehaviour
from tests.transports.messaging.strangers import bodies_borne
from tests.transports.messaging.suite import Connect, Dead, LogBehaviour, Reader, ack, event, processing

pytestmark = [pytest.mark.servers, pytest.mark.timeout(90)]

WHERE = {c.SERVER_ADDRESS, c.SERVER_PORT}
GROUP = {*WHERE, c.CONSUMER_GROUP, c.DESTINATION_PARTITION_ID}


@pytest.fixture
def kafka(pytestconfig: pytest.Config) -> Server:
    return server("kafka", pytestconfig)


class TestKafka(LogBehaviour):
    receives = True
    settle_word = "commit"
    settles_each_alone = False
    attributes: ClassVar[dict[str, set[str]]] = {
        "send": {*WHERE, c.DESTINATION_PARTITION_ID, c.KAFKA_OFFSET, c.KAFKA_MESSAGE_KEY},
        "receive": GROUP,
        "process": {*GROUP, c.KAFKA_OFFSET, c.KAFKA_MESSAGE_KEY},
        "settle": GROUP,
    }

    @pytest.fixture(autouse=True)
    def _server(self, kafka: Server) -> None:
        self.bootstrap = kafka.address

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return Kafka(Wiring(service, telemetry, servers={"kafka": self.bootstrap}))

    async def dead_letters(self, channel: str, group: str) -> list[Dead]:
        found = []
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            places = [TopicPartition(f"{channel}.{group}.dead", 0)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            for place, end in ends.items():
                consumer.seek(place, 0)
                while await consumer.position(place) < end:
                    record = await consumer.getone(place)
                    headers = from_wire(record.headers)
                    found.append(Dead(headers, record.value, headers[REASON], int(headers[ATTEMPTS])))
        finally:
            await consumer.stop()
        return found

    async def test_what_strangers_publish(self, connect: Connect, channel: str) -> None:
        """200 bodies that are hardly or not at all ours: each is refused, counted and a dead letter."""
        await bodies_borne(connect, channel, self.listening)
        assert len(await self.dead_letters(channel, "payment")) > ON_THE_WIRE / 2

    def garbage(self) -> dict[str, Any]:
        return {"ce_id": b"\xff\xfe", "traceparent": b"\xff", "sent-at": None, "\N{SNOWMAN}": b""}

    async def publish_raw(self, channel: str, headers: dict[str, Any], body: bytes) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        await producer.send_and_wait(channel, body, b"\xff", headers=list(headers.items()))
        await producer.stop()

    def official(self, delivery: Delivery) -> Any:
        record = delivery.native
        return binding.from_kafka(binding.KafkaMessage(dict(record.headers), record.key, record.value), JSONFormat())

    async def committed(self, channel: str, group: str) -> int:
        """The sum of the group's offsets over all partitions."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        offsets = await admin.list_consumer_group_offsets(f"{group}.{channel}")
        await admin.close()
        return sum(max(0, each.offset) for each in offsets.values())

    async def test_only_the_lowest_contiguous_offset_is_committed(self, connect: Connect, channel: str) -> None:
        """Acks out of order: what is done behind a record that is not waits for it, and comes again without it."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        for number in range(5):
            await broker.publish(*event(number), channel=channel, key="one partition")
        reader = Reader(broker, channel, "payment")
        first, second, third, fourth, fifth = await reader.until(5)
        for delivery in (first, third, fifth, fourth):
            await delivery.ack()
        await reader.stop()
        await broker.close()
        assert await self.committed(channel, "payment") == 1
        successor = connect()
        again = Reader(successor, channel, "payment", ack)
        await again.until(4)
        assert again.ids == [d.headers["ce-id"] for d in (second, third, fourth, fifth)]
        await again.stop()
        await successor.close()
        assert await self.committed(channel, "payment") == 5

    async def test_a_rebalance_loses_nothing(self, connect: Connect, channel: str) -> None:
        """A second member joins and the first one leaves under load: every record is handled, the commit is whole."""
        first, second, orders = connect("payment"), connect("payment"), connect("orders")
        await orders.open({channel: frozenset({"payment"})})

        async def work(delivery: Delivery) -> None:
            await asyncio.sleep(0.01)
            await delivery.ack()

        published = 0

        async def publish_until(condition: Callable[[], bool]) -> None:
            nonlocal published
            async with asyncio.timeout(30):
                while not condition():
                    await orders.publish(*event(published), channel=channel, key=f"o-{published}")
                    published += 1

        one = Reader(first, channel, "payment", work)
        await publish_until(lambda: len(one.deliveries) > 50)
        two = Reader(second, channel, "payment", work)
        await publish_until(lambda: len(two.deliveries) > 50)
        leaving = asyncio.create_task(one.stop())
        await publish_until(leaving.done)
        leaving = asyncio.create_task(first.close())
        count = published
        await publish_until(lambda: leaving.done() and published > count + 50)
        wanted = {event(number)[0]["ce-id"] for number in range(published)}
        await two.wait_for(lambda: wanted <= {*one.ids, *two.ids}, "every record at least once")
        assert len(one.ids) + len(two.ids) == published, "a rebalance waits for what is in hand, so nothing comes twice"
        await two.stop()
        await second.close()
        assert await self.committed(channel, "payment") == published

    async def test_a_rebalance_does_not_commit_over_what_waits(self, connect: Connect, channel: str) -> None:
        """A record that waits for another attempt when its partition is taken away comes again to the next owner,
        though records behind it were done."""
        first, second = connect("payment"), connect("payment")
        await first.open({channel: frozenset({"payment"})})
        for number in range(5):
            await first.publish(*event(number), channel=channel, key="one partition")
        one = Reader(first, channel, "payment")
        failing, *others = await one.until(5)
        waiting = asyncio.create_task(failing.reject("not yet", retry_after_s=60))
        for delivery in others:
            await delivery.ack()
        two = Reader(second, channel, "payment", ack)
        await one.stop()
        await two.until(5)
        assert two.ids == one.ids
        assert not waiting.done()
        await first.close()
        await asyncio.wait_for(waiting, 1)
        await two.stop()
        await second.close()
        assert await self.committed(channel, "payment") == 5

    async def test_the_lag_is_what_nobody_has_handled_yet(
        self, connect: Connect, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is in hand, and what is done behind it, and what was not even polled; of all partitions."""
        monkeypatch.setattr(kafka_member, "LAG_EVERY_S", 0.1)
        labels = {"service": "payment", "messaging_system": "kafka", "messaging_destination_name": channel}

        async def lag_is(wanted: int) -> None:
            async with asyncio.timeout(10):
                while REGISTRY.get_sample_value("lab_messaging_lag", labels) != wanted:
                    await asyncio.sleep(0.05)

        broker = connect("payment")
        await broker.open({channel: frozenset({"payment"})})
        for number in range(20):
            await broker.publish(*event(number), channel=channel, key=f"o-{number}")
        reader = Reader(broker, channel, "payment", max_in_flight=5)
        first, *others = await reader.until(5)
        await lag_is(20)
        await first.ack()
        await lag_is(19)
        for delivery in others:
            await delivery.ack()
        handled = 5
        while handled < 20:
            for delivery in (await reader.until(handled + 1))[handled:]:
                await delivery.ack()
                handled += 1
        await lag_is(0)
        await reader.stop()
        await broker.close()

    async def configs(self, topic: str) -> dict[str, str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        await admin.close()
        return {name: value for name, value, *_ in answer.resources[0][4]}

    async def test_what_is_to_stay_is_not_forgotten(self, connect: Connect, channel: str, journal: str) -> None:
        """Journals have no age and no size; dead letters go when they are settled, not when they are old."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"}), journal: frozenset({"ledger"})})
        kept = await self.configs(journal)
        assert (kept["cleanup.policy"], kept["retention.ms"], kept["retention.bytes"]) == ("delete", "-1", "-1")
        assert (await self.configs(channel))["retention.ms"] != "-1"
        assert (await self.configs(f"{channel}.payment.dead"))["cleanup.policy"] == "compact"

    async def test_a_topic_that_is_not_there(self, connect: Connect, channel: str, journal: str) -> None:
        """It holds nothing; but nobody is told that a journal is empty that he has misspelt."""
        broker = connect()
        assert await broker.held(channel, "payment") == 0
        assert await broker.dead_letters(channel, "payment") == []
        assert await broker.settle_dead_letter(channel, "payment", "any", replay=True) is False
        with pytest.raises(Unavailable, match=f"no topic {journal}"):
            await self.recalled(broker, journal)

    async def test_a_replay_says_for_whom_it_is(self, connect: Connect, channel: str) -> None:
        """All groups read the topic: those that it is not for can tell."""
        broker = connect()
        await broker.open({channel: frozenset({"payment", "shipping"})})
        [letter] = await self.buried(broker, channel, [event()])
        other = Reader(broker, channel, "shipping", ack)
        await other.until(1)
        assert await broker.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
        assert (await other.until(2))[1].headers[c.HEADER_ONLY_GROUP] == "payment"
        await other.stop()

    async def test_dead_letters_of_an_earlier_version(self, connect: Connect, channel: str) -> None:
        """In three partitions, under the messages' own keys: they are listed, replayed and dropped as any, beside new
        ones, and two of one key stay two."""
        dead = f"{channel}.payment.dead"
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(dead, PARTITIONS, 1)])
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        old = [event(number) for number in range(6)]
        for number, (headers, body) in enumerate(old):
            notes = {REASON: "no such card", ATTEMPTS: "5"}
            written = [*to_wire(headers), *((name, value.encode()) for name, value in notes.items())]
            key, when = f"o-{number // 2}".encode(), 1_700_000_000_000 + number
            await producer.send_and_wait(dead, body, key, headers=written, timestamp_ms=when)
        await producer.stop()
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        ids = [letter.id for letter in await self.buried(broker, channel, [event(6), event(7)])]
        assert ids == [event(number)[0]["ce-id"] for number in range(8)]
        letters = await broker.dead_letters(channel, "payment")
        assert [(letter.reason, letter.attempts) for letter in letters] == [("no such card", 5)] * 6 + [
            ("no such card", 1)
        ] * 2
        assert [(dict(letter.headers), letter.body) for letter in letters[:6]] == old
        reader = Reader(broker, channel, "payment", ack)
        for number in (1, 6):
            assert await broker.settle_dead_letter(channel, "payment", ids[number], replay=True) is True
        for number in (2, 7):
            assert await broker.settle_dead_letter(channel, "payment", ids[number], replay=False) is True
            assert await broker.settle_dead_letter(channel, "payment", ids[number], replay=False) is False
        assert await broker.dead_letters(channel, "payment") == [letters[number] for number in (0, 3, 4, 5)]
        assert {delivery.key: delivery.headers["ce-id"] for delivery in await reader.until(2)} == {
            "o-0": ids[1],
            "o-1": ids[6],
        }
        await reader.stop()

    async def test_a_batch_has_links_and_no_parent(self, connect: Connect, channel: str) -> None:
        """A poll of several records links to their producers; a commit of several to their process spans."""
        exporter = InMemorySpanExporter()
        telemetry = set_up("payment", exporter=exporter)
        orders, broker = connect("orders"), connect("payment", telemetry)
        await orders.open({channel: frozenset({"payment"})})
        for number in range(6):
            await orders.publish(*event(number), channel=channel, key="one partition")
        reader = Reader(broker, channel, "payment", processing(broker, telemetry))
        await reader.until(6)
        assert all(delivery.received_with is None for delivery in reader.deliveries)
        await reader.stop()
        await broker.close()
        spans = exporter.get_finished_spans()
        polls = [span for span in spans if span.name == f"poll {channel}"]
        commits = [span for span in spans if span.name == f"commit {channel}"]
        processed = {span.context.span_id for span in spans if span.name == f"process {channel}"}
        assert [(len(span.links), span.parent, span.attributes[c.BATCH_MESSAGE_COUNT]) for span in polls] == [
            (6, None, 6)
        ]
        assert {link.context.span_id for span in commits for link in span.links} | {
            span.parent.span_id for span in commits if span.parent
        } == processed
        assert all(span.parent is None for span in commits if len(span.links) > 1)


class TestKafkaAway(OutageBehaviour):
    @pytest.fixture(autouse=True)
    def _server(self, kafka: Server) -> None:
        self.server = kafka

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return Kafka(Wiring(service, telemetry, servers={"kafka": self.server.address}))
