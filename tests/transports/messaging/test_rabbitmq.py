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
from services.transports.messaging import rabbitmq_held, rabbitmq_letters
from services.transports.messaging.headers import ATTEMPTS, REASON
from services.transports.messaging.rabbitmq import DEAD_EXCHANGE, EXCHANGE, RabbitMQ
from services.transports.messaging.rabbitmq_wire import _canonical, text_of
from services.transports.ports import Broker, Delivery, Wiring
from tests.servers import Server, server
from tests.transports.fuzz import ON_THE_WIRE
from tests.transports.messaging.outage import OutageBehaviour
from tests.transports.messaging.strangers import bodies_borne
from tests.transports.messaging.suite import BrokerBehaviour, Connect, Dead, Reader, ack, event

pytestmark = [pytest.mark.servers, pytest.mark.timeout(60)]


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
                headers = {_canonical(name): text_of(value) or "" for name, value in message.headers.items()}
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
        [told] = await broker.dead_letters(channel, "payment")
        assert (told.id, told.reason, told.attempts) == (event()[0]["ce-id"], "delivery_limit", 0)
        assert told.headers == reader.deliveries[0].headers
        assert told.died_at_ns is not None
        reader = Reader(broker, channel, "payment", ack)
        assert await broker.settle_dead_letter(channel, "payment", told.id, replay=True) is True
        assert (await reader.until(1))[0].attempt == 1
        await reader.stop()

    async def test_a_hundred_dead_letters_keep_their_order(self, connect: Connect, channel: str) -> None:
        """What is given back goes behind what was given back before: so all are taken, however few are wanted; by two
        who look at once, one after the other."""
        broker, desk = connect(), connect()
        await broker.open({channel: frozenset({"payment"})})
        await desk.open({channel: frozenset({"payment"})})
        letters = await self.buried(broker, channel, [event(number) for number in range(100)])
        assert [letter.id for letter in letters] == [event(number)[0]["ce-id"] for number in range(100)]
        looks = [(each, limit) for limit in (1, 40, 100, 7) for each in (broker, desk)]
        found = await asyncio.gather(*(each.dead_letters(channel, "payment", limit=limit) for each, limit in looks))
        assert found == [letters[:limit] for _, limit in looks]
        settled = await asyncio.gather(
            *(
                (broker, desk)[number % 2].settle_dead_letter(channel, "payment", letters[number].id, replay=False)
                for number in (50, 7, 99, 7)
            )
        )
        assert sorted(settled) == [False, True, True, True]
        assert await desk.dead_letters(channel, "payment") == [
            letter for number, letter in enumerate(letters) if number not in (7, 50, 99)
        ]

    async def test_one_looks_at_a_time(self, connect: Connect, channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who holds the key and does not come back keeps others out, who hear it, until his connection is gone."""
        monkeypatch.setattr(rabbitmq_letters, "KEY_S", 0.3)
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        letters = await self.buried(broker, channel, [event()])
        async with await aio_pika.connect(self.url) as connection:
            await (await connection.channel()).declare_queue(f"payment.{channel}.dead.key", exclusive=True)
            with pytest.raises(Unavailable, match="another process looks at"):
                await broker.dead_letters(channel, "payment")
            with pytest.raises(Unavailable, match="another process looks at"):
                await broker.settle_dead_letter(channel, "payment", letters[0].id, replay=False)
        assert await broker.dead_letters(channel, "payment") == letters

    async def test_who_does_not_say_what_he_holds_is_missed(self, connect: Connect, channel: str) -> None:
        """A process that is there and silent, since it hangs: what is held is not known, rather than wrong."""

        async def silent(_: Any) -> None: ...

        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        assert await broker.held(channel, "payment") == 0
        async with await aio_pika.connect(self.url) as connection:
            present = await (await connection.channel()).get_queue(rabbitmq_held.PRESENT)
            await present.consume(silent)
            with pytest.raises(Unavailable, match=r"1 of \d+ processes do not say what they hold"):
                await broker.held(channel, "payment")
        await self.holds(broker, channel, 0)

    async def test_a_queue_that_is_not_there_holds_nothing(self, connect: Connect, channel: str) -> None:
        broker = connect()
        await broker.open({})
        assert await broker.held(channel, "payment") == 0
        assert await broker.dead_letters(channel, "payment") == []
        assert await broker.settle_dead_letter(channel, "payment", "any", replay=True) is False
        assert await broker.ready() is None

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
