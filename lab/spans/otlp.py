"""OTLP bytes to what the store indexes; no I/O.

Follows the OTLP specification 1.x, "OTLP/HTTP" (https://opentelemetry.io/docs/specs/otlp/#otlphttp): the answer to a
bad request is a ``google.rpc.Status``, spans that were refused one by one are counted in ``partial_success``.
"""

import zlib
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # googleapis-common-protos has no stubs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

from lab.spans import schema, wire
from services.telemetry import conventions as names

CONTENT_TYPE = "application/x-protobuf"
FRONT_DOOR_NAME = "POST /orders"
UNKNOWN_SERVICE = "unknown_service"
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_MAX_NS = 2**63 - 1

# the attributes that the store looks at; all others stay in the span's bytes
_INDEXED = frozenset(
    {
        names.LAB_ORDER_ID,
        names.LAB_RUN_ID,
        names.LAB_STYLE,
        names.LAB_TRANSPORT,
        names.LAB_WAIT,
        names.LAB_ORDER_STATE,
        names.LAB_DUPLICATE,
        names.LAB_DELIVERY_ATTEMPT,
        names.MESSAGE_ID,
        names.OPERATION_TYPE,
        names.DESTINATION_NAME,
        names.MESSAGING_SYSTEM,
    }
)
_INDEXED_BYTES = frozenset(key.encode() for key in _INDEXED)
_STATES = {"completed": schema.COMPLETED, "rejected": schema.REJECTED}

Json = str | int | float | bool | list["Json"] | dict[str, "Json"] | None


class BadPayloadError(Exception):
    """A request that cannot be taken; ``status`` is the HTTP status that the sender gets."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class IndexedSpan:
    """What the store searches by. Ids are raw bytes (16 and 8), times are ns since 1970-01-01 UTC."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    start_ns: int
    end_ns: int
    common: tuple[str, int, str, str, str, str]
    """name, kind (OTLP's number), operation type, destination, system, wait: a row of ``span_types``."""
    order_id: str | None
    flow: tuple[str, str, str] | None
    """run id, style, transport; None where the span names none of them."""
    message_id: str | None
    flags: int
    links: list[tuple[bytes, bytes]]
    data: bytes


@dataclass(slots=True)
class ScopeBatch:
    """Spans of one instrumentation scope of one process."""

    service: str
    resource: bytes
    scope: bytes
    spans: list[IndexedSpan] = field(default_factory=list)


@dataclass(slots=True)
class Payload:
    """A decoded request. ``rejected`` counts the spans that no store could keep, ``reason`` names the first's fault."""

    batches: list[ScopeBatch]
    spans: int
    rejected: int
    reason: str


def unpack(body: bytes, encoding: str, *, limit_bytes: int) -> bytes:
    """The body without its Content-Encoding (``gzip`` or none).

    Raises BadPayloadError: 415 for another encoding, 413 above the limit (a bomb is never unpacked further), 400 for
    bytes that are not gzip or end early.
    """
    if encoding in ("", "identity"):
        if len(body) > limit_bytes:
            raise too_large(limit_bytes)
        return body
    if encoding != "gzip":
        raise BadPayloadError(f"content-encoding {encoding!r} is not supported; send gzip or none", status=415)
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise BadPayloadError(f"the body is not gzip: {error}") from error
    if len(plain) > limit_bytes:
        raise too_large(limit_bytes)
    if not unpacker.eof:
        raise BadPayloadError("the gzip body ends early")
    return plain


def too_large(limit_bytes: int) -> BadPayloadError:
    """The refusal of a body that is larger than the store takes."""
    return BadPayloadError(f"the request is larger than {limit_bytes} bytes; export smaller batches", status=413)


def decode(body: bytes) -> Payload:
    """Read an ExportTraceServiceRequest.

    A span is refused alone when its ids have a wrong length or are zero, or a time does not fit in 63 bits; a link
    with such ids is kept in the span's bytes but not indexed. Raises BadPayloadError when the bytes are no such
    request.
    """
    try:
        ExportTraceServiceRequest.FromString(body)  # the judge of every field, also of those that are not looked at
    except DecodeError as error:
        raise BadPayloadError("the body is not an OTLP ExportTraceServiceRequest (protobuf)") from error
    batches: list[ScopeBatch] = []
    taken = rejected = 0
    reason = ""
    for resource_spans in wire.Request.FromString(body).resource_spans:
        resource = resource_spans.resource
        service = _service(resource)
        for scope_spans in resource_spans.scope_spans:
            batch = ScopeBatch(service, resource, scope_spans.scope)
            for data in scope_spans.spans:
                span = wire.IndexSpan.FromString(data)
                fault = _fault(span)
                if fault:
                    rejected += 1
                    reason = reason or fault
                else:
                    batch.spans.append(_index(span, data))
            taken += len(batch.spans)
            batches.append(batch)
    return Payload(batches, taken, rejected, reason)


def _service(resource: bytes) -> str:
    for attribute in Resource.FromString(resource).attributes:
        if attribute.key == "service.name":
            return text(attribute.value) or UNKNOWN_SERVICE
    return UNKNOWN_SERVICE


