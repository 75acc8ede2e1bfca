"""A participant: whatever comes twice, late, early or at once, its effect happens once per order and step."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from services import inventory, notifications, payment, shipping
from services.domain import messages as m
from services.domain.order import STEPS, Slot
from services.runtime.live import Live
from services.runtime.participant import CommandRefused, Handlers, Speaking
from services.storage.participant import Memory, ParticipantStore
from services.telemetry import conventions as c
from services.transports.ports import Message
from tests.services.parts import Part, effects_of, eventually, live, metric, order, part, wire

SERVICES = {
    "inventory": inventory.handlers,
    "payment": payment.handlers,
    "shipping": shipping.handlers,
    "notifications": notifications.handlers,
}


@pytest.fixture
async def stock(tmp_path: Path) -> AsyncIterator[Part]:
    async with part("inventory", tmp_path) as inventory_part:
        yield inventory_part


class Watched:
    """A worker's handlers, counting what they are asked and able to hold it up."""

    def __init__(self, handlers: Callable[[Live], Handlers]) -> None:
        self._handlers = handlers
        self.asked: list[tuple[str, str]] = []
        self.at_work = self.most_at_work = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def __call__(self, values: Live) -> Handlers:
        def watch(handler: Any) -> Any:
            async def watched(command: m.Command) -> m.Event:
                self.asked.append((type(command).__name__, command.order.order_id))
                self.at_work += 1
                self.most_at_work = max(self.most_at_work, self.at_work)
                try:
                    await self.gate.wait()
                    event: m.Event = await handler(command)
                finally:
                    self.at_work -= 1
                return event

            return watched

        return {kind: watch(handler) for kind, handler in self._handlers(values).items()}


@pytest.fixture
def watched() -> Watched:
    return Watched(inventory.handlers)


async def sure(stock: Part, order_id: str, *effects: str) -> None:
    """Exactly ``effects`` were carried out for the order, and none twice for any."""
    assert await effects_of(stock.database, order_id) == list(effects)
    for action, (times, orders) in (await ParticipantStore(stock.database).effects()).items():
        assert times == orders, f"{action} was done {times} times for {orders} orders"


# --- each participant ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("service", SERVICES)
async def test_every_participant_does_and_takes_back_its_step(tmp_path: Path, service: str) -> None:
    """Its command leads to its event, its compensation to the event that says so; each effect stands once."""
    (step,) = [step for step in STEPS if step.service == service]
    async with part(service, tmp_path) as own:
        worker = own.worker(SERVICES[service])
        assert await worker.do(step.do(order())) == step.done(order())
        actions = [_name(step.do)]
        if step.undo and step.undone:
            assert await worker.do(step.undo(order())) == step.undone(order())
            assert await worker.do(step.do(order())) == step.undone(order())
            actions.append(_name(step.undo))
        assert await effects_of(own.database, "o-1") == actions
        for other in STEPS:
            if other is not step:
                with pytest.raises(CommandRefused, match=f"{service} does not {other.do.__name__}"):
                    await worker.do(other.do(order()))


def _name(kind: type[m.Command]) -> str:
    return m.type_name(kind)


# --- duplicates -----------------------------------------------------------------------------------------------------
async def test_a_message_that_comes_twice_has_one_effect_and_the_same_answer(stock: Part, watched: Watched) -> None:
    """By its id. The second is answered from memory, marked on its span and counted."""
    worker = stock.worker(watched)
    before = metric("lab_duplicates_suppressed_total", service="inventory")
    first = await worker.do(m.ReserveStock(order()), cause="m-1")
    with stock.telemetry.tracer.start_as_current_span("handling"):
        assert await worker.do(m.ReserveStock(order()), cause="m-1") == first == m.StockReserved(order())
    assert watched.asked == [("ReserveStock", "o-1")]
    assert metric("lab_duplicates_suppressed_total", service="inventory") == before + 1
    assert (stock.named("handling")[0].attributes or {})[c.LAB_DUPLICATE] is True
    await sure(stock, "o-1", "reserve.stock")


