"""`lab replay`: what the journals say, and whether all that is known follows from it."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import typer

from lab import commands
from lab import replay as tool
from lab.targets import LabError
from tests.services.lab import DECLINED, ORDER
from tests.tools.conftest import MemoryTarget


@pytest.fixture(autouse=True)
def current(target: MemoryTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_target", lambda **_: target)


async def ended(target: MemoryTarget, style: str, body: Mapping[str, Any] = ORDER) -> str:
    """The id of an order that has ended."""
    async with httpx.AsyncClient(base_url=target.addresses["front_door"], trust_env=False, timeout=30) as client:
        placed = (await client.post("/orders", params={"style": style}, json=body)).json()
        order = (await client.get(f"/orders/{placed['id']}", params={"wait_s": 10})).json()
    assert order["state"] in {"completed", "rejected"}
    return str(order["id"])


async def replayed(**choices: Any) -> None:
    await asyncio.to_thread(commands.replay, **choices)


async def test_everything_is_equal(target: MemoryTarget, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of hybrid, whose journal begins with the payment: what was declined before is in none."""
    whole = [await ended(target, "event_sourcing"), await ended(target, "event_sourcing", DECLINED)]
    paid, declined = await ended(target, "hybrid"), await ended(target, "hybrid", DECLINED)
    other = await ended(target, "choreography")
    await replayed(as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["orders"] == {whole[0]: "completed", whole[1]: "rejected", paid: "completed"}
    assert (told["differing"], told["missing"]) == ({}, [])
    assert told["proofs"]
    assert all(proof["equal"] for proof in told["proofs"])
    assert not {declined, other} & told["orders"].keys()
    await replayed()
    out = capsys.readouterr().out
    assert "orders: 2 completed, 1 rejected" in out
    assert "equal: every read model, and 3 orders as orders tells them" in out


async def test_what_is_not_equal_is_said_and_fails(
    target: MemoryTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = await ended(target, "event_sourcing")
    monkeypatch.setattr(tool, "LOOK_AGAIN_S", 0)
    monkeypatch.setattr(tool, "states", lambda _: {order_id: "rejected", "o-gone": "completed"})
    with pytest.raises(typer.Exit) as failed:
        await replayed()
    assert failed.value.exit_code == 1
    out = capsys.readouterr().out
    assert f"order {order_id}: replayed completed, orders says rejected" in out
    assert "order o-gone: completed, and no journal knows it" in out
    assert "equal:" not in out


def test_a_read_model_that_is_not_equal_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    differences = {"Linz": {"kept": 2, "replayed": 1}}
    proof = {"name": "cities", "events": 3, "rows": 1, "behind": 0, "lost": 0, "differences": differences}
    result = {"events": 3, "orders": {}, "proofs": [{**proof, "equal": False}]}
    assert not tool.proved(result, {})
    tool.show(result, {}, Console(width=80))
    out = capsys.readouterr().out
    assert "cities: Linz: kept 2, replayed 1" in out
    assert "NO" in out


async def test_the_past_is_what_was_known_then(target: MemoryTarget, capsys: pytest.CaptureFixture[str]) -> None:
    first = await ended(target, "event_sourcing")
    between = datetime.now(UTC).isoformat()
    second = await ended(target, "event_sourcing")
    await replayed(until=between, as_json=True)
    assert json.loads(capsys.readouterr().out)["orders"] == {first: "completed"}
    await replayed(order=second)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines][:2] == ["order.placed", "stock.reserved"]
    assert all(" by " in line for line in lines)
    with pytest.raises(LabError, match="no journal knows order 'o-none'"):
        await replayed(order="o-none")


async def test_a_read_model_is_filled_with_the_past_and_dropped(
    target: MemoryTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    await ended(target, "event_sourcing")
    async with httpx.AsyncClient(trust_env=False) as http:
        with target.admin_ports() as ports:
            known = (await http.get(f"{ports['ledger']}/projections")).json()
    name = next(each["name"] for each in known if not each["kept"])
    await replayed(fill=name)
    assert f"{name} is kept from now on; 5 events of the past are in it" in capsys.readouterr().out
    await replayed(as_json=True)
    assert name in {proof["name"] for proof in json.loads(capsys.readouterr().out)["proofs"]}
    await replayed(drop=name)
    assert f"{name} is kept no longer" in capsys.readouterr().out
    with pytest.raises(LabError, match="'nonsense' is no read model"):
        await replayed(fill="nonsense")


async def test_one_choice_at_a_time() -> None:
    with pytest.raises(LabError, match="one of --until, --order, --fill and --drop") as wrong:
        await replayed(until="10m", order="o-1")
    assert wrong.value.exit_code == 2


async def test_where_no_ledger_runs_that_is_said(target: MemoryTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def without() -> Iterator[dict[str, str]]:
        yield {"orders": "http://127.0.0.1:1"}

    monkeypatch.setattr(target, "admin_ports", without)
    with pytest.raises(LabError, match="the ledger does not run here"):
        await replayed()


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31T14:00:00+02:00", "2026-01-31T12:00:00.000000Z"),
        ("2026-01-31T12:00", "2026-01-31T12:00:00.000000Z"),
    ],
)
def test_an_instant_is_written_as_the_journals_write_it(text: str, means: str) -> None:
    """They are compared as texts."""
    assert tool.instant(text) == means
    assert tool.instant("10m") < tool.instant("1s")
    with pytest.raises(LabError, match="takes a time like"):
        tool.instant("yesterday")
