"""The spans of messaging, one by one: waits that cannot be, batches, redeliveries, forwarding, failures."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags, get_current_span

from services.telemetry import conventions as c
from services.telemetry.messaging import MAX_LINKS, PROPAGATOR, MessagingSpans, Shape, Words, creation_context, fail
from services.telemetry.setup import Telemetry, set_up
from tests.services.parts import metric
from tests.telemetry.walker import plain, problems

WORDS = Words("kafka", send="send", process="process", receive="poll")
PLACE = "orders.events"
SECOND = 1_000_000_000


class Lab:
    """The telemetry of one service, whose spans can be looked at."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.telemetry: Telemetry = set_up("inventory", exporter=self.exporter)
        self.messaging: MessagingSpans = self.telemetry.messaging

    def shape(self, shape: Shape | str) -> None:
        self.telemetry.shape = Shape(shape)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def sent(self, number: int = 1, style: str = "choreography", **headers: str) -> dict[str, str]:
        """The headers of a message as they are on the wire, sent in a trace of its own."""
        context = baggage.set_baggage(c.LAB_TRANSPORT, "kafka", baggage.set_baggage(c.LAB_STYLE, style))
        token = attach(context)
        try:
            carried = {"ce-id": f"m-{number}", "ce-subject": f"o-{number}", "ce-source": "orders"}
            with self.messaging.send(carried, WORDS, PLACE, {}):
                pass
        finally:
            detach(token)
        return {**carried, **headers}

    def handle(self, headers: Mapping[str, str], **how: Any) -> ReadableSpan:
        """The process span of a message."""
        with self.messaging.process(
            WORDS, PLACE, "inventory", headers, **{"attempt": 1, "attributes": {}, **how}
        ) as span:
            pass
        return next(each for each in self.spans if each.context.span_id == span.get_span_context().span_id)

    def poll(self, *messages: Mapping[str, str], started_ns: int | None = None) -> SpanContext:
        began = time.time_ns() if started_ns is None else started_ns
        return self.messaging.receive(WORDS, PLACE, "inventory", messages, began, {})

    def wait(self) -> ReadableSpan:
        return self.one(f"queue {PLACE}")

    def sound(self) -> None:
        assert problems(map(plain, self.spans), self.telemetry.shape) == []


