"""Spans and metrics of messaging, by the semantic conventions 1.44.0 (messaging spans; Development), written out.

One span per operation: **send** (PRODUCER), **receive** (CLIENT, only where we pull), **process** (CONSUMER),
**settle** (CLIENT), and two that the conventions lack, the waits: **queue** (INTERNAL, from ``sent-at`` to the
hand-over to the handler; written by the consumer, as nobody else sees both ends) and **outbox**.

How a consumer's spans hang together is the *shape* (docs/adr/003), read anew for each message:

========  ==============================  ===========================  =========================
shape     process, queue: parent          process: link to creation    traces of one order
========  ==============================  ===========================  =========================
both      the message's creation context  yes                          one
link      a pull of this message alone    yes                          one per hop
parent    the message's creation context  no                           one
========  ==============================  ===========================  =========================

A receive span of one message is a child of its creation context (shape ``link``: a root with a link), a settle span
of one message a child of process; a batch's always link and never have a parent.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.conventions import Operation

_BAGGAGE = W3CBaggagePropagator()
PROPAGATOR = CompositePropagator([TraceContextTextMapPropagator(), _BAGGAGE])
_FIELDS = ("traceparent", "tracestate", "baggage")

REQUEST = "request"
"""``messaging.operation.name`` of a request by message as a whole; the conventions have no operation type for it."""
MAX_LINKS = 128
"""The SDK's limit per span; a batch's further links are left out (OpenTelemetry specification, span limits)."""


class Shape(StrEnum):
    """How a consumer's spans are joined to the producer's."""

    BOTH = "both"
    LINK = "link"
    PARENT = "parent"


@dataclass(frozen=True, slots=True)
class Words:
    """A protocol's own words for the operations (``messaging.operation.name``) and its ``messaging.system``."""

    system: str
    send: str
    process: str = "process"
    receive: str = "poll"


