"""Asks the three sources about a run, and says what they could not tell.

The span store and the load's file are each enough for a comparison; Prometheus adds what neither knows:
spans that the SDK dropped, retries, dead letters.
"""

import time
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from lab.compare.figures import AT_MOST_ONCE, Comparison, FlowFigures, LoadFigures, SpanFigures
from lab.compare.prometheus import Prometheus, PrometheusError
from lab.targets import LabError
from load.plan import Flow
from load.records import FlowResult, LoadResult, quantile
from services.transports import TRANSPORTS

QUIET_S = 3.0
"""A store that has got nothing new for so long has everything: services send their spans each half second."""
COUNTS = {field.name for field in fields(SpanFigures) if field.type is int}
BUSY_SHARE = 0.5
KEPT_UP = 0.75
"""A short run ends a little later than its last order was sent; a rate below this share says more than that."""
LATE_MS = 50.0
"""A load generator that is later than this for one order in twenty is worth a note."""


class CompareError(LabError):
    """There is nothing to compare; the text is one line for a person."""


class _NothingYetError(CompareError):
    """Spans may still come."""


def compare(
    run_id: str,
    *,
    span_store: str | None,
    prometheus: str | None,
    runs_dir: Path,
    jaeger: str | None = None,
    settle_s: float = 30.0,
) -> Comparison:
    """The run's figures. Waits up to ``settle_s`` for the last spans of a run that has only just ended.

    Raises CompareError where neither the span store nor ``runs_dir`` knows the run.
    """
    notes: list[str] = []
    loaded = _load(runs_dir / run_id, notes)
    summary = _summary(span_store, run_id, loaded, settle_s, notes)
    if loaded is None and summary is None:
        raise CompareError(f"nothing is known of run {run_id!r}: {'; '.join(notes)}")
    flows = _flows(loaded, summary or [])
    telemetry = []
    if loaded is not None:
        try:
            telemetry = Prometheus(prometheus).increases(loaded.started_at, loaded.ended_at)
        except PrometheusError as error:
            notes.append(f"spans that the SDK dropped are not known: {error}")
    notes += [note for flow in flows for note in _notes(flow)]
    notes += _strain(loaded) if loaded else []
    notes += [f"{figure.value:g} {figure.sentence}" for figure in telemetry if figure.bad and figure.value]
    return Comparison(
        run_id=run_id,
        made_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        started_at=loaded.started_at if loaded else None,
        ended_at=loaded.ended_at if loaded else None,
        workload=loaded.workload if loaded else None,
        seed=loaded.seed if loaded else None,
        refused_share=loaded.refused_share if loaded else None,
        flows=flows,
        telemetry=telemetry,
        notes=notes,
        jaeger=jaeger,
    )


def _load(run_dir: Path, notes: list[str]) -> LoadResult | None:
    try:
        return LoadResult.read(run_dir)
    except FileNotFoundError:
        notes.append(f"the load's own figures are missing: no {run_dir}/load.json")
    except (ValueError, OSError) as error:
        notes.append(f"the load's own figures cannot be read: {error}")
    return None


def _summary(
    span_store: str | None, run_id: str, loaded: LoadResult | None, settle_s: float, notes: list[str]
) -> list[dict[str, Any]] | None:
    """The store's flows, once they have settled; None where it cannot say."""
    if span_store is None:
        notes.append("no figures from spans: no span store runs")
        return None
    just_ended = loaded is not None and abs(_age_s(loaded.ended_at)) < settle_s
    deadline = time.monotonic() + (settle_s if just_ended else 0)
    last: tuple[int, ...] = ()
    quiet_since = time.monotonic()
    while True:
        try:
            flows = _ask(span_store, run_id)
        except CompareError as error:
            if not isinstance(error, _NothingYetError) or time.monotonic() >= deadline:
                notes.append(f"no figures from spans: {error}")
                return None
            flows = []
        now = time.monotonic()
        counts = tuple(flow["spans"] for flow in flows)
        if counts != last:
            last, quiet_since = counts, now
        if now >= deadline or (flows and now - quiet_since >= QUIET_S):
            return flows
        time.sleep(min(1.0, max(0.0, deadline - now)))


