"""Calls with manners: the circuit breaker, retries within a budget, deadlines that travel."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from services import inventory
from services.domain import messages as m
from services.runtime.breaker import Breaker, Budget, Circuit, CircuitOpen
from services.runtime.deadline import remaining_s, with_deadline, within, without_deadline
from services.runtime.guard import BACKOFF_S, MAX_BACKOFF_S, Clock, DeadlinePassed, Guarded
from services.runtime.live import SETTINGS, Live, Switch
from services.telemetry import conventions as c
from services.telemetry.messaging import PROPAGATOR
from services.telemetry.setup import Telemetry, set_up
from services.transports import TRANSPORTS, errors
from services.transports.messaging import structured
from services.transports.messaging.memory import Network
from services.transports.ports import Wiring
from services.transports.rpc.memory import Memory
from tests.services.lab import ORDER, MemoryLab, memory_lab
from tests.services.parts import effects_of, eventually, live, metric, order, part
from tests.telemetry.walker import plain, problems
from tests.transports.rpc.suite import World

FAILURES = (errors.Unavailable, errors.DeadlineExceeded, errors.ConnectionBroken, errors.PeerFailed)
ON = {"rpc.breaker": "on", "rpc.breaker_failures": "3", "rpc.breaker_open_s": "5"}
CHARGE = m.ChargePayment(order())


@dataclass
class Time:
    """Stands still but for those who sleep."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Bench:
    """Orders' calls to a payment service that does what ``answers`` say, one after the other, and then charges."""

    time: Time
    telemetry: Telemetry
    exporter: InMemorySpanExporter
    network: Network = field(default_factory=Network)
    live: Live = field(default_factory=live)
    answers: list[Any] = field(default_factory=list)
    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def guarded(self, **arguments: Any) -> Guarded:
        wiring = Wiring("orders", self.telemetry, network=self.network)
        return Guarded(Memory(wiring), "orders", self.telemetry.tracer, self.live, clock=self.time.clock, **arguments)

    async def answer(self, command: m.Command) -> m.Event:
        self.asked += 1
        await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, m.Event):
            return answer
        if answer is not None:
            raise answer("as the test says")
        return m.PaymentCharged(command.order)

    def set(self, **settings: str) -> None:
        self.live.update({name.replace("__", "."): value for name, value in settings.items()})

    def not_made(self) -> list[str]:
        """The reasons of the calls that were not made, by their spans."""
        spans = [span for span in self.exporter.get_finished_spans() if span.name == "call payment"]
        for span in spans:
            assert span.kind is SpanKind.INTERNAL
            assert span.status.status_code is StatusCode.ERROR
            assert (span.attributes or {})[c.LAB_ORDER_ID] == "o-1"
        return [str((span.attributes or {})[c.ERROR_TYPE]) for span in spans]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    exporter = InMemorySpanExporter()
    bench = Bench(Time(), set_up("orders", exporter=exporter), exporter)
    bench.gate.set()
    server = Memory(Wiring("payment", set_up("payment"), network=bench.network))
    await server.serve("payment", bench.answer)
    yield bench
    bench.gate.set()
    await server.close()


async def fail(rpc: Guarded, times: int = 1) -> list[str]:
    said = []
    for _ in range(times):
        with pytest.raises(errors.TransportError) as raised:
            await rpc.call("payment", CHARGE, timeout_s=5)
        said.append(str(raised.value))
    return said


def counted(reason: str) -> float:
    return metric("lab_rpc_calls_rejected_total", service="orders", peer="payment", reason=reason)


def circuit() -> float:
    return metric("lab_rpc_breaker_state", service="orders", peer="payment", transport="memory")


def retries() -> float:
    return metric("lab_rpc_retries_total", service="orders", peer="payment")


# --- the breaker -------------------------------------------------------------------------------------------------
async def test_off_it_lets_every_call_through(bench: Bench) -> None:
    """The default: whatever fails, the next call is made, so that the cascade can be seen."""
    assert SETTINGS["rpc.breaker"].default is Switch.OFF
    assert SETTINGS["rpc.retries"].default == 0
    bench.answers = [errors.PeerFailed] * 20
    rpc = bench.guarded()
    await fail(rpc, 20)
    assert bench.asked == 20
    assert circuit() == Circuit.CLOSED
    assert bench.not_made() == []
    assert bench.time.slept == []


