"""A hundred orders through each flow: each ends as it should, no span is lost, nothing is done twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from lab.compare import compare
from lab.load import run_load
from load.plan import Flow
from load.profiles import profile_named
from load.shapes import steady
from tests.lab import EVERYBODY, FIGURES, PATIENT, eventually
from tests.live.lab import RealLab
from tests.telemetry.walker import problems

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

A_HUNDRED = replace(profile_named("standard"), name="test", stages=steady(10, 10), warmup_orders=2)


@pytest.mark.parametrize(("style", "transport"), list(FIGURES))
def test_each_order_ends_and_no_span_is_lost(lab: RealLab, tmp_path: Path, style: str, transport: str) -> None:
    lab.put_settings(PATIENT)
    before = quiet(lab)
    result = run_load(
        front_door=lab.addresses["front_door"],
        runs_dir=tmp_path,
        flows=[Flow(style, transport)],
        profile=A_HUNDRED,
        seed=7,
    )
    (flow,) = result.flows
    assert len(flow.orders) == 100
    assert [record for record in flow.orders if not record.expected] == []
    assert {record.kind for record in flow.orders} >= {"ordinary", "out_of_stock", "declined"}

    assert_no_span_lost(lab, before)
    lab.assert_nothing_twice()

    comparison = compare(
        result.run_id,
        span_store=lab.addresses["span_store"],
        prometheus=lab.addresses["prometheus"],
        runs_dir=tmp_path,
    )
    (figures,) = comparison.flows
    assert figures.spans is not None
    assert (figures.spans.orders, figures.spans.unfinished, figures.spans.orphan_spans) == (100, 0, 0)
    assert figures.spans.completed + figures.spans.rejected == 100
    assert lab.store(f"/runs/{result.run_id}/orphans")["orphans"] == []


def quiet(lab: RealLab) -> tuple[int, int]:
    """Wait until every span that was started has ended, was exported and was passed on; gives how many spans the span
    store holds and how many Jaeger says that it has accepted."""

    def exported() -> bool:
        names = ("otel_sdk_span_started_total", "lab_spans_ended_total", "lab_spans_exported_total")
        counts = [sum(lab.service_metric(service, name) for service in EVERYBODY) for name in names]
        return len(set(counts)) == 1 and not any(each["queued_payloads"] for each in lab.store("/stats")["forward"])

    eventually(lambda: exported() or None, "every span that was started has ended, was exported and passed on")
    jaeger = lab.jaeger_metrics
    names = ("otelcol_receiver_accepted_spans_total", "otelcol_receiver_accepted_spans")
    return lab.store("/stats")["stored"], int(sum(lab.metric(jaeger, name) for name in names))


def assert_no_span_lost(lab: RealLab, before: tuple[int, int]) -> None:
    """Started = ended = exported by every SDK = stored = received by Jaeger since ``before``; none dropped, refused or
    given up."""
    stored, accepted = quiet(lab)
    assert stored - before[0] == accepted - before[1] > 0
    assert sum(lab.service_metric(s, "lab_spans_exported_total", error_type="given_up") for s in EVERYBODY) == 0
    dropped = "otel_sdk_processor_span_processed_total"
    assert sum(lab.service_metric(s, dropped, error_type="queue_full") for s in EVERYBODY) == 0
    jaeger = lab.jaeger_metrics
    for name in ("otelcol_receiver_refused_spans_total", "otelcol_exporter_send_failed_spans_total"):
        assert lab.metric(jaeger, name) == 0


@pytest.mark.parametrize("shape", ["both", "link", "parent"])
def test_every_span_of_a_run_keeps_the_conventions(lab: RealLab, shape: str) -> None:
    lab.put_settings({**PATIENT, "trace.shape": shape})
    before = quiet(lab)
    orders = [lab.finished(style, transport) for style, transport in list(FIGURES)]
    assert_no_span_lost(lab, before)
    for order in orders:
        assert problems(lab.store(f"/orders/{order['id']}")["spans"], shape) == []
