"""gRPC: a method per command, binary, over one connection per peer.

Wire           HTTP/2 over TCP, one channel per peer shared by all calls to it; grpc.aio
Contract       services/contracts/antiphon.proto (Protobuf); a refusal is an answer: OK
Security       off; TLS by setting (LAB_TLS_*): the caller verifies the peer's certificate, and shows none itself
Trace context  call metadata traceparent, tracestate, baggage
Delivery       at most once per call; the library sends again only what never left or the server says it never saw
Ordering       none between calls: they are streams of one connection
Back-pressure  HTTP/2 flow control per stream; the server's lanes let calls wait
Peer down      Unavailable at once (wait_for_ready is off), reconnecting every 0.1 to 1 s; in the middle of a call
               ConnectionBroken
Timeouts       timeout_s is the deadline, which travels with the call: when it passes, the server's handler is
               cancelled too
"""

import asyncio
import contextvars
import errno
import logging
import os
from typing import Any, NoReturn, cast

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we never fork; its handlers warn in those who do
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the C core writes to stderr past every logger

import grpc
import structlog
from google.protobuf.message import DecodeError
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor
from opentelemetry.trace import Span, get_current_span
from opentelemetry.util.types import AttributeValue

from services.contracts.generated import antiphon_pb2 as pb
from services.contracts.generated import antiphon_pb2_grpc as stubs
from services.contracts.protobuf import event_from, event_to, order_from, order_to
from services.domain.messages import Command, Event, type_name
from services.domain.order import STEP_OF, STEPS
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.fixups import corrected
from services.telemetry.rpc import about_order
from services.transports.errors import (
    ConnectionBroken,
    DeadlineExceeded,
    PeerFailed,
    TransportError,
    Unavailable,
)
from services.transports.ports import Handler, Wiring

LIMIT_BYTES = 64 * 1024
DRAIN_S = 8.0
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # also the time that one attempt to connect has
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)
_SERVER = (
    ("grpc.so_reuseport", 0),  # else a second process would share the port in silence
    ("grpc.max_receive_message_length", 16 * LIMIT_BYTES),  # beyond it the core refuses, and nobody counts
)
_NOT_SENT = ("failed to connect to all addresses", "DNS resolution failed", "name resolution")
"""How the details of UNAVAILABLE begin where no connection came about; gRPC has no code for the difference."""

log = structlog.get_logger()
logging.getLogger("grpc._cython.cygrpc").addFilter(  # it logs calls that a stopping server breaks off as errors
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
)


def method(command: type[Command]) -> tuple[str, str]:
    """A command's service and method in the contract: ``("Payment", "Charge")``."""
    return STEP_OF[command].service.capitalize(), type_name(command).partition(".")[0].capitalize()


