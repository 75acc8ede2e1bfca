"""Redis Streams: messages are entries of a log in memory; each group hands them out, and remembers to whom.

Wire           RESP2 over TCP (redis-py). Stream = channel, consumer group = group, a consumer per subscription;
               ``XADD``, ``XREADGROUP`` with BLOCK on a connection of its own, ``XACK``; what a process adds and
               acknowledges while an answer is under way goes out together behind it
Contract       JSON, Protobuf or Avro; CloudEvents 1.0 in binary mode. They have no binding for Redis: fields are named
               as the Kafka binding names headers (``ce_<name>``, ``content-type``), the body is the field ``data``
               (asyncapi.json)
Security       user and password in the address; TLS by ``rediss://``
Trace context  fields of the entry, one UTF-8 string per W3C field
Delivery       at least once. With ``appendfsync always`` what Redis has answered is on disk; with ``everysec`` a
               machine that dies takes the last second or two along, a killed Redis little or none. ``XACK`` behind the
               handler; another attempt is an ``XCLAIM`` of its own consumer; what a dead consumer had is taken over
               after 30 s (``XAUTOCLAIM``); dead letters are entries of ``<channel>.<group>.dead``, written and
               acknowledged in one script, added to the channel again and removed in one, too: every group reads them,
               and the one they are for handles them. Entries are trimmed only when every group has settled them, a
               journal's never: it is read again from its first one (``XRANGE``). What anybody else takes out of a
               consumer's hands is counted
Ordering       per group, as added; lost among its consumers and by another attempt
Back-pressure  the consumer asks for as many as it has room for (max_in_flight), the stream waits; at its memory limit
               Redis refuses ``XADD``, which publishers hear
Peer down      publisher: Unavailable after 5 s (what was under way may have been added: a duplicate); consumer: tries
               again for ever, then acknowledges what it could not
Timeouts       connect 2 s, answer 5 s, BLOCK 1 s; an entry is its consumer's for 30 s from the last sign of life, which
               a living one gives every 10 s
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

import structlog
from redis.exceptions import RedisError, ResponseError

from services.telemetry import conventions as c
from services.transports.errors import Unroutable
from services.transports.messaging.headers import PARTITION_KEY, with_key
from services.transports.messaging.redis_client import (
    LOST,
    MAX_PAUSE_S,
    PAUSE_S,
    Link,
    field,
    from_fields,
    spawn,
    to_fields,
    why,
)
from services.transports.messaging.redis_consumer import CLOSE_S, WORDS, Consumer, dead_stream
from services.transports.messaging.redis_dead_letters import DeadLetters, Fields, replayed
from services.transports.ports import DeadLetter, Delivery, Topology, Wiring, is_journal

log = structlog.get_logger()

FOR_GOOD = 2**53
"""More entries than a stream will ever have: the last whole number that Lua can tell from the next."""

HELD = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
  if group.name == ARGV[1] then
    if group.lag then return group.lag + group.pending end
    local held, after, page = group.pending, group['last-delivered-id'], nil
    repeat
      page = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 100)
      held = held + #page
      if #page > 0 then after = page[#page][1] end
    until #page < 100
    return held
  end
end
return 0
"""
"""What a group has in hand and what waits for it. Redis does not know the latter where entries were deleted in
between: then they are counted."""

REPLAY = """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', unpack(ARGV, 2)) then return -1 end
return redis.call('XDEL', KEYS[1], ARGV[1])
"""
"""Add a message to its channel and remove the dead letter that it was; -1 if there is no such stream."""


