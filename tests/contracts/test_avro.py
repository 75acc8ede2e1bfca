"""The protocol and the domain say the same; what Avro's library writes we read, and the reverse; nothing else."""

import io
from typing import Any

import avro.io
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contracts.avro import (
    PROTOCOL,
    command_from,
    command_to,
    decode,
    encode,
    event_from,
    event_to,
    schema,
)
from services.domain.messages import (
    MESSAGES,
    ChargePayment,
    Command,
    Event,
    Line,
    Order,
    OrderPlaced,
    PaymentCharged,
    PaymentDeclined,
    QuoteOffered,
    StockReserved,
    type_name,
)
from services.domain.order import STEPS
from tests.contracts.test_contracts import ANSWERS, MESSAGES_ALONE, asked, events, orders
from tests.transports.fuzz import hammer

ORDER = Order("o-1", "c-1", "4242", "Zürich", (Line("tea", 2), Line("茶碗", 1)), 2100)
COMMANDS = [command for step in STEPS for command in (step.do, step.undo) if command is not None]
EVENTS = [message for message in MESSAGES.values() if issubclass(message, Event)]
TYPES: Any = PROTOCOL.types_dict
PLACED = event_to(OrderPlaced(ORDER))


def library_writes(name: str, record: Any) -> bytes:
    stream = io.BytesIO()
    avro.io.DatumWriter(TYPES[name]).write(record, avro.io.BinaryEncoder(stream))
    return stream.getvalue()


def library_reads(name: str, data: bytes) -> Any:
    return avro.io.DatumReader(TYPES[name]).read(avro.io.BinaryDecoder(io.BytesIO(data)))


# --- the protocol


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ("Line", {"sku": "string", "quantity": "long"}),
        (
            "Order",
            dict.fromkeys(("order_id", "customer", "card", "ship_to"), "string")
            | {"lines": "array", "amount_cents": "long"},
        ),
        ("Command", {"order": "record"}),
        (
            "Event",
            {"type": "string", "order": "record"}
            | dict.fromkeys(("reason", "carrier", "price_cents", "days"), "union"),
        ),
        ("Failed", {"code": "string", "message": "string"}),
    ],
)
def test_the_records_have_the_domain_s_fields(record: str, fields: dict[str, str]) -> None:
    """In the domain's order, which is the order of the bytes."""
    assert {field.name: field.type.type for field in TYPES[record].fields} == fields
    if record in {"Line", "Order"}:
        assert list(fields) == list({"Line": Line, "Order": Order}[record].__dataclass_fields__)


def test_every_command_is_a_message() -> None:
    messages: Any = PROTOCOL.messages
    assert PROTOCOL.fullname == "antiphon.v1.Participants"
    assert set(messages) == {type_name(command).partition(".")[0] for command in COMMANDS}
    for message in messages.values():
        assert [(field.name, field.type.name) for field in message.request.fields] == [("command", "Command")]
        assert message.response.name == "Event"
        assert [each.type if each.type == "string" else each.name for each in message.errors.schemas] == [
            *("string", "Failed")
        ]


@pytest.mark.parametrize("name", ["Order", "Command", "Event"])
def test_a_schema_is_whole_in_itself(name: str) -> None:
    """And the same one each time."""
    assert schema(name)["name"] == f"antiphon.v1.{name}"
    assert schema(name) is schema(name)


# --- what survives


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
@settings(deadline=None)
@given(order=orders)
def test_a_command_survives(command: type[Command], order: Order) -> None:
    sent = encode(schema("Command"), command_to(command(order)))
    assert command_from(decode(schema("Command"), sent), command) == command(order)


@pytest.mark.parametrize("event_type", EVENTS, ids=type_name)
@settings(deadline=None)
@given(data=st.data())
def test_an_event_survives(event_type: type[Event], data: st.DataObject) -> None:
    event = data.draw(events(event_type))
    received = decode(schema("Event"), encode(schema("Event"), event_to(event)))
    assert event_from(received) == event
    if type_name(event_type) in ANSWERS:
        assert event_from(received, asked(event)) == event


