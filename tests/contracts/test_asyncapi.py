"""The AsyncAPI document is true of what the services say."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from services.contracts.asyncapi import MEDIA_TYPE, committed
from services.domain.messages import OrderPlaced, PaymentDeclined, ReleaseStock, ReserveStock
from services.styles import STYLES, runnable
from services.styles.exchanges import Exchange, exchanges
from services.telemetry.setup import set_up
from services.transports.messaging import kafka, rabbitmq, sqs_client
from services.transports.messaging.memory import Memory
from services.transports.ports import Delivery, Wiring
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


async def test_all_that_is_said_stands_in_it(tmp_path: Path, heard: dict[tuple[str, str], list[Delivery]]) -> None:
    """Every message of orders that are completed or refused at each step, in every style: its channel, who sends it
    there and who receives it, its headers and its payload. And nothing stands in it that is not said."""
    async with memory_lab(tmp_path) as lab:
        for style in (style.name for style in STYLES.values() if not style.synchronous):
            for order in (ORDER, OUT_OF_STOCK, DECLINED, NOT_SERVED, UNREACHABLE):
                assert (await lab.finished(order, style))["state"] in {"completed", "rejected"}
        await lab.spans()
    true: dict[str, set[str]] = {f"{group}.receives.{channel}": set() for channel, group in heard}
    for (channel, group), deliveries in heard.items():
        for delivery in deliveries:
            name = delivery.headers["ce-type"]
            true[f"{group}.receives.{channel}"].add(name)
            true.setdefault(f"{delivery.headers['ce-source']}.sends.{channel}", set()).add(name)
            message = DOCUMENT["components"]["messages"][name]
            check(message["headers"], dict(delivery.headers))
            check(message["payload"], json.loads(delivery.body))
    stated = {
        name: {each["$ref"].rpartition("/")[2] for each in operation["messages"]}
        for name, operation in DOCUMENT["operations"].items()
    }
    assert stated == true


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


@pytest.mark.parametrize("channel", DOCUMENT["channels"])
def test_a_channel_is_on_the_brokers_that_can_carry_it(channel: str) -> None:
    """By the tables of styles and transports."""
    servers = {each["$ref"].rpartition("/")[2] for each in DOCUMENT["channels"][channel]["servers"]}
    using = [style for style in STYLES.values() if channel in style.topology]
    assert servers == {transport for style in using for transport in runnable(style)}
    assert {each["name"] for each in DOCUMENT["channels"][channel]["tags"]} == {style.name for style in using}


def test_the_brokers_words_are_the_adapters() -> None:
    """What the bindings say is what the adapters make."""
    sqs = sqs_client.Link(Wiring("orders", set_up("orders"), servers={"sqs": ""}))
    for name, channel in DOCUMENT["channels"].items():
        bindings = channel["bindings"]
        assert bindings["kafka"] == {"topic": name, "partitions": kafka.PARTITIONS, "replicas": 1}
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
        if operation["action"] == "receive":
            group, _, channel = name.partition(".receives.")
            assert operation["bindings"]["amqp"]["x-queue"] == rabbitmq._queue(group, channel)
            assert operation["bindings"]["kafka"]["groupId"]["const"] == f"{group}.{channel}"
        else:
            assert operation["bindings"]["amqp"]["deliveryMode"] == rabbitmq.PERSISTENT


def test_a_conversation_is_found_by_holding_it() -> None:
    """Some of what must be found: the opening, a refusal, a compensation."""
    chain = exchanges(STYLES["choreography"])
    assert Exchange("orders", "orders.events", OrderPlaced) in chain
    assert Exchange("payment", "payment.events", PaymentDeclined) in chain
    queue = exchanges(STYLES["message_queue"])
    assert Exchange("orders", "inventory.commands", ReserveStock) in queue
    assert Exchange("payment", "inventory.commands", ReleaseStock) in queue
    assert exchanges(STYLES["request_response"]) == frozenset()
