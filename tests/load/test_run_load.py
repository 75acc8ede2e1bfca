"""The load against a front door over real HTTP: Locust in its own process, everything counted, nothing
timed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from lab.load import LoadError, run_load
from load.plan import Flow
from load.profiles import Profile
from load.records import LoadResult
from load.shapes import steady
from tests.load.front_door import FrontDoorSeen, front_door

QUICK = Profile("quick", steady(20, 1), warmup_orders=1, drain_s=2)


@pytest.fixture(scope="module")
def door() -> Iterator[FrontDoorSeen]:
    with front_door() as seen:
        yield seen


@pytest.fixture(scope="module")
def result(door: FrontDoorSeen, tmp_path_factory: pytest.TempPathFactory) -> LoadResult:
    """One run over four flows, looked at by several tests."""
    return run_load(
        front_door=door.address,
        runs_dir=tmp_path_factory.mktemp("runs"),
        flows=[Flow(style, "memory") for style in ("prompt", "slow", "lossy", "flaky")],
        profile=QUICK,
        seed=3,
        refused_share=0.5,
        run_id="r1",
    )


def test_every_scheduled_order_is_sent_and_recorded(result: LoadResult, door: FrontDoorSeen) -> None:
    """An open profile sends what its schedule says, per flow, and every order has a record."""
    for flow in result.flows:
        assert len(flow.orders) == QUICK.orders == len(door.of("r1", flow.flow.style))
        assert [record.index for record in flow.orders] == list(range(20))
        assert flow.complaint is None


def test_every_flow_gets_the_same_orders(result: LoadResult, door: FrontDoorSeen) -> None:
    """The bodies depend on the seed alone (they arrive in the order of their sending, give or take a
    race)."""
    by_style = [
        sorted(json.dumps(body, sort_keys=True) for body in door.of("r1", flow.flow.style)) for flow in result.flows
    ]
    assert all(bodies == by_style[0] for bodies in by_style)


def test_warmup_is_another_run(result: LoadResult, door: FrontDoorSeen) -> None:
    """What warms the system up is sent, and counted nowhere."""
    assert len(door.of("r1-warmup", "slow")) == 1
    assert result.flows[1].warmup_failed == 0


def test_orders_end_as_their_kind_should(result: LoadResult) -> None:
    """A refused share that is refused shows as rejected; nothing else does."""
    for flow in result.flows[:2]:
        kinds = [record.kind for record in flow.orders]
        assert flow.count("rejected") == sum(kind != "ordinary" for kind in kinds) > 0
        assert flow.count("completed") == kinds.count("ordinary") > 0
        assert flow.unexpected == 0


def test_complete_is_measured_from_the_post_to_the_end(result: LoadResult) -> None:
    """Synchronous: complete is accept. Asynchronous: complete holds the time that the order took
    afterwards."""
    prompt, slow = result.flows[:2]
    assert prompt.accept_ms() == prompt.complete_ms()
    assert all(
        record.complete_ms >= record.accept_ms + 150  # type: ignore[operator]
        for record in slow.orders
    )


def test_accepted_orders_without_an_end_are_lost(result: LoadResult) -> None:
    """Lost is accepted and not terminal within the drain timeout; it is an error, and no complete time."""
    lossy = result.flows[2]
    assert lossy.lost == 4
    assert lossy.ended == len(lossy.complete_ms()) == 16
    assert lossy.errors == {"lost: accepted, and no end before the drain timeout": 4}
    assert result.lost == 4


def test_refused_posts_are_counted_by_type(result: LoadResult) -> None:
    """A 503 is a failed order, not a lost one, and the users go on."""
    flaky = result.flows[3]
    assert flaky.errors == {"HTTP 503 Service Unavailable": 7}
    assert (flaky.count("failed"), flaky.lost, flaky.ended) == (7, 0, 13)


def test_looks_leave_no_spans_and_carry_no_run(result: LoadResult, door: FrontDoorSeen) -> None:
    """Watching an order must not be measured with it."""
    assert result.flows
    assert door.looks
    assert all(look["traceparent"].endswith("-00") and "baggage" not in look for look in door.looks)


def test_result_is_read_back(result: LoadResult, tmp_path: Path) -> None:
    """The run's file holds all that the result holds."""
    result.save(tmp_path)
    assert LoadResult.read(tmp_path) == result


def test_open_pacing_does_not_wait_for_answers(door: FrontDoorSeen, tmp_path: Path) -> None:
    """Each answer takes half a second; by the clock ten come in that time, one after the other only two."""
    result = run_load(
        front_door=door.address,
        runs_dir=tmp_path,
        flows=[Flow("stuck", "memory")],
        profile=Profile("burst", steady(20, 1), warmup_orders=0, drain_s=5),
    )
    orders = result.flows[0].orders
    assert len(orders) == 20
    ends_s = [(r.due_s + (r.late_ms + (r.accept_ms or 0)) / 1000) for r in orders]
    sent_before_the_first_answer = sum(r.due_s + r.late_ms / 1000 < min(ends_s) for r in orders)
    assert sent_before_the_first_answer >= 5


