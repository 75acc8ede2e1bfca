"""docs/formats.md says what becomes of a message when its schema changes; here each cell of its table happens."""

import dataclasses
import itertools
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from pydantic import TypeAdapter

from services.contracts import avro, earlier, protobuf, single_object
from services.contracts.generated import antiphon_pb2 as pb
from services.domain.messages import Order, QuoteOffered, StockRefused, type_name
from services.transports.errors import Undecodable
from services.transports.formats import FORMATS
from tests.contracts.evolution import COLUMNS, NAME, ORDER, Case, Change, avro_schema, avro_write, outcome
from tests.docs.tree import read

PLACED = dataclasses.asdict(ORDER)
REST = {name: value for name, value in PLACED.items() if name != "ship_to"}
UNDERSTOOD: Any = object()  # nothing can be what was meant

ADDED = Change("Order", None, ("note", "string"))
DEFAULTED = dataclasses.replace(ADDED, default="none")
REMOVED = Change("Order", ("ship_to", "string"), None)
CHECKED = Change("Line", ("quantity", "long"), None)
RENAMED = Change("Order", ("ship_to", "string"), ("deliver_to", "string"))
ALIASED = dataclasses.replace(RENAMED, alias=True)
REUSED = Change("Order", ("ship_to", "string"), ("note", "string"))
MOVED = Change("Order", ("card", "string"), ("card", "string"), earlier=True)
TEXT = Change("Order", ("amount_cents", "long"), ("amount_cents", "string"))
NARROW = Change("Order", ("amount_cents", "long"), ("amount_cents", "int"))

NEW_TO_OLD, OLD_TO_NEW = True, False
AMOUNT = 2**31 + 4200

CASES = {
    "a field is added: new message, old reader": Case(
        ADDED, NEW_TO_OLD, {**PLACED, "note": "for Ada"}, PLACED, "works: it is passed over"
    ),
    "a field is added, with a default: old message, new reader": Case(
        DEFAULTED, OLD_TO_NEW, PLACED, {**PLACED, "note": "none"}, "works: the default"
    ),
    "a field is added, without: old message, new reader": Case(ADDED, OLD_TO_NEW, PLACED, {"note": UNDERSTOOD}),
    "a field is removed: new message, old reader": Case(REMOVED, NEW_TO_OLD, REST, {"ship_to": UNDERSTOOD}),
    "a field is removed that is checked: new message, old reader": Case(
        CHECKED, NEW_TO_OLD, {**PLACED, "lines": [{"sku": "tea"}]}, {"lines": UNDERSTOOD}
    ),
    "a field is removed: old message, new reader": Case(REMOVED, OLD_TO_NEW, PLACED, REST, "works: it is passed over"),
    "a field is renamed: new message, old reader": Case(RENAMED, NEW_TO_OLD, {**REST, "deliver_to": "Lisbon"}, PLACED),
    "a field is renamed: old message, new reader": Case(RENAMED, OLD_TO_NEW, PLACED, {**REST, "deliver_to": "Lisbon"}),
    "a field is renamed, the old name an alias: old message, new reader": Case(
        ALIASED, OLD_TO_NEW, PLACED, {**REST, "deliver_to": "Lisbon"}
    ),
    "a field gives its number and place to another: new message, old reader": Case(
        REUSED, NEW_TO_OLD, {**REST, "note": "for Ada"}, {"ship_to": UNDERSTOOD}
    ),
    "two fields change places: new message, old reader": Case(MOVED, NEW_TO_OLD, PLACED, PLACED),
    "a number becomes text: new message, old reader": Case(
        TEXT, NEW_TO_OLD, {**PLACED, "amount_cents": "4200"}, PLACED
    ),
    "a number becomes text: old message, new reader": Case(
        TEXT, OLD_TO_NEW, PLACED, {**PLACED, "amount_cents": "4200"}
    ),
    # we have long: the reader that has int is the changed one
    "int becomes long: old message, new reader": Case(NARROW, NEW_TO_OLD, PLACED, PLACED),
    "int becomes long: new message, old reader": Case(NARROW, OLD_TO_NEW, PLACED, PLACED),
    "int becomes long: new message over 31 bits, old reader": Case(
        NARROW, OLD_TO_NEW, {**PLACED, "amount_cents": AMOUNT}, {**PLACED, "amount_cents": AMOUNT}
    ),
}


def _table() -> dict[str, dict[str, str]]:
    """The page's table: the cell of each row and column."""
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in read("docs/formats.md").splitlines()
        if line.startswith("| ")
    ]
    top = next(number for number, row in enumerate(rows) if row[1:] == list(COLUMNS))
    body = itertools.takewhile(lambda row: len(row) == len(COLUMNS) + 1, rows[top + 2 :])
    return {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in body}


TABLE = _table()


def test_the_page_has_every_case() -> None:
    """In this order, and no other."""
    assert list(TABLE) == list(CASES)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", CASES)
