"""What people see: one line per error, and exit codes that a script can trust."""

import json
import signal
import subprocess
import sys

import pytest

from lab import cli
from lab.targets import current, last, remember
from lab.targets.local.target import LocalTarget
from tests.targets.conftest import entry


@pytest.fixture
def lab(monkeypatch, tmp_path, capfd):
    """Runs a command as `lab` would, on a state folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LAB_TARGET", raising=False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lab", *words])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def running(monkeypatch, make_target):
    target = make_target(redis=entry("redis"), sqs=entry("sqs"))
    target.up()
    monkeypatch.setattr(cli, "_target", lambda **_: target)
    return target


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("restart", "payment"), ("logs", "payment")])
def test_commands_on_a_lab_that_is_down_say_lab_up(lab, words):
    code, out, err = lab(*words)
    assert code == 3
    assert out == ""
    assert err.startswith("lab: ")
    assert "lab up" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("stauts",), "'status'"),
        (("up", "--prot-base", "1"), "--port-base"),
        (("up", "--port-base", "many"), "valid integer"),
        (("logs",), "Missing argument"),
        (("up", "--jaeger", "of"), "did you mean 'off'"),
        (("up", "--database", "postgre"), "did you mean 'postgres'"),
        (("up", "rabitmq"), "did you mean 'rabbitmq'"),
        (("up", "--port-base", "80"), "out of range"),
        (("--target", "kin", "status"), "there are local, kind, k8s"),
        (("scale", "payment", "many"), "valid integer"),
        (("scale", "payment", "3"), "scaling needs Kubernetes (make kind-up)"),
        (("forward",), "on this machine already"),
        (("--target", "kind", "up", "kafka", "--port-base", "22000"), "kafka, --port-base: for the local target only"),
    ],
)
def test_a_wrong_word_gets_one_line_with_the_right_one(lab, words, hint):
    code, out, err = lab(*words)
    assert code in (1, 2)
    assert out == ""
    assert hint in err
    assert err.count("\n") == 1


def test_down_of_nothing_is_fine(lab):
    assert lab("down") == (0, "the lab is down\n", "")


def test_status_json_is_the_contract(lab, running):
    code, out, _ = lab("status", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["target"] == "local"
    assert set(told) >= {"target", "addresses", "processes", "transports"}
    assert [set(process) for process in told["processes"]] == [
        {"name", "pid", "ready", "rss_bytes", "reason", "replicas"}
    ] * 2
    assert told["transports"] == {
        "rest": "absent: orders, inventory, payment, shipping, notifications not running",
        "grpc": "absent: orders, inventory, payment, shipping, notifications not running",
        "rabbitmq": "absent: not started",
        "kafka": "absent: not started",
    }


def test_status_for_people_adds_up_the_memory(lab, running):
    code, out, _ = lab("status")
    assert code == 0
    assert "2 processes, " in out
    assert "MiB" in out


def test_status_of_a_dead_process_fails(lab, running):
    running.kill("sqs")
    code, out, _ = lab("status")
    assert code == 1
    assert "not running" in out


def test_restart_by_name(lab, running):
    running.kill("sqs")
    code, out, _ = lab("restart", "sqs", "--json")
    assert code == 0
    assert json.loads(out)["ready"]
    assert lab("restart", "sq")[2] == "lab: no process is called 'sq': did you mean 'sqs'?\n"


def test_logs_shows_the_last_lines(lab, running):
    assert lab("logs", "sqs", "-n", "1") == (0, "serving \n", "")
    assert json.loads(lab("logs", "sqs", "--json")[1])["lines"] == ["serving "]
    assert "did you mean 'sqs'" in lab("logs", "sqss")[2]


def test_logs_follows_until_a_new_run_begins_a_new_log(running):
    printed = running.logs("sqs", lines=1, follow=True)
    assert next(printed) == "serving "
    log = running.log_path("sqs")
    with log.open("a") as file:
        file.write("half ")
        file.flush()
        file.write("a line\n")
    assert next(printed) == "half a line"
    log.rename(log.with_suffix(".log.1"))
    assert list(printed) == []


def test_the_target_is_the_chosen_one_else_that_of_the_last_up_else_local(lab, monkeypatch, tmp_path):
    """What is said counts before what is remembered; up alone means this machine."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no kubectl: the k8s target says so
    remember(tmp_path / "state", "k8s")
    is_k8s, is_local = "kubectl was not found", "lab up starts it"
    assert is_k8s in lab("status")[2]
    assert is_local in lab("--target", "local", "status")[2]
    assert isinstance(current(remembered=False), LocalTarget)
    monkeypatch.setenv("LAB_TARGET", "local")
    assert is_local in lab("status")[2]
    assert is_k8s in lab("--target", "k8s", "status")[2]
    monkeypatch.setenv("LAB_TARGET", "moon")
    assert lab("status")[2] == "lab: no target is called 'moon': there are local, kind, k8s\n"


def test_up_is_remembered_and_down_forgets(make_target):
    target = make_target(sqs=entry("sqs"))
    remember(target.state_dir, "kind")
    target.up()
    assert last(target.state_dir) == "local"
    remember(target.state_dir, "kind")
    target.down()
    assert last(target.state_dir) == "kind"  # another one is not forgotten


def test_a_full_disk_is_one_line(lab, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/state/x")

    monkeypatch.setattr(LocalTarget, "up", full)
    code, _, err = lab("up")
    assert code == 1
    assert err == ("lab: no space left on the disk (/state/x): free some, or set LAB_STATE_DIR and XDG_CACHE_HOME\n")


def test_interruption_is_130(lab, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalTarget, "up", interrupted)
    code, _, err = lab("up")
    assert code == 130
    assert "interrupted" in err
    assert "Traceback" not in err


def test_help_costs_no_heavy_import():
    """Typing lab --help must not feel like starting a lab."""
    check = "import sys, lab.cli; print([m for m in ('psutil', 'rich.live', 'httpx', 'yaml') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
