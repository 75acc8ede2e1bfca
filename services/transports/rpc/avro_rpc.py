"""Avro IPC: the bytes carry no names and no types; the two sides agree on a protocol by its fingerprint, then call.

Wire           HTTP/1.1, POST to /, avro/binary, connections kept alive; FastAPI and httpx, fastavro and avro. In the
               body buffers behind their lengths, in these the handshake and the call. An error of Avro's is HTTP's 200;
               only what is no Avro gets 400, 413 or 415
Contract       services/contracts/antiphon.avpr. Avro the format is its records, which the message format avro has, too;
               Avro the RPC is the rest: fingerprints, handshake, call, errors, frames. Protocols that differ are
               resolved, else refused with what does not fit. A refusal is an answer; errors are Failed, declared, or a
               string, Avro's system error. Status: OK, SYSTEM_ERROR or Failed's code (our words: Avro has none)
Security       off; https by setting (LAB_TLS_*): the caller verifies the peer's certificate, and shows none itself
Trace context  request metadata traceparent, tracestate, baggage, a map of bytes; no HTTP spans beside the RPC's
Delivery       at most once per request; one that dies on a kept-alive connection is sent once more, which every step
               allows: it is idempotent by order id. One whose protocol the peer does not know comes twice, and is read
               the second time
Ordering       none between requests; serial per connection
Back-pressure  none in the protocol: as many connections as calls; the server's lanes let requests wait
Peer down      Unavailable at once (connection refused); in the middle of a call ConnectionBroken
Timeouts       timeout_s to connect and again to read (1.1 x timeout_s in all, a repeated handshake included); the
               server never learns of it and finishes the work for nobody
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from fastapi import FastAPI, Request, Response

from services.contracts.avro import PROTOCOL, command_from, command_to, event_from, event_to
from services.domain.messages import Command, Event, type_name
from services.domain.order import STEPS
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.rpc import Call, RpcSpans, about_order
from services.transports.errors import DeadlineExceeded, PeerFailed
from services.transports.http import HttpServer, guard, problem
from services.transports.http_client import HttpClient, failure
from services.transports.ports import Handler, Wiring
from services.transports.rpc import avro_ipc as ipc

SYSTEM = c.RpcSystem.AVRO_IPC.value
MEDIA_TYPE = "avro/binary"
OK, SYSTEM_ERROR, INVALID_ARGUMENT, INTERNAL = "OK", "SYSTEM_ERROR", "INVALID_ARGUMENT", "INTERNAL"

log = structlog.get_logger()


def message(command: type[Command]) -> str:
    """A command's name in the protocol: ``charge``."""
    return type_name(command).partition(".")[0]


def method(command: type[Command]) -> str:
    """The same, in full: ``antiphon.v1.Participants/charge``."""
    return f"{PROTOCOL.fullname}/{message(command)}"


