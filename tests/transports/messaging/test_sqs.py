"""SQS: the behaviours of every broker that has no fan-out, and what only a queue that lends its messages can show."""

import asyncio
import os
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import UNSIGNED
from cloudevents.core.formats.json import JSONFormat
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.telemetry import conventions as c
from services.telemetry.setup import Telemetry, set_up
from services.transports import cloudevents
from services.transports.errors import TransportError, Unavailable, Undecodable, Unroutable
from services.transports.messaging.headers import ATTEMPTS, REASON
from services.transports.messaging.sqs import Sqs
from services.transports.messaging.sqs_client import RECEIVES, Link
from services.transports.messaging.structured import Unreadable, pack, unpack
from services.transports.ports import Broker, Delivery, Message, Wiring
from tests.servers import Server, server
from tests.transports.fuzz import hammer
from tests.transports.messaging.holder import holding
from tests.transports.messaging.outage import OutageBehaviour
from tests.transports.messaging.strangers import borne, drawn
from tests.transports.messaging.suite import (
    PATIENCE_S,
    BrokerBehaviour,
    Connect,
    Dead,
    Reader,
    ack,
    event,
    give_up,
    processing,
)

pytestmark = pytest.mark.timeout(90)

WHERE = {c.SERVER_ADDRESS, c.SERVER_PORT, c.SQS_QUEUE_URL}
RECEIVED = {*WHERE, c.SQS_MESSAGE_ID, c.SQS_RECEIPT, c.SQS_RECEIVE_COUNT}
SHORT_S = 3
"""A visibility timeout that a test can wait for."""


@pytest.fixture
def elasticmq(pytestconfig: pytest.Config) -> Server:
    return server("elasticmq", pytestconfig)


def queue_of(channel: str) -> str:
    return channel.replace(".", "_")


class Wire:
    """What the tests do behind the adapter's back."""

    url: str
    fifo: ClassVar[bool] = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        config = AioConfig(signature_version=UNSIGNED, max_pool_connections=50)
        async with get_session().create_client(
            "sqs", endpoint_url=self.url, region_name="elasticmq", config=config
        ) as client:
            yield client

    async def address(self, client: Any, queue: str) -> str:
        suffix = ".fifo" if self.fifo else ""
        url: str = (await client.get_queue_url(QueueName=f"{queue}{suffix}"))["QueueUrl"]
        return url

    async def letters(self, channel: str) -> list[dict[str, Any]]:
        """The dead letters as SQS has them, left visible."""
        found: list[dict[str, Any]] = []
        async with self.client() as client:
            url = await self.address(client, f"{queue_of(channel)}_dead")
            while True:
                answer = await client.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=20
                )
                if not answer.get("Messages"):
                    break
                found += answer["Messages"]
            for each in found:
                await client.change_message_visibility(
                    QueueUrl=url, ReceiptHandle=each["ReceiptHandle"], VisibilityTimeout=0
                )
        return found

    async def dead_letters(self, channel: str, group: str) -> list[Dead]:
        return [_dead(letter) for letter in await self.letters(channel)]

    async def put(self, channel: str, body: str, **more: Any) -> None:
        async with self.client() as client:
            url = await self.address(client, queue_of(channel))
            if self.fifo:
                more = {"MessageGroupId": "stranger", "MessageDeduplicationId": str(time.time_ns()), **more}
            await client.send_message(QueueUrl=url, MessageBody=body, **more)

    async def counted(self, channel: str) -> dict[str, int]:
        """How many messages of the queue are visible, and how many are hidden."""
        names = {"visible": "ApproximateNumberOfMessages", "hidden": "ApproximateNumberOfMessagesNotVisible"}
        async with self.client() as client:
            url = await self.address(client, queue_of(channel))
            answer = await client.get_queue_attributes(QueueUrl=url, AttributeNames=list(names.values()))
            return {name: int(answer["Attributes"][attribute]) for name, attribute in names.items()}

    async def until_counted(self, channel: str, **wanted: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.counted(channel) != wanted:
                await asyncio.sleep(0.05)


def _dead(letter: dict[str, Any]) -> Dead:
    attributes = {name: value.get("StringValue", "") for name, value in letter["MessageAttributes"].items()}
    try:
        headers, body = unpack(letter["Body"])
    except Undecodable:
        headers, body = {}, letter["Body"].encode()
    return Dead({**headers, **attributes}, body, attributes[REASON], int(attributes[ATTEMPTS]))


def message_of(data: bytes | str) -> Message:
    return cloudevents.decode(*unpack(data))


# --- structured mode, in process -----------------------------------------------------------------------------------
def test_any_body_is_a_message_or_undecodable() -> None:
    """10,000 bodies: nothing but Undecodable comes out of what is none of ours."""
    hammer(message_of, Undecodable, pack(*event()))


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"null", b"[1e400]", b'{"a":1.50}', b'"\\ud800"', b"[" * 5000, bytes(range(256)), b'{"a":"\xc3\xbc"}'],
    ids=repr,
)
def test_a_body_comes_out_as_it_went_in(body: bytes) -> None:
    """Byte for byte, as ``data`` or as ``data_base64``; and the text is ASCII."""
    headers = {**event()[0], c.HEADER_SENT_AT: "1", "reply-to": "orders", "baggage": "a=b"}
    packed = pack(headers, body)
    assert packed.isascii()
    assert unpack(packed) == (headers, body)


