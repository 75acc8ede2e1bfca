"""ZeroC Ice: a remote object per service, an operation per command, over one connection per peer.

Wire           Ice protocol 1.0 over TCP, encoding 1.1; one connection per peer, shared by all calls to it; Ice 3.7's
               own threads move the bytes, everything of ours runs in the event loop (its dispatcher hands over)
Contract       services/contracts/antiphon.ice (Slice); the object's identity is the service's name. A refusal is an
               answer; a command that makes no sense is the declared exception InvalidCommand
Security       none: TCP. Ice offers TLS (IceSSL, endpoints ssl) and a router for firewalls (Glacier2); both are off
Trace context  the call's context map: traceparent, tracestate, baggage
Delivery       at most once per call: RetryIntervals is -1, though the operations are idempotent. Ice then repeats only
               what it had not sent, or what met a connection that the server closed in good order, so was not done
Ordering       none between calls: the loop takes them as they come, the answers as they are ready
Back-pressure  none in the protocol beyond TCP's: the server reads on, its lanes let calls wait. A message over 64 KiB
               costs its sender the connection, and with it the other calls on it
Peer down      Unavailable at once (connection refused, or 1 s to connect); in the middle of a call ConnectionBroken.
               A peer that sends no heartbeat for 10 s while a call waits counts as gone. A server that drains has no
               such object any more: Unavailable
Timeouts       timeout_s is the invocation timeout (1.1 x in all: of answers that it cannot read, Ice loses some). It
               stays with the caller: the server learns of it as little as of one who gave up, and finishes the work
"""

import asyncio
import contextlib
import contextvars
import errno
import threading
from collections.abc import Callable
from typing import Any

import Ice as zeroc  # noqa: N813  (the adapter has its name)
import structlog
from opentelemetry.trace import get_current_span

from services.contracts.slice import Antiphon, command_to, event_from, event_to, order_from
from services.domain.messages import Command, Event, type_name
from services.domain.order import STEP_OF, STEPS
from services.telemetry import metrics
from services.telemetry.conventions import RpcSystem
from services.telemetry.rpc import RpcSpans, about_order
from services.transports.errors import ConnectionBroken, DeadlineExceeded, PeerFailed, TransportError, Unavailable
from services.transports.ports import Handler, Wiring
from services.transports.rpc import ice_refusals

LIMIT_BYTES = 64 * 1024
CLOSE_S = 1.5
OK = "Success"
"""Reply status 0 in the words of Ice's protocol; any other answer has the name of its exception."""
_FAILED = "could not be carried out"
_SYSTEM = RpcSystem.ZEROC_ICE
_ADAPTER = "antiphon"
_PROPERTIES = {
    "Ice.RetryIntervals": -1,
    f"{_ADAPTER}.MessageSizeMax": LIMIT_BYTES // 1024,
    "Ice.MessageSizeMax": 2 * LIMIT_BYTES // 1024,  # an answer is the order and more
    "Ice.Override.ConnectTimeout": 1000,
    "Ice.Override.CloseTimeout": 500,  # a stranger who keeps a connection open would else keep us
    "Ice.ACM.Timeout": 10,
    **{f"Ice.Warn.{what}": 0 for what in ("AMICallback", "Connections", "Dispatch")},  # it would write to stderr
    **ice_refusals.PROPERTIES,
}
_NOT_SENT = (zeroc.ConnectFailedException, zeroc.ConnectTimeoutException, zeroc.DNSException)
_NOT_DONE = (zeroc.CloseConnectionException, zeroc.ObjectNotExistException)
_BROKEN = (
    *(zeroc.SocketException, zeroc.TimeoutException),
    *(zeroc.CommunicatorDestroyedException, zeroc.ConnectionManuallyClosedException),
)

log = structlog.get_logger()


def method(command: type[Command]) -> tuple[str, str]:
    """A command's interface and operation in the contract: ``("Payment", "charge")``."""
    return STEP_OF[command].service.capitalize(), type_name(command).partition(".")[0]


def full_name(command: type[Command]) -> str:
    """What its spans are called: ``Antiphon::Payment/charge``."""
    return "Antiphon::{}/{}".format(*method(command))


