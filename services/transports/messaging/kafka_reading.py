"""A topic as it stands, for an onlooker: who reads it so joins no group, and moves nobody's place."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from services.transports.errors import Unavailable
from services.transports.messaging.kafka_wire import AWAY, REQUEST_MS, stop

ANSWER_S = 5.0
POLL_MS = 200


@asynccontextmanager
async def answered() -> AsyncIterator[None]:
    """What waits in here for Kafka raises ``Unavailable`` where no answer comes."""
    try:
        async with asyncio.timeout(ANSWER_S):
            yield
    except AWAY as error:
        raise Unavailable(f"Kafka: {error!r}") from error


@asynccontextmanager
async def onlooker(bootstrap: str, client_id: str, group_id: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
    """A client that reads; with ``group_id`` it can tell how far that group is, of which it is no member."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        client_id=client_id,
        group_id=group_id,
        enable_auto_commit=False,
        request_timeout_ms=REQUEST_MS,
        retry_backoff_ms=200,
    )
    try:
        async with answered():
            await consumer.start()
        yield consumer
    finally:
        await stop(consumer)


async def records(consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]) -> AsyncIterator[ConsumerRecord]:
    """All that lies in ``places`` now; in order within each. Raises ``Unavailable``, also if it stops coming."""
    async with answered():
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    unread = [place for place in places if begins[place] < ends[place]]
    consumer.assign(unread)
    for place in unread:
        consumer.seek(place, begins[place])
    while unread:
        found: list[ConsumerRecord] = []
        async with answered():
            while unread and not found:
                polled = await consumer.getmany(*unread, timeout_ms=POLL_MS)
                found = [record for place in polled for record in polled[place] if record.offset < ends[place]]
                # what was compacted away moves the position alone
                unread = [place for place in unread if await consumer.position(place) < ends[place]]
        for record in found:
            yield record


async def behind(consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]) -> int:
    """How many records of ``places`` the onlooker's group has not committed."""
    async with answered():
        # asked first, so that what is done meanwhile counts as held, never the other way round
        committed = {place: await consumer.committed(place) or 0 for place in places}
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    return sum(max(0, ends[place] - max(begins[place], committed[place])) for place in places)