@pytest.mark.parametrize("failure", FAILURES)
async def test_failures_in_a_row_open_it_and_nothing_is_asked(bench: Bench, failure: type[Exception]) -> None:
    """At once ``Unavailable``, in words that say how long; counted, and a span of its own without a CLIENT."""
    bench.live.update(ON)
    bench.answers = [failure] * 3
    rpc, before = bench.guarded(), counted("circuit_open")
    await fail(rpc, 3)
    assert circuit() == Circuit.OPEN
    clients = len(bench.exporter.get_finished_spans())
    bench.time.now += 2
    with pytest.raises(errors.Unavailable) as refused:
        await rpc.call("payment", CHARGE, timeout_s=5)
    assert str(refused.value) == "payment: circuit open for another 3 s after 3 failures"
    assert bench.asked == 3
    assert counted("circuit_open") == before + 1
    assert bench.not_made() == ["circuit_open"]
    assert len(bench.exporter.get_finished_spans()) == clients + 1


@pytest.mark.parametrize("answer", [None, m.PaymentDeclined(order(), "the card was declined")])
async def test_an_answer_between_failures_closes_the_account_a_refusal_too(bench: Bench, answer: Any) -> None:
    bench.live.update(ON)
    rpc = bench.guarded()
    bench.answers = [errors.PeerFailed, errors.PeerFailed, answer] * 3
    for _ in range(3):
        await fail(rpc, 2)
        await rpc.call("payment", CHARGE, timeout_s=5)
    assert circuit() == Circuit.CLOSED
    assert bench.asked == 9


async def test_a_mistake_of_ours_is_no_failure_of_the_peer(bench: Bench) -> None:
    bench.live.update({**ON, "rpc.breaker_failures": "1"})
    rpc = bench.guarded()

    async def mistaken(*_: Any, **__: Any) -> m.Event:
        raise ValueError("ours")

    asked, rpc.rpc.call = rpc.rpc.call, mistaken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="ours"):
        await rpc.call("payment", CHARGE, timeout_s=5)
    rpc.rpc.call = asked  # type: ignore[method-assign]
    bench.gate.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rpc.call("payment", CHARGE, timeout_s=5), 0.01)  # the caller gave up
    bench.gate.set()
    assert circuit() == Circuit.CLOSED
    assert await rpc.call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())


async def opened(bench: Bench) -> Guarded:
    bench.live.update(ON)
    rpc = bench.guarded()
    bench.answers = [errors.PeerFailed] * 3
    await fail(rpc, 3)
    assert circuit() == Circuit.OPEN
    bench.asked = 0
    return rpc


async def test_after_its_time_one_call_tries_and_the_others_are_still_turned_away(bench: Bench) -> None:
    """Twenty at once: one reaches the peer; when it is answered, all do."""
    rpc = await opened(bench)
    bench.time.now += 5
    bench.gate.clear()
    calls = [asyncio.create_task(rpc.call("payment", CHARGE, timeout_s=5)) for _ in range(20)]
    await eventually(lambda: sum(call.done() for call in calls) == 19, "nineteen are turned away")
    assert circuit() == Circuit.HALF_OPEN
    assert bench.asked == 1
    bench.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results].count(CircuitOpen) == 19
    assert m.PaymentCharged(order()) in results
    assert circuit() == Circuit.CLOSED
    await asyncio.gather(*(rpc.call("payment", CHARGE, timeout_s=5) for _ in range(20)))
    assert bench.asked == 21


async def test_a_try_that_fails_opens_it_for_the_whole_time_again(bench: Bench) -> None:
    rpc = await opened(bench)
    bench.answers = [errors.Unavailable]
    bench.time.now += 5
    assert await fail(rpc) == ["as the test says"]
    bench.time.now += 4.5
    assert await fail(rpc) == ["payment: circuit open for another 0.5 s after 4 failures"]
    bench.time.now += 0.5
    assert await rpc.call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())
    assert bench.asked == 2
    bench.answers = [errors.PeerFailed] * 2
    await fail(rpc, 2)
    assert circuit() == Circuit.CLOSED, "it counts from 0 again"


