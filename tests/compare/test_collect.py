"""What a comparison gathers from the span store, the load's file and Prometheus, and what it says when one
is away."""

from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.compare import CompareError, Comparison, SpanFigures, compare
from lab.spans import answers
from tests.compare.sources import load_result, prometheus, store, stored_flow
from tests.load.front_door import serve

SPLIT = datetime(2026, 1, 5, 10, 0, 10, tzinfo=UTC).timestamp()
HEALTHY = {
    "otel_sdk_span_started_total": (100.0, 500.0),
    "queue_full": (7.0, 7.0),
    "lab_messaging_retries": (0.0, 3.0),
}


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    load_result().save(tmp_path / "r")
    return tmp_path


def test_all_three_sources_meet(runs_dir: Path) -> None:
    """Locust's and the store's figures of a flow stand side by side; counters are differences over the
    run."""
    with serve(store([stored_flow()])) as span_store, serve(prometheus(HEALTHY, SPLIT)) as metrics:
        found = compare("r", span_store=span_store, prometheus=metrics, runs_dir=runs_dir)
    [flow] = found.flows
    assert flow.load is not None
    assert flow.spans is not None
    assert (flow.load.accept_p50_ms, flow.load.complete_p50_ms) == (9.5, 54.5)
    assert (flow.spans.accept_p50_ms, flow.spans.complete_p50_ms) == (5.0, 50.0)
    assert (flow.load.completed, flow.load.rejected) == (8, 2)
    assert (flow.example_order_id, flow.example_rejected_id) == ("o-3", "o-7")
    assert len(flow.load.complete_percentiles_ms) == 101
    assert {figure.name: figure.value for figure in found.telemetry} == {
        "spans_started": 400.0,
        "spans_dropped": 0.0,
        "spans_not_exported": 0.0,
        "retries": 3.0,
        "dead_letters": 0.0,
        "duplicates": 0.0,
        "bad_trace_context": 0.0,
    }
    assert found.sound, found.notes


def test_what_its_transport_promises_stands_beside_a_flow(tmp_path: Path) -> None:
    """As the table of transports has it. A call promises nothing that its caller does not see."""
    pairs = {
        ("choreography", "kafka"): "at least once",
        ("choreography", "redis_pubsub"): "at most once",
        ("request_response", "rest"): None,
        ("of two ports", "grpc,kafka"): "at least once",
        ("of three ports", "redis_pubsub,grpc,kafka"): "at most once",
        ("choreography", "of another version"): None,
    }
    stored = [stored_flow(style=style, transport=transport) for style, transport in pairs]
    with serve(store(stored)) as span_store:
        found = compare("r", span_store=span_store, prometheus=None, runs_dir=tmp_path)
    assert {(flow.style, flow.transport): flow.delivery for flow in found.flows} == pairs


def test_it_survives_json(runs_dir: Path) -> None:
    """What is written is what is read."""
    with serve(store([stored_flow()])) as span_store:
        found = compare("r", span_store=span_store, prometheus=None, runs_dir=runs_dir)
    assert Comparison.from_json(found.to_json()) == found


def test_without_prometheus_it_says_what_is_not_known(runs_dir: Path) -> None:
    """The comparison stands; the note says which figure is missing and why."""
    with serve(store([stored_flow()])) as span_store:
        absent = compare("r", span_store=span_store, prometheus=None, runs_dir=runs_dir)
        dead = compare("r", span_store=span_store, prometheus="http://127.0.0.1:9", runs_dir=runs_dir)
    with serve(store([stored_flow()])) as span_store, serve(prometheus({}, SPLIT)) as metrics:
        empty = compare("r", span_store=span_store, prometheus=metrics, runs_dir=runs_dir)
    assert absent.notes == ["spans that the SDK dropped are not known: no Prometheus runs"]
    assert dead.notes[0].startswith("spans that the SDK dropped are not known: no Prometheus at http://127.0.0.1:9")
    assert empty.notes == ["spans that the SDK dropped are not known: Prometheus has no figures of the services"]