async def test_a_message_is_answered_as_it_was_even_if_things_have_changed_since(stock: Part) -> None:
    """The answer to a message is a fact: a redelivery after the compensation still says ``StockReserved``."""
    worker = stock.worker(inventory.handlers)
    await worker.do(m.ReserveStock(order()), cause="m-1")
    await worker.do(m.ReleaseStock(order()), cause="m-2")
    assert await worker.do(m.ReserveStock(order()), cause="m-1") == m.StockReserved(order())
    assert await worker.do(m.ReserveStock(order()), cause="m-3") == m.StockReleased(order())
    await sure(stock, "o-1", "reserve.stock", "release.stock")


async def test_a_call_that_comes_twice_has_one_effect(stock: Part, watched: Watched) -> None:
    """By order and step: a call has no id."""
    answer = stock.worker(watched).calls()
    assert await answer(m.ReserveStock(order())) == await answer(m.ReserveStock(order())) == m.StockReserved(order())
    assert watched.asked == [("ReserveStock", "o-1")]
    await sure(stock, "o-1", "reserve.stock")


async def test_a_call_and_messages_with_different_ids_have_one_effect_together(stock: Part, watched: Watched) -> None:
    worker = stock.worker(watched)
    await worker.calls()(m.ReserveStock(order()))
    for cause in ("m-1", "m-2"):
        assert await worker.do(m.ReserveStock(order()), cause=cause) == m.StockReserved(order())
    assert len(watched.asked) == 1
    await sure(stock, "o-1", "reserve.stock")


async def test_a_refusal_is_repeated_with_its_reason_and_is_no_effect(stock: Part, watched: Watched) -> None:
    worker = stock.worker(watched)
    wanted = m.Order("o-1", "c-1", "4242424242424242", "Lisbon", (m.Line("unicorn", 1),), 99900)
    refusals = [await worker.do(m.ReserveStock(wanted), cause=cause) for cause in ("m-1", "m-1", "m-2", None)]
    assert refusals == [m.StockRefused(wanted, "unicorn is out of stock")] * 4
    assert len(watched.asked) == 1
    await sure(stock, "o-1")


# --- what comes in the wrong order ------------------------------------------------------------------------------------
async def test_taking_back_what_was_never_done_leaves_a_tombstone(stock: Part, watched: Watched) -> None:
    """A release that overtakes its reservation is answered; the reservation that comes later is not carried out."""
    worker = stock.worker(watched)
    before = metric("lab_duplicates_suppressed_total", service="inventory")
    assert await worker.do(m.ReleaseStock(order()), cause="m-2") == m.StockReleased(order())
    assert metric("lab_duplicates_suppressed_total", service="inventory") == before, "it was heard for the first time"
    assert await worker.do(m.ReserveStock(order()), cause="m-1") == m.StockReleased(order())
    assert watched.asked == []
    await sure(stock, "o-1")


async def test_a_refused_step_can_be_taken_back(stock: Part) -> None:
    worker = stock.worker(inventory.handlers)
    wanted = m.Order("o-1", "c-1", "4242424242424242", "Lisbon", (m.Line("unicorn", 1),), 99900)
    await worker.do(m.ReserveStock(wanted))
    assert await worker.do(m.ReleaseStock(wanted)) == m.StockReleased(wanted)
    await sure(stock, "o-1")