async def test_a_try_that_nobody_waits_for_lets_the_next_one_try(bench: Bench) -> None:
    """Else a caller that gave up would keep the circuit half open for ever."""
    rpc = await opened(bench)
    bench.time.now += 5
    bench.gate.clear()
    probe = asyncio.create_task(rpc.call("payment", CHARGE, timeout_s=5))
    await eventually(lambda: bench.asked == 1, "the probe is on its way")
    probe.cancel()
    await asyncio.wait([probe])
    assert circuit() == Circuit.OPEN
    bench.gate.set()
    assert await rpc.call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())
    assert circuit() == Circuit.CLOSED


@pytest.mark.parametrize("answer", [None, errors.PeerFailed], ids=["works", "fails"])
async def test_what_was_asked_before_it_opened_is_old_news(bench: Bench, answer: Any) -> None:
    """While another tries, it neither closes the circuit nor opens it, nor does it let a second one in."""
    bench.live.update(ON)
    rpc = bench.guarded()
    bench.gate.clear()
    early = asyncio.create_task(rpc.call("payment", CHARGE, timeout_s=5))
    await eventually(lambda: bench.asked == 1, "the early call is on its way")
    server = bench.network.servers.pop("payment")
    await fail(rpc, 3)
    bench.time.now += 5
    going_on = asyncio.Event()

    async def slow(name: str, body: bytes, carrier: dict[str, str]) -> Any:
        await going_on.wait()
        return await server(name, body, carrier)

    bench.network.servers["payment"] = slow
    probe = asyncio.create_task(rpc.call("payment", CHARGE, timeout_s=5))
    await eventually(lambda: circuit() == Circuit.HALF_OPEN, "another tries")
    bench.answers = [answer]
    bench.gate.set()
    await asyncio.wait([early])
    assert isinstance(early.exception(), errors.PeerFailed if answer else type(None))
    assert circuit() == Circuit.HALF_OPEN
    assert await fail(rpc) == ["payment: circuit half open after 3 failures, another call tries"]
    going_on.set()
    assert await probe == m.PaymentCharged(order())
    assert circuit() == Circuit.CLOSED


async def test_its_settings_change_while_it_runs(bench: Bench) -> None:
    rpc = await opened(bench)
    bench.time.now += 2
    bench.live.update({**ON, "rpc.breaker_open_s": "2"})
    assert await rpc.call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())
    bench.live.update({**ON, "rpc.breaker_failures": "1"})
    bench.answers = [errors.PeerFailed]
    await fail(rpc)
    assert circuit() == Circuit.OPEN
    bench.live.update({**ON, "rpc.breaker": "off"})
    assert await rpc.call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())
    assert circuit() == Circuit.CLOSED
    bench.live.update(ON)
    assert await rpc.call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())


async def test_each_peer_and_each_wire_has_its_own(bench: Bench) -> None:
    rpc = await opened(bench)
    stock = Memory(Wiring("inventory", set_up("inventory"), network=bench.network))

    async def reserve(command: m.Command) -> m.Event:
        return m.StockReserved(command.order)

    await stock.serve("inventory", reserve)
    assert await rpc.call("inventory", m.ReserveStock(order()), timeout_s=5) == m.StockReserved(order())
    assert await bench.guarded().call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())


# --- retries ------------------------------------------------------------------------------------------------------
async def test_a_failed_call_is_made_again_after_a_random_wait(bench: Bench) -> None:
    """Exponential backoff with full jitter: anything from 0 to twice as much as the last time, up to a limit."""
    bench.set(rpc__retries="6", rpc__retry_budget="1")
    bench.answers = [*FAILURES, errors.Unavailable, errors.Unavailable]
    before = retries()
    rpc = bench.guarded(chance=random.Random(7))
    assert await rpc.call("payment", CHARGE, timeout_s=5) == m.PaymentCharged(order())
    assert bench.asked == 7
    assert retries() == before + 6
    again = random.Random(7)
    assert bench.time.slept == [again.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**n)) for n in range(6)]
    assert BACKOFF_S * 2**5 > MAX_BACKOFF_S
    spans = bench.exporter.get_finished_spans()
    assert [(span.kind, span.status.status_code) for span in spans] == [
        *[(SpanKind.CLIENT, StatusCode.ERROR)] * 6,
        (SpanKind.CLIENT, StatusCode.UNSET),
    ]


async def test_it_is_tried_as_often_as_the_setting_says_and_the_last_error_is_raised(bench: Bench) -> None:
    bench.set(rpc__retries="2", rpc__retry_budget="1")
    bench.answers = [errors.PeerFailed, errors.Unavailable, errors.ConnectionBroken, errors.PeerFailed]
    with pytest.raises(errors.ConnectionBroken):
        await bench.guarded().call("payment", CHARGE, timeout_s=5)
    assert bench.asked == 3


