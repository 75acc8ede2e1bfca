"""REST: the behaviours of every Rpc, and HTTP's own."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY

from services.domain.messages import ChargePayment, Command, PaymentCharged
from services.telemetry import conventions as c
from services.transports import errors
from services.transports.ports import Rpc
from services.transports.rpc.rest import Rest, resource
from tests.transports.rpc import http_stranger
from tests.transports.rpc.suite import HTTP, ORDER, SocketRpcSuite, World, done_soon, refused_input

BODY = {"order": asdict(ORDER)}
PATH = "/orders/o-1/payment"
JSON = {"content-type": "application/json"}
stranger = partial(http_stranger.stranger, lambda _: json.dumps({"type": "payment.charged", **BODY}).encode())


def without(field: str) -> bytes:
    return json.dumps({"order": {k: v for k, v in BODY["order"].items() if k != field}}).encode()


def with_order(**changes: Any) -> bytes:
    return json.dumps({"order": {**BODY["order"], **changes}}).encode()


async def chunks() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield b" " * 8192


class TestRest(SocketRpcSuite):
    adapter = Rest
    address = "http://127.0.0.1:{}"
    attributes = HTTP

    def method(self, command: type[Command]) -> str:
        return " ".join(resource(command))

    @pytest.fixture
    async def http(self, world: World) -> AsyncIterator[httpx.AsyncClient]:
        """A stranger's client, to a payment service that is there."""
        await world.serve("payment", done_soon)
        async with httpx.AsyncClient(base_url=self.address.format(world.ports["payment"])) as client:
            yield client

    @pytest.mark.parametrize(
        ("request_", "status", "says", "reason"),
        [
            (("PUT", PATH, b"{"), 400, "JSON", "malformed"),
            (("PUT", PATH, b""), 400, "JSON", "malformed"),
            (("PUT", PATH, b"\xff\xfe"), 400, "JSON", "malformed"),
            (("PUT", PATH, b"[" * 60_000), 400, "JSON", "malformed"),
            (("PUT", PATH, b"[]"), 422, "body", "invalid"),
            (("PUT", PATH, b"{}"), 422, "order", "invalid"),
            (("PUT", PATH, b'{"order": 1}'), 422, "order", "invalid"),
            (("PUT", PATH, without("card")), 422, "order.card", "invalid"),
            (("PUT", PATH, with_order(amount_cents="12")), 422, "order.amount_cents", "invalid"),
            (("PUT", PATH, with_order(amount_cents=1.5)), 422, "order.amount_cents", "invalid"),
            (
                ("PUT", PATH, with_order(lines=[{"sku": "tea", "quantity": "2"}])),
                *(422, "order.lines.0.quantity", "invalid"),
            ),
            (("PUT", PATH, with_order(lines=[])), 422, "order.lines", "invalid"),
            (
                ("PUT", PATH, with_order(lines=[{"sku": "tea", "quantity": 0}])),
                *(422, "order.lines.0.quantity", "invalid"),
            ),
            (("PUT", PATH, with_order(order_id="o-2")), 422, "order.order_id", "invalid"),
            (("PUT", PATH, b" " * 65_537), 413, "65536", "oversize"),
            (("PUT", PATH, chunks), 413, "65536", "oversize"),
            (("GET", PATH, b""), 405, "", "method not allowed"),
            (("POST", f"{PATH}/steal", b"{}"), 404, "", "not found"),
            (("PUT", "/orders/o-1/stock", b"{}"), 404, "", "not found"),
            (("PUT", "/", b"{}"), 404, "", "not found"),
        ],
        ids=lambda value: str(value)[:40] if isinstance(value, int | str) else None,
    )
    async def test_what_makes_no_sense_gets_a_problem_document(
        self, world: World, http: httpx.AsyncClient, orders: Rpc, request_: Any, status: int, says: str, reason: str
    ) -> None:
        counted = refused_input("payment", "rest", reason)
        method, path, content = request_
        answer = await http.request(method, path, content=content() if callable(content) else content, headers=JSON)
        problem = answer.json()
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert problem["status"] == status
        assert {"type", "title", "detail"} <= problem.keys()
        assert says in problem["detail"] + problem["title"]
        if status == 422:
            assert problem["errors"][0]["field"] == says
        assert refused_input("payment", "rest", reason) == counted + 1
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)

    async def test_another_media_type_is_refused(self, http: httpx.AsyncClient) -> None:
        answer = await http.put(PATH, content=json.dumps(BODY), headers={"content-type": "text/plain"})
        assert answer.status_code == 415

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"garbage\r\n\r\n", b"400"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"400"),  # TLS
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
            (b"PUT /?\xff HTTP/1.1\r\n\r\n", b"400"),
            (b"PUT / HTTP/1.1\r\nx: \xff\\\r\n\r\n", b"400"),
            (b"PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
            (b"GET /" + b"a" * 200_000, b"431"),
            (b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000, b"431"),
        ],
        ids=lambda value: str(value)[:30],
    )
    async def test_what_is_no_http_is_answered_and_counted(
        self, world: World, http: httpx.AsyncClient, sent: bytes, status: bytes
    ) -> None:
        counted = refused_input("payment", "rest")
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["payment"])
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(4096), 5)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"application/problem+json" in answer
        writer.close()
        assert refused_input("payment", "rest") == counted + 1
        assert (await http.put(PATH, json=BODY)).status_code == 200

    @settings(
        max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        body=st.one_of(
            st.binary(max_size=200),
            st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists).map(json.dumps),
            st.fixed_dictionaries(
                {"order": st.fixed_dictionaries(
                    {key: st.just(value) | st.none() | st.integers() | st.text() | st.lists(st.integers())
                     for key, value in BODY["order"].items()}
                )}
            ).map(json.dumps),
        )
    )  # fmt: skip
    async def test_no_body_can_hurt(self, http: httpx.AsyncClient, body: bytes | str) -> None:
        answer = await http.put(PATH, content=body, headers=JSON)
        assert answer.status_code in {200, 400, 422}
        answer.json()

    # --- connections

    async def test_a_connection_serves_many_calls(self, world: World, orders: Rpc) -> None:
        async with stranger("keep", "keep", "keep") as (port, seen):
            world.ports["payment"] = port
            orders = world.connect("orders")
            for _ in range(3):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        assert seen == [(0, 0), (0, 1), (0, 2)]

    async def test_a_connection_closed_while_idle_is_no_error(self, world: World) -> None:
        """The server hung up as the request was on its way: it is sent once more, and says so."""
        async with stranger("keep", "hang up") as (port, seen):
            world.ports["payment"] = port
            orders = world.connect("orders")
            for _ in range(2):
                assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        assert seen == [(0, 0), (0, 1), (1, 0)]
        first, lost, again = world.spans.of(SpanKind.CLIENT)
        assert "http.request.resend_count" not in {**first.attributes, **lost.attributes}
        assert lost.attributes[c.ERROR_TYPE]
        assert again.attributes["http.request.resend_count"] == 1

    async def test_it_is_sent_once_more_only(self, world: World) -> None:
        async with stranger("keep", "hang up", fresh="hang up") as (port, seen):
            world.ports["payment"] = port
            orders = world.connect("orders")
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
            with pytest.raises(errors.ConnectionBroken):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        assert seen == [(0, 0), (0, 1), (1, 0)]

    async def test_a_stranger_may_trickle(self, world: World) -> None:
        """Each read is in time, the answer is not."""
        async with stranger("trickle") as (port, _):
            world.ports["payment"] = port
            orders = world.connect("orders")
            with pytest.raises(errors.DeadlineExceeded):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=0.3)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",  # whoever says so, it is not our draining server
            b"HTTP/1.1 503 B\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n[]",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            b'HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n{"type":"stock.reserved"} ',
            b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
        ],
    )
    async def test_a_peer_that_answers_nonsense_has_failed(self, world: World, answer: bytes) -> None:
        async with stranger(answer) as (port, _):
            world.ports["payment"] = port
            orders = world.connect("orders")
            with pytest.raises(errors.PeerFailed):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)

    # --- the contract and the metrics

    async def test_each_process_serves_its_contract(self, world: World, http: httpx.AsyncClient) -> None:
        document = (await http.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
        assert {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs} == {
            resource(ChargePayment),
            ("POST", "/orders/{order_id}/payment/refund"),
        }

    async def test_durations_are_measured(self, world: World, orders: Rpc, http: httpx.AsyncClient) -> None:
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await world.spans.settled(2)
        measured = {metric.name for metric in REGISTRY.collect() if metric.samples}
        assert {"http_server_request_duration_seconds", "http_client_request_duration_seconds"} <= measured