class Ice:
    name = "ice"

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._spans = RpcSpans(wiring.service, wiring.telemetry.tracer)
        self._communicator: Any = None
        self._adapter: Any = None
        self._refusals: Any = None
        self._in_hand: dict[asyncio.Task[Any], Any] = {}

    @property
    def native(self) -> Any:
        """The communicator. Made at first use, since it works in the loop that then runs."""
        if self._communicator is None:
            loop = asyncio.get_running_loop()
            start = zeroc.InitializationData()
            start.properties = zeroc.createProperties()
            for name, value in _PROPERTIES.items():
                start.properties.setProperty(name, str(value))
            start.dispatcher = lambda work, _: loop.call_soon_threadsafe(work)
            self._communicator = zeroc.initialize(start)
        return self._communicator

    # --- asking

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        address = self._wiring.peers.get(peer, {}).get(self.name)
        if address is None:
            raise Unavailable(f"{peer} has no address for {self.name}")
        interface, operation = method(type(command))
        carrier: dict[str, str] = {}
        with self._spans.client(_SYSTEM, full_name(type(command)), carrier, address) as call:
            about_order(command.order.order_id)
            proxy = getattr(Antiphon, f"{interface}Prx").uncheckedCast(
                self.native.stringToProxy(f"{peer}:{_endpoint(*address.rsplit(':', 1))}")
            )
            ask = getattr(proxy.ice_invocationTimeout(max(1, round(timeout_s * 1000))), f"{operation}Async")
            try:
                async with asyncio.timeout(timeout_s * 1.1):
                    answer = await zeroc.wrap_future(ask(command_to(command), context=carrier))
            except TimeoutError:
                raise DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s") from None
            except zeroc.Exception as error:
                failure = _failure(peer, error, timeout_s)
                call.failed(type(error).__name__, str(failure))
                raise failure from error
            call.answered(OK)
            try:
                return event_from(answer, command)
            except ValueError as error:
                raise PeerFailed(f"{peer} answered what is no event: {error}") from None

    # --- answering

    async def serve(self, service: str, handler: Handler) -> None:
        operations = {
            method(command)[1]: self._operation(command, handler)
            for step in STEPS
            for command in (step.do, step.undo)
            if step.service == service and command is not None
        }
        interface = service.capitalize()
        servant = type(interface, (getattr(Antiphon, interface),), operations)
        host, port = self._wiring.host, self._wiring.listen[self.name]
        try:
            self._adapter = self.native.createObjectAdapterWithEndpoints(_ADAPTER, _endpoint(host, port))
        except zeroc.LocalException as error:
            await self.close()
            number = getattr(error, "error", 0)
            taken = f"port {port} on {host} is taken"
            reason = taken if number == errno.EADDRINUSE else f"{host} cannot be listened on: {type(error).__name__}"
            raise OSError(number, reason) from None
        self._adapter.add(servant(), zeroc.stringToIdentity(service))
        self._refusals = ice_refusals.Refusals(self.native, self._refused)
        self._adapter.activate()

    def _operation(self, command: type[Command], handler: Handler) -> Callable[..., asyncio.Task[Any]]:
        def operation(_: Any, sent: Any, current: Any) -> asyncio.Task[Any]:
            try:
                brought = current.ctx
            except UnicodeDecodeError:
                brought = {}
                metrics.BAD_CONTEXT.labels(self._wiring.service).inc()
            # calls are in no one's context but that which they bring
            task = asyncio.get_running_loop().create_task(
                self._answer(command, handler, sent, brought), context=contextvars.Context()
            )
            self._in_hand[task] = current.con
            task.add_done_callback(self._in_hand.pop)
            return task

        return operation

    async def _answer(self, command: type[Command], handler: Handler, sent: Any, context: dict[str, str]) -> Any:
        failure: Exception = zeroc.UnknownException(f"{command.__name__} {_FAILED}")
        # what is none of its exceptions, as a cancellation, Ice sends on as a traceback
        with (
            contextlib.suppress(asyncio.CancelledError),
            self._spans.server(_SYSTEM, full_name(command), context) as call,
        ):
            try:
                order = order_from(sent.order)
            except ValueError as error:
                failure = Antiphon.InvalidCommand(str(error))
                call.answered(type(failure).__name__)
                self._refused(type(failure).__name__)
            else:
                about_order(order.order_id)
                try:
                    answer = event_to(await handler(command(order)))
                except Exception as error:
                    get_current_span().record_exception(error)
                    log.exception("call_failed", transport=self.name, command=command.__name__)
                    call.failed(type(failure).__name__, f"{command.__name__} {_FAILED}")
                else:
                    call.answered(OK)
                    return answer
        if isinstance(failure, zeroc.UnknownException):
            self._refusals.failed()
        raise failure

    def _refused(self, reason: str) -> None:
        metrics.REFUSED_INPUT.labels(self._wiring.service, self.name, reason).inc()
        log.info("call_refused", transport=self.name, reason=reason)

    def _withdraw(self) -> None:
        """From now on there is no such object."""
        if self._adapter is not None:
            self._refusals.draining = True
            self._adapter.remove(zeroc.stringToIdentity(self._wiring.service))
            self._adapter = None

    async def drain(self) -> None:
        self._withdraw()
        if self._in_hand:
            await asyncio.wait(self._in_hand)

    async def close(self) -> None:
        self._withdraw()
        communicator, self._communicator = self._communicator, None
        if communicator is None:
            return
        for task, connection in list(self._in_hand.items()):
            # the connection first: else the caller would be told that it failed, which nobody knows
            connection.close(zeroc.ConnectionClose.Forcefully)
            task.cancel()
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=CLOSE_S / 2)
        if self._refusals is not None:
            await self._refusals.close()
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()

        def destroy() -> None:
            communicator.destroy()  # blocks until its threads have ended, which may wait for the loop
            loop.call_soon_threadsafe(gone.set)

        threading.Thread(target=destroy, name="ice-destroy", daemon=True).start()
        try:
            await asyncio.wait_for(gone.wait(), CLOSE_S)
        except TimeoutError:
            log.warning("not_closed", transport=self.name, after_s=CLOSE_S)


def _endpoint(host: str, port: int | str) -> str:
    return f'tcp -h "{host.strip("[]")}" -p {port}'


def _failure(peer: str, error: Exception, timeout_s: float) -> TransportError:
    name = type(error).__name__
    if isinstance(error, zeroc.InvocationTimeoutException):
        return DeadlineExceeded(f"{peer} did not answer within {timeout_s:g} s")
    if isinstance(error, _NOT_SENT):
        return Unavailable(f"{peer} cannot be reached: {name}")
    if isinstance(error, _NOT_DONE):
        return Unavailable(f"{peer} did nothing: {name}")
    if isinstance(error, _BROKEN):
        return ConnectionBroken(f"{peer}: {name}")
    detail = getattr(error, "unknown", "") or getattr(error, "reason", "")
    return PeerFailed(f"{peer} answered {name}: {detail[:200]}")
