"""What every Rpc must do, stated once. ``test_<wire>.py`` says which adapter, and where the wires differ."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from services.domain.messages import ChargePayment, Command, Event, Line, Order, PaymentCharged
from services.domain.order import STEP_OF, STEPS
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.setup import set_up
from services.transports import errors
from services.transports.messaging.memory import Network
from services.transports.ports import Handler, Rpc, Wiring

ORDER = Order("o-1", "c-1", "4242", "Zürich", (Line("tea", 2), Line("茶碗", 1)), 2100)
COMMANDS = [command for step in STEPS for command in (step.do, step.undo) if command is not None]
BAGGAGE = {c.LAB_RUN_ID: "run-7", c.LAB_STYLE: "request_response", c.LAB_TRANSPORT: "the wire under test"}
SERVICES = sorted({step.service for step in STEPS})
HTTP = {
    SpanKind.CLIENT: {
        *("http.request.method", "http.response.status_code", "network.protocol.version"),
        *("server.address", "server.port", "url.full", "url.template"),
    },
    SpanKind.SERVER: {
        *("client.address", "client.port", "http.request.method", "http.response.status_code", "http.route"),
        *("network.protocol.version", "server.address", "server.port", "url.path", "url.scheme"),
        "user_agent.original",
    },
}
"""What contrib says of a request."""


class Watcher(SpanProcessor):
    """Every span that was started, and which of them ended."""

    def __init__(self) -> None:
        self.started: list[Span] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.ended if span.kind is kind]

    async def settled(self, count: int) -> list[ReadableSpan]:
        """All spans, once ``count`` or more have been started and every one has ended."""
        await until(
            lambda: len(self.ended) >= count and len(self.ended) == len(self.started),
            lambda: f"started {[s.name for s in self.started]}, ended {[s.name for s in self.ended]}",
        )
        return self.ended


@dataclass
class World:
    """Orders, which calls, and the participants, on the wire under test; each with telemetry of its own."""

    suite: "RpcSuite"
    spans: Watcher = field(default_factory=Watcher)
    network: Network = field(default_factory=Network)
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True)))
    opened: list[Rpc] = field(default_factory=list)

    def connect(self, service: str) -> Rpc:
        telemetry = set_up(service)
        telemetry.provider.add_span_processor(self.spans)
        name = self.suite.adapter.name
        wiring = Wiring(
            service,
            telemetry,
            listen={name: self.ports.get(service, 0)},
            peers={peer: {name: self.suite.address.format(port)} for peer, port in self.ports.items()},
            network=self.network,
        )
        rpc = self.suite.adapter(wiring)
        self.opened.append(rpc)
        return rpc

    async def serve(self, service: str, handler: Handler) -> Rpc:
        rpc = self.connect(service)
        await rpc.serve(service, handler)
        return rpc

    async def close(self) -> None:
        for rpc in self.opened:
            await rpc.close()


class RpcSuite:
    adapter: Callable[[Wiring], Any]
    address = "{}"
    server_learns = False
    """Whether the wire tells the server that its caller has given up."""

    attributes: Mapping[SpanKind, set[str]]
    """What the spans of a call that went well carry, beside the order's id and the baggage."""

    beneath: Mapping[SpanKind, set[str]] = {}
    """The same of the protocol that carries the wire, all of it, where that has spans of its own: HTTP's, by contrib.
    Then the spans of a call are four, the wire's own around them: CLIENT, HTTP's CLIENT, HTTP's SERVER, SERVER."""

    @property
    def spans_per_call(self) -> int:
        return 4 if self.beneath else 2

    def own(self, span: ReadableSpan) -> bool:
        """Whether ``span`` is the wire's, and not of what is beneath it."""
        return not self.beneath or c.RPC_SYSTEM_NAME in span.attributes

    def method(self, command: type[Command]) -> str:
        """The name of a call's spans."""
        raise NotImplementedError

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        world = World(self)
        yield world
        await world.close()

    @pytest.fixture
    def orders(self, world: World) -> Rpc:
        return world.connect("orders")

    # --- answers

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
    async def test_every_command_gets_its_event(self, world: World, orders: Rpc, command: type[Command]) -> None:
        heard: list[Command] = []

        async def handler(asked: Command) -> Event:
            heard.append(asked)
            return done(asked)

        service = STEP_OF[command].service
        await world.serve(service, handler)
        event = await orders.call(service, command(ORDER), timeout_s=5)
        assert heard == [command(ORDER)]
        assert event == done(command(ORDER))
        assert type(event) is type(done(command(ORDER)))

    @pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
    async def test_a_refusal_is_an_answer(self, world: World, orders: Rpc, step: Any) -> None:
        refusal = step.refused(ORDER, "ausverkauft: 売り切れ 🫖 \"'\\\n")
        await world.serve(step.service, always(refusal))
        event = await orders.call(step.service, step.do(ORDER), timeout_s=5)
        assert event == refusal
        for span in await world.spans.settled(self.spans_per_call):
            assert_fine(span)

    async def test_calls_run_side_by_side(self, world: World, orders: Rpc) -> None:
        """Twenty calls wait for each other inside the server: it has them all in hand at once."""
        together = asyncio.Barrier(20)

        async def handler(command: Command) -> Event:
            await together.wait()
            return done(command)

        await world.serve("payment", handler)
        asked = [ChargePayment(Order(f"o-{n}", "c", "4", "X", (Line("tea", 1),), n)) for n in range(20)]
        events = await asyncio.gather(*(orders.call("payment", command, timeout_s=10) for command in asked))
        assert events == [PaymentCharged(command.order) for command in asked]

    # --- failures

    async def test_an_absent_peer_is_unavailable(self, world: World, orders: Rpc) -> None:
        started = time.monotonic()
        with pytest.raises(errors.Unavailable, match="payment"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        assert time.monotonic() - started < 4

    async def test_a_slow_peer_exceeds_the_deadline(self, world: World, orders: Rpc) -> None:
        slow = Slow()
        await world.serve("payment", slow)
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded, match=r"0\.3 s"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=0.3)
        assert 0.25 < time.monotonic() - started < 2
        await self.given_up(slow)

    async def test_a_caller_may_give_up(self, world: World, orders: Rpc) -> None:
        slow = Slow()
        await world.serve("payment", slow)
        call = asyncio.create_task(orders.call("payment", ChargePayment(ORDER), timeout_s=60))
        await slow.begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await self.given_up(slow)

    async def given_up(self, slow: "Slow") -> None:
        if self.server_learns:
            await until(lambda: slow.cancelled == 1, lambda: "the server never heard of it")
        slow.go.set()
        await until(lambda: slow.finished + slow.cancelled == 1, lambda: "the server did not go on")
        assert slow.cancelled == int(self.server_learns)

    async def test_a_failing_peer_says_so_and_lives(self, world: World, orders: Rpc, caplog: Any) -> None:
        faults = [ZeroDivisionError("secret"), None]

        async def handler(command: Command) -> Event:
            if fault := faults.pop(0):
                raise fault
            return done(command)

        await world.serve("payment", handler)
        with pytest.raises(errors.PeerFailed) as failed:
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        assert "secret" not in str(failed.value)
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    @pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
    async def test_a_peer_killed_in_the_middle_leaves_it_unknown(
        self, world: World, orders: Rpc, *, warm: bool
    ) -> None:
        """The handler was at it: whether it was done is unknown, so it is never ``Unavailable``."""
        slow = Slow(pass_first=1 if warm else 0)
        payment = await world.serve("payment", slow)
        if warm:
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        call = asyncio.create_task(orders.call("payment", ChargePayment(ORDER), timeout_s=5))
        await slow.begun.wait()
        await payment.close()
        with pytest.raises(errors.ConnectionBroken, match="payment"):
            await call

    async def test_drain_finishes_what_is_in_hand_and_takes_nothing_new(self, world: World, orders: Rpc) -> None:
        slow = Slow()
        payment = await world.serve("payment", slow)
        in_hand = asyncio.create_task(orders.call("payment", ChargePayment(ORDER), timeout_s=10))
        await slow.begun.wait()
        drained = asyncio.create_task(payment.drain())
        other = world.connect("orders")
        for caller in (other, orders):  # on a connection of its own, and on the one that is open

            async def refused(caller: Rpc = caller) -> bool:
                try:
                    await caller.call("payment", ChargePayment(ORDER), timeout_s=0.2)
                except errors.Unavailable:
                    return True
                except errors.DeadlineExceeded:  # it was quicker than the drain
                    return False
                return False

            await until(refused, lambda: "still takes calls")
        assert not drained.done()
        slow.go.set()
        assert await in_hand == PaymentCharged(ORDER)
        await asyncio.wait_for(drained, 5)

    async def test_calls_work_again_after_the_peer_restarts(self, world: World, orders: Rpc) -> None:
        """Down it is ``Unavailable``; up again, an old connection must not show as an error of another kind."""
        payment = await world.serve("payment", always(PaymentCharged(ORDER)))
        for _ in range(2):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            await payment.drain()
            await payment.close()
            with pytest.raises(errors.Unavailable):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            payment = await world.serve("payment", always(PaymentCharged(ORDER)))

            async def works() -> bool:
                with contextlib.suppress(errors.Unavailable):
                    return bool(await orders.call("payment", ChargePayment(ORDER), timeout_s=5))
                return False

            await until(works, lambda: "does not come back", seconds=5)

    async def test_closing_twice_is_safe(self, world: World, orders: Rpc) -> None:
        payment = await world.serve("payment", done_soon)
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        for rpc in (payment, orders, payment, orders):
            await rpc.close()

    # --- spans

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
    async def test_a_call_is_a_line_of_spans(self, world: World, orders: Rpc, command: type[Command]) -> None:
        """Each is the child of the one before, and the wire lies between the last CLIENT and the first SERVER."""
        service = STEP_OF[command].service
        await world.serve(service, done_soon)
        with in_conversation(world) as conversation:
            await orders.call(service, command(ORDER), timeout_s=5)
        spans = await world.spans.settled(1 + self.spans_per_call)
        (server,) = (span for span in world.spans.of(SpanKind.SERVER) if self.own(span))
        first, *line = ancestry(server, spans)
        assert len(line) == self.spans_per_call == len(spans) - 1
        assert first.context.span_id == conversation.get_span_context().span_id
        half = len(line) // 2
        assert [span.kind for span in line] == [SpanKind.CLIENT] * half + [SpanKind.SERVER] * half
        assert [span for span in line if span.parent.is_remote] == [line[half]]
        for span in line:
            sides = {SpanKind.CLIENT: "orders", SpanKind.SERVER: service}
            assert span.resource.attributes["service.name"] == sides[span.kind]
            assert {key: span.attributes[key] for key in BAGGAGE} == BAGGAGE
            assert_fine(span)
        assert [span for span in line if self.own(span)] == [line[0], line[-1]]
        for span in (line[0], line[-1]):
            assert span.name == self.method(command)
            assert span.attributes[c.LAB_ORDER_ID] == "o-1"

    async def test_spans_say_what_the_conventions_name_and_nothing_else(self, world: World, orders: Rpc) -> None:
        """What contrib says beyond them is put right (services/telemetry/fixups.py)."""
        await world.serve("payment", done_soon)
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        for span in await world.spans.settled(self.spans_per_call):
            own = self.own(span)
            said = self.attributes[span.kind] | {c.LAB_ORDER_ID} if own else self.beneath[span.kind]
            assert span.attributes.keys() == said
            assert span.instrumentation_scope.schema_url == c.SCHEMA_URL

    async def test_the_handler_works_inside_the_server_span(self, world: World, orders: Rpc) -> None:
        seen: list[Any] = []

        async def handler(command: Command) -> Event:
            seen.append(otel_context.get_current())
            return done(command)

        await world.serve("payment", handler)
        with in_conversation(world):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await world.spans.settled(1 + self.spans_per_call)
        (server,) = (span for span in world.spans.of(SpanKind.SERVER) if self.own(span))
        assert get_current_span(seen[0]).get_span_context().span_id == server.context.span_id
        assert baggage.get_baggage(c.LAB_RUN_ID, seen[0]) == "run-7"

    async def test_serving_inside_a_span_does_not_adopt_it(self, world: World, orders: Rpc) -> None:
        """Whoever starts the server is not the parent of what it serves."""
        with in_conversation(world) as starting:
            await world.serve("payment", done_soon)
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        for span in await world.spans.settled(1 + self.spans_per_call):
            if span.kind is not SpanKind.INTERNAL:
                assert span.context.trace_id != starting.get_span_context().trace_id
                assert c.LAB_RUN_ID not in span.attributes

    @pytest.mark.parametrize("failure", ["absent", "deadline", "crash", "killed", "cancelled"])
    async def test_a_failure_is_an_error_on_its_spans_and_every_span_ends(
        self, world: World, orders: Rpc, failure: str
    ) -> None:
        slow = Slow()

        async def crash(_: Command) -> Event:
            raise ZeroDivisionError

        payment = None
        if failure != "absent":
            payment = await world.serve("payment", crash if failure == "crash" else slow)
        with in_conversation(world):
            call = asyncio.create_task(
                orders.call("payment", ChargePayment(ORDER), timeout_s=0.3 if failure == "deadline" else 5)
            )
            if failure in {"killed", "cancelled"}:
                await slow.begun.wait()
            if failure == "killed":
                await payment.close()
            if failure == "cancelled":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(call, 0.05)
            else:
                with pytest.raises(errors.TransportError):
                    await call
        if failure in {"deadline", "cancelled"}:
            await self.given_up(slow)
        spans = await world.spans.settled(1 + self.spans_per_call // (2 if failure == "absent" else 1))
        (client,) = (span for span in world.spans.of(SpanKind.CLIENT) if self.own(span))
        assert client.status.status_code is StatusCode.ERROR
        assert client.attributes[c.ERROR_TYPE]
        assert {span.context.trace_id for span in spans} == {client.context.trace_id}
        for server in world.spans.of(SpanKind.SERVER):
            assert client in ancestry(server, spans)
            failed = server.status.status_code is StatusCode.ERROR
            assert failed is (c.ERROR_TYPE in server.attributes)
            exceptions = [event for event in server.events if event.name == "exception"]
            assert len(exceptions) <= 1
            if failure == "crash" and self.own(server):  # an answer that says so is none of HTTP's failures
                assert failed
            if failure == "deadline":
                assert failed is self.server_learns


class SocketRpcSuite(RpcSuite):
    """What only a real wire can show."""

    async def test_a_killed_process_leaves_it_unknown(self, world: World, orders: Rpc) -> None:
        """SIGKILL in the middle of a call; after it, the peer is plainly not there."""
        port = world.ports["payment"]
        arguments = ("-m", "tests.transports.rpc.victim", self.adapter.name, str(port))
        victim = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
        try:
            assert victim.stdout
            assert await victim.stdout.readline() == b"listening\n"
            call = asyncio.create_task(orders.call("payment", ChargePayment(ORDER), timeout_s=30))
            assert await victim.stdout.readline() == b"begun\n"
        finally:
            victim.kill()
            await victim.wait()
        with pytest.raises(errors.ConnectionBroken):
            await call
        with pytest.raises(errors.Unavailable):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)