class Grpc:
    name = "grpc"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._channels: dict[str, Any] = {}
        self._server: Any = None

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        service, name = method(type(command))
        stub = getattr(stubs, f"{service}Stub")(self._channel(peer))
        try:
            answer = await getattr(stub, name)(pb.Command(order=order_to(command.order)), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _failure(peer, error, timeout_s) from error
        try:
            return event_from(answer, command)
        except ValueError as error:
            raise PeerFailed(f"{peer} answered what is no event: {error}") from None

    def _channel(self, peer: str) -> Any:
        if peer not in self._channels:
            target = self._wiring.peers.get(peer, {}).get(self.name)
            if target is None:
                raise Unavailable(f"{peer} has no address for {self.name}")
            host, _, port = target.rpartition(":")
            at: dict[str, AttributeValue] = {c.SERVER_ADDRESS: host.strip("[]"), c.SERVER_PORT: int(port)}
            spans: list[Any] = aio_client_interceptors(
                tracer_provider=corrected(self._wiring.telemetry, "grpc", at), request_hook=_describe
            )
            interceptors = [*spans, cast("Any", _Cancelling())]
            if tls := self._wiring.tls:
                trusted = grpc.ssl_channel_credentials(root_certificates=tls.pem()[2])
                channel = grpc.aio.secure_channel(target, trusted, options=_CHANNEL, interceptors=interceptors)
            else:
                channel = grpc.aio.insecure_channel(target, options=_CHANNEL, interceptors=interceptors)
            self._channels[peer] = channel
        return self._channels[peer]

    async def serve(self, service: str, handler: Handler) -> None:
        spans = aio_server_interceptor(tracer_provider=corrected(self._wiring.telemetry, "grpc"))
        self._server = grpc.aio.server(interceptors=[spans], options=_SERVER)
        methods = {
            method(command)[1]: grpc.unary_unary_rpc_method_handler(
                self._answer(command, handler), response_serializer=pb.Event.SerializeToString
            )
            for step in STEPS
            for command in (step.do, step.undo)
            if step.service == service and command is not None
        }
        name = f"{pb.DESCRIPTOR.package}.{service.capitalize()}"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, methods), _Unknown(self._count))
        )
        host, port = self._wiring.host, self._wiring.listen[self.name]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls := self._wiring.tls:
                certificate, key, _ = tls.pem()
                self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
            else:
                self._server.add_insecure_port(address)
        except RuntimeError:
            raise OSError(errno.EADDRINUSE, f"port {port} on {host} is taken") from None
        # calls run in copies of this task's context, which must be in no one's trace
        await asyncio.create_task(self._server.start(), context=contextvars.Context())

    def _answer(self, command: type[Command], handler: Handler) -> Any:
        """The method for ``command``. It takes bytes: what does not parse is ours to refuse, and to count."""

        async def answer(raw: bytes, context: Any) -> Any:
            try:
                if len(raw) > LIMIT_BYTES:
                    await self._refuse(context, "RESOURCE_EXHAUSTED", f"the request is over {LIMIT_BYTES} bytes")
                order = order_from(pb.Command.FromString(raw))
            except DecodeError:
                await self._refuse(context, "INVALID_ARGUMENT", "not a Command")
            except ValueError as error:
                await self._refuse(context, "INVALID_ARGUMENT", str(error))
            about_order(order.order_id)
            try:
                return event_to(await handler(command(order)))
            except asyncio.CancelledError:
                left_s = context.time_remaining()
                late = left_s is not None and left_s < 0.05  # the caller's clock may be the first to ring
                context.set_code(grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED)
                raise
            except DeadlineExceeded as error:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
            except Exception as error:
                get_current_span().record_exception(error)
                log.exception("call_failed", transport=self.name, command=command.__name__)
                await context.abort(grpc.StatusCode.INTERNAL, f"{command.__name__} could not be carried out")

        return answer

    async def _refuse(self, context: Any, code: str, detail: str) -> NoReturn:
        self._count(code.lower())
        await context.abort(grpc.StatusCode[code], detail)
        raise AssertionError  # abort always raises

    def _count(self, reason: str) -> None:
        metrics.REFUSED_INPUT.labels(self._wiring.service, self.name, reason).inc()
        log.info("call_refused", transport=self.name, reason=reason)

    async def drain(self) -> None:
        if self._server is not None:
            await self._server.stop(DRAIN_S)

    async def close(self) -> None:
        server, self._server = self._server, None
        channels, self._channels = self._channels, {}
        if server is not None:
            await server.stop(None)
        for channel in channels.values():
            await channel.close()


class _Cancelling(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Where there are interceptors, a caller that gives up no longer cancels the call on the wire."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        try:
            await call.code()
        except asyncio.CancelledError:
            call.cancel()
            raise
        return call


class _Unknown(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Asked last, for methods that nobody serves; gRPC answers UNIMPLEMENTED, and we count."""

    def __init__(self, count: Any) -> None:
        self._count = count

    def service(self, _: Any) -> None:
        self._count("unimplemented")


def _failure(peer: str, error: Any, timeout_s: float) -> TransportError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s")
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOT_SENT):
        return Unavailable(f"{peer} cannot be reached: {details[:200]}")
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return ConnectionBroken(f"{peer}: {details[:200]}")
    return PeerFailed(f"{peer} answered {code.name}: {details[:200]}")


def _describe(span: Span, request: Any) -> None:
    span.set_attribute(c.LAB_ORDER_ID, request.order.order_id)