def test_a_header_that_no_attribute_can_be_named_after_is_refused() -> None:
    """It would be lost in silence, or make the event invalid."""
    with pytest.raises(ValueError, match="no CloudEvents attribute can carry the header 'X-Mine'"):
        pack({"X-Mine": "1"}, b"")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("garbage", "no JSON: "),
        ("[]", "no object"),
        ('{"id": [1]}', "CloudEvents attribute id is no text"),
        ('{"ID": "1"}', "'ID' is no name of a CloudEvents attribute"),
        ('{"data": 1, "data_base64": "MQ=="}', "data and data_base64 stand beside each other"),
        ('{"data_base64": "\\u00e9"}', "data_base64 is no base64"),
        ('{"data_base64": 1}', "data_base64 is no base64"),
        ('{"datacontenttype": "text/plain", "data": {}}', "data is no text"),
        ('{"id": NaN}', "no JSON: "),
    ],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    """The reason stands in the dead letter, also where only the runtime asks for it, by a header that is not there."""
    with pytest.raises(Undecodable) as caught:
        unpack(text)
    assert reason in str(caught.value)
    with pytest.raises(Undecodable, match=str(caught.value).replace("[", r"\[")[:40]):
        cloudevents.decode(Unreadable(caught.value), text.encode())


def test_other_peoples_events_are_read() -> None:
    """Attributes may be numbers and truth values, null is not there, and text need not be JSON (JSON event format)."""
    foreign = '{"specversion": "1.0", "id": 7, "urgent": true, "source": null, "datacontenttype": "text/plain"'
    headers = {"ce-specversion": "1.0", "ce-id": "7", "ce-urgent": "true", "content-type": "text/plain"}
    assert unpack(f'{foreign}, "data": "é"}}') == (headers, "é".encode())


# --- the real server -------------------------------------------------------------------------------------------------
class SqsBehaviour(Wire, BrokerBehaviour):
    """The behaviours of every broker, as far as one without fan-out has them."""

    fans_out = False
    receives = True
    settle_word = "delete"
    garbage_body = "\xff garbage".encode()
    attributes: ClassVar[dict[str, set[str]]] = {
        "send": {*WHERE, c.SQS_MESSAGE_ID},
        "receive": WHERE,
        "process": RECEIVED,
        "settle": RECEIVED,
    }

    @pytest.fixture(autouse=True)
    def _server(self, elasticmq: Server) -> None:
        self.url = elasticmq.address
        self.brokers: list[Sqs] = []

    def broker(self, telemetry: Telemetry, service: str, **settings: Any) -> Broker:
        self.brokers.append(Sqs(Wiring(service, telemetry, servers={"sqs": self.url}, sqs_fifo=self.fifo, **settings)))
        return self.brokers[-1]

    async def listening(self, channel: str, readers: int = 1) -> None:
        """Return when those that have left have had their last poll: what it brings is received once more by others."""
        subscriptions = [each for broker in self.brokers for each in broker._subscriptions]
        async with asyncio.timeout(PATIENCE_S):
            left = [each._poller for each in subscriptions if each._leaving]
            await asyncio.gather(*left, return_exceptions=True)

    def destinations(self, channel: str, group: str) -> tuple[str, str]:
        queue = queue_of(channel) + (".fifo" if self.fifo else "")
        return queue, queue

    def garbage(self) -> dict[str, Any]:
        return {
            "traceparent": {"DataType": "Binary", "BinaryValue": b"\xff"},
            "tracestate": {"DataType": "Number", "StringValue": "1"},
            **{f"own-{n}": {"DataType": "String", "StringValue": "\N{SNOWMAN}"} for n in range(8)},
        }

    async def publish_raw(self, channel: str, headers: dict[str, Any], body: bytes) -> None:
        await self.put(channel, body.decode(), MessageAttributes=headers)

    def official(self, delivery: Delivery) -> Any:
        return JSONFormat().read(None, delivery.native["Body"])


