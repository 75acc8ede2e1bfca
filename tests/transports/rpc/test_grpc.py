"""gRPC: the behaviours of every Rpc, and gRPC's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY

from services.contracts.generated import antiphon_pb2 as pb
from services.contracts.protobuf import order_to
from services.domain.messages import ChargePayment, Command, PaymentCharged
from services.telemetry import conventions as c
from services.transports import errors
from services.transports.ports import Rpc
from services.transports.rpc.grpc import Grpc, method
from tests.transports.rpc.suite import ORDER, SocketRpcSuite, World, always, done_soon, refused_input, until

CHARGE = "/antiphon.v1.Payment/Charge"
Ask = Callable[[str, bytes], Any]


def order(**changes: Any) -> bytes:
    """A Command about an order with ``changes``; None leaves a field out."""
    message = order_to(ORDER)
    for name, value in changes.items():
        message.ClearField(name)
        if isinstance(value, list):
            getattr(message, name).extend(value)
        elif value is not None:
            setattr(message, name, value)
    encoded: bytes = pb.Command(order=message).SerializeToString()
    return encoded


class TestGrpc(SocketRpcSuite):
    adapter = Grpc
    address = "127.0.0.1:{}"
    server_learns = True
    attributes = {  # noqa: RUF012
        SpanKind.CLIENT: {
            *(c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.RPC_RESPONSE_STATUS_CODE, c.SERVER_ADDRESS, c.SERVER_PORT)
        },
        SpanKind.SERVER: {
            *(c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.RPC_RESPONSE_STATUS_CODE),
            *("network.peer.address", "network.peer.port"),
        },
    }

    def method(self, command: type[Command]) -> str:
        return "antiphon.v1.{}/{}".format(*method(command))

    @pytest.fixture
    async def ask(self, world: World) -> AsyncIterator[Ask]:
        """A stranger's client, which sends any bytes to any method of a payment service; gives the status."""
        await world.serve("payment", done_soon)
        async with grpc.aio.insecure_channel(self.address.format(world.ports["payment"])) as channel:

            async def ask(path: str, body: bytes) -> tuple[Any, str]:
                try:
                    await channel.unary_unary(path)(body, timeout=10)
                except grpc.aio.AioRpcError as error:
                    return error.code(), error.details() or ""
                return grpc.StatusCode.OK, ""

            yield ask

    @pytest.mark.parametrize(
        ("path", "body", "status", "says"),
        [
            (CHARGE, b"\xff\xff", "INVALID_ARGUMENT", "not a Command"),
            (CHARGE, b"\x0a\x05hello", "INVALID_ARGUMENT", "not a Command"),
            (CHARGE, b"", "INVALID_ARGUMENT", "order: is missing"),
            (CHARGE, b"\x0a\x00", "INVALID_ARGUMENT", "order.order_id: is missing or empty"),
            (CHARGE, order(order_id=None), "INVALID_ARGUMENT", "order.order_id: is missing or empty"),
            (CHARGE, order(lines=None), "INVALID_ARGUMENT", "order.lines: is missing or empty"),
            (CHARGE, order(lines=[pb.Line(sku="tea")]), "INVALID_ARGUMENT", "order.lines.0.quantity:"),
            (CHARGE, order(customer="x" * 65_536), "RESOURCE_EXHAUSTED", "over 65536 bytes"),
            ("/antiphon.v1.Payment/Steal", order(), "UNIMPLEMENTED", ""),
            ("/antiphon.v1.Inventory/Reserve", order(), "UNIMPLEMENTED", ""),
            ("/grpc.health.v1.Health/Check", b"", "UNIMPLEMENTED", ""),
        ],
    )
    async def test_what_makes_no_sense_gets_its_status(
        self, world: World, orders: Rpc, ask: Ask, path: str, body: bytes, status: str, says: str
    ) -> None:
        counted = refused_input("payment", "grpc", status.lower())
        code, details = await ask(path, body)
        assert code.name == status
        assert says in details
        assert refused_input("payment", "grpc", status.lower()) == counted + 1
        assert await orders.call("payment", ChargePayment(ORDER), timeout_s=5) == PaymentCharged(ORDER)
        for span in await world.spans.settled(2):
            assert not span.events
            assert c.ERROR_TYPE not in span.attributes, "the caller's mistake is no error of the server"

    async def test_far_too_large_is_refused_by_the_library(self, ask: Ask) -> None:
        code, _ = await ask(CHARGE, b"x" * 2_000_000)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_unknown_fields_are_ignored(self, ask: Ask) -> None:
        """A newer caller may say more than we know."""
        code, _ = await ask(CHARGE, order() + b"\x98\x06\x01")
        assert code is grpc.StatusCode.OK

    @pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x00" * 5000])
    async def test_what_is_no_http2_is_hung_up_on(self, world: World, ask: Ask, sent: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["payment"])
        writer.write(sent)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert (await ask(CHARGE, order()))[0] is grpc.StatusCode.OK

    @settings(
        max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        body=st.binary(max_size=100)
        | st.tuples(st.integers(0, len(order()) - 1), st.integers(0, 255)).map(
            lambda flip: order()[: flip[0]] + bytes([flip[1]]) + order()[flip[0] + 1 :]
        )
    )
    async def test_no_body_can_hurt(self, ask: Ask, body: bytes) -> None:
        code, _ = await ask(CHARGE, body)
        assert code.name in {"OK", "INVALID_ARGUMENT"}

    @pytest.mark.parametrize(
        "answer",
        [
            pb.Event(),
            pb.Event(type="payment.charged"),
            pb.Event(type="stock.reserved", order=order_to(ORDER)),
            pb.Event(type="payment.declined", order=order_to(ORDER)),
            pb.Event(type="order.placed", order=order_to(ORDER)),
        ],
    )
    async def test_a_peer_that_answers_nonsense_has_failed(
        self, world: World, orders: Rpc, answer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.transports.rpc.grpc.event_to", lambda _: answer)
        await world.serve("payment", done_soon)
        with pytest.raises(errors.PeerFailed, match="no event"):
            await orders.call("payment", ChargePayment(ORDER), timeout_s=5)

    async def test_a_port_that_is_taken_is_named(self, world: World) -> None:
        await world.serve("payment", done_soon)
        with pytest.raises(OSError, match=f"port {world.ports['payment']} on 127.0.0.1 is taken"):
            await world.serve("payment", done_soon)

    async def test_it_is_back_within_two_seconds(self, world: World, orders: Rpc) -> None:
        payment = await world.serve("payment", always(PaymentCharged(ORDER)))
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await payment.close()
        for _ in range(5):  # the more attempts fail, the longer the pause
            with pytest.raises(errors.Unavailable):
                await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await world.serve("payment", always(PaymentCharged(ORDER)))

        async def works() -> bool:
            try:
                return bool(await orders.call("payment", ChargePayment(ORDER), timeout_s=5))
            except errors.Unavailable:
                return False

        await until(works, lambda: "does not come back", seconds=2)

    async def test_durations_are_measured_with_exemplars(self, world: World, orders: Rpc) -> None:
        await world.serve("payment", done_soon)
        await orders.call("payment", ChargePayment(ORDER), timeout_s=5)
        await world.spans.settled(2)
        for name in (c.METRIC_RPC_CLIENT_DURATION, c.METRIC_RPC_SERVER_DURATION):
            (metric,) = (metric for metric in REGISTRY.collect() if metric.name == name)
            buckets = [
                sample
                for sample in metric.samples
                if sample.exemplar and sample.labels[c.LABEL_RPC_METHOD] == "antiphon.v1.Payment/Charge"
            ]
            traces = {f"{span.context.trace_id:032x}" for span in world.spans.ended}
            assert traces & {sample.exemplar.labels["trace_id"] for sample in buckets}