def _ask(span_store: str, run_id: str) -> list[dict[str, Any]]:
    address = f"{span_store.rstrip('/')}/runs/{run_id}/summary"
    try:
        answer = httpx.get(address, timeout=30, trust_env=False)
        if answer.status_code == 404:
            raise _NothingYetError(f"the span store has no span of run {run_id!r}")
        answer.raise_for_status()
        flows: list[dict[str, Any]] = answer.json()["flows"]
    except httpx.HTTPStatusError as error:
        raise CompareError(f"{address} answers {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise CompareError(f"no span store at {span_store} ({error or type(error).__name__})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CompareError(f"{address} gives no summary") from error
    return flows


def _flows(loaded: LoadResult | None, summary: Sequence[dict[str, Any]]) -> list[FlowFigures]:
    """Loaded flows first, in their order, then what only the store knows."""
    by_load = {result.flow: result for result in loaded.flows} if loaded else {}
    by_store = {Flow(flow["style"], flow["transport"]): flow for flow in summary}
    return [_flow(flow, by_load.get(flow), by_store.get(flow)) for flow in dict.fromkeys([*by_load, *by_store])]


def _flow(flow: Flow, result: FlowResult | None, stored: dict[str, Any] | None) -> FlowFigures:
    example = stored.get("example_order_id") if stored else None
    return FlowFigures(
        style=flow.style,
        transport=flow.transport,
        load=_load_figures(result) if result else None,
        spans=_span_figures(stored) if stored else None,
        example_order_id=example or (_median_order(result) if result else None),
        example_rejected_id=_rejected_order(result) if result else None,
        delivery=_delivery(flow.transport),
    )


def _delivery(names: str) -> str | None:
    """What the table of transports promises of a message; of several transports the least. None for calls alone."""
    promised = {
        transport.delivery for name in names.split(",") if (transport := TRANSPORTS.get(name)) and transport.broker
    }
    return AT_MOST_ONCE if AT_MOST_ONCE in promised else next(iter(promised), None)


def _span_figures(stored: dict[str, Any]) -> SpanFigures:
    """Counts that the store does not name are 0, other figures None."""
    figures: dict[str, Any] = {field.name: stored.get(field.name) for field in fields(SpanFigures)}
    return SpanFigures(**{name: value or 0 if name in COUNTS else value for name, value in figures.items()})


def _load_figures(result: FlowResult) -> LoadFigures:
    accepts, completes = result.accept_ms(), result.complete_ms()
    return LoadFigures(
        sent=len(result.orders),
        accepted=result.accepted,
        completed=result.count("completed"),
        rejected=result.count("rejected"),
        lost=result.lost,
        failed=result.count("failed"),
        interrupted=result.count("interrupted"),
        unexpected=result.unexpected,
        orders_per_s=result.orders_per_s,
        accept_p50_ms=quantile(accepts, 0.5),
        accept_p95_ms=quantile(accepts, 0.95),
        complete_p50_ms=quantile(completes, 0.5),
        complete_p95_ms=quantile(completes, 0.95),
        late_p95_ms=quantile(result.late_ms(), 0.95),
        warmup_failed=result.warmup_failed,
        errors=result.errors,
        complaint=result.complaint,
        accept_percentiles_ms=_percentiles(accepts),
        complete_percentiles_ms=_percentiles(completes),
    )


def _percentiles(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    found = (quantile(ordered, percent / 100) for percent in range(101))
    return [round(value, 3) for value in found if value is not None]


def _median_order(result: FlowResult) -> str | None:
    """The completed order whose time is nearest the median."""
    done = [record for record in result.orders if record.outcome == "completed" and record.complete_ms is not None]
    median = quantile([record.complete_ms or 0.0 for record in done], 0.5) or 0.0
    nearest = min(done, key=lambda record: abs((record.complete_ms or 0.0) - median), default=None)
    return nearest.order_id if nearest else None


def _rejected_order(result: FlowResult) -> str | None:
    """A declined one before one out of stock: there is more to take back."""
    refused = sorted(
        (record for record in result.orders if record.outcome == "rejected"),
        key=lambda record: record.kind != "declined",
    )
    return refused[0].order_id if refused else None


def _notes(flow: FlowFigures) -> list[str]:
    """What spoils this flow's figures."""
    notes = []
    if (load := flow.load) is not None:
        found = {
            "lost (accepted, never ended)": load.lost,
            "failed": load.failed,
            "ended otherwise than it should": load.unexpected,
            "in flight when the load was stopped": load.interrupted,
            "failed during the warm-up": load.warmup_failed,
        }
        notes += [f"{flow.name}: {count} of {load.sent} orders {what}" for what, count in found.items() if count]
        if load.complaint:
            notes.append(f"{flow.name}: the load did not come to its end: {load.complaint}")
        if (load.late_p95_ms or 0) > LATE_MS:
            notes.append(
                f"{flow.name}: the load generator was late (p95 {load.late_p95_ms:.0f} ms); the machine is busy"
            )
    if (spans := flow.spans) is not None:
        if spans.orphan_spans:
            notes.append(f"{flow.name}: {spans.orphan_spans} spans without their cause (orphans)")
        if load is not None and spans.orders != load.accepted:
            notes.append(f"{flow.name}: {load.accepted} orders were accepted, and spans tell of {spans.orders}")
    elif load is not None and load.accepted:
        notes.append(f"{flow.name}: no spans")
    return notes


def _strain(loaded: LoadResult) -> list[str]:
    """Whether the machine, not the style, may have made the figures."""
    notes = []
    if (loaded.busy_before or 0) > BUSY_SHARE:
        notes.append(f"the machine was busy before the load began ({loaded.busy_before:.0%} of its CPUs taken)")
    profile = loaded.profile
    for result in loaded.flows:
        rate = result.orders_per_s
        if profile.workload == "open" and rate and rate < KEPT_UP * (offered := result.ended / profile.duration_s):
            notes.append(f"{result.flow}: the system did not keep up: {rate:.3g} of {offered:.3g} orders/s")
    return notes


def _age_s(instant: str) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds()
    except ValueError:
        return float("inf")
