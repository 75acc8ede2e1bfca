"""A front door for tests: real HTTP on loopback, the contract's answers, and misbehaviour by style.

``prompt`` ends the order in the POST (201); ``slow`` takes it (202) and ends it ``SLOW_S`` later; ``lossy``
never ends every fifth; ``flaky`` answers every third POST with 503; ``stuck`` takes half a second to answer.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

SLOW_S = 0.2
OUT_OF_STOCK = "unicorn"
DECLINED = "4000000000000002"


@dataclass
class FrontDoorSeen:
    """What came in, in order: ``(run, style, body)`` of each POST, and the headers of each look."""

    address: str = ""
    stop: Callable[[], None] = lambda: None
    posts: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    looks: list[dict[str, str]] = field(default_factory=list)

    def of(self, run_id: str, style: str) -> list[dict[str, Any]]:
        return [body for run, its_style, body in self.posts if (run, its_style) == (run_id, style)]


def application(seen: FrontDoorSeen) -> FastAPI:
    app = FastAPI()
    orders: dict[str, dict[str, Any]] = {}
    numbers = itertools.count(1)
    flaky = itertools.count(1)

    def end(order: dict[str, Any], body: dict[str, Any]) -> None:
        refused = body["lines"][0]["sku"] == OUT_OF_STOCK or body["card"] == DECLINED
        order["state"] = "rejected" if refused else "completed"
        order["reason"] = "refused" if refused else None
        order["completed_at"] = datetime.now(UTC).isoformat()

    @app.get("/catalog")
    def catalog() -> dict[str, Any]:
        return {
            "items": [{"sku": sku, "price_cents": 100} for sku in ("tea", "coffee", "cup", OUT_OF_STOCK)],
            "always_out_of_stock": [OUT_OF_STOCK],
            "always_declined": [DECLINED],
            "not_served": ["Atlantis"],
            "unreachable": ["c-unreachable"],
        }

    @app.get("/styles")
    def styles() -> list[dict[str, Any]]:
        one = {"ports": ["broker"], "transports": ["memory", "absent_one"], "default": "memory"}
        return [
            *({"name": name, **one} for name in ("prompt", "slow", "lossy", "flaky", "stuck")),
            {
                "name": "both",
                "ports": ["rpc", "broker"],
                "transports": ["memory", "queue"],
                "default": "memory,queue",
            },
        ]

    @app.get("/transports")
    def transports() -> list[dict[str, str]]:
        return [
            {"name": "memory", "status": "ready"},
            {"name": "queue", "status": "ready"},
            {"name": "absent_one", "status": "absent: no server"},
        ]

    @app.post("/orders")
    async def place(request: Request, style: str, transport: str) -> JSONResponse:
        body = await request.json()
        run = request.headers.get("baggage", "").partition("lab.run_id=")[2]
        seen.posts.append((run, style, body))
        if style == "flaky" and next(flaky) % 3 == 0:
            problem = {"title": "Service Unavailable", "status": 503}
            return JSONResponse(problem, status_code=503, media_type="application/problem+json")
        if style == "stuck":
            await asyncio.sleep(0.5)
        number = next(numbers)
        order = orders[f"o-{number}"] = {
            "id": f"o-{number}",
            "style": style,
            "transport": transport,
            "state": "accepted",
            "accepted_at": datetime.now(UTC).isoformat(),
            "completed_at": None,
            "reason": None,
            "history": [],
        }
        if style in ("prompt", "stuck"):
            end(order, body)
            return JSONResponse(order, status_code=201)
        if style != "lossy" or number % 5:
            asyncio.get_running_loop().call_later(SLOW_S, end, order, body)
        return JSONResponse(order, status_code=202, headers={"location": f"/orders/o-{number}"})

    @app.get("/orders/{order_id}")
    async def look(request: Request, order_id: str, wait_s: float = 0) -> dict[str, Any]:
        seen.looks.append(dict(request.headers))
        deadline = time.monotonic() + wait_s
        while orders[order_id]["state"] == "accepted" and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return orders[order_id]

    return app


@contextmanager
def serving(app: FastAPI) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serves on a free loopback port until the block ends; yields the address, and what ends it before."""
    settings = uvicorn.Config(app, port=0, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the test's server did not start within 10 s"
        time.sleep(0.01)

    def stop() -> None:
        server.should_exit = True
        thread.join(10)

    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", stop
    finally:
        stop()


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    with serving(app) as (address, _):
        yield address


@contextmanager
def front_door() -> Iterator[FrontDoorSeen]:
    seen = FrontDoorSeen()
    with serving(application(seen)) as (seen.address, seen.stop):
        yield seen
