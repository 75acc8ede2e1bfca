"""Ice: the behaviours of every Rpc, and Ice's own."""

from tests.ice import ENVIRONMENT  # isort: skip

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import Ice as zeroc  # noqa: N813
import psutil
import pytest
import uvloop
from hypothesis import given, settings
from opentelemetry.trace import SpanKind

from services.contracts.slice import Antiphon, command_to, event_from, event_to, order_from
from services.domain.messages import (
    ChargePayment,
    Command,
    Event,
    NotifyCustomer,
    Order,
    PaymentCharged,
    PaymentDeclined,
)
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.setup import set_up
from services.transports import errors
from services.transports.ports import Rpc, Wiring
from services.transports.rpc.ice import LIMIT_BYTES, Ice, full_name
from tests.transports.fuzz import ON_THE_WIRE, bytes_like, hammer
from tests.transports.rpc.suite import (
    BAGGAGE,
    ORDER,
    Slow,
    SocketRpcSuite,
    World,
    always,
    ancestry,
    done_soon,
    in_conversation,
    refused_input,
    until,
)

VALID = b"IceP\1\0\1\0\3\0\x0e\0\0\0"
"""The message with which a server greets, and with which nothing else can begin."""
CHARGE = command_to(ChargePayment(ORDER))
NO_TEXT = b"\xff\xfe\xc3"
Ask = Callable[..., Any]


def command(**changes: Any) -> Any:
    """A Command about an order with ``changes``."""
    made = command_to(ChargePayment(ORDER))
    for name, value in changes.items():
        setattr(made.order, name, value)
    return made


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def parameters(encoded: bytes = b"") -> bytes:
    """Of a call: an encapsulation in encoding 1.1."""
    return struct.pack("<iBB", 6 + len(encoded), 1, 1) + encoded