# --- what the behaviours use


def done(command: Command) -> Event:
    step = STEP_OF[type(command)]
    event = step.done if type(command) is step.do else step.undone
    assert event is not None
    return event(command.order)


async def done_soon(command: Command) -> Event:
    return done(command)


def always(event: Event) -> Handler:
    async def handler(_: Command) -> Event:
        return event

    return handler


class Slow:
    """A handler that says when it has begun and goes on only when it may."""

    def __init__(self, *, pass_first: int = 0) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.finished = self.cancelled = 0
        self._pass_first = pass_first

    async def __call__(self, command: Command) -> Event:
        if self._pass_first:
            self._pass_first -= 1
            return done(command)
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1
        return done(command)


def ancestry(span: ReadableSpan, spans: Iterable[ReadableSpan]) -> list[ReadableSpan]:
    """``span`` and all that it descends from among ``spans``, the eldest first."""
    found = {each.context.span_id: each for each in spans}
    line = [span]
    while line[0].parent and line[0].parent.span_id in found:
        line.insert(0, found[line[0].parent.span_id])
    assert {each.context.trace_id for each in line} == {span.context.trace_id}
    return line


def assert_fine(span: ReadableSpan) -> None:
    assert span.status.status_code is StatusCode.UNSET
    assert c.ERROR_TYPE not in span.attributes
    assert not span.events


