"""Every query of every panel and alert, with each value of each variable, asked of the cluster's Prometheus."""

import pytest

from tests.cluster.lab import ClusterLab
from tests.dashboards.running import broken_rules, empty, load
from tests.lab import FIGURES, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_every_query_of_every_board_has_data(lab: ClusterLab) -> None:
    """What may be empty says why beside its panel."""
    load(lab, list(FIGURES))
    prometheus = lab.addresses["prometheus"]
    if empty(prometheus):  # the next scrapes bring the rest
        eventually(lambda: not empty(prometheus), "every query has data", 60)
    assert empty(prometheus) == []


def test_prometheus_judges_every_rule(lab: ClusterLab) -> None:
    prometheus = lab.addresses["prometheus"]
    eventually(lambda: not broken_rules(prometheus), "all rules are healthy", 60)
    assert broken_rules(prometheus) == []