def _fault(span: Any) -> str:
    trace_id, span_id = span.trace_id, span.span_id
    if len(trace_id) != 16 or trace_id == _NO_TRACE:
        return f"trace_id must be 16 bytes and not zero, got {trace_id[:20].hex() or 'none'}"
    if len(span_id) != 8 or span_id == _NO_SPAN:
        return f"span_id must be 8 bytes and not zero, got {span_id[:20].hex() or 'none'}"
    if len(span.parent_span_id) not in (0, 8):
        return f"parent_span_id must be empty or 8 bytes, got {span.parent_span_id[:20].hex()}"
    if span.start_ns > _MAX_NS or span.end_ns > _MAX_NS:
        return "a time is later than the year 2262"
    return ""


# attributes as bytes -> name and value; even an order's id comes thirty times
_recognised: dict[bytes, tuple[str, str]] = {}
_RECOGNISED_MAX = 20_000
_KEY_FIRST = b"\x0a"


def _attributes(attributes: list[bytes]) -> dict[str, str]:
    """The indexed ones among a span's attributes (serialised ``KeyValue`` messages), as text."""
    found: dict[str, str] = {}
    recognised = _recognised.get
    for data in attributes:
        known = recognised(data)
        if known is not None:
            found[known[0]] = known[1]
            continue
        # field 1, the key, comes first in every writer's bytes; one that wrote otherwise is read in full
        if data[:1] == _KEY_FIRST and data[2 : 2 + data[1]] not in _INDEXED_BYTES:
            continue
        attribute = KeyValue.FromString(data)
        key = attribute.key
        if key in _INDEXED:
            value = attribute.value.string_value or text(attribute.value)
            if len(_recognised) >= _RECOGNISED_MAX:
                _recognised.clear()
            _recognised[data] = (key, value)
            found[key] = value
    return found


def _index(span: Any, data: bytes) -> IndexedSpan:
    found = _attributes(span.attributes)
    get = found.get
    order_id = get(names.LAB_ORDER_ID) or None
    name, kind, parent_id = span.name, span.kind, span.parent_span_id

    flags = schema.ERROR if span.status.code == SpanStatus.STATUS_CODE_ERROR else 0
    if kind == Span.SPAN_KIND_SERVER and order_id and name == FRONT_DOOR_NAME:
        flags |= schema.FRONT_DOOR
    if names.LAB_ORDER_STATE in found:
        flags |= _STATES.get(found[names.LAB_ORDER_STATE], 0)
    if get(names.LAB_DUPLICATE) == "true":
        flags |= schema.DUPLICATE
    attempt = get(names.LAB_DELIVERY_ATTEMPT)
    if attempt and attempt != "1" and attempt.isdecimal() and int(attempt) > 1:
        flags |= schema.REDELIVERY

    flow = (get(names.LAB_RUN_ID, ""), get(names.LAB_STYLE, ""), get(names.LAB_TRANSPORT, ""))
    return IndexedSpan(
        span.trace_id,
        span.span_id,
        None if parent_id in (b"", _NO_SPAN) else parent_id,
        span.start_ns,
        span.end_ns,
        (
            name,
            kind,
            get(names.OPERATION_TYPE, ""),
            get(names.DESTINATION_NAME, ""),
            get(names.MESSAGING_SYSTEM, ""),
            get(names.LAB_WAIT, ""),
        ),
        order_id,
        flow if flow != ("", "", "") else None,
        get(names.MESSAGE_ID) or None,
        flags,
        [
            (link.trace_id, link.span_id)
            for link in span.links
            if len(link.trace_id) == 16 and len(link.span_id) == 8 and link.trace_id != _NO_TRACE
        ],
        data,
    )


def text(value: AnyValue) -> str:
    """A value as an attribute search spells it: true, false, decimal numbers; '' for a missing one."""
    plain = plain_value(value)
    if plain is None:
        return ""
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def plain_value(value: AnyValue) -> Json:
    """A value as JSON has it; bytes become hex, and numbers that JSON lacks (NaN, infinities) become their names."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "bool_value":
            return value.bool_value
        case "double_value":
            number = value.double_value
            return number if number - number == 0 else str(number)
        case "array_value":
            return [plain_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return {item.key: plain_value(item.value) for item in value.kvlist_value.values}
        case "bytes_value":
            return value.bytes_value.hex()
        case _:
            return None


def accepted(rejected: int, reason: str) -> bytes:
    """The answer to a request that was stored; partial_success is left unset when every span was taken."""
    response = ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = reason
    return response.SerializeToString()


# HTTP status -> google.rpc.Code, as far as the store answers with it
_CODES = {400: 3, 413: 8, 415: 3, 503: 14}


def refused(status: int, message: str) -> bytes:
    """The body of a refusal: ``google.rpc.Status`` (OTLP/HTTP, "Failures")."""
    return bytes(Status(code=_CODES.get(status, 2), message=message).SerializeToString())
