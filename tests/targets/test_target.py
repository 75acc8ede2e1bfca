"""Starting, watching and ending processes, with small ones that stand in for servers."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from lab.targets import LabError, TargetDownError
from lab.targets.local.ports import is_free
from lab.targets.local.process import Probe
from lab.targets.local.servers import Entry
from lab.targets.local.state import StateDir, marked, start_ticks
from tests.targets.conftest import entry, standin


def wait_until(condition, what, timeout_s=15):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def pids(status):
    return {process.name: process.pid for process in status.processes}


def test_up_waits_until_all_is_ready_and_down_leaves_nothing(make_target, ports):
    target = make_target(redis=entry("redis"), sqs=entry("sqs"))
    status = target.up()
    assert status.ready
    assert all(process.rss_bytes > 0 and process.reason == "" for process in status.processes)
    assert not is_free(ports["redis"])
    target.down()
    assert is_free(ports["redis"])
    assert all(start_ticks(pid) is None for pid in pids(status).values())
    assert marked(StateDir(target.state_dir).mark) == {}
    with pytest.raises(TargetDownError, match="lab up starts it"):
        target.status()


def test_a_port_base_that_cannot_be_is_refused_before_anything_is_fetched(make_target):
    fetched = []
    target = make_target(redis=Entry(lambda plan, _: [], provide=fetched.append))
    with pytest.raises(LabError, match="out of range"):
        target.up(port_base=80)
    assert fetched == []


def test_a_second_up_starts_only_what_is_missing(make_target):
    target = make_target(redis=entry("redis"), sqs=entry("sqs"))
    first = target.up(["redis"])
    both = target.up()
    assert pids(both) == {**pids(first), "sqs": pids(both)["sqs"]}
    target.kill("sqs")
    again = target.up()
    assert pids(again)["redis"] == pids(both)["redis"]
    assert pids(again)["sqs"] not in (None, pids(both)["sqs"])


def test_up_restarts_what_has_to_be_told_something_new(make_target):
    """A service learns of a broker that came after it; a broker does not care who typed the command."""
    colour = ["blue"]
    target = make_target(
        sqs=Entry(lambda plan, _: [standin(plan, "sqs", env={"LAB_TRANSPORTS": colour[0]})]),
        redis=Entry(lambda plan, _: [standin(plan, "redis", env={"HOME": f"/{colour[0]}"})]),
    )
    before = pids(target.up())
    colour[0] = "green"
    after = pids(target.up())
    assert after["sqs"] != before["sqs"]
    assert after["redis"] == before["redis"]


def test_needs_are_ready_first_and_ranks_end_in_order(make_target, tmp_path):
    order = str(tmp_path / "order")
    target = make_target(
        console=entry("console", "--order", order, needs=("sqs",), stop_rank=0),
        sqs=entry("sqs", "--order", order, stop_rank=1),
        redis=entry("redis", "--order", order, needs=("console",), stop_rank=2),
    )
    target.up()
    target.down()
    assert (tmp_path / "order").read_text().splitlines() == [
        "start sqs",
        "start console",
        "start redis",
        "end console",
        "end sqs",
        "end redis",
    ]


def test_a_process_that_ends_while_starting_undoes_the_whole_start(make_target, ports):
    target = make_target(redis=entry("redis"), sqs=entry("sqs", "--dies", needs=("redis",)))
    with pytest.raises(LabError, match=r"sqs ended while it was starting: no licence found \(lab logs sqs\)"):
        target.up()
    assert is_free(ports["redis"])
    with pytest.raises(TargetDownError):
        target.status()


def test_a_failed_addition_leaves_what_ran_before(make_target):
    target = make_target(redis=entry("redis"), sqs=entry("sqs", "--dies"))
    before = target.up(["redis"])
    with pytest.raises(LabError, match="sqs ended"):
        target.up(["sqs"])
    assert pids(target.status()) == pids(before)


def test_one_that_never_gets_ready_is_reported_with_its_own_reason(make_target):
    target = make_target(sqs=entry("sqs", "--unready", "waiting for the moon", start_timeout_s=1))
    with pytest.raises(LabError, match="was not ready after 1 s: waiting for the moon"):
        target.up()


def test_an_optional_process_does_not_fail_the_others(make_target):
    target = make_target(redis=entry("redis"), sqs=entry("sqs", "--dies", optional=True))
    status = target.up()
    assert status.ready
    assert {process.name: process.ready for process in status.processes} == {"redis": True, "sqs": False}


def test_one_that_is_not_awaited_tells_in_a_file_how_far_it_is(make_target):
    """A Jaeger that is being built shows its progress as the reason for not being ready."""
    target = make_target(sqs=entry("sqs", "--unready", "no", awaited=False, optional=True))
    target.up()
    (target.state_dir / "logs/sqs.progress").write_text("building (3 of ~7 min)\n")
    assert target.status().processes[0].reason == "building (3 of ~7 min)"
    assert target.status().ready


def test_restart_keeps_arguments_and_environment(make_target):
    target = make_target(sqs=entry("sqs", env={"COLOUR": "blue"}), redis=entry("redis"))
    before = pids(target.up())
    after = pids(target.restart("sqs"))
    assert after["sqs"] != before["sqs"]
    assert after["redis"] == before["redis"]
    assert target.log_path("sqs").read_text() == "serving blue\nserving blue\n"


def test_restart_starts_one_that_was_killed(make_target):
    target = make_target(sqs=entry("sqs"))
    target.up()
    target.kill("sqs", signal.SIGKILL)
    dead = target.status()
    assert not dead.ready
    assert dead.processes[0].pid is None
    assert dead.processes[0].reason == "not running"
    assert target.restart("sqs").ready


def test_restart_of_an_unknown_name_touches_nothing(make_target):
    target = make_target(sqs=entry("sqs"))
    before = pids(target.up())
    with pytest.raises(LabError, match="did you mean 'sqs'"):
        target.restart("sqs", "sqss")
    assert pids(target.status()) == before


def test_one_that_does_not_hear_sigterm_is_killed_after_its_grace(make_target, ports):
    target = make_target(sqs=entry("sqs", "--deaf", grace_s=0.3))
    target.up()
    told = []
    target.down(progress=lambda name, text, state="busy": told.append((name, text, state)))
    assert told[-1] == ("sqs", "killed after 0 s", "done")
    assert is_free(ports["sqs"])


def test_down_takes_children_along(make_target):
    """What a server leaves behind (as RabbitMQ's epmd would be) carries our mark, whatever its session is."""
    target = make_target(sqs=entry("sqs", "--child"))
    target.up()
    mark = StateDir(target.state_dir).mark
    wait_until(lambda: len(marked(mark)["sqs"]) == 2, "the child runs")
    target.down()
    assert marked(mark) == {}


def test_down_ends_only_its_own(make_target, tmp_path):
    """A pid that now belongs to somebody else is not touched."""
    target = make_target(sqs=entry("sqs"))
    target.up()
    folder = StateDir(target.state_dir)
    state = folder.load()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        target.kill("sqs")
        state.running["sqs"].pid = stranger.pid
        folder.save(state)
        assert target.status().processes[0].pid is None
        target.down()
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_run_of_an_earlier_boot_is_forgotten(make_target):
    target = make_target(sqs=entry("sqs"))
    target.up()
    target.kill("sqs")
    file = target.state_dir / "state.json"
    file.write_text(file.read_text().replace('"boot_id": "', '"boot_id": "another-'))
    with pytest.raises(TargetDownError):
        target.status()
    assert target.up().ready


def test_a_lost_state_file_does_not_hide_what_runs(make_target, ports):
    target = make_target(sqs=entry("sqs"))
    target.up()
    (target.state_dir / "state.json").write_text("{")
    with pytest.raises(LabError, match="lab down, then lab up"):
        target.status()
    target.down()
    assert is_free(ports["sqs"])
    assert target.up().ready


def test_down_keeps_data_and_purge_does_not(make_target):
    target = make_target(sqs=entry("sqs"))
    target.up()
    (target.state_dir / "data/orders.sqlite").write_text("rows")
    target.down()
    assert (target.state_dir / "data/orders.sqlite").exists()
    target.down(purge=True)
    assert not target.state_dir.exists()
    target.down()  # and once more, on nothing


def test_files_of_a_process_are_written_for_this_user_only(make_target):
    target = make_target(sqs=entry("sqs", files={"sqs/sqs.conf": "password = x\n"}))
    target.up()
    written = target.state_dir / "sqs/sqs.conf"
    assert written.read_text() == "password = x\n"
    for path in (written, target.state_dir / "state.json", target.state_dir / "credentials.json"):
        assert path.stat().st_mode & 0o077 == 0


def test_the_token_stays_the_same_over_runs(make_target):
    target = make_target(sqs=entry("sqs"))
    target.up()
    token = target.settings_token
    target.down()
    target.up()
    assert target.settings_token == token


def test_a_log_line_can_be_waited_for_and_old_ones_do_not_count(make_target, ports):
    target = make_target(sqs=entry("sqs", ready=Probe(ports["sqs"], log_line="serving")))
    target.up()
    log = target.log_path("sqs")
    assert target.restart("sqs").ready
    assert log.read_text().count("serving") == 2


def test_the_port_base_of_a_running_lab_cannot_change(make_target, ports):
    target = make_target(sqs=entry("sqs"), redis=entry("redis"))
    target.up(["sqs"])
    with pytest.raises(LabError, match=f"already runs at port base {ports.base}: run lab down first"):
        target.up(port_base=ports.base + 1)
    assert target.up(port_base=None).ready


def test_two_commands_do_not_change_a_target_at_once(make_target):
    target = make_target(sqs=entry("sqs"))
    with (
        StateDir(target.state_dir).lock(),
        pytest.raises(LabError, match=rf"another lab command .*\(pid {os.getpid()}\)"),
    ):
        target.up()


SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    from lab.targets.local.target import LocalTarget
    from tests.targets.conftest import entry

    state_dir, base, *options = sys.argv[1:]
    target = LocalTarget(Path(state_dir), tied="tied" in options, entries={
        "redis": entry("redis"),
        "sqs": entry("sqs", *(["--unready", "never"] if "unready" in options else [])),
    })
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("going", flush=True)
    target.up(port_base=int(base))
    print("up", flush=True)
    input()
"""


def run_script(tmp_path, ports, *options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "state"), str(ports.base), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_ctrl_c_while_starting_leaves_nothing(tmp_path, ports):
    mark = StateDir(tmp_path / "state").mark
    with run_script(tmp_path, ports, "unready") as script:
        wait_until(lambda: len(marked(mark)) == 2, "both processes run")
        script.send_signal(signal.SIGINT)
        script.communicate()
    assert marked(mark) == {}
    assert not (tmp_path / "state/state.json").exists()
    assert is_free(ports["redis"])


def test_without_ties_processes_outlive_the_command(make_target, tmp_path, ports):
    with run_script(tmp_path, ports) as script:
        assert script.stdout.readline() == "going\n"
        assert script.stdout.readline() == "up\n"
        script.communicate("\n")
    target = make_target()  # the same state folder
    assert target.status().ready


def test_tied_processes_die_with_the_one_that_started_them(tmp_path, ports):
    """A killed test run must leave nothing, although it could not clean up."""
    mark = StateDir(tmp_path / "state").mark
    with run_script(tmp_path, ports, "tied") as script:
        assert script.stdout.readline() == "going\n"
        assert script.stdout.readline() == "up\n"
        assert len(marked(mark)) == 2
        script.kill()
        script.communicate()
    wait_until(lambda: not marked(mark), "the kernel has ended them")
