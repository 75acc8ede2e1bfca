"""The lab's settings: rows that orders owns, changed behind a token, in force in every process within two seconds."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from services.orders import Orders, orders
from services.runtime import live as live_module
from services.runtime.config import Config
from services.runtime.live import SETTINGS, Live, follow
from services.runtime.process import Process
from services.telemetry.messaging import Shape
from services.transports.http import HttpServer
from services.transports.messaging.memory import Network
from tests.services.parts import ended, eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOKEN = "the-lab's-token"
DEFAULTS = Live().as_text()


@asynccontextmanager
async def running(folder: Path, port: int, token: str = TOKEN) -> AsyncIterator[Orders]:
    config = Config(
        transports="memory",
        admin_port=port,
        database_url=f"sqlite:///{folder / 'orders'}.sqlite",
        settings_token=SecretStr(token),
    )
    async with orders(Process("orders", config, Network())) as service:
        yield service


@asynccontextmanager
async def client(port: int, token: str = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False, headers=headers
    ) as http:
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """The admin port of orders at work, shared by the tests that leave its settings as they were."""
    async with running(tmp_path_factory.mktemp("settings"), port := free_port()):
        yield port


async def test_settings_can_be_read_and_changed_and_reset(port: int) -> None:
    """GET gives every setting with its sentence; PUT changes what it names; null goes back to the default."""
    async with client(port) as http:
        document = (await http.get("/settings")).json()
        assert document["values"] == DEFAULTS
        assert document["about"] == {name: setting.sentence for name, setting in SETTINGS.items()}
        changed = {"trace.shape": "link", "payment.work_ms": "800", "messaging.max_attempts": "2"}
        answer = await http.put("/settings", json={"values": changed})
        assert answer.status_code == 200, answer.text
        assert answer.json()["values"] == {**DEFAULTS, **changed, "payment.work_ms": "800.0"}
        answer = await http.put("/settings", json={"values": {"trace.shape": None, "work.seed": None}})
        assert answer.json()["values"]["trace.shape"] == "both"
        assert (await http.get("/settings")).json()["values"]["payment.work_ms"] == "800.0"
        assert (await http.put("/settings", json={"values": {}})).status_code == 200
        answer = await http.put("/settings", json={"values": dict.fromkeys(SETTINGS)})
        assert answer.json()["values"] == DEFAULTS


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", TOKEN, f"bearer {TOKEN}x", f"Basic {TOKEN}"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_without_the_token_nothing_is_told_and_nothing_changes(
    port: int, method: str, authorization: str
) -> None:
    """401, a problem document that says how; the settings stay."""
    async with client(port, token="") as http:
        headers = {"authorization": authorization} if authorization else {}
        body = {"values": {"trace.shape": "link"}} if method == "PUT" else None
        answer = await http.request(method, "/settings", json=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["title"] == "Unauthorized"
    assert "token" in answer.json()["detail"]
    async with client(port) as http:
        assert (await http.get("/settings")).json()["values"] == DEFAULTS


@pytest.mark.parametrize("sent", ["", "Bearer"])
async def test_an_orders_without_a_token_lets_nobody_change_settings(tmp_path: Path, sent: str) -> None:
    """An empty token is no token, not one that everybody knows."""
    async with running(tmp_path, port := free_port(), token=""), client(port, token="") as http:
        answer = await http.get("/settings", headers={"authorization": sent})
    assert answer.status_code == 401


INVALID = {
    # values: what the answer must name
    '{"payment.delay": "1"}': "'payment.delay'",
    '{"trace.shape": "sideways"}': "trace.shape",
    '{"trace.shape": ""}': "trace.shape",
    '{"payment.work_ms": "-1"}': "payment.work_ms",
    '{"payment.work_ms": "60001"}': "payment.work_ms",
    '{"payment.work_ms": "nan"}': "payment.work_ms",
    '{"payment.work_ms": "quick"}': "payment.work_ms",
    '{"payment.work_ms": 8}': "payment.work_ms",
    '{"rpc.timeout_s": "0"}': "rpc.timeout_s",
    '{"messaging.max_attempts": "0"}': "messaging.max_attempts",
    '{"messaging.max_attempts": "1.5"}': "messaging.max_attempts",
    '{"messaging.max_attempts": "²"}': "messaging.max_attempts",
    json.dumps({"messaging.max_attempts": "9" * 5000}): "messaging.max_attempts",
    '{"work.jitter": "1", "trace.shape": "sideways"}': "trace.shape",
    "null": "values",
    "[]": "values",
}


@pytest.mark.parametrize("values", INVALID, ids=lambda values: values[:50])
async def test_what_is_no_setting_or_no_value_is_refused_and_named(port: int, values: str) -> None:
    """422 that names it; nothing changes, not even what was right beside it."""
    async with client(port) as http:
        answer = await http.put(
            "/settings", content=f'{{"values": {values}}}', headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert INVALID[values] in answer.json()["detail"]
        assert len(answer.json()["detail"]) < 300
        assert (await http.get("/settings")).json()["values"] == DEFAULTS


async def test_a_change_is_in_force_within_two_seconds_wherever_it_was_made(tmp_path: Path) -> None:
    """In orders, in its replica (the same rows), and in a process that follows orders over its admin port."""
    async with AsyncExitStack() as stack:
        port, replica_port = free_port(), free_port()
        first = await stack.enter_async_context(running(tmp_path, port))
        replica = await stack.enter_async_context(running(tmp_path, replica_port))
        telemetry_shape: list[Shape] = []
        participant = Live(lambda changed: telemetry_shape.append(changed["trace.shape"]))
        task = asyncio.create_task(follow(participant, f"http://127.0.0.1:{port}", TOKEN))
        await stack.enter_async_context(ended(task))
        http = await stack.enter_async_context(client(replica_port))
        values = {"trace.shape": "link", "payment.work_ms": "800"}
        assert (await http.put("/settings", json={"values": values})).status_code == 200
        async with asyncio.timeout(2):
            for live in (replica.process.live, first.process.live, participant):
                while (live["trace.shape"], live["payment.work_ms"]) != ("link", 800):
                    await asyncio.sleep(0.01)
        assert telemetry_shape == [Shape.LINK]
        assert first.process.telemetry.shape is Shape.LINK


async def test_the_last_known_values_hold_while_orders_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the start, through a restart of orders, until it is back; then its rows are followed again."""
    monkeypatch.setattr(live_module, "POLL_S", 0.02)
    port = free_port()
    participant = Live()
    async with ended(asyncio.create_task(follow(participant, f"http://127.0.0.1:{port}", TOKEN))) as task:
        async with running(tmp_path, port), client(port) as http:
            await http.put("/settings", json={"values": {"payment.work_ms": "800"}})
            await eventually(lambda: participant["payment.work_ms"] == 800, "the first change is followed")
        polls = _counted(monkeypatch)
        await eventually(lambda: len(polls) > 3, "orders is asked while it is away")
        assert participant["payment.work_ms"] == 800
        async with running(tmp_path, port), client(port) as http:
            await eventually(lambda: participant["payment.work_ms"] == 800, "what was put is still there")
            await http.put("/settings", json={"values": {"payment.work_ms": "900"}})
            await eventually(lambda: participant["payment.work_ms"] == 900, "orders is followed again")
        assert not task.done()


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    polls: list[str] = []
    get = httpx.AsyncClient.get

    async def counted(self: httpx.AsyncClient, url: str) -> httpx.Response:
        polls.append(url)
        return await get(self, url)

    monkeypatch.setattr(httpx.AsyncClient, "get", counted)
    return polls