async def test_a_refusal_is_not_asked_again(bench: Bench) -> None:
    bench.set(rpc__retries="5", rpc__retry_budget="1")
    refusal = m.PaymentDeclined(order(), "the card was declined")
    bench.answers = [refusal]
    assert await bench.guarded().call("payment", CHARGE, timeout_s=5) == refusal
    assert bench.asked == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
async def test_retries_stay_within_their_share_of_the_calls(bench: Bench, share: float) -> None:
    """While the peer is down, each of 200 calls would like five: it gets a few in advance, and then the share."""
    bench.set(rpc__retries="5", rpc__retry_budget=str(share))
    rpc, made, refused = bench.guarded(), retries(), counted("retry_budget")
    bench.answers = [errors.Unavailable] * 1200
    await fail(rpc, 200)
    made = retries() - made
    assert made == bench.asked - 200
    assert made == (Budget.BURST + int(199 * share) if share else 0)  # the first call found the bucket full
    assert counted("retry_budget") - refused == len(bench.not_made()) == (198 if share else 200)
    assert set(bench.not_made()) == {"retry_budget"}


def test_a_budget_saves_up_no_more_than_its_burst() -> None:
    """It is about the recent calls: a quiet day does not pay for a storm."""
    budget = Budget()
    for _ in range(10_000):
        budget.earn(0.5)
    assert sum(budget.spend(0.5) for _ in range(100)) == Budget.BURST


async def test_who_has_opened_the_circuit_does_not_try_again(bench: Bench) -> None:
    """It says why it failed, not that the circuit is open."""
    bench.live.update({**ON, "rpc.retries": "5", "rpc.retry_budget": "1"})
    bench.answers = [errors.PeerFailed] * 6
    with pytest.raises(errors.PeerFailed):
        await bench.guarded().call("payment", CHARGE, timeout_s=5)
    assert bench.asked == 3
    assert bench.not_made() == []


# --- deadlines ----------------------------------------------------------------------------------------------------
def test_a_deadline_is_an_instant_in_the_baggage_and_moves_only_nearer() -> None:
    time = Time()
    now = time.clock.unix
    context = with_deadline(Context(), 10, now=now)
    assert remaining_s(Context()) is None
    assert remaining_s(context, now=now) == 10
    assert remaining_s(with_deadline(context, 60, now=now), now=now) == 10
    assert remaining_s(with_deadline(context, 3, now=now), now=now) == 3
    time.now += 10.5
    assert remaining_s(context, now=now) == -0.5
    assert remaining_s(with_deadline(context, 60, now=now), now=now) == -0.5
    assert remaining_s(without_deadline(context)) is None
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, context)
    assert carrier == {"baggage": "lab.deadline=1010000"}
    assert remaining_s(PROPAGATOR.extract(carrier, Context()), now=now) == -0.5


def test_the_others_of_the_baggage_are_left_alone() -> None:
    context = baggage.set_baggage(c.LAB_RUN_ID, "run-7", Context())
    assert baggage.get_all(without_deadline(with_deadline(context, 1))) == {c.LAB_RUN_ID: "run-7"}
    token = attach(context)
    try:
        with within(5):
            assert 4 < (remaining_s() or 0) <= 5
            assert baggage.get_baggage(c.LAB_RUN_ID) == "run-7"
        assert remaining_s() is None
    finally:
        detach(token)


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "\uff11\uff12", "9" * 16, "1 0", "1010.5"])
def test_a_deadline_that_makes_no_sense_is_none(value: str) -> None:
    """Anybody may send anything; the order does not suffer."""
    carrier = {"baggage": f"{c.Baggage.DEADLINE}={value},{c.LAB_RUN_ID}=run-7"}
    context = PROPAGATOR.extract(carrier, Context())
    assert remaining_s(context) is None
    assert 8 < (remaining_s(with_deadline(context, 9)) or 0) <= 9


@contextlib.contextmanager
def deadline(bench: Bench, seconds: float) -> Any:
    token = attach(with_deadline(Context(), seconds, now=bench.time.clock.unix))
    try:
        yield
    finally:
        detach(token)


