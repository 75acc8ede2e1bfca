"""The whole lab in one process over memory, with every span caught: what the fast tests run on."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.all import everything
from services.domain.projections import ALWAYS
from services.orders import Orders
from services.runtime.config import Config
from services.runtime.live import SETTINGS
from services.runtime.process import Process
from services.storage.projections import ProjectionStore
from services.telemetry import conventions as c

ORDER = {
    "customer": "c-1",
    "card": "4242424242424242",
    "ship_to": "Lisbon",
    "lines": [{"sku": "tea", "quantity": 2}],
}
OUT_OF_STOCK = {**ORDER, "lines": [{"sku": "unicorn", "quantity": 1}]}
DECLINED = {**ORDER, "card": "4000000000000002"}
NOT_SERVED = {**ORDER, "ship_to": "Atlantis"}
UNREACHABLE = {**ORDER, "customer": "c-unreachable"}

NO_WORK = {
    **{name: "0" for name in SETTINGS if name.endswith(".work_ms")},
    "carrier-frugal.silent_share": "0",
}


@dataclass
class MemoryLab:
    orders: Orders
    participants: dict[str, Process]
    client: httpx.AsyncClient
    exporter: InMemorySpanExporter

    @property
    def processes(self) -> list[Process]:
        return [self.orders.process, *self.participants.values()]

    async def place(self, body: dict[str, Any], style: str, **headers: str) -> httpx.Response:
        return await self.client.post("/orders", params={"style": style}, json=body, headers=headers)

    async def finished(self, body: dict[str, Any], style: str) -> dict[str, Any]:
        """The order, once it has ended."""
        answer = await self.place(body, style)
        assert answer.status_code in {201, 202}, answer.text
        order: dict[str, Any] = (await self.client.get(answer.headers["location"], params={"wait_s": 10})).json()
        return order

    async def put(self, **values: str | None) -> None:
        """Change settings (``payment__work_ms="5"``; None: the default), in force at once in every service."""
        await self.orders.store.put_settings({name.replace("__", "."): value for name, value in values.items()})
        self.orders.process.live.update(await self.orders.store.settings())

    async def spans(self) -> list[ReadableSpan]:
        """Every span, once all messages are settled and nothing more is coming."""
        async with asyncio.timeout(30):
            while self.busy:
                await asyncio.sleep(0.01)
        return list(self.exporter.get_finished_spans())

    @property
    def busy(self) -> bool:
        """Whether a message is on its way or in hand, or orders waits for one."""
        desk, network = self.orders.desk, self.orders.process.network
        consumers = [consumer for process in self.processes for consumer in process.consumers]
        waiting = any(network.queues.values()) or any(network.in_hand.values())
        return bool(waiting or any(each.busy for each in consumers) or desk._sending or desk._pursuits)


@asynccontextmanager
async def memory_lab(folder: Path, settings: dict[str, str] | None = None) -> AsyncIterator[MemoryLab]:
    exporter = InMemorySpanExporter()
    async with everything(Config(listen={"http": 0}), folder) as (orders, participants):
        processes = [orders.process, *participants.values()]
        for process in processes:
            process.telemetry.provider.add_span_processor(SimpleSpanProcessor(exporter))
        await _ready(processes)
        await _filled(participants["ledger"])
        exporter.clear()
        await orders.store.put_settings({**NO_WORK, **(settings or {})})
        orders.process.live.update(await orders.store.settings())
        url = f"http://127.0.0.1:{orders.door.port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            yield MemoryLab(orders, participants, client, exporter)


async def _ready(processes: Iterable[Process]) -> None:
    async with asyncio.timeout(30):
        for process in processes:
            while await process.ready():
                await asyncio.sleep(0.01)


async def _filled(ledger: Process) -> None:
    """Its read models are filled from the past when it starts, and a span tells of that."""
    store = ProjectionStore(ledger.database)
    async with asyncio.timeout(30):
        while not await store.filled() >= ALWAYS:
            await asyncio.sleep(0.01)


def tree(spans: Iterable[ReadableSpan]) -> str:
    """Every trace as an indented tree, with kinds, services, links and errors; without ids and times.

    ``⇠ name`` is a link to the span of that name, ``(other trace)`` where it is in another one. What happens at the
    same time is ordered by name, so that the same conversation is always drawn alike.
    """
    spans = [span for span in spans if span.name != "GET /orders/{order_id}"]
    by_id = {span.context.span_id: span for span in spans}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in spans:
        parent = span.parent.span_id if span.parent and span.parent.span_id in by_id else None
        children.setdefault(parent, []).append(span)

    def draw(span: ReadableSpan, depth: int) -> str:
        line = "  " * depth + _line(span, by_id)
        below = sorted(children.get(span.context.span_id, []), key=_sequence)
        return "\n".join([line, *(draw(child, depth + 1) for child in below)])

    roots = sorted((draw(root, 0) for root in children.get(None, [])), key=lambda text: (text[:4] != "POST", text))
    return "\n".join(roots)


def _line(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> str:
    attributes = span.attributes or {}
    marks = [f"{span.name} [{span.resource.attributes['service.name']} {span.kind.name}]"]
    if span.parent and span.parent.span_id not in by_id:
        marks.append("ORPHAN")
    if c.ERROR_TYPE in attributes:
        marks.append(f"✗ {attributes[c.ERROR_TYPE]}")
    if c.LAB_ORDER_STATE in attributes:
        marks.append(f"= {attributes[c.LAB_ORDER_STATE]}")
    for link in span.links:
        target = by_id.get(link.context.span_id)
        same = target is not None and target.context.trace_id == span.context.trace_id
        marks.append(f"⇠ {target.name if target else 'nowhere'}{'' if same else ' (other trace)'}")
    return " ".join(marks)


def _sequence(span: ReadableSpan) -> tuple[int, int, str]:
    service = str(span.resource.attributes["service.name"])
    if (span.attributes or {}).get(c.LAB_WAIT) == "queue":
        return (0, 0, service)
    if (span.attributes or {}).get(c.OPERATION_TYPE) == "process":
        return (1, 0, service)
    return (2, span.start_time or 0, service)
