"""Parts of the running system by themselves, for tests that want to stop time at a certain point."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from sqlalchemy import func, select

from services.domain import messages as m
from services.runtime.live import Live
from services.runtime.participant import Handlers, Worker
from services.storage.database import EFFECTS, Database
from services.storage.participant import ParticipantStore
from services.telemetry.setup import Telemetry, set_up
from services.transports import cloudevents
from services.transports.messaging import memory as memory_broker
from services.transports.messaging.memory import Network
from services.transports.ports import Wiring
from services.transports.rpc import memory as memory_rpc
from tests.services.lab import NO_WORK

T = TypeVar("T")


def plain_logs() -> None:
    """Log lines that cost little: the rich tracebacks of structlog's default take longer than the tests."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(["level", "event"]),
        ]
    )


async def eventually(ask: Callable[[], T | Awaitable[T]], what: str, timeout_s: float = 30) -> T:
    """The first answer of ``ask`` that is true. Fails with ``what`` did not happen."""
    answer: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer = ask()
                if isawaitable(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s: {what} (last answer: {answer!r})") from None


def order(order_id: str = "o-1", **changes: Any) -> m.Order:
    given = {"customer": "c-1", "card": "4242424242424242", "ship_to": "Lisbon", "amount_cents": 900, **changes}
    return m.Order(order_id=order_id, lines=(m.Line("tea", 2),), **given)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def ended(task: asyncio.Task[Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """``task`` within the block; cancelled and gone behind it."""
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def live(**settings: str) -> Live:
    """Default settings, but nobody takes time to work."""
    values = Live()
    values.update({**NO_WORK, **{name.replace("__", "."): value for name, value in settings.items()}})
    return values


async def effects_of(database: Database, order_id: str) -> list[str]:
    """What was done for an order, in the order in which it was done."""
    query = select(EFFECTS.c.action).where(EFFECTS.c.order_id == order_id).order_by(EFFECTS.c.id)
    return [row.action for row in await database.read(lambda connection: connection.execute(query).all())]


async def rows(database: Database, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return int(await database.read(lambda connection: connection.execute(query).scalar_one()))


@dataclass
class Part:
    """One service's insides without a process around them: telemetry, database and adapters on a memory network."""

    service: str
    database: Database
    network: Network
    telemetry: Telemetry
    exporter: InMemorySpanExporter
    live: Live = field(default_factory=live)

    def broker(self) -> memory_broker.Memory:
        return memory_broker.Memory(Wiring(self.service, self.telemetry, network=self.network))

    def rpc(self) -> memory_rpc.Memory:
        return memory_rpc.Memory(Wiring(self.service, self.telemetry, network=self.network))

    def worker(self, handlers: Callable[[Live], Handlers], max_in_flight: int = 16) -> Worker:
        return Worker(self.service, handlers(self.live), ParticipantStore(self.database), max_in_flight, self.live)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]


_EMPTY: list[bytes] = []


async def _empty_database() -> bytes:
    """A database with its tables: to copy one is much quicker than to make one."""
    if not _EMPTY:
        with tempfile.TemporaryDirectory() as folder:
            database = Database(f"sqlite:///{folder}/empty.sqlite")
            await database.open()
            await database.close()
            _EMPTY.append(await asyncio.to_thread(Path(folder, "empty.sqlite").read_bytes))
    return _EMPTY[0]


@contextlib.asynccontextmanager
async def part(
    service: str, folder: Path, network: Network | None = None, exporter: InMemorySpanExporter | None = None
) -> AsyncIterator[Part]:
    exporter = exporter or InMemorySpanExporter()
    file = folder / f"{service}.sqlite"
    if not file.exists():
        file.write_bytes(await _empty_database())
    database = Database(f"sqlite:///{file}")
    try:
        yield Part(service, database, network or Network(), set_up(service, exporter=exporter), exporter)
    finally:
        await database.close()


def wire(
    payload: m.Command | m.Event, *, cause: str = "cause", style: str = "choreography", source: str = "orders"
) -> tuple[dict[str, str], bytes]:
    """``payload`` as it is on the wire."""
    return cloudevents.encode(cloudevents.compose(payload, source=source, cause=cause, style=style, transport="memory"))


def publish_raw(network: Network, channel: str, headers: Mapping[str, str], body: bytes, key: str = "o-1") -> None:
    """Put bytes into ``channel`` as somebody else's client would: no span, no headers of ours."""
    for group in network.groups[channel]:
        network.queues[channel, group].append(memory_broker._Stored(key, dict(headers), body))
