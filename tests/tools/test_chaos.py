"""`lab chaos`: what is done is undone, customers ask until they are told, and a loss is said."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import typer

from lab import chaos, commands, dlq
from lab.chaos import Act, Run, perform
from lab.chaos.customers import Request, placing
from lab.chaos.hands import Hands
from lab.chaos.report import show, to_markdown
from lab.targets import LabError, ProcessStatus, Status
from load.plan import Flow
from tests.tools.conftest import MemoryTarget

FLOW = Flow("choreography", "memory")


# --- the sequence, performed -----------------------------------------------------------------------------------------
class Recording:
    """Hands that do nothing but note it; to begin an act called ``slow`` takes 10 s of the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.notes: list[str] = []

    def begin(self, act: Act) -> None:
        self.notes.append(f"{self.now:g} {act.what}")
        self.now += 10 if act.what == "slow" else 0

    def end(self, act: Act) -> None:
        self.notes.append(f"{self.now:g} no {act.what}")

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_acts_begin_in_turn_and_end_when_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes long holds the others up, and takes nothing from their time; its customers come with it."""
    hands = Recording()
    monkeypatch.setattr("lab.chaos.time.sleep", hands.sleep)
    acts = [Act("a", 1, {"x": "1"}, 4), Act("slow", 1), Act("b", 1, {"y": "1"}, 3)]
    begins = [threading.Event() for _ in acts]
    perform(acts, hands, begins, lambda: hands.now)
    assert hands.notes == ["1 a", "2 slow", "12 no a", "12 no slow", "13 b", "16 no b"]
    assert all(begun.is_set() for begun in begins)


class Dying:
    """A target of which one process dies and comes back late."""

    settings_token = ""
    addresses: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.killed: list[str] = []
        self.looks = 0

    def kill(self, name: str) -> None:
        self.killed.append(name)

    def status(self) -> Status:
        self.looks += 1
        back = self.looks > 2
        process = ProcessStatus("payment", 1 if back else None, ready=back, rss_bytes=0, reason="" if back else "dead")
        return Status("k8s", ready=back, addresses={}, processes=[process], transports={})


def test_who_is_killed_is_back_before_anything_else_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody else starts it again, that is waited for."""
    monkeypatch.setattr("lab.chaos.hands.DOWN_S", 0)
    monkeypatch.setattr("lab.chaos.hands.AGAIN_S", 0)
    target = Dying()
    hands = Hands(target)  # type: ignore[arg-type]
    hands.begin(Act("kill payment", process="payment"))
    assert (target.killed, target.looks) == (["payment"], 3)
    hands.heal()


def test_who_does_not_come_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.chaos.hands.DOWN_S", 0)
    monkeypatch.setattr("lab.chaos.hands.WITHIN_S", 0)
    with pytest.raises(LabError, match="payment: dead"):
        Hands(Dying()).begin(Act("kill payment", process="payment"))  # type: ignore[arg-type]


# --- the customers ---------------------------------------------------------------------------------------------------
@contextmanager
def door(answers: list[tuple[int, dict[str, Any]] | None]) -> Iterator[tuple[str, list[str]]]:
    """A front door that gives these answers in turn, the last one for ever; None: it hangs up. And the keys it saw."""
    keys: list[str] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(str(self.headers["idempotency-key"]))
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if answer is None:
                self.close_connection = True
                return
            body = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", keys
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def one_request() -> Request:
    begun = threading.Event()
    begun.set()
    return Request({}, begun, 0)


