"""Every query of every panel and alert, with each value of each variable, asked of the cluster's Prometheus."""

import pytest

from tests.cluster.lab import ClusterLab
from tests.dashboards.running import broken_rules, missing_after_load
from tests.lab import FIGURES, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_every_query_of_every_board_has_data(lab: ClusterLab) -> None:
    """What may be empty says why beside its panel."""
    assert missing_after_load(lab, list(FIGURES)) == []


def test_prometheus_judges_every_rule(lab: ClusterLab) -> None:
    prometheus = lab.addresses["prometheus"]
    eventually(lambda: not broken_rules(prometheus), "all rules are healthy", 60)
    assert broken_rules(prometheus) == []