@pytest.fixture
def lab() -> Lab:
    return Lab()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def length_s(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def creation(headers: Mapping[str, str]) -> SpanContext:
    return get_current_span(creation_context(headers)).get_span_context()


# --- sending ------------------------------------------------------------------------------------------------------
def test_a_send_puts_its_own_context_into_the_message(lab: Lab) -> None:
    """traceparent, baggage and sent-at; the span is the message's creation context."""
    before = time.time_ns()
    headers = lab.sent()
    span = lab.one(f"send {PLACE}")
    assert span.kind is SpanKind.PRODUCER
    assert creation(headers).span_id == span.context.span_id
    assert "lab.style=choreography" in headers["baggage"]
    assert before <= int(headers[c.HEADER_SENT_AT]) <= time.time_ns()
    lab.sound()


def test_forwarding_replaces_the_context_of_the_message_before(lab: Lab) -> None:
    """Headers that were received and are sent on carry one context: the new one, whole; and a new sent-at."""
    first = lab.sent(tracestate="vendor=old")
    second = {**first, c.HEADER_SENT_AT: "1", "baggage": "lab.run_id=somebody-elses"}
    with lab.messaging.process(WORDS, PLACE, "inventory", first, attempt=1, attributes={}):  # noqa: SIM117
        with lab.messaging.send(second, WORDS, "next", {}):
            pass
    forwarded = lab.one("send next")
    assert creation(second).span_id == forwarded.context.span_id != creation(first).span_id
    assert forwarded.parent is not None
    assert forwarded.parent.span_id == lab.one(f"process {PLACE}").context.span_id
    assert int(second[c.HEADER_SENT_AT]) > int(first[c.HEADER_SENT_AT])
    assert "somebody-elses" not in second["baggage"]
    assert "lab.style=choreography" in second["baggage"]
    assert second["tracestate"] == "vendor=old", "the state goes with the trace, which the message continues"


def test_a_new_trace_does_not_inherit_the_headers_of_the_message_before(lab: Lab) -> None:
    """Sent on outside of its handling: neither the state nor the baggage of the trace that it came from is left."""
    second = lab.sent(tracestate="vendor=old")
    with lab.messaging.send(second, WORDS, "next", {}):
        pass
    assert creation(second).trace_id == lab.one("send next").context.trace_id
    assert not {"tracestate", "baggage"} & set(second)


@pytest.mark.parametrize("error", [ValueError("x" * 500), asyncio.CancelledError()])
def test_a_send_that_fails_is_an_error_and_counted_as_one(lab: Lab, error: BaseException) -> None:
    """Also when it is cancelled: the span ends, the attempt is counted, the exception goes on."""
    kind = type(error).__name__
    labels = {
        "service": "inventory",
        "messaging_system": "kafka",
        "messaging_destination_name": PLACE,
        "messaging_operation_name": "send",
        "error_type": kind,
    }
    before = metric("messaging_client_sent_messages_total", **labels)
    with pytest.raises(type(error)), lab.messaging.send({}, WORDS, PLACE, {}):
        raise error
    span = lab.one(f"send {PLACE}")
    assert (span.status.status_code, attributes(span)[c.ERROR_TYPE]) == (StatusCode.ERROR, kind)
    assert len(span.status.description or "") <= 200
    assert metric("messaging_client_sent_messages_total", **labels) == before + 1


# --- handling -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", list(Shape))
def test_the_shape_decides_parents_and_links(lab: Lab, shape: Shape) -> None:
    """both: child and link; link: a root with a link, the wait beside it; parent: child, no link."""
    headers = lab.sent()
    lab.shape(shape)
    process, queue, send = lab.handle(headers), lab.wait(), lab.one(f"send {PLACE}")
    parent = process.parent.span_id if process.parent else None
    links = [link.context.span_id for link in process.links]
    assert (parent, links) == {
        Shape.BOTH: (send.context.span_id, [send.context.span_id]),
        Shape.LINK: (None, [send.context.span_id]),
        Shape.PARENT: (send.context.span_id, []),
    }[shape]
    assert queue.parent is not None
    assert queue.parent.span_id == (process if shape is Shape.LINK else send).context.span_id
    assert attributes(process)[c.LAB_PRODUCER_TRACE_ID] == f"{send.context.trace_id:032x}"
    assert attributes(process)[c.LAB_STYLE] == "choreography", "the baggage comes along in every shape"
    lab.sound()


@pytest.mark.parametrize("shape", list(Shape))
def test_a_message_without_a_context_begins_a_trace(lab: Lab, shape: Shape) -> None:
    """Nobody said who sent it: no parent, no link, no producer; and nothing is counted as broken."""
    before = metric("lab_bad_trace_context_total", service="inventory")
    lab.shape(shape)
    process = lab.handle({"ce-id": "m-1"})
    assert (process.parent, list(process.links)) == (None, [])
    assert not {c.LAB_PRODUCER_TRACE_ID, c.LAB_PRODUCER_SPAN_ID, c.LAB_PRODUCER_SERVICE} & set(attributes(process))
    assert metric("lab_bad_trace_context_total", service="inventory") == before


def test_a_handler_that_raises_marks_the_span_and_goes_on(lab: Lab) -> None:
    with pytest.raises(KeyError), lab.messaging.process(WORDS, PLACE, "g", lab.sent(), attempt=1, attributes={}):
        raise KeyError("x")
    span = lab.one(f"process {PLACE}")
    assert (span.status.status_code, attributes(span)[c.ERROR_TYPE]) == (StatusCode.ERROR, "KeyError")
    assert get_current_span().get_span_context().is_valid is False, "the context is given back"


def test_a_failure_that_is_dealt_with_inside_counts_as_one(lab: Lab) -> None:
    """``fail`` on the span is enough for the metrics to say so, too."""
    labels = {
        "service": "inventory",
        "messaging_system": "kafka",
        "messaging_destination_name": PLACE,
        "messaging_operation_name": "process",
    }
    name = "messaging_client_consumed_messages_total"
    before = [metric(name, **labels, error_type=error) for error in ("", "ValueError")]
    with lab.messaging.process(WORDS, PLACE, "g", lab.sent(), attempt=1, attributes={}) as span:
        assert fail(span, ValueError("no")) == "ValueError"
    lab.handle(lab.sent(2))
    after = [metric(name, **labels, error_type=error) for error in ("", "ValueError")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


# --- the wait -----------------------------------------------------------------------------------------------------
def test_the_wait_is_from_sent_at_to_the_handling(lab: Lab) -> None:
    """As a span and in the histogram, with the same length."""
    labels = {
        "source": "orders",
        "messaging_destination_name": PLACE,
        "service": "inventory",
        "messaging_system": "kafka",
    }
    name = f"{c.METRIC_QUEUE_DURATION}_sum"
    before = metric(name, **labels)
    sent_ns = time.time_ns() - 3 * SECOND
    process = lab.handle(lab.sent(**{c.HEADER_SENT_AT: str(sent_ns)}))
    queue = lab.wait()
    assert (queue.start_time, queue.end_time) == (sent_ns, process.start_time)
    assert 3 <= length_s(queue) < 4
    assert metric(name, **labels) - before == pytest.approx(length_s(queue))
    assert c.LAB_CLOCK_SKEW not in attributes(queue)


def test_a_negative_wait_has_no_length_and_says_by_how_much(lab: Lab) -> None:
    """Two clocks that differ: the span is drawn where the handling begins, with ``lab.clock_skew`` in seconds."""
    process = lab.handle(lab.sent(**{c.HEADER_SENT_AT: str(time.time_ns() + 5 * SECOND)}))
    queue = lab.wait()
    assert (queue.start_time, queue.end_time) == (process.start_time, process.start_time)
    assert attributes(queue)[c.LAB_CLOCK_SKEW] == pytest.approx(5, abs=1)


@pytest.mark.parametrize("sent_at", [None, "", "soon", "-5", "1.5", "٣", "9" * 20, "9" * 5000])
def test_without_a_sensible_sent_at_there_is_no_wait(lab: Lab, sent_at: str | None) -> None:
    """The message is handled all the same."""
    headers = lab.sent()
    if sent_at is None:
        del headers[c.HEADER_SENT_AT]
    else:
        headers[c.HEADER_SENT_AT] = sent_at
    lab.handle(headers)
    assert [span.name for span in lab.spans] == [f"send {PLACE}", f"process {PLACE}"]
    lab.poll(headers)


@pytest.mark.parametrize("known", [True, False], ids=["known", "not known"])
def test_the_wait_of_a_redelivery_is_from_its_last_release(lab: Lab, known: bool) -> None:
    """Where the broker knows it; else from ``sent-at``. The attempt is counted, the creation stays the same."""
    headers = lab.sent(**{c.HEADER_SENT_AT: str(time.time_ns() - 60 * SECOND)})
    released_ns = time.time_ns() - 2 * SECOND
    process = lab.handle(headers, attempt=2, released_at_ns=released_ns if known else None)
    assert length_s(lab.wait()) == pytest.approx(2 if known else 60, abs=1)
    assert attributes(process)[c.LAB_DELIVERY_ATTEMPT] == 2
    assert [link.context.span_id for link in process.links] == [creation(headers).span_id]


def test_a_redelivery_without_sent_at_has_its_wait(lab: Lab) -> None:
    headers = lab.sent()
    del headers[c.HEADER_SENT_AT]
    lab.handle(headers, attempt=2, released_at_ns=time.time_ns() - 2 * SECOND)
    assert length_s(lab.wait()) == pytest.approx(2, abs=1)


def test_the_wait_in_the_outbox_goes_on_in_the_stored_context(lab: Lab) -> None:
    """From when it was written to now; what is sent within hangs on it, with the stored baggage."""
    carrier: dict[str, str] = {}
    with lab.telemetry.tracer.start_as_current_span("POST /orders") as post:
        token = attach(baggage.set_baggage(c.LAB_RUN_ID, "r-1"))
        PROPAGATOR.inject(carrier)
        detach(token)
    context = PROPAGATOR.extract(carrier)
    written_ns = time.time_ns() - 2 * SECOND
    with (
        lab.messaging.outbox(context, "o-1", "choreography", "kafka", written_ns),
        lab.messaging.send({}, WORDS, PLACE, {}),
    ):
        pass
    outbox, send = lab.one("outbox inventory"), lab.one(f"send {PLACE}")
    assert outbox.parent is not None
    assert send.parent is not None
    assert outbox.parent.span_id == post.get_span_context().span_id
    assert send.parent.span_id == outbox.context.span_id
    assert length_s(outbox) == pytest.approx(2, abs=1)
    assert attributes(send)[c.LAB_RUN_ID] == "r-1"
    assert (outbox.end_time or 0) <= (send.start_time or 0)


# --- pulling and settling --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", list(Shape))
def test_a_pull_of_one_message_is_part_of_its_trace(lab: Lab, shape: Shape) -> None:
    """A child of the creation (link: a root with a link), and the process span below it in shape link."""
    headers = lab.sent()
    lab.shape(shape)
    received = lab.poll(headers)
    process = lab.handle(headers, received_with=received)
    pull = lab.one(f"poll {PLACE}")
    send = lab.one(f"send {PLACE}")
    assert pull.kind is SpanKind.CLIENT
    assert c.BATCH_MESSAGE_COUNT not in attributes(pull)
    assert attributes(pull)[c.MESSAGE_ID] == "m-1"
    parent = pull.parent.span_id if pull.parent else None
    assert parent == (None if shape is Shape.LINK else send.context.span_id)
    assert [link.context.span_id for link in pull.links] == ([] if shape is Shape.PARENT else [send.context.span_id])
    if shape is Shape.LINK:
        assert process.parent is not None
        assert process.parent.span_id == pull.context.span_id
        assert process.context.trace_id == pull.context.trace_id
    lab.sound()


@pytest.mark.parametrize("shape", list(Shape))
def test_a_pull_of_several_messages_links_to_all_and_has_no_parent(lab: Lab, shape: Shape) -> None:
    """In every shape; with the number of messages, and without the id of one."""
    messages = [lab.sent(number) for number in range(3)]
    lab.shape(shape)
    lab.poll(*messages)
    pull = lab.one(f"poll {PLACE}")
    assert pull.parent is None
    assert [link.context.span_id for link in pull.links] == [creation(headers).span_id for headers in messages]
    assert attributes(pull)[c.BATCH_MESSAGE_COUNT] == 3
    assert not {c.MESSAGE_ID, c.LAB_ORDER_ID} & set(attributes(pull))
    lab.sound()


def test_a_batch_has_the_baggage_on_which_all_its_messages_agree(lab: Lab) -> None:
    """Transport, but not the style in which they differ; nothing where one message has none."""
    lab.poll(lab.sent(1, "choreography"), lab.sent(2, "hybrid"))
    pull = attributes(lab.one(f"poll {PLACE}"))
    assert pull[c.LAB_TRANSPORT] == "kafka"
    assert c.LAB_STYLE not in pull
    lab.exporter.clear()
    bare = lab.sent(3)
    del bare["baggage"]
    lab.poll(lab.sent(4), bare)
    assert c.LAB_TRANSPORT not in attributes(lab.one(f"poll {PLACE}"))


def test_a_batch_links_to_as_many_as_a_span_may_have(lab: Lab) -> None:
    """128, by the SDK's limit; the count tells of the rest. Messages without a context take no place."""
    messages = [lab.sent(number) for number in range(MAX_LINKS + 20)]
    unknown = {"ce-id": "m-x"}
    lab.poll(unknown, *messages)
    pull = lab.one(f"poll {PLACE}")
    assert len(pull.links) == MAX_LINKS == 128
    assert [link.context.span_id for link in pull.links] == [creation(each).span_id for each in messages[:MAX_LINKS]]
    assert attributes(pull)[c.BATCH_MESSAGE_COUNT] == MAX_LINKS + 21


def test_a_pull_does_not_begin_before_what_it_brought_was_sent(lab: Lab) -> None:
    """A consumer that waited idly for a minute spent no minute on this message."""
    waiting_since_ns = time.time_ns() - 60 * SECOND
    headers = lab.sent()
    lab.poll(headers, started_ns=waiting_since_ns)
    assert lab.one(f"poll {PLACE}").start_time == int(headers[c.HEADER_SENT_AT])
    lab.exporter.clear()
    later_ns = time.time_ns()
    lab.poll(headers, started_ns=later_ns)
    assert lab.one(f"poll {PLACE}").start_time == later_ns


@pytest.mark.parametrize("shape", list(Shape))
def test_a_settlement_of_one_message_is_part_of_its_handling(lab: Lab, shape: Shape) -> None:
    lab.shape(shape)
    headers = lab.sent()
    process = lab.handle(headers)
    lab.messaging.settle_batch(WORDS, "commit", PLACE, [(headers, process.context)], time.time_ns(), {})
    commit = lab.one(f"commit {PLACE}")
    assert commit.kind is SpanKind.CLIENT
    assert commit.parent is not None
    assert (commit.parent.span_id, list(commit.links)) == (process.context.span_id, [])
    assert attributes(commit)[c.MESSAGE_ID] == "m-1"
    assert attributes(commit)[c.LAB_STYLE] == "choreography"
    lab.sound()


@pytest.mark.parametrize("shape", list(Shape))
def test_a_settlement_of_several_messages_links_to_their_handlings(lab: Lab, shape: Shape) -> None:
    lab.shape(shape)
    settled = [(headers, lab.handle(headers).context) for headers in (lab.sent(1), lab.sent(2))]
    lab.messaging.settle_batch(WORDS, "commit", PLACE, settled, time.time_ns(), {})
    commit = lab.one(f"commit {PLACE}")
    assert commit.parent is None
    assert [link.context.span_id for link in commit.links] == [context.span_id for _, context in settled]
    assert attributes(commit)[c.BATCH_MESSAGE_COUNT] == 2
    lab.sound()


def test_a_settlement_leads_to_what_was_handled_only(lab: Lab) -> None:
    """What was passed over has no span: it is no link's target, and a settlement of nothing else is told by nobody."""
    passed = SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.DEFAULT))
    first, second = lab.sent(1), lab.sent(2)
    lab.messaging.settle_batch(WORDS, "commit", PLACE, [(first, passed)], time.time_ns(), {})
    process = lab.handle(second)
    lab.messaging.settle_batch(WORDS, "commit", PLACE, [(first, passed), (second, process.context)], time.time_ns(), {})
    commit = lab.one(f"commit {PLACE}")
    assert commit.parent is not None
    assert (commit.parent.span_id, list(commit.links)) == (process.context.span_id, [])


