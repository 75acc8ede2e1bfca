"""The instruments of one process, in prometheus-client's registry (the OpenTelemetry SDK's own join them there).

Each is named in ``conventions``. Histograms are in seconds and carry the current trace as an exemplar, which a
scraper sees when it asks for OpenMetrics. No label holds an id of an order, a message or a person.
"""

import time
from functools import lru_cache
from typing import Any

from opentelemetry.trace import Span
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from services.telemetry import conventions as c

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asks for

EXEMPLAR_EVERY_S = 0.5
_MESSAGING = (c.LABEL_SERVICE, c.LABEL_SYSTEM, c.LABEL_DESTINATION, c.LABEL_OPERATION, c.LABEL_ERROR)
_SUBSCRIPTION = (c.LABEL_SERVICE, c.LABEL_SYSTEM, c.LABEL_DESTINATION)
_FLOW = (c.LABEL_SERVICE, c.LABEL_STYLE, c.LABEL_TRANSPORT)


def _histogram(name: str, text: str, labels: tuple[str, ...]) -> Histogram:
    return Histogram(name, text, labels, buckets=c.DURATION_BUCKETS_S)


CLIENT_OPERATION_DURATION = _histogram(
    c.METRIC_CLIENT_OPERATION_DURATION, "Create, send, receive or settle, as the client sees it", _MESSAGING
)
PROCESS_DURATION = _histogram(c.METRIC_PROCESS_DURATION, "Handling one message", _MESSAGING)
SENT_MESSAGES = Counter(c.METRIC_SENT_MESSAGES, "Messages that were tried to send", _MESSAGING)
CONSUMED_MESSAGES = Counter(c.METRIC_CONSUMED_MESSAGES, "Deliveries, redeliveries too", _MESSAGING)
QUEUE_DURATION = _histogram(
    c.METRIC_QUEUE_DURATION,
    "Wait between send and receive; the count is an edge of the service graph",
    (c.LABEL_SOURCE, c.LABEL_DESTINATION, c.LABEL_SERVICE, c.LABEL_SYSTEM),
)
OUTBOX_DURATION = _histogram(c.METRIC_OUTBOX_DURATION, "Wait between acceptance and send", _FLOW)
RPC_SERVER_DURATION = _histogram(
    c.METRIC_RPC_SERVER_DURATION,
    "A call as the server sees it",
    (c.LABEL_SERVICE, c.LABEL_RPC_SYSTEM, c.LABEL_RPC_METHOD, c.LABEL_ERROR),
)
RPC_CLIENT_DURATION = _histogram(
    c.METRIC_RPC_CLIENT_DURATION,
    "A call as the caller sees it",
    (c.LABEL_SERVICE, c.LABEL_RPC_SYSTEM, c.LABEL_RPC_METHOD, c.LABEL_ERROR),
)
_PEER = (c.LABEL_SERVICE, c.LABEL_PEER)
RPC_BREAKER_STATE = Gauge(
    c.METRIC_RPC_BREAKER_STATE, "Circuit breaker: 0 closed, 1 half open, 2 open", (*_PEER, c.LABEL_TRANSPORT)
)
RPC_REJECTED = Counter(c.METRIC_RPC_REJECTED, "Calls that were not made, or not again", (*_PEER, c.LABEL_REASON))
RPC_RETRIES = Counter(c.METRIC_RPC_RETRIES, "Calls that were made again", _PEER)
ORDER_ACCEPT_DURATION = _histogram(c.METRIC_ORDER_ACCEPT_DURATION, "Until the first answer", (*_FLOW, c.LABEL_ERROR))
ORDER_COMPLETE_DURATION = _histogram(
    c.METRIC_ORDER_COMPLETE_DURATION, "Until the order had ended", (*_FLOW, c.LABEL_STATE)
)
PROJECTION_DELAY = _histogram(
    c.METRIC_PROJECTION_DELAY, "Until an event is in the read models", (c.LABEL_SERVICE, c.LABEL_STYLE)
)
ORDERS = Counter(c.METRIC_ORDERS, "Orders by the state that they reached", (*_FLOW, c.LABEL_STATE))
RECOVERED = Counter(c.METRIC_RECOVERED, "Orders that a recovery pass ended", (*_FLOW, c.LABEL_STATE))
EFFECTS = Counter(c.METRIC_EFFECTS, "Effects that were carried out", (c.LABEL_SERVICE, c.LABEL_ACTION))
DUPLICATES = Counter(c.METRIC_DUPLICATES, "Messages or calls whose effect was not repeated", (c.LABEL_SERVICE,))
RETRIES = Counter(c.METRIC_RETRIES, "Deliveries given back to come again", _SUBSCRIPTION)
REDELIVERIES = Counter(c.METRIC_REDELIVERIES, "Deliveries of what was handed out before", _SUBSCRIPTION)
DEAD_LETTERS = Counter(c.METRIC_DEAD_LETTERS, "Deliveries given up", (*_SUBSCRIPTION, c.LABEL_REASON))
UNDELIVERED = Counter(c.METRIC_UNDELIVERED, "Messages that a group will not get", _SUBSCRIPTION)
SUBSCRIPTIONS_LOST = Counter(c.METRIC_SUBSCRIPTIONS_LOST, "Subscriptions that ended unasked", _SUBSCRIPTION)
LAG = Gauge(c.METRIC_LAG, "Messages that the group has yet to handle", _SUBSCRIPTION)
OLDEST_MESSAGE = Gauge(c.METRIC_OLDEST_MESSAGE, "When the oldest message in hand was sent", _SUBSCRIPTION)
UNEXPECTED_REPLIES = Counter(c.METRIC_UNEXPECTED_REPLIES, "Answers that nobody waits for", (*_FLOW, c.LABEL_REPLY))
REQUESTS_REPEATED = Counter(c.METRIC_REQUESTS_REPEATED, "Requests that were sent again", _SUBSCRIPTION)
REFUSED_INPUT = Counter(
    c.METRIC_REFUSED_INPUT, "Input that made no sense", (c.LABEL_SERVICE, c.LABEL_TRANSPORT, c.LABEL_REASON)
)
BAD_CONTEXT = Counter(c.METRIC_BAD_CONTEXT, "Messages whose trace context was not readable", (c.LABEL_SERVICE,))
OUTBOX_PENDING = Gauge(c.METRIC_OUTBOX_PENDING, "Messages accepted and not yet sent", (c.LABEL_SERVICE,))
OUTBOX_OLDEST = Gauge(c.METRIC_OUTBOX_OLDEST, "When the oldest of them was written", (c.LABEL_SERVICE,))
ORDERS_OPEN = Gauge(c.METRIC_ORDERS_OPEN, "Orders accepted and not ended", _FLOW)
ORDERS_STUCK = Gauge(c.METRIC_ORDERS_STUCK, f"Orders open for more than {c.STUCK_AFTER_S:g} s", _FLOW)
ORDERS_OLDEST = Gauge(c.METRIC_ORDERS_OLDEST, "When the oldest open order was accepted", _FLOW)


