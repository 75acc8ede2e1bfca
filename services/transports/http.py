"""HTTP/1.1 inside our own event loop, for ``rest``, the front door and the admin port.

``HttpServer`` runs an ASGI application with uvicorn's protocol but without its process manners: it takes no
signal (the runtime owns them), never exits the process, logs no life story, and runs no ASGI lifespan.
``guard`` gives a FastAPI application its edge: every error is an RFC 9457 problem document that names the
field, a body is of one media type (JSON) and has a size limit, and a crash is one log entry and a 500.
"""

import asyncio
import contextvars
import errno
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.trace import get_current_span
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import Server

from services.contracts.openapi import PROBLEM
from services.telemetry.fixups import corrected
from services.telemetry.messaging import fail
from services.telemetry.setup import Telemetry, meter_provider
from services.transports.tls import Tls

LIMIT_BYTES = 64 * 1024
LINGER_BYTES = 16 * LIMIT_BYTES
"""How much of a body that is too large is read and thrown away, so that the answer is not lost in a reset."""
IDLE_S = 75
"""A keep-alive connection is closed after that long without a request; clients let go earlier."""
DRAIN_S = 8.0


Refused = Callable[[str], None]
"""Told the reason, a short constant, of each request that made no sense."""

log = logging.getLogger(__name__)


class PortTakenError(OSError): ...


