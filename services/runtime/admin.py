"""The admin port of every process: /healthz (it lives), /readyz (it can work; else 503 and why), /metrics,
/settings/applied (the live settings in force here)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hmac import compare_digest

from fastapi import APIRouter, FastAPI
from prometheus_client import make_asgi_app
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from services.runtime.config import Config
from services.runtime.front_door import Impossible, explain
from services.runtime.live import Live
from services.telemetry import metrics
from services.transports.http import HttpServer, guard


class _Metrics:
    """An ASGI application as a route: a mount would answer /metrics with a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def authorize(config: Config, authorization: str) -> None:
    """Raise ``Impossible`` unless the request's ``authorization`` has the lab's token: for what changes something."""
    token = config.settings_token.get_secret_value()
    if not token or not compare_digest(authorization.encode(), f"Bearer {token}".encode()):
        raise Impossible(401, "this needs the lab's token: Authorization: Bearer …")


@asynccontextmanager
async def serving(
    config: Config,
    ready: Callable[[], Awaitable[list[str]]],
    service: str,
    live: Live,
    router: APIRouter | None = None,
) -> AsyncIterator[HttpServer]:
    """Serve the admin port within the block; ``router`` adds what only this service has there."""
    app = FastAPI(title=f"{service} admin", openapi_url="/openapi.json", docs_url=None, redoc_url=None)

    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    async def readyz() -> JSONResponse:
        reasons = await ready()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    app.add_api_route("/healthz", healthz)
    app.add_api_route("/readyz", readyz)
    app.add_api_route("/settings/applied", live.as_text)
    if router is not None:
        app.include_router(router)
    app.router.routes.append(Route("/metrics", _Metrics(make_asgi_app())))

    def refused(reason: str) -> None:
        metrics.REFUSED_INPUT.labels(service, "admin", reason).inc()

    explain(app, refused)
    guard(app, refused)
    server = HttpServer()
    await server.start(app, config.host, config.admin_port)
    try:
        yield server
    finally:
        await server.close()
