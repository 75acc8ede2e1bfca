"""Calls with manners: what stands between a style and the adapter that it calls by.

A call takes no longer than its conversation's deadline allows, is not made where that has passed or where the peer's
circuit is open, and may be repeated, with exponential backoff and full jitter, within a budget. All of it is off by
default but the deadline: without it, the cascade is to be seen. It is the caller's part of the conversation, not a
layer of the transports, which keep their own ways (``transports.ports``).

A call that is not made is seen as an INTERNAL span ``call <peer>`` of no length, with the reason as ``error.type``,
where the CLIENT span would stand. It is no CLIENT span: nothing left the process, no server's span will ever be below
it, and what counts calls by CLIENT spans (the RPC metrics, the Collector's) would count what was never asked. And it is
not said on the span around it alone: that one has its own way to fail, and may have asked several peers.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count

import structlog
from opentelemetry.trace import Status, StatusCode, Tracer

from services.domain.messages import Command, Event
from services.runtime.breaker import Breaker, Budget, Circuit, CircuitOpen
from services.runtime.deadline import remaining_s
from services.runtime.live import Live, Switch
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.transports.errors import ConnectionBroken, DeadlineExceeded, PeerFailed, Unavailable
from services.transports.ports import Handler, Rpc

log = structlog.get_logger()

BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0
FAILURES = (Unavailable, DeadlineExceeded, ConnectionBroken, PeerFailed)
"""What counts against a peer, and may be repeated: here each call is idempotent by order and step, so that it does no
harm where it was done after all."""


class DeadlinePassed(DeadlineExceeded):
    """Not asked: nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Clock:
    """What the time is, since whenever and since 1970, and how to let it pass."""

    monotonic: Callable[[], float] = time.monotonic
    unix: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(slots=True)
class _Line:
    """To one peer."""

    peer: str
    breaker: Breaker
    budget: Budget = field(default_factory=Budget)


class Guarded:
    """An ``Rpc`` around ``rpc``, for the calls of ``service``. Serving passes through."""

    def __init__(
        self,
        rpc: Rpc,
        service: str,
        tracer: Tracer,
        live: Live,
        *,
        clock: Clock = Clock(),
        chance: random.Random | None = None,
    ) -> None:
        self.rpc = rpc
        self.name = rpc.name
        self._service = service
        self._tracer = tracer
        self._live = live
        self._clock = clock
        self._chance = chance or random.Random()
        self._lines: dict[str, _Line] = {}

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        """As the adapter's, each attempt within ``timeout_s``. Raises its errors, ``CircuitOpen`` and
        ``DeadlinePassed``: then nothing was asked the last time."""
        line = self._lines.get(peer) or self._line(peer)
        line.budget.earn(self._live["rpc.retry_budget"])
        for attempt in count():
            try:
                return await self._attempt(line, command, timeout_s)
            except (CircuitOpen, DeadlinePassed):
                raise
            except FAILURES as error:
                wait_s = self._chance.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**attempt))
                if not self._again(line, command, attempt, wait_s, error):
                    raise
            await self._clock.sleep(wait_s)
        raise AssertionError  # it counts for ever

    async def serve(self, service: str, handler: Handler) -> None:
        await self.rpc.serve(service, handler)

    async def drain(self) -> None:
        await self.rpc.drain()

    async def close(self) -> None:
        await self.rpc.close()

    async def _attempt(self, line: _Line, command: Command, timeout_s: float) -> Event:
        left_s = remaining_s(now=self._clock.unix)
        if left_s is not None and left_s <= 0:
            passed = DeadlinePassed(f"{line.peer}: not asked, the deadline passed {abs(left_s):.3g} s ago")
            self._not_made(line, command, c.NotCalled.DEADLINE, passed)
            raise passed
        in_a_hurry = left_s is not None and left_s < timeout_s
        bounded_s = timeout_s if left_s is None else min(timeout_s, left_s)
        if self._live["rpc.breaker"] is Switch.OFF:
            line.breaker.reset()
            return await self.rpc.call(line.peer, command, timeout_s=bounded_s)
        try:
            ticket = line.breaker.enter(self._live["rpc.breaker_open_s"])
        except CircuitOpen as error:
            refused = CircuitOpen(f"{line.peer}: {error}")
            self._not_made(line, command, c.NotCalled.CIRCUIT_OPEN, refused)
            raise refused from None
        worked: bool | None = None  # who gives up, or makes a mistake, has learnt nothing about the peer
        try:
            event = await self.rpc.call(line.peer, command, timeout_s=bounded_s)
            worked = True
        except FAILURES as error:
            # nor has who had no time: that those before took it is not this peer's fault
            worked = None if in_a_hurry and isinstance(error, DeadlineExceeded) else False
            raise
        finally:
            line.breaker.leave(ticket, worked=worked, limit=self._live["rpc.breaker_failures"])
        return event

    def _again(self, line: _Line, command: Command, attempt: int, wait_s: float, error: Exception) -> bool:
        """Whether to repeat the call after ``wait_s``."""
        if attempt >= self._live["rpc.retries"] or line.breaker.state is not Circuit.CLOSED:
            return False
        left_s = remaining_s(now=self._clock.unix)
        if left_s is not None and left_s <= wait_s:
            return False
        if not line.budget.spend(self._live["rpc.retry_budget"]):
            self._not_made(line, command, c.NotCalled.RETRY_BUDGET, error)
            return False
        metrics.RPC_RETRIES.labels(self._service, line.peer).inc()
        return True

    def _not_made(self, line: _Line, command: Command, reason: c.NotCalled, error: Exception) -> None:
        metrics.RPC_REJECTED.labels(self._service, line.peer, reason.value).inc()
        about = {c.LAB_ORDER_ID: command.order.order_id, c.ERROR_TYPE: reason.value}
        span = self._tracer.start_span(f"call {line.peer}", attributes=about)
        span.set_status(Status(StatusCode.ERROR, str(error)[:200]))
        span.end()

    def _line(self, peer: str) -> _Line:
        state = metrics.RPC_BREAKER_STATE.labels(self._service, peer, self.name)
        metrics.show_calls(self._service, peer)

        def turned(circuit: Circuit) -> None:
            state.set(circuit)
            log.info("circuit", peer=peer, transport=self.name, state=circuit.name.lower(), failures=breaker.failures)

        breaker = Breaker(self._clock.monotonic, turned)
        state.set(breaker.state)
        line = self._lines[peer] = _Line(peer, breaker)
        return line
