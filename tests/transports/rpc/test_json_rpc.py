"""JSON-RPC: the behaviours of every Rpc, and the protocol's own."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY
from pydantic_core import to_json
from structlog.testing import capture_logs

from services.contracts import openrpc
from services.domain.messages import ChargePayment, Command, Event, Order, PaymentCharged, PaymentDeclined
from services.domain.order import STEPS
from services.telemetry import conventions as c
from services.telemetry.rpc import RpcSpans
from services.telemetry.setup import set_up
from services.transports import errors
from services.transports.ports import Rpc
from services.transports.rpc.json_rpc import JsonRpc, answered
from services.transports.rpc.json_rpc_server import LIMIT_CALLS, Methods
from tests.transports.fuzz import ON_THE_WIRE, bytes_like, hammer
from tests.transports.rpc.http_stranger import stranger
from tests.transports.rpc.suite import (
    HTTP,
    ORDER,
    SocketRpcSuite,
    Watcher,
    World,
    ancestry,
    assert_fine,
    done,
    done_soon,
    refused_input,
    until,
)

JSON = {"content-type": "application/json"}
PAYMENT = [step for step in STEPS if step.service == "payment"]
ORDER_JSON = json.loads(json.dumps(asdict(ORDER)))
CHARGED = {"type": "payment.charged", "order": ORDER_JSON}
Ask = Callable[[Any], Awaitable[Any]]


def call(request_id: Any = 1, method: str = "payment.charge", *, without: str = "", **changes: Any) -> dict[str, Any]:
    """A call about the order with ``changes``."""
    order = {key: value for key, value in {**ORDER_JSON, **changes}.items() if key != without}
    return {"jsonrpc": "2.0", "method": method, "params": {"order": order}, "id": request_id}


def notification(method: str = "payment.charge", **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in call(None, method, **changes).items() if key != "id"}


def resulting(result: Any = CHARGED, **members: Any) -> bytes:
    """An answer to the first call of a caller."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result, **members}).encode()


def failing(error: Any, **members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "error": error, **members}).encode()


def observed(metric: str, code: str, method: str = "payment.charge") -> float:
    """How many calls the histogram ``metric`` has with the error ``code``."""
    labels = {c.LABEL_RPC_SYSTEM: "jsonrpc", c.LABEL_RPC_METHOD: method, c.LABEL_ERROR: code}
    return sum(
        REGISTRY.get_sample_value(f"{metric}_count", {c.LABEL_SERVICE: service, **labels}) or 0
        for service in ("orders", "payment")
    )


