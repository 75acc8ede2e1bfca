"""Ledger: read models of the journals, a little behind them, and the replay that proves them.

In: every event of ``orders.journal`` (event sourcing) and ``fulfilment.journal`` (hybrid). Out: nothing; it is asked,
on its admin port: ``/projections``, ``/projections/{name}``, ``/history/{order_id}``, and with the lab's token
``POST /replay``, ``POST`` and ``DELETE /projections/{name}``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query

from services.domain.projections import PROJECTIONS, Projection
from services.runtime import admin
from services.runtime.config import Config
from services.runtime.front_door import Impossible
from services.runtime.process import Process, run, stopped, working
from services.runtime.read_models import ReadModels, journals
from services.storage.projections import ProjectionStore
from services.styles import STYLES
from services.transports.ports import Broker, Message


def routes(process: Process, models: ReadModels) -> APIRouter:
    """What the ledger is asked. What changes something, or takes long, wants the lab's token."""
    router = APIRouter()

    @router.get("/projections")
    async def list_projections() -> list[dict[str, Any]]:
        events, kept = await models.store.count(), {projection.name for projection in await models.store.kept()}
        return [
            {"name": p.name, "sentence": p.sentence, "kept": p.name in kept, "events": events.get(p.name, 0)}
            for p in PROJECTIONS.values()
        ]

    @router.get("/projections/{name}")
    async def get_projection(name: str) -> dict[str, Any]:
        rows, _ = await models.store.rows(_known(name))
        return {"name": name, "rows": rows}

    @router.post("/projections/{name}")
    async def fill_projection(name: str, authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        admin.authorize(process.config, authorization)
        return {"name": name, "events": await models.fill(_known(name))}

    @router.delete("/projections/{name}")
    async def drop_projection(name: str, authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
        admin.authorize(process.config, authorization)
        await models.drop(_known(name))
        return {"name": name}

    @router.get("/history/{order_id}")
    async def history(order_id: str) -> dict[str, Any]:
        found = await models.history(order_id)
        if not found:
            raise Impossible(404, f"no journal knows order {order_id[:60]!r}")
        return {"order": order_id, "events": found}

    @router.post("/replay")
    async def replay(
        until: Annotated[str, Query(max_length=40)] = "", authorization: Annotated[str, Header()] = ""
    ) -> dict[str, Any]:
        admin.authorize(process.config, authorization)
        return await models.replay(until)

    return router


def _known(name: str) -> Projection:
    if name not in PROJECTIONS:
        raise Impossible(422, f"{name[:60]!r} is no read model", valid=sorted(PROJECTIONS))
    return PROJECTIONS[name]


@asynccontextmanager
async def ledger(process: Process) -> AsyncIterator[ReadModels]:
    """The ledger at work within the block; drained and stopped behind it."""
    models = ReadModels(
        ProjectionStore(process.database), journals(process.brokers, process.transports), process.telemetry
    )

    async def react(_: Broker, message: Message) -> None:
        await models.hear(message)

    async with working(process, routes(process, models)):
        await models.open()
        process.consume(STYLES, react)
        process.spawn(models.fill_up())
        process.started()
        yield models


if __name__ == "__main__":

    async def main() -> None:
        async with ledger(Process("ledger", Config())):
            await stopped()

    run("ledger", main)
