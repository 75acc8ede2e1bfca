"""Faults on a running lab: in force in every process within two seconds, and one that is to die is killed."""

import json
import os
import subprocess
import sys
import time

import httpx
import pytest

from lab.targets.local.ports import free_block
from lab.targets.local.target import LocalTarget

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

SERVICES = ("orders", "inventory", "payment", "shipping", "notifications")
ORDER = {"customer": "c-1", "card": "4242424242424242", "ship_to": "Lisbon", "lines": [{"sku": "tea", "quantity": 1}]}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The services alone: they call one another, and no broker has to be there."""
    target = LocalTarget(tmp_path_factory.mktemp("faults") / "state", tied=True)
    with free_block() as ports:
        try:
            target.up(SERVICES, port_base=ports.base, jaeger="off")
            yield target
        finally:
            target.down()


def fault(target, *words):
    """The tool, as a person runs it."""
    environment = {**os.environ, "LAB_STATE_DIR": str(target.state_dir), "LAB_TARGET": "local"}
    command = [sys.executable, "-m", "lab.cli", "fault", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def done(target, *words):
    ran = fault(target, *words, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def applied(target):
    with target.admins() as ask:
        return ask("/settings/applied")


def test_a_fault_reaches_every_process_and_goes_again(target):
    told = done(target, "set", "payment.delay_ms=1", "orders.choreography.reorder_ms=5")
    assert sorted(told["processes"]) == sorted(SERVICES)
    assert told["not_running"] == []
    assert told["in_force_after_s"] <= 2
    on = {"payment.delay_ms": "1.0", "orders.choreography.reorder_ms": "5.0"}
    assert done(target, "list")["on"] == on
    assert all(on.items() <= values.items() for values in applied(target).values())
    done(target, "clear")
    assert done(target, "list")["on"] == {}
    assert not any(on.keys() & values.keys() for values in applied(target).values())


def test_a_wrong_name_is_one_line(target):
    refused = fault(target, "set", "paymnt.delay_ms=1")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("lab: 'paymnt.delay_ms' is no setting: did you mean 'payment.delay_ms'")
    assert refused.stderr.count("\n") == 1


def test_a_process_that_is_to_die_is_killed(target):
    """At once, in the middle of a call: the caller sees the connection end. Once it is back, the order ends."""
    done(target, "set", "payment.crash_after_effect_rate=1")
    placed = httpx.post(f"{target.addresses['front_door']}/orders", json=ORDER, timeout=30)
    assert placed.status_code == 503, placed.text
    deadline = time.monotonic() + 30
    while next(each for each in target.status().processes if each.name == "payment").pid is not None:
        assert time.monotonic() < deadline, "payment lives on"
        time.sleep(0.1)
    log = target.log_path("payment").read_text()
    assert '"stopped"' not in log, "it was not drained"
    assert done(target, "clear")["not_running"] == ["payment"]
    target.restart("payment")
    location = f"{target.addresses['front_door']}/orders/{placed.json()['order_id']}"
    ended = httpx.get(location, params={"wait_s": 30}, timeout=40).json()
    assert ended["state"] == "rejected"
