"""The whole on a cluster: every pod up under the restricted admission level, every flow as it is locally."""

import json
import subprocess
from collections.abc import Mapping

import pytest

from tests.cluster.conftest import make
from tests.cluster.lab import NAMESPACE, ClusterLab, Kube, ready
from tests.lab import FIGURES, assert_figures

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_every_pod_is_ready_though_the_namespace_enforces_the_restricted_level(lab: ClusterLab, kube: Kube) -> None:
    (namespace,) = kube.get("namespace", NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = kube.pods()
    assert pods
    assert [pod["metadata"]["name"] for pod in pods if not ready(pod)] == []
    status = lab.target.status()
    assert status.ready
    assert {"front_door", "orders_admin", "span_store", "jaeger", "prometheus"} <= set(status.addresses)
    assert set(status.transports.values()) == {"ready"}
    assert all(process.rss_bytes > 0 for process in status.processes)


@pytest.mark.parametrize(("style", "transport"), FIGURES)
def test_an_order_has_the_traces_spans_and_links_that_it_has_locally(
    lab: ClusterLab, style: str, transport: str
) -> None:
    assert_figures(lab, style, transport)


def test_jaeger_has_the_traces_of_every_flow(kube: Kube) -> None:
    """What `helm test` does: an order through each flow, found again in Jaeger."""
    told = kube.run("helm", "test", "antiphon", "--namespace", NAMESPACE, "--timeout", "5m").stdout
    assert "Phase:          Succeeded" in told


@pytest.mark.timeout(600)
def test_make_load_drives_every_flow_and_compares_them(
    lab: ClusterLab, kube: Kube, environment: Mapping[str, str]
) -> None:
    flows = " ".join(f"--flow {style}/{transport}" for style, transport in FIGURES)
    make("load", dict(environment), f"ARGS=--profile smoke --json {flows}")
    done = subprocess.run(
        [".venv/bin/lab", "compare", "--json"],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    flows = json.loads(done.stdout)["flows"]
    assert {(flow["style"], flow["transport"]) for flow in flows} == set(FIGURES)
    for flow in flows:
        # of a call nobody promises a delivery
        empty = [name for name, value in flow.items() if value is None and name != "delivery"]
        assert not empty, f"{flow['style']}/{flow['transport']} has no {', '.join(empty)}"
    lab.assert_nothing_twice()