class MessagingSpans:
    """The instrumentation of one service's messaging. ``shape`` is asked for each message."""

    def __init__(self, service: str, tracer: Tracer, shape: Callable[[], Shape] = lambda: Shape.BOTH) -> None:
        self.service = service
        self._tracer = tracer
        self._shape = shape
        # then nothing is read out of messages or put together that no span would show
        self._off = isinstance(tracer, NoOpTracer)

    @contextmanager
    def send(
        self, headers: dict[str, str], words: Words, destination: str, attributes: Mapping[str, Any]
    ) -> Iterator[Span]:
        """Around handing a message over. ``headers`` get this span's context (replacing any they had), the baggage
        and ``sent-at``: it is the message's creation context."""
        started = time.perf_counter()
        span = self._tracer.start_span(
            f"{words.send} {destination}",
            kind=SpanKind.PRODUCER,
            attributes=None
            if self._off
            else {
                c.MESSAGING_SYSTEM: words.system,
                c.OPERATION_NAME: words.send,
                c.OPERATION_TYPE: Operation.SEND.value,
                c.DESTINATION_NAME: destination,
                c.MESSAGE_ID: headers.get("ce-id", ""),
                c.LAB_ORDER_ID: headers.get("ce-subject", ""),
                **_said(headers),
                **attributes,
            },
        )
        _inject(headers, span.get_span_context())
        headers[c.HEADER_SENT_AT] = str(time.time_ns())
        error = ""
        try:
            yield span
        except BaseException as raised:
            error = fail(span, raised)
            raise
        finally:
            span.end()
            labels = (self.service, words.system, destination, words.send, error)
            metrics.timer(metrics.CLIENT_OPERATION_DURATION, *labels).observe(time.perf_counter() - started, span)
            metrics.bound(metrics.SENT_MESSAGES, *labels).inc()

    def receive(
        self,
        words: Words,
        destination: str,
        group: str,
        messages: Sequence[Mapping[str, str]],
        started_ns: int,
        attributes: Mapping[str, Any],
    ) -> SpanContext:
        """Write the span of a pull that brought ``messages`` (their headers; at least one) and give its context.

        A pull that brings nothing gets no span: an idle consumer would fill the store with them. For the same reason
        the span begins no earlier than its first message was sent: idle waiting belongs to nobody's trace.
        """
        if self._off:
            self._measure_many(words, words.receive, destination, started_ns, "", INVALID_SPAN)
            return INVALID_SPAN.get_span_context()
        creations = [creation_context(headers) for headers in messages]
        producers = [get_current_span(context).get_span_context() for context in creations]
        single_parent = _without_span(creations[0], None) if self._shape() is Shape.LINK else creations[0]
        sent = [sent_ns for headers in messages if (sent_ns := sent_at_ns(headers)) is not None]
        return self._many(
            *(words, words.receive, Operation.RECEIVE, destination, messages),
            single_parent=single_parent,
            single_links=[] if self._shape() is Shape.PARENT else producers,
            batch_links=producers,
            attributes={c.CONSUMER_GROUP: group, **attributes},
            started_ns=max(started_ns, min(sent, default=0)),
        )

    @contextmanager
    def process(
        self,
        words: Words,
        destination: str,
        group: str,
        headers: Mapping[str, str],
        *,
        attempt: int,
        attributes: Mapping[str, Any],
        received_with: SpanContext | None = None,
        released_at_ns: int | None = None,
    ) -> Iterator[Span]:
        """Around handling one message; the wait before it is written as a ``queue`` span first.

        Everything inside runs in the message's context: its baggage, and the process span as current.
        An exception marks the span and goes on; one that is dealt with inside marks it by ``fail``.
        """
        shape = self._shape()
        creation = creation_context(headers)
        producer = get_current_span(creation).get_span_context()
        if "traceparent" in headers and not producer.is_valid:
            metrics.BAD_CONTEXT.labels(self.service).inc()
        parent = creation
        if shape is Shape.LINK:
            parent = _without_span(creation, received_with)
        now_ns = time.time_ns()
        started = time.perf_counter()
        source = headers.get("ce-source", "")
        common: dict[str, Any] = {
            c.DESTINATION_NAME: destination,
            c.MESSAGE_ID: headers.get("ce-id", ""),
            c.LAB_ORDER_ID: headers.get("ce-subject", ""),
        }
        if producer.is_valid:
            common[c.LAB_PRODUCER_TRACE_ID] = f"{producer.trace_id:032x}"
            common[c.LAB_PRODUCER_SPAN_ID] = f"{producer.span_id:016x}"
            common[c.LAB_PRODUCER_SERVICE] = source
        span = self._tracer.start_span(
            f"{words.process} {destination}",
            parent,
            SpanKind.CONSUMER,
            {
                c.MESSAGING_SYSTEM: words.system,
                c.OPERATION_NAME: words.process,
                c.OPERATION_TYPE: Operation.PROCESS.value,
                c.CONSUMER_GROUP: group,
                c.LAB_DELIVERY_ATTEMPT: attempt,
                **_said(headers),
                **common,
                **attributes,
            },
            [Link(producer)] if producer.is_valid and shape is not Shape.PARENT else None,
            now_ns,
        )
        inside = set_span_in_context(span, parent)
        self._queue_span(
            inside if shape is Shape.LINK else creation,
            words,
            destination,
            source,
            headers,
            common,
            now_ns,
            released_at_ns,
        )
        token = otel_context.attach(inside)
        error = ""
        try:
            yield span
        except BaseException as raised:
            error = fail(span, raised)
            raise
        finally:
            otel_context.detach(token)
            error = error or _error_type(span)
            span.end()
            labels = (self.service, words.system, destination, words.process, error)
            metrics.timer(metrics.PROCESS_DURATION, *labels).observe(time.perf_counter() - started, span)
            metrics.bound(metrics.CONSUMED_MESSAGES, *labels).inc()

    @contextmanager
    def request(self, words: Words, destination: str, message_id: str, order_id: str) -> Iterator[Span]:
        """Around a request by message, from before it is sent until its answer was heard: what a caller sees of it. Its
        conversation is named after the request, as in the spans of the two messages."""
        with self._tracer.start_as_current_span(
            f"{REQUEST} {destination}",
            kind=SpanKind.CLIENT,
            attributes={
                c.MESSAGING_SYSTEM: words.system,
                c.OPERATION_NAME: REQUEST,
                c.DESTINATION_NAME: destination,
                c.CONVERSATION_ID: message_id,
                c.LAB_ORDER_ID: order_id,
            },
            record_exception=False,
        ) as span:
            yield span

    @contextmanager
    def settle(
        self,
        words: Words,
        operation: str,
        destination: str,
        headers: Mapping[str, str],
        attributes: Mapping[str, Any],
    ) -> Iterator[Span]:
        """Around settling one message within its process span."""
        started = time.perf_counter()
        span = self._tracer.start_span(
            f"{operation} {destination}",
            kind=SpanKind.CLIENT,
            attributes={
                c.MESSAGING_SYSTEM: words.system,
                c.OPERATION_NAME: operation,
                c.OPERATION_TYPE: Operation.SETTLE.value,
                c.DESTINATION_NAME: destination,
                c.MESSAGE_ID: headers.get("ce-id", ""),
                c.LAB_ORDER_ID: headers.get("ce-subject", ""),
                **attributes,
            },
        )
        error = ""
        try:
            yield span
        except BaseException as raised:
            error = fail(span, raised)
            raise
        finally:
            span.end()
            metrics.timer(
                metrics.CLIENT_OPERATION_DURATION, self.service, words.system, destination, operation, error
            ).observe(time.perf_counter() - started, span)

    def settle_batch(
        self,
        words: Words,
        operation: str,
        destination: str,
        settled: Sequence[tuple[Mapping[str, str], SpanContext]],
        started_ns: int,
        attributes: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None:
        """Write the span of one settlement of several messages: their headers and process spans (at least one).

        Of one message it is a child of the process span; of several it links to each of them. Of what was passed over,
        or handled unsampled, there is no span to lead to.
        """
        settled = [each for each in settled if each[1].trace_flags.sampled] or settled[:1]
        if self._off:
            name = "" if error is None else fail(INVALID_SPAN, error)
            self._measure_many(words, operation, destination, started_ns, name, INVALID_SPAN)
            return
        processed = [context for _, context in settled]
        headers = [each for each, _ in settled]
        own = set_span_in_context(NonRecordingSpan(processed[0]), creation_context(headers[0]))
        self._many(
            *(words, operation, Operation.SETTLE, destination, headers),
            single_parent=own,
            single_links=[],
            batch_links=processed,
            attributes=attributes,
            started_ns=started_ns,
            error=error,
        )

    @contextmanager
    def outbox(self, context: Context, order_id: str, style: str, transport: str, written_ns: int) -> Iterator[None]:
        """Write the wait of a stored message as a span, from ``written_ns`` to now, and go on in the context that was
        stored with it."""
        now_ns = time.time_ns()
        span = self._wait_span(
            f"{Operation.OUTBOX} {self.service}",
            context,
            Operation.OUTBOX,
            written_ns,
            now_ns,
            {c.LAB_ORDER_ID: order_id},
        )
        metrics.OUTBOX_DURATION.labels(self.service, style, transport).observe(
            max(0, now_ns - written_ns) / 1e9, metrics.exemplar(span)
        )
        token = otel_context.attach(set_span_in_context(span, context))
        try:
            yield
        finally:
            otel_context.detach(token)

    def _queue_span(
        self,
        parent: Context,
        words: Words,
        destination: str,
        source: str,
        headers: Mapping[str, str],
        common: Mapping[str, Any],
        now_ns: int,
        released_at_ns: int | None,
    ) -> None:
        since_ns = released_at_ns or sent_at_ns(headers)
        if since_ns is None:
            return
        span = self._wait_span(f"{Operation.QUEUE} {destination}", parent, Operation.QUEUE, since_ns, now_ns, common)
        metrics.timer(metrics.QUEUE_DURATION, source, destination, self.service, words.system).observe(
            max(0, now_ns - since_ns) / 1e9, span
        )

    def _wait_span(
        self,
        name: str,
        parent: Context,
        wait: Operation,
        since_ns: int,
        until_ns: int,
        attributes: Mapping[str, Any],
    ) -> Span:
        skew = {c.LAB_CLOCK_SKEW: (since_ns - until_ns) / 1e9} if since_ns > until_ns else {}
        span = self._tracer.start_span(
            name,
            parent,
            SpanKind.INTERNAL,
            {c.LAB_WAIT: wait.value, **attributes, **skew},
            start_time=min(since_ns, until_ns),
        )
        span.end(until_ns)
        return span

    def _many(
        self,
        words: Words,
        operation: str,
        kind: Operation,
        destination: str,
        messages: Sequence[Mapping[str, str]],
        *,
        single_parent: Context,
        single_links: Sequence[SpanContext],
        batch_links: Sequence[SpanContext],
        attributes: Mapping[str, Any],
        started_ns: int,
        error: BaseException | None = None,
    ) -> SpanContext:
        single = len(messages) == 1
        parent = single_parent if single else _shared_baggage(messages)
        about = (
            {c.MESSAGE_ID: messages[0].get("ce-id", ""), c.LAB_ORDER_ID: messages[0].get("ce-subject", "")}
            if single
            else {c.BATCH_MESSAGE_COUNT: len(messages)}
        )
        span = self._tracer.start_span(
            f"{operation} {destination}",
            parent,
            SpanKind.CLIENT,
            {
                c.MESSAGING_SYSTEM: words.system,
                c.OPERATION_NAME: operation,
                c.OPERATION_TYPE: kind.value,
                c.DESTINATION_NAME: destination,
                **about,
                **attributes,
            },
            [Link(x) for x in (single_links if single else batch_links) if x.is_valid][:MAX_LINKS],
            started_ns,
        )
        name = fail(span, error) if error is not None else ""
        span.end()
        self._measure_many(words, operation, destination, started_ns, name, span)
        return span.get_span_context()

    def _measure_many(
        self, words: Words, operation: str, destination: str, started_ns: int, error: str, span: Span
    ) -> None:
        labels = (self.service, words.system, destination, operation, error)
        metrics.timer(metrics.CLIENT_OPERATION_DURATION, *labels).observe((time.time_ns() - started_ns) / 1e9, span)


def creation_context(headers: Mapping[str, str]) -> Context:
    """The context that the message was created in (empty where it has none or it cannot be read), and its baggage."""
    return _extract(headers.get("traceparent"), headers.get("tracestate"), headers.get("baggage"))


@lru_cache(1000)
def _extract(*values: str | None) -> Context:
    """Remembered, as receive and process ask for the same message; a Context never changes."""
    carrier = {name: value for name, value in zip(_FIELDS, values, strict=True) if value is not None}
    return PROPAGATOR.extract(carrier, Context())


def _inject(headers: dict[str, str], context: SpanContext) -> None:
    """What ``PROPAGATOR.inject`` writes for ``context`` and the current baggage, at a third of its cost. A context
    that ``headers`` had before is replaced as a whole."""
    for name in _FIELDS:
        headers.pop(name, None)
    if context.is_valid:
        headers["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        if context.trace_state:
            headers["tracestate"] = context.trace_state.to_header()
    _BAGGAGE.inject(headers)


def fail(span: Span, error: BaseException) -> str:
    """Mark ``span`` as failed by ``error`` and give its ``error.type``. A refusal is an event and comes never here."""
    name = type(error).__qualname__
    span.set_attribute(c.ERROR_TYPE, name)
    span.set_status(Status(StatusCode.ERROR, str(error)[:200]))
    return name


def _error_type(span: Span) -> str:
    """What ``fail`` has said of ``span``; empty where nothing has failed, or nobody records."""
    return str((getattr(span, "attributes", None) or {}).get(c.ERROR_TYPE, ""))


def _said(headers: Mapping[str, str]) -> dict[str, str]:
    """What the message is, and the id that a request and its answer share: the request's own."""
    said = {c.EVENT_TYPE: headers["ce-type"]} if headers.get("ce-type") else {}
    conversation = headers.get("ce-correlationid") or ("reply-to" in headers and headers.get("ce-id"))
    return {**said, c.CONVERSATION_ID: conversation} if conversation else said


def sent_at_ns(headers: Mapping[str, str], header: str = c.HEADER_SENT_AT) -> int | None:
    """When the message was handed over; None where that is not said or cannot be."""
    text = headers.get(header, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _without_span(context: Context, instead: SpanContext | None) -> Context:
    """The baggage of ``context``, under ``instead`` or under no span at all."""
    return set_span_in_context(INVALID_SPAN if instead is None else NonRecordingSpan(instead), context)


def _shared_baggage(messages: Sequence[Mapping[str, str]]) -> Context:
    """A root context with the baggage members on which all messages of a batch agree."""
    headers = {each.get("baggage", "") for each in messages}
    shared = set.intersection(*({member for member in header.split(",") if member} for header in headers))
    return PROPAGATOR.extract({"baggage": ",".join(sorted(shared))}, Context())
