"""The reference call: what the port promises, in one process and without a socket.

Wire           a coroutine; commands and events are turned to JSON and back, as on a real wire
Contract       the messages of services/domain
Security       none: one process, one address space
Trace context  a dictionary, one text value per W3C field
Delivery       at most once per call
Ordering       as called
Back-pressure  the server's lanes: the caller waits
Peer down      Unavailable at once; in the middle of a call ConnectionBroken
Timeouts       timeout_s of the caller; the server goes on
"""

import asyncio
import contextvars

from services.domain.messages import Command, Event, type_name
from services.telemetry import conventions as c
from services.telemetry.rpc import RpcSpans, about_order
from services.transports import cloudevents
from services.transports.errors import (
    ConnectionBroken,
    DeadlineExceeded,
    PeerFailed,
    TransportError,
    Unavailable,
)
from services.transports.messaging.memory import Network
from services.transports.ports import Handler, Wiring

SYSTEM = c.RpcSystem.MEMORY.value


class Memory:
    name = "memory"

    def __init__(self, wiring: Wiring) -> None:
        self._network: Network = wiring.network
        self._spans = RpcSpans(wiring.service, wiring.telemetry.tracer)
        self._served: list[str] = []
        self._in_hand: set[asyncio.Task[tuple[str, bytes]]] = set()

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        name = type_name(type(command))
        carrier: dict[str, str] = {}
        with self._spans.client(SYSTEM, f"{peer}/{name}", carrier, peer):
            about_order(command.order.order_id)
            server = self._network.servers.get(peer)
            if server is None:
                raise Unavailable(f"{peer} is not there")
            try:
                async with asyncio.timeout(timeout_s):
                    answer_name, body = await server(name, cloudevents.dumps(command), carrier)
            except TimeoutError:
                raise DeadlineExceeded(f"{peer} did not answer {name} within {timeout_s:g} s") from None
            except TransportError:
                raise
            except Exception as error:
                raise PeerFailed(f"{peer} failed: {type(error).__name__}") from error
            event = cloudevents.loads(answer_name, body)
            assert isinstance(event, Event)
            return event

    async def serve(self, service: str, handler: Handler) -> None:
        async def answer(name: str, body: bytes, carrier: dict[str, str]) -> tuple[str, bytes]:
            with self._spans.server(SYSTEM, f"{service}/{name}", carrier):
                command = cloudevents.loads(name, body)
                assert isinstance(command, Command)
                about_order(command.order.order_id)
                event = await handler(command)
                return type_name(type(event)), cloudevents.dumps(event)

        async def accept(name: str, body: bytes, carrier: dict[str, str]) -> tuple[str, bytes]:
            task = asyncio.create_task(answer(name, body, carrier), context=contextvars.Context())
            self._in_hand.add(task)
            task.add_done_callback(self._done)
            try:
                return await asyncio.shield(task)  # the server goes on when the caller has gone
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise
                raise ConnectionBroken(f"{service} went away") from None

        self._network.servers[service] = accept
        self._served.append(service)

    def _done(self, task: asyncio.Task[tuple[str, bytes]]) -> None:
        self._in_hand.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the caller may not be there to see it

    async def drain(self) -> None:
        for service in self._served:
            self._network.servers.pop(service, None)
        self._served.clear()
        if self._in_hand:
            await asyncio.wait(self._in_hand)

    async def close(self) -> None:
        for task in self._in_hand:
            task.cancel()
        await self.drain()
