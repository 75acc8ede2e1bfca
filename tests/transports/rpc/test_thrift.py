"""Thrift: the behaviours of every Rpc, and Thrift's own; the library's own client and server are at the other end."""

import asyncio
import contextlib
import socket as sockets
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from opentelemetry.trace import SpanKind, StatusCode
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.protocol.THeaderProtocol import THeaderProtocol, THeaderProtocolFactory
from thrift.server.TServer import TThreadedServer
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.THeaderTransport import THeaderClientType, THeaderSubprotocolID, THeaderTransformID
from thrift.transport.TSocket import TServerSocket, TSocket
from thrift.transport.TTransport import TFramedTransport, TMemoryBuffer, TTransportBase, TTransportFactoryBase

from services.contracts.generated.antiphon_thrift import Payment
from services.contracts.generated.antiphon_thrift import ttypes as t
from services.contracts.thrift_codec import METHODS, command_from, command_to, event_to, order_from, order_to
from services.domain.messages import ChargePayment, Command, Line, Order, PaymentCharged, PaymentDeclined
from services.telemetry import conventions as c
from services.transports import errors, frames
from services.transports.frames import read_frame
from services.transports.ports import Rpc
from services.transports.rpc.thrift import Thrift, _read
from services.transports.theader import LIMIT_BYTES, Malformed, Message
from tests.transports import fuzz
from tests.transports.rpc.suite import (
    ORDER,
    Slow,
    SocketRpcSuite,
    World,
    always,
    assert_fine,
    done_soon,
    in_conversation,
    refused_input,
    until,
)

HEADERS, COMPACT = THeaderClientType.HEADERS, THeaderSubprotocolID.COMPACT
CHARGE = METHODS[ChargePayment]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Ask = Callable[[bytes], Awaitable[Message | None]]
Answers = Callable[[int], bytes]


class Bytes:
    """A struct that is already written."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def write(self, protocol: Any) -> None:
        protocol.trans.write(self.raw)


def framed(name: str, body: Any, *, kind: int = TMessageType.CALL, seqid: int = 7) -> bytes:
    """A THeader frame, as the library makes it."""
    buffer = TMemoryBuffer()
    protocol = THeaderProtocol(buffer, (HEADERS,), COMPACT)
    protocol.set_header(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    protocol.writeMessageBegin(name, kind, seqid)
    body.write(protocol)
    protocol.writeMessageEnd()
    protocol.trans.flush()
    return buffer.getvalue()


def unframed(protocol_class: type) -> bytes:
    buffer = TMemoryBuffer()
    Payment.Client(protocol_class(buffer)).send_charge(t.Command(order_to(ORDER)))
    return buffer.getvalue()


def charge(**changes: Any) -> bytes:
    """A call about an order with ``changes``; None leaves a field out."""
    order = order_to(ORDER)
    for name, value in changes.items():
        setattr(order, name, value)
    return framed("charge", Payment.charge_args(t.Command(order)))


def with_length(body: bytes) -> bytes:
    return struct.pack("!i", len(body)) + body


GOOD = charge()
ARGUMENTS = GOOD[GOOD.index(b"charge") + len("charge") :]


def zipped(body: Any) -> bytes:
    """A call whose message is compressed."""
    buffer = TMemoryBuffer()
    protocol = THeaderProtocol(buffer, (HEADERS,), COMPACT)
    protocol.add_transform(THeaderTransformID.ZLIB)
    protocol.writeMessageBegin("charge", TMessageType.CALL, 7)
    body.write(protocol)
    protocol.trans.flush()
    return buffer.getvalue()


# --- answers of a peer, to the call ``seqid``


def reply(seqid: int, result: Any, name: str = "charge") -> bytes:
    return framed(name, result, kind=TMessageType.REPLY, seqid=seqid)


def exception(seqid: int, type_: int) -> bytes:
    return framed("charge", TApplicationException(type_, "boom"), kind=TMessageType.EXCEPTION, seqid=seqid)


def reply_charged(seqid: int) -> bytes:
    return reply(seqid, Payment.charge_result(event_to(PaymentCharged(ORDER))))


def hang_up(_: int) -> bytes:
    return b""


@asynccontextmanager
async def scripted(world: World, answers: list[Answers]) -> AsyncIterator[None]:
    """A payment service that gives these answers, one to a call, and hangs up in place of an empty one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                asked = Message(await read_frame(reader, LIMIT_BYTES))
                answer = answers.pop(0)(asked.seqid)
                if not answer:
                    break
                writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", world.ports["payment"]):
        yield