class AvroRpc:
    name = "avro_rpc"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._spans = RpcSpans(wiring.service, wiring.telemetry.tracer)
        self._server = HttpServer(refused=self._refused)
        self._clients = ipc.Clients()
        self._client = HttpClient(self.name, wiring, spans=False)
        self._spoken: dict[str, ipc.Protocol] = {}

    @property
    def native(self) -> httpx.AsyncClient:
        return self._client.native

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        metadata: dict[str, str] = {}
        at = urlsplit(self._client.address(peer)).netloc
        with self._spans.client(SYSTEM, method(type(command)), metadata, at) as call:
            about_order(command.order.order_id)
            try:
                async with asyncio.timeout(timeout_s * 1.1):
                    answer = await self._ask(peer, command, metadata, timeout_s)
            except TimeoutError:
                raise DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s") from None
            if answer.error is not None:
                raise PeerFailed(f"{peer} answered {_told(call, answer.error)}")
            call.answered(OK)
            try:
                return event_from(answer.response, command)
            except ValueError as error:
                raise PeerFailed(f"{peer} answered what is no event: {error}") from None

    async def _ask(self, peer: str, command: Command, metadata: dict[str, str], timeout_s: float) -> ipc.Answer:
        name, parameters = message(type(command)), {"command": command_to(command)}
        for introduce in (False, True):
            server = self._spoken.get(peer, ipc.OURS)
            response = await self._client.request(
                peer,
                "POST",
                "/",
                ipc.request(server, name, metadata, parameters, introduce=introduce),
                {"content-type": MEDIA_TYPE},
                timeout_s=timeout_s,
                template="/",
                order_id=command.order.order_id,
            )
            if response.status_code != httpx.codes.OK:
                raise failure(peer, response)
            try:
                answer = ipc.answer(server, name, response.content)
            except ValueError as error:
                raise PeerFailed(f"{peer} answered what makes no sense: {error}") from None
            self._spoken[peer] = answer.server
            if answer.complete:
                return answer
        raise PeerFailed(f"{peer} does not accept our protocol")

    async def serve(self, service: str, handler: Handler) -> None:
        steps = [step for step in STEPS if step.service == service]
        commands = {message(command): command for step in steps for command in (step.do, step.undo) if command}
        app = FastAPI(openapi_url=None)
        app.add_route("/", self._answer(commands, handler), methods=["POST"])
        guard(app, self._refused, media_type=MEDIA_TYPE)
        wiring = self._wiring
        await self._server.start(app, wiring.host, wiring.listen[self.name], tls=wiring.tls)

    def _answer(self, commands: dict[str, type[Command]], handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                opened = self._clients.open(await request.body())
            except ValueError as error:
                self._refused("malformed", error)
                return problem(400, "Malformed Avro", str(error))
            said = opened.handshake
            if opened.client is not None:
                said += await self._carry_out(opened.client, opened.call, commands, handler)
            return Response(ipc.frame(said), media_type=MEDIA_TYPE)

        return answer

    async def _carry_out(
        self, client: ipc.Protocol, call_: bytes, commands: dict[str, type[Command]], handler: Handler
    ) -> bytes:
        """The answer to a call, but for its handshake."""
        try:
            name, metadata, parameters = ipc.called(call_)
        except ValueError as error:
            self._refused("malformed", error)
            return ipc.system_error(str(error))
        if not name:  # a ping: only the handshake was wanted
            return b""
        command = commands.get(name)
        with self._spans.server(SYSTEM, method(command) if command else c.RPC_METHOD_OTHER, metadata) as call:
            if command is None:
                call.span.update_name(SYSTEM)
                call.span.set_attribute(c.RPC_METHOD_ORIGINAL, name[:100])
                return self._system_error(call, "unknown message", f"unknown message {name[:60]!r}")
            try:
                asked = command_from(client.read(name, "request", parameters)["command"], command)
            except ipc.IncompatibleError as error:
                detail = f"your protocol does not resolve to ours: {error}"
                return self._system_error(call, "incompatible", detail)
            except ValueError as error:
                self._refused("invalid", error)
                return _failed(call, name, INVALID_ARGUMENT, str(error))
            about_order(asked.order.order_id)
            try:
                event = await handler(asked)
            except Exception as error:
                call.span.record_exception(error)
                log.exception("call_failed", transport=self.name, command=command.__name__)
                return _failed(call, name, INTERNAL, f"{command.__name__} could not be carried out")
            call.answered(OK)
            return ipc.response(name, event_to(event))

    def _system_error(self, call: Call, reason: str, detail: str) -> bytes:
        self._refused(reason, detail)
        call.failed(SYSTEM_ERROR, detail)
        return ipc.system_error(detail)

    async def drain(self) -> None:
        await self._server.drain()

    async def close(self) -> None:
        await self._server.close()
        await self._client.close()

    def _refused(self, reason: str, detail: object = None) -> None:
        metrics.REFUSED_INPUT.labels(self._wiring.service, self.name, reason).inc()
        log.info("call_refused", transport=self.name, reason=reason, detail=detail and str(detail))


def _failed(call: Call, name: str, code: str, detail: str) -> bytes:
    call.failed(code, detail)
    return ipc.declared_error(name, {"code": code, "message": detail})


def _told(call: Call, error: Any) -> str:
    """The error that a peer answered with, in one line; ``call`` is told, too."""
    code, detail = (SYSTEM_ERROR, error) if isinstance(error, str) else (error["code"], error["message"])
    call.failed(code if code in {SYSTEM_ERROR, INVALID_ARGUMENT} else INTERNAL, detail)  # a label: few values
    return f"{code}: {detail}"[:200]
