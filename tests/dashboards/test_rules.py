"""The rules hold in Prometheus' own judgement: each alert fires when it should and is quiet when it should be."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.__main__ import BUILT
from dashboards.rules import ALERTS, PAGES, RUNBOOK, WINDOWS, records
from lab.targets.local import prometheus
from lab.targets.local.provision import UnavailableError
from lab.targets.local.provision.tools import Job
from tests.docs.tree import ROOT, read

FLOW = 'style="choreography",transport="kafka"'
READER = 'service="payment",messaging_system="rabbitmq",messaging_destination_name="orders.events"'
ORDERS = f'{{service="orders",job="orders",instance="a",{FLOW}'
ACCEPT, COMPLETE = "lab_order_accept_duration_seconds", "lab_order_complete_duration_seconds"


@dataclass(frozen=True)
class Case:
    """Series as promtool writes them, one value a minute; at ``at`` the alert fires with these labels and summary, or
    is quiet where there is no summary."""

    series: dict[str, str]
    at: str = "10m"
    labels: dict[str, str] = field(default_factory=dict)
    summary: str = ""


def orders(name: str, le: str, good: int, every: int, error: str = "") -> dict[str, str]:
    """A histogram that grows by ``every`` a minute, of which ``good`` are within ``le``."""
    labels = f'{ORDERS},error_type="{error}"' if name == ACCEPT else f'{ORDERS},state="completed"'
    return {f'{name}_bucket{labels},le="{le}"}}': f"0+{good}x400", f"{name}_count{labels}}}": f"0+{every}x400"}


def both(*parts: dict[str, str]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}


KAFKA = {"style": "choreography", "transport": "kafka"}
PAYMENT = {
    "service": "payment",
    "messaging_system": "rabbitmq",
    "messaging_destination_name": "orders.events",
}
WAITING = 'rabbitmq_detailed_queue_messages_ready{queue="payment.orders.events",vhost="/"}'
READERS = 'rabbitmq_detailed_queue_consumers{queue="payment.orders.events",vhost="/"}'
DEAD = f'lab_messaging_dead_letters_total{{{READER},job="payment",reason="failed"}}'
FULL = 'otel_sdk_processor_span_processed_total{job="orders",error_type="queue_full"}'

FIRING = {
    "OrdersStuck": Case(
        {f"lab_orders_stuck{ORDERS}}}": "0 0 3x20", f'lab_orders_stuck{ORDERS},replica="b"}}': "0 0 3x20"},
        labels=KAFKA,
        summary="3 orders over choreography / kafka do not end",
    ),
    # promtool's clock begins at 0, so a message of instant 60 is 540 s old after ten minutes
    "QueueAge": Case(
        {f'lab_messaging_oldest_timestamp_seconds{{{READER},job="payment"}}': "0 60x20"},
        labels=PAYMENT,
        summary="payment holds a message of orders.events for 9m 0s",
    ),
    "QueueNotRead": Case(
        {WAITING: "0 7x20", READERS: "1 0x20"},
        labels={"queue": "payment.orders.events"},
        summary="7 messages wait in payment.orders.events and nobody reads it",
    ),
    "DeadLetters": Case(
        {DEAD: "0x8 2x20"},
        labels={**PAYMENT, "reason": "failed", "why": "given up by us"},
        summary="2 dead letters (given up by us) payment orders.events",
    ),
    # a series that was not there before its first loss
    "SpansDropped": Case(
        {FULL: "_x8 512x20"},
        labels={"job": "orders", "why": "queue full"},
        summary="512 spans were lost at orders: queue full",
    ),
    "AcceptBurn": Case(
        orders(ACCEPT, "1.0", 6, 10),
        at="1h",
        labels=KAFKA,
        summary="40% of the orders over choreography / kafka are not accepted within 1 s",
    ),
    "CompleteBurn": Case(
        orders(COMPLETE, "5.0", 5, 10),
        at="1h",
        labels=KAFKA,
        summary="50% of the orders over choreography / kafka do not end within 5 s",
    ),
    "TargetDown": Case(
        {'up{job="kafka",instance="a"}': "1 1 0x20"},
        labels={"job": "kafka", "instance": "a"},
        summary="kafka at a does not answer Prometheus",
    ),
}
QUIET = {
    "OrdersStuck": Case({f"lab_orders_stuck{ORDERS}}}": "0 2 0x20"}),
    "QueueAge": Case(  # none, and one that is always new
        {
            f'lab_messaging_oldest_timestamp_seconds{{{READER},job="payment"}}': "0x20",
            f'lab_messaging_oldest_timestamp_seconds{{{READER},job="shipping"}}': "0+60x20",
        }
    ),
    "QueueNotRead": Case({WAITING: "7x20", READERS: "1x20", WAITING.replace("events", "events.dead"): "4x20"}),
    "DeadLetters": Case({DEAD: "5x20"}),
    "SpansDropped": Case({FULL: "512x20", 'lab_spans_exported_total{job="orders",error_type=""}': "0+100x20"}),
    "AcceptBurn": Case(orders(ACCEPT, "1.0", 1000, 1001), at="6h"),
    "CompleteBurn": Case(orders(COMPLETE, "5.0", 1000, 1001), at="6h"),
    "TargetDown": Case({'up{job="kafka",instance="a"}': "1 0 1x20"}),
}
MORE = {
    "AcceptBurn": [
        # every answer fails, and quickly
        Case(
            orders(ACCEPT, "1.0", 10, 10, "Unavailable"),
            "1h",
            KAFKA,
            "100% of the orders over choreography / kafka are not accepted within 1 s",
        ),
        # it was bad an hour ago and is over
        Case(
            {
                f'{ACCEPT}_bucket{ORDERS},error_type="",le="1.0"}}': "0+1x40 50+10x60",
                f'{ACCEPT}_count{ORDERS},error_type=""}}': "0+10x40 410+10x60",
            },
            "80m",
        ),
    ],
    "SpansDropped": [
        Case(
            {'otelcol_exporter_send_failed_spans{job="otel-collector",exporter="otlp"}': "0x8 20x20"},
            labels={"job": "otel-collector", "why": "not sent by the collector"},
            summary="20 spans were lost at otel-collector: not sent by the collector",
        )
    ],
}


@pytest.fixture(scope="session")
def promtool() -> Path:
    try:
        program = prometheus.provide(Job("prometheus", lambda *_: None)).path.resolve().with_name("promtool")
    except UnavailableError as error:
        pytest.skip(f"no Prometheus: {error}")
    if not program.exists():
        pytest.skip(f"there is no promtool beside {program.parent}/prometheus")
    return program


def run(promtool: Path, *arguments: str | Path) -> None:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def unit_test(name: str, case: Case) -> dict[str, Any]:
    (alert,) = (each for each in ALERTS if each.name == name)
    fires = {
        "exp_labels": {**case.labels, "severity": alert.severity},
        "exp_annotations": {
            "summary": case.summary,
            "description": alert.description,
            "runbook_url": f"{RUNBOOK}#{name.lower()}",
        },
    }
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": name, "exp_alerts": [fires] if case.summary else []}],
    }


def test_prometheus_reads_the_rules(promtool: Path) -> None:
    run(promtool, "check", "rules", BUILT / "rules.yaml")


def test_alerts_fire_when_they_should_and_else_do_not(promtool: Path, tmp_path: Path) -> None:
    """By ``promtool test rules``: series in, alerts out. Each has a firing and a quiet case."""
    names = [alert.name for alert in ALERTS]
    assert list(FIRING) == list(QUIET) == names
    cases = [(name, case) for name in names for case in (FIRING[name], QUIET[name], *MORE.get(name, []))]
    document = {
        "rule_files": [str((BUILT / "rules.yaml").resolve())],
        "evaluation_interval": "1m",
        "tests": [unit_test(name, case) for name, case in cases],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(document))
    run(promtool, "test", "rules", file)


def test_each_alert_has_its_paragraph() -> None:
    """Its runbook leads to a heading of the page, and no heading is about an alert that is gone."""
    page = read(RUNBOOK)
    alerts = page.partition("\n## Alerts\n")[2]
    assert re.findall(r"^### (\w+)$", alerts, re.MULTILINE) == [alert.name for alert in ALERTS]
    assert (ROOT / RUNBOOK).exists()


def test_burn_rates_are_asked_over_windows_that_are_recorded() -> None:
    assert {window for long, short, _ in PAGES for window in (long, short)} == set(WINDOWS)
    assert len(records()) == 2 * len(WINDOWS)