@settings(deadline=None)
@given(event=events(PaymentCharged) | events(PaymentDeclined) | events(QuoteOffered))
def test_the_library_reads_and_writes_the_same_bytes(event: Event) -> None:
    """``avro`` and ``fastavro`` are two makes of one format."""
    record = event_to(event)
    assert encode(schema("Event"), record) == library_writes("Event", record)
    assert library_reads("Event", encode(schema("Event"), record)) == record


def test_the_bytes_hold_values_and_nothing_else() -> None:
    """No field's name, no type: this is what the format saves, and why nobody reads it without the schema."""
    sent = encode(schema("Command"), command_to(ChargePayment(Order("o-1", "c", "4", "X", (Line("tea", 2),), 3))))
    assert sent == b"\x06o-1\x02c\x024\x02X\x02\x06tea\x04\x00\x06"


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"order_id": ""}, "order.order_id: is missing or empty"),
        ({"lines": []}, "order.lines: is missing or empty"),
        ({"lines": [{"sku": "tea", "quantity": 0}]}, "order.lines.0.quantity: is missing or less than 1"),
        ({"lines": [{"sku": "tea", "quantity": 1}, {"sku": "x", "quantity": -1}]}, "order.lines.1.quantity"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_order_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    record = {**PLACED, "order": {**PLACED["order"], **changes}}
    with pytest.raises(ValueError, match=says):
        event_from(decode(schema("Event"), encode(schema("Event"), record)))
    with pytest.raises(ValueError, match=says):
        command_from({"order": record["order"]}, ChargePayment)


@pytest.mark.parametrize("name", ["", "stock.stolen", "payment.charge", "charge.payment", "x" * 1000])
def test_what_is_no_event_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no event") as refused:
        event_from({**PLACED, "type": name})
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize("event", [OrderPlaced(ORDER), StockReserved(ORDER)], ids=lambda event: type(event).__name__)
def test_another_step_s_event_is_no_answer(event: Event) -> None:
    with pytest.raises(ValueError, match=r"is no answer to charge\.payment"):
        event_from(event_to(event), ChargePayment(ORDER))


@pytest.mark.parametrize("event_type", MESSAGES_ALONE, ids=type_name)
@settings(deadline=None)
@given(data=st.data())
def test_what_travels_as_a_message_only_is_no_answer(event_type: type[Event], data: st.DataObject) -> None:
    event = data.draw(events(event_type))
    for command in COMMANDS:
        with pytest.raises(ValueError, match="is no answer to"):
            event_from(event_to(event), command(event.order))


def test_a_refusal_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="reason: is missing"):
        event_from({**PLACED, "type": "payment.declined"})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "do not fit the schema"),
        (encode(schema("Event"), PLACED)[:-1], "do not fit the schema"),
        (encode(schema("Event"), PLACED)[:-1] + b"\x04", "do not fit the schema"),  # a third branch of two, of ``days``
        (encode(schema("Event"), PLACED)[:-4], "do not fit the schema"),
        (b"\x04\xff\xff" + encode(schema("Event"), PLACED), "utf-8"),
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "do not fit the schema"),  # a string of 2**62 bytes and more
        (encode(schema("Event"), PLACED) + b"\x00", "1 bytes are too many"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode(schema("Event"), data)


@pytest.mark.parametrize(
    "sent",
    [ChargePayment(ORDER), PaymentDeclined(ORDER, "no"), QuoteOffered(ORDER, "steady", 521, 3)],
    ids=lambda sent: type(sent).__name__,
)
def test_no_bytes_can_hurt(sent: Command | Event) -> None:
    name = "Event" if isinstance(sent, Event) else "Command"

    def read(data: bytes) -> Any:
        record = decode(schema(name), data)
        return event_from(record) if name == "Event" else command_from(record, ChargePayment)

    record = event_to(sent) if isinstance(sent, Event) else command_to(sent)
    hammer(read, ValueError, encode(schema(name), record))
