"""What a run says, as plain figures: JSON-able, and all that the renderings see.

Durations are milliseconds, shares are from 0 to 1, instants ISO 8601 in UTC; None is "nobody knows".
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

AT_MOST_ONCE = "at most once"


@dataclass(frozen=True)
class LoadFigures:
    """What the client saw of one flow. Accept: the answer to the POST. Complete: from the POST to the
    order's end."""

    sent: int
    accepted: int
    completed: int
    rejected: int
    lost: int
    """Accepted, and not ended when the load stopped waiting."""
    failed: int
    """Not accepted: an error instead of an order."""
    interrupted: int
    unexpected: int
    """Ended otherwise than their kind should: an ordinary order rejected, a refused one completed."""
    orders_per_s: float | None
    accept_p50_ms: float | None
    accept_p95_ms: float | None
    complete_p50_ms: float | None
    complete_p95_ms: float | None
    late_p95_ms: float | None
    """How late the load generator itself sent its orders."""
    warmup_failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    complaint: str | None = None
    accept_percentiles_ms: list[float] = field(default_factory=list)
    """From 0 to 100, all 101; empty where there is nothing."""
    complete_percentiles_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class SpanFigures:
    """What the spans of one flow say (the span store's summary). Accept: the front door's span. Complete:
    from its start to the end of the span in which the order ended. The shares are along the critical
    path."""

    orders: int
    completed: int
    rejected: int
    unfinished: int
    spans: int
    traces_per_order: float | None
    spans_per_order: float | None
    links_per_order: float | None
    orders_per_s: float | None
    accept_p50_ms: float | None
    accept_p95_ms: float | None
    complete_p50_ms: float | None
    complete_p95_ms: float | None
    waiting_share: float | None
    work_share: float | None
    wire_share: float | None
    unexplained_share: float | None
    orphan_spans: int
    redeliveries: int
    duplicates: int
    errors: int


@dataclass(frozen=True)
class FlowFigures:
    """One style over one transport; None for the side that did not answer."""

    style: str
    transport: str
    load: LoadFigures | None
    spans: SpanFigures | None
    example_order_id: str | None = None
    """A completed order of nearly the median time."""
    example_rejected_id: str | None = None
    """An order that was refused: where compensation can be seen."""
    delivery: str | None = None
    """What becomes of a message on this transport, ``at least once`` or ``at most once``; None where nobody sends any:
    who calls sees how the call ended."""

    @property
    def name(self) -> str:
        return f"{self.style} over {self.transport}"

    @property
    def may_lose(self) -> bool:
        """Whether messages may be gone without anything having failed."""
        return self.delivery == AT_MOST_ONCE


@dataclass(frozen=True)
class TelemetryFigure:
    """A counter's increase while the run lasted, over all processes (from Prometheus)."""

    name: str
    sentence: str
    value: float | None
    bad: bool = False
    """Whether anything above zero spoils the comparison."""


@dataclass(frozen=True)
class Comparison:
    """One run, flow by flow in the order in which they were loaded."""

    run_id: str
    made_at: str
    started_at: str | None
    ended_at: str | None
    workload: str | None
    seed: int | None
    refused_share: float | None
    flows: list[FlowFigures]
    telemetry: list[TelemetryFigure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is missing or spoils a figure; empty is good."""
    jaeger: str | None = None

    @property
    def sound(self) -> bool:
        """Nothing lost, failed, orphaned or dropped: the figures mean what they say."""
        return not self.notes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def dumps(self) -> str:
        return json.dumps(self.to_json(), indent=1)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Comparison":
        flows = [
            FlowFigures(
                **{
                    **flow,
                    "load": flow["load"] and LoadFigures(**flow["load"]),
                    "spans": flow["spans"] and SpanFigures(**flow["spans"]),
                }
            )
            for flow in data["flows"]
        ]
        telemetry = [TelemetryFigure(**figure) for figure in data["telemetry"]]
        return cls(**{**data, "flows": flows, "telemetry": telemetry})
