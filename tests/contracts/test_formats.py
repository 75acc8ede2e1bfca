"""The formats of a message's payload: each says the same, services that differ in them understand each other, and what
is none of them is refused with a reason."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from avro import schema as avro_library
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from benchmarks import formats as benchmark
from services import all as one_process
from services.contracts import avro, single_object
from services.contracts.generated import antiphon_pb2 as pb
from services.contracts.protobuf import event_to
from services.contracts.protobuf import order_to as pb_order
from services.domain.messages import (
    MESSAGES,
    Command,
    Event,
    Line,
    NotifyCustomer,
    Order,
    OrderPlaced,
    Quote,
    QuoteDeclined,
    QuoteOffered,
    ReserveStock,
    StockRefused,
    type_name,
)
from services.runtime.config import Config
from services.runtime.process import Process
from services.styles import STYLES
from services.styles.exchanges import exchanges
from services.transports import cloudevents
from services.transports.errors import Undecodable
from services.transports.formats import FORMATS, JSON, Format
from services.transports.messaging import structured
from services.transports.messaging.memory import Memory
from tests.contracts.test_contracts import events, orders
from tests.docs.tree import read
from tests.services.lab import DECLINED, NOT_SERVED, ORDER, OUT_OF_STOCK, UNREACHABLE, memory_lab
from tests.transports.fuzz import ON_THE_WIRE, mutated
from tests.transports.rpc.suite import Watcher

MIXED = {
    "orders": "json",
    "inventory": "protobuf",
    "payment": "avro",
    "shipping": "json",
    "notifications": "protobuf",
    "carrier-swift": "avro",
    "carrier-steady": "protobuf",
    "carrier-frugal": "json",
    "ledger": "avro",
}
QUOTES = [kind for kind in MESSAGES.values() if issubclass(kind, Quote)]
SPEAKERS = {name: {each.sender for each in exchanges(style)} for name, style in STYLES.items()}
"""Who says something, by style."""
THE_ORDER = Order("o-1", "c-1", "4242424242424242", "Lisbon", (Line("tea", 2),), 900)
PROTOBUF, AVRO = FORMATS["protobuf"], FORMATS["avro"]


TERMS = {"reason": "no", "carrier": "steady", "price_cents": 509, "days": 3}


def made(message_type: type[Command | Event], order: Order = THE_ORDER, **changes: Any) -> Command | Event:
    more = {field.name: TERMS[field.name] for field in dataclasses.fields(message_type) if field.name != "order"}
    return message_type(order, **{**more, **changes})


def message(payload: Command | Event | None = None) -> Any:
    payload = payload or made(OrderPlaced)
    return cloudevents.compose(payload, source="orders", cause="x", style="choreography", transport="memory")


def any_of(kind: type[Command | Event]) -> st.SearchStrategy[Command | Event]:
    return events(kind) if issubclass(kind, Event) else st.builds(kind, orders)


# --- one message, three formats --
@pytest.mark.parametrize("name", FORMATS)
@given(payload=st.sampled_from(list(MESSAGES.values())).flatmap(any_of))
def test_a_message_survives(name: str, payload: Command | Event) -> None:
    """Every message of the vocabulary, with any text and any number, in every format."""
    assert FORMATS[name].loads(type_name(type(payload)), FORMATS[name].dumps(payload)) == payload


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", MESSAGES.values(), ids=type_name)
def test_a_message_is_a_cloudevent_in_every_format(name: str, kind: type[Command | Event]) -> None:
    """The official library reads it, and finds the payload's format and schema where CloudEvents puts them."""
    headers, body = cloudevents.encode(message(made(kind)), FORMATS[name])
    event = http.from_http(http.HTTPMessage(headers, body), JSONFormat())
    assert event.get_datacontenttype() == headers["content-type"] == FORMATS[name].content_type
    assert event.get_type() == type_name(kind)
    assert event.get_data() == (json.loads(body) if name == "json" else body)
    record = "Command" if issubclass(kind, Command) else "Event"
    assert event.get_dataschema() == (f"type.googleapis.com/antiphon.v1.{record}" if name == "protobuf" else None)
    assert cloudevents.decode(headers, body).payload == made(kind)


