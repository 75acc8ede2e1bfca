"""A member of a consumer group: what it holds of its partitions, and how far it may say that all is done."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from opentelemetry.trace import SpanContext, get_current_span

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.transports.errors import TransportError
from services.transports.messaging import kafka_letters
from services.transports.messaging.kafka_wire import CLOSE_S, MAX_PAUSE_S, WORDS, dead_topic, from_wire, spawn, stop
from services.transports.ports import Delivery

if TYPE_CHECKING:
    from services.transports.messaging.kafka import Kafka

log = structlog.get_logger()

POLL_MS = 1_000
REVOKE_S = 5.0
LAG_EVERY_S = 5.0
WINDOW = 2_000
"""How many records of a subscription may be done behind one that is not: all of them would come again."""


@dataclass(slots=True, eq=False)
class Partition:
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
    member: "Member" = field(kw_only=True)
    partition: Partition = field(kw_only=True)
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
        key, headers = kafka_letters.noted(self.native, reason, self.attempt)
        topic = dead_topic(self.channel, self.group)
        pause_s = 0.1
        while self.partition.mine:
            try:
                with broker.spans.settle(
                    WORDS, "reject", self.channel, self.headers, {**self.attributes, c.LAB_DEAD_LETTER_REASON: reason}
                ):
                    await broker.produce(topic, key, headers, self.body, partition=kafka_letters.PARTITION)
            except TransportError as error:
                log.warning("dead_letter_waits", transport="kafka", channel=self.channel, reason=str(error))
                pause_s = min(pause_s * 2, MAX_PAUSE_S)
                if await broker.closing_within(pause_s):
                    return
            else:
                break
        self.member.done(self)


class Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """One subscription: a member of its consumer group, with the partitions that it was assigned."""

    def __init__(self, broker: "Kafka", channel: str, group: str, max_in_flight: int) -> None:
        self.broker = broker
        self.channel = channel
        self.group = group
        self.group_id = f"{group}.{channel}"
        self.ready: asyncio.Queue[KafkaDelivery] = asyncio.Queue()
        self._free = max_in_flight
        self._partitions: dict[TopicPartition, Partition] = {}
        self._changed = asyncio.Event()
        self._progress = asyncio.Event()
        self._committing = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._attributes = {**broker.server, c.CONSUMER_GROUP: self.group_id}
        self._tasks = [spawn(self._poll()), spawn(self._commit_progress()), spawn(self._measure())]

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
            await stop(consumer)
            await asyncio.sleep(1)

    def _hand_over(self, polled: Mapping[TopicPartition, list[ConsumerRecord]], started_ns: int) -> None:
        deliveries = []
        for tp, records in polled.items():
            partition = self._partitions.setdefault(tp, Partition(tp))
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

    def _delivery(self, record: ConsumerRecord, partition: Partition) -> KafkaDelivery:
        key = "" if record.key is None else record.key.decode(errors="replace")
        attributes = dict(self._attributes)
        attributes[c.DESTINATION_PARTITION_ID] = str(record.partition)
        attributes[c.KAFKA_OFFSET] = record.offset
        attributes[c.KAFKA_MESSAGE_KEY] = key
        return KafkaDelivery(
            self.channel,
            self.group,
            key,
            from_wire(record.headers),
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
        idle, closing = spawn(self._until(self._idle)), spawn(self.broker.closing.wait())
        await asyncio.wait([idle, closing], return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        closing.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.commit(), CLOSE_S)
        for task in self._tasks[1:]:
            task.cancel()
        self._lose_all()
        if self._consumer is not None:
            await stop(self._consumer)
