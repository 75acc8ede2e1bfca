"""JSON-RPC 2.0: a call is a JSON object, and HTTP carries it without knowing how it ends.

Wire           HTTP/1.1 POST to /rpc, connections kept alive and shared by the calls to a peer; pjrpc over FastAPI
               and httpx. An array of up to 32 calls is a batch; a call without an id is a notification
Contract       OpenRPC 1.3.2 (services/contracts/openrpc.json; each process serves its own at /openrpc.json and as
               rpc.discover); JSON bodies; the protocol's errors, -32700 to -32603, under HTTP status 200; 204 where
               nothing is answered; a refusal is an answer
Security       off; https by setting (LAB_TLS_*): the caller verifies the peer's certificate, and shows none itself
Trace context  HTTP's request headers traceparent, tracestate, baggage: the protocol has no place for it, so that all
               calls of a batch share one
Delivery       at most once per request; one that dies on a kept-alive connection is sent once more, which is harmless
               here: every step is idempotent by order id. What became of a notification nobody is told
Ordering       none, between requests or within a batch
Back-pressure  none in the protocol: as many connections as calls; the server's lanes let calls wait
Peer down      Unavailable at once (connection refused); in the middle of a call ConnectionBroken
Timeouts       timeout_s to connect and again to read (1.1 x timeout_s in all); the server never learns of it and
               finishes the work for nobody
"""

from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from pjrpc.common import Request, Response
from pjrpc.common.generators import sequential
from pydantic_core import from_json, to_json

from services.contracts import openrpc
from services.contracts.events import answers
from services.contracts.openapi import JSON
from services.domain.messages import Command, Event, type_name
from services.domain.order import STEPS
from services.telemetry import metrics
from services.telemetry.rpc import Call, RpcSpans, about_order
from services.transports import cloudevents
from services.transports.errors import DeadlineExceeded, PeerFailed, Undecodable
from services.transports.http import HttpServer, instrument
from services.transports.http_client import HttpClient, failure
from services.transports.ports import Handler, Wiring
from services.transports.rpc.json_rpc_server import PATH, SYSTEM, LateError, Methods, application, describe

log = structlog.get_logger()


class JsonRpc:
    name = "json_rpc"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._server = HttpServer(refused=self._refused)
        self._client = HttpClient(self.name, wiring)
        self._spans = RpcSpans(wiring.service, wiring.telemetry.tracer)
        self._ids = sequential()

    @property
    def native(self) -> httpx.AsyncClient:
        return self._client.native

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        order_id = command.order.order_id
        params: Any = {"order": command.order}
        request = Request(openrpc.method(type(command)), params, next(self._ids))
        at = urlsplit(self._client.address(peer)).netloc
        with self._spans.client(SYSTEM, request.method, {}, at) as call:
            about_order(order_id)
            describe(call.span, request.id)
            response = await self._client.request(
                peer,
                "POST",
                PATH,
                to_json(request.to_json()),
                {"content-type": JSON},
                timeout_s=timeout_s,
                template=PATH,
                order_id=order_id,
            )
            if response.status_code != httpx.codes.OK:
                raise failure(peer, response)
            return answered(peer, command, request.id, response.content, call=call)

    async def serve(self, service: str, handler: Handler) -> None:
        steps = [step for step in STEPS if step.service == service]
        app = application(Methods(steps, handler, self._spans, self._refused), self._refused)
        instrument(app, self._wiring.telemetry, exclude=r"/openrpc\.json$")
        wiring = self._wiring
        await self._server.start(app, wiring.host, wiring.listen[self.name], tls=wiring.tls)

    async def drain(self) -> None:
        await self._server.drain()

    async def close(self) -> None:
        await self._server.close()
        await self._client.close()

    def _refused(self, reason: str) -> None:
        metrics.REFUSED_INPUT.labels(self._wiring.service, self.name, reason).inc()
        log.info("call_refused", transport=self.name, reason=reason)


def answered(peer: str, command: Command, request_id: Any, body: bytes, *, call: Call) -> Event:
    """The event in ``body``. An error there is told to ``call``: HTTP knows nothing of it. Raises ``PeerFailed``."""
    try:
        answer = Response.from_json(from_json(body, allow_inf_nan=False))
    except (ValueError, AssertionError) as error:  # it asserts that there is no result beside an error
        raise PeerFailed(f"{peer} answered what is no JSON-RPC: {str(error)[:200]}") from None
    if answer.error:
        code = str(answer.error.code)
        call.failed(code, answer.error.message)
        kind = DeadlineExceeded if answer.error.code == LateError.CODE else PeerFailed
        raise kind(f"{peer} answered {code} {answer.error.message}: {answer.error.data}"[:300])
    if answer.id != request_id:
        raise PeerFailed(f"{peer} answered another call")
    name = answer.result.get("type") if isinstance(answer.result, dict) else None
    try:
        event = cloudevents.loads(str(name), to_json(answer.result))
    except Undecodable as error:
        raise PeerFailed(f"{peer} answered what is no event: {error}") from None
    if not isinstance(event, Event) or not answers(type_name(type(event)), command):
        raise PeerFailed(f"{peer} answered {type_name(type(command))} with {type_name(type(event))}")
    return event
