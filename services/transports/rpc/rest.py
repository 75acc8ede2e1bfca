"""HTTP as REST reads it: a step is a resource, doing it is PUT, taking it back is POST of its verb.

Wire           HTTP/1.1 over TCP, connections kept alive and shared by the calls to a peer; FastAPI, httpx
Contract       OpenAPI 3.1 (services/contracts/openapi.json, and each process serves its own at /openapi.json);
               JSON bodies; errors are problem documents (RFC 9457); a refusal is an answer: 200
Security       off; https by setting (LAB_TLS_*): the caller verifies the peer's certificate, and shows none itself
Trace context  request headers traceparent, tracestate, baggage
Delivery       at most once per request; one that dies on a kept-alive connection is sent once more, which both
               methods allow here: every step is idempotent by order id (RFC 9110, 9.2.2)
Ordering       none between requests; serial per connection
Back-pressure  none in the protocol: as many connections as calls; the server's lanes let requests wait
Peer down      Unavailable at once (connection refused); in the middle of a call ConnectionBroken
Timeouts       timeout_s to connect and again to read (1.1 x timeout_s in all); the server never learns of it and
               finishes the work for nobody
"""

from collections.abc import Iterable
from urllib.parse import quote

import httpx
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from services.contracts import openapi
from services.contracts.events import answers
from services.contracts.openapi import JSON, Answer
from services.contracts.validity import check
from services.domain.messages import Command, Event, Order, Refusal, type_name
from services.domain.order import STEP_OF, STEPS, Step
from services.telemetry import metrics
from services.telemetry.rpc import about_order
from services.transports import cloudevents
from services.transports.errors import DeadlineExceeded, PeerFailed, Undecodable
from services.transports.http import HttpServer, Refused, guard, instrument, problem
from services.transports.http_client import HttpClient, failure
from services.transports.ports import Handler, Wiring

log = structlog.get_logger()

_COMMAND = TypeAdapter(Command)
_ANSWER = TypeAdapter(Answer)


def resource(command: type[Command]) -> tuple[str, str]:
    """The method and the path of a command: ``PUT /orders/{order_id}/payment``."""
    step = STEP_OF[command]
    path = f"/orders/{{order_id}}/{step.name}"
    return ("PUT", path) if command is step.do else ("POST", f"{path}/{type_name(command).partition('.')[0]}")


class Rest:
    name = "rest"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._server = HttpServer(refused=self._refused)
        self._client = HttpClient(self.name, wiring)

    @property
    def native(self) -> httpx.AsyncClient:
        return self._client.native

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        order_id = command.order.order_id
        method, template = resource(type(command))
        response = await self._client.request(
            peer,
            method,
            template.format(order_id=quote(order_id, safe="")),
            cloudevents.dumps(command),
            {"content-type": JSON},
            timeout_s=timeout_s,
            template=template,
            order_id=order_id,
        )
        if response.status_code != httpx.codes.OK:
            raise failure(peer, response)
        return _event(peer, command, response.content)

    async def serve(self, service: str, handler: Handler) -> None:
        app = application([step for step in STEPS if step.service == service], handler, self._refused)
        instrument(app, self._wiring.telemetry, exclude=r"/openapi\.json$,/docs$")
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


def application(steps: Iterable[Step], handler: Handler, refused: Refused) -> FastAPI:
    """The routes of ``steps``, from the domain's table."""
    app = FastAPI(title="Antiphon: the participants of an order", version="1", redoc_url=None)
    for step in steps:
        for command in filter(None, (step.do, step.undo)):
            _route(app, step, command, handler)
    openapi.complete(app)
    app.add_exception_handler(DeadlineExceeded, _late)
    guard(app, refused)
    return app


async def _late(_: Request, error: Exception) -> Response:
    return problem(504, "Gateway Timeout", str(error))


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
        raise _wrong("order.order_id", "is not the order of the path")
    try:
        check(order)
    except ValueError as error:
        raise _wrong(*str(error).split(": ", 1)) from None
    return order


def _wrong(field: str, detail: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": tuple(field.split(".")), "msg": detail}])


def _event(peer: str, command: Command, body: bytes) -> Event:
    try:
        event = cloudevents.loads(_ANSWER.validate_json(body).type, body)
    except (ValidationError, Undecodable) as error:
        raise PeerFailed(f"{peer} answered what is no event: {str(error).splitlines()[0]}") from None
    if not isinstance(event, Event) or not answers(type_name(type(event)), command):
        raise PeerFailed(f"{peer} answered {type_name(type(command))} with {type_name(type(event))}")
    return event