def test_a_settlement_that_fails_is_an_error(lab: Lab) -> None:
    """Of several messages, and of one within its handling."""
    headers = lab.sent()
    error = ConnectionError("gone")
    with lab.messaging.process(WORDS, PLACE, "inventory", headers, attempt=1, attributes={}) as process:  # noqa: SIM117
        with pytest.raises(ConnectionError), lab.messaging.settle(WORDS, "ack", PLACE, headers, {}):
            raise error
    settled = [(headers, process.get_span_context())]
    lab.messaging.settle_batch(WORDS, "commit", PLACE, settled, time.time_ns(), {}, error)
    for name in (f"commit {PLACE}", f"ack {PLACE}"):
        span = lab.one(name)
        assert (span.status.status_code, attributes(span)[c.ERROR_TYPE]) == (StatusCode.ERROR, "ConnectionError")
    lab.sound()


def test_own_facts_of_a_broker_join_the_conventional_ones(lab: Lab) -> None:
    headers = lab.sent()
    process = lab.handle(headers, attributes={c.KAFKA_OFFSET: 7, c.DESTINATION_PARTITION_ID: "0"})
    assert (attributes(process)[c.KAFKA_OFFSET], attributes(process)[c.DESTINATION_PARTITION_ID]) == (7, "0")
    lab.sound()


def test_what_is_not_sampled_leads_nowhere_and_breaks_nothing(lab: Lab) -> None:
    """A producer that was not sampled: its message is handled, and nothing is recorded that points into the void."""
    headers = lab.sent()
    lab.exporter.clear()
    headers["traceparent"] = headers["traceparent"][:-2] + "00"
    with lab.messaging.process(WORDS, PLACE, "inventory", headers, attempt=1, attributes={}) as span:
        assert not span.is_recording()
    assert lab.spans == ()
