"""The reference broker: what the port promises, in one process and without a server.

Wire           Python lists; bodies and headers are copied as bytes and text, as on a real wire
Contract       any bytes; JSON, Protobuf or Avro, CloudEvents 1.0 in binary mode (asyncapi.json)
Security       none: one process, one address space
Trace context  the headers, one text value per W3C field
Delivery       at least once; unsettled deliveries come again when their subscriber goes; lost with the process, as are
               dead letters and journals
Ordering       per channel and group until a delivery is given back
Back-pressure  max_in_flight unsettled deliveries per subscription; queues are not bounded
Peer down      messages wait in the group's queue
Timeouts       none
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from services.telemetry import conventions as c
from services.telemetry.messaging import Words
from services.transports.errors import Unroutable
from services.transports.ports import DeadLetter, Delivery, Topology, Wiring, dead_letter_id, is_journal

WORDS = Words("memory", send="send")


@dataclass(slots=True)
class _Stored:
    key: str
    headers: dict[str, str]
    body: bytes
    attempt: int = 1
    released_at_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buried(DeadLetter):
    key: str


@dataclass(slots=True)
class Network:
    """What the memory adapters of one process share: the wire, so to speak."""

    queues: dict[tuple[str, str], deque[_Stored]] = field(default_factory=lambda: defaultdict(deque))
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    in_hand: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead_letters: list[_Buried] = field(default_factory=list)
    journals: dict[str, list[tuple[Mapping[str, str], bytes]]] = field(default_factory=lambda: defaultdict(list))
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    servers: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class MemoryDelivery(Delivery):
    broker: "Memory" = field(kw_only=True)
    free: asyncio.Semaphore = field(kw_only=True)

    async def ack(self) -> None:
        with self.broker.spans.settle(WORDS, "ack", self.channel, self.headers, {}):
            self.broker.settled(self)
            self.put_down()

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        with self.broker.spans.settle(WORDS, "reject", self.channel, self.headers, {}):
            self.broker.settled(self)
            if retry_after_s is None:
                self._bury(reason)
                self.put_down()
                return
            try:
                await asyncio.sleep(retry_after_s)
            finally:
                await self.broker.release(self, self.attempt + 1)

    def _bury(self, reason: str) -> None:
        self.broker.network.dead_letters.append(
            _Buried(
                id=dead_letter_id(self.headers, self.body),
                channel=self.channel,
                group=self.group,
                reason=reason,
                attempts=self.attempt,
                headers=dict(self.headers),
                body=self.body,
                died_at_ns=time.time_ns(),
                key=self.key,
            )
        )

    def put_down(self) -> None:
        self.broker.network.in_hand[self.channel, self.group] -= 1


class Memory:
    name = "memory"
    words = WORDS

    def __init__(self, wiring: Wiring) -> None:
        self.network: Network = wiring.network
        self.spans = wiring.telemetry.messaging
        self._unsettled: dict[int, MemoryDelivery] = {}
        self._closed = False

    async def open(self, topology: Topology) -> None:
        for channel, groups in topology.items():
            self.network.groups[channel] |= groups

    async def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> None:
        sent = dict(headers)
        if reply_to is not None:
            sent["reply-to"] = reply_to
        with self.spans.send(sent, WORDS, channel, {}):
            groups = self.network.groups.get(channel)
            if not groups:
                raise Unroutable(f"no group reads {channel}")
            if is_journal(channel):
                self.network.journals[channel].append((dict(sent), body))
            for group in groups:
                self.network.queues[channel, group].append(_Stored(key, dict(sent), body))
            async with self.network.arrived:
                self.network.arrived.notify_all()

    async def subscribe(self, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        await self.open({channel: frozenset({group})})
        queue = self.network.queues[channel, group]
        free = asyncio.Semaphore(max_in_flight)
        while True:
            await free.acquire()
            async with self.network.arrived:
                await self.network.arrived.wait_for(lambda: bool(queue))
                stored = queue.popleft()
                self.network.in_hand[channel, group] += 1
            delivery = MemoryDelivery(
                channel,
                group,
                stored.key,
                dict(stored.headers),
                stored.body,
                stored.attempt,
                released_at_ns=stored.released_at_ns,
                broker=self,
                free=free,
            )
            self._unsettled[id(delivery)] = delivery
            yield delivery

    def settled(self, delivery: MemoryDelivery) -> None:
        if self._unsettled.pop(id(delivery), None) is None:
            raise ValueError(f"delivery of {delivery.headers.get('ce-id')} is settled already")
        delivery.free.release()

    async def release(self, delivery: MemoryDelivery, attempt: int) -> None:
        """Give ``delivery`` back to its queue, in front."""
        stored = _Stored(delivery.key, dict(delivery.headers), delivery.body, attempt, time.time_ns())
        self.network.queues[delivery.channel, delivery.group].appendleft(stored)
        delivery.put_down()
        async with self.network.arrived:
            self.network.arrived.notify_all()

    async def held(self, channel: str, group: str) -> int:
        return len(self.network.queues[channel, group]) + self.network.in_hand[channel, group]

    async def dead_letters(self, channel: str, group: str, *, limit: int = 100) -> list[DeadLetter]:
        return list(islice(self._buried(channel, group), limit))

    async def settle_dead_letter(self, channel: str, group: str, dead_letter_id: str, *, replay: bool) -> bool:
        letter = next((each for each in self._buried(channel, group) if each.id == dead_letter_id), None)
        if letter is None:
            return False
        if replay:
            headers = {**letter.headers, c.HEADER_REPLAYED: str(time.time_ns())}
            self.network.queues[channel, group].append(_Stored(letter.key, headers, letter.body))
        self.network.dead_letters.remove(letter)
        async with self.network.arrived:
            self.network.arrived.notify_all()
        return True

    def _buried(self, channel: str, group: str) -> Iterator[_Buried]:
        return (each for each in self.network.dead_letters if (each.channel, each.group) == (channel, group))

    async def read(self, channel: str) -> AsyncIterator[tuple[Mapping[str, str], bytes]]:
        for message in list(self.network.journals[channel]):
            yield message

    async def ready(self) -> str | None:
        return "closed" if self._closed else None

    async def close(self) -> None:
        self._closed = True
        for delivery in list(self._unsettled.values()):
            del self._unsettled[id(delivery)]
            await self.release(delivery, delivery.attempt + 1)
