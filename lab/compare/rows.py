"""The table of a comparison: which figures, in which order, from where, computed how. Every rendering shows
it."""

from collections.abc import Callable
from dataclasses import dataclass

from lab.compare.figures import AT_MOST_ONCE, Comparison, FlowFigures, LoadFigures, SpanFigures
from lab.compare.numbers import NOTHING, milliseconds, number, pair, share

TRACE_COMMAND = ".venv/bin/lab trace {}"
LOCUST = "Locust"
SPANS = "spans"
MARK = "†"


@dataclass(frozen=True)
class Cell:
    text: str
    bad: bool = False


@dataclass(frozen=True)
class Row:
    """``source`` is who measured it, ``sentence`` how."""

    label: str
    source: str
    sentence: str
    cell: Callable[[FlowFigures], Cell]


def _locust(label: str, sentence: str, text: Callable[[LoadFigures], str]) -> Row:
    return Row(label, LOCUST, sentence, lambda flow: Cell(text(flow.load) if flow.load else NOTHING))


def _spans(label: str, sentence: str, text: Callable[[SpanFigures], str]) -> Row:
    return Row(label, SPANS, sentence, lambda flow: Cell(text(flow.spans) if flow.spans else NOTHING))


def _count(row: Row) -> Row:
    """A count that should be 0."""

    def cell(flow: FlowFigures) -> Cell:
        text = row.cell(flow).text
        return Cell(text, bad=text not in ("0", NOTHING))

    return Row(row.label, row.source, row.sentence, cell)


ROWS = (
    _locust(
        "accept p50 / p95, ms",
        "From the sending of the POST to its answer, on the client's clock; orders that were accepted.",
        lambda load: pair(load.accept_p50_ms, load.accept_p95_ms),
    ),
    _spans(
        "accept p50 / p95, ms",
        "The duration of the front door's server span.",
        lambda spans: pair(spans.accept_p50_ms, spans.accept_p95_ms),
    ),
    _locust(
        "complete p50 / p95, ms",
        "From the sending of the POST to the order's end, completed or rejected, on the client's clock: a long poll "
        "over a connection of its own.",
        lambda load: pair(load.complete_p50_ms, load.complete_p95_ms),
    ),
    _spans(
        "complete p50 / p95, ms",
        "From the start of the front door's span to the end of the span in which the order ended.",
        lambda spans: pair(spans.complete_p50_ms, spans.complete_p95_ms),
    ),
    _locust(
        "orders/s",
        "Orders that ended, over the time from the first one's sending to the last one's end.",
        lambda load: number(load.orders_per_s),
    ),
    _locust(
        "completed + rejected",
        "How the orders ended; a share is refused on purpose, so that compensation is seen.",
        lambda load: f"{load.completed:,} + {load.rejected:,}",
    ),
    _spans(
        "traces per order",
        "Trace ids among an order's spans, links followed.",
        lambda spans: number(spans.traces_per_order),
    ),
    _spans("spans per order", "All spans that belong to an order.", lambda spans: number(spans.spans_per_order)),
    _spans("links per order", "Span links among them.", lambda spans: number(spans.links_per_order)),
    _spans(
        "waiting in queues",
        "Share of the time from accept to complete, along the critical path, that passed in queue and outbox spans; "
        "the mean over all orders.",
        lambda spans: share(spans.waiting_share),
    ),
    _spans(
        "working / on the wire",
        "The same path's share inside services, and in calls and sends beyond what the other side's spans explain.",
        lambda spans: NOTHING if spans.work_share is None else f"{share(spans.work_share)} / {share(spans.wire_share)}",
    ),
    _spans("redeliveries", "Deliveries after a message's first.", lambda spans: f"{spans.redeliveries:,}"),
    _count(
        _spans(
            "orphan spans",
            "Spans whose parent and links lead to nothing in the store.",
            lambda spans: f"{spans.orphan_spans:,}",
        )
    ),
    _count(
        _locust("failed orders", "POSTs that were answered with an error, or not.", lambda load: f"{load.failed:,}")
    ),
    _count(
        _locust(
            "lost orders", "Accepted, and not ended when the drain timeout was over.", lambda load: f"{load.lost:,}"
        )
    ),
)


def sentence_of(flow: FlowFigures) -> str | None:
    """A flow in one sentence; None where too little is known."""
    load, spans = flow.load, flow.spans
    known = load or spans
    if known is None or known.accept_p50_ms is None or known.complete_p50_ms is None:
        return None
    accept, complete = known.accept_p50_ms, known.complete_p50_ms
    if complete < accept * 1.2:
        waits = f"the customer waits the whole {milliseconds(complete)}"
    else:
        waits = (
            f"the customer has an answer after {milliseconds(accept)}, the order its end after {milliseconds(complete)}"
        )
    if spans is None or spans.traces_per_order is None:
        return f"{flow.name}: {waits}."
    seen = "one trace" if spans.traces_per_order == 1 else f"{number(spans.traces_per_order)} traces"
    links = f", {number(spans.links_per_order)} links" if spans.links_per_order else ", no links"
    queues = f"; {share(spans.waiting_share)} of the time in queues" if spans.waiting_share else ""
    return f"{flow.name}: {waits}{queues}. Seen as {seen} of {number(spans.spans_per_order)} spans per order{links}."


def mark(flow: FlowFigures) -> str:
    """What stands behind a transport's name where there is a footnote to it."""
    return f" {MARK}" if flow.may_lose else ""


def footnotes(comparison: Comparison) -> list[str]:
    """What has to be known of some flows' transports before their figures are held against those of others."""
    if not any(flow.may_lose for flow in comparison.flows):
        return []
    return [f"{MARK} {AT_MOST_ONCE}: what is published while nobody listens is gone."]


def header_lines(comparison: Comparison) -> list[str]:
    """What was run, as sentences."""
    lines = []
    if comparison.workload:
        lines.append(f"Workload: {comparison.workload}; one flow at a time.")
    if comparison.seed is not None and comparison.refused_share is not None:
        lines.append(f"Seed {comparison.seed}; {share(comparison.refused_share)} of the orders are refused on purpose.")
    return lines
