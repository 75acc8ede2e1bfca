"""`lab fault`: sets, shows and clears faults, and says when that is in force."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from lab import commands
from lab import faults as tool
from lab.targets import LabError
from services import payment
from services.runtime.config import Config
from services.runtime.faults import FAULTS
from services.runtime.live import SETTINGS, Live
from services.runtime.process import Process, participant
from services.transports.messaging.memory import Network
from tests.services.orders_alone import TOKEN, admin
from tests.services.parts import free_port


class FakeTarget:
    """Where the tool finds orders and whom it has to ask."""

    settings_token = TOKEN

    def __init__(self, admins: dict[str, int]) -> None:
        self.addresses = {"orders_admin": f"http://127.0.0.1:{admins['orders']}"}
        self._admins = admins

    @contextlib.contextmanager
    def admins(self) -> Iterator[Any]:
        def one(port: int, path: str) -> Any:
            try:
                return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).json()
            except httpx.TransportError:
                return None

        yield lambda path: {name: one(port, path) for name, port in self._admins.items()}


@pytest.fixture
async def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeTarget]:
    """Orders and payment as two processes that speak over their admin ports, and one that does not run."""
    ports = {"orders": free_port(), "payment": free_port(), "shipping": free_port()}
    config = Config(
        transports="memory",
        admin_port=ports["payment"],
        database_url=f"sqlite:///{tmp_path / 'payment'}.sqlite",
        settings_token=SecretStr(TOKEN),
        orders_admin_url=f"http://127.0.0.1:{ports['orders']}",
    )
    known = FakeTarget(ports)
    monkeypatch.setattr(tool, "current", lambda: known)
    async with (
        admin(tmp_path, ports["orders"]),
        participant(Process("payment", config, Network()), payment.handlers),
    ):
        yield known


async def test_the_tool_sets_and_clears_and_says_when_it_is_in_force(
    target: FakeTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    """It waits for those that run, and names those that do not."""
    await asyncio.to_thread(tool.set_faults, ["payment.delay_ms=800", "payment.choreography.pause=on"])
    out = capsys.readouterr().out
    assert re.search(r"^payment\.delay_ms is 800\.0\npayment\.choreography\.pause is on\n", out, re.MULTILINE)
    assert re.search(r"^in force in 2 processes after \d+\.\d s$", out, re.MULTILINE)
    assert "not running, and to follow when they start: shipping" in out
    for port in (target._admins["orders"], target._admins["payment"]):
        async with httpx.AsyncClient(trust_env=False) as http:
            applied = (await http.get(f"http://127.0.0.1:{port}/settings/applied")).json()
        assert (applied["payment.delay_ms"], applied["payment.choreography.pause"]) == ("800.0", "on")
    await asyncio.to_thread(tool.clear_faults, ["payment.delay_ms"], as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["changed"] == {"payment.delay_ms": None}
    assert (told["processes"], told["not_running"]) == (["orders", "payment"], ["shipping"])
    await asyncio.to_thread(tool.clear_faults, None)
    assert "payment.choreography.pause is off" in capsys.readouterr().out
    await asyncio.to_thread(tool.clear_faults, None)
    assert "no fault was on" in capsys.readouterr().out


async def test_the_tool_lists_what_is_on_and_what_could_be(
    target: FakeTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(tool.list_faults)
    out = capsys.readouterr().out
    assert out.startswith("no fault is on\n")
    for knob in FAULTS.values():
        assert re.search(rf"^{knob.name} +{re.escape(knob.sentence)}", out, re.MULTILINE)
    assert re.search(r"^hold_outbox .*\(orders\)$", out, re.MULTILINE)
    await asyncio.to_thread(tool.set_faults, ["orders.hold_outbox=on"], as_json=True)
    capsys.readouterr()
    await asyncio.to_thread(tool.list_faults)
    assert capsys.readouterr().out.startswith("orders.hold_outbox  on\n")
    await asyncio.to_thread(tool.list_faults, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["on"] == {"orders.hold_outbox": "on"}
    assert [knob["name"] for knob in told["knobs"]] == list(FAULTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["paymnt.delay_ms=1"], "did you mean 'payment.delay_ms'"),
        (["payment.delay_ms=1", "payment.delay_mss=1"], "did you mean 'payment.delay_ms'"),
        (["payment.delay_ms=soon"], "payment.delay_ms: a number from 0 to 60000, not 'soon'"),
        (["payment.pause=1"], "payment.pause: on or off, not '1'"),
        (["payment.delay_ms"], "a fault is NAME=VALUE"),
        (["payment.delay_ms="], "lab fault clear NAME"),
        (["payment.work_ms=1"], "payment.work_ms is a setting and no fault: lab settings payment.work_ms=VALUE"),
        (["moon=1"], "'moon' is no setting"),
    ],
)
async def test_the_tool_says_what_is_wrong(target: FakeTarget, changes: list[str], said: str) -> None:
    """And changes nothing then, not even what was right beside it."""
    with pytest.raises(LabError) as refused:
        await asyncio.to_thread(tool.set_faults, changes)
    assert said in str(refused.value)
    assert tool._on(await asyncio.to_thread(tool._settings, target)) == {}


async def test_the_tool_does_not_clear_what_is_no_fault(target: FakeTarget) -> None:
    for name, said in (("payment.work_ms", "is a setting and no fault"), ("payment.dely_ms", "did you mean")):
        with pytest.raises(LabError, match=said):
            await asyncio.to_thread(tool.clear_faults, [name])


async def test_the_tool_gives_up_on_who_does_not_follow(target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payment runs and does not hear of it: it is named."""
    monkeypatch.setattr(tool, "WAIT_S", 0.3)
    monkeypatch.setattr(Live, "update", lambda *_: None)
    changes = {"payment.delay_ms": "5.0"}
    monkeypatch.setattr("lab.ask.put_settings", lambda *_: {"values": changes})
    with pytest.raises(LabError, match=r"orders, payment did not follow within 0\.3 s: lab status"):
        await asyncio.to_thread(tool._apply, target, changes)


async def test_lab_settings_lists_the_settings_alone(
    target: FakeTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says where the faults are."""
    monkeypatch.setattr(commands, "_target", lambda **_: target)
    await asyncio.to_thread(tool.set_faults, ["payment.delay_ms=800"])
    capsys.readouterr()
    await asyncio.to_thread(commands.settings, None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(SETTINGS)
    assert lines[-1] == "Faults are settings too: lab fault list shows them."
    await asyncio.to_thread(commands.settings, None, as_json=True)
    assert list(json.loads(capsys.readouterr().out)) == list(SETTINGS)
