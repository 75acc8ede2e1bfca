"""A comparison with fixed figures, for the renderings' tests and for looking at the page."""

import math

from lab.compare import Comparison, FlowFigures, LoadFigures, SpanFigures, TelemetryFigure


def load_figures(accept_ms: float, complete_ms: float, **more: object) -> LoadFigures:
    """A flow of 200 orders; percentiles on a smooth curve through the median."""
    figures: dict[str, object] = {
        "sent": 200,
        "accepted": 200,
        "completed": 179,
        "rejected": 21,
        "lost": 0,
        "failed": 0,
        "interrupted": 0,
        "unexpected": 0,
        "orders_per_s": 9.97,
        "accept_p50_ms": accept_ms,
        "accept_p95_ms": accept_ms * 1.9,
        "complete_p50_ms": complete_ms,
        "complete_p95_ms": complete_ms * 1.7,
        "late_p95_ms": 1.2,
        "accept_percentiles_ms": _curve(accept_ms),
        "complete_percentiles_ms": _curve(complete_ms),
    }
    return LoadFigures(**{**figures, **more})  # type: ignore[arg-type]


def span_figures(accept_ms: float, complete_ms: float, **more: object) -> SpanFigures:
    figures: dict[str, object] = {
        "orders": 200,
        "completed": 179,
        "rejected": 21,
        "unfinished": 0,
        "spans": 3400,
        "traces_per_order": 1.0,
        "spans_per_order": 17.2,
        "links_per_order": 0.0,
        "orders_per_s": 9.98,
        "accept_p50_ms": accept_ms,
        "accept_p95_ms": accept_ms * 1.9,
        "complete_p50_ms": complete_ms,
        "complete_p95_ms": complete_ms * 1.7,
        "waiting_share": 0.0,
        "work_share": 0.71,
        "wire_share": 0.288,
        "unexplained_share": 0.002,
        "orphan_spans": 0,
        "redeliveries": 0,
        "duplicates": 0,
        "errors": 20,
    }
    return SpanFigures(**{**figures, **more})  # type: ignore[arg-type]


def _curve(median: float) -> list[float]:
    return [round(median * math.exp(0.35 * math.tan((percent - 50) / 40)), 3) for percent in range(101)]


_queues = {
    "traces_per_order": 1.0,
    "spans_per_order": 41.4,
    "links_per_order": 12.1,
    "waiting_share": 0.43,
    "work_share": 0.4,
    "wire_share": 0.17,
}

COMPARISON = Comparison(
    run_id="20261122-101500-c0de",
    made_at="2026-11-22T10:17:05Z",
    started_at="2026-11-22T10:15:00.000000Z",
    ended_at="2026-11-22T10:16:40.000000Z",
    workload="open: 10 orders/s for 20 s per flow, sent by the clock, whether or not earlier ones were answered",
    seed=1,
    refused_share=0.1,
    flows=[
        FlowFigures("request_response", "rest", load_figures(31.4, 31.4), span_figures(29.2, 28.9), "o-1", "o-2"),
        FlowFigures("request_response", "grpc", load_figures(22.8, 22.8), span_figures(20.9, 20.5), "o-3", "o-4"),
        FlowFigures(
            "choreography",
            "rabbitmq",
            load_figures(8.4, 64.1),
            span_figures(6.2, 60.3, **_queues),
            "o-5",
            "o-6",
            delivery="at least once",
        ),
        FlowFigures(
            "choreography",
            "kafka",
            load_figures(8.1, 118.3, lost=1, completed=178),
            span_figures(6.1, 113.0, **{**_queues, "waiting_share": 0.61, "work_share": 0.24, "redeliveries": 3}),
            "o-7",
            "o-8",
            delivery="at least once",
        ),
    ],
    telemetry=[
        TelemetryFigure("spans_started", "spans started", 23456.0),
        TelemetryFigure("spans_dropped", "spans dropped by the SDK, its queue being full", 0.0, bad=True),
    ],
    notes=["choreography over kafka: 1 of 200 orders lost (accepted, never ended)"],
    jaeger="http://127.0.0.1:16686",
)