class TestThrift(SocketRpcSuite):
    adapter = Thrift
    address = "127.0.0.1:{}"
    attributes = {  # noqa: RUF012
        SpanKind.CLIENT: {c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.SERVER_ADDRESS, c.SERVER_PORT},
        SpanKind.SERVER: {c.RPC_SYSTEM_NAME, c.RPC_METHOD},
    }

    def method(self, command: type[Command]) -> str:
        return METHODS[command].full_name

    @pytest.fixture
    async def payment(self, world: World) -> Any:
        return await world.serve("payment", done_soon)

    @pytest.fixture
    async def ask(self, world: World, payment: Any) -> AsyncIterator[Ask]:
        """A stranger, who sends any bytes to a payment service; gives the answer, None if it is hung up on."""
        writers: list[asyncio.StreamWriter] = []

        async def ask(sent: bytes) -> Message | None:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["payment"])
            writers.append(writer)
            writer.write(sent)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    if head := await reader.read(4):
                        return Message(head + await reader.readexactly(int.from_bytes(head, "big")))
            return None

        yield ask
        for writer in writers:
            writer.transport.abort()

    @pytest.fixture
    async def library(self, world: World, payment: Any) -> Any:
        """Calls ``charge`` by the library's own blocking client, in a thread, over the protocol that it is given."""

        def blocking(protocol_of: Callable[[Any], Any]) -> Any:
            socket = TSocket("127.0.0.1", world.ports["payment"])
            socket.setTimeout(5000)
            protocol = protocol_of(socket)
            protocol.trans.open()
            try:
                client = Payment.Client(protocol)
                return [client.charge(t.Command(order_to(ORDER))) for _ in range(2)]
            finally:
                protocol.trans.close()

        async def call(protocol_of: Callable[[Any], Any]) -> Any:
            return await asyncio.to_thread(blocking, protocol_of)

        return call

    # --- what the server takes, and what it does not

    @pytest.mark.parametrize(
        ("sent", "status", "says"),
        [
            (framed("steal", Payment.charge_args()), "UNKNOWN_METHOD", "payment has no such method"),
            (framed("reserve", Payment.charge_args()), "UNKNOWN_METHOD", "payment has no such method"),
            (framed("Payment:charge", Payment.charge_args()), "UNKNOWN_METHOD", "payment has no such method"),
            (framed("charge", Bytes(b"")), "PROTOCOL_ERROR", "the arguments cannot be read"),
            (framed("charge", Bytes(ARGUMENTS[:20])), "PROTOCOL_ERROR", "the arguments cannot be read"),
            (framed("charge", Bytes(ARGUMENTS.replace(b"4242", b"42\xff2"))), "PROTOCOL_ERROR", "cannot be read"),
            (framed("charge", Bytes(b"\x1c" * 5000)), "PROTOCOL_ERROR", "the arguments cannot be read"),
            (framed("charge", Payment.charge_args()), "INVALID_ARGUMENT", "command: is missing"),
            (framed("charge", Payment.charge_args(t.Command())), "INVALID_ARGUMENT", "order: is missing"),
            (charge(order_id=""), "INVALID_ARGUMENT", "order.order_id: is missing or empty"),
            (charge(order_id=None), "INVALID_ARGUMENT", "order.order_id: is missing"),
            (charge(customer=None), "INVALID_ARGUMENT", "order.customer: is missing"),
            (charge(amount_cents=None), "INVALID_ARGUMENT", "order.amount_cents: is missing"),
            (charge(lines=[]), "INVALID_ARGUMENT", "order.lines: is missing or empty"),
            (charge(lines=[t.Line("tea", 0)]), "INVALID_ARGUMENT", "order.lines.0.quantity: is missing or less"),
            (charge(lines=[t.Line("tea", 1), t.Line(None, 1)]), "INVALID_ARGUMENT", "order.lines.1.sku: is missing"),
        ],
    )
    async def test_what_makes_no_sense_gets_its_status(
        self, world: World, orders: Rpc, ask: Ask, sent: bytes, status: str, says: str
    ) -> None:
        counted = refused_input("payment", "thrift", status.lower())
        answer = await ask(sent)
        assert answer is not None
        assert answer.seqid == 7
        if status in vars(TApplicationException):
            assert answer.kind == TMessageType.EXCEPTION
            failure = answer.read(TApplicationException())
            assert failure.type == getattr(TApplicationException, status)
        else:
            assert answer.kind == TMessageType.REPLY
            failure = answer.read(Payment.charge_result()).failed
            assert failure.code == getattr(t.Code, status)
        assert says in failure.message
        assert refused_input("payment", "thrift", status.lower()) == counted + 1
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        for span in await world.spans.settled(2):
            assert not span.events
            assert c.ERROR_TYPE not in span.attributes, "the caller's mistake is no error of the server"

    @pytest.mark.parametrize(
        ("sent", "reason"),
        [
            (with_length(b"what is this?"), "malformed"),
            (with_length(b""), "malformed"),
            (with_length(GOOD[4:40]), "malformed"),
            (GOOD[:14] + b"\x07" + GOOD[15:], "malformed"),  # an unknown protocol
            (framed("charge", Payment.charge_args(), kind=TMessageType.REPLY), "malformed"),
            (framed("charge", Payment.charge_args(), kind=TMessageType.ONEWAY), "malformed"),
            (zipped(Bytes(bytes(20 * LIMIT_BYTES))), "malformed"),
            (struct.pack("!i", LIMIT_BYTES + 1), "oversize"),  # and not a byte of it need follow
            (charge(customer="x" * LIMIT_BYTES), "oversize"),
            (unframed(TBinaryProtocol), "oversize"),
            (unframed(TCompactProtocol), "oversize"),
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "oversize"),
        ],
    )
    async def test_what_is_no_call_is_hung_up_on(self, orders: Rpc, ask: Ask, sent: bytes, reason: str) -> None:
        counted = refused_input("payment", "thrift", reason)
        assert await ask(sent) is None
        assert refused_input("payment", "thrift", reason) == counted + 1
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    async def test_an_unknown_transform_is_said(self, ask: Ask) -> None:
        """ "An error MUST be returned" (HeaderFormat.md)."""
        answer = await ask(GOOD[:15] + b"\x01\x63" + GOOD[17:])
        assert answer is not None
        assert (answer.kind, answer.seqid) == (TMessageType.EXCEPTION, 7)
        assert answer.read(TApplicationException()).type == TApplicationException.INVALID_TRANSFORM

    async def test_unknown_fields_are_skipped(self, ask: Ask) -> None:
        """A newer caller may say more than we know."""
        answer = await ask(framed("charge", Bytes(ARGUMENTS[:-3] + b"\x18\x03new" + ARGUMENTS[-3:])))
        assert answer is not None
        assert answer.read(Payment.charge_result()).success == event_to(PaymentCharged(ORDER))

    # --- the library at the other end

    async def test_the_library_s_client_is_served_and_its_context_taken(self, world: World, library: Any) -> None:
        def protocol(socket: TTransportBase) -> Any:
            protocol = THeaderProtocol(socket, (HEADERS,), COMPACT)
            flush = protocol.trans.flush

            def with_headers() -> None:  # they are for one message
                protocol.set_header(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
                protocol.set_header(b"baggage", b"lab.run_id=run-7")
                flush()

            protocol.trans.flush = with_headers
            return protocol

        assert await library(protocol) == [event_to(PaymentCharged(ORDER))] * 2
        for span in await world.spans.settled(2):
            assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
            assert span.attributes[c.LAB_RUN_ID] == "run-7"
            assert span.attributes[c.LAB_ORDER_ID] == "o-1"

    @pytest.mark.parametrize(
        "protocol",
        [
            lambda socket: TBinaryProtocol(TFramedTransport(socket)),
            lambda socket: TCompactProtocol(TFramedTransport(socket)),
            lambda socket: THeaderProtocol(socket, (HEADERS,), THeaderSubprotocolID.BINARY),
        ],
        ids=["framed binary", "framed compact", "THeader with binary"],
    )
    async def test_other_framed_dialects_are_answered_in_kind(self, world: World, library: Any, protocol: Any) -> None:
        """They have no place for a context: each call begins a trace."""
        assert await library(protocol) == [event_to(PaymentCharged(ORDER))] * 2
        first, second = await world.spans.settled(2)
        assert first.parent is second.parent is None
        assert first.context.trace_id != second.context.trace_id

    async def test_a_compressed_call_is_read(self, library: Any) -> None:
        def protocol(socket: TTransportBase) -> Any:
            protocol = THeaderProtocol(socket, (HEADERS,), COMPACT)
            protocol.add_transform(THeaderTransformID.ZLIB)
            return protocol

        assert await library(protocol) == [event_to(PaymentCharged(ORDER))] * 2

    async def test_the_declared_exception_is_raised_in_the_library_s_client(self, world: World) -> None:
        async def crash(_: Command) -> Any:
            raise ZeroDivisionError("secret")

        await world.serve("payment", crash)

        def call() -> t.Failed:
            protocol = THeaderProtocol(TSocket("127.0.0.1", world.ports["payment"]), (HEADERS,), COMPACT)
            protocol.trans.open()
            try:
                Payment.Client(protocol).charge(t.Command(order_to(ORDER)))
            except t.Failed as failed:
                return failed
            finally:
                protocol.trans.close()
            raise AssertionError

        assert await asyncio.to_thread(call) == t.Failed(t.Code.INTERNAL, "ChargePayment could not be carried out")
        (server,) = await world.spans.settled(1)
        assert server.attributes[c.RPC_RESPONSE_STATUS_CODE] == server.attributes[c.ERROR_TYPE] == "INTERNAL"

    @pytest.fixture
    def blocking_server(self, world: World) -> Iterator[dict[str, Any]]:
        """The library's TThreadedServer: a thread for each connection, which takes its calls one by one."""
        seen: dict[str, Any] = {"together": threading.Barrier(20, timeout=10), "headers": []}
        last = threading.local()

        class Protocols(THeaderProtocolFactory):  # type: ignore[misc]
            def getProtocol(self, transport: Any) -> Any:  # noqa: N802
                last.protocol = super().getProtocol(transport)
                return last.protocol

        class Handler:
            def charge(self, command: Any) -> Any:
                seen["headers"].append(last.protocol.get_headers())
                if command.order.order_id == "bad":
                    raise t.Failed(t.Code.INVALID_ARGUMENT, "no such order")
                seen["together"].wait()
                return event_to(PaymentCharged(order_from(command.order)))

        class Listener(TServerSocket):  # type: ignore[misc]
            def accept(self) -> Any:
                try:
                    return super().accept()
                except Exception:  # closed; the server's loop would go on for ever
                    raise SystemExit from None

        listener = Listener("127.0.0.1", world.ports["payment"])
        listener.listen()
        listener.listen = lambda: None  # the port is open before the thread runs
        protocols = Protocols(default_protocol=COMPACT)
        server = TThreadedServer(Payment.Processor(Handler()), listener, TTransportFactoryBase(), protocols)
        others = set(threading.enumerate())

        def serve() -> None:
            with contextlib.suppress(SystemExit):
                server.serve()

        threading.Thread(target=serve).start()
        yield seen
        listener.handle.shutdown(sockets.SHUT_RDWR)
        listener.close()
        for thread in set(threading.enumerate()) - others:
            thread.join(5)
            assert not thread.is_alive()

    async def test_the_library_s_server_is_called_side_by_side_and_gets_the_context(
        self, world: World, orders: Rpc, blocking_server: dict[str, Any]
    ) -> None:
        asked = [ChargePayment(Order(f"o-{n}", "c", "4", "X", (Line("tea", 1),), n)) for n in range(20)]
        with in_conversation(world):
            events = await asyncio.gather(*(orders.call("payment", command, timeout_s=10) for command in asked))
        assert events == [PaymentCharged(command.order) for command in asked]
        spans = {f"{span.context.span_id:016x}" for span in await world.spans.settled(21)}
        assert {headers[b"traceparent"].decode().split("-")[2] for headers in blocking_server["headers"]} < spans
        assert all(b"run-7" in headers[b"baggage"] for headers in blocking_server["headers"])
        await orders.close()

    async def test_the_library_s_server_raises_and_its_word_is_heard(
        self, world: World, orders: Rpc, blocking_server: dict[str, Any]
    ) -> None:
        with pytest.raises(errors.PeerFailed, match="INVALID_ARGUMENT: no such order"):
            await orders.call("payment", ChargePayment(Order("bad", "c", "4", "X", (Line("tea", 1),), 1)), timeout_s=5)
        (client,) = await world.spans.settled(1)
        assert client.attributes[c.RPC_RESPONSE_STATUS_CODE] == client.attributes[c.ERROR_TYPE] == "INVALID_ARGUMENT"
        await orders.close()

    # --- answers that are none

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            (lambda seqid: exception(seqid, TApplicationException.INTERNAL_ERROR), "INTERNAL_ERROR"),
            (lambda seqid: exception(seqid, 99), "UNKNOWN"),
            (lambda seqid: reply(seqid, Payment.charge_result(failed=t.Failed(t.Code.INTERNAL, "x"))), "INTERNAL"),
            (lambda seqid: reply(seqid, Payment.charge_result(failed=t.Failed(77, "x"))), "UNKNOWN"),
            (lambda seqid: reply(seqid, Payment.charge_result()), "MISSING_RESULT"),
            (lambda seqid: reply(seqid, Bytes(b"\x1c")), "PROTOCOL_ERROR"),
            (lambda seqid: reply(seqid + 1, Payment.charge_result()), "BAD_SEQUENCE_ID"),
            (lambda seqid: reply(seqid, Payment.refund_result(), name="refund"), "WRONG_METHOD_NAME"),
            (lambda seqid: framed("charge", Payment.charge_args(), seqid=seqid), "INVALID_MESSAGE_TYPE"),
            (lambda _: with_length(b"what is this?"), "PROTOCOL_ERROR"),
            (lambda _: struct.pack("!i", 2**30), "PROTOCOL_ERROR"),
        ],
    )
    async def test_a_peer_that_answers_nonsense_has_failed(
        self, world: World, orders: Rpc, answer: Answers, status: str
    ) -> None:
        """And nothing of it is taken for the answer to the next call."""
        async with scripted(world, [answer, reply_charged]):
            with pytest.raises(errors.PeerFailed, match=status):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
            failed, fine = await world.spans.settled(2)
            assert failed.attributes[c.RPC_RESPONSE_STATUS_CODE] == failed.attributes[c.ERROR_TYPE] == status
            assert failed.status.status_code is StatusCode.ERROR
            assert_fine(fine)
            await orders.close()

    @pytest.mark.parametrize(
        "event",
        [
            t.Event(),
            t.Event("payment.charged"),
            t.Event("stock.reserved", order_to(ORDER)),
            t.Event("payment.declined", order_to(ORDER)),
            t.Event("order.placed", order_to(ORDER)),
        ],
    )
    async def test_an_event_that_is_none_is_a_failure(self, world: World, orders: Rpc, event: Any) -> None:
        async with scripted(world, [lambda seqid: reply(seqid, Payment.charge_result(event))]):
            with pytest.raises(errors.PeerFailed, match="no event"):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            await orders.close()

    async def test_an_answer_that_comes_too_late_is_not_the_next_one_s(self, world: World, orders: Rpc) -> None:
        slow = Slow()
        await world.serve("payment", slow)
        with pytest.raises(errors.DeadlineExceeded):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=0.1)
        slow.go.set()
        other = Order("o-2", "c", "4", "X", (Line("tea", 1),), 1)
        assert await orders.call("payment", ChargePayment(other), timeout_s=5) == PaymentCharged(other)

    # --- connections

    async def test_a_connection_is_used_again(self, world: World, orders: Rpc, payment: Any) -> None:
        for _ in range(5):
            await asyncio.gather(*(orders.call("payment", ChargePayment(ORDER), timeout_s=5) for _ in range(3)))
        assert len(payment._server._connections) == 3
        await orders.close()
        await until(lambda: not payment._server._connections, lambda: "the server keeps what its callers closed")

    async def test_a_call_that_dies_on_a_kept_connection_is_sent_once_more(self, world: World, orders: Rpc) -> None:
        """As when the server hangs up while the call is on its way. On a connection of its own it is not."""
        answers: list[Answers] = [reply_charged, hang_up, reply_charged, hang_up, hang_up, hang_up]
        async with scripted(world, answers):
            for _ in range(2):
                assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
            for span in await world.spans.settled(2):
                assert_fine(span)
            for left in (1, 0):  # one kept and one new, then one new
                with pytest.raises(errors.ConnectionBroken):
                    await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
                assert len(answers) == left

    async def test_a_stopping_server_says_so_and_its_successor_is_asked(self, world: World, orders: Rpc) -> None:
        """On connections that are open still. Who has nobody else to ask gets Unavailable."""
        slow = Slow(pass_first=2)
        stopping: Any = await world.serve("payment", slow)
        other, third = world.connect("orders"), world.connect("orders")
        for caller in (orders, other):  # each keeps a connection
            await caller.call("payment", ChargePayment(ORDER), timeout_s=5)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["payment"])
        in_hand = asyncio.create_task(third.call("payment", ChargePayment(ORDER), timeout_s=10))
        await slow.begun.wait()
        drained = asyncio.create_task(stopping.drain())
        await until(lambda: stopping._server.draining, lambda: "does not drain")

        for _ in range(2):
            writer.write(GOOD)
            answer = Message(await asyncio.wait_for(read_frame(reader, LIMIT_BYTES), 5))
            assert answer.read(Payment.charge_result()).failed.code == t.Code.UNAVAILABLE
            assert answer.headers == {"connection": "close"}
        writer.close()

        with pytest.raises(errors.Unavailable):
            await other.call("payment", ChargePayment(ORDER), timeout_s=5)
        await world.serve("payment", always(PaymentDeclined(ORDER, "by another")))
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentDeclined(ORDER, "by another")
        assert not drained.done()
        slow.go.set()
        assert await in_hand == PaymentCharged(ORDER)
        await asyncio.wait_for(drained, 5)
        assert await third.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentDeclined(ORDER, "by another")
        for span in await world.spans.settled(11):
            assert span.attributes.get(c.RPC_RESPONSE_STATUS_CODE) in {None, "UNAVAILABLE"}

    async def test_a_peer_that_stops_is_unavailable_in_its_own_word(self, world: World, orders: Rpc) -> None:
        stops = Payment.charge_result(failed=t.Failed(t.Code.UNAVAILABLE, "bye"))
        async with scripted(world, [lambda seqid: reply(seqid, stops)]):
            with pytest.raises(errors.Unavailable, match="UNAVAILABLE: bye"):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        (client,) = await world.spans.settled(1)
        assert client.attributes[c.RPC_RESPONSE_STATUS_CODE] == client.attributes[c.ERROR_TYPE] == "UNAVAILABLE"

    async def test_a_peer_that_accepts_nobody_is_unavailable(self, world: World, orders: Rpc) -> None:
        """It never had the call, although the time is up."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(sockets.socket())
            listener.bind(("127.0.0.1", world.ports["payment"]))
            listener.listen(0)
            for _ in range(3):  # more than its queue holds
                waiting = stack.enter_context(sockets.socket())
                waiting.settimeout(0)
                waiting.connect_ex(("127.0.0.1", world.ports["payment"]))
            with pytest.raises(errors.Unavailable, match="payment cannot be reached: no connection in time"):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=0.3)

    async def test_half_a_frame_holds_nobody_up(self, world: World, payment: Any) -> None:
        writers = []
        for sent in (b"", GOOD[:2], GOOD[:4], GOOD[:-1]):
            _, writer = await asyncio.open_connection("127.0.0.1", world.ports["payment"])
            writer.write(sent)
            writers.append(writer)
        await until(lambda: len(payment._server._connections) == 4, lambda: "not accepted")
        await asyncio.wait_for(payment.drain(), 2)
        await asyncio.wait_for(payment.close(), 2)
        assert not payment._server._connections
        for writer in writers:
            writer.transport.abort()

    async def test_a_frame_that_does_not_end_is_given_up(self, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames, "FRAME_S", 0.05)
        counted = refused_input("payment", "thrift", "slow")
        assert await ask(GOOD[:-1]) is None
        assert refused_input("payment", "thrift", "slow") == counted + 1

    async def test_a_request_that_is_too_large_comes_to_nothing(self, orders: Rpc, payment: Any) -> None:
        large = Order("o-1", "x" * LIMIT_BYTES, "4", "X", (Line("tea", 1),), 1)
        with pytest.raises(errors.TransportError, match="payment"):
            await orders.call("payment", ChargePayment(large), timeout_s=5)

    async def test_a_port_that_is_taken_is_named(self, world: World, payment: Any) -> None:
        with pytest.raises(OSError, match=f"port {world.ports['payment']} on 127.0.0.1 is taken"):
            await world.serve("payment", done_soon)

    # --- malformed bytes

    async def test_no_bytes_can_hurt_the_server(self, world: World, orders: Rpc, payment: Any) -> None:
        """Each is answered or hung up on, counted, and leaves neither a connection nor a span."""
        inputs: list[bytes] = []

        @settings(max_examples=fuzz.ON_THE_WIRE, deadline=None, database=None)
        @given(fuzz.bytes_like(GOOD))
        def draw(data: bytes) -> None:
            inputs.append(data)

        draw()
        assert len(inputs) >= fuzz.ON_THE_WIRE
        counted, wrong = refused_input("payment", "thrift"), 0
        for data in filter(None, inputs):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["payment"])
            writer.write(data)
            writer.write_eof()
            try:
                said = await asyncio.wait_for(reader.read(), 5)
            except ConnectionError:
                said = b""
            writer.transport.abort()
            wrong += b"payment.charged" not in said
        assert wrong > fuzz.ON_THE_WIRE / 2
        assert refused_input("payment", "thrift") >= counted + wrong
        await until(lambda: not payment._server._connections, lambda: "connections stay")
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        await world.spans.settled(2)


def test_no_bytes_can_hurt_the_decoder_of_calls() -> None:
    def decode(data: bytes) -> None:
        message = Message(data)
        assert all(isinstance(text, str) for header in message.headers.items() for text in header)
        arguments = message.read(Payment.charge_args())
        command = command_from(CHARGE, arguments)
        assert command_from(CHARGE, command_to(command)) == command

    fuzz.hammer(decode, ValueError, GOOD)
    for data in fuzz.mutated(zipped(Payment.charge_args(t.Command(order_to(ORDER)))), seed=1, count=1000):
        with contextlib.suppress(ValueError):
            decode(data)


def test_no_bytes_can_hurt_the_decoder_of_answers() -> None:
    def decode(data: bytes) -> None:
        assert isinstance(_read(data, CHARGE, 7)[0], t.Event | t.Failed | TApplicationException)

    fuzz.hammer(decode, Malformed, reply_charged(7))
    for data in fuzz.mutated(exception(7, TApplicationException.UNKNOWN), seed=1, count=1000):
        with contextlib.suppress(Malformed):
            decode(data)
