"""What becomes of a message when its schema changes: one change, made in each format's own schema language, and a
message that goes from who has it to who has not, or the other way. The contracts themselves stay as they are.
"""

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from services.contracts import avro, single_object
from services.contracts.generated import antiphon_pb2 as pb
from services.domain.messages import Line, Order, OrderPlaced
from services.transports.errors import Undecodable
from services.transports.formats import FORMATS

NAME = "order.placed"
Record = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One field of one record, ``Order`` or ``Line``: ``old`` as we have it, ``new`` as it is to be; None: not there.

    A field is ``(name, kind)``, kind one of string, int, long. ``default`` is what a new reader takes where an old
    message has nothing; ``alias``: a new reader knows the old name, too; ``earlier``: the field changes places with the
    one before it.
    """

    record: str
    old: tuple[str, str] | None
    new: tuple[str, str] | None
    default: Any = ...
    alias: bool = False
    earlier: bool = False


def fields(change: Change | None, record: str) -> list[tuple[str, str]]:
    """Name and kind of each field of a record, as it is or as ``change`` makes it."""
    ours = {
        "Line": [("sku", "string"), ("quantity", "long")],
        "Order": [
            *(("order_id", "string"), ("customer", "string"), ("card", "string"), ("ship_to", "string")),
            *(("lines", "lines"), ("amount_cents", "long")),
        ],
    }[record]
    if change is None or change.record != record:
        return ours
    if change.old is None:
        return [*ours, change.new] if change.new else ours
    place = ours.index(change.old)
    if change.earlier:
        ours[place - 1], ours[place] = ours[place], ours[place - 1]
        return ours
    return [*ours[:place], *([change.new] if change.new else []), *ours[place + 1 :]]


# --- each format: bytes of a record by a schema, and a record of bytes ------------------------------------------------
def json_write(order: Record, change: Change | None) -> bytes:
    return json.dumps({"order": order}).encode()


def json_read(data: bytes, change: Change) -> Record:
    """By types like the domain's own."""
    kinds: dict[str, Any] = {"string": str, "int": int, "long": int}

    def made(record: str) -> type:
        members: list[Any] = []
        for name, kind in fields(change, record):
            member: list[Any] = [name, kinds[kind]]
            if change.record == record and change.new == (name, kind):
                if change.default is not ...:
                    member.append(dataclasses.field(default=change.default))
                elif change.alias and change.old:
                    member.append(dataclasses.field(default=Field(validation_alias=AliasChoices(name, change.old[0]))))
            members.append(tuple(member))
        return dataclasses.make_dataclass(record, members, kw_only=True)

    kinds["lines"] = tuple[made("Line"), ...]  # type: ignore[misc]
    placed = dataclasses.make_dataclass("OrderPlaced", [("order", made("Order"))])
    try:
        return dataclasses.asdict(TypeAdapter(placed).validate_json(data, strict=True))["order"]  # type: ignore[call-overload,no-any-return]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def protobuf_class(change: Change | None) -> Any:
    """Event, by a descriptor in which ``change`` was made. A field that comes gets the next number."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    del file.service[:]
    kinds = {"string": "TYPE_STRING", "int": "TYPE_INT32", "long": "TYPE_INT64"}
    if change is not None and not change.earlier:  # numbers, not places
        record = next(message for message in file.message_type if message.name == change.record)
        if change.old is None:
            assert change.new is not None
            kind = descriptor_pb2.FieldDescriptorProto.Type.Value(kinds[change.new[1]])
            label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            record.field.add(name=change.new[0], number=len(record.field) + 1, type=kind, label=label)
        else:
            field = next(field for field in record.field if field.name == change.old[0])
            if change.new is None:
                record.field.remove(field)
            else:
                field.name, field.json_name = change.new[0], ""
                field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(kinds[change.new[1]])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("antiphon.v1.Event"))


def protobuf_write(order: Record, change: Change | None) -> bytes:
    data: bytes = protobuf_class(change)(type=NAME, order=order).SerializeToString()
    return data


def protobuf_read(data: bytes, change: Change) -> Record:
    def plain(message: Any, record: str) -> Record:
        return {
            name: tuple(plain(line, "Line") for line in getattr(message, name))
            if kind == "lines"
            else getattr(message, name)
            for name, kind in fields(change, record)
        }

    return plain(protobuf_class(change).FromString(data).order, "Order")


def avro_schema(change: Change | None) -> Any:
    """Event, whole in itself, with ``change`` made in it."""
    event = copy.deepcopy((avro.PROTOCOL.types_dict or {})["Event"].to_json())
    order = next(field["type"] for field in event["fields"] if field["name"] == "order")
    line = next(field["type"]["items"] for field in order["fields"] if field["name"] == "lines")
    if change is not None:
        members = {"Order": order, "Line": line}[change.record]["fields"]
        was = {field["name"]: field for field in members}
        members[:] = [
            was[name] if kind == "lines" else {"name": name, "type": kind}
            for name, kind in fields(change, change.record)
        ]
        new = next((field for field in members if change.new and field["name"] == change.new[0]), {})
        if change.default is not ...:
            new["default"] = change.default
        if change.alias and change.old:
            new["aliases"] = [change.old[0]]
    return avro.fastavro.parse_schema(event)


def avro_write(order: Record, change: Change | None) -> bytes:
    schema = avro_schema(change)
    return single_object.header(schema) + avro.encode(schema, {"type": NAME, "order": order, "reason": None})


def avro_read(data: bytes, change: Change) -> Record:
    """The writer's schema is known."""
    return _tuples(avro.decode(avro_schema(None), data[single_object.HEADER_BYTES :], avro_schema(change)))