async def test_a_call_takes_no_longer_than_the_conversation_may(bench: Bench) -> None:
    bench.gate.clear()
    with deadline(bench, 0.05), pytest.raises(errors.DeadlineExceeded, match=r"within 0\.05 s"):
        await bench.guarded().call("payment", CHARGE, timeout_s=30)
    with deadline(bench, 30), pytest.raises(errors.DeadlineExceeded, match=r"within 0\.03 s"):
        await bench.guarded().call("payment", CHARGE, timeout_s=0.03)


@pytest.mark.parametrize("late_s", [0, 1.5])
async def test_when_nothing_remains_nothing_is_asked(bench: Bench, late_s: float) -> None:
    before = counted("deadline")
    with deadline(bench, 10):
        bench.time.now += 10 + late_s
        with pytest.raises(DeadlinePassed, match=rf"^payment: not asked, the deadline passed {late_s:g} s ago$"):
            await bench.guarded().call("payment", CHARGE, timeout_s=5)
    assert bench.asked == 0
    assert counted("deadline") == before + 1
    assert bench.not_made() == ["deadline"]


async def test_nothing_is_tried_again_that_could_not_begin_in_time(bench: Bench) -> None:
    bench.set(rpc__retries="10", rpc__retry_budget="1")
    bench.answers = [errors.Unavailable] * 20
    with deadline(bench, 0.5), pytest.raises(errors.Unavailable):
        await bench.guarded().call("payment", CHARGE, timeout_s=5)
    assert 0 < sum(bench.time.slept) < 0.5
    assert bench.asked == len(bench.time.slept) + 1 < 11
    assert bench.not_made() == []


async def test_a_peer_is_not_blamed_for_the_time_that_others_took(bench: Bench) -> None:
    """A call that had less than its time says nothing about the peer; one that had all of it does."""
    bench.live.update({**ON, "rpc.breaker_failures": "1"})
    rpc = bench.guarded()
    bench.gate.clear()
    with deadline(bench, 0.01), pytest.raises(errors.DeadlineExceeded):
        await rpc.call("payment", CHARGE, timeout_s=5)
    assert circuit() == Circuit.CLOSED
    with deadline(bench, 60), pytest.raises(errors.DeadlineExceeded):
        await rpc.call("payment", CHARGE, timeout_s=0.01)
    assert circuit() == Circuit.OPEN


async def test_a_call_whose_deadline_has_passed_has_no_effect_but_to_take_back_is_always_in_time(
    tmp_path: Path,
) -> None:
    async with part("inventory", tmp_path) as stock:
        answer = stock.worker(inventory.handlers).calls()
        with within(60):
            await answer(m.ReserveStock(order("o-1")))
        with within(-0.5):
            with pytest.raises(errors.DeadlineExceeded, match="inventory did nothing"):
                await answer(m.ReserveStock(order("o-2")))
            assert await answer(m.ReleaseStock(order("o-1"))) == m.StockReleased(order("o-1"))
        assert await effects_of(stock.database, "o-1") == ["reserve.stock", "release.stock"]
        assert await effects_of(stock.database, "o-2") == []


async def test_a_call_whose_deadline_passes_while_it_waits_its_turn_has_no_effect(tmp_path: Path) -> None:
    """Where a service is too slow is where its calls grow old."""
    gate, begun = asyncio.Event(), asyncio.Event()

    async def reserve(command: m.Command) -> m.Event:
        begun.set()
        await gate.wait()
        return m.StockReserved(command.order)

    async with part("inventory", tmp_path) as stock:
        answer = stock.worker(lambda _: {m.ReserveStock: reserve}, max_in_flight=1).calls()
        first = asyncio.create_task(answer(m.ReserveStock(order("o-1"))))
        await begun.wait()
        with within(0.05):
            second = asyncio.create_task(answer(m.ReserveStock(order("o-2"))))
            await eventually(lambda: (remaining_s() or 0) < 0, "the deadline passes")
        gate.set()
        assert await first == m.StockReserved(order("o-1"))
        with pytest.raises(errors.DeadlineExceeded):
            await second
        assert await effects_of(stock.database, "o-2") == []


# --- deadlines on the wires ---------------------------------------------------------------------------------------
WIRES = {
    # transport: module, class, address
    "memory": ("memory", "Memory", "{}"),
    "rest": ("rest", "Rest", "http://127.0.0.1:{}"),
    "grpc": ("grpc", "Grpc", "127.0.0.1:{}"),
    "json_rpc": ("json_rpc", "JsonRpc", "http://127.0.0.1:{}"),
    "thrift": ("thrift", "Thrift", "127.0.0.1:{}"),
    "avro_rpc": ("avro_rpc", "AvroRpc", "http://127.0.0.1:{}"),
    "ice": ("ice", "Ice", "127.0.0.1:{}"),
}


