"""Stopping: take nothing new, finish what is in hand, flush, and leave nothing behind."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from services import inventory
from services.domain import messages as m
from services.orders import orders
from services.runtime import process as process_module
from services.runtime.config import Config
from services.runtime.live import Live
from services.runtime.participant import Handlers
from services.runtime.process import Process, participant
from services.storage.participant import ParticipantStore
from services.transports.errors import Unavailable
from services.transports.messaging.memory import Network
from tests.services.lab import ORDER, memory_lab
from tests.services.parts import Part, effects_of, eventually, order, part, wire


@pytest.fixture(autouse=True)
async def _nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Every test ends without tasks of ours, and without a complaint of asyncio's."""
    before = asyncio.all_tasks()
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"still running: {left}"
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


class Watch(SpanProcessor):
    """What the provider is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.open = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.open += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.open -= 1
        self.told.append("span")

    def force_flush(self, timeout_millis: int = 0) -> bool:
        self.told.append("flush")
        return True

    def shutdown(self) -> None:
        self.told.append("shutdown")


def _process(service: str, folder: Path, network: Network) -> tuple[Process, Watch]:
    config = Config(transports="memory", database_url=f"sqlite:///{folder / service}.sqlite")
    process = Process(service, config, network)
    watch = Watch()
    process.telemetry.provider.add_span_processor(watch)
    return process, watch


class Gate:
    """Inventory, that works when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.at_work: list[str] = []

    def __call__(self, live: Live) -> Handlers:
        async def reserve(command: m.ReserveStock) -> m.Event:
            self.at_work.append(command.order.order_id)
            await self.open.wait()
            return m.StockReserved(command.order)

        return {**inventory.handlers(live), m.ReserveStock: reserve}


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[Part]:
    """Somebody else on the network."""
    async with part("outside", tmp_path) as somebody:
        yield somebody


async def publish(outside: Part, order_id: str) -> None:
    headers, body = wire(m.OrderPlaced(order(order_id)), cause=order_id)
    await outside.broker().publish(headers, body, channel="orders.events", key=order_id)


async def test_a_participant_finishes_what_it_has_in_hand(outside: Part, tmp_path: Path) -> None:
    """The message and the call are answered, their effects stand, new ones are not taken; the telemetry comes last."""
    network, gate = outside.network, Gate()
    process, watch = _process("inventory", tmp_path, network)
    assert await process.ready() == ["starting"]
    running = participant(process, gate)
    await running.__aenter__()
    await eventually(lambda: not process.opening, "the consumers are there")
    assert await process.ready() == []
    await publish(outside, "message")
    call = asyncio.create_task(outside.rpc().call("inventory", m.ReserveStock(order("call")), timeout_s=5))
    await eventually(lambda: set(gate.at_work) == {"message", "call"}, "both are at work")

    stopping = asyncio.create_task(running.__aexit__(None, None, None))
    await eventually(lambda: not network.servers, "no call is taken any more")
    assert await process.ready() == ["stopping"]
    with pytest.raises(Unavailable):
        await outside.rpc().call("inventory", m.ReserveStock(order("late")), timeout_s=5)
    await publish(outside, "late")
    await asyncio.sleep(0.05)
    assert not stopping.done()
    assert set(gate.at_work) == {"message", "call"}
    gate.open.set()
    async with asyncio.timeout(30):
        await stopping
        assert await call == m.StockReserved(order("call"))

    assert [stored.key for stored in network.queues["orders.events", "inventory"]] == ["late"]
    assert [stored.key for stored in network.queues["inventory.events", "payment"]] == ["message"]
    assert watch.open == 0
    assert watch.told[-2:] == ["flush", "shutdown"]
    assert watch.told.count("flush") == 1
    assert await process.ready() == ["stopping"]
    async with part("inventory", tmp_path) as again:
        assert [await effects_of(again.database, order_id) for order_id in ("message", "call", "late")] == [
            ["reserve.stock"],
            ["reserve.stock"],
            [],
        ]


async def test_work_that_does_not_end_in_time_is_left_to_the_next_process(
    outside: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopping does not wait for ever; the message goes back to its queue and is carried out once, later."""
    monkeypatch.setattr(process_module, "DRAIN_S", 0.1)
    network, stuck = outside.network, Gate()
    process, watch = _process("inventory", tmp_path, network)
    async with participant(process, stuck):
        await eventually(lambda: not process.opening, "the consumers are there")
        await publish(outside, "o-1")
        await eventually(lambda: stuck.at_work, "the message is in hand")
    assert [(stored.key, stored.attempt) for stored in network.queues["orders.events", "inventory"]] == [("o-1", 2)]
    assert watch.told[-2:] == ["flush", "shutdown"]
    process, _ = _process("inventory", tmp_path, network)
    async with participant(process, inventory.handlers):
        await eventually(lambda: network.queues["inventory.events", "payment"], "it is carried out")
    async with part("inventory", tmp_path) as again:
        assert await effects_of(again.database, "o-1") == ["reserve.stock"]
    for task in asyncio.all_tasks():  # a real process would end what it has left by ending
        if "Consumer._handle" in repr(task.get_coro()):
            task.cancel()
            await asyncio.wait([task])


async def test_orders_answers_those_who_wait_before_it_goes(tmp_path: Path) -> None:
    """A client that waits for an order's end gets the order as it stands, not a broken connection."""
    process, watch = _process("orders", tmp_path, Network())
    running = orders(process)
    service = await running.__aenter__()
    process.network.groups["orders.events"].add("inventory")  # nobody is there, but the message is kept
    url = f"http://127.0.0.1:{service.door.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as client:
        where = (await client.post("/orders", params={"style": "choreography"}, json=ORDER)).headers["location"]
        waiting = [asyncio.create_task(client.get(where, params={"wait_s": 60})) for _ in range(3)]
        await eventually(lambda: sum(service.desk._waiting.values()) == 3, "three clients wait")
        async with asyncio.timeout(30):
            await running.__aexit__(None, None, None)
            answers = await asyncio.gather(*waiting)
        assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(200, "accepted")] * 3
        with pytest.raises(httpx.ConnectError):
            await client.get("/catalog")
    assert (watch.open, watch.told[-2:]) == (0, ["flush", "shutdown"])


async def test_a_lab_that_stops_in_the_middle_of_its_work_loses_nothing(tmp_path: Path) -> None:
    """Every request is answered, every span ends, nothing is done twice, and each process has told what it sent."""
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as client:
        async with memory_lab(tmp_path) as lab:
            watches = [Watch() for _ in lab.processes]
            for watch, process in zip(watches, lab.processes, strict=True):
                process.telemetry.provider.add_span_processor(watch)
            await lab.put(payment__work_ms="50", work__jitter="0")
            door = f"http://127.0.0.1:{lab.orders.door.port}/orders"
            posts = [
                asyncio.create_task(client.post(door, params={"style": style}, json=ORDER))
                for style in ("request_response", "message_queue", "choreography") * 5
            ]
            names = ("charge.payment", "payment.events")
            await eventually(
                lambda: any(name in span.name for span in lab.exporter.get_finished_spans() for name in names),
                "payment is at work",
            )
        answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} <= {201, 202, 503}
    assert [watch.open for watch in watches] == [0] * len(watches)
    assert {watch.told[-1] for watch in watches} == {"shutdown"}
    for service in lab.participants:
        async with part(service, tmp_path) as own:
            for action, (times, of) in (await ParticipantStore(own.database).effects()).items():
                assert times == of, action
