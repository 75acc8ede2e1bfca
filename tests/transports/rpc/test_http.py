"""The HTTP server inside our loop: what it leaves alone, and how it stops."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel

from services.telemetry import conventions as c
from services.telemetry.setup import set_up
from services.transports.http import HttpServer, PortTakenError, guard, instrument
from tests.transports.rpc.suite import Slow, Watcher, until


class Piece(BaseModel):
    size: int


class Site:
    """An application with one route of each kind, served."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.spans = Watcher()
        self.slow = Slow()
        self.server = HttpServer(refused=self.refused.append)
        telemetry = set_up("site")
        telemetry.provider.add_span_processor(self.spans)
        app = FastAPI()

        @app.get("/slow")
        async def wait() -> str:
            self.slow.begun.set()
            await self.slow.go.wait()
            return "done"

        @app.get("/crash")
        async def crash() -> None:
            raise ZeroDivisionError("secret")

        @app.post("/pieces")
        async def piece(piece: Piece) -> int:
            return piece.size

        @app.get("/healthz")
        async def healthz() -> str:
            return "ok"

        guard(app, self.refused.append)
        instrument(app, telemetry, exclude="healthz")
        self.app = app


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.server.start(site.app, "127.0.0.1", 0)
    yield site
    await site.server.close()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{site.server.port}") as client:
        yield client


async def test_signals_stay_the_runtime_s(site: Site, client: httpx.AsyncClient) -> None:
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    assert (await client.get("/healthz")).status_code == 200
    await site.server.drain()
    await site.server.close()
    assert {name: signal.getsignal(name) for name in handlers} == handlers


async def test_it_says_nothing_about_its_life(site: Site, client: httpx.AsyncClient, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    await client.get("/healthz")
    await site.server.drain()
    await site.server.close()
    assert [r.name for r in caplog.records if r.name.startswith("uvicorn")] == []


async def test_a_port_that_is_taken_is_named(site: Site) -> None:
    with pytest.raises(PortTakenError, match=f"^port {site.server.port} on 127.0.0.1 is taken$"):
        await HttpServer().start(site.app, "127.0.0.1", site.server.port)


async def test_a_port_is_free_again_at_once(site: Site, client: httpx.AsyncClient) -> None:
    await client.get("/healthz")
    await site.server.close()
    again = HttpServer()
    await again.start(site.app, "127.0.0.1", site.server.port)
    assert (await client.get("/healthz")).status_code == 200
    await again.close()


async def test_an_answer_does_not_wait_for_an_acknowledgement(site: Site, client: httpx.AsyncClient) -> None:
    """Without TCP_NODELAY every answer takes 40 ms."""
    await client.get("/healthz")
    (connection,) = site.server._server.server_state.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_crash_is_one_log_entry_one_exception_and_a_problem(
    site: Site, client: httpx.AsyncClient, caplog: Any
) -> None:
    answer = await client.get("/crash")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
    (span,) = await site.spans.settled(1)
    assert (span.status.status_code, span.attributes[c.ERROR_TYPE]) == (StatusCode.ERROR, "500")
    assert [event.attributes["exception.type"] for event in span.events] == ["ZeroDivisionError"]
    assert (await client.get("/healthz")).status_code == 200
    assert site.refused == []


@pytest.mark.parametrize(
    ("content", "media_type", "status", "says"),
    [
        (b'{"size": "x"}', "application/json", 422, "size"),
        (b"{", "application/json; charset=utf-8", 400, "JSON"),
        (b"size=1", "application/x-www-form-urlencoded", 415, "application/json"),
        (b'{"size": 1}' + b" " * 65_536, "application/json", 413, "65536"),
    ],
)
async def test_bad_input_is_refused_with_a_reason(
    site: Site, client: httpx.AsyncClient, content: bytes, media_type: str, status: int, says: str
) -> None:
    answer = await client.post("/pieces", content=content, headers={"content-type": media_type})
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert len(site.refused) == 1
    (span,) = await site.spans.settled(1)
    assert span.status.status_code is StatusCode.UNSET


async def test_drain_answers_what_is_in_hand_and_refuses_the_rest(site: Site, client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(client.get("/healthz") for _ in range(2)))  # two connections that stay open
    in_hand = asyncio.create_task(client.get("/slow"))
    await site.slow.begun.wait()
    drained = asyncio.create_task(site.server.drain())
    await until(lambda: site.server._draining, lambda: "drain did not begin")
    refused = await client.get("/healthz")
    assert (refused.status_code, refused.json()["nothing_done"]) == (503, True)
    assert refused.headers["connection"] == "close"
    assert refused.headers["retry-after"]
    with pytest.raises(httpx.ConnectError):
        await httpx.AsyncClient().get(f"http://127.0.0.1:{site.server.port}/healthz")
    assert not drained.done()
    site.slow.go.set()
    assert (await in_hand).status_code == 200
    await asyncio.wait_for(drained, 5)


async def test_drain_has_an_end(site: Site, client: httpx.AsyncClient, caplog: Any) -> None:
    in_hand = asyncio.create_task(client.get("/slow"))
    await site.slow.begun.wait()
    await site.server.drain(grace_s=0.1)
    assert "1 requests were not finished within 0.1 s" in caplog.text
    await site.server.close()
    with pytest.raises(httpx.RemoteProtocolError):
        await in_hand
    (span,) = await site.spans.settled(1)
    assert (span.kind, span.status.status_code) == (SpanKind.SERVER, StatusCode.ERROR)


async def test_probes_are_not_traced(site: Site, client: httpx.AsyncClient) -> None:
    await client.get("/healthz")
    assert site.spans.started == []