def request(
    params: bytes,
    *,
    identity: bytes = b"payment",
    category: bytes = b"",
    facet: bytes | None = None,
    operation: bytes = b"charge",
    mode: int = 2,
    context: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A request message, as Ice writes it where all is well."""
    body = struct.pack("<i", 1) + text(identity) + text(category)
    body += b"\0" if facet is None else b"\1" + text(facet)
    body += text(operation) + bytes([mode, len(context)])
    body += b"".join(text(key) + text(value) for key, value in context) + params
    return b"IceP\1\0\1\0\0\0" + struct.pack("<i", 14 + len(body)) + body


@contextlib.contextmanager
def stranger(**properties: int) -> Iterator[Any]:
    """Ice of somebody else; it does not repeat what failed, so that there is one of each thing to count."""
    start = zeroc.InitializationData()
    start.properties = zeroc.createProperties()
    for name, value in {
        "Ice.RetryIntervals": -1,
        "Ice.Warn.Connections": 0,
        "Ice.Warn.Dispatch": 0,
        **properties,
    }.items():
        start.properties.setProperty(name, str(value))
    with zeroc.initialize(start) as communicator:
        yield communicator


class Recorder(zeroc.Blobject):
    """Answers each call with what it was told, and keeps what it was asked, both as they are encoded."""

    def __init__(self) -> None:
        self.asked = b""
        self.answer = parameters()

    def ice_invoke(self, asked: bytes, current: Any) -> tuple[bool, bytes]:
        self.asked = bytes(asked)
        return True, self.answer


class Payment(Antiphon.Payment):
    """A payment service whose orders are the contract's."""

    def charge(self, sent: Any, current: Any = None) -> Any:
        try:
            return event_to(PaymentCharged(order_from(sent.order)))
        except ValueError as error:
            raise Antiphon.InvalidCommand(str(error)) from None


@pytest.fixture
def inside() -> Iterator[Any]:
    """An adapter without a wire: what it is asked is encoded and decoded all the same."""
    with stranger() as communicator:
        adapter = communicator.createObjectAdapter("")
        adapter.activate()
        yield adapter


def proxy(adapter: Any, servant: Any) -> Any:
    return Antiphon.PaymentPrx.uncheckedCast(adapter.addWithUUID(servant))


@pytest.fixture
def good_request(inside: Any) -> bytes:
    """The parameters of a call that goes well."""
    recorder = Recorder()
    with contextlib.suppress(zeroc.UnmarshalOutOfBoundsException):  # of its answer, in which nothing is
        proxy(inside, recorder).charge(CHARGE)
    return recorder.asked


class Peer:
    """Something at a port that is no service of ours: ``behave`` gets each connection, one by one."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.met = 0
        self._behave = behave
        self._ended = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                if self._ended:
                    return
                self.met += 1
                self._behave(connection)

    def close(self) -> None:
        """Once its callers have closed."""
        self._ended = True
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()


class TestIce(SocketRpcSuite):
    adapter = Ice
    address = "127.0.0.1:{}"
    attributes = {  # noqa: RUF012
        SpanKind.CLIENT: {
            *(c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.RPC_RESPONSE_STATUS_CODE, c.SERVER_ADDRESS, c.SERVER_PORT)
        },
        SpanKind.SERVER: {c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.RPC_RESPONSE_STATUS_CODE},
    }

    def method(self, command: type[Command]) -> str:
        return full_name(command)

    @pytest.fixture(autouse=True)
    def _found_by_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    async def ask(self, world: World) -> AsyncIterator[Ask]:
        """A stranger's client of a payment service; gives the answer or the exception."""
        await world.serve("payment", done_soon)
        with stranger() as communicator:

            async def ask(call: Callable[[Any], Any], identity: str = "payment") -> Any:
                target = communicator.stringToProxy(f"{identity}:tcp -h 127.0.0.1 -p {world.ports['payment']}")
                try:
                    return await asyncio.to_thread(call, Antiphon.PaymentPrx.uncheckedCast(target))
                except zeroc.Exception as error:
                    return error

            yield ask

    @pytest.fixture
    async def orders_of(self) -> AsyncIterator[Callable[[Callable[[socket.socket], None]], tuple[Rpc, Peer]]]:
        """Orders, whose payment service is a peer that behaves badly."""
        made: list[tuple[Rpc, Peer]] = []

        def orders_of(behave: Callable[[socket.socket], None]) -> tuple[Rpc, Peer]:
            peer = Peer(behave)
            rpc = Ice(Wiring("orders", set_up("orders"), peers={"payment": {"ice": peer.address}}))
            made.append((rpc, peer))
            return rpc, peer

        yield orders_of
        for rpc, peer in made:
            await rpc.close()
            peer.close()

    # --- what makes no sense

    @pytest.mark.parametrize(
        ("call", "error", "counted"),
        [
            (lambda p: p.charge(command(order_id="")), "InvalidCommand", "InvalidCommand"),
            (lambda p: p.charge(command(lines=[])), "InvalidCommand", "InvalidCommand"),
            (lambda p: p.charge(command(lines=[Antiphon.Line("tea", 0)])), "InvalidCommand", "InvalidCommand"),
            (
                lambda p: Antiphon.InventoryPrx.uncheckedCast(p).reserve(CHARGE),
                *("OperationNotExistException", "OperationNotExistException"),
            ),
            (
                lambda p: Antiphon.PaymentPrx.uncheckedCast(p, "v2").charge(CHARGE),
                *("FacetNotExistException", "FacetNotExistException"),
            ),
            (
                lambda p: p.ice_invoke("charge", zeroc.OperationMode.Idempotent, parameters()),
                *("UnknownLocalException", "UnmarshalOutOfBoundsException"),
            ),
            (
                lambda p: p.ice_invoke("charge", zeroc.OperationMode.Normal, parameters()),
                *("UnknownLocalException", "MarshalException"),
            ),
            (
                lambda p: p.charge(command(customer="x" * LIMIT_BYTES)),
                *("ConnectionLostException", "MemoryLimitException"),
            ),
        ],
        ids=["no id", "no lines", "quantity", "operation", "facet", "no parameters", "mode", "oversize"],
    )
    async def test_what_makes_no_sense_gets_its_exception(
        self, world: World, orders: Rpc, ask: Ask, call: Callable[[Any], Any], error: str, counted: str
    ) -> None:
        before = refused_input("payment", "ice", counted)
        assert type(await ask(call)).__name__ == error
        await until(lambda: refused_input("payment", "ice", counted) == before + 1, lambda: "nobody counts it")
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        for span in await world.spans.settled(2):
            assert not span.events
            assert c.ERROR_TYPE not in span.attributes, "the caller's mistake is no error of the server"

    async def test_of_an_object_that_is_not_there_it_says_so(self, ask: Ask) -> None:
        before = refused_input("payment", "ice", "ObjectNotExistException")
        for identity in ("nobody", "payment/payment"):
            answer = await ask(lambda p: p.ice_ping(), identity)
            assert isinstance(answer, zeroc.ObjectNotExistException)
        await until(
            lambda: refused_input("payment", "ice", "ObjectNotExistException") == before + 2, lambda: "nobody counts it"
        )

    async def test_its_statistics_are_not_to_be_reached(self, ask: Ask) -> None:
        """Nor anything else that a communicator can offer: it has no admin object but its own inside."""
        for identity in ("Refusals", "antiphon/admin", "Ice/Admin"):
            for facet in ("Metrics", "Properties", "Process", ""):
                answer = await ask(lambda p, f=facet: p.ice_facet(f).ice_ping(), identity)
                assert isinstance(answer, zeroc.ObjectNotExistException)

    async def test_the_declared_exception_names_the_field(self, ask: Ask) -> None:
        wrong = await ask(lambda p: p.charge(command(lines=[Antiphon.Line("tea", -1)])))
        assert wrong.reason.startswith("order.lines.0.quantity:")

    async def test_a_large_order_passes_both_ways(self, world: World, orders: Rpc) -> None:
        """The limit is the request's: its answer may be larger."""
        large = ChargePayment(Order("o-1", "x" * (LIMIT_BYTES - 400), "4", "Z", ORDER.lines, 1))
        declined = PaymentDeclined(large.order, "x" * 2000)
        await world.serve("payment", always(declined))
        assert await orders.call("payment", large, timeout_s=5) == declined

    async def test_a_larger_one_costs_the_connection(self, world: World, orders: Rpc) -> None:
        """The next call has a new one."""
        await world.serve("payment", done_soon)
        huge = ChargePayment(Order("o-1", "x" * LIMIT_BYTES, "4", "Z", ORDER.lines, 1))
        with pytest.raises(errors.ConnectionBroken):
            await orders.call("payment", huge, timeout_s=5)
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    # --- names and texts that are none: each of them can end a process that looks at it (3.7.8)

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            ({"identity": NO_TEXT}, 2),
            ({"category": NO_TEXT}, 2),
            ({"facet": NO_TEXT}, 3),
            ({"operation": NO_TEXT}, 4),
            ({"context": ((NO_TEXT, b"x"),)}, 0),
            ({"context": ((b"traceparent", NO_TEXT),)}, 0),
        ],
        ids=["identity", "category", "facet", "operation", "key", "value"],
    )
    async def test_what_is_no_text_is_answered_like_any_other(
        self, world: World, good_request: bytes, sent: dict[str, Any], status: int
    ) -> None:
        await world.serve("payment", done_soon)
        counted, bad = refused_input("payment", "ice"), bad_contexts()
        answer = await exchange(world.ports["payment"], VALID + request(good_request, **sent))
        assert answer[14 + 14 + 4] == status
        if status:
            await until(lambda: refused_input("payment", "ice") == counted + 1, lambda: "nobody counts it")
        else:
            assert bad_contexts() == bad + 1
            (server,) = await world.spans.settled(1)
            assert server.parent is None

    async def test_a_text_of_the_order_that_is_none_is_refused(self, world: World, good_request: bytes) -> None:
        await world.serve("payment", done_soon)
        counted = refused_input("payment", "ice", "UnknownException")
        wrong = good_request.replace(b"4242", b"4\xff42")
        answer = await exchange(world.ports["payment"], VALID + request(wrong))
        assert answer[14 + 14 + 4] == 7
        await until(
            lambda: refused_input("payment", "ice", "UnknownException") == counted + 1, lambda: "nobody counts it"
        )
        assert not world.spans.started

    async def test_a_failure_of_the_service_is_no_refused_input(self, world: World, orders: Rpc) -> None:
        async def handler(_: Command) -> Event:
            raise ZeroDivisionError

        payment = await world.serve("payment", handler)
        counted = refused_input("payment", "ice")
        with pytest.raises(
            errors.PeerFailed, match="answered UnknownException: ChargePayment could not be carried out"
        ):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await payment.close()  # which tells the last ones
        assert refused_input("payment", "ice") == counted

    async def test_neither_is_a_call_that_a_draining_service_turns_away(self, world: World, orders: Rpc) -> None:
        payment = await world.serve("payment", done_soon)
        counted = refused_input("payment", "ice")
        await payment.drain()
        with pytest.raises(errors.Unavailable, match="payment did nothing: ObjectNotExistException"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await payment.close()
        assert refused_input("payment", "ice") == counted

    # --- contexts and connections

    async def test_a_stranger_s_context_is_the_trace_s(self, world: World, ask: Ask) -> None:
        with in_conversation(world) as conversation:
            span = conversation.get_span_context()
        context = {
            "traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-01",
            "baggage": ",".join(f"{key}={value.replace(' ', '%20')}" for key, value in BAGGAGE.items()),
            "and": "more",
        }
        answer = await ask(lambda p: p.charge(CHARGE, context))
        assert event_from(answer, ChargePayment(ORDER)) == PaymentCharged(ORDER)
        spans = await world.spans.settled(2)
        (server,) = world.spans.of(SpanKind.SERVER)
        assert [each.name for each in ancestry(server, spans)] == ["converse", "Antiphon::Payment/charge"]
        assert {key: server.attributes[key] for key in BAGGAGE} == BAGGAGE

    async def test_calls_to_a_peer_share_one_connection(self, world: World, orders: Rpc) -> None:
        await world.serve("payment", done_soon)
        for _ in range(3):
            await asyncio.gather(*(orders.call("payment", ChargePayment(ORDER), timeout_s=5) for _ in range(20)))
        assert connections(world.ports["payment"]) == 1

    async def test_objects_of_the_contract_say_what_they_are(self, ask: Ask) -> None:
        assert await ask(lambda p: p.ice_id()) == "::Antiphon::Payment"
        assert await ask(lambda p: p.ice_isA("::Antiphon::Payment"))
        assert not await ask(lambda p: p.ice_isA("::Antiphon::Inventory"))

    # --- peers that are none

    async def test_a_peer_that_hangs_up_on_a_call_leaves_it_unknown_and_is_asked_once(self, orders_of: Any) -> None:
        def hang_up(connection: socket.socket) -> None:
            connection.sendall(VALID)
            connection.recv(1000)

        orders, peer = orders_of(hang_up)
        for asked in (1, 2):
            with pytest.raises(errors.ConnectionBroken, match="payment: ConnectionLostException"):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            assert peer.met == asked

    @pytest.mark.parametrize("greeting", [VALID, b""], ids=["after the greeting", "at once"])
    async def test_a_peer_that_talks_something_else_has_failed(self, orders_of: Any, greeting: bytes) -> None:
        def talk(connection: socket.socket) -> None:
            connection.sendall(greeting + b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(1000)

        orders, _ = orders_of(talk)
        with pytest.raises(errors.PeerFailed, match="payment answered BadMagicException"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)

    async def test_a_peer_that_does_not_greet_is_unavailable(self, orders_of: Any) -> None:
        orders, _ = orders_of(lambda connection: connection.recv(1000))
        with pytest.raises(errors.Unavailable, match="payment cannot be reached: ConnectTimeoutException"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=10)

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (parameters(b"\1abcd"), errors.PeerFailed),
            (parameters(b"\2"), errors.DeadlineExceeded),  # Ice loses it, and nothing hangs
        ],
        ids=["unreadable", "lost"],
    )
    async def test_an_answer_that_is_none_ends_the_call(self, orders_of: Any, answer: bytes, error: type) -> None:
        def reply(connection: socket.socket) -> None:
            connection.sendall(VALID)
            connection.recv(1000)
            body = struct.pack("<iB", 1, 0) + answer
            connection.sendall(b"IceP\1\0\1\0\2\0" + struct.pack("<i", 14 + len(body)) + body)
            connection.recv(1000)

        orders, _ = orders_of(reply)
        with pytest.raises(error):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=0.5)

    async def test_a_name_that_nobody_knows_is_unavailable(self, world: World) -> None:
        rpc = Ice(Wiring("orders", set_up("orders"), peers={"payment": {"ice": "nowhere.invalid:1"}}))
        world.opened.append(rpc)
        with pytest.raises(errors.Unavailable, match="payment cannot be reached: DNSException"):
            await rpc.call("payment", ChargePayment(ORDER), timeout_s=10)
        with pytest.raises(errors.Unavailable, match="inventory has no address for ice"):
            await rpc.call("inventory", ChargePayment(ORDER), timeout_s=10)

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            Antiphon.Event("payment.charged"),
            Antiphon.Event("payment.charge", CHARGE.order),
            Antiphon.Event("stock.reserved", CHARGE.order),
            Antiphon.Event("payment.declined", CHARGE.order),
            Antiphon.Event("order.placed", CHARGE.order),
        ],
        ids=str,
    )
    async def test_a_peer_that_answers_nonsense_has_failed(
        self, world: World, orders: Rpc, answer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.transports.rpc.ice.event_to", lambda _: answer)
        await world.serve("payment", done_soon)
        with pytest.raises(errors.PeerFailed, match="no event"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)

    # --- coming and going

    async def test_a_port_that_is_taken_is_named(self, world: World) -> None:
        await world.serve("payment", done_soon)
        with pytest.raises(OSError, match=f"port {world.ports['payment']} on 127.0.0.1 is taken"):
            await world.serve("payment", done_soon)

    async def test_closed_it_leaves_no_port_and_no_thread(self, world: World, orders: Rpc) -> None:
        """Whoever else still holds a connection, and whatever was in hand."""
        process = psutil.Process()
        before = process.num_threads()
        slow = Slow()
        payment = await world.serve("payment", slow)
        call = asyncio.create_task(orders.call("payment", ChargePayment(ORDER), timeout_s=30))
        await slow.begun.wait()
        assert process.num_threads() > before
        with socket.create_connection(("127.0.0.1", world.ports["payment"])):
            for rpc in (payment, orders):
                await rpc.close()
            with pytest.raises(errors.ConnectionBroken):
                await call
            socket.create_server(("127.0.0.1", world.ports["payment"])).close()
        await until(lambda: process.num_threads() <= before, lambda: f"{process.num_threads()} threads, not {before}")

    async def test_a_caller_that_closes_has_no_answer(self, world: World, orders: Rpc) -> None:
        slow = Slow()
        await world.serve("payment", slow)
        call = asyncio.create_task(orders.call("payment", ChargePayment(ORDER), timeout_s=30))
        await slow.begun.wait()
        await orders.close()
        with pytest.raises(errors.ConnectionBroken, match="CommunicatorDestroyedException"):
            await call

    def test_it_runs_on_the_loop_of_the_services(self) -> None:
        world = World(self)

        async def story() -> None:
            slow = Slow(pass_first=1)
            orders = world.connect("orders")
            payment = await world.serve("payment", slow)
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            call = asyncio.create_task(orders.call("payment", ChargePayment(ORDER), timeout_s=5))
            await slow.begun.wait()
            drained = asyncio.create_task(payment.drain())
            slow.go.set()
            assert await call == PaymentCharged(ORDER)
            await drained
            await world.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(story())

    async def test_no_setting_of_somebody_else_counts(
        self, world: World, orders: Rpc, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ice reads a file that ICE_CONFIG names, if it is let."""
        (tmp_path / "config").write_text("Ice.Default.Protocol=nonsense\nIce.MessageSizeMax=1\n")
        monkeypatch.setenv("ICE_CONFIG", str(tmp_path / "config"))
        await world.serve("payment", done_soon)
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)

    # --- malformed bytes

    async def test_no_bytes_on_the_wire_can_hurt(self, world: World, orders: Rpc, good_request: bytes) -> None:
        """Whatever is sent is answered or hung up on; nothing stays open, and refusals are counted."""
        await world.serve("payment", done_soon)
        port = world.ports["payment"]
        context = ((b"traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"),)
        good = VALID + request(good_request, context=context)
        sent: list[bytes] = []

        @settings(max_examples=ON_THE_WIRE, deadline=None, database=None)
        @given(bytes_like(good))
        def draw(data: bytes) -> None:
            sent.append(data)

        draw()
        counted = refused_input("payment", "ice")
        assert len(sent) >= ON_THE_WIRE
        for data in sent:
            await exchange(port, data, answer=False)
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        await until(lambda: connections(port) == 1, lambda: f"{connections(port)} connections stay")
        await until(
            lambda: refused_input("payment", "ice") > counted + ON_THE_WIRE / 4,
            lambda: f"counted {refused_input('payment', 'ice') - counted}",
        )
        await world.spans.settled(2)


def bad_contexts() -> float:
    return metrics.BAD_CONTEXT.labels("payment")._value.get()


def connections(port: int) -> int:
    """How many the server at ``port`` has."""
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.Process().net_connections("tcp")
    )


async def exchange(port: int, data: bytes, *, answer: bool = True) -> bytes:
    """What the server says to ``data``: until it has said an answer, if there is to be one, and until it hangs up on
    one who says no more. It has five seconds for that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError, BrokenPipeError):
                writer.write(data)
                while answer and len(said) <= len(VALID) and (more := await reader.read(1000)):
                    said += more
            with contextlib.suppress(OSError):  # it may have hung up already
                writer.write_eof()
            with contextlib.suppress(ConnectionError):
                said += await reader.read()
    except TimeoutError:
        pytest.fail(f"it neither answers nor hangs up: {data!r}")
    finally:
        writer.close()
    return said


def test_no_parameters_can_hurt(inside: Any, good_request: bytes) -> None:
    """They are decoded as those of any call; what does not make a command is refused."""
    payment = proxy(inside, Payment())
    assert payment.ice_invoke("charge", zeroc.OperationMode.Idempotent, good_request)[0]
    hammer(
        lambda data: payment.ice_invoke("charge", zeroc.OperationMode.Idempotent, data), zeroc.Exception, good_request
    )


@pytest.mark.parametrize("event", [PaymentCharged(ORDER), PaymentDeclined(ORDER, "no")], ids=["done", "refused"])
def test_no_answer_can_hurt(inside: Any, event: Event) -> None:
    """It makes an event of the step, or it is refused. With AttributeError and SystemError, too, Ice says that it could
    not read it (3.7.8); where nobody waits in line for it, it then loses the answer."""
    recorder = Recorder()
    payment = proxy(inside, recorder)

    class Answering(Antiphon.Payment):
        def charge(self, sent: Any, current: Any = None) -> Any:
            return event_to(event)

    _, encoded = proxy(inside, Answering()).ice_invoke(
        "charge", zeroc.OperationMode.Idempotent, asked_by(recorder, payment)
    )

    def decode(data: bytes) -> None:
        recorder.answer = data
        assert isinstance(event_from(payment.charge(CHARGE), ChargePayment(ORDER)), PaymentCharged | PaymentDeclined)

    hammer(decode, (zeroc.Exception, ValueError, AttributeError, SystemError), bytes(encoded))


def asked_by(recorder: Recorder, payment: Any) -> bytes:
    with contextlib.suppress(zeroc.UnmarshalOutOfBoundsException):
        payment.charge(CHARGE)
    return recorder.asked


def test_a_command_without_a_way_back_has_one_operation() -> None:
    assert full_name(NotifyCustomer) == "Antiphon::Notifications/notify"