def test_json_is_what_it_was() -> None:
    """Byte by byte: what lies in queues and outboxes stays readable, and others read ours."""
    headers, body = cloudevents.encode(message(made(StockRefused, reason="none is left")))
    assert body == (
        b'{"order":{"order_id":"o-1","customer":"c-1","card":"4242424242424242","ship_to":"Lisbon",'
        b'"lines":[{"sku":"tea","quantity":2}],"amount_cents":900},"reason":"none is left"}'
    )
    assert headers.pop("ce-time")
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": "b7819a50-60ec-5af4-b798-d7825a6ddbd9",
        "ce-source": "orders",
        "ce-type": "stock.refused",
        "ce-subject": "o-1",
        "ce-labstyle": "choreography",
        "ce-labtransport": "memory",
        "content-type": "application/json",
    }


def test_protobuf_is_the_contract_s_message() -> None:
    """Anyone with antiphon.proto reads it."""
    event = pb.Event.FromString(PROTOBUF.dumps(made(StockRefused)))
    assert (event.type, event.order.lines[0].sku, event.reason) == ("stock.refused", "tea", "no")
    assert pb.Command.FromString(PROTOBUF.dumps(made(ReserveStock))).order.order_id == "o-1"


@pytest.mark.parametrize(("kind", "record"), [(StockRefused, "Event"), (ReserveStock, "Command")])
def test_avro_is_a_single_object(kind: type[Command | Event], record: str) -> None:
    """C3 01, the schema's CRC-64-AVRO, little-endian, and the data: by another library's reckoning, too."""
    data = AVRO.dumps(made(kind))
    schema = avro_library.parse(json.dumps((avro.PROTOCOL.types_dict or {})[record].to_json()))
    assert data[:10] == b"\xc3\x01" + schema.fingerprint("CRC-64-AVRO")
    assert avro.decode(avro.schema(record), data[10:])["order"]["lines"] == [{"sku": "tea", "quantity": 2}]


def test_a_fingerprint_as_the_specification_has_it() -> None:
    """The one that it gives for the schema "int" is 7275d51a3f395c8f; little-endian on the wire."""
    assert single_object.header("int") == bytes.fromhex("c301") + bytes.fromhex("7275d51a3f395c8f")[::-1]


# --- what a message says of itself --
@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("application/json", "json"),
        ("application/json; charset=utf-8", "json"),
        ("", "json"),
        (None, "json"),
        ("application/protobuf", "protobuf"),
        ("Application/Protobuf;encoding=binary", "protobuf"),
        ("application/x-protobuf", "protobuf"),
        ("application/avro", "avro"),
        ("avro/binary", "avro"),
    ],
)
def test_the_content_type_decides(said: str | None, name: str) -> None:
    """Also by another name, with parameters or without one; nothing said is JSON."""
    headers, body = cloudevents.encode(message(), FORMATS[name])
    del headers["content-type"]
    if said is not None:
        headers["content-type"] = said
    assert cloudevents.decode(headers, body).payload == made(OrderPlaced)


