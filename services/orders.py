"""Orders: the front door (HTTP), owner of every order and of the lab's settings.

In: ``POST /orders`` and all events. Out: commands (synchronous styles) or ``OrderPlaced``. Its settings are
``rpc.timeout_s`` and ``trace.shape``; the others are the participants'.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Response
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.trace import get_current_span
from pydantic import BaseModel

from services.contracts import asyncapi
from services.domain import catalog
from services.runtime import admin, faults
from services.runtime.books import order_routes
from services.runtime.conditions import Conditions
from services.runtime.config import Config
from services.runtime.desk import Desk
from services.runtime.front_door import (
    Flows,
    Impossible,
    OrderIn,
    OrderOut,
    broken_off,
    describe_problems,
    explain,
    order_out,
    problems,
)
from services.runtime.live import SETTINGS, Live, UnknownSettingError, find
from services.runtime.process import HttpServer, Process, run, stopped
from services.storage.database import AWAY
from services.storage.orders import KeyTaken, OrderStore, StoredOrder
from services.styles import STYLES
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.rpc import about_order
from services.transports.errors import TransportError
from services.transports.http import guard, instrument
from services.transports.ports import Broker, Message

MAX_WAIT_S = 60


def front_door(process: Process, desk: Desk, flows: Flows) -> FastAPI:
    """The public HTTP surface (design: docs/front-door.md)."""
    conditions = Conditions("orders", process.live)
    app = FastAPI(title="Antiphon orders", version="0.1.0", docs_url=None, redoc_url=None)

    @app.post(
        "/orders", status_code=201, responses={202: {"model": OrderOut}, **problems(400, 409, 413, 415, 422, 503, 504)}
    )
    async def place_order(
        body: OrderIn,
        response: Response,
        style: str = "request_response",
        transport: str | None = None,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    ) -> OrderOut:
        chosen, wire = flows.choose(style, transport)
        order = body.order(str(uuid.uuid4()))
        span = get_current_span()
        flow = {c.LAB_STYLE: chosen.name, c.LAB_TRANSPORT: wire}
        if run_id := baggage.get_baggage(c.LAB_RUN_ID):
            span.set_attribute(c.LAB_RUN_ID, str(run_id))
        context = None
        for key, value in flow.items():
            span.set_attribute(key, value)  # the span began before its baggage was known
            context = baggage.set_baggage(key, value, context)
        token = attach(context)  # type: ignore[arg-type]
        started, failed = time.perf_counter(), ""
        try:
            if error := await conditions.before_order(chosen.name, order.order_id):
                raise error
            stored = await desk.accept(
                order,
                chosen,
                wire,
                idempotency_key=idempotency_key,
                body_hash=body.fingerprint(chosen.name, wire),
            )
            about_order(order.order_id)
            if chosen.synchronous:
                stored = await desk.converse(stored, chosen)
        except KeyTaken:
            stored = await _same_request(desk, str(idempotency_key), body.fingerprint(chosen.name, wire))
            about_order(stored.state.order.order_id)
        except (TransportError, *AWAY) as error:
            failed = type(error).__qualname__
            if isinstance(error, TransportError):
                raise broken_off(order.order_id, error) from error
            raise
        finally:
            detach(token)
            metrics.timer(metrics.ORDER_ACCEPT_DURATION, "orders", chosen.name, wire, failed).observe(
                time.perf_counter() - started, span
            )
        response.status_code = 201 if stored.ended else 202
        response.headers["location"] = f"/orders/{stored.state.order.order_id}"
        return await _out(desk, stored)

    @app.get("/orders/{order_id}", responses=problems(404, 422))
    async def get_order(order_id: str, wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0) -> OrderOut:
        stored = await desk.wait(order_id, wait_s)
        if stored is None:
            raise Impossible(404, f"there is no order {order_id[:60]!r}")
        return await _out(desk, stored)

    @app.get("/catalog")
    async def get_catalog() -> dict[str, Any]:
        return {
            "items": [{"sku": sku, "price_cents": price} for sku, price in catalog.PRICES_CENTS.items()],
            "always_out_of_stock": sorted(catalog.ALWAYS_OUT_OF_STOCK),
            "always_declined": sorted(catalog.ALWAYS_DECLINED),
            "not_served": sorted(catalog.NOT_SERVED),
            "unreachable": sorted(catalog.UNREACHABLE),
        }

    @app.get("/styles")
    async def get_styles() -> list[dict[str, Any]]:
        return flows.styles()

    @app.get("/transports")
    async def get_transports() -> list[dict[str, Any]]:
        reasons = {name: process.opening.get(name) or await broker.ready() for name, broker in process.brokers.items()}
        return flows.transports({name: reason for name, reason in reasons.items() if reason})

    @app.get("/asyncapi.json", include_in_schema=False)
    async def get_asyncapi() -> Response:
        return Response(asyncapi.committed(), media_type=asyncapi.MEDIA_TYPE)

    def refused(reason: str) -> None:
        metrics.REFUSED_INPUT.labels("orders", "http", reason).inc()

    explain(app, refused)
    describe_problems(app)
    guard(app, refused)
    instrument(app, process.telemetry)
    return app


async def _out(desk: Desk, stored: StoredOrder) -> OrderOut:
    order_id = stored.state.order.order_id
    return order_out(stored, await desk.store.history(order_id), await desk.store.memory(order_id))


async def _same_request(desk: Desk, key: str, fingerprint: str) -> StoredOrder:
    stored = await desk.store.by_key(key)
    if stored is None or stored.body_hash != fingerprint:
        raise Impossible(409, f"Idempotency-Key {key[:60]!r} was used for another order")
    return stored


class SettingsIn(BaseModel):
    """New values by name; null goes back to the default."""

    values: dict[str, str | None]


def settings(process: Process, store: OrderStore) -> APIRouter:
    """The lab's settings, on the admin port and behind the token."""
    router = APIRouter()

    @router.get("/settings")
    async def get_settings(authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        admin.authorize(process.config, authorization)
        values = process.live.as_text()
        return {"values": values, "about": {name: find(name).sentence for name in values}, "faults": faults.document()}

    @router.put("/settings")
    async def put_settings(body: SettingsIn, authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        admin.authorize(process.config, authorization)
        for name, value in body.values.items():
            try:
                setting = find(name)
            except UnknownSettingError as error:
                valid: dict[str, Any] = {} if error.near else {"valid": sorted(SETTINGS)}
                raise Impossible(422, str(error), **valid) from None
            if value is not None:
                try:
                    setting.parse(value)
                except ValueError as error:
                    raise Impossible(422, f"{name}: {error}") from None
        await store.put_settings(body.values)
        process.live.update(await store.settings())
        return {"values": process.live.as_text()}

    return router


async def _follow_own(live: Live, store: OrderStore) -> None:
    while True:
        live.update(await store.settings())
        await asyncio.sleep(1)


@dataclass(frozen=True, slots=True)
class Orders:
    """The orders service at work: its process, what it remembers, its desk and its front door."""

    process: Process
    store: OrderStore
    desk: Desk
    door: HttpServer


@asynccontextmanager
async def orders(process: Process) -> AsyncIterator[Orders]:
    """Orders at work within the block; drained and stopped behind it."""
    store = OrderStore(process.database, {style.name: style.plan for style in STYLES.values()})
    desk = Desk(store, process.telemetry, process.live, process.rpcs, process.brokers, process.written, process.ledger)
    flows = Flows(process.transports, process.config.absent)
    door = HttpServer()

    async def react(_: Broker, message: Message) -> None:
        await desk.hear(message)

    router = settings(process, store)
    for books in (process.books(), order_routes(process.ledger.store)):
        router.include_router(books)
    served = admin.serving(process.config, process.ready, "orders", process.live, router)
    async with served as server:
        process.admin_port = server.port
        try:
            await process.open_database()
            process.live.update(await store.settings())
            process.forever(lambda: _follow_own(process.live, store))
            process.forever(desk.relay)
            process.forever(desk.recover)
            process.forever(desk.alarms)
            process.forever(desk.hold_pursuits)
            process.forever(lambda: desk.measure(flows.pairs()))
            process.consume(STYLES, react)
            await door.start(
                front_door(process, desk, flows), process.config.host, process.config.listen.get("http", 0)
            )
            process.started()
            yield Orders(process, store, desk, door)
        finally:
            desk.stop_waiting()
            await door.drain()
            await process.stop(desk.drained)
            await door.close()


if __name__ == "__main__":

    async def main() -> None:
        async with orders(Process("orders", Config())):
            await stopped()

    run("orders", main)
