"""The serving half of ``json_rpc``: what arrives in a body, carried out call by call.

One SERVER span per call, also per call of a batch; what is no call and gets an error nevertheless has one as well. HTTP
says 200 whatever they came to, so that it is these spans, and their metric, that tell.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import structlog
from fastapi import FastAPI, Request, Response
from opentelemetry.trace import Span, get_current_span
from pjrpc import common
from pjrpc.server import AsyncDispatcher, MethodRegistry, exceptions
from pjrpc.server.validators import ValidationError
from pjrpc.server.validators.pydantic import PydanticValidatorFactory
from pydantic_core import from_json, to_json

from services.contracts import openrpc
from services.contracts.openapi import JSON
from services.domain.messages import Command
from services.domain.order import Step
from services.telemetry import conventions as c
from services.telemetry.rpc import Call, RpcSpans, about_order
from services.transports.errors import DeadlineExceeded
from services.transports.http import Refused, guard
from services.transports.ports import Handler

PATH = "/rpc"
SYSTEM = c.RpcSystem.JSONRPC.value
LIMIT_CALLS = 32
"""In one batch. Each has its span and its answer, and thousands of empty ones would fit into a body of 64 KiB."""

log = structlog.get_logger()
logging.getLogger("pjrpc.server").setLevel(logging.WARNING)  # below, it logs what it was sent: names, cards


class LateError(exceptions.TypedError):
    """The caller's deadline has passed (-32000 to -32099 are the implementation's: specification, section 5.1)."""

    CODE = -32001
    MESSAGE = "Deadline exceeded"


def application(methods: "Methods", refused: Refused) -> FastAPI:
    """``methods`` over HTTP, and the document about them."""
    app = FastAPI(openapi_url=None)

    async def rpc(request: Request) -> Response:
        answer = await methods.answer(await request.body())
        return Response(status_code=204) if answer is None else Response(to_json(answer), media_type=JSON)

    async def contract() -> Response:
        return Response(to_json(methods.document), media_type=JSON)

    app.add_api_route(PATH, rpc, methods=["POST"], response_model=None)
    app.add_api_route("/openrpc.json", contract, response_model=None)
    guard(app, refused)
    return app


class Methods:
    """The methods of ``steps``, carried out by ``handler``. ``refused`` counts what made no sense."""

    def __init__(self, steps: list[Step], handler: Handler, spans: RpcSpans, refused: Refused) -> None:
        self._spans, self._refused = spans, refused
        self.document = openrpc.document(steps)
        self._registry = MethodRegistry(PydanticValidatorFactory())
        for command in (command for step in steps for command in (step.do, step.undo) if command is not None):
            self._registry.add_method(_method(command, handler), openrpc.method(command))
        self._registry.add_method(lambda: self.document, "rpc.discover")  # OpenRPC 1.3.2, service discovery method
        # it is given calls one by one and read already: by itself it refuses a batch for one call that is none
        self._dispatcher = AsyncDispatcher[None](json_loader=_as_it_is, json_dumper=_in_words)
        self._dispatcher.add_methods(self._registry)

    async def answer(self, body: bytes) -> Any:
        """The answer to ``body``, to be written as JSON; None where there is none."""
        try:
            sent = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            return self._refuse(exceptions.ParseError(data=str(error)))
        if not isinstance(sent, list):
            return await self._call(sent)
        if flaw := _flaw(sent):
            return self._refuse(exceptions.InvalidRequestError(data=flaw))
        answers = await asyncio.gather(*map(self._call, sent))
        return [answer for answer in answers if answer is not None] or None

    async def _call(self, sent: Any) -> Any:
        if not _is_call(sent):
            return self._refuse(exceptions.InvalidRequestError(data="no object, or its id is no string or integer"))
        # an id of ours: pjrpc takes null for none, and of a call without one it does not say what went wrong
        request: Any = {**sent, "id": 0}
        with self._span(sent.get("method"), sent.get("id")) as call:
            dispatched = await self._dispatcher.dispatch(request, None)
            assert dispatched is not None
            answer: Any = dispatched[0]
            if "error" in answer:
                self._failed(call, answer["error"]["code"], answer["error"]["message"])
        if answer["id"] is None:  # no request at all: that is answered even where nobody has asked to know
            return answer
        return {**answer, "id": sent["id"]} if "id" in sent else None

    def _refuse(self, error: exceptions.TypedError) -> Any:
        with self._span(None, None) as call:
            self._failed(call, error.code, error.message)
        return common.Response(error=error).to_json()

    @contextmanager
    def _span(self, method: Any, request_id: Any) -> Iterator[Call]:
        name = method if isinstance(method, str) else ""
        known = self._registry.get(name) is not None
        with self._spans.server(SYSTEM, name if known else c.RPC_METHOD_OTHER, None) as call:
            describe(call.span, request_id)
            if not known:
                call.span.update_name(SYSTEM)
            if name and not known:
                call.span.set_attribute(c.RPC_METHOD_ORIGINAL, name[:100])
            yield call

    def _failed(self, call: Call, code: int, message: str) -> None:
        call.failed(str(code), message)
        if code not in {exceptions.InternalError.CODE, LateError.CODE}:
            self._refused(message.lower())


def describe(span: Span, request_id: Any) -> None:
    """What the conventions want of a call, of the server's and of the caller's."""
    span.set_attribute(c.JSONRPC_PROTOCOL_VERSION, common.Request.version)
    if request_id is not None:
        span.set_attribute(c.JSONRPC_REQUEST_ID, str(request_id)[:100])


def _method(command: type[Command], handler: Handler) -> Callable[[openrpc.Order], Coroutine[Any, Any, Any]]:
    async def carry_out(order: openrpc.Order) -> Any:
        about_order(order.order_id)
        try:
            return openrpc.answer_to(await handler(command(openrpc.order_from(order))))
        except DeadlineExceeded as error:
            raise LateError(data=str(error)) from None
        except Exception as error:
            get_current_span().record_exception(error)
            log.exception("call_failed", transport="json_rpc", command=command.__name__)
            raise exceptions.InternalError(data=f"{command.__name__} could not be carried out") from None

    return carry_out


def _flaw(batch: list[Any]) -> str:
    """Why none of ``batch`` is carried out; empty where all calls are."""
    if not batch:
        return "an empty batch"
    if len(batch) > LIMIT_CALLS:
        return f"a batch of more than {LIMIT_CALLS} calls"
    ids = [each["id"] for each in batch if _is_call(each) and each.get("id") is not None]
    return "" if len(set(ids)) == len(ids) else "two calls have the same id: nobody could tell their answers apart"


def _is_call(sent: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(sent, dict) and (sent.get("id") is None or type(sent["id"]) in {str, int})


def _as_it_is(sent: Any, **_: Any) -> Any:
    return sent


def _in_words(answer: Any, **_: Any) -> Any:
    """``answer`` with the flaws of its call's params, each with its field."""
    error = answer.get("error", {})
    if isinstance(error.get("data"), ValidationError):
        flaws = error["data"].args
        error["data"] = [{"field": ".".join(map(str, each["loc"])), "detail": each["msg"]} for each in flaws]
    return answer
