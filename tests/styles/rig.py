"""The whole lab over memory, whose participants do as a test says, and whose orders can go and come back."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services import carrier, ledger
from services.all import PARTICIPANTS, _own
from services.domain.order import STEPS
from services.domain.quotes import CARRIERS
from services.orders import orders
from services.runtime import desk as desk_module
from services.runtime.config import Config
from services.runtime.process import Process, participant
from services.styles import STYLES
from services.telemetry import conventions as c
from services.transports.messaging.memory import Network
from tests.services.lab import NO_WORK, MemoryLab, _filled, _ready
from tests.services.parts import effects_of, eventually

DO = ["reserve.stock", "charge.payment", "book.shipment", "notify.customer"]
SERVICES = tuple(step.service for step in STEPS)
CARRIER_SERVICES = tuple(carrier.service_of(name) for name in CARRIERS)
TIMEOUTS = {"rpc.timeout_s": "0.5", "saga.timeout_s": "0.5", "reply.timeout_s": "0.5", "quotes.deadline_s": "0.5"}
"""Short ones, for tests that wait for them to pass."""


class _Kept(InMemorySpanExporter):
    """Outlives the processes that export to it."""

    def shutdown(self) -> None:
        return


@dataclass
class Rig:
    """``gates``: services whose work does not end before their gate is opened. ``failing``: how often a service's work
    fails before it succeeds."""

    folder: Path
    network: Network
    participants: dict[str, Process]
    exporter: InMemorySpanExporter
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)
    worked: list[str] = field(default_factory=list)
    """Each service as it began to work."""
    lab: MemoryLab = field(init=False)

    # --- orders ----------------------------------------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def orders(self, *, anew: bool = True, **settings: str) -> AsyncIterator[MemoryLab]:
        """Orders at work within the block, on the database that it always has; ``anew`` with nothing held and no
        settings but ``settings``."""
        process = Process("orders", _own(Config(listen={"http": 0}), self.folder, "orders"), self.network)
        process.live.also(*(each.live for each in self.participants.values()))
        process.telemetry.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        async with orders(process) as running:
            await _ready([process, *self.participants.values()])
            url = f"http://127.0.0.1:{running.door.port}"
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
                self.lab = MemoryLab(running, self.participants, client, self.exporter)
                if anew:
                    await self.reset(**settings)
                yield self.lab

    async def reset(self, **settings: str | None) -> None:
        """All as it was, and ``settings`` (``payment__delay_ms="5"``); what is held goes on."""
        for gate in self.gates.values():
            gate.set()
        self.gates.clear()
        self.failing.clear()
        store = self.lab.orders.store
        faults = dict.fromkeys(set(await store.settings()) - set(NO_WORK))
        await store.put_settings({**faults, **NO_WORK})
        await self.lab.put(**settings)

    # --- participants ----------------------------------------------------------------------------------------------
    def close(self, *services: str) -> None:
        """Have ``services`` begin their work and not end it."""
        for service in services:
            self.gates[service] = asyncio.Event()

    def open(self, *services: str) -> None:
        for service in services or list(self.gates):
            self.gates.pop(service).set()

    async def work(self, service: str, _: str) -> None:
        """In place of ``Live.work``: not for a time, but until the test says so."""
        self.worked.append(service)
        if gate := self.gates.get(service):
            await gate.wait()
        if self.failing.get(service, 0) > 0:
            self.failing[service] -= 1
            raise RuntimeError("out of paper")

    # --- what there is to see --------------------------------------------------------------------------------------
    async def placed(self, body: dict[str, Any], style: str) -> str:
        """The id of a new order; whether its conversation broke off is in its answer."""
        answer = await self.lab.place(body, style)
        assert answer.status_code in {201, 202, 503, 504}, answer.text
        document = answer.json()
        return str(document.get("order_id") or document["id"])

    async def order(self, order_id: str, wait_s: float = 0) -> dict[str, Any]:
        answer = await self.lab.client.get(f"/orders/{order_id}", params={"wait_s": wait_s})
        order: dict[str, Any] = answer.json()
        return order

    async def end(self, order_id: str) -> dict[str, Any]:
        """The order, once it has ended and everybody has heard of it."""
        order = await self.order(order_id, 10)
        await self.quiet()
        return await self.order(order_id) if order["state"] != "accepted" else order

    async def only_orders_is_missing(self) -> None:
        """Return when all who are there have done what they can."""
        queues, in_hand = self.network.queues, self.network.in_hand
        consumers = [each for process in self.participants.values() for each in process.consumers]

        def still() -> bool:
            waiting = [group for (_, group), queue in queues.items() if queue and group != "orders"]
            return not waiting and not any(in_hand.values()) and not any(each.busy for each in consumers)

        await eventually(still, "everybody but orders has done what can be done", 10)

    async def quiet(self) -> None:
        await eventually(lambda: not self.lab.busy, "nothing is on its way any more", 10)

    async def effects(self, order_id: str) -> list[str]:
        """What was done for an order; of each service in the order in which it was done."""
        return [each for name in SERVICES for each in await effects_of(self.participants[name].database, order_id)]

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(name)]

    def handling(self) -> bool:
        """Whether the current task handles a message."""
        task = asyncio.current_task()
        return any(task in each._in_hand for process in self.lab.processes for each in process.consumers)

    def dead_letters(self, order_id: str) -> list[Any]:
        return [each for each in self.network.dead_letters if each.headers.get("ce-subject") == order_id]

    async def replay(self, order_id: str) -> None:
        """Give the dead letters of an order to their consumers again."""
        broker = self.lab.orders.process.brokers["memory"]
        for each in self.dead_letters(order_id):
            assert await broker.settle_dead_letter(each.channel, each.group, each.id, replay=True)


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Nobody waits longer than it takes to look again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk_module, "LEASE_S", 2.0)
        patch.setattr(desk_module, "LOOK_EVERY_S", 0.02)
        patch.setattr(random, "uniform", lambda low, _: low * 0.02)
        yield


@contextlib.asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """Participants, carriers and the ledger at work; orders is to be opened."""
    config, network, exporter = Config(listen={"http": 0}), Network(), _Kept()
    with _quick():
        async with contextlib.AsyncExitStack() as stack:
            # a conversation that waits for a group that is not there yet would not be heard by it
            for style in STYLES.values():
                for channel, groups in style.channels.items():
                    network.groups[channel] |= groups
            running = Rig(folder, network, {}, exporter)
            for service in (*PARTICIPANTS, *CARRIER_SERVICES):
                process = Process(service, _own(config, folder, service), network)
                process.live.work = running.work  # type: ignore[method-assign]
                if service in PARTICIPANTS:
                    at_work = participant(process, PARTICIPANTS[service])
                else:
                    at_work = participant(process, lambda _: {}, _quoting(service))
                running.participants[service] = await stack.enter_async_context(at_work)
            books = Process("ledger", _own(config, folder, "ledger"), network)
            await stack.enter_async_context(ledger.ledger(books))
            running.participants["ledger"] = books
            for process in running.participants.values():
                process.telemetry.provider.add_span_processor(SimpleSpanProcessor(exporter))
            await _ready(running.participants.values())
            await _filled(books)
            exporter.clear()
            yield running


def _quoting(service: str) -> Any:
    return lambda live: carrier.quoting(service.removeprefix("carrier-"), live)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def of(spans: list[ReadableSpan], order_id: str) -> list[ReadableSpan]:
    return [span for span in spans if attributes(span).get(c.LAB_ORDER_ID) == order_id]