class RedisStreams:
    name = "redis_streams"
    words = WORDS

    def __init__(self, wiring: Wiring) -> None:
        self.link = Link(wiring, self.name)
        self.spans = wiring.telemetry.messaging
        self.service = wiring.service
        self.claim_idle_ms = int(wiring.redis_claim_idle_s * 1000)
        self.stream_maxlen = wiring.redis_stream_maxlen
        self._wanted: set[tuple[str, str]] = set()
        self._made: set[tuple[str, str]] = set()
        self._consumers: list[Consumer] = []
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self, topology: Topology) -> None:
        wanted = {(channel, group) for channel, groups in topology.items() for group in groups}
        self._wanted |= wanted
        pause_s = PAUSE_S
        while not wanted <= self._made:
            try:
                await self.link.reach()
                await self._make(wanted)
            except LOST as error:
                self.link.lose(error)
            except RedisError as error:
                log.warning("not_made_yet", transport=self.name, error=why(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S)

    async def _make(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Make the groups that are missing, and their streams. A new one begins with what is there already."""
        for channel, group in sorted(set(wanted) - self._made):
            try:
                await self.link.commands.xgroup_create(channel, group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            self._made.add((channel, group))

    async def restore(self, channel: str) -> None:
        """Make all groups of ``channel`` again: its stream is not what it was."""
        groups = frozenset(group for known, group in self._wanted if known == channel)
        self._made -= {(channel, group) for group in groups}
        await self.open({channel: groups})

    async def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> None:
        sent = with_key(headers, key)
        if reply_to is not None:
            sent["reply-to"] = reply_to
        with self.spans.send(sent, WORDS, channel, self.link.server) as span:
            entry_id = await self.link.confirmed(lambda: self._add(channel, sent, body))
            if entry_id is None:
                raise Unroutable(f"there is no stream {channel}")
            span.set_attribute(c.REDIS_ENTRY_ID, entry_id.decode())

    async def _add(self, channel: str, headers: Mapping[str, str], body: bytes) -> bytes | None:
        """The new entry's id; None if there is no such stream and there ought to be none."""
        fields = [each for pair in to_fields(headers, body).items() for each in pair]
        # a journal need not have a reader
        add = ("XADD", channel, *(() if is_journal(channel) else ("NOMKSTREAM",)), "*", *fields)
        entry_id: bytes | None = await self.link.ask(*add)
        if entry_id is None and any(known == channel for known, _ in self._wanted):
            log.warning("stream_lost", transport=self.name, channel=channel)
            await self.restore(channel)
            entry_id = await self.link.ask(*add)
        return entry_id

    async def subscribe(self, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        await self.open({channel: frozenset({group})})
        consumer = Consumer(self, channel, group, max_in_flight)
        self._consumers.append(consumer)
        try:
            while True:
                yield await consumer.next()
        finally:
            task = spawn(consumer.leave())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def read(self, channel: str) -> AsyncIterator[tuple[Mapping[str, str], bytes]]:
        last = await self.link.answered(lambda: self.link.commands.xrevrange(channel, count=1))
        if last:
            async for _, fields in self.link.entries(channel, last[0][0]):
                headers, body = from_fields(fields)
                headers.pop(PARTITION_KEY, None)
                # what was put back for one group was published before
                if c.HEADER_ONLY_GROUP not in headers:
                    yield headers, body

    def keeps(self, channel: str) -> int:
        """How many entries of ``channel`` are kept when all of them are settled."""
        return FOR_GOOD if is_journal(channel) else self.stream_maxlen

    # --- what is left behind -------------------------------------------------------------------------------------
    async def held(self, channel: str, group: str) -> int:
        held: int = await self.link.answered(lambda: self.link.commands.eval(HELD, 1, channel, group))
        return held

    async def dead_letters(self, channel: str, group: str, *, limit: int = 100) -> list[DeadLetter]:
        return await self._dead(channel, group).oldest(limit)

    async def settle_dead_letter(self, channel: str, group: str, dead_letter_id: str, *, replay: bool) -> bool:
        async def put_back(entry_id: bytes, message: Fields) -> bool:
            fields: dict[bytes, bytes | str] = {
                **message,
                **{field(name).encode(): value for name, value in replayed(group).items()},
            }
            return await self.link.confirmed(lambda: self._replay(channel, group, entry_id, fields))

        return await self._dead(channel, group).settle(dead_letter_id, put_back if replay else None)

    async def _replay(self, channel: str, group: str, entry_id: bytes, fields: Mapping[bytes, bytes | str]) -> bool:
        flat = [each for pair in fields.items() for each in pair]
        replay = (REPLAY, 2, dead_stream(channel, group), channel, entry_id, *flat)
        if (removed := await self.link.commands.eval(*replay)) < 0:
            await self.restore(channel)
            removed = await self.link.commands.eval(*replay)
        if removed < 0:
            raise Unroutable(f"there is no stream {channel}")
        return bool(removed)

    def _dead(self, channel: str, group: str) -> DeadLetters:
        return DeadLetters(self.link, dead_stream(channel, group), channel, group)

    async def ready(self) -> str | None:
        return await self.link.ready()

    async def close(self) -> None:
        self.link.closing.set()
        if leaving := [*self._ending, *(spawn(consumer.close()) for consumer in self._consumers)]:
            _, late = await asyncio.wait(leaving, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._consumers.clear()
        await self.link.close()
