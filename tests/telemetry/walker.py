"""Walks every span of a run and holds it against the conventions; gives what is wrong, in words.

It takes spans as plain dictionaries, as the span store answers them (``lab/spans/answers.py``); ``plain`` makes one of
an SDK span. What contrib does otherwise stands in one table, ``DEVIATIONS`` of ``services.telemetry.fixups``, and
nothing else may deviate.
"""

import ast
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
from opentelemetry.sdk.trace import ReadableSpan

from services.telemetry import conventions as c
from services.telemetry.fixups import DEVIATIONS
from services.telemetry.messaging import REQUEST, Shape

Span = Mapping[str, Any]

KINDS = {
    # messaging.operation.type, or what the two waits are called
    "create": {"PRODUCER"},
    "send": {"PRODUCER"},  # CLIENT only where a create span's context goes into the message: nowhere here
    "receive": {"CLIENT"},
    "process": {"CONSUMER"},
    "settle": {"CLIENT"},
    "queue": {"INTERNAL"},
    "outbox": {"INTERNAL"},
}
REQUIRED = {
    "messaging": {c.MESSAGING_SYSTEM, c.OPERATION_NAME, c.OPERATION_TYPE, c.DESTINATION_NAME},
    "process": {c.CONSUMER_GROUP, c.MESSAGE_ID, c.LAB_ORDER_ID, c.LAB_DELIVERY_ATTEMPT},
    "send": {c.MESSAGE_ID, c.LAB_ORDER_ID},
    "queue": {c.DESTINATION_NAME, c.MESSAGE_ID, c.LAB_ORDER_ID},
    "outbox": {c.LAB_ORDER_ID},
    "rpc": {c.RPC_SYSTEM_NAME, c.RPC_METHOD},
    "http": {"http.request.method"},
    "http SERVER": {"url.scheme", "url.path"},
    "http CLIENT": {"url.full", c.SERVER_ADDRESS, c.SERVER_PORT},
}
LAB_PREFIX = "lab."


def plain(span: ReadableSpan) -> dict[str, Any]:
    """An SDK span in the store's words."""
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "service": span.resource.attributes["service.name"],
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
        "links": [
            {"trace_id": f"{link.context.trace_id:032x}", "span_id": f"{link.context.span_id:016x}"}
            for link in span.links
        ],
    }


def problems(spans: Iterable[Span], shape: Shape | str | None = None) -> list[str]:
    """What is wrong with ``spans``, one sentence each; they are all spans of the run. With a ``shape``, the links and
    parents of consumers' spans are held against it."""
    everything = list(spans)
    index = {(span["trace_id"], span["span_id"]): span for span in everything}
    found = [f"{len(everything) - len(index)} spans share their ids"] if len(index) != len(everything) else []
    for span in everything:
        wrong = [*_attributes(span), *_errors(span), *_times(span), *_relations(span, index)]
        what = _what(span)
        if what in KINDS:
            wrong += [*_operation(span, what), *_batch(span)]
        elif c.RPC_SYSTEM_NAME in span["attributes"]:
            wrong += _rpc(span)
        elif "http.request.method" in span["attributes"]:
            wrong += _http(span)
        elif span["attributes"].get(c.OPERATION_NAME) == REQUEST:
            wrong += _request(span)
        elif span["kind"] != "INTERNAL":
            wrong.append(f"is {span['kind']}, but neither messaging, RPC nor HTTP")
        if shape is not None and what in {"process", "queue", "receive"}:
            wrong += _shape(span, what, Shape(shape), index)
        found += [f"{span['service']}: {span['name']!r} {each}" for each in wrong]
    return found


def _request(span: Span) -> Iterator[str]:
    """A request by message as a whole, for which the conventions have no type: around its send, until its answer."""
    attributes = span["attributes"]
    if span["kind"] != "CLIENT":
        yield f"is {span['kind']}, not CLIENT"
    if span["name"] != f"{REQUEST} {attributes.get(c.DESTINATION_NAME)}":
        yield "is not called after its destination"
    for key in (c.MESSAGING_SYSTEM, c.CONVERSATION_ID, c.LAB_ORDER_ID):
        if not attributes.get(key):
            yield f"has no {key}"