class Handler:
    """Remembers the orders that it was asked about."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def __call__(self, command: Command) -> Event:
        self.heard.append(command.order.order_id)
        if command.order.order_id == "o-crash":
            raise ZeroDivisionError("secret")
        if command.order.order_id == "o-refused":
            return PaymentDeclined(command.order, "no")
        return done(command)


class TestJsonRpc(SocketRpcSuite):
    adapter = JsonRpc
    address = "http://127.0.0.1:{}"
    attributes = {  # noqa: RUF012
        SpanKind.CLIENT: {
            *(c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.JSONRPC_REQUEST_ID, c.JSONRPC_PROTOCOL_VERSION),
            *(c.SERVER_ADDRESS, c.SERVER_PORT),
        },
        SpanKind.SERVER: {c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.JSONRPC_REQUEST_ID, c.JSONRPC_PROTOCOL_VERSION},
    }
    beneath = {  # noqa: RUF012
        SpanKind.CLIENT: HTTP[SpanKind.CLIENT] | {c.LAB_ORDER_ID},
        SpanKind.SERVER: HTTP[SpanKind.SERVER],
    }

    def method(self, command: type[Command]) -> str:
        return openrpc.method(command)

    def calls(self, world: World) -> list[ReadableSpan]:
        """The SERVER spans of the wire itself."""
        return [span for span in world.spans.of(SpanKind.SERVER) if self.own(span)]

    @pytest.fixture
    def handler(self) -> Handler:
        return Handler()

    @pytest.fixture
    async def http(self, world: World, handler: Handler) -> AsyncIterator[httpx.AsyncClient]:
        """A stranger's client, to a payment service that is there."""
        await world.serve("payment", handler)
        async with httpx.AsyncClient(base_url=self.address.format(world.ports["payment"]), headers=JSON) as client:
            yield client

    @pytest.fixture
    def ask(self, http: httpx.AsyncClient) -> Ask:
        """What a payment service answers to any body; HTTP says 200, or 204 where it answers nothing (None)."""

        async def ask(sent: Any) -> Any:
            answer = await http.post("/rpc", content=sent if isinstance(sent, bytes) else json.dumps(sent))
            if answer.status_code == 204:
                assert not answer.content
                return None
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            return answer.json()

        return ask

    # --- errors

    @pytest.mark.parametrize(
        ("sent", "code", "says"),
        [
            (b"", -32700, "EOF"),
            (b"{", -32700, "EOF"),
            (b"\xff\xfe", -32700, "expected value"),
            (b"[" * 60_000, -32700, "recursion limit"),
            (b'{"jsonrpc": "2.0", "id": NaN}', -32700, "expected value"),
            (b'{"id": ' + b"1" * 10_000 + b"}", -32700, "out of range"),
            (b'["\\ud800"]', -32700, "hex escape"),
            (b"1", -32600, "no object"),
            (b"null", -32600, "no object"),
            ({}, -32600, "jsonrpc"),
            ({**call(), "jsonrpc": "1.0"}, -32600, "1.0"),
            ({**call(), "jsonrpc": 2.0}, -32600, "jsonrpc"),
            ({"jsonrpc": "2.0", "id": 1}, -32600, "method"),
            ({**call(), "method": 1}, -32600, "method"),
            ({**call(), "method": ["payment.charge"]}, -32600, "method"),
            ({**call(), "params": None}, -32600, "params"),
            ({**call(), "params": "order"}, -32600, "params"),
            (call(request_id=True), -32600, "id"),
            (call(1.5), -32600, "id"),
            (call([]), -32600, "id"),
            (call({}), -32600, "id"),
            ([], -32600, "empty batch"),
            ([call(n) for n in range(LIMIT_CALLS + 1)], -32600, "more than 32 calls"),
            ([call(1), call(1)], -32600, "same id"),
            ([call("a"), call("a", "payment.refund")], -32600, "same id"),
        ],
        ids=lambda value: re.sub(r"\W+", " ", str(value))[:40],
    )
    async def test_what_is_no_request_gets_an_error_without_an_id(
        self, world: World, handler: Handler, orders: Rpc, ask: Ask, sent: Any, code: int, says: str
    ) -> None:
        """Nothing is done, it is counted and logged, and a SERVER span says so although HTTP says 200."""
        reason = {-32700: "parse error", -32600: "invalid request"}[code]
        counted = refused_input("payment", "json_rpc", reason)
        measured = observed(c.METRIC_RPC_SERVER_DURATION, str(code), c.RPC_METHOD_OTHER)
        with capture_logs() as logs:
            answer = await ask(sent)
        assert answer.keys() == {"jsonrpc", "id", "error"}
        assert (answer["jsonrpc"], answer["id"], answer["error"]["code"]) == ("2.0", None, code)
        assert answer["error"]["message"].lower() == reason
        assert says in answer["error"]["data"]
        assert handler.heard == []
        assert refused_input("payment", "json_rpc", reason) == counted + 1
        assert [each["reason"] for each in logs if each["event"] == "call_refused"] == [reason]
        http, span = sorted(await world.spans.settled(2), key=self.own)
        assert_fine(http)
        assert span.parent.span_id == http.context.span_id
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, answer["error"]["message"])
        assert span.attributes[c.RPC_RESPONSE_STATUS_CODE] == span.attributes[c.ERROR_TYPE] == str(code)
        if span.attributes[c.RPC_METHOD] == c.RPC_METHOD_OTHER:
            assert span.name == "jsonrpc"
            assert c.RPC_METHOD_ORIGINAL not in span.attributes
            assert observed(c.METRIC_RPC_SERVER_DURATION, str(code), c.RPC_METHOD_OTHER) == measured + 1
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    @pytest.mark.parametrize(
        "sent", [call(7, "payment.steal"), call(7, "inventory.reserve"), call(7, "rpc.shutdown"), call(7, "")]
    )
    async def test_an_unknown_method_is_not_found(self, world: World, handler: Handler, ask: Ask, sent: Any) -> None:
        """The stranger's name for it is on the span, and no metric's label."""
        counted = refused_input("payment", "json_rpc", "method not found")
        measured = observed(c.METRIC_RPC_SERVER_DURATION, "-32601", c.RPC_METHOD_OTHER)
        answer = await ask(sent)
        assert (answer["id"], answer["error"]["code"], answer["error"]["message"]) == (7, -32601, "Method not found")
        assert handler.heard == []
        assert refused_input("payment", "json_rpc", "method not found") == counted + 1
        assert observed(c.METRIC_RPC_SERVER_DURATION, "-32601", c.RPC_METHOD_OTHER) == measured + 1
        await world.spans.settled(2)
        (span,) = self.calls(world)
        assert (span.name, span.attributes[c.RPC_METHOD]) == ("jsonrpc", c.RPC_METHOD_OTHER)
        assert span.attributes.get(c.RPC_METHOD_ORIGINAL, "") == sent["method"]
        assert span.attributes[c.JSONRPC_REQUEST_ID] == "7"
        assert span.attributes[c.RPC_RESPONSE_STATUS_CODE] == span.attributes[c.ERROR_TYPE] == "-32601"
        assert span.status.status_code is StatusCode.ERROR

    @pytest.mark.parametrize(
        ("sent", "field"),
        [
            ({**call(), "params": {}}, "order"),
            ({**call(), "params": []}, "order"),
            ({**call(), "params": {"order": None}}, "order"),
            ({**call(), "params": {"order": ORDER_JSON, "now": True}}, "now"),
            ({**call(), "params": [ORDER_JSON, 1]}, "params.1"),
            ({k: v for k, v in call().items() if k != "params"}, "order"),
            (call(without="card"), "order.card"),
            (call(order_id=""), "order.order_id"),
            (call(amount_cents="12"), "order.amount_cents"),
            (call(amount_cents=1.5), "order.amount_cents"),
            (call(amount_cents=True), "order.amount_cents"),
            (call(lines=[]), "order.lines"),
            (call(lines=[{"sku": "tea", "quantity": 0}]), "order.lines.0.quantity"),
            (call(lines=[{"sku": "tea", "quantity": 1}, {"sku": 1, "quantity": 1}]), "order.lines.1.sku"),
            (call(lines=[{"sku": "tea", "quantity": 1, "colour": "green"}]), "order.lines.0.colour"),
            (call(coupon="free"), "order.coupon"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_invalid_params_name_the_field(
        self, world: World, handler: Handler, ask: Ask, sent: Any, field: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        counted = refused_input("payment", "json_rpc", "invalid params")
        answer = await ask(sent)
        assert (answer["id"], answer["error"]["code"], answer["error"]["message"]) == (1, -32602, "Invalid params")
        assert [flaw["field"] for flaw in answer["error"]["data"]] == [field]
        assert all(flaw["detail"] for flaw in answer["error"]["data"])
        assert handler.heard == []
        assert refused_input("payment", "json_rpc", "invalid params") == counted + 1
        await world.spans.settled(2)
        (span,) = self.calls(world)
        assert span.name == "payment.charge"
        assert span.attributes[c.RPC_RESPONSE_STATUS_CODE] == span.attributes[c.ERROR_TYPE] == "-32602"
        assert ORDER.ship_to not in caplog.text, "what people sent is not for the log"

    async def test_http_says_200_where_the_spans_and_metrics_say_error(self, world: World, orders: Rpc) -> None:
        """The lesson of this wire: who watches HTTP alone sees nothing."""
        await world.serve("payment", Handler())
        before = {
            metric: observed(metric, "-32603")
            for metric in (c.METRIC_RPC_CLIENT_DURATION, c.METRIC_RPC_SERVER_DURATION)
        }
        crash = ChargePayment(Order(**{**asdict(ORDER), "order_id": "o-crash", "lines": ORDER.lines}))
        with pytest.raises(errors.PeerFailed, match=r"payment answered -32603 Internal error: ChargePayment could not"):
            await orders.call("payment", crash, timeout_s=5)
        spans = await world.spans.settled(4)
        for span in spans:
            if self.own(span):
                assert span.name == "payment.charge"
                assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "Internal error")
                assert span.attributes[c.RPC_RESPONSE_STATUS_CODE] == span.attributes[c.ERROR_TYPE] == "-32603"
            else:
                assert span.name == "POST /rpc"
                assert span.attributes["http.response.status_code"] == 200
                assert_fine(span)
        (server,) = self.calls(world)
        assert [event.name for event in server.events] == ["exception"]
        assert {metric: observed(metric, "-32603") for metric in before} == {m: n + 1 for m, n in before.items()}

    async def test_the_caller_s_spans_say_what_was_wrong_with_the_call(
        self, world: World, orders: Rpc, handler: Handler, http: httpx.AsyncClient
    ) -> None:
        """A caller that breaks the contract is told so: not an event, and not our invention."""
        with pytest.raises(errors.PeerFailed, match=r"-32602 Invalid params: .*order\.lines"):
            await orders.call("payment", ChargePayment(Order("o-1", "c", "4", "X", (), 0)), timeout_s=5)
        await world.spans.settled(4)
        assert {span.attributes[c.ERROR_TYPE] for span in world.spans.ended if self.own(span)} == {"-32602"}

    # --- ids, notifications, batches

    @pytest.mark.parametrize("request_id", [0, -1, 2**70, "", "seven", "茶", None], ids=repr)
    async def test_the_answer_has_the_call_s_id(self, world: World, ask: Ask, request_id: Any) -> None:
        """Null as well, though it is discouraged (section 4); the conventions want it on no span."""
        assert await ask(call(request_id)) == {"jsonrpc": "2.0", "id": request_id, "result": CHARGED}
        await world.spans.settled(2)
        (span,) = self.calls(world)
        assert span.attributes.get(c.JSONRPC_REQUEST_ID) == (None if request_id is None else str(request_id))

    async def test_params_may_be_given_by_position(self, ask: Ask) -> None:
        assert (await ask({**call(), "params": [ORDER_JSON]}))["result"] == CHARGED

    async def test_a_notification_is_carried_out_and_not_answered(
        self, world: World, handler: Handler, ask: Ask
    ) -> None:
        assert await ask(notification()) is None
        assert handler.heard == ["o-1"]
        http, span = sorted(await world.spans.settled(2), key=self.own)
        assert http.attributes["http.response.status_code"] == 204
        assert span.attributes.keys() == self.attributes[SpanKind.SERVER] - {c.JSONRPC_REQUEST_ID} | {c.LAB_ORDER_ID}
        assert_fine(span)

    @pytest.mark.parametrize(
        ("sent", "code"),
        [
            (notification("payment.steal"), "-32601"),
            (notification(lines=[]), "-32602"),
            (notification(order_id="o-crash"), "-32603"),
        ],
    )
    async def test_what_became_of_a_notification_its_span_alone_says(
        self, world: World, ask: Ask, sent: Any, code: str
    ) -> None:
        counted = refused_input("payment", "json_rpc")
        assert await ask(sent) is None
        await world.spans.settled(2)
        (span,) = self.calls(world)
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes[c.RPC_RESPONSE_STATUS_CODE] == span.attributes[c.ERROR_TYPE] == code
        assert refused_input("payment", "json_rpc") == counted + (code != "-32603")

    async def test_the_calls_of_a_batch_are_answered_each_for_itself(
        self, world: World, handler: Handler, ask: Ask
    ) -> None:
        """Good and bad, notifications and what is no call: one SERVER span for each, all children of HTTP's one."""
        sent = [
            call("good", order_id="o-good"),
            call("refused", order_id="o-refused"),
            call("crash", order_id="o-crash"),
            call("unknown", "payment.steal"),
            call("params", lines=[]),
            notification(order_id="o-notified"),
            notification("payment.steal"),
            call(None, order_id="o-null"),
            {**call("version"), "jsonrpc": "3.0"},
            [call("nested")],
            "junk",
        ]
        answers = await ask(sent)
        by_id = {answer["id"]: answer for answer in answers if answer["id"] is not None}
        assert by_id.keys() == {"good", "refused", "crash", "unknown", "params"}
        assert by_id["good"]["result"]["order"]["order_id"] == "o-good"
        assert by_id["refused"]["result"]["type"] == "payment.declined"
        assert [by_id[name]["error"]["code"] for name in ("crash", "unknown", "params")] == [-32603, -32601, -32602]
        assert "secret" not in json.dumps(answers)
        nameless = [answer for answer in answers if answer["id"] is None]
        assert [answer.get("error", {}).get("code") for answer in nameless] == [None, -32600, -32600, -32600]
        assert sorted(handler.heard) == ["o-crash", "o-good", "o-notified", "o-null", "o-refused"]
        await world.spans.settled(1 + len(sent))
        (http,) = (span for span in world.spans.of(SpanKind.SERVER) if not self.own(span))
        assert_fine(http)
        assert len(self.calls(world)) == len(sent)
        assert {span.parent.span_id for span in self.calls(world)} == {http.context.span_id}
        codes = sorted(span.attributes.get(c.RPC_RESPONSE_STATUS_CODE, "") for span in self.calls(world))
        assert codes == [*[""] * 4, *["-32600"] * 3, *["-32601"] * 2, "-32602", "-32603"]

    async def test_the_calls_of_a_batch_run_side_by_side(self, world: World) -> None:
        """As many as a batch may hold wait for each other inside the server."""
        together = asyncio.Barrier(LIMIT_CALLS)

        async def handler(command: Command) -> Event:
            await together.wait()
            return done(command)

        await world.serve("payment", handler)
        batch = [call(n, order_id=f"o-{n}") for n in range(LIMIT_CALLS)]
        async with httpx.AsyncClient(base_url=self.address.format(world.ports["payment"])) as http:
            answers = (await http.post("/rpc", json=batch)).json()
        assert {(each["id"], each["result"]["order"]["order_id"]) for each in answers} == {
            (n, f"o-{n}") for n in range(LIMIT_CALLS)
        }

    async def test_a_batch_of_notifications_is_not_answered(self, handler: Handler, ask: Ask) -> None:
        """Not even with an empty array (section 6)."""
        assert await ask([notification(order_id="o-1"), notification(order_id="o-2")]) is None
        assert sorted(handler.heard) == ["o-1", "o-2"]

    # --- the edge is HTTP's

    async def test_a_body_has_a_limit(self, handler: Handler, http: httpx.AsyncClient) -> None:
        body = json.dumps(call(customer="")).encode()
        full = json.dumps(call(customer="x" * (65_536 - len(body)))).encode()
        assert len(full) == 65_536
        assert "result" in (await http.post("/rpc", content=full)).json()
        counted = refused_input("payment", "json_rpc", "oversize")
        answer = await http.post("/rpc", content=full + b" ")
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
        assert refused_input("payment", "json_rpc", "oversize") == counted + 1
        assert handler.heard == ["o-1"]

    async def test_a_call_that_is_too_large_has_failed(
        self, world: World, orders: Rpc, handler: Handler, http: httpx.AsyncClient
    ) -> None:
        with pytest.raises(errors.PeerFailed, match="413"):
            await orders.call(
                "payment", ChargePayment(Order("o-1", "c", "4", "X" * 65_536, ORDER.lines, 1)), timeout_s=5
            )
        assert handler.heard == []

    @pytest.mark.parametrize(
        ("method", "path", "headers", "status"),
        [
            ("GET", "/rpc", {}, 405),
            ("POST", "/", {}, 404),
            ("POST", "/docs", {}, 404),
            ("POST", "/rpc", {"content-type": "text/plain"}, 415),
        ],
    )
    async def test_what_does_not_reach_the_protocol_is_answered_by_http(
        self, http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int
    ) -> None:
        counted = refused_input("payment", "json_rpc")
        answer = await http.request(method, path, content=json.dumps(call()), headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert refused_input("payment", "json_rpc") == counted + 1

    # --- the contract

    async def test_each_process_serves_its_contract(self, world: World, ask: Ask, http: httpx.AsyncClient) -> None:
        """At an address, which nobody traces, and as a method, whose name OpenRPC has reserved."""
        document = (await http.get("/openrpc.json")).json()
        assert document == json.loads(json.dumps(openrpc.document(PAYMENT)))
        assert {method["name"] for method in document["methods"]} == {"payment.charge", "payment.refund"}
        assert not world.spans.started
        discovered = await ask({"jsonrpc": "2.0", "id": 1, "method": "rpc.discover"})
        assert discovered["result"] == document

    async def test_what_is_served_is_what_the_contract_names(self, ask: Ask, http: httpx.AsyncClient) -> None:
        for method in (await http.get("/openrpc.json")).json()["methods"]:
            result = (await ask(call(1, method["name"])))["result"]
            assert result["type"] in method["result"]["schema"]["properties"]["type"]["enum"]

    # --- callers

    async def test_the_library_s_client_is_at_hand(self, world: World, orders: Any) -> None:
        """The second way: what the port has no word for, a batch say, in the same connections and traces."""
        await world.serve("payment", done_soon)
        url = self.address.format(world.ports["payment"])
        answers = (await orders.native.post(f"{url}/rpc", json=[call(1), call(2), notification()])).json()
        assert [answer["id"] for answer in answers] == [1, 2]
        spans = await world.spans.settled(5)
        (client,) = world.spans.of(SpanKind.CLIENT)
        assert len(self.calls(world)) == 3
        assert all(client in ancestry(span, spans) for span in self.calls(world))

    async def test_a_call_that_is_sent_once_more_is_one_call(self, world: World) -> None:
        """The server hung up as the request was on its way: two requests, one CLIENT span around them."""

        def answer(body: bytes) -> bytes:
            return json.dumps({"jsonrpc": "2.0", "id": json.loads(body)["id"], "result": CHARGED}).encode()

        async with stranger(answer, "keep", "hang up") as (port, seen):
            world.ports["payment"] = port
            orders = world.connect("orders")
            for _ in range(2):
                assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        assert seen == [(0, 0), (0, 1), (1, 0)]
        calls = [span for span in world.spans.ended if self.own(span)]
        requests = [span for span in world.spans.ended if not self.own(span)]
        assert [span.attributes[c.JSONRPC_REQUEST_ID] for span in calls] == ["1", "2"]
        assert [span.parent.span_id for span in requests] == [calls[n].context.span_id for n in (0, 1, 1)]
        for span in calls:
            assert_fine(span)

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "no JSON-RPC"),
            (b"{", "no JSON-RPC"),
            (b"[" * 5000, "no JSON-RPC"),
            (b"[]", "no JSON-RPC"),
            (b"{}", "no JSON-RPC"),
            (resulting(jsonrpc="1.0"), "no JSON-RPC"),
            (resulting(error={"code": 1, "message": ""}), "no JSON-RPC"),
            (resulting(None, error={"code": 1, "message": ""}), "no JSON-RPC"),
            (resulting(0, error={"code": 1, "message": ""}), "no JSON-RPC"),
            (failing(None), "no JSON-RPC"),
            (failing({"code": "-32603", "message": ""}), "no JSON-RPC"),
            (failing({"code": -32603}), "no JSON-RPC"),
            (resulting(id=2), "another call"),
            (resulting(id="1"), "another call"),
            (resulting(id=None), "another call"),
            (resulting(None), "no event"),
            (resulting([CHARGED]), "no event"),
            (resulting({}), "no event"),
            (resulting({**CHARGED, "type": ["payment.charged"]}), "no event"),
            (resulting({"type": "payment.charged"}), "no event"),
            (resulting({**CHARGED, "type": "payment.declined"}), "no event"),
            (resulting({**CHARGED, "type": "payment.charge"}), "no event"),
            (resulting({**CHARGED, "type": "charge.payment"}), "with charge.payment"),
            (resulting({**CHARGED, "type": "stock.reserved"}), "with stock.reserved"),
            (failing({"code": -32000, "message": "Server error"}), "-32000 Server error"),
            (failing({"code": 17, "message": "of its own", "data": {"a": 1}}, id=None), "17 of its own"),
        ],
        ids=lambda value: str(value)[:60],
    )  # fmt: skip
    async def test_a_peer_that_answers_nonsense_has_failed(self, world: World, body: bytes, says: str) -> None:
        async with stranger(lambda _: body, "keep") as (port, _):
            world.ports["payment"] = port
            orders = world.connect("orders")
            with pytest.raises(errors.PeerFailed, match=says):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        http, span = sorted(await world.spans.settled(2), key=self.own)
        assert_fine(http)
        assert span.status.status_code is StatusCode.ERROR
        code = re.match(r"-?\d+", says)
        assert span.attributes.get(c.RPC_RESPONSE_STATUS_CODE) == (code and code[0])
        assert span.attributes[c.ERROR_TYPE] == (code[0] if code else "PeerFailed")

    @pytest.mark.parametrize("head", [b"HTTP/1.1 503 Busy", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 204 No Content"])
    async def test_a_peer_that_does_not_speak_the_protocol_has_failed(self, world: World, head: bytes) -> None:
        async with stranger(lambda _: b"", head + b"\r\ncontent-length: 0\r\n\r\n") as (port, _):
            world.ports["payment"] = port
            orders = world.connect("orders")
            with pytest.raises(errors.PeerFailed):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)

    async def test_durations_are_measured_with_exemplars(self, world: World, orders: Rpc) -> None:
        await world.serve("payment", done_soon)
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await world.spans.settled(4)
        for name in (c.METRIC_RPC_CLIENT_DURATION, c.METRIC_RPC_SERVER_DURATION):
            (metric,) = (metric for metric in REGISTRY.collect() if metric.name == name)
            led = {s.exemplar.labels["span_id"] for s in metric.samples if s.exemplar}
            assert led & {f"{span.context.span_id:016x}" for span in world.spans.ended if self.own(span)}

    # --- malformed bytes

    async def test_no_body_can_hurt(self, world: World, handler: Handler, orders: Rpc) -> None:
        """Whatever is posted gets an answer of the protocol, nothing stays open, and refusals are counted."""
        payment: Any = await world.serve("payment", handler)
        connections = payment._server._server.server_state.connections
        bodies: list[bytes] = []

        @settings(max_examples=ON_THE_WIRE, deadline=None, database=None)
        @given(bytes_like(json.dumps([call(1), notification(), call("b", "payment.refund")]).encode()))
        def draw(body: bytes) -> None:
            bodies.append(body)

        draw()
        counted, wrong = refused_input("payment", "json_rpc"), 0
        async with httpx.AsyncClient(base_url=self.address.format(world.ports["payment"]), headers=JSON) as http:
            for body in bodies:
                answer = await http.post("/rpc", content=body)
                assert answer.status_code in {200, 204}, body
                answers = answer.json() if answer.content else []
                for each in answers if isinstance(answers, list) else [answers]:
                    assert ("result" in each) != ("error" in each), body
                    wrong += "error" in each
        assert len(bodies) >= ON_THE_WIRE
        assert wrong > ON_THE_WIRE / 2
        assert refused_input("payment", "json_rpc") >= counted + wrong
        await until(lambda: not connections, lambda: f"{len(connections)} connections stay")
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        await world.spans.settled(2 * len(bodies))


@pytest.fixture
def decode() -> Iterator[Callable[[bytes], None]]:
    """A server in process: what it answers is JSON, each answer has a result or an error, and each span ends."""
    telemetry = set_up("payment")
    spans = Watcher()
    telemetry.provider.add_span_processor(spans)
    methods = Methods(PAYMENT, Handler(), RpcSpans("payment", telemetry.tracer), lambda _: None)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        def decode(body: bytes) -> None:
            before = len(spans.started)
            answers = json.loads(to_json(loop.run_until_complete(methods.answer(body))))
            for each in answers if isinstance(answers, list) else filter(None, [answers]):
                assert each.keys() in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
            assert len(spans.started) == len(spans.ended) > before

        yield decode


def test_no_bytes_can_hurt_the_server(decode: Callable[[bytes], None]) -> None:
    sent = [call(1), notification("payment.refund"), {**call(2), "params": [ORDER_JSON]}]
    hammer(decode, (), json.dumps(sent).encode())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ORDERS = st.fixed_dictionaries({}, optional={key: st.just(value) | ANYTHING for key, value in ORDER_JSON.items()})
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | ANYTHING,
        "id": st.integers(0, 2) | ANYTHING,
        "method": st.sampled_from(["payment.charge", "rpc.discover"]) | ANYTHING,
        "params": st.fixed_dictionaries({"order": ORDERS}) | st.lists(ORDERS) | ANYTHING,
    },
)


@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=CALLS | st.lists(CALLS | ANYTHING, max_size=5) | ANYTHING)
def test_no_json_can_hurt_the_server(decode: Callable[[bytes], None], sent: Any) -> None:
    decode(json.dumps(sent).encode())


@pytest.mark.parametrize(
    "good",
    [
        resulting(),
        resulting({**CHARGED, "type": "payment.declined", "reason": "no"}),
        failing({"code": 1, "message": "no"}),
    ],
)
def test_no_bytes_can_hurt_the_caller(good: bytes) -> None:
    spans = RpcSpans("orders", set_up("orders").tracer)
    with spans.client("jsonrpc", "payment.charge", {}, "payment") as call:
        decode = partial(answered, "payment", ChargePayment(ORDER), 1, call=call)
        if b"error" in good:
            with pytest.raises(errors.PeerFailed):
                decode(good)
            hammer(lambda body: body == good or decode(body), errors.PeerFailed, good)
        else:
            hammer(decode, errors.PeerFailed, good)