# --- what comes at once -----------------------------------------------------------------------------------------------
async def test_calls_about_one_order_are_answered_one_after_the_other(stock: Part, watched: Watched) -> None:
    """Ten at once: the work is done once, and a compensation among them waits for it."""
    answer = stock.worker(watched).calls()
    watched.gate.clear()
    calls = [asyncio.create_task(answer(m.ReserveStock(order()))) for _ in range(5)]
    await eventually(lambda: watched.at_work == 1, "the first call is at work")
    calls.append(asyncio.create_task(answer(m.ReleaseStock(order()))))
    calls += [asyncio.create_task(answer(m.ReserveStock(order()))) for _ in range(4)]
    await asyncio.sleep(0.05)
    assert watched.most_at_work == 1
    watched.gate.set()
    events = await asyncio.gather(*calls)
    assert [type(event) for event in events] == [m.StockReserved] * 5 + [m.StockReleased] * 5
    assert watched.asked == [("ReserveStock", "o-1"), ("ReleaseStock", "o-1")]
    assert watched.most_at_work == 1
    await sure(stock, "o-1", "reserve.stock", "release.stock")


async def test_no_more_calls_than_max_in_flight_are_at_work_at_once(stock: Part, watched: Watched) -> None:
    """And no fewer: calls about different orders do not wait for each other before that."""
    answer = stock.worker(watched, max_in_flight=3).calls()
    watched.gate.clear()
    calls = [asyncio.create_task(answer(m.ReserveStock(order(f"o-{i}")))) for i in range(12)]
    await eventually(lambda: watched.at_work == 3, "three calls are at work")
    await asyncio.sleep(0.05)
    assert watched.most_at_work == 3
    watched.gate.set()
    assert {type(event) for event in await asyncio.gather(*calls)} == {m.StockReserved}
    assert watched.most_at_work == 3
    assert len(watched.asked) == 12


async def test_a_call_that_waits_for_its_order_takes_no_place_from_others(stock: Part, watched: Watched) -> None:
    """Ten calls about one busy order must not keep a call about another one out."""
    answer = stock.worker(watched, max_in_flight=2).calls()
    watched.gate.clear()
    busy = [asyncio.create_task(answer(m.ReserveStock(order("busy")))) for _ in range(10)]
    other = asyncio.create_task(answer(m.ReserveStock(order("other"))))
    await eventually(lambda: watched.at_work == 2, "the other order is at work, too")
    watched.gate.set()
    await asyncio.gather(*busy, other)


async def test_two_replicas_that_handle_one_order_at_once_have_one_effect(stock: Part, watched: Watched) -> None:
    """Both work; the one that settles later finds itself overtaken and gives the other's answer."""
    replicas = [stock.worker(watched), stock.worker(watched)]
    watched.gate.clear()
    tasks = [
        asyncio.create_task(worker.do(m.ReserveStock(order()), cause=f"m-{i}")) for i, worker in enumerate(replicas)
    ]
    await eventually(lambda: watched.at_work == 2, "both replicas are at work")
    watched.gate.set()
    assert await asyncio.gather(*tasks) == [m.StockReserved(order())] * 2
    await sure(stock, "o-1", "reserve.stock")


async def test_two_replicas_that_get_the_same_message_at_once_have_one_effect(stock: Part, watched: Watched) -> None:
    replicas = [stock.worker(watched), stock.worker(watched)]
    watched.gate.clear()
    tasks = [asyncio.create_task(worker.do(m.ReserveStock(order()), cause="m-1")) for worker in replicas]
    await eventually(lambda: watched.at_work == 2, "both replicas are at work")
    watched.gate.set()
    assert await asyncio.gather(*tasks) == [m.StockReserved(order())] * 2
    await sure(stock, "o-1", "reserve.stock")


async def test_a_compensation_that_overtakes_the_work_wins(stock: Part, watched: Watched) -> None:
    """The tombstone is there when the work wants to settle: no effect, and the answer says that it is taken back."""
    worker, replica = stock.worker(watched), stock.worker(inventory.handlers)
    watched.gate.clear()
    slow = asyncio.create_task(worker.do(m.ReserveStock(order()), cause="m-1"))
    await eventually(lambda: watched.at_work == 1, "the reservation is at work")
    assert await replica.do(m.ReleaseStock(order()), cause="m-2") == m.StockReleased(order())
    watched.gate.set()
    assert await slow == m.StockReleased(order())
    await sure(stock, "o-1")


