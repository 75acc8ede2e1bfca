"""HTTP as REST reads it: a step is a resource, doing it is PUT, taking it back is POST of its verb.

Wire           HTTP/1.1 over TCP, connections kept alive and shared by the calls to a peer; FastAPI, httpx
Contract       OpenAPI 3.1 (services/contracts/openapi.json, and each process serves its own at /openapi.json);
               JSON bodies; errors are problem documents (RFC 9457); a refusal is an answer: 200
Security       none on loopback; https by the peer's address
Trace context  request headers traceparent, tracestate, baggage
Delivery       at most once per request; one that dies on a kept-alive connection is sent once more, which both
               methods allow here: every step is idempotent by order id (RFC 9110, 9.2.2)
Ordering       none between requests; serial per connection
Back-pressure  none in the protocol: as many connections as calls; the server's lanes let requests wait
Peer down      Unavailable at once (connection refused); in the middle of a call ConnectionBroken
Timeouts       timeout_s to connect and again to read (1.1 x timeout_s in all); the server never learns of it and
               finishes the work for nobody
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor, RequestInfo
from opentelemetry.semconv._incubating.attributes.url_attributes import URL_TEMPLATE
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_RESEND_COUNT
from opentelemetry.trace import Span
from pydantic import TypeAdapter, ValidationError

from services.contracts import openapi
from services.contracts.openapi import JSON, Answer
from services.domain.messages import Command, Event, Order, Refusal, type_name
from services.domain.order import STEP_OF, STEPS, Step
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.fixups import corrected
from services.telemetry.rpc import about_order
from services.telemetry.setup import meter_provider
from services.transports import cloudevents
from services.transports.errors import (
    ConnectionBroken,
    DeadlineExceeded,
    PeerFailed,
    TransportError,
    Unavailable,
    Undecodable,
)
from services.transports.http import HttpServer, Refused, guard, instrument
from services.transports.ports import Handler, Wiring

KEEP_ALIVE_S = 30
"""An idle connection is given up before the server gives it up (``http.IDLE_S``)."""

log = logging.getLogger(__name__)

_COMMAND = TypeAdapter(Command)
_ANSWER = TypeAdapter(Answer)


def resource(command: type[Command]) -> tuple[str, str]:
    """The method and the path of a command: ``PUT /orders/{order_id}/payment``."""
    step = STEP_OF[command]
    path = f"/orders/{{order_id}}/{step.name}"
    return ("PUT", path) if command is step.do else ("POST", f"{path}/{type_name(command).partition('.')[0]}")


class _LostError(ConnectionBroken):
    """On a connection used before: perhaps the server had closed it and never saw the request."""


class _About(NamedTuple):
    """What contrib's span is told of a request."""

    template: str
    order_id: str
    resend: bool


