"""More processes of a participant on the local target, with small ones that stand in for them."""

import json
import signal
from pathlib import Path

import pytest

from lab.targets import LabError
from lab.targets.local import ours, prometheus
from lab.targets.local.plan import Plan
from lab.targets.local.ports import MOST, PARTICIPANTS, Ports, is_free
from lab.targets.local.process import Scrape
from lab.targets.local.servers import ENTRIES, Entry
from lab.targets.local.state import StateDir, marked
from tests.targets.conftest import entry, standin

NAMES = ["payment", *(f"payment-{number}" for number in range(2, MOST + 1))]


def several(*options, fails_from=MOST + 1, env=None):
    """An entry like a participant's: as many stand-ins as the plan wants; from `fails_from` on they are not ready."""

    def processes(plan):
        return [
            standin(
                plan,
                f"{name}.admin",
                *options,
                *(["--unready", "no room"] if number >= fails_from else []),
                name=name,
                scrapes=(Scrape("payment", plan.ports[f"{name}.admin"]),),
                env=env() if env else {},
                start_timeout_s=1 if number >= fails_from else 20,
            )
            for number, name in enumerate(NAMES[: plan.replicas.get("payment", 1)], 1)
        ]

    return Entry(lambda plan, _: processes(plan), most=MOST)


def scraping(plan, _):
    """A stand-in for Prometheus, with the configuration of the real one."""
    files = {prometheus.CONFIG: prometheus.config(plan.scrapes)}
    return [standin(plan, "prometheus", files=files)]


def pids(status):
    return {process.name: process.pid for process in status.processes}


def scraped(target):
    """The ports that Prometheus is told to ask, of the job `payment`."""
    document = json.loads((target.state_dir / prometheus.CONFIG).read_text())
    (job,) = [job for job in document["scrape_configs"] if job["job_name"] == "payment"]
    return [int(address.rpartition(":")[2]) for address in job["static_configs"][0]["targets"]]


# --- what they are -----------------------------------------------------------------------------------------------
@pytest.fixture
def plan():
    credentials = dict.fromkeys(("settings_token", "rabbitmq_password", "redis_password"), "secret")
    transports = ["rest", "grpc", "rabbitmq", "kafka"]
    return Plan(Path("/state"), Ports(23000), credentials, transports=transports, replicas={"payment": 3})


def test_there_can_be_several_of_the_participants_and_of_nothing_else():
    """The front door has one address, a server one folder."""
    assert {name for name, entry in ENTRIES.items() if entry.most > 1} == set(PARTICIPANTS)


def test_further_processes_share_database_and_brokers_and_serve_no_calls(plan):
    first, second, third = ENTRIES["payment"].processes(plan, None)
    assert [process.name for process in (first, second, third)] == NAMES[:3]
    assert first == ours.service(plan, "payment")
    assert (second.ports, second.ready.port) == (("payment-2.admin",), 23062)
    assert second.scrapes == (Scrape("payment", 23062),)
    assert second.argv == first.argv
    differ = {name for name in first.env if first.env[name] != second.env[name]}
    assert differ == {"LAB_ADMIN_PORT", "LAB_LISTEN", "LAB_PEERS", "LAB_TRANSPORTS"}
    assert json.loads(second.env["LAB_LISTEN"]) == {}
    assert second.env["LAB_TRANSPORTS"] == "rabbitmq,kafka"
    assert {name for name in second.env if second.env[name] != third.env[name]} == {"LAB_ADMIN_PORT"}


# --- up and down -------------------------------------------------------------------------------------------------
def test_scale_starts_what_is_missing_and_ends_what_is_too_many(make_target, ports, tmp_path):
    order = tmp_path / "order"
    target = make_target(payment=several("--order", str(order)), redis=entry("redis"))
    before = pids(target.up())
    three = target.scale("payment", 3)
    assert three.ready
    assert list(pids(three)) == ["payment", "redis", "payment-2", "payment-3"]
    assert pids(three).items() > before.items()
    assert three.notes["payment"] == (
        "3 processes share its messages; Redis pub/sub gives each a copy, calls go to the first alone"
    )
    assert pids(target.scale("payment", 2)) == {name: pid for name, pid in pids(three).items() if name != "payment-3"}
    assert is_free(ports["payment-3.admin"])
    assert not is_free(ports["payment-2.admin"])
    one = target.scale("payment", 1)
    assert pids(one) == before
    assert "payment" not in one.notes
    # by SIGTERM: a stand-in that is killed has no last word
    assert order.read_text().splitlines()[-2:] == ["end payment-3", "end payment-2"]