@pytest.mark.servers
class TestSqs(SqsBehaviour):
    dies_in_order = False

    # --- lent for a time --------------------------------------------------------------------------------------------
    async def test_what_is_in_hand_stays_hidden_until_its_holder_is_killed(
        self, connect: Connect, channel: str
    ) -> None:
        """However long it takes, another reader does not get it, while a message that nobody prolongs comes again and
        again; once the process is killed it comes a second time, when its visibility timeout has run out."""
        broker, control = connect("payment"), f"{channel}-control"
        await broker.open({channel: frozenset({"payment"}), control: frozenset({"payment"})})
        await broker.publish(*event(), channel=channel, key="o-1")
        await self.put(control, "nobody prolongs me")
        wiring = {"servers": {"sqs": self.url}, "sqs_visibility_timeout_s": SHORT_S, "max_in_flight": 1}
        async with holding("sqs", channel, "payment", 1, **wiring) as held:
            assert held == [event()[0]["ce-id"]]
            reader = Reader(broker, channel, "payment", ack)
            assert await self.received_again_and_again(control, 3) == [1, 2, 3]
            assert reader.deliveries == []
        [delivery] = await reader.until(1)
        assert (delivery.attempt, delivery.released_at_ns) == (2, None)
        await reader.stop()

    async def received_again_and_again(self, channel: str, times: int) -> list[int]:
        """The receive counts of the only message of ``channel``, which is neither prolonged nor deleted."""
        counts: list[int] = []
        async with self.client() as client, asyncio.timeout(PATIENCE_S):
            url = await self.address(client, queue_of(channel))
            while len(counts) < times:
                answer = await client.receive_message(
                    QueueUrl=url, VisibilityTimeout=SHORT_S, WaitTimeSeconds=1, AttributeNames=["All"]
                )
                received = [message["Attributes"]["ApproximateReceiveCount"] for message in answer.get("Messages", [])]
                counts.extend(map(int, received))
        return counts

    async def test_more_are_in_hand_than_one_request_brings(self, connect: Connect, channel: str) -> None:
        """SQS hands out ten at a time: they are asked for until there is no room."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        messages = [(*event(number), f"o-{number}") for number in range(30)]
        reader = await self.read(broker, channel, "payment", messages, max_in_flight=25)
        await reader.until(25)
        await self.until_counted(channel, visible=5, hidden=25)
        for delivery in list(reader.deliveries):
            await delivery.ack()
        await reader.until(30)
        await self.until_counted(channel, visible=0, hidden=5)
        await reader.stop()
        await broker.close()
        await self.until_counted(channel, visible=5, hidden=0)

    async def test_a_pause_of_seconds_is_left_to_sqs(self, connect: Connect, channel: str) -> None:
        """The whole seconds are a visibility timeout, which takes no room here; the wait counts from its end."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")], max_in_flight=1)
        [delivery] = await reader.until(1)
        before_ns = time.time_ns()
        await delivery.reject("in a second", retry_after_s=1.2)
        await broker.publish(*event(2), channel=channel, key="o-2")
        assert [(each.headers["ce-id"], each.attempt) for each in (await reader.until(2))[1:]] == [
            (event(2)[0]["ce-id"], 1)
        ]
        await reader.deliveries[1].ack()
        again = (await reader.until(3))[2]
        assert again.attempt == 2
        assert again.released_at_ns is not None
        assert again.released_at_ns - before_ns >= 1_200_000_000
        await again.ack()
        await reader.stop()

    async def test_what_takes_its_consumer_down_is_buried_by_sqs(self, connect: Connect, channel: str) -> None:
        """The backstop: after too many receives the redrive policy makes it a dead letter, as it was and without a
        reason, wherever it was received."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})

        async def fail(delivery: Delivery) -> None:
            await delivery.reject("again", retry_after_s=0)

        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")], fail)
        async with asyncio.timeout(PATIENCE_S):
            while not (letters := await self.letters(channel)):
                await asyncio.sleep(0.05)
        assert [delivery.attempt for delivery in reader.deliveries] == list(range(1, RECEIVES + 1))
        assert [(letter["Body"], set(letter["MessageAttributes"])) for letter in letters] == [
            (reader.deliveries[0].native["Body"], {"traceparent"})
        ]
        await reader.stop()

    # --- polling ------------------------------------------------------------------------------------------------------
    async def test_a_waiting_poll_is_woken(
        self, connect: Connect, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A message comes with the poll that waited for it, not with the next one; nor does closing wait for a poll
        that is so long."""
        brought: list[int] = []
        asked = asyncio.Event()
        ask = Link.ask

        async def noted(self: Link, operation: str, **parameters: Any) -> dict[str, Any]:
            if operation == "receive_message":
                asked.set()
            answer = await ask(self, operation, **parameters)
            if operation == "receive_message":
                brought.append(len(answer.get("Messages", [])))
            return answer

        monkeypatch.setattr(Link, "ask", noted)
        orders, payment = connect("orders"), self.broker(set_up("payment"), "payment", sqs_wait_s=20)
        await orders.open({channel: frozenset({"payment"})})
        reader = Reader(payment, channel, "payment", ack)
        async with asyncio.timeout(PATIENCE_S):
            await asked.wait()
        # the request is on its way: it is there before a whole round trip of another one is over
        await self.until_counted(channel, visible=0, hidden=0)
        await orders.publish(*event(), channel=channel, key="o-1")
        await reader.until(1)
        assert brought == [1]
        await reader.stop()
        await asyncio.wait_for(payment.close(), 4)

    async def test_what_comes_with_the_last_poll_goes_back_at_once(self, connect: Connect, channel: str) -> None:
        """A subscription that ends still has a poll under way, and SQS answers it: others need not wait for the
        visibility timeout."""
        broker, other = connect("payment"), connect("payment")
        await broker.open({channel: frozenset({"payment"})})
        reader = Reader(broker, channel, "payment")
        await broker.publish(*event(1), channel=channel, key="o-1")
        await (await reader.until(1))[0].ack()
        await reader.stop()
        await broker.publish(*event(2), channel=channel, key="o-1")
        later = Reader(other, channel, "payment", ack)
        [delivery] = await later.until(1)
        assert delivery.headers["ce-id"] == event(2)[0]["ce-id"]
        assert len(reader.deliveries) == 1
        await later.stop()

    async def test_a_queue_that_is_gone_is_made_again(self, connect: Connect, channel: str) -> None:
        """By whoever reads it; until then its publishers hear that there is none."""
        orders, payment = connect("orders"), connect("payment")
        await orders.open({channel: frozenset({"payment"})})
        async with self.client() as client:
            await client.delete_queue(QueueUrl=await self.address(client, queue_of(channel)))
        with pytest.raises(Unroutable, match=r"SQS: .* does not exist"):
            await orders.publish(*event(1), channel=channel, key="o-1")
        reader = Reader(payment, channel, "payment", ack)
        await self.until_counted_at_last(channel)
        await orders.publish(*event(2), channel=channel, key="o-1")
        await reader.until(1)
        async with self.client() as client:
            await client.delete_queue(QueueUrl=await self.address(client, queue_of(channel)))
        await self.until_counted_at_last(channel)
        await orders.publish(*event(3), channel=channel, key="o-1")
        await reader.until(2)
        await reader.stop()

    async def test_dead_letters_find_their_queue_gone(self, connect: Connect, channel: str) -> None:
        """It is made again, and the letter is in it."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")])
        [delivery] = await reader.until(1)
        async with self.client() as client:
            await client.delete_queue(QueueUrl=await self.address(client, f"{queue_of(channel)}_dead"))
        await delivery.reject("no such card")
        assert [letter.reason for letter in await self.dead(channel, "payment")] == ["no such card"]
        await self.until_counted(channel, visible=0, hidden=0)
        await reader.stop()

    async def until_counted_at_last(self, channel: str) -> None:
        """Return when the queue is there."""
        async with self.client() as client, asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.address(client, queue_of(channel))
                except client.exceptions.QueueDoesNotExist:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def test_a_batch_has_links_and_no_parent(self, connect: Connect, channel: str) -> None:
        """A receive of several messages links to their producers."""
        exporter = InMemorySpanExporter()
        telemetry = set_up("payment", exporter=exporter)
        orders, broker = connect("orders"), connect("payment", telemetry)
        await orders.open({channel: frozenset({"payment"})})
        messages = [(*event(number), f"o-{number}") for number in range(6)]
        for headers, body, key in messages:
            await orders.publish(headers, body, channel=channel, key=key)
        reader = Reader(broker, channel, "payment", processing(broker, telemetry))
        await reader.until(6)
        assert all(delivery.received_with is None for delivery in reader.deliveries)
        await reader.stop()
        await broker.close()
        [batch] = [span for span in exporter.get_finished_spans() if span.attributes.get(c.OPERATION_TYPE) == "receive"]
        producers = {delivery.headers["traceparent"].split("-")[2] for delivery in reader.deliveries}
        assert {f"{link.context.span_id:016x}" for link in batch.links} == producers
        assert (batch.parent, batch.attributes[c.BATCH_MESSAGE_COUNT]) == (None, 6)

    # --- what is left behind ------------------------------------------------------------------------------------------
    async def test_what_sqs_buried_can_be_read_and_replayed(self, connect: Connect, channel: str) -> None:
        """Nobody gave a reason, and looking does not count as an attempt; it comes again as a new message."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})

        async def fail(delivery: Delivery) -> None:
            await delivery.reject("again", retry_after_s=0)

        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")], fail)
        await reader.until(RECEIVES)
        async with asyncio.timeout(PATIENCE_S):
            while not (letters := await broker.dead_letters(channel, "payment")):
                await asyncio.sleep(0.05)
        await reader.stop()
        [letter] = letters
        assert (letter.reason, letter.attempts, letter.died_at_ns) == ("", RECEIVES, None)
        assert (letter.headers, letter.body) == (reader.deliveries[0].headers, reader.deliveries[0].body)
        assert await broker.dead_letters(channel, "payment") == letters
        later = Reader(broker, channel, "payment", ack)
        await self.listening(channel)
        assert await broker.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
        [delivery] = await later.until(1)
        assert (delivery.attempt, delivery.body) == (1, letter.body)
        await later.stop()

    async def test_two_look_at_once(self, connect: Connect, channel: str) -> None:
        """Within a process one after the other; of two processes the later one may see fewer. In the end all lie there
        for anybody."""
        broker, desk = connect("payment"), connect("orders")
        for each in (broker, desk):
            await each.open({channel: frozenset({"payment"})})
        letters = await self.buried(broker, channel, [event(number) for number in range(25)])
        ids = {letter.id for letter in letters}
        looks = await asyncio.gather(*(broker.dead_letters(channel, "payment") for _ in range(3)))
        assert looks == [letters] * 3
        looks = await asyncio.gather(*(each.dead_letters(channel, "payment") for each in (broker, desk)))
        assert all({letter.id for letter in look} <= ids for look in looks)
        await self.until_counted(f"{channel}_dead", visible=25, hidden=0)
        assert await desk.dead_letters(channel, "payment") == letters

    async def test_what_another_has_in_hand_is_waited_for(self, connect: Connect, channel: str) -> None:
        """A moment; then nobody says that it is not there."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        [letter] = await self.buried(broker, channel, [event()])
        async with self.client() as client:
            url = await self.address(client, f"{queue_of(channel)}_dead")
            [taken] = (await client.receive_message(QueueUrl=url, VisibilityTimeout=20))["Messages"]
            with pytest.raises(Unavailable, match="is not among 0 dead letters"):
                await broker.settle_dead_letter(channel, "payment", letter.id, replay=False)
            settling = asyncio.create_task(broker.settle_dead_letter(channel, "payment", letter.id, replay=False))
            receipt = taken["ReceiptHandle"]
            await client.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
        assert await settling is True
        assert await broker.dead_letters(channel, "payment") == []

    async def test_more_than_one_look_brings(
        self, connect: Connect, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of what one look did not bring nobody says that it is not there; and it goes back."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        await self.buried(broker, channel, [event(number) for number in range(12)])
        monkeypatch.setattr("services.transports.messaging.sqs_dead_letters.MANY", 11)
        with pytest.raises(Unavailable, match=r"any is not among 11 dead letters of .*, and there may be more"):
            await broker.settle_dead_letter(channel, "payment", "any", replay=False)
        await self.until_counted(f"{channel}_dead", visible=12, hidden=0)
        assert len(await broker.dead_letters(channel, "payment", limit=11)) == 11
        assert len(await broker.dead_letters(channel, "payment", limit=12)) == 12
        [oldest] = await broker.dead_letters(channel, "payment", limit=1)
        monkeypatch.setattr("services.transports.messaging.sqs_dead_letters.MANY", 13)
        assert await broker.settle_dead_letter(channel, "payment", "any", replay=False) is False
        assert await broker.settle_dead_letter(channel, "payment", oldest.id, replay=False) is True
        await self.until_counted(f"{channel}_dead", visible=11, hidden=0)

    async def test_a_replay_has_room_for_its_instant(self, connect: Connect, channel: str) -> None:
        """A message of a stranger's has all the attributes that SQS allows: the trace context stays and one of his
        goes, at its death and at its replay."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        own = {f"a-{n}": {"DataType": "String", "StringValue": "own"} for n in range(9)}
        traceparent = f"00-{'1' * 32}-{'2' * 16}-01"
        attributes = {**own, "traceparent": {"DataType": "String", "StringValue": traceparent}}
        await self.put(channel, pack(*event()).decode(), MessageAttributes=attributes)
        reader = Reader(broker, channel, "payment", give_up)
        await reader.until(1)
        await self.dead(channel, "payment")
        for attempt in (2, 3):
            [letter] = await broker.dead_letters(channel, "payment")
            assert letter.headers == reader.deliveries[-1].headers
            assert await broker.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
            again = (await reader.until(attempt))[-1]
            assert again.headers["traceparent"] == traceparent
            assert len(again.native["MessageAttributes"]) <= 10
            await self.dead(channel, "payment")
        await reader.stop()

    async def test_queues_that_are_not_there_hold_nothing(self, connect: Connect, channel: str) -> None:
        """Whether they never were, or are gone; but a dead letter whose queue is gone is not replayed into nowhere."""
        broker = connect()

        async def nothing() -> None:
            assert await broker.held(channel, "payment") == 0
            assert await broker.dead_letters(channel, "payment") == []
            assert await broker.settle_dead_letter(channel, "payment", "any", replay=True) is False

        await nothing()
        await broker.open({channel: frozenset({"payment"})})
        letters = await self.buried(broker, channel, [event()])
        await self.delete(queue_of(channel))
        assert await broker.held(channel, "payment") == 0
        with pytest.raises(Unroutable, match=r"SQS: .* does not exist"):
            await broker.settle_dead_letter(channel, "payment", letters[0].id, replay=True)
        assert await broker.dead_letters(channel, "payment") == letters
        await self.delete(f"{queue_of(channel)}_dead")
        await nothing()

    async def delete(self, queue: str) -> None:
        async with self.client() as client:
            await client.delete_queue(QueueUrl=await self.address(client, queue))

    # --- dead letters, and strangers ----------------------------------------------------------------------------------
    async def test_a_dead_letter_is_the_message_and_a_note(self, connect: Connect, channel: str) -> None:
        """Body and attributes as they were, so that it can be sent again; reason, attempts, receipt and receive count
        beside them. What SQS has no letter for does not keep a reason out."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")])
        [delivery] = await reader.until(1)
        await delivery.reject("bad \x00 card \ud800")
        [letter] = await self.letters(channel)
        assert letter["Body"] == delivery.native["Body"]
        texts = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
        assert texts == {
            "traceparent": delivery.headers["traceparent"],
            REASON: "bad ? card ?",
            ATTEMPTS: "1",
            c.SQS_RECEIPT: delivery.attributes[c.SQS_RECEIPT],
            c.SQS_RECEIVE_COUNT: "1",
        }
        assert delivery.native["ReceiptHandle"].endswith(texts[c.SQS_RECEIPT])
        assert len(texts[c.SQS_RECEIPT]) < len(delivery.native["ReceiptHandle"]) / 2
        await self.until_counted(channel, visible=0, hidden=0)
        await reader.stop()

    async def test_the_event_is_the_body(self, connect: Connect, channel: str) -> None:
        """Of all headers the attributes have the trace context alone, and the body has the rest."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(), "another key")], ack)
        [delivery] = await reader.until(1)
        assert delivery.key == "another key"
        assert set(delivery.native["MessageAttributes"]) == {"traceparent"}
        headers, _ = unpack(delivery.native["Body"])
        assert set(headers) == {*event()[0], c.HEADER_SENT_AT, "ce-partitionkey"}
        await reader.stop()

    async def test_whatever_a_stranger_sends_is_borne(self, connect: Connect, channel: str) -> None:
        """200 malformed messages on the real queue: each is a dead letter with its reason, and the good one behind
        them is handled."""
        letters = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd]")
        inputs = [letters.sub("?", data.decode(errors="replace")) or "?" for data in drawn(pack(*event(1)))]
        await connect().open({channel: frozenset({"payment"})})
        async with self.client() as client:
            url = await self.address(client, queue_of(channel))

            def put(each: str) -> Awaitable[object]:
                return client.send_message(QueueUrl=url, MessageBody=each)

            await borne(connect, channel, inputs, put, message_of, self.listening)
        found = await self.letters(channel)
        assert sorted(letter["Body"] for letter in found) == sorted(each for each in inputs if _refused(each))
        assert all(_dead(letter).reason for letter in found)
        await self.until_counted(channel, visible=0, hidden=0)

    # --- who may --------------------------------------------------------------------------------------------------
    @pytest.mark.parametrize("signed", [True, False])
    async def test_requests_are_signed_where_there_are_credentials(
        self, connect: Connect, channel: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signed: bool
    ) -> None:
        """ElasticMQ takes both; the machine's own role is none of its business."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        if signed:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        broker = connect()
        assert isinstance(broker, Sqs)
        sent: list[bool] = []
        client = await broker.link._connected()
        client.meta.events.register(
            "before-send.sqs", lambda request, **_: sent.append("Authorization" in request.headers)
        )
        await broker.open({channel: frozenset({"payment"})})
        assert set(sent) == {signed}


def _refused(text: str) -> bool:
    try:
        message_of(text)
    except Undecodable:
        return True
    return False


async def test_amazon_without_a_region_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address is set and none can be found: publishing and readiness give the reason, and nothing is asked for
    elsewhere."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    broker = Sqs(Wiring("orders", set_up("orders"), servers={"sqs": ""}))
    with pytest.raises(Unavailable, match="You must specify a region"):
        await broker.publish(*event(), channel="payment.commands", key="o-1")
    assert "You must specify a region" in (await broker.ready() or "")
    opening = asyncio.create_task(broker.open({"payment.commands": frozenset({"payment"})}))
    await asyncio.sleep(0)
    await broker.close()
    await asyncio.wait_for(opening, 1)
    assert await broker.ready() == "closed"


async def test_questions_that_are_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs is none that can be asked; nor is one that was closed."""
    monkeypatch.setitem(Link.ask.__kwdefaults__, "within_s", 0.2)
    hanging = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
    broker = Sqs(Wiring("payment", set_up("payment"), servers={"sqs": url}))

    async def questions(reason: str) -> None:
        for question in (
            broker.held("payment.commands", "payment"),
            broker.dead_letters("payment.commands", "payment"),
            broker.settle_dead_letter("payment.commands", "payment", "any", replay=False),
        ):
            with pytest.raises(Unavailable, match=reason):
                await question

    await questions("SQS did not answer within 0.2 s")
    await broker.close()
    await questions("SQS: closed")
    hanging.close()


