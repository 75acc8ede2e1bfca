"""Boards and rules on a real lab: after a load, every query of every panel answers, and every rule is judged."""

import pytest

from services.telemetry import conventions as c
from tests.dashboards.running import broken_rules, exemplars, load, missing_after_load
from tests.lab import FIGURES, eventually
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]


def test_every_query_of_every_board_has_data(lab: RealLab) -> None:
    """With each value of each variable; what may be empty says why beside its panel."""
    assert missing_after_load(lab, list(FIGURES)) == []


def test_prometheus_judges_every_rule(lab: RealLab) -> None:
    prometheus = lab.addresses["prometheus"]
    eventually(lambda: not broken_rules(prometheus), f"all rules are healthy, not {broken_rules(prometheus)}", 30)


@pytest.mark.parametrize(
    "histogram",
    [
        c.METRIC_ORDER_ACCEPT_DURATION,
        c.METRIC_ORDER_COMPLETE_DURATION,
        c.METRIC_QUEUE_DURATION,
        c.METRIC_PROCESS_DURATION,
        c.METRIC_RPC_CLIENT_DURATION,
    ],
)
def test_points_lead_to_traces(lab: RealLab, histogram: str) -> None:
    """An exemplar in Prometheus is a trace in Jaeger."""
    load(lab, list(FIGURES), rounds=1)
    traces = eventually(
        lambda: exemplars(lab.addresses["prometheus"], f"{histogram}_bucket", 60), f"{histogram} has exemplars"
    )
    eventually(lambda: any(lab.jaeger(f"/api/traces/{trace}") for trace in traces), "Jaeger knows one of them")