# --- names ----------------------------------------------------------------------------------------------------------
@functools.cache
def known_attributes() -> dict[str, bool]:
    """Every attribute of the semantic conventions, and whether it is still to be used."""
    return {name: current for package in (incubating, stable) for name, current in _constants(package)}


def _constants(package: Any) -> Iterator[tuple[str, bool]]:
    for module in pkgutil.iter_modules(package.__path__):
        source = importlib.import_module(f"{package.__name__}.{module.name}").__file__
        body = ast.parse(Path(str(source)).read_text()).body
        for statement, following in zip(body, [*body[1:], None], strict=True):
            match statement:
                case (
                    ast.AnnAssign(value=ast.Constant(value=str(name))) | ast.Assign(value=ast.Constant(value=str(name)))
                ):
                    yield name, not _docstring(following).startswith("Deprecated")


def _docstring(statement: ast.stmt | None) -> str:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text.strip()
    return ""


OURS = {value for value in vars(c).values() if isinstance(value, str) and value.startswith(LAB_PREFIX)}
TOLERATED = {deviation.emits for deviation in DEVIATIONS if deviation.attribute and not deviation.fixed}


def _attributes(span: Span) -> Iterator[str]:
    known = known_attributes()
    for key, value in span["attributes"].items():
        if key in OURS or key in TOLERATED:
            pass
        elif key.startswith(LAB_PREFIX):
            yield f"has {key}, which conventions.py does not name"
        elif key not in known:
            yield f"has {key}, which the semantic conventions do not know"
        elif not known[key]:
            yield f"has {key}, which the semantic conventions have deprecated"
        if value is None or value == "":
            yield f"has {key} without a value"
    if c.LAB_ORDER_ID in span["attributes"]:
        yield from (
            f"is about an order and lacks {key}"
            for key in (c.LAB_STYLE, c.LAB_TRANSPORT)
            if key not in span["attributes"]
        )


def _lacks(span: Span, *names: str) -> Iterator[str]:
    for name in names:
        yield from (f"lacks {key}" for key in sorted(REQUIRED.get(name, set()) - set(span["attributes"])))


# --- each kind of span ------------------------------------------------------------------------------------------------
def _what(span: Span) -> str:
    return str(span["attributes"].get(c.LAB_WAIT) or span["attributes"].get(c.OPERATION_TYPE) or "")


def _operation(span: Span, what: str) -> Iterator[str]:
    attributes = span["attributes"]
    if span["kind"] not in KINDS[what]:
        yield f"is {span['kind']}; {what} is {' or '.join(KINDS[what])}"
    if c.LAB_WAIT in attributes:
        yield from _lacks(span, what)
        place = span["service"] if what == "outbox" else attributes.get(c.DESTINATION_NAME)
        name = f"{what} {place}"
    else:
        batch = c.BATCH_MESSAGE_COUNT in attributes
        yield from _lacks(span, "messaging", *([] if batch else [what]))
        name = f"{attributes.get(c.OPERATION_NAME)} {attributes.get(c.DESTINATION_NAME)}"
    if span["name"] != name:
        yield f"should be called {name!r}"
    producer = {c.LAB_PRODUCER_TRACE_ID, c.LAB_PRODUCER_SPAN_ID, c.LAB_PRODUCER_SERVICE} & set(attributes)
    if len(producer) not in {0, 3}:
        yield f"says only {', '.join(sorted(producer))} of its producer"
    if attributes.get(c.LAB_DELIVERY_ATTEMPT, 1) < 1:
        yield "counts its deliveries from 0"


def _batch(span: Span) -> Iterator[str]:
    attributes = span["attributes"]
    if c.BATCH_MESSAGE_COUNT not in attributes:
        return
    if attributes[c.BATCH_MESSAGE_COUNT] < 2:
        yield "is a batch of one"
    if c.MESSAGE_ID in attributes or c.LAB_ORDER_ID in attributes:
        yield "is a batch, but names one message"
    if span["parent_span_id"]:
        yield "is a batch, but has a parent"
    if len(span["links"]) != min(attributes[c.BATCH_MESSAGE_COUNT], 128):
        yield f"is a batch of {attributes[c.BATCH_MESSAGE_COUNT]} with {len(span['links'])} links"


