"""The reference broker: what the port promises, in one process and without a server.

Wire           Python lists; bodies and headers are copied as bytes and text, as on a real wire
Contract       any bytes; JSON, Protobuf or Avro, CloudEvents 1.0 in binary mode (asyncapi.json)
Security       none: one process, one address space
Trace context  the headers, one text value per W3C field
Delivery       at least once; unsettled deliveries come again when their subscriber goes; lost with the process
Ordering       per channel and group until a delivery is given back
Back-pressure  max_in_flight unsettled deliveries per subscription; queues are not bounded
Peer down      messages wait in the group's queue
Timeouts       none
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.telemetry.messaging import Words
from services.transports.errors import Unroutable
from services.transports.ports import Delivery, Topology, Wiring

WORDS = Words("memory", send="send")


@dataclass(slots=True)
class _Stored:
    key: str
    headers: dict[str, str]
    body: bytes
    attempt: int = 1
    released_at_ns: int | None = None


@dataclass(slots=True)
class DeadLetter:
    channel: str
    group: str
    headers: dict[str, str]
    body: bytes
    attempts: int
    reason: str


@dataclass(slots=True)
class Network:
    """What the memory adapters of one process share: the wire, so to speak."""

    queues: dict[tuple[str, str], deque[_Stored]] = field(default_factory=lambda: defaultdict(deque))
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    dead_letters: list[DeadLetter] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    servers: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class MemoryDelivery(Delivery):
    broker: "Memory" = field(kw_only=True)
    free: asyncio.Semaphore = field(kw_only=True)

    async def ack(self) -> None:
        with self.broker.spans.settle(WORDS, "ack", self.channel, self.headers, {}):
            self.broker.settled(self)

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        network = self.broker.network
        with self.broker.spans.settle(WORDS, "reject", self.channel, self.headers, {}):
            self.broker.settled(self)
            if retry_after_s is None:
                network.dead_letters.append(
                    DeadLetter(self.channel, self.group, dict(self.headers), self.body, self.attempt, reason)
                )
                return
            await asyncio.sleep(retry_after_s)
            await self.broker.release(self, self.attempt + 1)


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
        async with self.network.arrived:
            self.network.arrived.notify_all()

    async def ready(self) -> str | None:
        return "closed" if self._closed else None

    async def close(self) -> None:
        self._closed = True
        for delivery in list(self._unsettled.values()):
            del self._unsettled[id(delivery)]
            await self.release(delivery, delivery.attempt + 1)
