"""Apache Thrift: the contract's methods, compact on the wire, with headers beside the message.

Wire           THeader frames (compact protocol) over TCP, one call at a time per connection, and as many connections
               as calls: Thrift's exchange is half duplex (thrift-rpc.md), and its own servers take the calls of a
               connection one by one, so that several on one would wait for the slowest. Framed compact and framed
               binary are understood too, and answered in kind; unframed clients are hung up on
Contract       services/contracts/antiphon.thrift; a refusal is an answer; the exception Failed is declared, what has no
               method or cannot be read gets Thrift's own TApplicationException
Security       none; LAB_TLS_* does not reach it, though the library has a TLS socket
Trace context  info headers of the frame: traceparent, tracestate, baggage; the framed protocols have no place for them
Delivery       at most once per frame; a call that dies on a kept connection is sent once more, which every method
               allows: it is idempotent by order id
Ordering       none between calls; serial per connection
Back-pressure  none in the protocol: as many connections as calls; the server's lanes let calls wait, and the next frame
               of a connection is not read before the last is answered. 64 KiB for a request, more is hung up on unread
Peer down      Unavailable at once (connection refused, or UNAVAILABLE of a peer that stops); in the middle of a call
               ConnectionBroken. A server that stops answers what it has in hand with the header connection: close,
               whose caller then begins anew, and refuses what still comes
Timeouts       timeout_s in all, on the caller's side alone: Thrift has no deadline on the wire and no way to cancel, so
               the server never learns of it and finishes the work for nobody
"""

import itertools
from typing import Any

import structlog
from thrift.Thrift import TApplicationException  # type: ignore[import-untyped]

from services.contracts.generated.antiphon_thrift.ttypes import Code, Failed
from services.contracts.thrift_codec import METHODS, Method, command_from, command_to, event_from, event_to
from services.domain.messages import Command, Event
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.rpc import Call, RpcSpans, about_order
from services.transports import theader
from services.transports.errors import PeerFailed, Unavailable
from services.transports.frame_client import FrameClient
from services.transports.frames import FrameServer, OversizeError
from services.transports.ports import Handler, Wiring
from services.transports.theader import CALL, EXCEPTION, LIMIT_BYTES, REPLY, Malformed, Message

ANSWER_LIMIT_BYTES = 4 * LIMIT_BYTES
"""An answer holds the order that it is about, and a reason."""
LAST = {"connection": "close"}
"""The header of an answer after which the server takes no more calls. It is HTTP's; Thrift has none for that."""
SYSTEM = c.RpcSystem.APACHE_THRIFT.value
_TYPES: dict[int, str] = {
    number: word for word, number in vars(TApplicationException).items() if isinstance(number, int)
}
_CODES: dict[int, str] = {number: word for word, number in vars(Code).items() if isinstance(number, int)}

log = structlog.get_logger()


class _Stopping(Unavailable):
    """The peer answered that it is about to stop and did nothing."""