def test_a_customer_asks_again_with_the_same_key_until_an_order_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken conversation names it, too; a database that is away does not."""
    monkeypatch.setattr("lab.chaos.customers.AGAIN_S", 0)
    request = one_request()
    with (
        door([None, (503, {"detail": "the database does not answer"}), (503, {"order_id": "o-1"})]) as (url, keys),
        placing(url, FLOW, "run", [request]),
    ):
        deadline = threading.Event()
        while not request.order_id:
            assert not deadline.wait(0.01)
    assert (request.order_id, request.status, request.tries) == ("o-1", 503, 3)
    assert keys == [request.key] * 3


def test_a_customer_who_is_never_answered_stops_with_the_run() -> None:
    waiting, asking = Request({}, threading.Event(), 60), one_request()
    with door([None]) as (url, keys), placing(url, FLOW, "run", [waiting, asking]):
        pass
    assert (waiting.tries, waiting.order_id, asking.order_id) == (0, "", "")
    assert asking.tries == len(keys)


# --- the verdict -----------------------------------------------------------------------------------------------------
def run(**fields: Any) -> Run:
    return Run(FLOW, 7, "r-1", ["kill payment"], **{"requests": 2, "orders": 2, "completed": 2, "end_s": 1.0, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"completed": 1}, "2 orders were accepted, and orders knows 1 of them"),
        ({"orders": 1, "completed": 1}, "1 requests were never answered"),
        ({"completed": 1, "open": 1, "open_unexplained": 1}, "1 orders have not ended 60 s after healing"),
        ({"end_s": 61.0}, "the last order ended 61 s after healing"),
        ({}, ""),
        ({"completed": 1, "open": 1, "end_s": None}, ""),  # a loss that its transport declares
    ],
)
def test_what_is_not_as_claimed_is_said(fields: dict[str, Any], said: str) -> None:
    judged = run(**fields)
    judged.judge()
    assert judged.problems == ([said] if said else [])


def test_a_customer_who_was_told_otherwise_is_heard() -> None:
    told = one_request()
    told.order_id, told.state = "o-1", "completed"
    assert chaos.contradictions([told], [{"id": "o-1", "state": "completed"}]) == []
    (said,) = chaos.contradictions([told], [{"id": "o-1", "state": "rejected"}])
    assert said == "order o-1 was completed for its customer, and is rejected"
    told.state = "accepted"
    assert chaos.contradictions([told], [{"id": "o-1", "state": "rejected"}]) == []


# --- on a lab --------------------------------------------------------------------------------------------------------
async def put(target: MemoryTarget, values: dict[str, str | None]) -> None:
    await target.orders.store.put_settings(values)
    target.orders.process.live.update(await target.orders.store.settings())


ACTS = (
    Act("fail payment", 0.1, {"payment.choreography.error_rate": "1"}, 2.5),
    Act("strangers", 0.1, {"inventory.choreography.stranger_rate": "1"}, 1),
    Act("duplicate", 0.1, {"shipping.choreography.duplicate_rate": "1"}, 1),
)


async def test_a_bad_day_is_survived(target: MemoryTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its handler failed at is replayed, what nobody can decode is dropped, and no fault stays on."""
    monkeypatch.setattr(chaos, "sequence", lambda *_: ACTS)
    await put(target, {"messaging.max_attempts": "1"})  # what fails is a dead letter, however slow the machine is
    said: list[str] = []
    came = await asyncio.to_thread(chaos.run_one, target, FLOW, seed=1, orders=12, say=said.append)  # type: ignore[arg-type]
    assert came.problems == []
    assert (came.orders, came.ended, came.open, came.lost, came.effects_twice) == (12, 12, 0, 0, 0)
    assert came.replayed > 0
    assert came.strangers > 0
    assert came.end_s is not None
    assert "fail payment (2.5 s); strangers (1 s); duplicate (1 s)" in said[0]
    with target.admin_ports() as ports:
        assert (await asyncio.to_thread(dlq.found, ports))[0] == []
    assert target.orders.process.live.faults_as_text() == {}


async def test_a_loss_is_said_with_the_commands_that_look_closer(
    target: MemoryTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory promises to deliver: what is dropped is a loss, and its order does not end."""
    dropped = (Act("drop", 0.1, {"inventory.choreography.drop_rate": "1"}, 1.5),)
    monkeypatch.setattr(chaos, "sequence", lambda *_: dropped)
    monkeypatch.setattr(chaos, "TERMINAL_S", 1)
    said: list[str] = []
    came = await asyncio.to_thread(chaos.run_one, target, FLOW, seed=5, orders=6, say=said.append)  # type: ignore[arg-type]
    assert came.open == came.open_unexplained > 0
    assert came.lost > came.lost_declared == 0
    assert came.end_s is None
    assert any("messages lost that should not be" in problem for problem in came.problems)
    assert f"  .venv/bin/lab audit {came.run_id}" in said
    assert "  .venv/bin/lab chaos --flow choreography/memory --seed 5 --orders 6" in said


async def test_a_lab_with_a_fault_on_is_not_tried(target: MemoryTarget) -> None:
    """Nothing could be said about what comes after."""
    await put(target, {"payment.delay_ms": "5"})
    with pytest.raises(LabError, match=r"payment\.delay_ms is on already: lab fault clear"):
        await asyncio.to_thread(Hands(target).check)  # type: ignore[arg-type]


async def test_flows_that_do_not_run_are_said(target: MemoryTarget) -> None:
    with pytest.raises(LabError, match="no style 'choreographie'"):
        await asyncio.to_thread(chaos.chosen_flows, target, [Flow("choreographie", "memory")])  # type: ignore[arg-type]


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """What the command is told that the runs came to."""
    runs: list[Run] = []
    monkeypatch.setattr(commands, "_target", lambda **_: None)
    monkeypatch.setattr(chaos, "chosen_flows", lambda *_: [FLOW])
    monkeypatch.setattr(chaos, "run_all", lambda *_, **__: (runs, [Flow("hybrid", "a,b,c")]))
    return runs


def test_the_command_fails_when_a_run_does(ran: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    ran.append(run())
    commands.chaos()
    out = capsys.readouterr().out
    assert "1 of 1 runs are as promised" in out
    assert "no time was left for hybrid over a,b,c" in out
    ran.append(run(problems=["1 messages lost that should not be"]))
    with pytest.raises(typer.Exit) as ended:
        commands.chaos()
    assert ended.value.exit_code == 1
    out = capsys.readouterr().out
    assert "1 of 2 runs are as promised" in out
    assert ".venv/bin/lab audit r-1" in out


def test_the_command_tells_scripts(ran: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    ran.append(run(strangers=2, replayed=1))
    commands.chaos(as_json=True, seed=7)
    told = json.loads(capsys.readouterr().out)
    assert (told["seed"], told["not_run"]) == (7, ["hybrid over a,b,c"])
    (one,) = told["runs"]
    assert (one["held"], one["ended"], one["dead_letters"], one["acts"]) == (True, 2, 3, ["kill payment"])


def test_losses_that_are_declared_have_a_star(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    several = [run(lost=3, lost_declared=3), run(lost=3, lost_declared=1), run()]
    lost = [line.split(" | ")[6] for line in to_markdown(several).splitlines()[2:]]
    assert lost == ["3*", "3", "0"]
    show(several, Console(width=80))
    assert "…" not in capsys.readouterr().out
