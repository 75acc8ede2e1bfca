"""Bytes to rows: what a request may contain, and what becomes of it when it may not."""

import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from lab.spans import otlp, schema
from services.telemetry import conventions as names
from tests.spans.stories import COMPLETED, Story, choreography

GOOD = choreography("both").payload()


def span_of(**fields: Any) -> Span:
    return Span(**{"trace_id": b"t" * 16, "span_id": b"s" * 8, "name": "x"} | fields)


def request(*spans: Span) -> bytes:
    message = ExportTraceServiceRequest()
    message.resource_spans.add().scope_spans.add().spans.extend(spans)
    return message.SerializeToString()


@pytest.mark.parametrize("cut", [1, 3, 50, len(GOOD) // 2])
def test_a_truncated_request_is_refused(cut):
    with pytest.raises(otlp.BadPayloadError) as refusal:
        otlp.decode(GOOD[:-cut])
    assert refusal.value.status == 400


@pytest.mark.parametrize("body", [b"not protobuf", b"\xff" * 40, b'{"resourceSpans": []}', gzip.compress(GOOD)])
def test_other_bytes_are_refused(body):
    with pytest.raises(otlp.BadPayloadError):
        otlp.decode(body)


def test_an_attribute_that_is_not_utf_8_is_refused_with_its_request():
    """Also inside what the index does not read: the official classes judge the whole request."""
    good = request(span_of(name="name-to-spoil"))
    with pytest.raises(otlp.BadPayloadError):
        otlp.decode(good.replace(b"name-to-spoil", b"name\xff\xfe-spoil"))


def test_an_empty_request_is_fine():
    assert otlp.decode(b"") == otlp.Payload([], 0, 0, "")


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({"trace_id": b"short"}, "trace_id"),
        ({"trace_id": b""}, "trace_id"),
        ({"trace_id": bytes(16)}, "trace_id"),
        ({"trace_id": b"t" * 17}, "trace_id"),
        ({"span_id": b"s" * 16}, "span_id"),
        ({"span_id": bytes(8)}, "span_id"),
        ({"parent_span_id": b"p" * 4}, "parent_span_id"),
        ({"end_time_unix_nano": 2**63}, "time"),
    ],
)
def test_a_span_that_cannot_be_kept_is_refused_alone(fields, about):
    payload = otlp.decode(request(span_of(**fields), span_of()))
    assert (payload.spans, payload.rejected) == (1, 1)
    assert about in payload.reason


def test_a_link_with_wrong_ids_is_left_out_of_the_index_but_not_its_span():
    span = span_of()
    span.links.add(trace_id=b"short", span_id=b"l" * 8)
    span.links.add(trace_id=b"l" * 16, span_id=b"l" * 8)
    payload = otlp.decode(request(span))
    assert payload.batches[0].spans[0].links == [(b"l" * 16, b"l" * 8)]
    assert payload.batches[0].spans[0].data == span.SerializeToString()


def test_an_all_zero_parent_is_none():
    assert otlp.decode(request(span_of(parent_span_id=bytes(8)))).batches[0].spans[0].parent_id is None


def test_the_index_of_a_span():
    story = Story(order_id="o-7", run_id="r", style="s", transport="t")
    door = story.front_door(0, 10, attributes=COMPLETED, error=True)
    sent = story.send(door, "orders.events", "m-1", 1, 2)
    story.consume("payment", sent, "orders.events", "m-1", shape="both", sent_ms=2, received_ms=3, end_ms=4, attempt=2,
                  attributes={names.LAB_DUPLICATE: True})  # fmt: skip
    indexed = {
        (batch.service, span.common[0]): span for batch in otlp.decode(story.payload()).batches for span in batch.spans
    }
    first = indexed["orders", "POST /orders"]
    assert first.flags == schema.FRONT_DOOR | schema.COMPLETED | schema.ERROR
    assert (first.order_id, first.flow, first.message_id) == ("o-7", ("r", "s", "t"), None)
    publish = indexed["orders", "send orders.events"]
    assert publish.common == ("send orders.events", Span.SPAN_KIND_PRODUCER, "send", "orders.events", "t", "")
    assert publish.message_id == "m-1"
    assert indexed["payment", "queue orders.events"].common[-1] == "queue"
    assert indexed["payment", "process orders.events"].flags == schema.REDELIVERY | schema.DUPLICATE
    assert indexed["payment", "process orders.events"].links == [(sent.trace_id, sent.span_id)]


