"""Redis pub/sub: who listens gets a copy, and nobody keeps one.

Wire           RESP2 over TCP (redis-py). ``PUBLISH``, and ``SUBSCRIBE`` on a connection per subscription, to the
               channel and to ``pubsub.<channel>.<group>.replay``
Contract       JSON, or Protobuf or Avro as base64; CloudEvents 1.0 in structured mode: the message is one JSON
               object (asyncapi.json)
Security       user and password in the address; TLS by ``rediss://``
Trace context  attributes of the event: a message has no headers
Delivery       at most once, to every subscriber: replicas of a service get a copy each, which their inbox tells apart.
               What is published while a group does not listen is gone; PUBLISH says how many did, and those that are
               fewer than the groups of the channel are counted (a second replica can hide an absent group). Redis knows
               no acknowledgement: another attempt is made from this process's memory and ends with it; dead letters
               are entries of the stream ``pubsub.<channel>.<group>.dead``, published again where their group alone
               listens, and kept if it does not. Redis holds nothing: what is held is what this process has in hand
Ordering       per channel, as Redis received it; another attempt comes behind
Back-pressure  none: what a subscriber has no room for (max_in_flight) waits in its socket, then in Redis, which cuts it
               off at 32 MB, or at 8 MB for a minute (client-output-buffer-limit): it is gone, and the cut is counted
Peer down      publisher: Unavailable after 5 s; subscriber: tries again for ever, and never hears what it missed. A
               process listens again before it publishes: else what waited for Redis would go to nobody
Timeouts       connect 2 s, answer 5 s; a silent connection is found dead after 45 s (TCP keepalive)
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import Words
from services.transports.errors import TransportError, Undecodable, Unroutable
from services.transports.messaging.headers import notes, take_key, with_key
from services.transports.messaging.redis_client import (
    AWAY,
    CONNECT_S,
    MAX_PAUSE_S,
    PAUSE_S,
    Link,
    from_fields,
    spawn,
    to_fields,
    why,
)
from services.transports.messaging.redis_dead_letters import DeadLetters, Fields, replayed
from services.transports.messaging.structured import Unreadable, pack, unpack
from services.transports.ports import DeadLetter, Delivery, Topology, Wiring

log = structlog.get_logger()

WORDS = Words(c.REDIS_PUBSUB_SYSTEM, send="PUBLISH")
POLL_S = 1.0

REPLAY = """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return -1 end
local heard = redis.call('PUBLISH', KEYS[2], ARGV[2])
if heard > 0 then redis.call('XDEL', KEYS[1], ARGV[1]) end
return heard
"""
"""Publish a message, and remove the dead letter that it was if anybody has heard it."""


@dataclass(slots=True)
class RedisPubSubDelivery(Delivery):
    """``native`` is the payload as it was published."""

    subscriber: "_Subscriber" = field(kw_only=True)

    async def ack(self) -> None:
        self.subscriber.let_go()

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        if retry_after_s is None:
            await self.subscriber.bury(self, reason)
        elif not await self.subscriber.broker.link.closing_within(retry_after_s):
            self.subscriber.again(self)


class _Subscriber:
    """One subscription, on a connection of its own, and how much of what came is not settled."""

    def __init__(self, broker: "RedisPubSub", channel: str, group: str, max_in_flight: int) -> None:
        self.broker = broker
        self.channel = channel
        self.listens = True
        self.subscribed = asyncio.Event()
        self.group = group
        self.held = 0
        self._labels = (broker.service, WORDS.system, channel)
        self._max_in_flight = max_in_flight
        self._room = asyncio.Event()
        self._ready: asyncio.Queue[RedisPubSubDelivery] = asyncio.Queue()
        metrics.SUBSCRIPTIONS_LOST.labels(*self._labels)
        self._reader = spawn(self._read())

    async def next(self) -> RedisPubSubDelivery:
        return await self._ready.get()

    async def _read(self) -> None:
        """Subscribe, and again whenever the connection is lost, for ever."""
        link, pause_s = self.broker.link, PAUSE_S
        while True:
            client = link.dedicated()
            pubsub = client.pubsub()
            try:
                await link.reach()
                channels = (self.channel, _replays(self.channel, self.group))
                await pubsub.subscribe(*channels)
                async with asyncio.timeout(CONNECT_S):
                    for _ in channels:
                        await pubsub.get_message(timeout=None)
                self.subscribed.set()
                pause_s = PAUSE_S
                while True:
                    await self._has_room()
                    if (message := await pubsub.get_message(timeout=POLL_S)) is not None:
                        self._arrived(message["data"])
            except Exception as error:
                link.lose(error)
                if self.subscribed.is_set():
                    metrics.SUBSCRIPTIONS_LOST.labels(*self._labels).inc()
                    log.warning("subscription_lost", transport="redis_pubsub", channel=self.channel, error=why(error))
            finally:
                self.subscribed.clear()
                with suppress(*AWAY):
                    await pubsub.aclose()
                    await client.aclose()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    async def _has_room(self) -> None:
        while self.held >= self._max_in_flight:
            self._room.clear()
            await self._room.wait()

    def _arrived(self, data: bytes) -> None:
        headers: dict[str, str]
        try:
            headers, body = unpack(data)
        except Undecodable as error:
            headers, body = Unreadable(error), data
        self.held += 1
        self._ready.put_nowait(
            RedisPubSubDelivery(
                self.channel,
                self.group,
                take_key(headers),
                headers,
                body,
                attributes=self.broker.link.server,
                native=data,
                subscriber=self,
            )
        )

    # --- settling ------------------------------------------------------------------------------------------------
    def let_go(self) -> None:
        """One is settled: there is room for another."""
        self.held -= 1
        self._room.set()

    def again(self, delivery: RedisPubSubDelivery) -> None:
        """Hand it out once more."""
        self._ready.put_nowait(replace(delivery, attempt=delivery.attempt + 1, released_at_ns=time.time_ns()))

    async def bury(self, delivery: RedisPubSubDelivery, reason: str) -> None:
        """Write the dead letter, however long Redis is away: nobody else has the message."""
        link = self.broker.link
        headers = with_key(delivery.headers, delivery.key)
        fields = {**to_fields(headers, delivery.body), **notes(reason, delivery.attempt)}
        attributes = {**delivery.attributes, c.LAB_DEAD_LETTER_REASON: reason}
        dead = _dead_stream(self.channel, self.group)
        while True:
            try:
                with self.broker.spans.settle(WORDS, "XADD", self.channel, delivery.headers, attributes):
                    await link.confirmed(lambda: link.commands.xadd(dead, fields))
            except TransportError as error:
                log.warning("dead_letter_waits", transport="redis_pubsub", channel=self.channel, reason=str(error))
                if await link.closing_within(MAX_PAUSE_S):
                    return
            else:
                self.let_go()
                return

    async def leave(self) -> None:
        """Stop listening; what is in hand may still be settled."""
        self.listens = False
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def close(self) -> None:
        """Stop listening, and say what is lost by it."""
        await self.leave()
        if self.held:
            metrics.UNDELIVERED.labels(*self._labels).inc(self.held)
            log.error("left_unsettled", transport="redis_pubsub", channel=self.channel, count=self.held)
            self.held = 0


class RedisPubSub:
    name = "redis_pubsub"
    words = WORDS

    def __init__(self, wiring: Wiring) -> None:
        self.link = Link(wiring, self.name)
        self.spans = wiring.telemetry.messaging
        self.service = wiring.service
        self._groups: dict[str, frozenset[str]] = {}
        self._subscribers: list[_Subscriber] = []
        self._leaving: set[asyncio.Task[None]] = set()

    async def open(self, topology: Topology) -> None:
        """There is nothing to make: a channel is there while somebody listens."""
        for channel, groups in topology.items():
            self._groups[channel] = self._groups.get(channel, frozenset()) | groups
            metrics.UNDELIVERED.labels(self.service, WORDS.system, channel)
        await self.link.reach()

    async def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> None:
        sent = with_key(headers, key)
        if reply_to is not None:
            sent["reply-to"] = reply_to
        with self.spans.send(sent, WORDS, channel, self.link.server) as span:
            payload = pack(sent, body)
            receivers = await self.link.confirmed(lambda: self._publish(channel, payload))
            span.set_attribute(c.REDIS_RECEIVERS, receivers)
        missing = max(1, len(self._groups.get(channel, ()))) - receivers
        if missing > 0:
            metrics.UNDELIVERED.labels(self.service, WORDS.system, channel).inc(missing)
            log.warning("undelivered", transport=self.name, channel=channel, receivers=receivers, missing=missing)

    async def _publish(self, channel: str, payload: bytes) -> int:
        """To how many it went."""
        await self._listening()
        receivers: int = await self.link.ask("PUBLISH", channel, payload)
        return receivers

    async def _listening(self) -> None:
        """This process listens again before it speaks: it would miss the answers."""
        for subscriber in self._subscribers:
            if subscriber.listens:
                await subscriber.subscribed.wait()

    async def subscribe(self, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        await self.open({channel: frozenset({group})})
        subscriber = _Subscriber(self, channel, group, max_in_flight)
        self._subscribers.append(subscriber)
        try:
            while True:
                yield await subscriber.next()
        finally:
            task = spawn(subscriber.leave())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    # --- what is left behind -------------------------------------------------------------------------------------
    async def held(self, channel: str, group: str) -> int:
        """What this process has in hand: nobody knows of more."""
        await self.link.answered(self.link.commands.ping)
        return sum(each.held for each in self._subscribers if (each.channel, each.group) == (channel, group))

    async def dead_letters(self, channel: str, group: str, *, limit: int = 100) -> list[DeadLetter]:
        return await self._dead(channel, group).oldest(limit)

    async def settle_dead_letter(self, channel: str, group: str, dead_letter_id: str, *, replay: bool) -> bool:
        """Raises ``Unroutable`` if nobody of ``group`` listens: it is a dead letter still."""

        async def put_back(entry_id: bytes, message: Fields) -> bool:
            headers, body = from_fields(message)
            payload = pack({**headers, **replayed(group)}, body)
            heard = await self.link.confirmed(lambda: self._replay(channel, group, entry_id, payload))
            if heard == 0:
                raise Unroutable(f"nobody of {group} listens to {channel}")
            return heard > 0

        return await self._dead(channel, group).settle(dead_letter_id, put_back if replay else None)

    async def _replay(self, channel: str, group: str, entry_id: bytes, payload: bytes) -> int:
        await self._listening()
        dead, replays = _dead_stream(channel, group), _replays(channel, group)
        heard: int = await self.link.commands.eval(REPLAY, 2, dead, replays, entry_id, payload)
        return heard

    def _dead(self, channel: str, group: str) -> DeadLetters:
        return DeadLetters(self.link, _dead_stream(channel, group), channel, group)

    async def ready(self) -> str | None:
        reason = await self.link.ready()
        if reason is None and (
            deaf := [each.channel for each in self._subscribers if each.listens and not each.subscribed.is_set()]
        ):
            return f"not subscribed to {', '.join(deaf)}"
        return reason

    async def close(self) -> None:
        self.link.closing.set()
        subscribers, self._subscribers = self._subscribers, []
        await asyncio.gather(*self._leaving, *(each.close() for each in subscribers))
        await self.link.close()


def _dead_stream(channel: str, group: str) -> str:
    """Where ``group``'s dead letters are."""
    return f"pubsub.{channel}.{group}.dead"


def _replays(channel: str, group: str) -> str:
    """Where ``group`` alone listens: of ``channel``, Redis says how many listen, but not who."""
    return f"pubsub.{channel}.{group}.replay"