@contextlib.contextmanager
def in_conversation(world: World) -> Any:
    """Inside a span of orders, with the lab's baggage."""
    telemetry = set_up("orders")
    telemetry.provider.add_span_processor(world.spans)
    context = otel_context.Context()
    for key, value in BAGGAGE.items():
        context = baggage.set_baggage(key, value, context)
    token = otel_context.attach(context)
    try:
        with telemetry.tracer.start_as_current_span("converse") as span:
            yield span
    finally:
        otel_context.detach(token)


async def until(
    condition: Callable[[], bool | Awaitable[bool]], otherwise: Callable[[], str], *, seconds: float = 5
) -> None:
    """Poll; fails with ``otherwise`` after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        met = condition()
        if not isinstance(met, bool):
            met = await met
        if met:
            return
        assert time.monotonic() < end, otherwise()
        await asyncio.sleep(0.01)


def free_ports(count: int) -> Iterable[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def refused_input(service: str, transport: str, reason: str | None = None) -> float:
    """What the counter of refused input stands at."""
    return sum(
        sample.value
        for metric in metrics.REFUSED_INPUT.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
        and sample.labels[c.LABEL_SERVICE] == service
        and sample.labels[c.LABEL_TRANSPORT] == transport
        and reason in {None, sample.labels[c.LABEL_REASON]}
    )
