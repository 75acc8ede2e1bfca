"""Kafka: messages are records of a log; each group keeps a place in it, and reading takes nothing away.

Wire           Kafka's protocol over TCP (aiokafka). Topic = channel, 3 partitions; consumer group
               ``<group>.<channel>``; one producer per process, one consumer per subscription
Contract       JSON, Protobuf or Avro; CloudEvents 1.0 in binary mode after its Kafka binding: headers ``ce_<name>``,
               ``content-type`` (asyncapi.json)
Security       none on loopback; SASL and TLS would be settings of the client
Trace context  record headers, one UTF-8 string per W3C field
Delivery       at least once. Idempotent producer, acks=all; a group commits, per partition, the lowest offset below
               which all is done. Another attempt is made by the same consumer, with its offset uncommitted; dead
               letters are records of ``<channel>.<group>.dead``
Ordering       per partition, and so per order (the record's key); a failed record is overtaken by those behind it
Back-pressure  none by the broker: the consumer polls when it has room (max_in_flight), the log waits
Peer down      publisher: Unavailable or DeadlineExceeded after 5 s (what was handed to the client before may still be
               written later: a duplicate); consumer: tries again for ever, the log waits
Timeouts       acknowledgement 5 s; session 10 s, heartbeat 1 s; a rebalance waits 5 s for what is in hand
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAlreadyExistsError,
    for_code,
)
from opentelemetry.trace import SpanContext, get_current_span

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import Words
from services.transports.errors import DeadlineExceeded, TransportError, Unavailable, Unroutable
from services.transports.messaging.headers import notes
from services.transports.ports import Delivery, Topology, Wiring

log = structlog.get_logger()
# it logs every failed request of every loop while a broker is away; what matters is said once, below
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

WORDS = Words("kafka", send="send")
PARTITIONS = 3
PUBLISH_S = 5.0
REQUEST_MS = 5_000
POLL_MS = 1_000
REVOKE_S = 5.0
CLOSE_S = 0.6
MAX_PAUSE_S = 2.0
LAG_EVERY_S = 5.0
WINDOW = 2_000
"""How many records of a subscription may be done behind one that is not: all of them would come again."""
AWAY = (KafkaError, OSError, TimeoutError)


@dataclass(slots=True, eq=False)
class _Partition:
    """What a member holds of one partition, from assignment to revocation."""

    tp: TopicPartition
    held: "dict[int, KafkaDelivery]" = field(default_factory=dict)
    """By offset, in order: polled, and not yet below the offset to commit."""
    to_commit: int = -1
    committed: int = -1
    settled: list[tuple[Mapping[str, str], SpanContext]] = field(default_factory=list)
    """What the next commit is about."""
    gives: bool = True
    """Its records are handed out. False as soon as it is to be given up, while what is in hand may still be done."""
    mine: bool = True

    def advance(self) -> None:
        """Move the offset to commit up to the first record that is not done."""
        while self.held:
            offset, delivery = next(iter(self.held.items()))
            if delivery.done_in is None:
                return
            del self.held[offset]
            self.to_commit = offset + 1
            self.settled.append((delivery.headers, delivery.done_in))


@dataclass(slots=True)
class KafkaDelivery(Delivery):
    member: "_Member" = field(kw_only=True)
    partition: _Partition = field(kw_only=True)
    in_hand: bool = False
    done_in: SpanContext | None = None

    async def ack(self) -> None:
        self.member.done(self)

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        broker = self.member.broker
        if retry_after_s is not None:
            self.member.put_down(self)
            if not await broker.closing_within(retry_after_s):
                self.member.again(self)
            return
        noted = notes(reason, self.attempt)
        headers = [*self.native.headers, *((name, value.encode()) for name, value in noted.items())]
        pause_s = 0.1
        while self.partition.mine:
            try:
                with broker.spans.settle(
                    WORDS, "reject", self.channel, self.headers, {**self.attributes, c.LAB_DEAD_LETTER_REASON: reason}
                ):
                    await broker.produce(_dead(self.channel, self.group), self.native.key, headers, self.body)
            except TransportError as error:
                log.warning("dead_letter_waits", transport="kafka", channel=self.channel, reason=str(error))
                pause_s = min(pause_s * 2, MAX_PAUSE_S)
                if await broker.closing_within(pause_s):
                    return
            else:
                break
        self.member.done(self)


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """One subscription: a member of its consumer group, with the partitions that it was assigned."""

    def __init__(self, broker: "Kafka", channel: str, group: str, max_in_flight: int) -> None:
        self.broker = broker
        self.channel = channel
        self.group = group
        self.group_id = f"{group}.{channel}"
        self.ready: asyncio.Queue[KafkaDelivery] = asyncio.Queue()
        self._free = max_in_flight
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._changed = asyncio.Event()
        self._progress = asyncio.Event()
        self._committing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._attributes = {**broker.server, c.CONSUMER_GROUP: self.group_id}
        self._tasks = [_spawn(self._poll()), _spawn(self._commit_progress()), _spawn(self._measure())]

    async def next(self) -> KafkaDelivery:
        """The next record to handle; what was revoked meanwhile is passed over, it comes again elsewhere."""
        while True:
            delivery = await self.ready.get()
            if delivery.partition.gives:
                delivery.in_hand = True
                return delivery
            self._make_room()

    def put_down(self, delivery: KafkaDelivery) -> None:
        delivery.in_hand = False
        self._changed.set()

    def again(self, delivery: KafkaDelivery) -> None:
        """Give the record out once more. Its offset holds the commit back all the while."""
        if delivery.partition.gives:
            again = replace(delivery, attempt=delivery.attempt + 1, released_at_ns=time.time_ns(), received_with=None)
            delivery.partition.held[delivery.native.offset] = again
            self.ready.put_nowait(again)
        else:
            self._make_room()

    def done(self, delivery: KafkaDelivery) -> None:
        """Its handler is through with it; of a partition that was taken away this changes nothing."""
        self.put_down(delivery)
        self._make_room()
        delivery.done_in = get_current_span().get_span_context()
        partition = delivery.partition
        if partition.mine:
            partition.advance()
            if partition.settled:
                self._progress.set()

    def _make_room(self) -> None:
        self._free += 1
        self._changed.set()

    async def _until(self, condition: Any) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _has_room(self) -> bool:
        return self._free > 0 and sum(len(p.held) for p in self._partitions.values()) < WINDOW

    def _idle(self) -> bool:
        return not any(d.in_hand for p in self._partitions.values() for d in p.held.values())

    async def _poll(self) -> None:
        """Join the group and poll, for ever; a consumer that failed is replaced by a new one."""
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.broker.bootstrap,
                client_id=self.broker.service,
                group_id=self.group_id,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                request_timeout_ms=20_000,
                session_timeout_ms=10_000,
                heartbeat_interval_ms=1_000,
                retry_backoff_ms=200,
            )
            try:
                self._consumer = consumer
                await consumer.start()
                consumer.subscribe([self.channel], listener=self)
                while True:
                    await self._until(self._has_room)
                    started_ns = time.time_ns()
                    polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=self._free)
                    if polled:
                        self._hand_over(polled, started_ns)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("consumer_restarts", transport="kafka", channel=self.channel, error=repr(error))
            self._lose_all()
            self._consumer = None
            await _stop(consumer)
            await asyncio.sleep(1)

    def _hand_over(self, polled: Mapping[TopicPartition, list[ConsumerRecord]], started_ns: int) -> None:
        deliveries = []
        for tp, records in polled.items():
            partition = self._partitions.setdefault(tp, _Partition(tp))
            for record in records:
                delivery = self._delivery(record, partition)
                partition.held[record.offset] = delivery
                deliveries.append(delivery)
        self._free -= len(deliveries)
        attributes = dict(self._attributes)
        if len(polled) == 1:
            attributes[c.DESTINATION_PARTITION_ID] = deliveries[0].attributes[c.DESTINATION_PARTITION_ID]
        headers = [delivery.headers for delivery in deliveries]
        received = self.broker.spans.receive(WORDS, self.channel, self.group_id, headers, started_ns, attributes)
        if len(deliveries) == 1:
            deliveries[0].received_with = received
        for delivery in deliveries:
            self.ready.put_nowait(delivery)

    def _delivery(self, record: ConsumerRecord, partition: _Partition) -> KafkaDelivery:
        key = "" if record.key is None else record.key.decode(errors="replace")
        attributes = dict(self._attributes)
        attributes[c.DESTINATION_PARTITION_ID] = str(record.partition)
        attributes[c.KAFKA_OFFSET] = record.offset
        attributes[c.KAFKA_MESSAGE_KEY] = key
        return KafkaDelivery(
            self.channel,
            self.group,
            key,
            _from_wire(record.headers),
            record.value or b"",
            attributes=attributes,
            native=record,
            member=self,
            partition=partition,
        )

    # --- the group gives and takes partitions --------------------------------------------------------------------
    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Nothing to do: every rebalance takes all first, and polling brings what is known of a partition."""

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish what is in hand, commit what is done, forget the rest: whoever gets the partitions polls it."""
        for partition in self._partitions.values():
            partition.gives = False
        with suppress(TimeoutError):
            await asyncio.wait_for(self._until(self._idle), REVOKE_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.commit(), 1)
        self._lose_all()

    def _lose_all(self) -> None:
        for partition in self._partitions.values():
            partition.gives = partition.mine = False
        self._partitions = {}

    # --- committing ------------------------------------------------------------------------------------------------
    async def _commit_progress(self) -> None:
        while True:
            await self._progress.wait()
            await self.commit()

    async def commit(self) -> None:
        """Commit, in one request, what became done since the last time; one request at a time."""
        async with self._committing:
            self._progress.clear()
            ahead = [p for p in self._partitions.values() if p.to_commit > p.committed]
            if not ahead or self._consumer is None:
                return
            offsets = {p.tp: p.to_commit for p in ahead}
            settled = [(p, p.settled) for p in ahead]
            for p in ahead:
                p.settled = []
            started_ns, failed = time.time_ns(), None
            try:
                await self._consumer.commit(offsets)
            except Exception as error:
                # mostly the group has given the partitions to somebody else, who gets these records again
                failed = error
                log.info("not_committed", transport="kafka", channel=self.channel, error=repr(error))
                for p, before in settled:
                    p.settled = before + p.settled
            else:
                for p in ahead:
                    p.committed = offsets[p.tp]
            attributes = dict(self._attributes)
            if len(ahead) == 1:
                attributes[c.DESTINATION_PARTITION_ID] = str(ahead[0].tp.partition)
            about = [each for _, before in settled for each in before]
            self.broker.spans.settle_batch(WORDS, "commit", self.channel, about, started_ns, attributes, failed)

    # --- measuring -------------------------------------------------------------------------------------------------
    async def _measure(self) -> None:
        """Say every few seconds how much of this member's partitions is not handled yet."""
        gauge = metrics.LAG.labels(self.group, WORDS.system, self.channel)
        gauge.set(0)
        while True:
            try:
                async with asyncio.timeout(LAG_EVERY_S):
                    gauge.set(await self._lag())
            except Exception as error:
                log.debug("lag_unknown", transport="kafka", channel=self.channel, error=repr(error))
            await asyncio.sleep(LAG_EVERY_S)

    async def _lag(self) -> int:
        """Asks the broker for the ends: what a fetch says of them is old while the client has records left."""
        consumer = self._consumer
        if consumer is None:
            return 0
        lag = 0
        for tp, end in (await consumer.end_offsets(consumer.assignment())).items():
            held = self._partitions[tp].held if tp in self._partitions else {}
            lowest = next(iter(held)) if held else await consumer.position(tp)
            lag += max(0, end - lowest)
        return lag

    def stop_polling(self) -> None:
        self._tasks[0].cancel()

    async def leave(self) -> None:
        """Leave the group, once nothing is in hand any more or the broker closes."""
        self.stop_polling()
        with suppress(asyncio.CancelledError):
            await self._tasks[0]
        idle, closing = _spawn(self._until(self._idle)), _spawn(self.broker.closing.wait())
        await asyncio.wait([idle, closing], return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        closing.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.commit(), CLOSE_S)
        for task in self._tasks[1:]:
            task.cancel()
        self._lose_all()
        if self._consumer is not None:
            await _stop(self._consumer)


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
        self._members: set[_Member] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self, topology: Topology) -> None:
        wanted = set(topology) | {_dead(channel, group) for channel in topology for group in topology[channel]}
        pause_s, said = 0.1, False
        async with self._opening:
            while not wanted <= self._topics:
                try:
                    await self._create(wanted - self._topics)
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

    async def _create(self, topics: set[str]) -> None:
        """Make the topics, and wait until a group coordinator answers: the first asked for makes its own topic."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=REQUEST_MS)
        try:
            await admin.start()
            answer = await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in sorted(topics)])
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
            record = await self.produce(channel, key.encode(), _to_wire(sent), body)
            span.set_attributes({c.DESTINATION_PARTITION_ID: str(record.partition), c.KAFKA_OFFSET: record.offset})

    async def produce(self, topic: str, key: bytes | None, headers: list[tuple[str, bytes]], body: bytes) -> Any:
        """Append to ``topic`` and wait for the acknowledgement."""
        producer = None
        try:
            async with asyncio.timeout(PUBLISH_S):
                producer = await self._reachable(topic)
                return await producer.send_and_wait(topic, body, key, headers=headers)
        except TimeoutError:
            self._doubtful = True
            if producer is not None:
                raise DeadlineExceeded(f"Kafka did not acknowledge within {PUBLISH_S:.0f} s") from None
            raise Unavailable(f"Kafka: {self.bootstrap} does not answer") from None
        except MessageSizeTooLargeError:
            raise Unroutable(f"Kafka takes no message of {len(body)} bytes") from None
        except KafkaError as error:
            if isinstance(error, KafkaTimeoutError):
                self._doubtful = True
            elif not error.retriable and self._producer is producer and producer is not None:
                # its sequence of numbers is broken or its sender has died: it would fail for ever
                log.warning("producer_restarts", transport="kafka", error=repr(error))
                self._producer = None
                self._in_the_background(_stop(producer))
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
        member = _Member(self, channel, group, max_in_flight)
        self._members.add(member)
        try:
            while True:
                yield await member.next()
        finally:
            self._leave(member)

    def _leave(self, member: _Member) -> None:
        if member in self._members:
            self._members.discard(member)
            self._in_the_background(member.leave())

    def _in_the_background(self, work: Coroutine[Any, Any, None]) -> None:
        """What ``close`` waits for."""
        task = _spawn(work)
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
            self._in_the_background(_stop(self._producer))
        await asyncio.gather(*self._ending, return_exceptions=True)


def _dead(channel: str, group: str) -> str:
    return f"{channel}.{group}.dead"


def _to_wire(headers: Mapping[str, str]) -> list[tuple[str, bytes]]:
    return [(_wire(name), value.encode()) for name, value in headers.items()]


def _from_wire(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    return {_canonical(name): value.decode(errors="replace") for name, value in headers if value is not None}


@lru_cache(1000)
def _wire(name: str) -> str:
    return "ce_" + name[3:] if name.startswith("ce-") else name


@lru_cache(1000)
def _canonical(name: str) -> str:
    return "ce-" + name[3:] if name.startswith("ce_") else name


def _spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(work, context=contextvars.Context())


async def _stop(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop ``client``, by force if it waits for a broker that is away: its own ``stop`` would for ever."""
    stopping = _spawn(client.stop())
    await asyncio.wait([stopping], timeout=CLOSE_S)
    if not stopping.done():
        for task in (getattr(client, "_sender", None), getattr(client, "_coordinator", None)):
            work = getattr(task, "sender_task", None) or getattr(task, "_coordination_task", None)
            if work is not None:
                work.cancel()
        await asyncio.wait([stopping], timeout=CLOSE_S)
    if stopping.done() and not stopping.cancelled():
        stopping.exception()
