"""Prometheus' rules: the objectives' burn rates, and alerts on symptoms. Each alert has its paragraph in
docs/dashboards.md, and a firing and a quiet case in tests/dashboards/test_rules.py.

They hold for Prometheus 2.42 and 3.x. An expression names the labels that its alert is grouped by.
"""

from dataclasses import dataclass

import yaml

from dashboards import foreign
from dashboards.promql import BY_FLOW, BY_READER, age, missed
from services.telemetry import conventions as c

OBJECTIVE = 0.99
ACCEPT_WITHIN_S = 1.0
COMPLETE_WITHIN_S = 5.0
PATIENCE_S = 30
WINDOWS = ("5m", "30m", "1h", "6h")
PAGES = (("1h", "5m", 14.4), ("6h", "30m", 6))
"""Long window, short window, and how many times faster than allowed the budget burns over both."""
RUNBOOK = "docs/dashboards.md"
QUIET = "an alert that does not fire has no data"


@dataclass(frozen=True, slots=True)
class Alert:
    """``summary`` and ``description`` may use the alert's labels and value, in Prometheus' template language."""

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    wait: str = "1m"


def burnt(objective: str, window: str) -> str:
    """The recorded part of the orders that missed ``objective``, by flow."""
    return f"lab:{objective}_missed:ratio_rate{window}"


def records() -> dict[str, str]:
    """Recorded series by name. Of an order that fails or never ends only the first is seen here: it has its own
    alerts."""
    accept, complete = c.METRIC_ORDER_ACCEPT_DURATION, c.METRIC_ORDER_COMPLETE_DURATION
    found = {}
    for window in WINDOWS:
        good = f'{c.LABEL_ERROR}=""'
        found[burnt("accept", window)] = missed(accept, ACCEPT_WITHIN_S, good, "", BY_FLOW, window)
        found[burnt("complete", window)] = missed(complete, COMPLETE_WITHIN_S, "", "", BY_FLOW, window)
    return found


def burns(objective: str) -> str:
    """Both windows of a pair burn: the long one says that it matters, the short one that it still goes on."""
    pairs = [
        f"({burnt(objective, long)} > {factor * (1 - OBJECTIVE):g} and {burnt(objective, short)} > "
        f"{factor * (1 - OBJECTIVE):g})"
        for long, short, factor in PAGES
    ]
    return " or ".join(pairs)


def rises(series: str, by: str, why: str, window: str = "5m") -> str:
    """By how much counters rose, where they did, also those that were not there before. Says ``why`` as a label."""
    now = f"sum by ({by}) ({series})"
    rise = f"({now} - (sum by ({by}) ({series} offset {window}) or {now} * 0)) > 0"
    return f'label_replace({rise}, "why", "{why}", "", "")'


def counter(name: str) -> str:
    """A counter of a Collector, with or without its suffix."""
    return f'{{__name__=~"{name}(_total)?"}}'


LOST = {
    "given up": f'{c.METRIC_SPANS_EXPORTED}_total{{{c.LABEL_ERROR}!=""}}',
    "queue full": f'{foreign.SDK_PROCESSED}_total{{{c.LABEL_ERROR}!=""}}',
    "refused by the span store": f"{foreign.STORE_REJECTED}_total",
    "refused by the address": f"{foreign.STORE_FORWARD_REFUSED}_total",
    "refused by the collector": counter(foreign.COLLECTOR_REFUSED),
    "not sent by the collector": counter(foreign.COLLECTOR_FAILED),
}
READY = f'sum by (queue) ({foreign.QUEUE_READY}{{queue!~".*[.]dead"}})'

ALERTS = (
    Alert(
        "OrdersStuck",
        f"max by ({BY_FLOW}) ({c.METRIC_ORDERS_STUCK}) > 0",
        "page",
        "{{ $value }} orders over {{ $labels.style }} / {{ $labels.transport }} do not end",
        f"They were accepted more than {c.STUCK_AFTER_S:g} s ago. Their customers have an answer and no parcel.",
    ),
    Alert(
        "QueueAge",
        f"{age(c.METRIC_OLDEST_MESSAGE, by=BY_READER)} > {PATIENCE_S}",
        "page",
        "{{ $labels.service }} holds a message of {{ $labels.messaging_destination_name }} for {{ $value | "
        "humanizeDuration }}",
        "The oldest message in the hands of this consumer was sent that long ago. All behind it wait, too.",
    ),
    Alert(
        "QueueNotRead",
        f"{READY} > 0 unless sum by (queue) ({foreign.QUEUE_CONSUMERS}) > 0",
        "page",
        "{{ $value }} messages wait in {{ $labels.queue }} and nobody reads it",
        "RabbitMQ has no consumer for the queue: its service is down, or cannot subscribe.",
    ),
    Alert(
        "DeadLetters",
        rises(f"{c.METRIC_DEAD_LETTERS}_total", f"{BY_READER}, {c.LABEL_REASON}", "given up by us")
        + " or "
        + rises(f"{foreign.RABBITMQ_LIMIT_REACHED}_total", "job", "delivery limit reached"),
        "ticket",
        "{{ $value }} dead letters ({{ $labels.why }}) {{ $labels.service }} {{ $labels.messaging_destination_name }}",
        "Messages that nobody will handle any more. The orders that they belong to do not end by themselves.",
        wait="0s",
    ),
    Alert(
        "SpansDropped",
        " or ".join(rises(series, "job", why) for why, series in LOST.items()),
        "ticket",
        "{{ $value }} spans were lost at {{ $labels.job }}: {{ $labels.why }}",
        "Traces of the last minutes have holes: do not trust what they seem to lack.",
        wait="0s",
    ),
    Alert(
        "AcceptBurn",
        burns("accept"),
        "page",
        "{{ $value | humanizePercentage }} of the orders over {{ $labels.style }} / {{ $labels.transport }} are not "
        f"accepted within {ACCEPT_WITHIN_S:g} s",
        f"The objective is {OBJECTIVE:.0%}. At this rate a month's budget is gone within days.",
    ),
    Alert(
        "CompleteBurn",
        burns("complete"),
        "page",
        "{{ $value | humanizePercentage }} of the orders over {{ $labels.style }} / {{ $labels.transport }} do not "
        f"end within {COMPLETE_WITHIN_S:g} s",
        f"The objective is {OBJECTIVE:.0%}. At this rate a month's budget is gone within days.",
    ),
    Alert(
        "TargetDown",
        f"{foreign.UP} == 0",
        "ticket",
        "{{ $labels.job }} at {{ $labels.instance }} does not answer Prometheus",
        "It is down, or too busy to say how it is. What the boards show of it is old.",
    ),
)


def render() -> str:
    """The rule file."""
    recording = [{"record": name, "expr": expr} for name, expr in records().items()]
    alerting = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.wait,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": f"{RUNBOOK}#{alert.name.lower()}",
            },
        }
        for alert in ALERTS
    ]
    groups = [{"name": "objectives", "rules": recording}, {"name": "symptoms", "rules": alerting}]
    return "# Written by `make dashboards` from dashboards/rules.py. Do not edit.\n" + yaml.safe_dump(
        {"groups": groups}, sort_keys=False, width=1000, allow_unicode=True
    )