async def test_an_answer_that_makes_no_sense_changes_nothing_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever answers on that port: it is asked again, and followed once it makes sense."""
    monkeypatch.setattr(live_module, "POLL_S", 0.01)
    answers: list[tuple[int, Any]] = [
        *((401, {"detail": "no"}), (500, "crash"), (200, "<html>"), (200, []), (200, None), (200, {})),
        *((200, {"values": None}), (200, {"values": []}), (200, {"values": {"trace.shape": "sideways"}})),
        *((200, {"values": {"work.seed": 5}}), (200, {"values": ["trace.shape"]}), (200, {"values": "trace.shape"})),
    ]
    asked = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        status, body = answers[asked] if asked < len(answers) else (200, {"values": {"trace.shape": "parent"}})
        asked += 1
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content})

    server = HttpServer()
    await server.start(app, "127.0.0.1", 0)
    participant = Live()
    participant.update({"payment.work_ms": "800"})
    task = asyncio.create_task(follow(participant, f"http://127.0.0.1:{server.port}", TOKEN))
    async with ended(task):
        await eventually(lambda: task.done() or asked > len(answers) + 1, "orders is asked on and on")
        assert not task.done()
        assert participant["trace.shape"] is Shape.PARENT
    await server.close()


async def test_work_takes_the_same_time_for_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spread is seeded by setting, service and order, so that two runs can be compared."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(live_module, "asyncio", SimpleNamespace(sleep=sleep))  # not asyncio's own: others sleep too
    live = Live()
    for seed, order_id in (("1", "o-1"), ("1", "o-1"), ("1", "o-2"), ("2", "o-1")):
        live.update({"work.seed": seed, "payment.work_ms": "10", "work.jitter": "2"})
        await live.work("payment", order_id)
    assert slept[0] == slept[1]
    assert len(set(slept)) == 3
    assert all(seconds > 0 for seconds in slept)
    live.update({"payment.work_ms": "0"})
    await live.work("payment", "o-1")
    assert len(slept) == 4