def _rpc(span: Span) -> Iterator[str]:
    yield from _lacks(span, "rpc")
    if span["kind"] not in {"CLIENT", "SERVER"}:
        yield f"is {span['kind']}; a call is CLIENT or SERVER"
    method = span["attributes"].get(c.RPC_METHOD)
    name = span["attributes"].get(c.RPC_SYSTEM_NAME) if method == c.RPC_METHOD_OTHER else method
    if span["name"] != name:
        yield f"should be called {name!r}"
    if span["kind"] == "CLIENT" and c.SERVER_ADDRESS not in span["attributes"]:
        yield f"lacks {c.SERVER_ADDRESS}"


def _http(span: Span) -> Iterator[str]:
    attributes = span["attributes"]
    yield from _lacks(span, "http", f"http {span['kind']}")
    if span["kind"] not in {"CLIENT", "SERVER"}:
        yield f"is {span['kind']}; a request is CLIENT or SERVER"
    if "http.response.status_code" not in attributes and c.ERROR_TYPE not in attributes:
        yield "has neither a response nor an error"
    template = attributes.get("http.route" if span["kind"] == "SERVER" else "url.template")
    name = " ".join(filter(None, [attributes["http.request.method"], template]))
    if span["name"] != name:
        yield f"should be called {name!r}"


# --- errors, times, relations -----------------------------------------------------------------------------------------
def _errors(span: Span) -> Iterator[str]:
    failed = span["status"] == "ERROR"
    if failed and c.ERROR_TYPE not in span["attributes"]:
        yield "is an error without error.type"
    if not failed and c.ERROR_TYPE in span["attributes"]:
        yield f"has error.type {span['attributes'][c.ERROR_TYPE]!r}, but is no error"


def _times(span: Span) -> Iterator[str]:
    if not span["end_ns"]:
        yield "has not ended"
    elif span["end_ns"] < span["start_ns"]:
        yield "ends before it begins"


def _relations(span: Span, index: Mapping[tuple[str, str], Span]) -> Iterator[str]:
    if span["parent_span_id"] and (span["trace_id"], span["parent_span_id"]) not in index:
        yield "is an orphan: its parent was not exported"
    yield from (
        "links to a span that was not exported"
        for link in span["links"]
        if (link["trace_id"], link["span_id"]) not in index
    )


def _shape(span: Span, what: str, shape: Shape, index: Mapping[tuple[str, str], Span]) -> Iterator[str]:
    attributes = span["attributes"]
    if c.LAB_PRODUCER_SPAN_ID not in attributes or c.BATCH_MESSAGE_COUNT in attributes:
        return  # nobody is known to have sent it, or they are many
    creation = (attributes[c.LAB_PRODUCER_TRACE_ID], attributes[c.LAB_PRODUCER_SPAN_ID])
    if creation not in index:
        yield "names a producer that was not exported"
    elif index[creation]["kind"] != "PRODUCER":
        yield f"was created in {index[creation]['name']!r}, which is no PRODUCER"
    links = [(link["trace_id"], link["span_id"]) for link in span["links"]]
    parent = span["parent_span_id"] and (span["trace_id"], span["parent_span_id"])
    if what == "process":
        wanted = [] if shape is Shape.PARENT else [creation]
        if links != wanted:
            yield f"has {len(links)} links; in shape {shape} it has {len(wanted)}, to the creation"
    if shape is not Shape.LINK:
        if parent != creation:
            yield f"is not a child of the message's creation, as it is in shape {shape}"
    elif what == "process" and parent and _what(index.get(parent, span)) != "receive":
        yield "has a parent that is no receive, in shape link"
    elif what == "queue" and (not parent or _what(index.get(parent, span)) != "process"):
        yield "is not beside its process span, as it is in shape link"


def traces(spans: Sequence[Span]) -> int:
    return len({span["trace_id"] for span in spans})
