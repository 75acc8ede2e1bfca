"""What the store answers with. Ids are lower-case hex, ``*_ns`` are ns since 1970-01-01 UTC, ``*_ms`` milliseconds."""

from typing import Any, Literal

from pydantic import BaseModel

SpanKind = Literal["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]
SpanStatus = Literal["UNSET", "OK", "ERROR"]
SegmentKind = Literal["work", "wire", "waiting", "unexplained"]
OrphanFault = Literal["parent_missing", "link_target_missing", "no_cause"]


class SpanRef(BaseModel):
    """Which span."""

    trace_id: str
    span_id: str


class Link(SpanRef):
    """A link of a span; ``missing`` when its target is not in the store."""

    attributes: dict[str, Any]
    missing: bool


class Span(SpanRef):
    """One span. ``linked_from`` are the spans that link to it; an orphan lacks every cause that it should have."""

    parent_span_id: str | None
    name: str
    kind: SpanKind
    service: str
    start_ns: int
    end_ns: int
    status: SpanStatus
    status_message: str
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    links: list[Link]
    linked_from: list[SpanRef]
    orphan: bool


class Order(BaseModel):
    """An order over all its traces; ``truncated`` when it had more spans than an answer holds."""

    order_id: str
    run_id: str
    style: str
    transport: str
    state: Literal["completed", "rejected", "unfinished"]
    accept_start_ns: int | None
    """Start of the front door's span ``POST /orders``; None when that span never came."""
    complete_end_ns: int | None
    """End of the span within which the order reached its end; None while it has not."""
    traces: list[str]
    spans: list[Span]
    truncated: bool


class Trace(BaseModel):
    """One trace and the orders that its spans name."""

    trace_id: str
    order_ids: list[str]
    spans: list[Span]
    truncated: bool


class Segment(SpanRef):
    """A part of the critical path. For unexplained time the span is the last one before the gap."""

    kind: SegmentKind
    service: str
    name: str
    start_ns: int
    end_ns: int


class CriticalPath(BaseModel):
    """From accept to complete; the segments adjoin, and the totals (ns) add up to the whole.

    Without segments when the order has not finished or its front door's span never came; ``reason`` says which.
    """

    order_id: str
    start_ns: int | None
    end_ns: int | None
    segments: list[Segment]
    totals: dict[SegmentKind, int]
    reason: str | None


class Message(BaseModel):
    """A message seen from both sides."""

    message_id: str
    order_ids: list[str]
    sent: list[Span]
    waited: list[Span]
    received: list[Span]
    processed: list[Span]
    settled: list[Span]


class Cause(SpanRef):
    """A span that another one names as its cause; ``span`` is None when it is not in the store."""

    relation: Literal["parent", "link"]
    span: Span | None


class Causes(BaseModel):
    """A span and what it names as its causes."""

    span: Span
    causes: list[Cause]


class Effect(BaseModel):
    """A span that names another one as its cause."""

    relation: Literal["child", "link"]
    span: Span


class Effects(BaseModel):
    """A span and those that name it as their cause."""

    span: Span
    effects: list[Effect]


class FlowRef(BaseModel):
    """A style over a transport; '' where the spans do not say."""

    style: str
    transport: str


class Run(BaseModel):
    """A run, as far as its spans show it."""

    run_id: str
    flows: list[FlowRef]
    orders: int
    spans: int
    first_ns: int | None
    last_ns: int | None


class Flow(FlowRef):
    """One style over one transport in one run. Percentiles interpolate linearly; None without a single value.

    ``accept`` is the duration of the front door's span, ``complete`` runs from its start to the end of the span that
    carries ``lab.order.state``. The shares are of the time from accept to complete along the critical path, the mean
    over the finished orders, computed for every one of them; they add up to 1.
    """

    orders: int
    completed: int
    rejected: int
    unfinished: int
    accept_p50_ms: float | None
    accept_p95_ms: float | None
    complete_p50_ms: float | None
    complete_p95_ms: float | None
    first_accept_ns: int | None
    last_complete_ns: int | None
    orders_per_s: float | None
    """Finished orders over the time from the first accept to the last complete."""
    traces_per_order: float
    spans_per_order: float
    links_per_order: float
    """Of a batch's links, those that lead to this order."""
    spans: int
    """Distinct spans that name the flow or belong to its orders; a poll that carried ten orders counts once."""
    waiting_share: float | None
    work_share: float | None
    wire_share: float | None
    unexplained_share: float | None
    orphan_spans: int
    redeliveries: int
    duplicates: int
    errors: int
    example_order_id: str | None
    """A completed order whose complete time is nearest the median."""


class Summary(BaseModel):
    """A run, flow by flow in the order in which they began."""

    run_id: str
    flows: list[Flow]


class GraphNode(BaseModel):
    """A service or a channel; ``spans`` counts what the service wrote, or what names the channel."""

    id: str
    kind: Literal["service", "channel"]
    name: str
    system: str
    spans: int


class GraphEdge(BaseModel):
    """``call``: a client's span and the server's below it. ``send``, ``receive``: messages into and out of channels."""

    source: str
    target: str
    kind: Literal["call", "send", "receive"]
    count: int
    errors: int


class GraphRoute(BaseModel):
    """Messages from a service through a channel to a service, and the wait in it.

    ``by_parent`` and ``by_link`` count the deliveries by how the consumer's span names the send; a consumer whose
    parent is the send counts there, even where a link says so too. ``source`` is None where the cause never came.
    """

    source: str | None
    channel: str
    target: str
    by_parent: int
    by_link: int
    waited_p50_ms: float | None
    waited_p95_ms: float | None


class RunGraph(BaseModel):
    """The run's services and channels, from parents and links alike."""

    run_id: str
    nodes: list[GraphNode]
    edges: list[GraphEdge]
    routes: list[GraphRoute]


class Orphan(BaseModel):
    """A span without its cause, and why."""

    reason: OrphanFault
    order_id: str | None
    missing: list[SpanRef]
    """The causes that it names and that never came."""
    span: Span


class Orphans(BaseModel):
    """The run's orphans, oldest first; ``total`` counts them all, ``spans`` shows at most ``limit``."""

    run_id: str
    total: int
    orphans: list[Orphan]


class Backlog(BaseModel):
    """What a forward address lacks."""

    address: str
    queued_payloads: int
    lag_s: float


class Stats(BaseModel):
    """Totals since the file was made; ``received`` = stored + duplicates + rejected."""

    payloads: int
    received: int
    stored: int
    duplicates: int
    rejected: int
    by_service: dict[str, int]
    forward: list[Backlog]
    disk_bytes: int
