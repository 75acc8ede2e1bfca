"""The services' admin ports, asked at once: on this machine by their ports, in a cluster through the API."""

import json

import pytest

from lab.targets import TargetDownError
from lab.targets.cluster.target import KindTarget
from lab.targets.local.servers import Entry
from tests.targets.conftest import entry, standin
from tests.targets.fakes import VALUES, Machine, deployment, pod

PODS = "/api/v1/namespaces/antiphon/pods"


def service(name):
    return Entry(lambda plan, _: [standin(plan, f"{name}.admin", name=name)])


def test_every_service_is_asked_here_and_a_dead_one_does_not_answer(make_target):
    """Servers are not asked: they are none of ours."""
    target = make_target(orders=service("orders"), payment=service("payment"), redis=entry("redis"))
    with pytest.raises(TargetDownError), target.admins():
        pass
    target.up()
    with target.admins() as ask:
        assert ask("/settings/applied") == {"orders": {"reason": ""}, "payment": {"reason": ""}}
        target.kill("payment")
        assert ask("/settings/applied") == {"orders": {"reason": ""}, "payment": None}


def test_every_pod_is_asked_in_a_cluster(tmp_path, monkeypatch):
    """Each replica by itself; one that is ending, or has no such path, or no such port, is left out."""
    (tmp_path / "machine").mkdir()
    machine = Machine(tmp_path / "machine", monkeypatch, "docker", "kind", "helm", "kubectl")
    machine.clusters("antiphon")
    machine.answer("helm get values", json.dumps(VALUES))
    ending, other = pod("payment", "3"), pod("redis")
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    other["spec"]["containers"][0]["ports"] = [{"name": "redis", "containerPort": 6379}]
    pods = [pod("orders"), pod("payment", "1"), pod("payment", "2"), ending, pod("spans"), other]
    machine.has(deployment("orders"), deployment("payment", wanted=2), pods=pods)
    machine.api(f"{PODS}/orders-1:9464/proxy/settings/applied", {"trace.shape": "both"})
    machine.api(f"{PODS}/payment-1:9464/proxy/settings/applied", {"trace.shape": "link"})
    machine.api(f"{PODS}/payment-2:9464/proxy/settings/applied", {"kind": "Status"}, 503)
    machine.api(f"{PODS}/payment-3:9464/proxy/settings/applied", {"trace.shape": "link"})
    machine.api(f"{PODS}/redis-1:6379/proxy/settings/applied", {"trace.shape": "link"})
    with KindTarget(tmp_path / "state").admins() as ask:
        assert ask("/settings/applied") == {
            "orders-1": {"trace.shape": "both"},
            "payment-1": {"trace.shape": "link"},
            "payment-2": None,
        }
