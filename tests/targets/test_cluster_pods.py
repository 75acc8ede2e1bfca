"""What runs in pods of our image beside the services: the check of `helm test`, and the load of the Job."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from lab.check import run_check
from lab.load import wait_until_ready
from lab.targets import LabError
from tests.load.front_door import application, front_door, serve


@contextmanager
def jaeger(*, knows: bool = True) -> Iterator[str]:
    """A Jaeger that has a trace of every order, or of none."""
    app = FastAPI()

    @app.get("/api/traces")
    def traces(service: str, tags: str) -> dict[str, Any]:
        assert service == "orders"
        assert json.loads(tags)["lab.order.id"].startswith("o-")
        return {"data": [{"spans": [{}, {}]}] if knows else []}

    with serve(app) as address:
        yield address


@contextmanager
def door(*styles: str) -> Iterator[str]:
    """The front door of the load's tests with some of its styles only."""
    from tests.load.front_door import FrontDoorSeen

    app = application(FrontDoorSeen())
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") != "/styles"]
    listed = [{"name": name, "ports": ["broker"], "transports": ["memory"], "default": "memory"} for name in styles]
    app.get("/styles")(lambda: listed)
    with serve(app) as address:
        yield address


def test_every_flow_that_ends_and_is_traced_is_a_line_of_its_own(capsys):
    with door("prompt", "slow") as address, jaeger() as traces:
        assert run_check(address, traces, wait_s=10)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("prompt/memory  ok: completed after ")
    assert second.startswith("slow/memory    ok: completed after ")
    assert second.endswith(" ms, 2 spans in Jaeger")


def test_an_order_without_its_trace_fails_the_check(capsys):
    with door("prompt") as address, jaeger(knows=False) as traces:
        assert not run_check(address, traces, wait_s=0.5)
    assert f"prompt/memory  FAILED: order o-1 has no trace in {traces} after 0.5 s" in capsys.readouterr().out


def test_an_order_that_does_not_end_fails_the_check(capsys, monkeypatch):
    monkeypatch.setattr("lab.check.FIRST_S", 0)
    monkeypatch.setattr("tests.load.front_door.SLOW_S", 60)
    with door("slow") as address, jaeger() as traces:
        assert not run_check(address, traces, wait_s=0.5)
    assert "FAILED: order o-1 is still accepted after 0.5 s" in capsys.readouterr().out


def test_without_a_jaeger_the_check_says_what_it_did_not_look_for(capsys):
    with door("prompt") as address:
        assert run_check(address, None)
    assert capsys.readouterr().out.endswith("no Jaeger runs here: traces were not looked for\n")


def test_nobody_at_the_door_is_one_line():
    with pytest.raises(LabError, match="no front door at"):
        run_check("http://127.0.0.1:1", None)
    done = run("lab.check", "--front-door", "http://127.0.0.1:1", "--jaeger", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("lab: no front door at http://127.0.0.1:1")


def run(module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)


def test_a_load_without_a_terminal_prints_a_summary(tmp_path):
    with front_door() as seen:
        done = run(
            *("lab.load", "--front-door", seen.address, "--profile", "smoke", "--flow", "prompt/memory"),
            *("--runs-dir", str(tmp_path)),
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (flow,) = told["flows"]
    assert (flow["style"], flow["orders"], flow["lost"], told["lost"]) == ("prompt", 10, 0, 0)
    assert flow["accept_p50_ms"] > 0
    assert (tmp_path / told["run_id"] / "load.json").exists()
    assert "loading prompt over memory" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--flow", "prompt"), "lab: "),
        (("--flow", "none/memory"), "no style 'none'"),
        (("--profile", "huge"), "invalid choice"),
    ],
)
def test_a_load_that_cannot_be_is_one_line(words, said):
    with front_door() as seen:
        done = run("lab.load", "--front-door", seen.address, *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_load_waits_for_a_lab_that_is_coming_up():
    """The Job is made with all the rest, and starts before it."""
    answers = iter([{"status": "not ready: kafka does not answer"}, {"status": "ready"}])
    app = FastAPI()
    app.get("/transports")(lambda: [{"name": "kafka", **next(answers)}])
    with serve(app) as address:
        wait_until_ready(address, wait_s=10)
    assert list(answers) == []
    wait_until_ready("http://127.0.0.1:1", wait_s=0.1)  # it is the load's own affair to say that nobody is there
