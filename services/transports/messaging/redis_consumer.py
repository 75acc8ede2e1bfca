"""A consumer of a group of a Redis stream: what it reads, takes over, settles and leaves behind.

Redis keeps, per group, a list of the entries that were handed out and not acknowledged: to whom, when last, how often.
Who has it decides nothing but when another may take it: any consumer of the group may acknowledge any of its entries.
So a claim that comes too late does no harm, and what two consumers handle by mistake the inbox tells apart.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ResponseError

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import Words
from services.transports.messaging.headers import notes, take_key
from services.transports.messaging.redis_client import (
    AWAY,
    COMMAND_S,
    CUT,
    ENTRY_ID,
    LOST,
    MAX_PAUSE_S,
    PAUSE_S,
    from_fields,
    spawn,
    why,
)
from services.transports.ports import Delivery

if TYPE_CHECKING:
    from services.transports.messaging.redis_streams import RedisStreams

log = structlog.get_logger()

WORDS = Words(c.REDIS_SYSTEM, send="XADD", receive="XREADGROUP")
TAKING_OVER = replace(WORDS, receive="XAUTOCLAIM")
BLOCK_MS = 1_000
SWEEP_S = 1.0
MORE_ROOM_S = 0.01
CLOSE_S = 1.5
ABANDONED_MS = 24 * 3600 * 1000
"""The idle time that an entry is given which its consumer will not handle: whoever sweeps next takes it."""
MANY = 10_000
"""More than a consumer ever has pending: XPENDING wants a number."""
MANY_FIELDS = 3_000
"""Lua passes on about 8,000 values; an entry with so many fields is no message of ours."""

BURY = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
"""
"""Write a dead letter, once, and acknowledge what it is about: both or neither. In a transaction (MULTI) the second
would be done if the first failed."""

TIDY = """
local function fields(flat)
  local map = {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end
local function comparable(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #seq) .. seq
end
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = fields(flat)
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
local over = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[3])
if over <= 0 then return 0 end
local settled
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = fields(flat)
  local upto = group['last-delivered-id']
  if group.pending > 0 then upto = redis.call('XPENDING', KEYS[1], group.name)[2] end
  if not settled or comparable(upto) < comparable(settled) then settled = upto end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', settled, 'LIMIT', over)
"""
"""Remove the group's consumers that hold nothing and were not heard of (deleting one deletes what it holds, so nothing
may come between the look and the deed), and trim the stream to its length (a journal's has no bound) as far as every
group has settled it. XADD's own MAXLEN would take what nobody has read; its ACKED, which would not, exists from 8.2 on.
"""


def dead_stream(channel: str, group: str) -> str:
    """Where ``group``'s dead letters are."""
    return f"{channel}.{group}.dead"


@dataclass(slots=True)
class RedisStreamsDelivery(Delivery):
    """``native`` are the entry's fields."""

    consumer: "Consumer" = field(kw_only=True)
    entry_id: bytes = field(kw_only=True)

    async def ack(self) -> None:
        await self.consumer.ack(self)

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        if retry_after_s is None:
            await self.consumer.bury(self, reason)
        elif not await self.consumer.broker.link.closing_within(retry_after_s):
            await self.consumer.again(self)