def avro_bare_read(data: bytes, change: Change | None) -> Record:
    """It is not, and the reader takes its own for it: where that goes wrong, how it does is chance."""
    try:
        return _tuples(avro.decode(avro_schema(change), data[single_object.HEADER_BYTES :]))
    except ValueError:
        raise ValueError("the bytes do not fit") from None


def _tuples(record: Record) -> Record:
    return {**record["order"], "lines": tuple(record["order"]["lines"])}


# --- old readers are the running ones ---------------------------------------------------------------------------------
def old_reader(name: str) -> Callable[[bytes, Change], Record]:
    def read(data: bytes, change: Change) -> Record:
        if name == "avro":
            schema = avro_schema(change)
            return dataclasses.asdict(
                single_object.loads(OrderPlaced, data, {single_object.header(schema): schema}).order
            )
        return dataclasses.asdict(FORMATS[name].loads(NAME, data).order)

    return read


COLUMNS: dict[str, tuple[Callable[..., bytes], Callable[..., Record], Callable[..., Record]]] = {
    "JSON": (json_write, old_reader("json"), json_read),
    "Protobuf": (protobuf_write, old_reader("protobuf"), protobuf_read),
    "Avro, writer's schema known": (avro_write, old_reader("avro"), avro_read),
    "Avro, own schema taken for the writer's": (avro_write, lambda data, _: avro_bare_read(data, None), avro_bare_read),
}
"""Of each format: how a message is written, how the old reader takes it and how a new one."""


@dataclass(frozen=True)
class Case:
    """A change and a message: a new one to an old reader or an old one to a new reader. ``written`` is its order,
    ``meant`` what the reader should come to understand, ``works`` what to say if it does."""

    change: Change
    new_message: bool
    written: Record
    meant: Record
    works: str = "works"


ORDER = Order("o-1", "c-1", "4242424242424242", "Lisbon", (Line("tea", 2),), 4200)


def outcome(column: str, case: Case) -> str:
    """What becomes of the message, in a few words."""
    write, old_reader, new_reader = COLUMNS[column]
    data = write(case.written, case.change if case.new_message else None)
    try:
        understood = (old_reader if case.new_message else new_reader)(data, case.change)
    except (ValueError, Undecodable) as error:
        return "refused: " + str(error).removeprefix(f"{NAME}: ").removeprefix("these bytes do not fit the schema: ")
    wrong = [f"{name} is {understood[name]!r}" for name in case.meant if understood[name] != case.meant[name]]
    return f"silently wrong: {', '.join(wrong)}" if wrong else case.works
