"""The AsyncAPI document is true of what the services say."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from services import carrier
from services.contracts.asyncapi import MEDIA_TYPE, REPLY_TO, committed
from services.domain.messages import (
    MESSAGES,
    Command,
    OrderPlaced,
    PaymentDeclined,
    QuoteCountered,
    ReleaseStock,
    ReserveStock,
)
from services.domain.quotes import CARRIERS
from services.styles import STYLES
from services.styles.exchanges import Exchange, exchanges
from services.telemetry import conventions as c
from services.telemetry.setup import set_up
from services.transports import TRANSPORTS, Port
from services.transports.messaging import kafka, rabbitmq, rabbitmq_wire, sqs_client
from services.transports.messaging.memory import Memory
from services.transports.ports import Delivery, Wiring, is_journal
from tests.services.lab import DECLINED, NOT_SERVED, ORDER, OUT_OF_STOCK, UNREACHABLE, memory_lab

DOCUMENT: dict[str, Any] = json.loads(committed())


async def test_the_front_door_serves_it(tmp_path: Path) -> None:
    async with memory_lab(tmp_path) as lab:
        answer = await lab.client.get("/asyncapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    assert answer.json() == DOCUMENT


# --- it is true --
@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], list[Delivery]]:
    """What comes to each group on each channel."""
    deliveries: dict[tuple[str, str], list[Delivery]] = {}
    subscribe = Memory.subscribe

    async def listen(self: Memory, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        came = deliveries.setdefault((channel, group), [])
        async for delivery in subscribe(self, channel, group, max_in_flight=max_in_flight):
            came.append(delivery)
            yield delivery

    monkeypatch.setattr(Memory, "subscribe", listen)
    return deliveries


def check(schema: dict[str, Any], value: Any) -> None:
    """``value`` is valid by one of the document's schemas."""
    whole = {**schema, "components": {"schemas": DOCUMENT["components"]["schemas"]}}
    jsonschema.Draft7Validator(whole, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER).validate(value)


async def hear_all(folder: Path) -> list[ReadableSpan]:
    """Orders that are completed or refused at each step, in every style; the spans of it."""
    settings = {f"{carrier.service_of(name)}.work_ms": "0" for name in CARRIERS}
    async with memory_lab(folder, {**settings, "carrier-frugal.silent_share": "0"}) as lab:
        for style in (style.name for style in STYLES.values() if style.topology):
            for order in (ORDER, OUT_OF_STOCK, DECLINED, NOT_SERVED, UNREACHABLE):
                assert (await lab.finished(order, style))["state"] in {"completed", "rejected"}
        return await lab.spans()


Heard = dict[tuple[str, str], list[Delivery]]


async def test_all_that_is_said_stands_in_it(tmp_path: Path, heard: Heard) -> None:
    """Every message: its channel, who sends it there and who handles it, its headers and its payload; what it asks for
    and what is answered. And nothing stands in it that is not said."""
    handled = {
        (attributes[c.CONSUMER_GROUP], attributes[c.DESTINATION_NAME], attributes[c.MESSAGE_ID])
        for span in await hear_all(tmp_path)
        if (attributes := span.attributes or {}).get(c.OPERATION_TYPE) == "process"
    }
    true: dict[str, set[str]] = {f"{group}.receives.{channel}": set() for channel, group in heard}
    for (channel, group), deliveries in heard.items():
        for delivery in deliveries:
            name = delivery.headers["ce-type"]
            if (group, channel, delivery.headers["ce-id"]) in handled:
                true[f"{group}.receives.{channel}"].add(name)
            true.setdefault(f"{delivery.headers['ce-source']}.sends.{channel}", set()).add(name)
            message = DOCUMENT["components"]["messages"][name]
            check(message["headers"], dict(delivery.headers))
            check(message["payload"], json.loads(delivery.body))
    assert {name: names(operation) for name, operation in DOCUMENT["operations"].items()} == true
    assert true_replies(heard) == {
        name: names(operation["reply"]) for name, operation in DOCUMENT["operations"].items() if "reply" in operation
    }


def names(node: dict[str, Any]) -> set[str]:
    """The messages that an operation, or a reply, refers to."""
    return {each["$ref"].rpartition("/")[2] for each in node["messages"]}