@pytest.mark.parametrize(
    ("written", "changes", "body", "reason"),
    [
        ("json", {"content-type": "text/xml"}, None, "content-type 'text/xml' is none of application/json, "),
        ("json", {}, b"{", "order.placed: body: Invalid JSON: EOF"),
        ("json", {}, b'{"order":{}}', "order.placed: order.order_id: Field required"),
        ("json", {"ce-type": "order.eaten"}, None, "unknown message type 'order.eaten'"),
        ("protobuf", {"ce-type": "order.eaten"}, None, "unknown message type 'order.eaten'"),
        ("protobuf", {}, b"\xff", "order.placed: no Protobuf: "),
        ("protobuf", {}, b"", "order.placed: type: '' is another"),
        ("protobuf", {"ce-type": "stock.reserved"}, None, "stock.reserved: type: 'order.placed' is another"),
        (
            "protobuf",
            {"ce-dataschema": "type.googleapis.com/antiphon.v2.Event"},
            None,
            "order.placed: dataschema 'type.googleapis.com/antiphon.v2.Event' is not type.googleapis.com/antiphon.v1.",
        ),
        ("avro", {"ce-type": "order.eaten"}, None, "unknown message type 'order.eaten'"),
        ("avro", {}, b"", "order.placed: no Avro single object: it does not begin with C3 01 and a fingerprint"),
        ("avro", {}, b"\xc3\x01\x00", "order.placed: no Avro single object: "),
        ("avro", {}, b"\xc3\x01" + bytes(8), "order.placed: no schema with the fingerprint 0000000000000000 is known"),
        ("avro", {}, AVRO.dumps(made(OrderPlaced))[:-1], "order.placed: these bytes do not fit the schema: "),
        ("avro", {}, AVRO.dumps(made(OrderPlaced)) + b"\x00", "order.placed: 1 bytes are too many"),
        (
            "avro",
            {},
            AVRO.dumps(made(ReserveStock)),
            "order.placed: these bytes do not fit the schema: Schema mismatch",
        ),
        ("avro", {"ce-type": "stock.reserved"}, None, "stock.reserved: type: 'order.placed' is another"),
        ("avro", {"content-type": "application/protobuf"}, None, "order.placed: no Protobuf: "),
        ("protobuf", {"content-type": "application/json"}, None, "order.placed: body: Invalid JSON: "),
    ],
)
def test_what_cannot_be_decoded_says_why(
    written: str, changes: Mapping[str, str], body: bytes | None, reason: str
) -> None:
    headers, good = cloudevents.encode(message(), FORMATS[written])
    with pytest.raises(Undecodable) as refused:
        cloudevents.decode({**headers, **changes}, good if body is None else body)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"order_id": ""}, "order.order_id"),
        ({"lines": ()}, "order.lines"),
        ({"lines": (Line("tea", 1), Line("cup", 0))}, r"order.lines.1.quantity"),
    ],
)
def test_the_rules_of_an_order_hold_in_every_format(name: str, changes: dict[str, Any], field: str) -> None:
    """What no schema says is asked of every message."""
    body = FORMATS[name].dumps(made(OrderPlaced, dataclasses.replace(THE_ORDER, **changes)))
    with pytest.raises(Undecodable, match=f"^order.placed: {field}: is "):
        FORMATS[name].loads("order.placed", body)


@pytest.mark.parametrize("name", ["protobuf", "avro"])
def test_a_refusal_without_its_reason_is_none(name: str) -> None:
    """In these formats an event may have one, so a schema alone does not see that it is missing."""
    if name == "protobuf":
        body = pb.Event(type="stock.refused", order=pb_order(THE_ORDER)).SerializeToString()
    else:
        record = {"type": "stock.refused", "order": avro.order_to(THE_ORDER), "reason": None}
        schema = avro.schema("Event")
        body = single_object.header(schema) + avro.encode(schema, record)
    with pytest.raises(Undecodable, match="reason: is missing"):
        FORMATS[name].loads("stock.refused", body)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("field", ["carrier", "price_cents", "days"])
def test_a_quote_without_its_terms_is_none(field: str, name: str) -> None:
    """As for a refusal: an event may have them, a quote has. And which one is missing is said."""
    with pytest.raises(Undecodable, match=f"^quote.offered: {field}: "):
        FORMATS[name].loads("quote.offered", without(name, made(QuoteOffered), field))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("field", ["reason", "carrier"])
def test_who_declines_says_who_and_why(field: str, name: str) -> None:
    with pytest.raises(Undecodable, match=f"^quote.declined: {field}: "):
        FORMATS[name].loads("quote.declined", without(name, made(QuoteDeclined), field))


def without(name: str, event: Command | Event, field: str) -> bytes:
    """The event as its format has it, but for one field."""
    assert isinstance(event, Event)
    if name == "protobuf":
        message = event_to(event)
        message.ClearField(field)
        return bytes(message.SerializeToString())
    if name == "avro":
        schema = avro.schema("Event")
        return single_object.header(schema) + avro.encode(schema, {**avro.event_to(event), field: None})
    members = json.loads(JSON.dumps(event))
    del members[field]
    return json.dumps(members).encode()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", QUOTES, ids=type_name)