def show_subscription(*labels: str) -> None:
    """Have the counters of a subscription stand at 0 until something goes wrong: of one that is not there, nobody
    could tell how much it rose. ``labels`` are service, system and destination."""
    RETRIES.labels(*labels)
    REDELIVERIES.labels(*labels)
    for reason in c.GivenUp:
        DEAD_LETTERS.labels(*labels, reason.value)


def show_calls(service: str, peer: str) -> None:
    """The same for the calls of ``service`` to ``peer``."""
    RPC_RETRIES.labels(service, peer)
    for reason in c.NotCalled:
        RPC_REJECTED.labels(service, peer, reason.value)


@lru_cache(10_000)
def bound(instrument: Any, *labels: str) -> Any:
    """``instrument`` with its labels, remembered: looking a child up costs more than counting with it."""
    return instrument.labels(*labels)


class Timer:
    """One histogram with its labels. Keeping an exemplar costs twice what the observation does, so that of half a
    second only the first and those slower than any before it get one: what a scraper would see."""

    __slots__ = ("_child", "_renew_at", "_slowest_s")

    def __init__(self, child: Histogram) -> None:
        self._child = child
        self._renew_at = 0.0
        self._slowest_s = 0.0

    def observe(self, seconds: float, span: Span) -> None:
        now = time.monotonic()
        if seconds <= self._slowest_s and now < self._renew_at:
            self._child.observe(seconds)
            return
        if now >= self._renew_at:
            self._renew_at = now + EXEMPLAR_EVERY_S
        self._slowest_s = seconds
        self._child.observe(seconds, exemplar(span))


@lru_cache(10_000)
def timer(histogram: Histogram, *labels: str) -> Timer:
    """The timer of ``histogram`` with these labels, the same one each time."""
    return Timer(histogram.labels(*labels))


def exemplar(span: Span) -> dict[str, str] | None:
    """The exemplar that leads from a metric to ``span``; None where it is not sampled."""
    context = span.get_span_context()
    if not context.trace_flags.sampled:
        return None
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