def test_a_cell_is_true(row: str, column: str) -> None:
    """What docs/formats.md says happens, happens; the old readers are those that run."""
    assert outcome(column, CASES[row]) == TABLE[row][column]


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.new_message])
def test_an_unknown_writer_s_schema_is_refused(case: Case) -> None:
    """Whatever the change is, compatible or not: a reader that has not got the schema does not guess."""
    data = avro_write(case.written, case.change)
    own = single_object.header(avro_schema(None))
    assert data[: single_object.HEADER_BYTES] != own
    with pytest.raises(Undecodable, match=f"no schema with the fingerprint {data[2:10].hex()} is known"):
        FORMATS["avro"].loads(NAME, data)


def test_a_field_s_doc_or_default_leaves_the_fingerprint_alone() -> None:
    """What does not matter to a reader of the bytes is no change (Avro 1.12, Parsing Canonical Form)."""
    noted = dataclasses.replace(ADDED, default="none")
    assert single_object.header(avro_schema(noted)) == single_object.header(avro_schema(ADDED))


# --- the change that has happened: Event got a quote's terms ----------------------------------------------------------
REFUSED = StockRefused(dataclasses.replace(ORDER, amount_cents=900), "none is left")
QUOTED = QuoteOffered(REFUSED.order, "steady", 509, 3)
BEFORE = {
    "json": b'{"order":{"order_id":"o-1","customer":"c-1","card":"4242424242424242","ship_to":"Lisbon","lines":'
    b'[{"sku":"tea","quantity":2}],"amount_cents":900},"reason":"none is left"}',
    "protobuf": b'\n\rstock.refused\x120\n\x03o-1\x12\x03c-1\x1a\x104242424242424242"\x06Lisbon*\x07\n\x03tea\x10\x020'
    b"\x84\x07\x1a\x0cnone is left",
    "avro": bytes.fromhex("c301 68ad8ccccaf7636d")
    + b"\x1astock.refused\x06o-1\x06c-1 4242424242424242\x0cLisbon\x02\x06tea\x04\x00\x88\x0e\x02\x18none is left",
}
"""``REFUSED``, byte by byte as services wrote it then."""


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_written_before_is_read(name: str) -> None:
    assert FORMATS[name].loads("stock.refused", BEFORE[name]) == REFUSED


@pytest.mark.parametrize("event", [REFUSED, QUOTED], ids=lambda event: type_name(type(event)))
@pytest.mark.parametrize("name", FORMATS)
def test_who_does_not_know_the_new_fields_passes_them_over(name: str, event: StockRefused | QuoteOffered) -> None:
    """What is written now, read by the schema as it was: all that it has is there, and right."""
    data = FORMATS[name].dumps(event)
    reason = getattr(event, "reason", None)
    assert before(name, data) == (type_name(type(event)) if name != "json" else "", event.order, reason)


def before(name: str, data: bytes) -> tuple[str, Order, str | None]:
    """An event's type (JSON's stands elsewhere), its order and its reason, by the schema as it was."""
    if name == "json":
        event = TypeAdapter(EventBefore).validate_json(data, strict=True)
        return "", event.order, event.reason
    if name == "avro":
        record = avro.decode(avro.schema("Event"), data[single_object.HEADER_BYTES :], EARLIER)
        return record["type"], avro.order_from(record["order"]), record["reason"]
    message = protobuf_before().FromString(data)
    assert [field.name for field in message.DESCRIPTOR.fields] == ["type", "order", "reason"]
    return message.type, protobuf.order_from(message), message.reason if message.HasField("reason") else None


@dataclasses.dataclass(frozen=True)
class EventBefore:
    order: Order
    reason: str | None = None


def protobuf_before() -> Any:
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    del file.service[:]
    event = next(message for message in file.message_type if message.name == "Event")
    del event.field[3:], event.oneof_decl[1:]  # of an optional field protoc makes a oneof
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("antiphon.v1.Event"))


EARLIER = avro.fastavro.parse_schema(earlier.EVENT_WITHOUT_QUOTES)


def test_every_schema_that_ever_wrote_is_known() -> None:
    """By its fingerprint. Whoever changes a record of antiphon.avpr adds one here, puts what was into ``earlier``, and
    takes none away."""
    assert {header[2:].hex() for header in single_object.known()} == {
        "68ad8ccccaf7636d",  # Event, without quotes
        "26a9612ff5b38a1e",  # Event
        "10ddbc1a58d25b5e",  # Command
    }


def test_a_number_is_given_once() -> None:
    """Of the Protobuf contract's fields, as they were and are: what was added was added behind."""
    records = pb.DESCRIPTOR.message_types_by_name
    assert {name: {field.name: field.number for field in records[name].fields} for name in ("Event", "Command")} == {
        "Event": {"type": 1, "order": 2, "reason": 3, "carrier": 4, "price_cents": 5, "days": 6},
        "Command": {"order": 1},
    }