def test_an_attribute_whose_value_comes_before_its_key_is_read():
    """Protobuf leaves the order of fields to the writer (encoding, "Field order")."""
    key = b"\x0a" + bytes([len(names.LAB_ORDER_ID)]) + names.LAB_ORDER_ID.encode()
    value = b"\x12\x05\x0a\x03o-9"
    backwards = value + key
    span = span_of().SerializeToString() + b"\x4a" + bytes([len(backwards)]) + backwards
    scope = b"\x12" + bytes([len(span)]) + span
    resource = b"\x12" + bytes([len(scope)]) + scope
    assert otlp.decode(b"\x0a" + bytes([len(resource)]) + resource).batches[0].spans[0].order_id == "o-9"


ATTRIBUTES = st.dictionaries(
    st.one_of(st.sampled_from(sorted(otlp._INDEXED)), st.text(max_size=200)),
    st.one_of(st.text(max_size=300), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats()),
    max_size=20,
)


@given(ATTRIBUTES, st.text(max_size=50), st.integers(0, 5), st.integers(0, 2**63 - 1))
def test_the_small_schema_reads_what_the_official_one_reads(attributes, name, kind, start):
    """The view of ``wire`` and opentelemetry.proto agree on every field that is searched."""
    span = span_of(name=name, kind=kind, start_time_unix_nano=start)
    for key, value in attributes.items():
        item = span.attributes.add(key=key).value
        match value:
            case bool():
                item.bool_value = value
            case int():
                item.int_value = value
            case float():
                item.double_value = value
            case _:
                item.string_value = value
    read = otlp.decode(request(span)).batches[0].spans[0]
    official = {item.key: otlp.text(item.value) for item in span.attributes}
    assert (read.common[:2], read.start_ns) == ((name, kind), start)
    assert read.order_id == (official.get(names.LAB_ORDER_ID) or None)
    assert read.message_id == (official.get(names.MESSAGE_ID) or None)
    assert read.common[2:] == tuple(
        official.get(key, "")
        for key in (names.OPERATION_TYPE, names.DESTINATION_NAME, names.MESSAGING_SYSTEM, names.LAB_WAIT)
    )


def test_gzip_is_unpacked():
    assert otlp.unpack(gzip.compress(GOOD), "gzip", limit_bytes=len(GOOD)) == GOOD
    assert otlp.unpack(GOOD, "", limit_bytes=len(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"x" * 101, "", 413),
        (gzip.compress(b"\0" * 1_000_000), "gzip", 413),
        (gzip.compress(b"abc")[:-5], "gzip", 400),
        (b"abc", "gzip", 400),
        (b"", "gzip", 400),
        (b"abc", "br", 415),
    ],
    ids=["large", "bomb", "cut", "not gzip", "empty", "brotli"],
)
def test_what_cannot_be_unpacked(body, encoding, status):
    with pytest.raises(otlp.BadPayloadError) as refusal:
        otlp.unpack(body, encoding, limit_bytes=100)
    assert refusal.value.status == status


@pytest.mark.parametrize(
    ("value", "plain", "text"),
    [
        ({"string_value": "a"}, "a", "a"),
        ({"bool_value": True}, True, "true"),
        ({"int_value": -3}, -3, "-3"),
        ({"double_value": 0.5}, 0.5, "0.5"),
        ({"double_value": float("nan")}, "nan", "nan"),
        ({"double_value": float("inf")}, "inf", "inf"),
        ({"bytes_value": b"\x01\xff"}, "01ff", "01ff"),
        ({}, None, ""),
    ],
)
def test_values_as_json_has_them(value, plain, text):
    any_value = otlp.AnyValue(**value)
    assert otlp.plain_value(any_value) == plain
    assert otlp.text(any_value) == text
