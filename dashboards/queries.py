"""Every query of every panel and rule; also ready to run: with each value that each variable has on a Prometheus."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import httpx

from dashboards import calls_and_events, one_service, queues, rpc, rules, telemetry
from dashboards.panels import Board, Choice

BOARDS: tuple[Board, ...] = tuple(module.BOARD for module in (calls_and_events, queues, rpc, one_service, telemetry))
RULES = "rules"
"""Stands for the board where a query belongs to a rule."""
WINDOW = "2m"
"""What ``$__rate_interval`` becomes: long enough that a short load is still within it when it is asked about."""


class Asked(NamedTuple):
    """One query. ``zero`` says why it may have no data; empty: it must have some after a load through all flows."""

    board: str
    panel: str
    expr: str
    zero: str


def plain() -> Iterator[Asked]:
    """As they are written, variables left in."""
    for board in BOARDS:
        for panel in board.panels:
            for query in panel.queries:
                yield Asked(board.uid, panel.title, query.expr, query.zero)
    for name, expr in rules.records().items():
        yield Asked(RULES, name, expr, "")
    for alert in rules.ALERTS:
        yield Asked(RULES, alert.name, alert.expr, rules.QUIET)


def expanded(prometheus_url: str) -> Iterator[Asked]:
    """Ready to run: every variable's every value in turn, the others at All (which is also a value), as Grafana would
    put them in. Raises httpx.HTTPError."""
    with httpx.Client(base_url=prometheus_url, trust_env=False, timeout=30) as client:
        for board in BOARDS:
            values = {choice: _values(client, choice) for choice in board.choices}
            for panel in board.panels:
                for query in panel.queries:
                    for filled, value in _filled(query.expr, values):
                        pattern, why = query.some or ("", "")
                        none = why if value and re.fullmatch(pattern, value) else ""
                        yield Asked(board.uid, panel.title, filled, query.zero or none)
    yield from (asked for asked in plain() if asked.board == RULES)


def _values(client: httpx.Client, choice: Choice) -> list[str]:
    answer = client.get(f"/api/v1/label/{choice.label}/values", params={"match[]": choice.metric})
    answer.raise_for_status()
    return sorted(answer.json()["data"])


def _filled(expr: str, values: dict[Choice, list[str]]) -> Iterator[tuple[str, str]]:
    """The query with each value put in, and the value; none for All."""
    used = [choice for choice in values if f"${choice.name}" in expr]
    everything = {choice: _all(choice, values[choice]) for choice in used}
    if not any(choice.single for choice in used):
        yield _put(expr, everything), ""
    for choice in used:
        for value in values[choice]:
            yield _put(expr, {**everything, choice: _escaped(value)}), value


def _all(choice: Choice, values: list[str]) -> str:
    if choice.everything:
        return choice.everything
    return _escaped(values[0]) if choice.single and values else f"({'|'.join(map(_escaped, values))})"


def _escaped(value: str) -> str:
    r"""As Grafana's Prometheus data source writes a value into a regular expression within a string: ``a\\.b``."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", lambda found: "\\\\" + found[0], value)


def _put(expr: str, chosen: dict[Choice, str]) -> str:
    for choice, value in chosen.items():
        expr = expr.replace(f"${choice.name}", value)
    return expr.replace("$__rate_interval", WINDOW)
