"""RabbitMQ: the behaviours of every broker, and what happens when it is killed."""

import asyncio
from typing import Any, ClassVar

import aio_pika
import pytest
from cloudevents.core.bindings import amqp
from cloudevents.core.formats.json import JSONFormat

from services.telemetry import conventions as c
from services.telemetry.setup import Telemetry
from services.transports.errors import Unavailable
from services.transports.messaging.headers import ATTEMPTS, REASON
from services.transports.messaging.rabbitmq import (
    DEAD_EXCHANGE,
    EXCHANGE,
    RabbitMQ,
    _canonical,
    _text,
)
from services.transports.ports import Broker, Delivery, Wiring
from tests.servers import Server, server
from tests.transports.fuzz import ON_THE_WIRE
from tests.transports.messaging.outage import OutageBehaviour
from tests.transports.messaging.strangers import bodies_borne
from tests.transports.messaging.suite import BrokerBehaviour, Connect, Dead, Reader, ack, event

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]


@pytest.fixture
def rabbitmq(pytestconfig: pytest.Config) -> Server:
    return server("rabbitmq", pytestconfig)


class TestRabbitMQ(BrokerBehaviour):
    attributes: ClassVar[dict[str, set[str]]] = {
        "send": {c.RABBITMQ_ROUTING_KEY, c.SERVER_ADDRESS, c.SERVER_PORT},
        "process": {c.RABBITMQ_ROUTING_KEY, c.RABBITMQ_DELIVERY_TAG, c.SERVER_ADDRESS, c.SERVER_PORT},
        "settle": {c.RABBITMQ_DELIVERY_TAG, c.SERVER_ADDRESS, c.SERVER_PORT},
    }

    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq: Server) -> None:
        self.url = rabbitmq.address

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return RabbitMQ(Wiring(service, telemetry, servers={"rabbitmq": self.url}))

    def destinations(self, channel: str, group: str) -> tuple[str, str]:
        sent_to = f"{EXCHANGE}:{channel}.order.placed"
        return sent_to, f"{sent_to}:{group}.{channel}"

    async def dead_letters(self, channel: str, group: str) -> list[Dead]:
        found = []
        async with await aio_pika.connect(self.url) as connection:
            queue = await (await connection.channel()).get_queue(f"{group}.{channel}.dead")
            while (message := await queue.get(fail=False)) is not None:
                headers = {_canonical(name): _text(value) or "" for name, value in message.headers.items()}
                headers["content-type"] = message.content_type or ""
                found.append(Dead(headers, message.body, headers[REASON], int(headers[ATTEMPTS])))
        return found

    async def test_what_strangers_publish(self, connect: Connect, channel: str) -> None:
        """200 bodies that are hardly or not at all ours: each is refused, counted and a dead letter."""
        await bodies_borne(connect, channel, self.listening)
        assert len(await self.dead_letters(channel, "payment")) > ON_THE_WIRE / 2

    def garbage(self) -> dict[str, Any]:
        return {
            "cloudEvents:id": bytearray(b"\xff\xfe"),
            "traceparent": bytearray(b"\xff"),
            "sent-at": {"a": [1, None]},
            "number": -1.5,
            "nothing": None,
            "\N{SNOWMAN}": True,
        }

    async def publish_raw(self, channel: str, headers: dict[str, Any], body: bytes) -> None:
        async with await aio_pika.connect(self.url) as connection:
            exchange = await (await connection.channel()).get_exchange(EXCHANGE)
            await exchange.publish(aio_pika.Message(body, headers=headers, type="\u2603" * 20), f"{channel}.whatever")

    def official(self, delivery: Delivery) -> Any:
        properties = delivery.native.header.properties
        message = amqp.AMQPMessage({"content-type": properties.content_type}, properties.headers, delivery.body)
        return amqp.from_amqp(message, JSONFormat())

    async def test_the_broker_buries_what_takes_its_consumer_down(self, connect: Connect, channel: str) -> None:
        """The backstop: after too many redeliveries the broker itself dead-letters a message."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        await broker.publish(*event(), channel=channel, key="o-1")

        async def fail(delivery: Delivery) -> None:
            await delivery.reject("again", retry_after_s=0)

        reader = Reader(broker, channel, "payment", fail)
        async with await aio_pika.connect(self.url) as connection:
            queue = await (await connection.channel()).get_queue(f"payment.{channel}.dead")
            async with asyncio.timeout(20):
                while (letter := await queue.get(fail=False)) is None:
                    await asyncio.sleep(0.05)
        assert letter.headers["x-death"][0]["reason"] == "delivery_limit"
        assert letter.exchange == DEAD_EXCHANGE
        assert [delivery.attempt for delivery in reader.deliveries] == list(range(1, 22))
        await reader.stop()

    async def test_a_second_owner_of_the_queue_sees_the_attempts(self, connect: Connect, channel: str) -> None:
        """The count is the broker's, not ours: it survives the consumer."""
        first, second = connect("payment"), connect("payment")
        await first.open({channel: frozenset({"payment"})})
        await first.publish(*event(), channel=channel, key="o-1")
        reader = Reader(first, channel, "payment")
        [delivery] = await reader.until(1)
        await reader.stop()
        await delivery.reject("not by me", retry_after_s=0)
        reader = Reader(second, channel, "payment", ack)
        assert (await reader.until(1))[0].attempt == 2
        await reader.stop()


class TestRabbitMQAway(OutageBehaviour):
    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq: Server) -> None:
        self.server = rabbitmq

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return RabbitMQ(Wiring(service, telemetry, servers={"rabbitmq": self.server.address}))

    async def before_the_kill(self) -> None:
        # its list of queues reaches the disk half a second late: one that is killed younger has no leader ever after
        await asyncio.sleep(1)

    async def while_it_is_away(self, producer: Broker, channel: str) -> None:
        with pytest.raises(Unavailable):
            await producer.publish(*event(-1), channel=channel, key="o")