@pytest.fixture(params=WIRES)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    module, name, address = WIRES[request.param]
    if request.param == "ice":
        import_module("tests.ice")  # or the reason why it is skipped
    adapter = getattr(import_module(f"services.transports.rpc.{module}"), name)
    world = World(SimpleNamespace(adapter=adapter, address=address))  # type: ignore[arg-type]
    yield world
    await world.close()


def test_every_wire_is_here() -> None:
    assert {*WIRES, "memory"} == {name for name, transport in TRANSPORTS.items() if transport.rpc} | {"memory"}


async def test_the_deadline_arrives_with_the_call_and_stands_on_no_span(world: World) -> None:
    """To the millisecond, beside what else the baggage holds; and no context is counted as bad for it."""
    heard: list[Any] = []

    async def handler(command: m.Command) -> m.Event:
        heard.append(baggage.get_all())
        return m.PaymentCharged(command.order)

    await world.serve("payment", handler)
    bad = metric("lab_bad_trace_context_total", service="payment")
    token = attach(with_deadline(baggage.set_baggage(c.LAB_RUN_ID, "run-7", Context()), 60))
    try:
        sent = baggage.get_all()
        await world.connect("orders").call("payment", CHARGE, timeout_s=5)
    finally:
        detach(token)
    assert set(sent) == {c.LAB_RUN_ID, c.Baggage.DEADLINE}
    assert heard == [sent]
    for span in await world.spans.settled(2):
        assert c.Baggage.DEADLINE not in (span.attributes or {})
        assert (span.attributes or {})[c.LAB_RUN_ID] == "run-7"
    assert metric("lab_bad_trace_context_total", service="payment") == bad


async def test_a_call_that_arrives_too_late_fails_and_has_no_effect(world: World, tmp_path: Path) -> None:
    """The participant turns it down, whatever the wire itself knows of deadlines; taking back it does."""
    async with part("inventory", tmp_path) as stock:
        await world.serve("inventory", stock.worker(inventory.handlers).calls())
        orders = world.connect("orders")  # not guarded: as if its clock were behind
        with within(-0.5):
            says_so = orders.name in {"memory", "rest", "grpc", "json_rpc"}  # the others have one word for all failures
            with pytest.raises(errors.DeadlineExceeded if says_so else errors.PeerFailed):
                await orders.call("inventory", m.ReserveStock(order("o-1")), timeout_s=5)
            assert await effects_of(stock.database, "o-1") == []
            await orders.call("inventory", m.ReleaseStock(order("o-1")), timeout_s=5)
        with within(60):
            assert await orders.call("inventory", m.ReserveStock(order("o-2")), timeout_s=5) == m.StockReserved(
                order("o-2")
            )
        assert await effects_of(stock.database, "o-2") == ["reserve.stock"]
        await world.spans.settled(6)


def test_a_message_that_is_one_json_object_keeps_it() -> None:
    """Where a broker has no headers, or few; the others carry the baggage as a header like any other."""
    headers = {"content-type": "application/json"}
    PROPAGATOR.inject(headers, with_deadline(Context(), 60))
    read, _ = structured.unpack(structured.pack(headers, b"{}"))
    assert read["baggage"] == headers["baggage"]
    assert 59 < (remaining_s(PROPAGATOR.extract(read, Context())) or 0) <= 60


# --- all of it together -------------------------------------------------------------------------------------------
@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[MemoryLab]:
    async with memory_lab(tmp_path) as running:
        process = running.orders.process
        for name, rpc in process.rpcs.items():
            adapter = getattr(rpc, "rpc", rpc)
            process.rpcs[name] = Guarded(adapter, "orders", process.telemetry.tracer, process.live)
        yield running