def test_dropped_spans_are_noted(runs_dir: Path) -> None:
    """Figures from spans mean less when spans are missing."""
    values = {**HEALTHY, "queue_full": (7.0, 12.0)}
    with serve(store([stored_flow()])) as span_store, serve(prometheus(values, SPLIT)) as metrics:
        found = compare("r", span_store=span_store, prometheus=metrics, runs_dir=runs_dir)
    assert found.notes == ["5 spans dropped by the SDK, its queue being full"]


def test_what_spoils_a_flow_is_noted(tmp_path: Path) -> None:
    """Lost, failed and wrongly ended orders, orphans, and orders of which no span tells."""
    load_result("cccclffxrr").save(tmp_path / "r")
    with (
        serve(store([stored_flow(orders=7, orphan_spans=4)])) as span_store,
        serve(prometheus(HEALTHY, SPLIT)) as metrics,
    ):
        found = compare("r", span_store=span_store, prometheus=metrics, runs_dir=tmp_path)
    assert found.notes == [
        "choreography over kafka: 1 of 10 orders lost (accepted, never ended)",
        "choreography over kafka: 2 of 10 orders failed",
        "choreography over kafka: 1 of 10 orders ended otherwise than it should",
        "choreography over kafka: 4 spans without their cause (orphans)",
        "choreography over kafka: 8 orders were accepted, and spans tell of 7",
    ]


def test_a_strained_machine_is_noted(tmp_path: Path) -> None:
    """Figures that the machine made, not the style: it was busy before, or the system fell behind the schedule."""
    result = load_result()
    result.busy_before = 0.83
    for record in result.flows[0].orders:
        record.complete_ms = 9000.0
    result.save(tmp_path / "r")
    with serve(store([stored_flow()])) as span_store, serve(prometheus(HEALTHY, SPLIT)) as metrics:
        found = compare("r", span_store=span_store, prometheus=metrics, runs_dir=tmp_path)
    assert found.notes == [
        "the machine was busy before the load began (83% of its CPUs taken)",
        "choreography over kafka: the system did not keep up: 1.01 of 10 orders/s",
    ]


def test_without_a_span_store_the_load_speaks_alone(runs_dir: Path) -> None:
    """Accept and complete are known; the rest is said to be missing."""
    found = compare("r", span_store="http://127.0.0.1:9", prometheus=None, runs_dir=runs_dir)
    [flow] = found.flows
    assert flow.spans is None
    assert flow.example_order_id == "o-3", "the median of eight lies between two"
    assert any(note.startswith("no figures from spans: no span store at") for note in found.notes)


def test_without_a_load_the_spans_speak_alone(tmp_path: Path) -> None:
    """A run that something else made: its spans are enough."""
    with serve(store([stored_flow()])) as span_store:
        found = compare("r", span_store=span_store, prometheus=None, runs_dir=tmp_path)
    [flow] = found.flows
    assert flow.load is None
    assert flow.spans is not None
    assert any("load's own figures are missing" in note for note in found.notes)


def test_an_unknown_run_is_one_line(tmp_path: Path) -> None:
    """Nobody knows it: that is an error."""
    with (
        serve(store([])) as span_store,
        pytest.raises(CompareError, match=r"nothing is known of run 'x': .*no span of run 'x'") as caught,
    ):
        compare("x", span_store=span_store, prometheus=None, runs_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_load_file_is_said(tmp_path: Path) -> None:
    """Half a file is not read as a whole one."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "load.json").write_text('{"run_id": "r"}')
    with serve(store([stored_flow()])) as span_store:
        found = compare("r", span_store=span_store, prometheus=None, runs_dir=tmp_path)
    assert any("cannot be read" in note for note in found.notes)


def test_a_run_that_has_just_ended_is_waited_for(tmp_path: Path) -> None:
    """Spans come a little later than answers: the store is asked until it has got nothing new."""
    load_result(ended_at=datetime.now(UTC).isoformat()).save(tmp_path / "r")
    early, late = stored_flow(orders=4, spans=100), stored_flow()
    with serve(store([], [early], [late])) as span_store:
        found = compare("r", span_store=span_store, prometheus=None, runs_dir=tmp_path)
    assert found.flows[0].spans is not None
    assert found.flows[0].spans.spans == 400


def test_the_store_names_every_figure_that_is_shown() -> None:
    """A field that is renamed there must not become a silent dash here."""
    assert {field.name for field in fields(SpanFigures)} <= set(answers.Flow.model_fields)
