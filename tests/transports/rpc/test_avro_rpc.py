"""Avro IPC: the behaviours of every Rpc, and Avro's own over HTTP, also with the library's client and server."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import avro.errors
import avro.protocol
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY

from services.contracts.avro import encode
from services.domain.messages import ChargePayment, Command, Event, PaymentCharged, PaymentDeclined
from services.telemetry import conventions as c
from services.transports import errors
from services.transports.ports import Rpc
from services.transports.rpc import avro_ipc as ipc
from services.transports.rpc.avro_rpc import AvroRpc, method
from tests.transports.fuzz import ON_THE_WIRE, bytes_like
from tests.transports.rpc.avro_strangers import (
    BOTH,
    CHARGED,
    OTHER_WORDS,
    PARAMETERS,
    SAME,
    WITHOUT_QUOTES,
    Foreign,
    ask,
    calling,
    changed,
    opening,
    order,
    parted,
    peer,
    redone,
    told,
)
from tests.transports.rpc.suite import ORDER, SocketRpcSuite, World, always, done_soon, refused_input, until

Post = Callable[[bytes], Any]
CONTEXT = {"traceparent": f"00-{1:032x}-{2:016x}-03", "baggage": "lab.run_id=run-7"}
GOOD = ipc.request(ipc.OURS, "charge", CONTEXT, PARAMETERS, introduce=False)
OUR_TEXT = ipc.OURS.text.encode()


def with_order(**changes: Any) -> bytes:
    return calling("charge", order(**changes))


class TestAvroRpc(SocketRpcSuite):
    adapter = AvroRpc
    address = "http://127.0.0.1:{}"
    attributes = {  # noqa: RUF012
        SpanKind.CLIENT: {
            *(c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.RPC_RESPONSE_STATUS_CODE, c.SERVER_ADDRESS, c.SERVER_PORT)
        },
        SpanKind.SERVER: {c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.RPC_RESPONSE_STATUS_CODE},
    }

    def method(self, command: type[Command]) -> str:
        return method(command)

    @pytest.fixture
    async def served(self, world: World) -> Any:
        """A payment service that does what it is asked."""
        return await world.serve("payment", done_soon)

    @pytest.fixture
    async def post(self, world: World, served: Any) -> AsyncIterator[Post]:
        """A stranger's client, which sends any bytes to it."""
        async with httpx.AsyncClient(base_url=self.address.format(world.ports["payment"])) as client:

            async def post(body: bytes) -> httpx.Response:
                return await client.post("/", content=body, headers={"content-type": "avro/binary"})

            yield post

    async def charge(self, world: World, port: int, *, timeout_s: float = 5) -> Event:
        """What a fresh caller of ours gets from that port."""
        world.ports["payment"] = port
        return await world.connect("orders").call("payment", ChargePayment(ORDER), timeout_s=timeout_s)

    def test_the_method_is_named_in_full(self) -> None:
        assert method(ChargePayment) == "antiphon.v1.Participants/charge"

    # --- the handshake

    async def test_our_protocol_goes_out_only_where_it_is_not_known(self, world: World) -> None:
        """To a server that speaks another, the first call is two requests; after it, fingerprints are enough."""
        with peer(Foreign(OTHER_WORDS).respond) as other:
            world.ports["payment"] = other.port
            orders = world.connect("orders")
            for _ in range(2):
                assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        guess, introduced, later = other.requests
        assert [OUR_TEXT in each for each in other.requests] == [False, True, False]
        assert len(later) == len(guess) < len(introduced) - len(OUR_TEXT)
        assert [OTHER_WORDS.md5 in each for each in other.requests] == [False, True, True]

    async def test_between_our_services_it_never_does(self, world: World) -> None:
        with peer(Foreign(SAME).respond) as other:
            assert await self.charge(world, other.port) == PaymentCharged(ORDER)
        (request,) = other.requests
        assert OUR_TEXT not in request
        assert request.count(ipc.OURS.hash) == 2

    async def test_a_server_that_was_restarted_is_told_again_once(self, world: World) -> None:
        with peer(Foreign(OTHER_WORDS).respond) as other:
            world.ports["payment"] = other.port
            orders = world.connect("orders")
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            other.respond = Foreign(OTHER_WORDS).respond
            for _ in range(2):
                assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        assert [OUR_TEXT in each for each in other.requests] == [False, True, False, True, False]

    async def test_a_server_that_changed_its_protocol_is_believed(self, world: World) -> None:
        with peer(Foreign(OTHER_WORDS).respond) as other:
            world.ports["payment"] = other.port
            orders = world.connect("orders")
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            other.respond = Foreign(changed("Event", colour="string")).respond
            for _ in range(2):
                assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    async def test_calls_that_shake_hands_side_by_side_do_not_disturb_each_other(self, world: World) -> None:
        """None of ten is answered before all have asked; so all must introduce themselves."""
        together, respond = threading.Barrier(10), Foreign(OTHER_WORDS).respond

        def respond_together(request: bytes) -> bytes:
            if OUR_TEXT not in request:
                together.wait(10)
            return respond(request)

        with peer(respond_together) as other:
            world.ports["payment"] = other.port
            orders = world.connect("orders")
            calls = [orders.call("payment", ChargePayment(ORDER), timeout_s=10) for _ in range(10)]
            assert await asyncio.gather(*calls) == [PaymentCharged(ORDER)] * 10
        assert len(other.requests) == 20

    async def test_a_repeated_request_is_the_same_call(self, world: World) -> None:
        """One span, one context, and no error."""
        with peer(Foreign(OTHER_WORDS).respond) as other:
            await self.charge(world, other.port)
        (client,) = world.spans.of(SpanKind.CLIENT)
        said = f"00-{client.context.trace_id:032x}-{client.context.span_id:016x}".encode()
        assert [said in each for each in other.requests] == [True, True]
        assert client.status.status_code is StatusCode.UNSET

    async def test_one_that_never_knows_us_has_failed(self, world: World) -> None:
        with (
            peer(lambda _: told({**BOTH, "match": "NONE"})) as other,
            pytest.raises(errors.PeerFailed, match="payment does not accept our protocol"),
        ):
            await self.charge(world, other.port)
        assert len(other.requests) == 2

    async def test_two_requests_have_no_more_time_than_one(self, world: World) -> None:
        """Each is answered in time, both together are not."""
        slow = peer(lambda _: told({**BOTH, "match": "NONE"}), after_s=0.7)
        with slow as other, pytest.raises(errors.DeadlineExceeded, match="1 s"):
            await self.charge(world, other.port, timeout_s=1)

    async def test_a_ping_is_no_call(self, world: World, post: Post) -> None:
        """A message without a name asks for the handshake alone (Avro, "Call Format")."""
        answer = await post(ipc.frame(opening() + b"\0" + encode("string", "")))
        assert parted(answer.content) == (BOTH, b"")
        assert answer.headers["content-type"] == "avro/binary"
        assert not world.spans.started

    # --- the context

    async def test_the_context_rides_in_the_metadata_and_nowhere_else(self, world: World) -> None:
        with peer(Foreign(SAME).respond) as other:
            await self.charge(world, other.port)
        (request,), (headers,) = other.requests, other.headers
        _, metadata, _ = ipc.called(ipc.Clients().open(ipc.frame(request)).call)
        (client,) = world.spans.of(SpanKind.CLIENT)
        assert metadata["traceparent"].split("-")[2] == f"{client.context.span_id:016x}"
        assert not {"traceparent", "tracestate", "baggage"} & headers

    @pytest.mark.parametrize(
        "metadata",
        [{}, {"traceparent": b"\xff\xfe"}, {"traceparent": b"00-0-0-01", "baggage": b"\xff=;,=", "": b"\0"}],
        ids=["none", "not UTF-8", "broken"],
    )
    async def test_a_call_without_a_good_context_begins_a_trace(
        self, world: World, post: Post, metadata: dict[str, bytes]
    ) -> None:
        call = encode(ipc._METADATA, metadata) + calling("charge")[1:]
        answer = await post(ipc.frame(opening() + call))
        assert parted(answer.content) == (BOTH, ipc.response("charge", CHARGED))
        (server,) = await world.spans.settled(1)
        assert server.parent is None

    # --- the library's own client

    async def library(
        self, world: World, theirs: avro.protocol.Protocol, name: str = "charge", parameters: Any = PARAMETERS
    ) -> Any:
        return await asyncio.to_thread(ask, world.ports["payment"], theirs, name, parameters)

    async def test_the_library_s_client_is_answered(self, world: World, served: Any) -> None:
        """It sends no metadata: the trace of its call begins here."""
        assert await self.library(world, SAME) == CHARGED
        (server,) = await world.spans.settled(1)
        assert (server.name, server.parent) == (method(ChargePayment), None)

    async def test_the_library_s_client_gets_a_refusal_as_an_answer(self, world: World) -> None:
        await world.serve("payment", always(PaymentDeclined(ORDER, "nein: 茶")))
        answer = await self.library(world, SAME)
        assert (answer["type"], answer["reason"]) == ("payment.declined", "nein: 茶")

    @pytest.mark.parametrize(
        ("theirs", "parameters"),
        [
            (OTHER_WORDS, PARAMETERS),
            (changed(gift={"type": "string", "default": ""}), order(gift="ja")),
            (changed(order_id="string"), PARAMETERS),
            (changed("Event", reason=None), PARAMETERS),
            (WITHOUT_QUOTES, PARAMETERS),
        ],
        ids=["words", "one field more", "reordered", "an answer with one field less", "an earlier one"],
    )
    async def test_a_caller_of_another_protocol_is_understood(
        self, world: World, theirs: avro.protocol.Protocol, parameters: Any
    ) -> None:
        heard: list[Command] = []

        async def handler(command: Command) -> Event:
            heard.append(command)
            return await done_soon(command)

        await world.serve("payment", handler)
        answer = await self.library(world, theirs, parameters=parameters)
        assert answer["type"] == "payment.charged"
        assert heard == [ChargePayment(ORDER)]

    @pytest.mark.parametrize(
        ("theirs", "parameters", "says"),
        [
            (changed(card=None), order(card=None), "missing default value: card"),
            (changed(amount_cents="string"), order(amount_cents="21"), "long not compatible with writer type: string"),
            (changed("Line", sku="long"), order(lines=[{"sku": 1, "quantity": 1}]), "string not compatible"),
            (redone('"Line"', '"Row"'), PARAMETERS, "name mismatch"),
        ],
        ids=["field missing", "field of another type", "deeper", "another name"],
    )
    async def test_a_caller_that_cannot_be_understood_is_told_why(
        self, world: World, orders: Rpc, served: Any, theirs: avro.protocol.Protocol, parameters: Any, says: str
    ) -> None:
        counted = refused_input("payment", "avro_rpc", "incompatible")
        with pytest.raises(avro.errors.AvroRemoteException, match=f"does not resolve to ours: .*{says}"):
            await self.library(world, theirs, parameters=parameters)
        assert refused_input("payment", "avro_rpc", "incompatible") == counted + 1
        (server,) = await world.spans.settled(1)
        assert server.attributes[c.ERROR_TYPE] == server.attributes[c.RPC_RESPONSE_STATUS_CODE] == "SYSTEM_ERROR"
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    async def test_the_library_s_client_gets_the_declared_error(self, world: World, served: Any) -> None:
        with pytest.raises(avro.errors.AvroRemoteException) as raised:
            await self.library(world, SAME, parameters=order(lines=[]))
        assert raised.value.args == ({"code": "INVALID_ARGUMENT", "message": "order.lines: is missing or empty"},)

    async def test_the_library_s_client_hears_of_an_unknown_message(
        self, world: World, orders: Rpc, served: Any
    ) -> None:
        """Inventory's message, sent to payment."""
        counted = refused_input("payment", "avro_rpc", "unknown message")
        with pytest.raises(avro.errors.AvroRemoteException, match="unknown message 'reserve'"):
            await self.library(world, SAME, "reserve")
        assert refused_input("payment", "avro_rpc", "unknown message") == counted + 1
        (server,) = await world.spans.settled(1)
        assert (server.name, server.attributes[c.RPC_METHOD]) == ("avro_ipc", c.RPC_METHOD_OTHER)
        assert server.attributes[c.RPC_METHOD_ORIGINAL] == "reserve"
        assert server.attributes[c.ERROR_TYPE] == server.attributes[c.RPC_RESPONSE_STATUS_CODE] == "SYSTEM_ERROR"
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    # --- the library's own server

    @pytest.mark.parametrize(
        "theirs",
        [SAME, changed("Event", colour="string"), changed("Event", reason=None), WITHOUT_QUOTES],
        ids=["the same", "one field more", "one field less", "an earlier one"],
    )
    async def test_a_server_of_the_library_is_understood(self, world: World, theirs: avro.protocol.Protocol) -> None:
        with peer(Foreign(theirs).respond) as other:
            assert await self.charge(world, other.port) == PaymentCharged(ORDER)

    @pytest.mark.parametrize(
        ("theirs", "says"),
        [
            (changed("Event", order="string"), "record not compatible with writer type: string"),
            (changed("Event", type=None), "missing default value: type"),
        ],
        ids=["type", "missing"],
    )
    async def test_a_server_that_cannot_be_understood_has_failed(
        self, world: World, theirs: avro.protocol.Protocol, says: str
    ) -> None:
        """It has done what it was asked: whatever it says, it is not ``Unavailable``."""
        shaken = told({"match": "CLIENT", "serverProtocol": str(theirs), "serverHash": theirs.md5, "meta": None})
        with (
            peer(lambda _: shaken + ipc.response("charge", CHARGED)) as other,
            pytest.raises(errors.PeerFailed, match=says),
        ):
            await self.charge(world, other.port)

    async def test_the_library_s_server_says_that_it_failed(self, world: World) -> None:
        """Whatever its handler raised is a system error."""
        with (
            peer(Foreign(SAME, raises=ZeroDivisionError("out of ink")).respond) as other,
            pytest.raises(errors.PeerFailed, match="payment answered SYSTEM_ERROR: out of ink"),
        ):
            await self.charge(world, other.port)
        (client,) = world.spans.of(SpanKind.CLIENT)
        assert client.attributes[c.ERROR_TYPE] == client.attributes[c.RPC_RESPONSE_STATUS_CODE] == "SYSTEM_ERROR"

    async def test_the_library_s_server_breaks_off_where_it_does_not_know_a_message(self, world: World) -> None:
        """It writes its system error where nobody reads it, and answers with the handshake alone."""
        with (
            peer(Foreign(redone('"charge"', '"debit"')).respond) as other,
            pytest.raises(errors.PeerFailed, match="payment answered what makes no sense"),
        ):
            await self.charge(world, other.port)

    # --- what makes no sense

    @pytest.mark.parametrize(
        ("body", "status", "says", "reason"),
        [
            (b"", 400, "break off", "malformed"),
            (GOOD[:-4], 400, "break off", "malformed"),
            (b"\xff\xff\xff\xffAvro", 400, "break off", "malformed"),
            (GOOD + b"\0", 400, "follows the last frame", "malformed"),
            (b"\0\0\0\0", 400, "do not fit", "malformed"),
            (ipc.frame(opening()[:-1]), 400, "do not fit", "malformed"),
            (ipc.frame(opening(b"?" * 16, "{}")), 400, "no protocol", "malformed"),
            (ipc.frame(opening(b"?" * 16, str(SAME))), 400, "MD5", "malformed"),
            (b"\0" * 65_537, 413, "65536", "oversize"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    async def test_what_is_no_avro_gets_http_s_answer(
        self, world: World, orders: Rpc, post: Post, body: bytes, status: int, says: str, reason: str
    ) -> None:
        """Before the handshake is read Avro has no words for it."""
        counted = refused_input("payment", "avro_rpc", reason)
        answer = await post(body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert says in answer.json()["detail"]
        assert refused_input("payment", "avro_rpc", reason) == counted + 1
        assert not world.spans.started
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    @pytest.mark.parametrize(
        ("verb", "path", "media_type", "status"),
        [
            ("POST", "/", "application/json", 415),
            ("POST", "/elsewhere", "avro/binary", 404),
            ("PUT", "/", "avro/binary", 405),
        ],
    )
    async def test_another_request_is_refused(
        self, world: World, served: Any, verb: str, path: str, media_type: str, status: int
    ) -> None:
        counted = refused_input("payment", "avro_rpc")
        async with httpx.AsyncClient(base_url=self.address.format(world.ports["payment"])) as client:
            answer = await client.request(verb, path, content=GOOD, headers={"content-type": media_type})
        assert answer.status_code == status
        assert refused_input("payment", "avro_rpc") == counted + 1

    @pytest.mark.parametrize(
        ("call", "code", "says", "reason"),
        [
            (b"", "", "do not fit", "malformed"),
            (b"\2", "", "do not fit", "malformed"),
            (b"\0\4\xff\xff", "", "utf-8", "malformed"),
            (calling("charge")[:-1], "INVALID_ARGUMENT", "do not fit", "invalid"),
            (calling("charge") + b"\0", "INVALID_ARGUMENT", "1 bytes are too many", "invalid"),
            (with_order(order_id=""), "INVALID_ARGUMENT", "order.order_id", "invalid"),
            (with_order(lines=[]), "INVALID_ARGUMENT", "order.lines", "invalid"),
            (
                with_order(lines=[{"sku": "tea", "quantity": 0}]),
                *("INVALID_ARGUMENT", "order.lines.0.quantity", "invalid"),
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    async def test_what_is_no_good_call_gets_avro_s_answer(
        self, world: World, orders: Rpc, post: Post, call: bytes, code: str, says: str, reason: str
    ) -> None:
        """A system error, or the declared one with a code; HTTP's status is 200 in either case."""
        counted = refused_input("payment", "avro_rpc", reason)
        answer = await post(ipc.frame(opening() + call))
        assert answer.status_code == 200
        error = ipc.answer(ipc.OURS, "charge", answer.content).error
        assert says in (error["message"] if code else error)
        assert refused_input("payment", "avro_rpc", reason) == counted + 1
        if code:
            assert error["code"] == code
            (server,) = await world.spans.settled(1)
            assert server.attributes[c.ERROR_TYPE] == server.attributes[c.RPC_RESPONSE_STATUS_CODE] == code
        else:
            assert not world.spans.started
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    async def test_a_failure_shows_its_code(self, world: World, orders: Rpc, caplog: Any) -> None:
        async def crash(_: Command) -> Event:
            raise ZeroDivisionError

        await world.serve("payment", crash)
        with pytest.raises(errors.PeerFailed, match="INTERNAL: ChargePayment could not be carried out"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        for span in await world.spans.settled(2):
            assert span.attributes[c.ERROR_TYPE] == span.attributes[c.RPC_RESPONSE_STATUS_CODE] == "INTERNAL"

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (b"", "makes no sense"),
            (told(BOTH), "makes no sense"),
            (told({**BOTH, "match": "CLIENT", "serverProtocol": "{}"}), "makes no sense: this is no protocol"),
            (told(BOTH) + ipc.response("charge", CHARGED) + b"\0", "makes no sense: 1 bytes are too many"),
            (told(BOTH) + ipc.response("charge", {**CHARGED, "type": "stock.reserved"}), "no event: type: 'stock.res"),
            (told(BOTH) + ipc.response("charge", {**CHARGED, "type": "nonsense"}), "no event: type: 'nonsense'"),
            (told(BOTH) + ipc.response("charge", {**CHARGED, "type": "payment.declined"}), "no event: reason"),
            (told(BOTH) + ipc.system_error("?" * 300), r"SYSTEM_ERROR: \?+$"),
            (told(BOTH) + ipc.declared_error("charge", {"code": "E1", "message": "no"}), "E1: no"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    async def test_a_peer_that_answers_nonsense_has_failed(self, world: World, answer: bytes, says: str) -> None:
        with peer(lambda _: answer) as other, pytest.raises(errors.PeerFailed, match=f"payment answered .*{says}"):
            await self.charge(world, other.port)
        (client,) = world.spans.of(SpanKind.CLIENT)
        assert client.status.status_code is StatusCode.ERROR
        assert client.attributes[c.ERROR_TYPE] in {"SYSTEM_ERROR", "INTERNAL", "PeerFailed"}

    # --- malformed bytes

    async def test_no_bytes_can_hurt_the_server(self, world: World, served: Any, post: Post) -> None:
        """They are refused and counted; after them everything is as it was."""
        inputs: list[bytes] = []

        @settings(max_examples=ON_THE_WIRE, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(bytes_like(GOOD))
        def draw(data: bytes) -> None:
            inputs.append(data)

        draw()
        assert len(inputs) >= ON_THE_WIRE
        connections = served._server._server.server_state.connections
        counted = refused_input("payment", "avro_rpc")
        refused = 0
        for data in inputs:
            answer = await post(data)
            assert answer.status_code in {200, 400}, data
            if answer.status_code == 200:
                said = ipc.answer(ipc.OURS, "charge", answer.content) if parted(answer.content)[1] else None
                refused += said is not None and said.error is not None
            else:
                refused += 1
        assert refused_input("payment", "avro_rpc") - counted == refused > ON_THE_WIRE / 4
        assert len(connections) == 1  # and it is the same one, all the way
        orders = world.connect("orders")
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        await orders.close()
        await until(lambda: len(connections) == 1, lambda: f"{len(connections)} connections")
        await world.spans.settled(2)

    # --- metrics

    @pytest.mark.parametrize("side", ["client", "server"])
    async def test_durations_are_measured(self, world: World, orders: Rpc, served: Any, side: str) -> None:
        name = f"rpc_{side}_call_duration_seconds_count"
        labels = {
            c.LABEL_SERVICE: {"client": "orders", "server": "payment"}[side],
            c.LABEL_RPC_SYSTEM: "avro_ipc",
            c.LABEL_RPC_METHOD: method(ChargePayment),
            c.LABEL_ERROR: "",
        }
        before = REGISTRY.get_sample_value(name, labels) or 0
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await world.spans.settled(2)
        assert REGISTRY.get_sample_value(name, labels) == before + 1