@pytest.mark.parametrize("field", ["price_cents", "days"])
def test_the_rules_of_a_quote_hold_in_every_format(field: str, kind: type[Quote], name: str) -> None:
    """Nothing costs less than nothing, or comes before it was sent; but both may be 0."""
    codec, called = FORMATS[name], type_name(kind)
    assert codec.loads(called, codec.dumps(made(kind, **{field: 0}))) == made(kind, **{field: 0})
    with pytest.raises(Undecodable, match=f"^{called}: {field}: is less than 0$"):
        codec.loads(called, codec.dumps(made(kind, **{field: -1})))


@pytest.mark.parametrize("name", FORMATS)
def test_where_an_answer_goes_stands_in_every_message(name: str) -> None:
    """In headers, and where the whole message is JSON; and the official library finds it there."""
    asked = dataclasses.replace(message(made(ReserveStock)), reply_to="orders.answers")
    told = dataclasses.replace(message(made(StockRefused)), correlation_id=asked.id)
    for each, more in ((asked, {"reply-to": "orders.answers"}), (told, {"ce-correlationid": asked.id})):
        headers, body = cloudevents.encode(each, FORMATS[name])
        assert {key: headers.get(key) for key in ("reply-to", "ce-correlationid")} == {
            **dict.fromkeys(("reply-to", "ce-correlationid")),
            **more,
        }
        packed = structured.pack(headers, body)
        assert cloudevents.decode(headers, body) == cloudevents.decode(*structured.unpack(packed)) == each
        attributes = JSONFormat().read(None, packed).get_attributes()
        assert attributes.get("correlationid") == (each.correlation_id or None)
        assert attributes.get("labreplyto") == (each.reply_to or None)


@pytest.mark.parametrize("name", FORMATS)
def test_any_payload_stands_in_a_structured_message(name: str) -> None:
    """Where the whole message is JSON: in ``data``, or as base64; it comes out as it went in."""
    headers, body = cloudevents.encode(message(made(StockRefused)), FORMATS[name])
    packed = structured.pack(headers, body)
    assert ("data_base64" in json.loads(packed)) is (name != "json")
    assert structured.unpack(packed) == (headers, body)
    assert JSONFormat().read(None, packed).get_datacontenttype() == FORMATS[name].content_type


# --- the services --
def test_the_setting_names_every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON where nothing is said; what is none is refused at the start."""
    assert set(get_args(Config.model_fields["message_format"].annotation)) == set(FORMATS)
    assert Process("orders", Config()).written is JSON
    monkeypatch.setenv("LAB_MESSAGE_FORMAT", "avro")
    assert Process("orders", Config()).written is AVRO
    monkeypatch.setenv("LAB_MESSAGE_FORMAT", "xml")
    with pytest.raises(ValueError, match="message_format"):
        Config()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Who has said something, in which content-type."""
    heard: set[tuple[str, str]] = set()
    publish = Memory.publish

    async def listen(self: Memory, headers: Mapping[str, str], body: bytes, **more: Any) -> None:
        heard.add((headers["ce-source"], headers["content-type"]))
        await publish(self, headers, body, **more)

    monkeypatch.setattr(Memory, "publish", listen)
    return heard


def speaking(chosen: Mapping[str, str], **more: Any) -> Callable[..., Config]:
    """Each service's configuration, with its own format."""
    own = one_process._own

    def configured(config: Config, folder: Path, service: str) -> Config:
        return own(config, folder, service).model_copy(update={"message_format": chosen[service], **more})

    return configured