def test_closed_customers_wait_for_their_orders(door: FrontDoorSeen, tmp_path: Path) -> None:
    """Closed: never more orders in flight than customers."""
    profile = Profile("closed", users=2, think_s=0.05, closed_s=1.0, warmup_orders=0, drain_s=5)
    result = run_load(front_door=door.address, runs_dir=tmp_path, flows=[Flow("slow", "memory")], profile=profile)
    orders = result.flows[0].orders
    assert len(orders) >= 2
    assert result.flows[0].ended == len(orders)
    moments = [(r.due_s, 1) for r in orders] + [(r.due_s + (r.complete_ms or 0) / 1000, -1) for r in orders]
    in_flight = 0
    for _, change in sorted(moments):
        in_flight += change
        assert in_flight <= 2


def test_a_front_door_that_dies_costs_orders_not_the_load(tmp_path: Path) -> None:
    """Connections that are refused are counted by type; every order is recorded, and the flow comes to its
    end."""
    with front_door() as dying, ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run_load,
            front_door=dying.address,
            runs_dir=tmp_path,
            flows=[Flow("prompt", "memory")],
            profile=Profile("long enough", steady(20, 2), warmup_orders=0, drain_s=1),
        )
        deadline = time.monotonic() + 30
        while not dying.posts:
            assert time.monotonic() < deadline, "the load did not start within 30 s"
            time.sleep(0.02)
        dying.stop()
        [flow] = running.result(60).flows
    assert flow.complaint is None
    assert len(flow.orders) == 40
    assert flow.ended > 0
    assert flow.errors["ConnectionRefusedError"] > 0
    assert flow.ended + flow.count("failed") == 40


def test_no_front_door_is_one_line(tmp_path: Path) -> None:
    """It says where it looked and what to do."""
    with pytest.raises(LoadError, match=r"no front door at http://127\.0\.0\.1:9 .*lab up"):
        run_load(front_door="http://127.0.0.1:9", runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"profile": "hurricane"}, "no load profile 'hurricane'; there are standard, demo"),
        ({"flows": [Flow("gossip", "memory")]}, "no style 'gossip'"),
        ({"flows": [Flow("slow", "absent_one")]}, "absent_one: absent: no server"),
        ({"flows": [Flow("slow", "pigeon")]}, "pigeon: no such transport"),
        ({"refused_share": 1.5}, "a number from 0 to 1"),
        ({"run_id": "../x"}, "letters, digits"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    door: FrontDoorSeen, tmp_path: Path, wrong: dict[str, object], says: str
) -> None:
    """Nothing is started, and the line says what would be right."""
    with pytest.raises(LoadError, match=says) as caught:
        run_load(front_door=door.address, runs_dir=tmp_path, **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_progress_is_a_line_per_flow_off_a_terminal(door: FrontDoorSeen, tmp_path: Path) -> None:
    """Where nothing can be redrawn, the lines say what runs and how it ended."""
    console = Console(record=True, width=100, force_terminal=False, quiet=False, file=(tmp_path / "o").open("w"))
    with console.file:
        run_load(
            front_door=door.address,
            runs_dir=tmp_path,
            flows=[Flow("prompt", "memory")],
            profile=Profile("few", steady(5, 1), warmup_orders=0),
            refused_share=0,
            console=console,
        )
        assert console.export_text() == ("loading prompt over memory for 1 s …\n  5 orders, 5 completed, 0 rejected\n")


def _long_load(door: FrontDoorSeen, runs_dir: Path, run_id: str) -> "subprocess.Popen[str]":
    """A load of a minute in a process of its own, well under way."""
    program = f"""
from pathlib import Path
from lab.load import run_load
from load.plan import Flow
from load.profiles import Profile
from load.shapes import steady
run_load(front_door={door.address!r}, runs_dir=Path({str(runs_dir)!r}), flows=[Flow("lossy", "memory")],
         profile=Profile("long", steady(20, 60), warmup_orders=0), run_id={run_id!r})
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: len(door.of(run_id, "lossy")) >= 15, "the load did not start within 60 s")
    return process


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def _is_quiet(door: FrontDoorSeen, run_id: str) -> bool:
    """No order for a second."""
    posts = len(door.of(run_id, "lossy"))
    time.sleep(1)
    return len(door.of(run_id, "lossy")) == posts


def test_ctrl_c_ends_locust_and_keeps_what_was_seen(door: FrontDoorSeen, tmp_path: Path) -> None:
    """The child is told to end, orders in flight are recorded as interrupted, and the file is written."""
    process = _long_load(door, tmp_path, "cut")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    [flow] = LoadResult.read(tmp_path / "cut").flows
    assert flow.complaint == "interrupted"
    assert len(flow.orders) >= 15
    assert flow.count("interrupted") > 0
    assert _is_quiet(door, "cut"), "Locust still runs"


def test_a_killed_load_leaves_no_locust_behind(door: FrontDoorSeen, tmp_path: Path) -> None:
    """Even where nothing could be tidied up, the child sees that nobody listens, and ends."""
    process = _long_load(door, tmp_path, "killed")
    process.kill()
    process.communicate(timeout=30)
    _wait_for(lambda: _is_quiet(door, "killed"), "Locust still runs a minute after its parent was killed")
