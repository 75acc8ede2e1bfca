"""The loop that every subscriber runs: take a delivery, trace it, decode it, hand it to its style, settle it.

Several at once, one at a time per order. A failure of the wire is nobody's fault and is tried again for as long as it
takes; a failure of the handler is counted (in the database, so that a crash does not reset it) and after
``messaging.max_attempts`` the message is a dead letter. What cannot be decoded is one at once.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable

import structlog
from opentelemetry.trace import get_current_span

from services.runtime.live import Live
from services.runtime.serial import Serial
from services.storage.participant import Failures
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import MessagingSpans, fail, sent_at_ns
from services.transports import cloudevents
from services.transports.errors import TransportError, Undecodable
from services.transports.ports import Broker, Delivery, Message

log = structlog.get_logger()

MAX_BACKOFF_S = 5.0


class Consumer:
    """One service's subscriptions to one broker; ``react`` is what its styles make of a message."""

    def __init__(
        self,
        broker: Broker,
        group: str,
        react: Callable[[Message], Awaitable[None]],
        *,
        spans: MessagingSpans,
        failures: Failures,
        live: Live,
        max_in_flight: int,
    ) -> None:
        self._broker = broker
        self._group = group
        self._react = react
        self._spans = spans
        self._failures = failures
        self._live = live
        self._max_in_flight = max_in_flight
        self._serial = Serial()
        self._in_hand: dict[asyncio.Task[None], Delivery] = {}

    async def run(self, channel: str) -> None:
        """Consume ``channel`` until cancelled; what is in hand then goes on (``drained``)."""
        labels = self._labels(channel)
        metrics.show_subscription(*labels)
        metrics.OLDEST_MESSAGE.labels(*labels).set_function(lambda: self._oldest_s(channel))
        async for delivery in self._broker.subscribe(channel, self._group, max_in_flight=self._max_in_flight):
            # an empty context: a task inherits the span that happens to be current where it is made
            task = asyncio.create_task(self._handle(delivery), context=contextvars.Context())
            self._in_hand[task] = delivery
            task.add_done_callback(self._in_hand.pop)

    async def drained(self) -> None:
        """Return when nothing is in hand any more."""
        while self._in_hand:
            await asyncio.wait(self._in_hand)

    def _labels(self, channel: str) -> tuple[str, str, str]:
        return self._group, self._broker.words.system, channel

    def _oldest_s(self, channel: str) -> float:
        """When the oldest message in hand was sent, in seconds since 1970; 0 if there is none. Asked at a scrape,
        so that a message costs nothing more."""
        sent = (sent_at_ns(d.headers) for d in self._in_hand.values() if d.channel == channel)
        return min((ns for ns in sent if ns is not None), default=0) / 1e9

    async def _handle(self, delivery: Delivery) -> None:
        if delivery.attempt > 1:
            metrics.REDELIVERIES.labels(*self._labels(delivery.channel)).inc()
        async with self._serial.lane(delivery.key):
            try:
                with self._spans.process(
                    self._broker.words,
                    delivery.destination or delivery.channel,
                    delivery.group,
                    delivery.headers,
                    attempt=delivery.attempt,
                    attributes=delivery.attributes,
                    received_with=delivery.received_with,
                    released_at_ns=delivery.released_at_ns,
                ) as span:
                    structlog.contextvars.bind_contextvars(service=self._group)
                    try:
                        message = cloudevents.decode(delivery.headers, delivery.body)
                        structlog.contextvars.bind_contextvars(order_id=message.subject)
                        await self._attempt(delivery, message)
                    except Undecodable as error:
                        fail(span, error)
                        metrics.REFUSED_INPUT.labels(self._group, self._broker.name, "undecodable").inc()
                        await self._give_up(delivery, c.GivenUp.UNDECODABLE, str(error))
            except Exception as error:
                # the settlement itself failed: the broker will deliver again what it has not heard of
                log.warning("not_settled", channel=delivery.channel, error=repr(error))

    async def _attempt(self, delivery: Delivery, message: Message) -> None:
        try:
            await self._react(message)
        except Undecodable:
            raise
        except TransportError as error:
            fail(get_current_span(), error)
            log.info("retry", channel=delivery.channel, error=str(error))
            await self._again(delivery, delivery.attempt, str(error))
        except Exception as error:
            fail(get_current_span(), error)
            attempts = await self._count(message)
            log.warning("handler_failed", channel=delivery.channel, attempts=attempts, exc_info=error)
            if attempts >= self._live["messaging.max_attempts"]:
                await self._give_up(delivery, c.GivenUp.FAILED, f"{type(error).__name__}: {error}")
            else:
                await self._again(delivery, max(attempts, delivery.attempt), str(error))
        else:
            await delivery.ack()

    async def _count(self, message: Message) -> int:
        """How often handling ``message`` has failed; 0 while the database is away and cannot tell."""
        try:
            return await self._failures.add(f"{self._group}/{message.id}")
        except Exception as error:
            log.warning("not_counted", error=repr(error))
            return 0

    async def _again(self, delivery: Delivery, attempts: int, reason: str) -> None:
        metrics.RETRIES.labels(*self._labels(delivery.channel)).inc()
        backoff_s = min(0.1 * 2 ** min(attempts - 1, 10), MAX_BACKOFF_S) * random.uniform(0.5, 1)
        await delivery.reject(reason, retry_after_s=backoff_s)

    async def _give_up(self, delivery: Delivery, kind: c.GivenUp, reason: str) -> None:
        get_current_span().set_attribute(c.LAB_DEAD_LETTER_REASON, reason)
        metrics.DEAD_LETTERS.labels(*self._labels(delivery.channel), kind.value).inc()
        log.warning("dead_letter", channel=delivery.channel, attempts=delivery.attempt, reason=reason)
        await delivery.reject(reason)
