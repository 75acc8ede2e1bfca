"""What a stranger may put on a broker: the runtime's consumer bears it, counts it, and goes on with what is good."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from prometheus_client import REGISTRY

from services.domain.messages import Order
from services.runtime.consumer import Consumer
from services.storage.database import Database
from services.storage.participant import Failures
from services.telemetry.setup import set_up
from services.transports.cloudevents import decode
from services.transports.errors import Undecodable
from services.transports.ports import Broker, Message
from tests.services.parts import live
from tests.transports.fuzz import ON_THE_WIRE, bytes_like
from tests.transports.messaging.suite import PATIENCE_S, Connect, event
from tests.transports.rpc.suite import Watcher, until

T = TypeVar("T")


def drawn(good: bytes) -> list[bytes]:
    """``ON_THE_WIRE`` inputs that are near to ``good``."""
    inputs: list[bytes] = []

    @settings(max_examples=ON_THE_WIRE, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bytes_like(good))
    def draw(data: bytes) -> None:
        inputs.append(data)

    draw()
    assert len(inputs) >= ON_THE_WIRE
    return inputs


def refused(transport: str) -> float:
    labels = {"service": "payment", "transport": transport, "reason": "undecodable"}
    return REGISTRY.get_sample_value("lab_refused_input_total", labels) or 0.0


async def borne(
    connect: Connect,
    channel: str,
    inputs: Sequence[T],
    put: Callable[[T], Awaitable[object]],
    decode: Callable[[T], Message],
    listening: Callable[[str], Awaitable[None]],
) -> None:
    """All of ``inputs`` on ``channel``, then a good message: that is handled, each bad one was refused and is a dead
    letter, and every span has ended."""
    watcher, telemetry = Watcher(), set_up("payment")
    telemetry.provider.add_span_processor(watcher)
    broker: Broker = connect("payment", telemetry)
    await broker.open({channel: frozenset({"payment"})})
    handled: list[str] = []

    async def react(message: Message) -> None:
        assert isinstance(message.payload.order, Order)
        handled.append(message.id)

    consumer = Consumer(
        broker,
        "payment",
        react,
        spans=telemetry.messaging,
        failures=Failures(Database("sqlite:///:memory:")),
        live=live(),
        max_in_flight=16,
    )
    before, bad = refused(broker.name), 0
    for each in inputs:
        try:
            decode(each)
        except Undecodable:
            bad += 1
    running = asyncio.create_task(consumer.run(channel))
    await listening(channel)
    for each in inputs:
        await put(each)
    headers, body = event(-1)
    await broker.publish(headers, body, channel=channel, key="o-1")
    await until(lambda: headers["ce-id"] in handled, lambda: f"handled {handled}", seconds=PATIENCE_S)
    await until(
        lambda: refused(broker.name) - before == bad, lambda: f"{refused(broker.name) - before}", seconds=PATIENCE_S
    )
    assert bad > ON_THE_WIRE / 2
    assert len(handled) == len(inputs) - bad + 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.drained()
    await broker.close()
    await watcher.settled(len(inputs))


async def bodies_borne(connect: Connect, channel: str, listening: Callable[[str], Awaitable[None]]) -> None:
    """As ``borne``, with good headers and bodies that are near to a good one."""
    producer = connect("orders")
    inputs = [(event(number)[0], data) for number, data in enumerate(drawn(event()[1]))]

    async def put(one: tuple[dict[str, str], bytes]) -> None:
        headers, data = one
        await producer.publish(dict(headers), data, channel=channel, key=headers["ce-subject"])

    await producer.open({channel: frozenset({"payment"})})
    await borne(connect, channel, inputs, put, lambda one: decode(*one), listening)