def true_replies(heard: Heard) -> dict[str, set[str]]:
    """What was answered to the messages of each operation that asked for it: on the channel that the request named,
    with the request's id, and as the document says of an answer."""
    everything = [(channel, group, delivery) for (channel, group), many in heard.items() for delivery in many]
    requests = {
        each.headers["ce-id"]: (channel, group, each) for channel, group, each in everything if REPLY_TO in each.headers
    }
    replies = {
        operation: set[str]()
        for channel, group, request in requests.values()
        for operation in (f"{request.headers['ce-source']}.sends.{channel}", f"{group}.receives.{channel}")
    }
    answers = DOCUMENT["channels"]["reply-to"]["messages"]
    for channel, _, delivery in everything:
        if (request_id := delivery.headers.get("ce-correlationid")) is None:
            continue
        asked, group, request = requests[request_id]
        assert channel == request.headers[REPLY_TO]
        assert delivery.headers["ce-source"] == group
        name = delivery.headers["ce-type"]
        check(answers[name]["headers"], dict(delivery.headers))
        check(answers[name]["payload"], json.loads(delivery.body))
        replies[f"{request.headers['ce-source']}.sends.{asked}"].add(name)
        replies[f"{group}.receives.{asked}"].add(name)
    return replies


def test_a_request_says_where_its_answer_goes() -> None:
    """By AsyncAPI's rules for an address that stands in the request: the reply's channel has none of its own."""
    replies = [operation["reply"] for operation in DOCUMENT["operations"].values() if "reply" in operation]
    assert replies
    for reply in replies:
        assert reply["address"]["location"] == "$message.header#/reply-to"
        assert reply["channel"] == {"$ref": "#/channels/reply-to"}
    assert DOCUMENT["channels"]["reply-to"]["address"] is None
    headers = DOCUMENT["components"]["schemas"]["Headers"]["properties"]
    assert headers["reply-to"]["enum"] == ["orders.answers", "orders.replies"]
    assert {"reply-to", "ce-correlationid"}.isdisjoint(DOCUMENT["components"]["schemas"]["Headers"]["required"])


def test_an_answer_is_found_by_its_request() -> None:
    """What a request's correlation id is, its answer's is, too; all else is held together by the order."""
    ids = {name: each["location"] for name, each in DOCUMENT["components"]["correlationIds"].items()}
    assert ids == {
        "order": "$message.header#/ce-subject",
        "request": "$message.header#/ce-id",
        "answer": "$message.header#/ce-correlationid",
    }

    def by(message: dict[str, Any]) -> str:
        return str(message["correlationId"]["$ref"]).rpartition("/")[2]

    for name, message in DOCUMENT["components"]["messages"].items():
        assert by(message) == ("request" if issubclass(MESSAGES[name], Command) else "order")
    for message in DOCUMENT["channels"]["reply-to"]["messages"].values():
        assert by(message) == "answer"
        assert {"required": ["ce-correlationid"]}.items() <= message["headers"]["allOf"][1].items()


def test_a_wrong_quote_is_no_message_of_it() -> None:
    order = {"order_id": "o", "customer": "c", "card": "1", "ship_to": "x", "lines": [{"sku": "tea", "quantity": 1}]}
    good = {"order": {**order, "amount_cents": 1}, "carrier": "swift", "price_cents": 0, "days": 0}
    payload = DOCUMENT["components"]["messages"]["quote.offered"]["payload"]
    check(payload, good)
    for field in ("carrier", "price_cents", "days"):
        for wrong in ({key: value for key, value in good.items() if key != field}, {**good, field: -1}):
            with pytest.raises(jsonschema.ValidationError):
                check(payload, wrong)