@pytest.mark.servers
class TestSqsFifo(SqsBehaviour):
    fifo = True

    async def test_an_orders_messages_keep_their_order(self, connect: Connect, channel: str) -> None:
        """One that waits for another attempt holds up those of its order that were not handed out, and no other's."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        messages = [(*event(number, f"o-{number % 3}"), f"o-{number % 3}") for number in range(12)]
        failed: list[str] = []

        async def once_more(delivery: Delivery) -> None:
            if not failed and delivery.key == "o-1":
                failed.append(delivery.headers["ce-id"])
                await delivery.reject("not yet", retry_after_s=0.2)
            else:
                await delivery.ack()

        reader = await self.read(broker, channel, "payment", messages, once_more, max_in_flight=1)
        await reader.until(13)
        ids = {key: [d.headers["ce-id"] for d in reader.deliveries if d.key == key] for key in ("o-0", "o-1", "o-2")}
        wanted = {key: [m[0]["ce-id"] for m in messages if m[2] == key] for key in ids}
        assert ids == {**wanted, "o-1": [failed[0], *wanted["o-1"]]}
        await reader.stop()

    async def test_what_was_seen_is_dropped(self, connect: Connect, channel: str) -> None:
        """The same message sent again within five minutes is delivered once, also when the first one is done."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(1), "o-1")] * 2, ack)
        await reader.until(1)
        await self.until_counted(channel, visible=0, hidden=0)
        await broker.publish(*event(1), channel=channel, key="o-1")
        await broker.publish(*event(2), channel=channel, key="o-1")
        await reader.until(2)
        assert reader.ids == [event(number)[0]["ce-id"] for number in (1, 2)]
        await reader.stop()

    async def test_two_dead_letters_of_one_id_are_two(self, connect: Connect, channel: str) -> None:
        """The second one is a stranger's: ours would be dropped. The older one is settled first."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        reader = await self.read(broker, channel, "payment", [(*event(), "o-1")], give_up)
        await reader.until(1)
        await self.dead(channel, "payment")
        await self.put(channel, pack(*event()).decode())
        await reader.until(2)
        await reader.stop()
        first, second = await broker.dead_letters(channel, "payment")
        assert first.id == second.id == event()[0]["ce-id"]
        assert await broker.settle_dead_letter(channel, "payment", first.id, replay=False) is True
        assert await broker.dead_letters(channel, "payment") == [second]
        assert await broker.settle_dead_letter(channel, "payment", first.id, replay=False) is True
        assert await broker.settle_dead_letter(channel, "payment", first.id, replay=False) is False

    async def test_a_replayed_message_keeps_its_orders_order(self, connect: Connect, channel: str) -> None:
        """It is in the group of its order again, and waits behind what is in hand of it."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        [letter] = await self.buried(broker, channel, [event(1)])
        reader = await self.read(broker, channel, "payment", [(*event(2), "o-1")])
        [in_hand] = await reader.until(1)
        assert await broker.settle_dead_letter(channel, "payment", letter.id, replay=True) is True
        await self.until_counted(channel, visible=1, hidden=1)
        await self.nothing_else(broker)
        assert len(reader.deliveries) == 1
        await in_hand.ack()
        assert (await reader.until(2))[1].headers["ce-id"] == letter.id
        await reader.stop()

    async def test_any_key_and_id_will_do(self, connect: Connect, channel: str) -> None:
        """SQS takes 128 letters, digits and signs for an id: what is longer or other is stood for by its digest."""
        broker = connect()
        await broker.open({channel: frozenset({"payment"})})
        keys = ["", "\N{SNOWMAN}", "x" * 500, "two words"]
        messages = [({**event(n)[0], "ce-id": key}, event(n)[1], key) for n, key in enumerate(keys)]
        reader = await self.read(broker, channel, "payment", messages, ack)
        await reader.until(len(keys))
        assert sorted(reader.ids) == sorted(keys)
        await reader.stop()