# --- what breaks off ----------------------------------------------------------------------------------------------
async def test_work_that_breaks_off_before_its_effect_is_done_again_from_the_start(
    stock: Part, watched: Watched
) -> None:
    """Cancelled or failed in the handler: nothing is remembered, the next one does it."""
    worker = stock.worker(watched)
    watched.gate.clear()
    task = asyncio.create_task(worker.do(m.ReserveStock(order()), cause="m-1"))
    await eventually(lambda: watched.at_work == 1, "it is at work")
    task.cancel()
    await asyncio.wait([task])
    await sure(stock, "o-1")
    watched.gate.set()
    assert await worker.do(m.ReserveStock(order()), cause="m-1") == m.StockReserved(order())
    await sure(stock, "o-1", "reserve.stock")


class _Silent:
    """A broker that breaks off when something is to be said."""

    name = "memory"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.broken = True

    async def publish(self, headers: dict[str, str], body: bytes, *, channel: str, key: str) -> None:
        self.said.append(headers["ce-id"])
        if self.broken:
            raise asyncio.CancelledError


async def test_what_breaks_off_after_its_effect_says_the_same_message_again(stock: Part, watched: Watched) -> None:
    """The effect happens once, and the event has the same id both times, so that its hearers know it."""
    broker = _Silent()
    speaking = Speaking(stock.worker(watched), broker)  # type: ignore[arg-type]
    heard = Message("m-1", "orders", "order.placed", "o-1", "", "choreography", "memory", m.OrderPlaced(order()))

    async def react() -> None:
        event = await speaking.do(m.ReserveStock(order()), cause=heard.id)
        await speaking.say(event, channel="inventory.events", to=heard)

    with pytest.raises(asyncio.CancelledError):
        await react()
    broker.broken = False
    await react()
    assert len(broker.said) == 2
    assert len(set(broker.said)) == 1
    assert len(watched.asked) == 1
    await sure(stock, "o-1", "reserve.stock")


def test_an_events_id_follows_from_its_source_its_cause_and_its_type() -> None:
    """Another source, cause or type: another message. Nothing else counts."""

    def message_id(event: m.Event, cause: str, source: str = "inventory") -> str:
        return wire(event, cause=cause, source=source)[0]["ce-id"]

    assert message_id(m.StockReserved(order()), "m-1") == message_id(m.StockReserved(order("o-2")), "m-1")
    ids = {
        message_id(event, cause, source)
        for event in (m.StockReserved(order()), m.StockReleased(order()))
        for cause in ("m-1", "m-2")
        for source in ("inventory", "payment")
    }
    assert len(ids) == 8


async def test_two_replicas_that_take_one_order_back_at_once_have_one_effect(stock: Part) -> None:
    """The second finds the slot changed between its look and its settlement, and looks again."""
    worker, replica = stock.worker(inventory.handlers), stock.worker(inventory.handlers)
    await worker.do(m.ReserveStock(order()), cause="m-1")
    store, looks = worker._store, []
    recall = store.recall

    async def overtaken(cause: str | None, order_id: str) -> Memory:
        memory = await recall(cause, order_id)
        looks.append(memory.slot)
        if len(looks) == 1:
            await replica.do(m.ReleaseStock(order()), cause="m-3")
        return memory

    store.recall = overtaken  # type: ignore[method-assign]
    assert await worker.do(m.ReleaseStock(order()), cause="m-2") == m.StockReleased(order())
    assert looks == [Slot.DONE, Slot.COMPENSATED]
    await sure(stock, "o-1", "reserve.stock", "release.stock")


async def test_settings_slow_the_work_down(stock: Part) -> None:
    stock.live = live(inventory__work_ms="30", work__jitter="0")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await stock.worker(inventory.handlers).do(m.ReserveStock(order()))
    assert loop.time() - began >= 0.03
