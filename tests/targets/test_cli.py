"""What people see: one line per error, and exit codes that a script can trust."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from lab import cli, commands
from lab.sheets import HEADINGS
from lab.targets import ProcessStatus, Status, current, last, remember
from lab.targets.local.progress import print_status
from lab.targets.local.servers import TRANSPORTS
from lab.targets.local.state import pss_bytes, rss_bytes
from lab.targets.local.target import LocalTarget
from services.transports import TRANSPORTS as WIRES
from tests.load.front_door import serve
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
        (("scale", "payment", "10"), "there are ports for 1 to 9 processes of payment, not for 10"),
        (("scale", "payment", "0"), "not for 0"),
        (("scale", "orders", "2"), "there can be more of inventory, payment, shipping, notifications"),
        (("scale", "carrier-swift", "2"), "as of each carrier orders expects one answer"),
        (("scale", "ledger", "2"), "as its read models have one writer"),
        (("scale", "kafka", "2"), "kafka stays one process on the local target"),
        (("scale", "paymnet", "2"), "did you mean 'payment'"),
        (("scale", "payment-2", "2"), "did you mean 'payment'"),
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
        {"name", "pid", "ready", "rss_bytes", "reason", "replicas", "pss_bytes"}
    ] * 2
    assert told["rss_bytes"] == sum(process["rss_bytes"] for process in told["processes"])
    assert told["pss_bytes"] == sum(process["pss_bytes"] for process in told["processes"])
    assert set(told["transports"]) == set(TRANSPORTS)
    assert told["transports"]["rest"] == "absent: orders, inventory, payment, shipping, notifications not running"
    assert told["transports"]["kafka"] == "absent: not started"
    assert told["transports"]["redis_streams"] == "ready"  # by its server, for which a stand-in runs here


def test_status_for_people_adds_up_the_memory(lab, running):
    """Two Python processes share the interpreter's pages, which the sum of the column counts twice."""
    code, out, _ = lab("status")
    assert code == 0
    held, resident = re.search(
        r"^memory: (\d+) MiB in 2 processes \((\d+) MiB with shared pages counted for each\)$", out, re.MULTILINE
    ).groups()
    assert 0 < int(held) < int(resident)
    columns = [int(size) for size in re.findall(r"^(?:redis|sqs) .* (\d+) MiB$", out, re.MULTILINE)]
    assert abs(sum(columns) - int(resident)) <= 1


def test_memory_that_nobody_may_ask_for_is_said_to_be_unknown(capfd):
    def told(*sizes):
        processes = [
            ProcessStatus("a", None, ready=True, rss_bytes=rss, reason="", replicas=2, pss_bytes=pss)
            for rss, pss in sizes
        ]
        print_status(Status("k8s", ready=True, addresses={}, processes=processes, transports={}))
        return [line for line in capfd.readouterr().out.splitlines() if line.startswith("memory")]

    assert told((0, None)) == ["memory: not known"]
    assert told((3 << 30, None)) == ["memory: 3,072 MiB in 2 processes"]
    assert told((3 << 20, 2 << 20), (1 << 20, None)) == ["memory: 4 MiB in 4 processes"]


def test_the_kernel_divides_shared_pages_or_does_not_tell(monkeypatch):
    assert 0 < pss_bytes([os.getpid()]) <= rss_bytes([os.getpid()])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert pss_bytes([gone.pid]) == 0
    read = Path.read_text
    refused = lambda path, *_: read(path) if path.name != "smaps_rollup" else path.with_name("none").read_text()  # noqa: E731
    monkeypatch.setattr(Path, "read_text", refused)
    assert pss_bytes([os.getpid()]) is None


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


# --- lab transports ---------------------------------------------------------------------------------------------------
@pytest.fixture
def front_door(monkeypatch):
    """A lab that runs, as far as the front door tells: everything but Ice, and Kafka only soon."""
    app = FastAPI()
    special = {"ice": "absent: no wheel of Ice for this system", "kafka": "not ready: connecting"}
    app.add_api_route("/transports", lambda: [{"name": n, "status": special.get(n, "ready")} for n in WIRES])
    with serve(app) as address:
        monkeypatch.setattr(commands, "_target", lambda **_: SimpleNamespace(addresses={"front_door": address}))
        yield address


def test_transports_are_compared_also_while_the_lab_is_down(lab, monkeypatch):
    """On 80 columns nothing is cut but the ordering's line."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = lab("transports")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line.split()[1:2] in (["call"], ["messages"])] == list(
        WIRES
    )
    assert re.search(r"redis_pubsub +messages +at most once +per channel +3 of 10 *$", out, re.MULTILINE)
    assert re.search(r"kafka +messages +at least once +per partition +7 of 10 *$", out, re.MULTILINE)
    assert "Which of them run: lab not running" in out
    assert "…" not in out


def test_transports_say_what_runs_now(lab, front_door, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = lab("transports")
    assert code == 0
    assert re.search(r"^ rest .* ready *$", out, re.MULTILINE)
    assert re.search(r"^ kafka .* not ready *$", out, re.MULTILINE)
    assert "\nice: absent: no wheel of Ice for this system\n" in out
    assert "\nkafka: not ready: connecting\n" in out
    assert "…" not in out


def test_a_transport_has_a_whole_sheet(lab, front_door):
    code, out, _ = lab("transports", "kafka")
    assert code == 0
    assert out.startswith("Kafka: messages are records of a log")
    headings = [heading for heading in HEADINGS if re.search(rf"^{heading} +\S", out, re.MULTILINE)]
    assert headings == list(HEADINGS)
    assert re.search(r"^Kind +messages, at least once *$", out, re.MULTILINE)
    assert re.search(r"^Styles +async_request_response, message_queue, publish_subscribe,", out, re.MULTILINE)
    assert re.search(r"^Not possible +request_response needs ", out, re.MULTILINE)
    assert re.search(r"^Now +not ready: connecting *$", out, re.MULTILINE)
    assert "``" not in out


def test_a_heading_is_compared_over_all_transports(lab):
    code, out, _ = lab("transports", "peer-down")
    assert code == 0
    assert out.startswith("Peer down\n\nrest ")
    told = json.loads(lab("transports", "peer-down", "--json")[1])
    assert list(told) == list(WIRES)
    assert "ConnectionBroken" in told["grpc"]


def test_transports_as_json(lab, front_door):
    everything = json.loads(lab("transports", "--json")[1])
    assert [told["name"] for told in everything] == list(WIRES)
    told = json.loads(lab("transports", "redis_pubsub", "--json")[1])
    assert told == everything[list(WIRES).index("redis_pubsub")]
    assert (told["kind"], told["delivery"], told["styles"], told["status"]) == (
        "messages",
        "at most once",
        ["publish_subscribe", "publish_async_responses", "choreography"],
        "ready",
    )
    assert "keeps none" in told["not_possible"]["message_queue"]
    assert tuple(told["sheet"]) == HEADINGS


def test_where_a_cluster_cannot_be_asked_the_sheets_are_shown_all_the_same(lab, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no kubectl
    told = json.loads(lab("--target", "k8s", "transports", "grpc", "--json")[1])
    assert told["status"].startswith("not known: kubectl was not found")


def test_a_wrong_transport_gets_one_line(lab):
    assert lab("transports", "kafak") == (
        1,
        "",
        "lab: no transport or heading is called 'kafak': did you mean 'kafka'?\n",
    )
    assert "'peer-down'" in lab("transports", "peer_down")[2]
