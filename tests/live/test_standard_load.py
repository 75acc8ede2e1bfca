"""A hundred orders through each flow: each ends as it should, no span is lost, nothing is done twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from lab.compare import compare
from lab.load import run_load
from load.plan import Flow
from load.profiles import profile_named
from load.shapes import steady
from tests.live.lab import ASYNCHRONOUS, SERVICES, SYNCHRONOUS, RealLab, eventually
from tests.telemetry.walker import problems

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

A_HUNDRED = replace(profile_named("standard"), name="test", stages=steady(10, 10), warmup_orders=2)


@pytest.mark.parametrize(("style", "transport"), [*SYNCHRONOUS, *ASYNCHRONOUS])
def test_each_order_ends_and_no_span_is_lost(lab: RealLab, tmp_path: Path, style: str, transport: str) -> None:
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

    assert_no_span_lost(lab)
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


def assert_no_span_lost(lab: RealLab) -> None:
    """Started, ended and exported by every SDK = stored = received by Jaeger; nothing dropped or refused."""

    def settled() -> dict[str, float] | None:
        counts = {
            name: sum(lab.service_metric(service, name) for service in SERVICES)
            for name in ("otel_sdk_span_started_total", "lab_spans_ended_total", "lab_spans_exported_total")
        }
        return counts if len(set(counts.values())) == 1 else None

    eventually(settled, "every span that was started has ended and was exported")
    assert sum(lab.service_metric(s, "lab_spans_exported_total", error_type="given_up") for s in SERVICES) == 0
    dropped = sum(
        lab.service_metric(s, "otel_sdk_processor_span_processed_total", error_type="queue_full") for s in SERVICES
    )
    assert dropped == 0
    eventually(lambda: _store_and_jaeger_agree(lab) or None, "Jaeger has received what the span store holds")


def _store_and_jaeger_agree(lab: RealLab) -> bool:
    jaeger = lab.ports.url("jaeger.metrics")
    accepted = lab.metric(jaeger, "otelcol_receiver_accepted_spans_total") or lab.metric(
        jaeger, "otelcol_receiver_accepted_spans"
    )
    refused = lab.metric(jaeger, "otelcol_receiver_refused_spans_total") + lab.metric(
        jaeger, "otelcol_exporter_send_failed_spans_total"
    )
    assert refused == 0
    return bool(accepted == lab.store("/stats")["spans"])


@pytest.mark.parametrize("shape", ["both", "link", "parent"])
def test_every_span_of_a_run_keeps_the_conventions(lab: RealLab, shape: str) -> None:
    lab.put_settings({"trace.shape": shape})
    orders = [lab.finished(style, transport) for style, transport in [*SYNCHRONOUS, *ASYNCHRONOUS]]
    assert_no_span_lost(lab)
    for order in orders:
        assert problems(lab.store(f"/orders/{order['id']}")["spans"], shape) == []