async def test_with_payment_away_the_breaker_answers_for_it_and_every_order_ends(lab: MemoryLab) -> None:
    """Two are told 503 by the call, the others at once by the circuit; when payment is back, recovery's own calls
    close it, all that was done is taken back, and the next order goes through."""
    await lab.put(rpc__breaker="on", rpc__breaker_failures="2", rpc__breaker_open_s="60")
    network = lab.orders.process.network
    server = network.servers.pop("payment")
    answers = [await lab.place(ORDER, "request_response") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [503] * 6
    told = [answer.json()["detail"] for answer in answers]
    assert sum("payment: circuit open for another" in detail for detail in told) >= 4
    spans = await lab.spans()
    assert sum(span.name == "payment/charge.payment" for span in spans) <= 2
    assert sum(span.name == "call payment" for span in spans) >= 4
    network.servers["payment"] = server
    await lab.put(rpc__breaker="on", rpc__breaker_failures="2", rpc__breaker_open_s="0.01")
    for answer in answers:
        where = answer.json()["order"]
        assert (await lab.client.get(where, params={"wait_s": 10})).json()["state"] == "rejected"
    assert (await lab.place(ORDER, "request_response")).status_code == 201
    assert problems([plain(span) for span in await lab.spans()]) == []


# --- the breaker, whatever comes in whichever order -----------------------------------------------------------------
class BreakerMachine(RuleBasedStateMachine):
    """Callers come and go as they like. Known of it from outside: who is inside, since when, and what they said."""

    LIMIT, OPEN_S = 2, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns: list[Circuit] = []
        self.breaker = Breaker(lambda: self.now, self.turns.append)
        self.inside: list[tuple[int, int]] = []  # tickets, and how often it had turned when they were given
        self.in_a_row = 0
        self.opened_at = 0.0

    @rule(seconds=st.sampled_from([1.0, 9.5, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def someone_comes(self) -> None:
        was = self.breaker.state
        probing = was is Circuit.HALF_OPEN
        early = was is Circuit.OPEN and self.now - self.opened_at < self.OPEN_S
        try:
            ticket = self.breaker.enter(self.OPEN_S)
        except CircuitOpen:
            assert probing or early
            assert self.breaker.state is was
        else:
            assert not probing
            assert not early
            assert self.breaker.state is (Circuit.CLOSED if was is Circuit.CLOSED else Circuit.HALF_OPEN)
            self.inside.append((ticket, len(self.turns)))

    @rule()
    def two_come(self) -> None:
        self.someone_comes()
        self.someone_comes()

    @precondition(lambda self: self.inside)
    @rule(first=st.booleans(), worked=st.sampled_from([False, True, None]))
    def someone_goes(self, *, first: bool, worked: bool | None) -> None:
        ticket, turns = self.inside.pop(0 if first else -1)
        was, old = self.breaker.state, turns != len(self.turns)
        self.breaker.leave(ticket, worked=worked, limit=self.LIMIT)
        if old:
            assert self.breaker.state is was, "old news changes nothing"
            return
        if was is Circuit.HALF_OPEN:
            expected = Circuit.CLOSED if worked else Circuit.OPEN
        else:
            self.in_a_row = {True: 0, False: self.in_a_row + 1, None: self.in_a_row}[worked]
            expected = Circuit.OPEN if self.in_a_row >= self.LIMIT else Circuit.CLOSED
        assert self.breaker.state is expected
        if expected is Circuit.OPEN and worked is False:
            self.opened_at = self.now
        if was is Circuit.HALF_OPEN and expected is Circuit.CLOSED:
            self.in_a_row = 0

    @precondition(lambda self: len(self.turns) > 4)
    @rule()
    def it_is_switched_off(self) -> None:
        self.breaker.reset()
        self.in_a_row = 0
        assert self.breaker.state is Circuit.CLOSED
        self.inside = [(ticket, turns) for ticket, turns in self.inside if turns == len(self.turns)]

    @invariant()
    def one_tries_at_a_time(self) -> None:
        current = [turns for _, turns in self.inside if turns == len(self.turns)]
        if self.breaker.state is Circuit.HALF_OPEN:
            assert len(current) == 1
        if self.breaker.state is Circuit.OPEN:
            assert current == []

    @invariant()
    def it_turns_as_it_may(self) -> None:
        assert all(a is not b for a, b in zip(self.turns, self.turns[1:], strict=False))
        assert self.breaker.state is (self.turns[-1] if self.turns else Circuit.CLOSED)


TestBreaker: Callable[..., Any] = BreakerMachine.TestCase
TestBreaker.settings = hypothesis_settings(max_examples=100, stateful_step_count=30, deadline=None, database=None)  # type: ignore[attr-defined]
