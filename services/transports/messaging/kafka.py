"""Kafka: messages are records of a log; each group keeps a place in it, and reading takes nothing away.

Wire           Kafka's protocol over TCP (aiokafka). Topic = channel, 3 partitions; consumer group
               ``<group>.<channel>``; one producer per process, one consumer per subscription
Contract       JSON, Protobuf or Avro; CloudEvents 1.0 in binary mode after its Kafka binding: headers ``ce_<name>``,
               ``content-type`` (asyncapi.json)
Security       none on loopback; SASL and TLS would be settings of the client
Trace context  record headers, one UTF-8 string per W3C field
Delivery       at least once. Idempotent producer, acks=all; a group commits, per partition, the lowest offset below
               which all is done. Another attempt is made by the same consumer, with its offset uncommitted; dead
               letters are records of ``<channel>.<group>.dead`` (compacted: a tombstone settles one); a replay goes to
               the topic again, with ``ce-labonlygroup``, as all groups read it. Journals are kept for good, and read
               without a group; other topics as long as the broker keeps them
Ordering       per partition, and so per order (the record's key); a failed record is overtaken by those behind it
Back-pressure  none by the broker: the consumer polls when it has room (max_in_flight), the log waits
Peer down      publisher: Unavailable or DeadlineExceeded after 5 s (what was handed to the client before may still be
               written later: a duplicate); consumer: tries again for ever, the log waits
Timeouts       acknowledgement 5 s; session 10 s, heartbeat 1 s; a rebalance waits 5 s for what is in hand
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAlreadyExistsError,
    for_code,
)

from services.telemetry import conventions as c
from services.transports.errors import DeadlineExceeded, Unavailable, Unroutable
from services.transports.messaging import kafka_letters
from services.transports.messaging.kafka_letters import Headers, Letter
from services.transports.messaging.kafka_member import Member
from services.transports.messaging.kafka_reading import answered, behind, onlooker, records
from services.transports.messaging.kafka_wire import (
    AWAY,
    MAX_PAUSE_S,
    REQUEST_MS,
    WORDS,
    dead_topic,
    from_wire,
    spawn,
    stop,
    to_wire,
)
from services.transports.ports import DeadLetter, Delivery, Topology, Wiring, is_journal

log = structlog.get_logger()

PARTITIONS = 3
PUBLISH_S = 5.0
KEPT_FOR_GOOD = {"retention.ms": "-1", "retention.bytes": "-1"}


class Kafka:
    name = "kafka"
    words = WORDS

    def __init__(self, wiring: Wiring) -> None:
        self.spans = wiring.telemetry.messaging
        self.service = wiring.service
        self.bootstrap = wiring.servers["kafka"]
        host, _, port = self.bootstrap.rpartition(":")
        self.server = {c.SERVER_ADDRESS: host, c.SERVER_PORT: int(port)}
        self.closing = asyncio.Event()
        self._topics: set[str] = set()
        self._opening = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._producer: AIOKafkaProducer | None = None
        self._doubtful = False
        self._members: set[Member] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self, topology: Topology) -> None:
        topics = {channel: _of_messages(channel) for channel in topology}
        for channel, groups in topology.items():
            topics |= {name: _of_dead_letters(name) for name in (dead_topic(channel, group) for group in groups)}
        wanted = set(topics)
        pause_s, said = 0.1, False
        async with self._opening:
            while not wanted <= self._topics:
                try:
                    await self._create([topics[name] for name in sorted(wanted - self._topics)])
                    producer = await self._started_producer()
                    # a topic that was made is not known at once
                    while not wanted <= (await producer.client.fetch_all_metadata()).topics():  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    self._topics |= wanted
                except AWAY as error:
                    if not said and not isinstance(error, GroupCoordinatorNotAvailableError):
                        log.warning("not_connected", transport="kafka", reason=f"{self.bootstrap} {error!r}")
                        said = True
                    pause_s = min(pause_s * 2, MAX_PAUSE_S)
                    await asyncio.sleep(pause_s)

    async def _create(self, topics: list[NewTopic]) -> None:
        """Make the topics, and wait until a group coordinator answers: the first asked for makes its own topic."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=REQUEST_MS)
        try:
            await admin.start()
            answer = await admin.create_topics(topics)
            for name, code, *_ in answer.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise error(name)
            await admin.find_coordinator(self.service)
        finally:
            await admin.close()

    async def _started_producer(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self.bootstrap,
                    client_id=self.service,
                    enable_idempotence=True,
                    acks="all",
                    request_timeout_ms=REQUEST_MS,
                    retry_backoff_ms=200,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> None:
        sent = dict(headers)
        if reply_to is not None:
            sent["reply-to"] = reply_to
        with self.spans.send(sent, WORDS, channel, {**self.server, c.KAFKA_MESSAGE_KEY: key}) as span:
            record = await self.produce(channel, key.encode(), to_wire(sent), body)
            span.set_attributes({c.DESTINATION_PARTITION_ID: str(record.partition), c.KAFKA_OFFSET: record.offset})

    async def produce(
        self, topic: str, key: bytes | None, headers: Headers, body: bytes | None, *, partition: int | None = None
    ) -> Any:
        """Append to ``topic`` (a tombstone without ``body``) and wait for the acknowledgement."""
        producer = None
        try:
            async with asyncio.timeout(PUBLISH_S):
                producer = await self._reachable(topic)
                return await producer.send_and_wait(topic, body, key, partition, headers=headers)
        except TimeoutError:
            self._doubtful = True
            if producer is not None:
                raise DeadlineExceeded(f"Kafka did not acknowledge within {PUBLISH_S:.0f} s") from None
            raise Unavailable(f"Kafka: {self.bootstrap} does not answer") from None
        except MessageSizeTooLargeError:
            raise Unroutable(f"Kafka takes no message of {len(body or b'')} bytes") from None
        except KafkaError as error:
            if isinstance(error, KafkaTimeoutError):
                self._doubtful = True
            elif not error.retriable and self._producer is producer and producer is not None:
                # its sequence of numbers is broken or its sender has died: it would fail for ever
                log.warning("producer_restarts", transport="kafka", error=repr(error))
                self._producer = None
                self._in_the_background(stop(producer))
            raise Unavailable(f"Kafka: {error!r}") from error

    async def _reachable(self, topic: str) -> AIOKafkaProducer:
        """The producer, once the broker answers: what is handed to it is sent some day, however late, and would be
        sent as often as it was tried."""
        while not self.closing.is_set():
            try:
                producer = self._producer or await self._started_producer()
                known = producer.client.cluster.partitions_for_topic(topic) is not None
                if self._doubtful or not known:
                    cluster = await producer.client.fetch_all_metadata()
                    self._doubtful = False
                    if not known and topic not in cluster.topics():
                        raise Unroutable(f"there is no topic {topic}")
            except AWAY:
                self._doubtful = True
                await asyncio.sleep(0.2)
            else:
                return producer
        raise Unavailable("Kafka: closed")

    async def subscribe(self, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        await self.open({channel: frozenset({group})})
        member = Member(self, channel, group, max_in_flight)
        self._members.add(member)
        try:
            while True:
                yield await member.next()
        finally:
            self._leave(member)

    async def held(self, channel: str, group: str) -> int:
        places = await self._places(channel)
        async with onlooker(self.bootstrap, self.service, f"{group}.{channel}") as consumer:
            return await behind(consumer, places)

    async def dead_letters(self, channel: str, group: str, *, limit: int = 100) -> list[DeadLetter]:
        return [letter.told(channel, group) for letter in (await self._letters(channel, group))[:limit]]

    async def settle_dead_letter(self, channel: str, group: str, dead_letter_id: str, *, replay: bool) -> bool:
        for letter in await self._letters(channel, group):
            told = letter.told(channel, group)
            if told.id == dead_letter_id:
                if replay:
                    await self.produce(channel, letter.key, letter.headers_of_replay(group), told.body)
                topic = dead_topic(channel, group)
                await self.produce(topic, letter.mark, [], None, partition=letter.record.partition)
                return True
        return False

    async def _letters(self, channel: str, group: str) -> list[Letter]:
        places = await self._places(dead_topic(channel, group))
        async with onlooker(self.bootstrap, self.service) as consumer:
            return kafka_letters.unsettled([record async for record in records(consumer, places)])

    async def read(self, channel: str) -> AsyncIterator[tuple[Mapping[str, str], bytes]]:
        places = await self._places(channel)
        if not places:
            raise Unavailable(f"Kafka: there is no topic {channel}")
        async with onlooker(self.bootstrap, self.service) as consumer:
            async for record in records(consumer, places):
                headers = from_wire(record.headers)
                # a dead letter that was put back is not published again
                if c.HEADER_ONLY_GROUP not in headers:
                    yield headers, record.value or b""

    async def _places(self, topic: str) -> list[TopicPartition]:
        """The partitions of ``topic``; none if it does not exist."""
        if self.closing.is_set():
            raise Unavailable("Kafka: closed")
        async with answered():
            producer = self._producer or await self._started_producer()
            cluster = await producer.client.fetch_all_metadata()
        return [TopicPartition(topic, number) for number in sorted(cluster.partitions_for_topic(topic) or ())]

    def _leave(self, member: Member) -> None:
        if member in self._members:
            self._members.discard(member)
            self._in_the_background(member.leave())

    def _in_the_background(self, work: Coroutine[Any, Any, None]) -> None:
        """What ``close`` waits for."""
        task = spawn(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def closing_within(self, seconds: float) -> bool:
        """Wait that long, or until closing."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)
        return self.closing.is_set()

    async def ready(self) -> str | None:
        if self.closing.is_set():
            return "closed"
        if self._producer is None:
            return f"{self.bootstrap} not connected yet"
        try:
            await asyncio.wait_for(self._producer.client.fetch_all_metadata(), 2)
        except AWAY:
            self._doubtful = True
            return f"{self.bootstrap} does not answer"
        return None

    async def close(self) -> None:
        self.closing.set()
        for member in list(self._members):
            self._leave(member)
        if self._producer is not None:
            self._in_the_background(stop(self._producer))
        await asyncio.gather(*self._ending, return_exceptions=True)


def _of_messages(name: str) -> NewTopic:
    return NewTopic(name, PARTITIONS, 1, topic_configs=KEPT_FOR_GOOD if is_journal(name) else {})


def _of_dead_letters(name: str) -> NewTopic:
    return NewTopic(name, 1, 1, topic_configs=kafka_letters.CONFIGS)