@pytest.mark.servers
class TestSqsAway(OutageBehaviour):
    @pytest.fixture(autouse=True)
    def _server(self, elasticmq: Server) -> None:
        self.server = elasticmq

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        # what was handed out when the server was killed comes again after that
        return Sqs(Wiring(service, telemetry, servers={"sqs": self.server.address}, sqs_visibility_timeout_s=5))

    async def test_what_was_acknowledged_is_on_disk(self) -> None:
        """kill -9 in the middle of publishing, with nobody reading: none of what the server had taken is lost, the
        last one neither."""
        telemetry, channel = set_up("orders"), f"t{uuid.uuid4().hex[:8]}.events"
        broker = self.broker(telemetry, "orders")
        await broker.open({channel: frozenset({"payment"})})
        confirmed: set[str] = set()

        async def publish(numbers: range) -> None:
            for number in numbers:
                headers, body = event(number)
                try:
                    await broker.publish(headers, body, channel=channel, key="o-1")
                except TransportError:
                    return
                confirmed.add(headers["ce-id"])

        publishers = [asyncio.create_task(publish(range(start, 10**6, 4))) for start in range(4)]
        async with asyncio.timeout(PATIENCE_S):
            while len(confirmed) < 200:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(self.server.kill)
        await asyncio.gather(*publishers)
        await asyncio.to_thread(self.server.start)
        reader = Reader(broker, channel, "payment", ack)
        await reader.wait_for(lambda: confirmed <= set(reader.ids), "all that was acknowledged")
        await reader.stop()
        await broker.close()
