"""RabbitMQ: messages are pushed to whoever holds the queue, and the broker remembers who has not answered yet.

Wire           AMQP 0-9-1 over TCP (aio-pika); one connection, a channel to publish, one per subscription. Topic
               exchange ``antiphon``, routing key ``<channel>.<type>``, quorum queue ``<group>.<channel>`` per group
Contract       JSON, Protobuf or Avro; CloudEvents 1.0 in binary mode after its AMQP 1.0 binding, whose names RabbitMQ
               itself carries over: headers ``cloudEvents:<name>``, property content_type (asyncapi.json)
Security       user and password in the address; TLS by ``amqps://``
Trace context  message headers, one UTF-8 string per W3C field
Delivery       at least once. Publisher confirms; persistent; ``basic.ack`` behind the handler. ``basic.reject`` with
               requeue for another attempt (``x-delivery-count``); dead letters in ``<group>.<channel>.dead``, also by
               the broker itself after 20 redeliveries (a message that takes its consumer down with it)
Ordering       per queue, as published; lost among consumers that share a queue and by redelivery
Back-pressure  prefetch = max_in_flight unacknowledged messages per subscription; at its memory or disk watermark the
               broker stops reading from publishers, who then time out
Peer down      publisher: Unavailable after 5 s; consumer: reconnects for ever, messages wait in the queue
Timeouts       connect 5 s, heartbeat 10 s, confirm 5 s; a message has none
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, TypeVar

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractConnection, AbstractQueue
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, PublishError
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from yarl import URL

from services.domain.messages import MESSAGES
from services.telemetry import conventions as c
from services.telemetry.messaging import Words
from services.transports.errors import DeadlineExceeded, TransportError, Unavailable, Unroutable
from services.transports.messaging.headers import notes
from services.transports.ports import Delivery, Topology, Wiring

log = structlog.get_logger()
# every attempt to connect would be an error line of its own; what matters is said once, below
logging.getLogger("aiormq").setLevel(logging.CRITICAL)

T = TypeVar("T")
WORDS = Words("rabbitmq", send="publish")
EXCHANGE = "antiphon"
DEAD_EXCHANGE = "antiphon.dead"
DELIVERY_LIMIT = 20
NO_LIMIT = 1_000_000
"""RabbitMQ 4 gives every quorum queue a limit of 20, so that looking at dead letters would use them up; -1 lifts it
there, but 3.x refuses that."""
CONNECT_S = 5.0
PUBLISH_S = 5.0
PERSISTENT = 2
DECLARE_S = 30.0
MAX_PAUSE_S = 2.0
HEARTBEAT_S = 10
LOST = (*CONNECTION_EXCEPTIONS, TimeoutError)


@dataclass(slots=True, eq=False)
class _Link:
    """One connection, from its handshake to its loss. Nothing of it outlives it: delivery tags least of all."""

    connection: AbstractConnection
    publishing: aiormq.abc.AbstractChannel
    lost: asyncio.Event
    declared: set[tuple[str, str]] = field(default_factory=set)
    consumed: list[tuple[AbstractQueue, int]] = field(default_factory=list)
    """Queues and their prefetch, each with its own channel."""


@dataclass(slots=True)
class RabbitMQDelivery(Delivery):
    """``native`` is aiormq's message, one layer below aio-pika's: the hot path skips a copy of it all."""

    broker: "RabbitMQ" = field(kw_only=True)
    delivery_tag: int = field(kw_only=True)

    async def ack(self) -> None:
        await self._settle("ack", self.attributes, self.native.channel.basic_ack(self.delivery_tag))

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        if retry_after_s is None:
            attributes = {**self.attributes, c.LAB_DEAD_LETTER_REASON: reason}
            await self._settle("reject", attributes, self._bury(reason))
        elif not await self.broker.closing_within(retry_after_s):
            # held back until now, unacknowledged, so that it is safe with the broker; on closing it goes back anyway
            self.broker.released(self.native)
            await self._settle("reject", self.attributes, self.native.channel.basic_reject(self.delivery_tag))

    async def _bury(self, reason: str) -> None:
        properties = copy(self.native.header.properties)
        # pamqp reads a string that is no UTF-8 as bytes, which it would not write
        headers = {n: bytearray(v) if isinstance(v, bytes) else v for n, v in _headers(self.native) if _canonical(n)}
        properties.headers = {**headers, **notes(reason, self.attempt)}
        try:
            queue = _queue(self.group, self.channel)
            await self.broker.confirmed(DEAD_EXCHANGE, queue, properties, self.body)
        except TransportError:
            await self.native.channel.basic_reject(self.delivery_tag)
            raise
        await self.native.channel.basic_ack(self.delivery_tag)

    async def _settle(self, word: str, attributes: Mapping[str, Any], work: Awaitable[None]) -> None:
        try:
            with self.broker.spans.settle(WORDS, word, self.destination, self.headers, attributes):
                await _ours(work)
        except (*LOST, TransportError) as error:
            # its channel is gone or its dead letter was not taken: the broker gives it out again
            log.info("comes_again", transport="rabbitmq", channel=self.channel, error=repr(error))


class RabbitMQ:
    name = "rabbitmq"
    words = WORDS

    def __init__(self, wiring: Wiring) -> None:
        self.spans = wiring.telemetry.messaging
        self._service = wiring.service
        self._url = URL(wiring.servers["rabbitmq"])
        self._server = {c.SERVER_ADDRESS: self._url.host or "", c.SERVER_PORT: self._url.port or 5672}
        self._wanted: set[tuple[str, str]] = set()
        self._link: _Link | None = None
        self._linked = asyncio.Event()
        self._declaring = asyncio.Lock()
        self._closing = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._why_not = "not connected yet"
        self._released: dict[str, int] = {}

    async def open(self, topology: Topology) -> None:
        self._wanted |= {(channel, group) for channel, groups in topology.items() for group in groups}
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_connected(), context=contextvars.Context())
        while True:
            await self._linked.wait()
            try:
                if self._link is not None:
                    await _ours(self._declare(self._link))
                    return
            except LOST:
                await asyncio.sleep(0.2)

    async def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> None:
        sent = dict(headers)
        if reply_to is not None:
            sent["reply-to"] = reply_to
        routing_key = _routing_key(channel, sent.get("ce-type", ""))
        attributes = {**self._server, c.RABBITMQ_ROUTING_KEY: routing_key}
        with self.spans.send(sent, WORDS, f"{EXCHANGE}:{routing_key}", attributes):
            await self.confirmed(EXCHANGE, routing_key, _properties(sent, key), body)

    async def confirmed(self, exchange: str, routing_key: str, properties: Basic.Properties, body: bytes) -> None:
        """Publish, and wait for the broker's confirm."""
        link = None
        try:
            async with asyncio.timeout(0 if self._closing.is_set() else PUBLISH_S):
                await self._linked.wait()
                link = self._link
                if link is None:
                    raise Unavailable(f"RabbitMQ: {self._why_not}")
                await _ours(
                    link.publishing.basic_publish(
                        body, exchange=exchange, routing_key=routing_key, properties=properties, mandatory=True
                    )
                )
        except PublishError:
            raise Unroutable(f"no queue is bound for {routing_key}") from None
        except TimeoutError:
            if link is None:
                raise Unavailable(f"RabbitMQ: {self._why_not}") from None
            raise DeadlineExceeded(f"RabbitMQ did not confirm within {PUBLISH_S:.0f} s") from None
        except CONNECTION_EXCEPTIONS as error:
            # at once, not when the callbacks come: the next one must wait, not fail in a tight loop
            self._lose(link)
            raise Unavailable(f"RabbitMQ: {error!r} before the confirm") from error

    async def subscribe(self, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        await self.open({channel: frozenset({group})})
        while True:
            await self._linked.wait()
            link, arrived = self._link, asyncio.Queue[DeliveredMessage | None]()
            try:
                if link is None or self._closing.is_set():
                    raise ConnectionError(self._why_not)
                queue, tag = await _ours(self._consume(link, channel, group, max_in_flight, arrived))
            except LOST:
                await asyncio.sleep(0.2)
                continue
            try:
                while (message := await arrived.get()) is not None and not message.channel.is_closed:
                    yield self._delivery(message, channel, group)
            finally:
                with suppress(Exception):
                    await queue.cancel(tag, timeout=1)
                    # what never reached a handler goes back without counting as a failure (RabbitMQ 4.3)
                    while not arrived.empty():
                        if (message := arrived.get_nowait()) is not None and message.delivery_tag is not None:
                            await message.channel.basic_nack(message.delivery_tag)

    async def _consume(
        self,
        link: _Link,
        channel: str,
        group: str,
        max_in_flight: int,
        arrived: asyncio.Queue[DeliveredMessage | None],
    ) -> tuple[AbstractQueue, str]:
        await self._declare(link)
        amqp_channel = await link.connection.channel(publisher_confirms=False)
        over = partial(_end, arrived)
        amqp_channel.close_callbacks.add(over)
        transport = await amqp_channel.get_underlay_channel()
        transport.on_consumer_cancel_callbacks.add(over)
        await amqp_channel.set_qos(prefetch_count=max_in_flight, timeout=CONNECT_S)
        queue = await amqp_channel.get_queue(_queue(group, channel), ensure=False)
        link.consumed.append((queue, max_in_flight))
        consuming = await transport.basic_consume(queue.name, arrived.put, timeout=CONNECT_S)
        return queue, consuming.consumer_tag or ""

    def _delivery(self, message: DeliveredMessage, channel: str, group: str) -> RabbitMQDelivery:
        properties, routing_key = message.header.properties, message.routing_key or ""
        headers = {}
        failed_before = 0
        for name, value in _headers(message):
            if canonical := _canonical(name):
                text = _text(value)
                if text is not None:
                    headers[canonical] = text
            elif name == "x-delivery-count" and isinstance(value, int):
                failed_before = value
        if properties.content_type:
            headers["content-type"] = properties.content_type
        if properties.reply_to:
            headers["reply-to"] = properties.reply_to
        delivery_tag = message.delivery_tag or 0
        return RabbitMQDelivery(
            channel,
            group,
            properties.correlation_id or headers.get("ce-subject", ""),
            headers,
            message.body,
            1 + failed_before,
            attributes={
                **self._server,
                c.RABBITMQ_ROUTING_KEY: routing_key,
                c.RABBITMQ_DELIVERY_TAG: delivery_tag,
            },
            released_at_ns=self._released.pop(_released_key(message), None) if failed_before else None,
            destination=_destination(channel, group, routing_key),
            native=message,
            broker=self,
            delivery_tag=delivery_tag,
        )

    def released(self, message: DeliveredMessage) -> None:
        """Remember when ``message`` was given back: AMQP has no place to say it."""
        if len(self._released) > 10_000:
            self._released.clear()
        self._released[_released_key(message)] = time.time_ns()

    async def closing_within(self, seconds: float) -> bool:
        """Wait that long, or until closing."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return self._closing.is_set()

    async def ready(self) -> str | None:
        return None if self._linked.is_set() else self._why_not

    async def close(self) -> None:
        self._closing.set()
        self._why_not = "closed"
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep_connected(self) -> None:
        """Connect, and again whenever the connection is lost, until cancelled."""
        pause_s, said = 0.1, False
        while True:
            try:
                link = await _ours(self._connect())
            except LOST as error:
                self._why_not = f"{self._url.host}:{self._url.port} {error!s:.200}"
                if not said:
                    log.warning("not_connected", transport="rabbitmq", reason=self._why_not)
                said, pause_s = True, min(pause_s * 2, MAX_PAUSE_S)
                await asyncio.sleep(pause_s)
                continue
            try:
                self._link = link
                self._linked.set()
                log.info("connected", transport="rabbitmq", address=f"{self._url.host}:{self._url.port}")
                pause_s, said = 0.1, False
                await link.lost.wait()
                self._why_not = f"{self._url.host}:{self._url.port} connection lost"
                log.warning("connection_lost", transport="rabbitmq")
            finally:
                self._lose(link)
                with suppress(*LOST):
                    await asyncio.wait_for(_ours(_leave(link)), 1.5)

    def _lose(self, link: _Link | None) -> None:
        if link is not None:
            link.lost.set()
            if self._link is link:
                self._link = None
                self._linked.clear()

    async def _connect(self) -> _Link:
        connection = aio_pika.Connection(
            self._url.update_query(heartbeat=HEARTBEAT_S), client_properties={"connection_name": self._service}
        )
        try:
            await connection.connect(timeout=CONNECT_S)
            channel = await connection.channel(on_return_raises=True)
            link = _Link(connection, await channel.get_underlay_channel(), asyncio.Event())
            for callbacks in (connection.close_callbacks, channel.close_callbacks):
                callbacks.add(lambda *_: link.lost.set())
            for name in (EXCHANGE, DEAD_EXCHANGE):
                await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True, timeout=CONNECT_S)
            await self._declare(link)
        except BaseException:
            with suppress(*LOST):
                await asyncio.wait_for(_ours(connection.close()), 1.5)
            raise
        return link

    async def _declare(self, link: _Link) -> None:
        """Make the queues that this connection has not seen yet."""
        async with self._declaring, asyncio.timeout(DECLARE_S):
            for channel, group in sorted(self._wanted - link.declared):
                name = _queue(group, channel)
                async with link.connection.channel(publisher_confirms=False) as declaring:
                    dead = await declaring.declare_queue(
                        f"{name}.dead",
                        durable=True,
                        arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_LIMIT},
                    )
                    await dead.bind(DEAD_EXCHANGE, name)
                    queue = await declaring.declare_queue(
                        name,
                        durable=True,
                        arguments={
                            "x-queue-type": "quorum",
                            "x-delivery-limit": DELIVERY_LIMIT,
                            "x-dead-letter-exchange": DEAD_EXCHANGE,
                            "x-dead-letter-routing-key": name,
                            # the broker's own dead letters too are confirmed before they leave the queue
                            "x-dead-letter-strategy": "at-least-once",
                            "x-overflow": "reject-publish",
                        },
                    )
                    await queue.bind(EXCHANGE, f"{channel}.#")
                link.declared.add((channel, group))


async def _leave(link: _Link) -> None:
    """Close the connection, after the acks. A quorum queue takes 32 of a channel's at a time, the rest wait in the
    channel and would end with it: a question to the queue is answered behind what it has taken."""
    try:
        for queue, prefetch in link.consumed:
            for _ in range(prefetch // 32 + 1):
                if not queue.channel.is_closed:
                    await queue.declare(timeout=1)
    finally:
        await link.connection.close()


def _end(arrived: asyncio.Queue[DeliveredMessage | None], *_: object) -> None:
    arrived.put_nowait(None)


def _queue(group: str, channel: str) -> str:
    return f"{group}.{channel}"


@lru_cache(1000)
def _routing_key(channel: str, message_type: str) -> str:
    return f"{channel}.{message_type}" if message_type in MESSAGES else f"{channel}.unknown"


@lru_cache(1000)
def _destination(channel: str, group: str, routing_key: str) -> str:
    """``messaging.destination.name`` of a consumer; a routing key that is none of ours would make too many of them."""
    ours = routing_key.removeprefix(f"{channel}.") in MESSAGES
    return f"{EXCHANGE}:{routing_key if ours else f'{channel}.#'}:{_queue(group, channel)}"


def _properties(headers: Mapping[str, str], key: str) -> Basic.Properties:
    """AMQP has places of its own for some of what we call headers."""
    return Basic.Properties(
        headers={_wire(name): value for name, value in headers.items() if name not in ("content-type", "reply-to")},
        content_type=headers.get("content-type"),
        reply_to=headers.get("reply-to"),
        correlation_id=key,
        message_id=headers.get("ce-id"),
        message_type=headers.get("ce-type"),
        app_id=headers.get("ce-source"),
        delivery_mode=PERSISTENT,
        timestamp=datetime.now(UTC),
    )


@lru_cache(1000)
def _wire(name: str) -> str:
    return "cloudEvents:" + name[3:] if name.startswith("ce-") else name


@lru_cache(1000)
def _canonical(name: str) -> str:
    """Our name for a header; none for what the broker added."""
    if name.startswith(("x-delivery-count", "x-acquired-count", "x-death", "x-first-death-", "x-last-death-")):
        return ""
    return "ce-" + name.removeprefix("cloudEvents:") if name.startswith("cloudEvents:") else name


def _headers(message: DeliveredMessage) -> Iterable[tuple[str, Any]]:
    return (message.header.properties.headers or {}).items()


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return str(value) if isinstance(value, int | float | datetime) else None


def _released_key(message: DeliveredMessage) -> str:
    return f"{message.consumer_tag}{message.header.properties.message_id}"


async def _ours(work: Awaitable[T]) -> T:
    """``work``, failing with a connection error where aiormq ends what waits on a dying channel with CancelledError,
    which would pass for a cancellation of ours, or with a bare Exception."""
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    except Exception as error:
        if type(error) is not Exception:
            raise
    raise ConnectionError("the channel is closed")