def test_a_further_process_has_its_log_and_can_be_killed_and_restarted(make_target):
    target = make_target(payment=several(env=lambda: {"COLOUR": "blue"}))
    target.up()
    before = pids(target.scale("payment", 2))
    assert list(target.logs("payment-2")) == ["serving blue"]
    target.kill("payment-2", signal.SIGKILL)
    dead = target.status()
    assert not dead.ready
    assert pids(dead) == {**before, "payment-2": None}
    after = pids(target.restart("payment-2"))
    assert after["payment"] == before["payment"]
    assert after["payment-2"] not in (None, before["payment-2"])


def test_down_ends_them_and_up_begins_with_one(make_target, ports):
    target = make_target(payment=several())
    target.up()
    target.scale("payment", MOST)
    target.down()
    assert marked(StateDir(target.state_dir).mark) == {}
    assert all(is_free(ports[f"{name}.admin"]) for name in NAMES)
    assert list(pids(target.up())) == ["payment"]


def test_up_beside_them_restarts_those_that_died_and_tells_all_what_is_new(make_target):
    told = ["rabbitmq"]
    target = make_target(payment=several(env=lambda: {"LAB_TRANSPORTS": told[0]}), redis=entry("redis"))
    target.up(["payment"])
    before = pids(target.scale("payment", 3))
    target.kill("payment-3", signal.SIGKILL)
    again = pids(target.up(["payment"]))
    assert again == {**before, "payment-3": again["payment-3"]}
    assert again["payment-3"] not in (None, before["payment-3"])
    told[0] = "rabbitmq,redis_streams"
    after = pids(target.up())
    assert {name for name in again if after[name] != again[name]} == {"payment", "payment-2", "payment-3"}
    assert target.status().ready


def test_scale_starts_dead_ones_too(make_target):
    """It is about how many run, not how many are listed."""
    target = make_target(payment=several())
    target.up()
    target.scale("payment", 2)
    target.kill("payment")
    target.kill("payment-2")
    status = target.scale("payment", 2)
    assert status.ready
    assert None not in pids(status).values()


def test_prometheus_asks_each_under_one_job(make_target, ports):
    """Also after it is restarted by itself."""
    target = make_target(payment=several(), prometheus=Entry(scraping))
    target.up()
    assert scraped(target) == [ports["payment.admin"]]
    everyone = [ports[f"{name}.admin"] for name in NAMES[:3]]
    # the stand-in is ended by the SIGHUP that tells Prometheus to read its file again
    target.scale("payment", 3)
    assert scraped(target) == everyone
    target.restart("prometheus")
    assert scraped(target) == everyone
    target.scale("payment", 1)
    assert scraped(target) == [ports["payment.admin"]]


# --- what goes wrong ---------------------------------------------------------------------------------------------
def test_if_one_does_not_get_ready_none_of_the_new_ones_stays(make_target, ports):
    target = make_target(payment=several(fails_from=3))
    before = pids(target.up())
    two = pids(target.scale("payment", 2))
    with pytest.raises(LabError, match=r"payment-[34] was not ready after 1 s: no room"):
        target.scale("payment", 4)
    assert pids(target.status()) == two
    assert is_free(ports["payment-3.admin"])
    assert is_free(ports["payment-4.admin"])
    assert pids(target.up()) == two, "the number is the one before"
    assert pids(target.scale("payment", 1)) == before


def test_dead_ones_that_cannot_be_started_stay_listed(make_target):
    broken = [MOST + 1]
    target = make_target(payment=Entry(lambda plan, _: several(fails_from=broken[0]).processes(plan, None), most=MOST))
    target.up()
    target.scale("payment", 2)
    target.kill("payment-2")
    broken[0] = 2
    with pytest.raises(LabError, match="payment-2 was not ready"):
        target.scale("payment", 3)
    assert {process.name: process.reason for process in target.status().processes} == {
        "payment": "",
        "payment-2": "not running",
    }


def test_a_service_that_was_not_started_is_not_scaled(make_target):
    target = make_target(payment=several(), redis=entry("redis"))
    target.up(["redis"])
    with pytest.raises(LabError, match="payment does not run: lab up payment"):
        target.scale("payment", 2)