def test_a_wrong_message_is_no_message_of_it() -> None:
    """The schemas refuse something."""
    message = DOCUMENT["components"]["messages"]["stock.refused"]
    order = {"order_id": "o", "customer": "c", "card": "1", "ship_to": "x", "amount_cents": 1}
    good = {"order": {**order, "lines": [{"sku": "tea", "quantity": 1}]}, "reason": "no"}
    check(message["payload"], good)
    for wrong in (
        {**good, "reason": None},
        {"order": good["order"]},
        {**good, "order": {**order, "lines": []}},
        {**good, "order": {**order, "lines": [{"sku": "tea", "quantity": 0}]}},
        {**good, "order": {**good["order"], "amount_cents": "1"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            check(message["payload"], wrong)
    with pytest.raises(jsonschema.ValidationError):
        check(message["headers"], {"ce-type": "stock.refused"})


SPOKEN = {"rabbitmq": "amqp", "kafka": "kafka", "sqs": "sqs"}
"""What AsyncAPI calls the servers' words; it has none for Redis."""
CHANNELS = {name: channel for name, channel in DOCUMENT["channels"].items() if channel["address"] is not None}


def test_every_style_s_channels_stand_in_it() -> None:
    assert CHANNELS.keys() == {channel for style in STYLES.values() for channel in style.channels}
    assert all(channel["address"] == name for name, channel in CHANNELS.items())
    assert {tag["name"] for channel in CHANNELS.values() for tag in channel["tags"]} == STYLES.keys() - {
        "request_response"
    }


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_is_on_the_brokers_that_can_carry_it(channel: str) -> None:
    """By the tables of styles and transports: for each style by the port that the channel is on."""
    servers = {each["$ref"].rpartition("/")[2] for each in CHANNELS[channel]["servers"]}
    using = [(style, port) for style in STYLES.values() for port in style.topology if channel in style.topology[port]]
    assert servers == {name for _, port in using for name, transport in TRANSPORTS.items() if port in transport.ports}
    assert {each["name"] for each in CHANNELS[channel]["tags"]} == {style.name for style, _ in using}


def test_what_only_some_brokers_can_do_is_asked_of_no_other() -> None:
    """Some of what must come out: a journal is read again, a queue waits, and SQS has one reader a message."""
    servers = {
        name: {each["$ref"].rpartition("/")[2] for each in channel["servers"]} for name, channel in CHANNELS.items()
    }
    assert servers["orders.journal"] == servers["fulfilment.journal"] == {"kafka", "redis_streams"}
    assert servers["notifications.commands"] == {"rabbitmq", "kafka", "sqs", "redis_streams"}
    assert servers["orders.inquiries"] == {"rabbitmq", "kafka", "redis_streams", "redis_pubsub"}


def test_the_brokers_words_are_the_adapters() -> None:
    """What the bindings say is what the adapters make."""
    sqs = sqs_client.Link(Wiring("orders", set_up("orders"), servers={"sqs": ""}))
    for name, channel in CHANNELS.items():
        bindings = channel["bindings"]
        topic = kafka._of_messages(name)
        kept = {key: int(value) for key, value in topic.topic_configs.items()}
        assert bindings["kafka"] == {
            "topic": topic.name,
            "partitions": topic.num_partitions,
            "replicas": topic.replication_factor,
            **({"topicConfiguration": kept} if is_journal(name) else {}),
        }
        servers = {each["$ref"].rpartition("/")[2] for each in channel["servers"]}
        assert bindings.keys() == {words for server, words in SPOKEN.items() if server in servers}
        if "amqp" in bindings:
            assert bindings["amqp"]["exchange"]["name"] == rabbitmq.EXCHANGE
        if "sqs" in bindings:
            queue = bindings["sqs"]["queue"]
            dead = bindings["sqs"]["deadLetterQueue"]
            assert (queue["name"], dead["name"]) == (sqs.queue(name), sqs.dead(name))
            assert queue["redrivePolicy"] == {
                "deadLetterQueue": {"name": dead["name"]},
                "maxReceiveCount": sqs_client.RECEIVES,
            }
            assert dead["messageRetentionPeriod"] == sqs_client.KEPT_S
    for name, operation in DOCUMENT["operations"].items():
        channel = operation["channel"]["$ref"].rpartition("/")[2]
        words = operation["bindings"]
        assert ("amqp" in words) is ("amqp" in CHANNELS[channel]["bindings"])
        if operation["action"] == "receive":
            group = name.partition(".receives.")[0]
            assert words["kafka"]["groupId"]["const"] == f"{group}.{channel}"
            if "amqp" in words:
                assert words["amqp"]["x-queue"] == rabbitmq._queue(group, channel)
        elif "amqp" in words:
            assert words["amqp"]["deliveryMode"] == rabbitmq_wire.PERSISTENT


def test_a_conversation_is_found_by_holding_it() -> None:
    """Some of what must be found: the opening, a refusal, a compensation."""
    chain = exchanges(STYLES["choreography"])
    assert Exchange("orders", Port.FAN_OUT, "orders.events", OrderPlaced) in chain
    assert Exchange("payment", Port.FAN_OUT, "payment.events", PaymentDeclined) in chain
    queue = exchanges(STYLES["message_queue"])
    assert Exchange("orders", Port.QUEUE, "inventory.commands", ReserveStock) in queue
    assert Exchange("payment", Port.QUEUE, "inventory.commands", ReleaseStock) in queue
    asked = exchanges(STYLES["async_request_response"])
    assert Exchange("orders", Port.QUEUE, "inventory.commands", ReserveStock, "orders.answers") in asked
    quotes = exchanges(STYLES["publish_async_responses"])
    assert Exchange("carrier-frugal", Port.FAN_OUT, "carriers.answers", QuoteCountered) in quotes
    assert exchanges(STYLES["request_response"]) == frozenset()