@pytest.mark.parametrize("style", ["choreography", "message_queue", "orchestration", "publish_async_responses"])
@pytest.mark.parametrize("chosen", [*FORMATS, "mixed"])
async def test_orders_end_in_every_format(
    chosen: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: set[tuple[str, str]]
) -> None:
    """Completed and refused at each step, with compensation; each service in its own format; nothing is a dead
    letter."""
    formats = MIXED if chosen == "mixed" else dict.fromkeys(MIXED, chosen)
    monkeypatch.setattr(one_process, "_own", speaking(formats))
    async with memory_lab(tmp_path) as lab:
        assert (await lab.finished(ORDER, style))["state"] == "completed"
        for body in (OUT_OF_STOCK, DECLINED, NOT_SERVED, UNREACHABLE):
            refused = await lab.finished(body, style)
            assert (refused["state"], bool(refused["reason"])) == ("rejected", True)
        await lab.spans()  # all is settled
        assert lab.orders.process.network.dead_letters == []
    assert said == {(service, FORMATS[formats[service]].content_type) for service in SPEAKERS[style]}


def undecodable(codec: Format) -> Iterator[tuple[bytes, str]]:
    """Malformed payloads of an event, and why they are; some that were mutated are still good."""
    for body in mutated(codec.dumps(made(OrderPlaced)), 0, 100 * ON_THE_WIRE):
        try:
            codec.loads("order.placed", body)
        except Undecodable as error:
            yield body, str(error)


@pytest.mark.parametrize("name", FORMATS)
async def test_undecodable_payloads_are_dead_letters(name: str, tmp_path: Path) -> None:
    """200 of them come to a running service: each with its reason, and counted; what comes behind them is handled, and
    no span stays open."""

    def refused() -> float:
        return REGISTRY.get_sample_value("lab_refused_input_total", labels) or 0

    labels = {"service": "inventory", "transport": "memory", "reason": "undecodable"}
    before, watcher = refused(), Watcher()
    bad = list(itertools.islice(undecodable(FORMATS[name]), ON_THE_WIRE))
    async with memory_lab(tmp_path) as lab:
        lab.participants["inventory"].telemetry.provider.add_span_processor(watcher)
        broker = lab.participants["payment"].brokers["memory"]
        headers, _ = cloudevents.encode(message(), FORMATS[name])
        for body, _ in bad:
            await broker.publish(headers, body, channel="orders.events", key="o-1")
        assert (await lab.finished(ORDER, "choreography"))["state"] == "completed"
        await lab.spans()
        letters = [(letter.body, letter.reason) for letter in lab.orders.process.network.dead_letters]
    assert letters == bad
    assert refused() - before == len(bad) == ON_THE_WIRE
    assert len(watcher.ended) == len(watcher.started)


@pytest.mark.parametrize("style", ["async_request_response", "orchestration", "hybrid"])
@pytest.mark.parametrize(
    ("reply_to", "reason"),
    [("", "reply-to: is missing"), ("nowhere.at.all", "reply-to: 'nowhere.at.all' is no channel of ")],
)
async def test_a_request_that_cannot_be_answered_is_a_dead_letter(
    reply_to: str, reason: str, style: str, tmp_path: Path
) -> None:
    """Nothing was done: nobody would hear of it. And nobody tries it again for ever."""
    async with memory_lab(tmp_path) as lab:
        asked = cloudevents.compose(
            NotifyCustomer(THE_ORDER), source="orders", cause="x", style=style, transport="memory", reply_to=reply_to
        )
        broker = lab.participants["payment"].brokers["memory"]
        await broker.publish(*cloudevents.encode(asked), channel="notifications.commands", key="o-1")
        await lab.spans()
        (letter,) = lab.orders.process.network.dead_letters
        port = lab.participants["notifications"].admin_port
        effects = (await lab.client.get(f"http://127.0.0.1:{port}/effects")).json()
    assert letter.reason.startswith(reason)
    assert effects == {}


def test_the_page_s_sizes_are_true() -> None:
    """docs/formats.md's table of costs: the bytes are no matter of the machine."""
    rows = [line.strip("| ").split(" | ") for line in read("docs/formats.md").splitlines() if " lines | `" in line]
    stated = {(order, name.strip("`")): int(size.replace(",", "")) for order, name, size, *_ in rows}
    assert stated == {
        (title, name): len(codec.dumps(benchmark.placed(lines)))
        for title, lines in benchmark.ORDERS.items()
        for name, codec in FORMATS.items()
    }
