"""Queries made ready to run, as Grafana would."""

import functools
import json
import re
import subprocess
import sys

import httpx
import pytest

from dashboards import queries
from dashboards.queries import BOARDS, Asked, expanded, plain
from dashboards.rules import ALERTS, records
from tests.docs.tree import ROOT

VALUES = {
    "style": ["choreography", "request_response"],
    "transport": ["kafka", "rest"],
    "service": ["orders", "payment"],
    "messaging_system": ["kafka", "rabbitmq"],
    "messaging_destination_name": ["orders.events", "payment.events"],
}


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Every query, for a Prometheus that knows these values."""

    def answer(request: httpx.Request) -> httpx.Response:
        label = request.url.path.split("/")[-2]
        return httpx.Response(200, json={"data": VALUES[label]})

    client = functools.partial(httpx.Client, transport=httpx.MockTransport(answer))
    monkeypatch.setattr(queries.httpx, "Client", client)
    return list(expanded("http://prometheus"))


def test_nothing_is_left_to_put_in(ready: list[Asked]) -> None:
    assert [asked.expr for asked in ready if "$" in asked.expr and asked.board != "rules"] == []


def test_each_variable_takes_each_value_and_all(ready: list[Asked]) -> None:
    found = [asked.expr for asked in ready if asked.panel == "In flight, by flow"]
    assert found == [
        f'max by (style, transport) (lab_orders_open{{style=~"{style}",transport=~"{transport}"}})'
        for style, transport in [
            ("(choreography|request_response)", "(kafka|rest)"),
            ("choreography", "(kafka|rest)"),
            ("request_response", "(kafka|rest)"),
            ("(choreography|request_response)", "kafka"),
            ("(choreography|request_response)", "rest"),
        ]
    ]


def test_a_single_choice_has_no_all(ready: list[Asked]) -> None:
    jobs = {job for asked in ready if asked.board == "one-service" for job in re.findall(r'job="(.*?)"', asked.expr)}
    assert jobs == {"orders", "payment"}


def test_a_value_is_escaped_for_a_regular_expression_in_a_string(ready: list[Asked]) -> None:
    assert any(r'messaging_destination_name=~".*orders\\.events.*"' in asked.expr for asked in ready)


def test_what_is_narrowed_may_be_empty_where_it_says_why(ready: list[Asked]) -> None:
    lag = [asked for asked in ready if asked.panel == "Kafka: lag"]
    assert len(lag) == 7
    (rabbitmq,) = [asked for asked in lag if asked.zero]
    assert 'messaging_system=~"rabbitmq",service=~"(orders|payment)"' in rabbitmq.expr


def test_rules_are_among_them(ready: list[Asked]) -> None:
    names = [asked.panel for asked in ready if asked.board == "rules"]
    assert names == [*records(), *(alert.name for alert in ALERTS)]


def test_the_queries_are_printed_as_json_lines() -> None:
    """``python -m dashboards --queries``."""
    command = [sys.executable, "-m", "dashboards", "--queries"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [Asked(**json.loads(line)) for line in printed] == list(plain())
    assert {json.loads(line)["board"] for line in printed} == {*(board.uid for board in BOARDS), "rules"}