class Thrift:
    name = "thrift"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._spans = RpcSpans(wiring.service, wiring.telemetry.tracer)
        self._client = FrameClient(ANSWER_LIMIT_BYTES)
        self._seqids = itertools.count(1)
        self._server: FrameServer | None = None

    # --- the caller

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        method, carrier = METHODS[type(command)], dict[str, str]()
        address = self._wiring.peers.get(peer, {}).get(self.name)
        with self._spans.client(SYSTEM, method.full_name, carrier, address or peer) as call:
            about_order(command.order.order_id)
            if address is None:
                raise Unavailable(f"{peer} has no address for {self.name}")
            seqid = next(self._seqids) & 0x7FFF_FFFF
            request = theader.call(method.name, seqid, command_to(command), carrier)
            try:
                outcome = await self._client.request(
                    peer, address, request, lambda frame: _read(frame, method, seqid), timeout_s=timeout_s
                )
            except _Stopping as error:
                call.failed(_CODES[Code.UNAVAILABLE], str(error))
                raise
            except OversizeError as error:
                outcome = TApplicationException(TApplicationException.PROTOCOL_ERROR, str(error))
            except Malformed as error:
                outcome = TApplicationException(error.type, str(error))
            if isinstance(outcome, Failed | TApplicationException):
                code, detail = _word(outcome), str(outcome.message)[:200]
                call.failed(code, detail)
                raise PeerFailed(f"{peer} answered {code}: {detail}")
            try:
                return event_from(outcome, command)
            except ValueError as error:
                raise PeerFailed(f"{peer} answered what is no event: {error}") from None

    # --- the server

    async def serve(self, service: str, handler: Handler) -> None:
        methods = {method.name: method for method in METHODS.values() if method.service == service.capitalize()}

        async def answer(frame: bytes) -> bytes:
            try:
                message = Message(frame)
            except Malformed as error:
                self._refuse("malformed", error)
                return error.answer
            if message.kind != CALL:
                self._refuse("malformed", f"a message of kind {message.kind}")
                return b""
            method = methods.get(message.name)
            if method is None:
                self._refuse("unknown_method", repr(message.name[:60]))
                return message.exception(TApplicationException.UNKNOWN_METHOD, f"{service} has no such method")
            if server.draining:
                return self._reply(message, _failed(method, Code.UNAVAILABLE, "about to stop; nothing was done"))
            with self._spans.server(SYSTEM, method.full_name, message.headers) as call:
                return await self._carry_out(call, message, method, handler)

        server = self._server = FrameServer(answer, self._refuse, LIMIT_BYTES)
        await server.start(self._wiring.host, self._wiring.listen[self.name])

    async def _carry_out(self, call: Call, message: Message, method: Method, handler: Handler) -> bytes:
        """The answer. What the caller did wrong is no error of this span."""
        try:
            command = command_from(method, message.read(method.arguments()))
        except Malformed as error:
            self._refuse("protocol_error", error)
            call.answered("PROTOCOL_ERROR")
            return message.exception(TApplicationException.PROTOCOL_ERROR, "the arguments cannot be read")
        except ValueError as error:
            self._refuse("invalid_argument", error)
            call.answered("INVALID_ARGUMENT")
            return self._reply(message, _failed(method, Code.INVALID_ARGUMENT, str(error)))
        about_order(command.order.order_id)
        try:
            return self._reply(message, method.result(success=event_to(await handler(command))))
        except Exception as error:
            failure = f"{method.command.__name__} could not be carried out"
            call.span.record_exception(error)
            call.failed("INTERNAL", failure)
            log.exception("call_failed", transport=self.name, command=method.command.__name__)
            return self._reply(message, _failed(method, Code.INTERNAL, failure))

    def _reply(self, message: Message, result: Any) -> bytes:
        draining = self._server is not None and self._server.draining
        return message.answer(REPLY, result, LAST if draining else {})

    def _refuse(self, reason: str, detail: object) -> None:
        metrics.REFUSED_INPUT.labels(self._wiring.service, self.name, reason).inc()
        log.info("call_refused", transport=self.name, reason=reason, detail=str(detail))

    async def drain(self) -> None:
        if self._server is not None:
            await self._server.drain()

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
        await self._client.close()


def _read(frame: bytes, method: Method, seqid: int) -> tuple[Any, bool]:
    """What answers call ``seqid`` of ``method``: an Event, a Failed or a TApplicationException; and whether the server
    takes more on this connection. Raises ``Malformed`` for what is no answer."""
    message = Message(frame, limit_bytes=ANSWER_LIMIT_BYTES)
    return _outcome(message, method, seqid), not message.headers.items() >= LAST.items()


def _outcome(message: Message, method: Method, seqid: int) -> Any:
    if message.seqid != seqid:
        raise Malformed(f"this answers call {message.seqid}", TApplicationException.BAD_SEQUENCE_ID)
    if message.kind == EXCEPTION:
        return message.read(TApplicationException())
    if message.kind != REPLY:
        raise Malformed(f"a message of kind {message.kind}", TApplicationException.INVALID_MESSAGE_TYPE)
    if message.name != method.name:
        raise Malformed(f"this answers {message.name[:60]!r}", TApplicationException.WRONG_METHOD_NAME)
    result = message.read(method.result())
    if result.success is None and result.failed is None:
        return TApplicationException(TApplicationException.MISSING_RESULT, "neither an event nor a failure")
    if result.failed is not None and result.failed.code == Code.UNAVAILABLE:
        raise _Stopping(f"{method.service} answered UNAVAILABLE: {result.failed.message}")
    return result.success or result.failed


def _failed(method: Method, code: int, detail: str) -> Any:
    return method.result(failed=Failed(code, detail))


def _word(failure: Any) -> str:
    """``rpc.response.status_code``: the declared exception's code, or the type of Thrift's own."""
    if isinstance(failure, Failed):
        return _CODES.get(failure.code, "UNKNOWN")
    return _TYPES.get(failure.type, "UNKNOWN")