def problem(
    status: int, title: str, detail: str, *, headers: dict[str, str] | None = None, **extra: Any
) -> JSONResponse:
    """A problem document (RFC 9457); ``extra`` are its extension members."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **extra}
    return JSONResponse(body, status, headers=headers, media_type=PROBLEM)


def instrument(app: FastAPI, telemetry: Telemetry, *, exclude: str = "") -> None:
    """SERVER spans and metrics by contrib, but not where ``exclude`` is found in the URL (regular
    expressions, comma-separated)."""
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=corrected(telemetry, "asgi"),
        meter_provider=meter_provider(),
        excluded_urls=exclude,
        exclude_spans=["send", "receive"],
    )


def guard(
    app: FastAPI, refused: Refused, *, limit_bytes: int = LIMIT_BYTES, media_type: str = "application/json"
) -> None:
    """Give ``app`` problem documents for all that goes wrong, and a limit for bodies, which are all of ``media_type``.
    ``refused`` counts."""

    async def on_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return invalid(error, refused)

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            refused(HTTPStatus(error.status_code).phrase.lower())
        return problem(
            error.status_code,
            HTTPStatus(error.status_code).phrase,
            error.detail,
            headers=dict(error.headers or {}),
        )

    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_middleware(_Guard, refused=refused, limit_bytes=limit_bytes, media_type=media_type)


def invalid(error: RequestValidationError, refused: Refused) -> JSONResponse:
    """400 for what is no JSON, 422 for what is the wrong JSON; both name the place."""
    errors = [{"field": _field(each["loc"]), "detail": each["msg"]} for each in error.errors()]
    if any(each["type"] == "json_invalid" for each in error.errors()):
        refused("malformed")
        return problem(400, "Malformed JSON", errors[0]["detail"])
    refused("invalid")
    first = errors[0]
    return problem(422, "Unprocessable Content", f"{first['field']}: {first['detail']}", errors=errors)


def _field(loc: tuple[Any, ...]) -> str:
    inner = loc[1:] if len(loc) > 1 and loc[0] in {"body", "query", "path", "header"} else loc
    return ".".join(str(part) for part in inner) or "body"


class _Guard:
    """Middleware: reads the body, up to its limit, before the application is asked; catches crashes."""

    def __init__(self, app: ASGIApp, refused: Refused, limit_bytes: int, media_type: str) -> None:
        self._app, self._refused, self._limit_bytes, self._media_type = app, refused, limit_bytes, media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        body = await _read(receive, self._limit_bytes)
        if body is None:
            return None
        if len(body) > self._limit_bytes:
            self._refused("oversize")
            detail = f"the body is larger than {self._limit_bytes} bytes"
            response = problem(413, "Content Too Large", detail, headers={"connection": "close"})
            return await response(scope, receive, send)
        if body and _media_type(scope) != self._media_type:
            self._refused("media type")
            response = problem(415, "Unsupported Media Type", f"the body must be {self._media_type}")
            return await response(scope, receive, send)
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        try:
            await self._app(scope, replay, watched)
        except asyncio.CancelledError as error:
            fail(get_current_span(), error)
            raise
        except Exception as error:
            get_current_span().record_exception(error)
            fail(get_current_span(), error)
            log.exception("%s %s failed", scope["method"], scope["path"])
            if begun:
                raise
            await problem(500, "Internal Server Error", "the request could not be carried out")(scope, receive, send)
        return None


def _media_type(scope: Scope) -> str:
    value: bytes = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return value.partition(b";")[0].strip().lower().decode("latin-1")


async def _read(receive: Receive, limit_bytes: int) -> bytes | None:
    """The body; more than ``limit_bytes`` of it if it is too large; None if the client went away."""
    kept, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if len(kept) <= limit_bytes:
            kept += chunk
        if not message.get("more_body", False) or size > LINGER_BYTES:
            return bytes(kept)


class HttpServer:
    """One listening port and one ASGI application. ``start``, then ``drain`` (optional), then ``close``."""

    def __init__(self, *, refused: Refused = lambda _: None) -> None:
        self._refused = refused
        self._server: Server | None = None
        self._clock: asyncio.Task[None] | None = None
        self._draining = False
        self._in_hand = 0
        self._done = asyncio.Event()
        self.port = 0

    async def start(self, app: ASGIApp, host: str, port: int, *, tls: Tls | None = None) -> None:
        """Listen; returns when requests can arrive. ``port`` 0 takes a free one (``self.port``). Raises
        ``PortTakenError``."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise PortTakenError(
                f"port {port} on {host} {'is taken' if taken else f'cannot be had: {error}'}"
            ) from None
        # asyncio sets it only where the socket says that it is TCP, which create_server's does not: without it, the
        # body of every answer waits 40 ms for the acknowledgement of its head (Nagle and delayed ACK)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)  # noqa: FBT003
        self.port = listener.getsockname()[1]
        self._app, self._draining = app, False
        config = Config(
            self._answer,
            http=_protocol(self._refused),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_S,
            reset_contextvars=True,  # a request begins in no one's trace
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
        )
        config.load()
        self._server = Server(config)
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[listener])
        await self._server.on_tick(0)
        self._clock = asyncio.create_task(self._tick(self._server), context=contextvars.Context())

    async def drain(self, grace_s: float = DRAIN_S) -> None:
        """Accept no connection and no request (503 on the connections that are open); return when those in
        hand are answered, or after ``grace_s``."""
        self._draining = True
        if self._server is not None:
            for listener in self._server.servers:
                listener.close()
        try:
            async with asyncio.timeout(grace_s):
                while self._in_hand:
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            log.warning("%d requests were not finished within %g s", self._in_hand, grace_s)

    async def close(self) -> None:
        """Let go of port and connections; requests still in hand are broken off. Safe to call twice."""
        server, self._server = self._server, None
        if server is None:
            return
        self._draining = True
        for listener in server.servers:
            listener.close()
        if self._clock is not None:
            self._clock.cancel()
        for connection in list(server.server_state.connections):
            assert isinstance(connection, HttpToolsProtocol)
            busy = connection.cycle is not None and not connection.cycle.response_complete
            if busy:
                connection.transport.abort()
            else:
                connection.transport.close()
        tasks = list(server.server_state.tasks)
        await asyncio.sleep(0)  # the protocols hear that their connection is gone before their task is cancelled
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *([self._clock] if self._clock else []), return_exceptions=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._draining:
            await _read(receive, 0)
            return await problem(
                503,
                "Service Unavailable",
                "this server is draining; nothing was done",
                headers={"connection": "close", "retry-after": "1"},
                nothing_done=True,
            )(scope, receive, send)
        if not _readable(scope):
            self._refused("malformed")
            await _read(receive, 0)
            return await problem(400, "Bad Request", "the query or a header is not UTF-8")(scope, receive, send)
        self._in_hand += 1
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if self._server is not None:
                raise
        finally:
            self._in_hand -= 1
            self._done.set()
        return None

    @staticmethod
    async def _tick(server: Server) -> None:
        while True:
            await asyncio.sleep(1)
            await server.on_tick(0)  # uvicorn's Date header


def _readable(scope: Scope) -> bool:
    """contrib's ASGI instrumentation raises on bytes that are not UTF-8."""
    try:
        for part in (scope["query_string"], *(value for _, value in scope["headers"])):
            part.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _protocol(refused: Refused) -> type[asyncio.Protocol]:
    """uvicorn's, with a limit for a request's head (llhttp has none) and our form for what is no HTTP."""

    class Protocol(HttpToolsProtocol):
        head_bytes = 0
        in_head = True

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.access_log = False  # uvicorn asks the logger, not its setting

        def on_message_begin(self) -> None:
            self.in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.in_head, self.head_bytes = False, 0
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.in_head:
                self.head_bytes += len(data)
                if self.head_bytes > LIMIT_BYTES:
                    self._refuse(431, f"the request's head is larger than {LIMIT_BYTES} bytes")

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, msg)

        def _refuse(self, status: int, detail: str) -> None:
            refused("malformed" if status == HTTPStatus.BAD_REQUEST else "oversize")
            if self.transport.is_closing():
                return
            response = problem(status, HTTPStatus(status).phrase, detail, headers={"connection": "close"})
            head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
            self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(response.body))
            self.transport.close()

    return Protocol