class Consumer:
    """One subscription: a consumer of its group, with what it holds unsettled."""

    def __init__(self, broker: "RedisStreams", channel: str, group: str, max_in_flight: int) -> None:
        self.broker = broker
        self._redis = broker.link.commands
        self._channel = channel
        self._group = group
        # no other process may have it, nor may this one's successor: what is pending under it has an owner or none
        self._consumer = f"{broker.service}-{uuid.uuid4()}"
        self._max_in_flight = max_in_flight
        self._ready: asyncio.Queue[RedisStreamsDelivery] = asyncio.Queue()
        self._held: dict[bytes, RedisStreamsDelivery] = {}
        self._handed_out: set[bytes] = set()
        self._owed: set[bytes] = set()
        self._room = asyncio.Event()
        self._reading = True
        self._sweep_from: Any = "0-0"
        self._sweep_at = 0.0
        self._attributes = {**broker.link.server, c.CONSUMER_GROUP: group}
        self._poller, self._keeper = spawn(self._poll()), spawn(self._keep())

    async def next(self) -> RedisStreamsDelivery:
        delivery = await self._ready.get()
        self._handed_out.add(delivery.entry_id)
        return delivery

    # --- settling ------------------------------------------------------------------------------------------------
    async def ack(self, delivery: RedisStreamsDelivery) -> None:
        """Acknowledge; what does not get through is acknowledged with the next poll."""
        work = self.broker.link.ask("XACK", self._channel, self._group, delivery.entry_id)
        try:
            if not await self._settle(delivery, "XACK", work, delivery.attributes):
                self._owed.add(delivery.entry_id)
        finally:
            self._let_go(delivery)

    async def bury(self, delivery: RedisStreamsDelivery, reason: str) -> None:
        """Move to the dead letters; what does not get through is taken over as if its consumer had died."""
        original = list(delivery.native.items())
        noted = {**notes(reason, delivery.attempt), ENTRY_ID: delivery.entry_id}
        if len(original) > MANY_FIELDS:
            noted[CUT] = str(len(original) - MANY_FIELDS)
        fields = [each for pair in [*original[:MANY_FIELDS], *noted.items()] for each in pair]
        dead = dead_stream(self._channel, self._group)
        work = self._redis.eval(BURY, 2, self._channel, dead, self._group, delivery.entry_id, *fields)
        try:
            await self._settle(delivery, "XACK", work, {**delivery.attributes, c.LAB_DEAD_LETTER_REASON: reason})
        finally:
            self._let_go(delivery)

    async def again(self, delivery: RedisStreamsDelivery) -> None:
        """Hand the entry out once more, which Redis counts if it is there; where nobody reads any more, to another."""
        mine = self._reading
        claim = self._redis.xclaim(
            *(self._channel, self._group, self._consumer, 0, [delivery.entry_id]),
            idle=None if mine else ABANDONED_MS,
            retrycount=delivery.attempt + mine,
            justid=True,
        )
        await self._settle(delivery, "XCLAIM", claim, delivery.attributes)
        if not mine:
            self._let_go(delivery)
            return
        again = replace(delivery, attempt=delivery.attempt + 1, released_at_ns=time.time_ns(), received_with=None)
        self._held[delivery.entry_id] = again
        self._handed_out.discard(delivery.entry_id)
        self._ready.put_nowait(again)

    async def _settle(
        self, delivery: RedisStreamsDelivery, word: str, work: Awaitable[Any], attributes: Mapping[str, Any]
    ) -> bool:
        try:
            with self.broker.spans.settle(WORDS, word, self._channel, delivery.headers, attributes):
                async with asyncio.timeout(COMMAND_S):
                    await work
        except AWAY as error:
            log.info("not_settled_yet", transport="redis_streams", channel=self._channel, error=why(error))
            return False
        return True

    def _let_go(self, delivery: RedisStreamsDelivery) -> None:
        self._held.pop(delivery.entry_id, None)
        self._handed_out.discard(delivery.entry_id)
        self._room.set()

    # --- reading -------------------------------------------------------------------------------------------------
    async def _poll(self) -> None:
        """Ask for what there is room for, for ever."""
        redis, pause_s = self.broker.link.dedicated(), PAUSE_S
        try:
            while True:
                try:
                    await self._take(redis)
                except ResponseError as error:
                    # mostly the group is gone: Redis came back without its data, or somebody has deleted the stream
                    log.warning("group_lost", transport="redis_streams", channel=self._channel, error=why(error))
                    await self.broker.restore(self._channel)
                except LOST as error:
                    self.broker.link.lose(error)
                except Exception as error:
                    log.warning("poll_failed", transport="redis_streams", channel=self._channel, exc_info=error)
                else:
                    pause_s = PAUSE_S
                    continue
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S)
        finally:
            with suppress(*AWAY):
                await redis.aclose()

    async def _take(self, redis: Any) -> None:
        """One round: acknowledge what is owed, take over what was abandoned, and wait a moment for what is new."""
        await self._has_room()
        if self._owed:
            owed = set(self._owed)
            await redis.xack(self._channel, self._group, *owed)
            self._owed -= owed
        if time.monotonic() >= self._sweep_at:
            await self._take_over(redis)
        if (count := self._max_in_flight - len(self._held)) > 0:
            started_ns = time.time_ns()
            streams = await redis.xreadgroup(
                self._group, self._consumer, {self._channel: ">"}, count=count, block=BLOCK_MS
            )
            for _, entries in streams or ():
                self._hand_over(entries, {}, started_ns, WORDS)

    async def _has_room(self) -> None:
        """Return when something can be taken. While much is in hand, asking for each that is settled would cost more
        than the messages: more room is worth a short wait."""
        half = self._max_in_flight // 2
        if len(self._held) > half:
            with suppress(TimeoutError):
                async with asyncio.timeout(MORE_ROOM_S):
                    await self._until(half)
            await self._until(self._max_in_flight - 1)

    async def _until(self, held: int) -> None:
        while len(self._held) > held:
            self._room.clear()
            await self._room.wait()

    async def _take_over(self, redis: Any) -> None:
        """Claim what no consumer has given a sign of life for, as far as there is room."""
        started_ns = time.time_ns()
        self._sweep_from, entries, vanished = await redis.xautoclaim(
            *(self._channel, self._group, self._consumer, self.broker.claim_idle_ms),
            start_id=self._sweep_from,
            count=self._max_in_flight - len(self._held),
        )
        if self._sweep_from == b"0-0":
            self._sweep_at = time.monotonic() + SWEEP_S
        if vanished:
            metrics.UNDELIVERED.labels(self.broker.service, WORDS.system, self._channel).inc(len(vanished))
            log.error("entries_vanished", transport="redis_streams", channel=self._channel, count=len(vanished))
        # those that it holds itself had gone quiet with Redis
        if entries := [entry for entry in entries if entry[0] not in self._held]:
            pending = await redis.xpending_range(
                self._channel, self._group, entries[0][0], entries[-1][0], MANY, self._consumer
            )
            attempts = {each["message_id"]: each["times_delivered"] for each in pending}
            log.info("taken_over", transport="redis_streams", channel=self._channel, count=len(entries))
            self._hand_over(entries, attempts, started_ns, TAKING_OVER)

    def _hand_over(
        self,
        entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]],
        attempts: Mapping[bytes, int],
        started_ns: int,
        words: Words,
    ) -> None:
        deliveries = [self._delivery(*entry, attempts.get(entry[0], 1)) for entry in entries]
        alone = len(deliveries) == 1
        received = self.broker.spans.receive(
            *(words, self._channel, self._group, [delivery.headers for delivery in deliveries], started_ns),
            deliveries[0].attributes if alone else self._attributes,
        )
        for delivery in deliveries:
            delivery.received_with = received if alone else None
            self._held[delivery.entry_id] = delivery
            self._ready.put_nowait(delivery)

    def _delivery(self, entry_id: bytes, fields: Mapping[bytes, bytes], attempt: int) -> RedisStreamsDelivery:
        headers, body = from_fields(fields)
        return RedisStreamsDelivery(
            self._channel,
            self._group,
            take_key(headers),
            headers,
            body,
            attempt,
            attributes={**self._attributes, c.REDIS_ENTRY_ID: entry_id.decode()},
            native=fields,
            consumer=self,
            entry_id=entry_id,
        )

    # --- living and leaving --------------------------------------------------------------------------------------
    async def _keep(self) -> None:
        """Give a sign of life for all that is held, and tidy up."""
        broker = self.broker
        while self._reading or self._held:
            await asyncio.sleep(broker.claim_idle_ms / 3000)
            try:
                async with asyncio.timeout(COMMAND_S):
                    if self._held:
                        await self._redis.xclaim(
                            self._channel, self._group, self._consumer, 0, list(self._held), justid=True
                        )
                    await self._redis.eval(
                        TIDY, 1, self._channel, self._group, broker.claim_idle_ms, broker.keeps(self._channel)
                    )
            except AWAY as error:
                log.debug("no_sign_of_life", transport="redis_streams", channel=self._channel, error=why(error))

    async def leave(self) -> None:
        """Stop reading, and give back what no handler has."""
        self._reading = False
        self._poller.cancel()
        await asyncio.gather(self._poller, return_exceptions=True)
        while not self._ready.empty():
            self._let_go(self._ready.get_nowait())
        await self._give_back(set(self._handed_out))

    async def close(self) -> None:
        """Give back everything."""
        await self.leave()
        self._keeper.cancel()
        await self._give_back(set())

    async def _give_back(self, but: set[bytes]) -> None:
        """Have others take over at once what is pending here, but for some. What no handler had does not count as
        delivered: the consumer does not know all of it, if it was stopped in the middle of a poll."""
        with suppress(*AWAY):
            if self._owed:
                await self._redis.xack(self._channel, self._group, *self._owed)
            pending = await self._redis.xpending_range(self._channel, self._group, "-", "+", MANY, self._consumer)
            async with self._redis.pipeline(transaction=False) as pipeline:
                for each in pending:
                    if (entry_id := each["message_id"]) not in but:
                        pipeline.xclaim(
                            *(self._channel, self._group, self._consumer, 0, [entry_id]),
                            idle=ABANDONED_MS,
                            retrycount=each["times_delivered"] - (entry_id not in self._handed_out),
                            justid=True,
                        )
                await pipeline.execute()
