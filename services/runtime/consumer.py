"""The loop that every subscriber runs: take a delivery, trace it, decode it, hand it to its style, settle it.

Several at once, one at a time per order. A failure of the wire is nobody's fault and is tried again for as long as it
takes; a failure of the handler is counted (in the database, so that a crash does not reset it) and after
``messaging.max_attempts`` the message is a dead letter. What cannot be decoded is one at once.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context

from services.domain.messages import MESSAGES
from services.runtime import ledger
from services.runtime.conditions import Conditions
from services.runtime.ledger import Handling, Ledger
from services.runtime.live import Live
from services.runtime.serial import Serial
from services.storage.ledger import Outcome, entry
from services.storage.participant import Failures
from services.styles import STYLES
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import MessagingSpans, fail, sent_at_ns
from services.transports import cloudevents
from services.transports.errors import TransportError, Undecodable
from services.transports.ports import Broker, Delivery, Message, dead_letter_id

log = structlog.get_logger()

MAX_BACKOFF_S = 5.0
_NOT_SAMPLED = NonRecordingSpan(SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.DEFAULT)))


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
        ledger: Ledger | None = None,
    ) -> None:
        self._broker = broker
        self._group = group
        self._react = react
        self._spans = spans
        self._failures = failures
        self._live = live
        self._conditions = Conditions(group, live)
        self._max_in_flight = max_in_flight
        self._ledger = ledger
        self._serial = Serial()
        self._in_hand: dict[asyncio.Task[None], Delivery] = {}

    async def run(self, channel: str) -> None:
        """Consume ``channel`` until cancelled; what is in hand then goes on (``drained``)."""
        labels = self._labels(channel)
        metrics.show_subscription(*labels)
        metrics.OLDEST_MESSAGE.labels(*labels).set_function(lambda: self._oldest_s(channel))
        async for delivery in self._broker.subscribe(channel, self._group, max_in_flight=self._max_in_flight):
            if self._live.faults and self._concerns(delivery.headers):
                await self._conditions.free(delivery)
            # an empty context: a task inherits the span that happens to be current where it is made
            task = asyncio.create_task(self._handle(delivery), context=contextvars.Context())
            self._in_hand[task] = delivery
            task.add_done_callback(self._in_hand.pop)

    @property
    def busy(self) -> bool:
        """Whether something is in hand."""
        return bool(self._in_hand)

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
        if not self._concerns(delivery.headers):
            await self._pass_over(delivery)
            return
        if delivery.attempt > 1:
            metrics.REDELIVERIES.labels(*self._labels(delivery.channel)).inc()
        replayed_ns = sent_at_ns(delivery.headers, c.HEADER_REPLAYED)
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
                    released_at_ns=replayed_ns or delivery.released_at_ns,
                ) as span:
                    if replayed_ns:
                        span.set_attribute(c.LAB_REPLAYED, True)  # noqa: FBT003
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

    def _concerns(self, headers: Mapping[str, str]) -> bool:
        """Whether this group has something to do with a message: not with its own words, where it reads a channel that
        it writes, and not with what was put back for another. What cannot be told is looked at."""
        if headers.get("ce-source") == self._group or headers.get(c.HEADER_ONLY_GROUP, self._group) != self._group:
            return False
        style, name = STYLES.get(headers.get("ce-labstyle", "")), headers.get("ce-type", "")
        return style is None or name not in MESSAGES or style.wants(self._group, name)

    async def _pass_over(self, delivery: Delivery) -> None:
        """Settle what is not for this group. No span tells of it: nothing was done."""
        token = attach(set_span_in_context(_NOT_SAMPLED))
        try:
            await delivery.ack()
        except Exception as error:
            log.warning("not_settled", channel=delivery.channel, error=repr(error))
        finally:
            detach(token)

    async def _attempt(self, delivery: Delivery, message: Message) -> None:
        handling = ledger.begin()
        try:
            await self._do(message)
            await self._note(delivery, Outcome.KNOWN if handling.known else Outcome.HANDLED, handling)
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
                await self._give_up(delivery, c.GivenUp.FAILED, f"{type(error).__name__}: {error}", handling)
            else:
                await self._again(delivery, max(attempts, delivery.attempt), str(error))
        else:
            await delivery.ack()
            self._conditions.acknowledged()

    async def _do(self, message: Message) -> None:
        if error := await self._conditions.before(message):
            raise error
        await self._react(message)
        self._conditions.handled()

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

    async def _note(self, delivery: Delivery, outcome: Outcome, handling: Handling | None = None) -> None:
        """Have the ledger know what became of ``delivery``, and what was said meanwhile."""
        if self._ledger is None:
            return
        heard = entry(
            delivery.headers,
            broker=self._broker.name,
            channel=delivery.channel,
            message_id=dead_letter_id(delivery.headers, delivery.body),
            outcome=outcome,
        )
        await self._ledger.note([*(handling.said if handling is not None else ()), heard])

    async def _give_up(
        self, delivery: Delivery, kind: c.GivenUp, reason: str, handling: Handling | None = None
    ) -> None:
        get_current_span().set_attribute(c.LAB_DEAD_LETTER_REASON, reason)
        metrics.DEAD_LETTERS.labels(*self._labels(delivery.channel), kind.value).inc()
        log.warning("dead_letter", channel=delivery.channel, attempts=delivery.attempt, reason=reason)
        try:
            await self._note(delivery, Outcome.DEAD, handling)
        except Exception as error:  # the broker keeps it, and tells who asks
            log.warning("not_noted", error=repr(error))
        await delivery.reject(reason)