class Rest:
    name = "rest"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._server = HttpServer(refused=self._refused)
        self._native: httpx.AsyncClient | None = None

    @property
    def native(self) -> httpx.AsyncClient:
        if self._native is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEP_ALIVE_S)
            self._native = httpx.AsyncClient(limits=limits, trust_env=False)
            HTTPXClientInstrumentor.instrument_client(
                self._native,
                tracer_provider=corrected(self._wiring.telemetry, "httpx"),
                meter_provider=meter_provider(),
                request_hook=_describe,
            )
        return self._native

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        try:
            async with asyncio.timeout(timeout_s * 1.1):
                try:
                    response = await self._send(peer, command, timeout_s)
                except _LostError as lost:
                    try:
                        response = await self._send(peer, command, timeout_s, resend=True)
                    except Unavailable as error:  # now; but what of the first time?
                        raise ConnectionBroken(f"{lost}; then {error}") from error
        except TimeoutError:
            raise DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s") from None
        return _event(peer, command, response.content)

    async def _send(self, peer: str, command: Command, timeout_s: float, *, resend: bool = False) -> httpx.Response:
        address = self._wiring.peers.get(peer, {}).get(self.name)
        if address is None:
            raise Unavailable(f"{peer} has no address for {self.name}")
        order_id = command.order.order_id
        method, template = resource(type(command))
        fresh = False

        async def watch(event: str, _: Any) -> None:
            nonlocal fresh
            fresh = fresh or event == "connection.connect_tcp.started"

        try:
            response = await self.native.request(
                method,
                address + template.format(order_id=quote(order_id, safe="")),
                content=cloudevents.dumps(command),
                headers={"content-type": JSON},
                timeout=timeout_s,
                extensions={"trace": watch, "lab": _About(template, order_id, resend)},
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unavailable(f"{peer} cannot be reached: {error or type(error).__name__}") from error
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s") from error
        except httpx.HTTPError as error:
            kind = ConnectionBroken if fresh else _LostError
            raise kind(f"{peer}: {error or type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise _failure(peer, response)
        return response

    async def serve(self, service: str, handler: Handler) -> None:
        app = application([step for step in STEPS if step.service == service], handler, self._refused)
        instrument(app, self._wiring.telemetry, exclude=r"/openapi\.json$,/docs$")
        await self._server.start(app, self._wiring.host, self._wiring.listen[self.name])

    async def drain(self) -> None:
        await self._server.drain()

    async def close(self) -> None:
        await self._server.close()
        if self._native is not None:
            await self._native.aclose()

    def _refused(self, reason: str) -> None:
        metrics.REFUSED_INPUT.labels(self._wiring.service, self.name, reason).inc()
        log.info("refused a request: %s", reason)


def application(steps: Iterable[Step], handler: Handler, refused: Refused) -> FastAPI:
    """The routes of ``steps``, from the domain's table."""
    app = FastAPI(title="Antiphon: the participants of an order", version="1", redoc_url=None)
    for step in steps:
        for command in filter(None, (step.do, step.undo)):
            _route(app, step, command, handler)
    openapi.complete(app)
    guard(app, refused)
    return app


def _route(app: FastAPI, step: Step, command: type[Command], handler: Handler) -> None:
    method, path = resource(command)
    events = (step.done, step.refused) if command is step.do else (step.undone,)

    async def answer(request: Request, order_id: str) -> Response:
        about_order(order_id)
        event = await handler(command(_order(await request.body(), order_id)))
        reason = event.reason if isinstance(event, Refusal) else None
        answer = Answer(type=type_name(type(event)), order=event.order, reason=reason)
        return Response(_ANSWER.dump_json(answer, exclude_none=True), media_type=JSON)

    app.add_api_route(
        path,
        answer,
        methods=[method],
        name=command.__name__,
        operation_id=command.__name__,
        tags=[step.service],
        response_model=None,
        summary=type_name(command).replace(".", " ").capitalize(),
        responses=openapi.responses(event for event in events if event),
        openapi_extra=openapi.request_body(),
    )


def _order(body: bytes, order_id: str) -> Order:
    try:
        order = _COMMAND.validate_json(body, strict=True).order
    except ValidationError as error:
        raise RequestValidationError(
            error.errors(include_url=False, include_context=False, include_input=False)
        ) from None
    if order.order_id != order_id:
        wrong = {"type": "value_error", "loc": ("order", "order_id"), "msg": "is not the order of the path"}
        raise RequestValidationError([wrong])
    return order


def _event(peer: str, command: Command, body: bytes) -> Event:
    try:
        event = cloudevents.loads(_ANSWER.validate_json(body).type, body)
    except (ValidationError, Undecodable) as error:
        raise PeerFailed(f"{peer} answered what is no event: {str(error).splitlines()[0]}") from None
    if not isinstance(event, Event) or STEP_OF.get(type(event)) is not STEP_OF[type(command)]:
        raise PeerFailed(f"{peer} answered {type_name(type(command))} with {type_name(type(event))}")
    return event


def _failure(peer: str, response: httpx.Response) -> TransportError:
    """Our own server says it when it drains and did nothing; a 503 of anyone between us says nothing of the kind."""
    problem: Any = None
    with contextlib.suppress(ValueError):
        problem = response.json()
    if not isinstance(problem, dict):
        problem = {}
    kind = Unavailable if problem.get("nothing_done") is True else PeerFailed
    return kind(f"{peer} answered {response.status_code}: {str(problem.get('detail', response.reason_phrase))[:200]}")


async def _describe(span: Span, request: RequestInfo) -> None:
    about = (request.extensions or {}).get("lab")
    if isinstance(about, _About):
        span.update_name(f"{request.method.decode()} {about.template}")
        span.set_attributes({URL_TEMPLATE: about.template, c.LAB_ORDER_ID: about.order_id})
        if about.resend:
            span.set_attribute(HTTP_REQUEST_RESEND_COUNT, 1)
