"""Seven contracts, one vocabulary: each is read by a reader of its own, and all say the same."""

import dataclasses
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from services.contracts.generate import HERE
from services.domain.messages import Command, Event, Line, Order, Quote, QuoteDeclined, Refusal, type_name
from services.domain.order import STEPS


@dataclasses.dataclass(frozen=True)
class Field:
    """``kind`` is text, integer (of 64 bits, where a contract has sizes), a record's name, or that of a list's items
    with ``*``. ``unit`` is what a number counts, by its name or its description."""

    kind: str
    required: bool
    unit: str


Records = dict[str, dict[str, Field]]
KINDS = {
    **dict.fromkeys(("str", "string", "TYPE_STRING"), "text"),
    **dict.fromkeys(("int", "integer", "TYPE_INT64", "i64", "long"), "integer"),
}
"""Avro's and Slice's long and Thrift's i64 have 64 bits. An int of 32 is called otherwise in each, and fails here: in
Avro and Slice it is called int, as Python's is, so that their readers call it int32."""


def field(name: str, kind: str, about: str, *, required: bool = True) -> Field:
    kind = KINDS.get(kind, kind)
    unit = ""
    if kind == "integer":
        unit = "cents" if name.endswith("_cents") else "pieces" if "pieces" in about else "of nothing"
        unit = "days" if name == "days" else unit
    return Field(kind, required, unit)


# --- the domain --
def domain() -> Records:
    """What all contracts are held against. An event's type is its class; refusals alone have a reason, and quotes alone
    their terms. What answers a call is no quote."""
    records = {record.__name__: dict(_members(record)) for record in (Line, Order, Command, Event)}
    event = {"type": field("type", "str", ""), **records.pop("Event")}
    records["Answer"] = {**event, **_optional(dict(_members(Refusal)), event)}
    records["Event"] = {**records["Answer"], **_optional(dict(_members(Quote)), event)}
    assert dict(_members(QuoteDeclined)).keys() < records["Event"].keys()
    return records


def _optional(record: dict[str, Field], event: dict[str, Field]) -> dict[str, Field]:
    """What ``record`` has and ``event`` has not: not every event has it."""
    return {name: dataclasses.replace(each, required=False) for name, each in record.items() if name not in event}


def _members(record: type) -> Iterator[tuple[str, Field]]:
    for name, hint in get_type_hints(record).items():
        kind = f"{get_args(hint)[0].__name__}*" if get_origin(hint) is tuple else hint.__name__
        yield name, field(name, kind, record.__doc__ or "")


# --- JSON Schema: OpenAPI, OpenRPC, AsyncAPI --
def schema_record(schemas: dict[str, Any], name: str) -> dict[str, Field]:
    schema = schemas[name]
    return {
        member: field(
            member,
            _schema_kind(what),
            f"{schema.get('description', '')} {what.get('description', '')}",
            required=member in schema["required"],
        )
        for member, what in schema["properties"].items()
    }


def _schema_kind(what: dict[str, Any]) -> str:
    if "$ref" in what:
        return str(what["$ref"]).rpartition("/")[2]
    if "anyOf" in what:  # or null, of what may be left out
        kind, null = what["anyOf"]
        assert null == {"type": "null"}
        return _schema_kind(kind)
    return f"{_schema_kind(what['items'])}*" if what["type"] == "array" else str(what["type"])


def openapi() -> Records:
    schemas = json.loads((HERE / "openapi.json").read_text())["components"]["schemas"]
    names = ("Line", "Order", "Command", "Answer")
    return {name: schema_record(schemas, name) for name in names}


def openrpc() -> Records:
    """A command is the parameters of its method: the same for each."""
    document = json.loads((HERE / "openrpc.json").read_text())
    schemas = document["components"]["schemas"]
    commands = [
        {p["name"]: field(p["name"], _schema_kind(p["schema"]), "", required=p["required"]) for p in method["params"]}
        for method in document["methods"]
    ]
    assert all(command == commands[0] for command in commands)
    return {"Command": commands[0], **{name: schema_record(schemas, name) for name in ("Line", "Order", "Answer")}}


def asyncapi() -> Records:
    """A message's type is a header."""
    schemas = json.loads((HERE / "asyncapi.json").read_text())["components"]["schemas"]
    records = {name: schema_record(schemas, name) for name in ("Line", "Order", "Command", "Event")}
    event = records["Event"]
    refusal, quote, declined = (schema_record(schemas, name) for name in ("Refusal", "Quote", "QuoteDeclined"))
    assert refusal.items() > event.items()
    assert quote.items() > event.items()
    assert declined == {**refusal, "carrier": quote["carrier"]}
    kind = schema_record(schemas, "Headers")["ce-type"]
    return {**records, "Event": {"type": kind, **event, **_optional(refusal, event), **_optional(quote, event)}}


# --- the others' own languages --
def protobuf_file(tmp_path: Path) -> FileDescriptorProto:
    """The contract as its compiler understands it, with the comments."""
    target = tmp_path / "antiphon.binpb"
    options = ["--include_source_info", f"--descriptor_set_out={target}", f"-I{HERE}"]
    assert importlib.import_module("grpc_tools.protoc").main(["protoc", *options, "antiphon.proto"]) == 0
    return FileDescriptorSet.FromString(target.read_bytes()).file[0]


def protobuf(tmp_path: Path) -> Records:
    file = protobuf_file(tmp_path)
    about = {
        tuple(each.path): each.leading_comments + each.trailing_comments for each in file.source_code_info.location
    }
    records: Records = {}
    for number, message in enumerate(file.message_type):
        records[message.name] = {}
        for index, member in enumerate(message.field):
            kind = member.type_name.rpartition(".")[2] or FieldDescriptorProto.Type.Name(member.type)
            kind += "*" if member.label == FieldDescriptorProto.LABEL_REPEATED else ""
            comments = about.get((4, number), "") + about.get((4, number, 2, index), "")
            required = not member.proto3_optional
            records[message.name][member.name] = field(member.name, kind, comments, required=required)
    return records


def avro() -> Records:
    protocol = json.loads((HERE / "antiphon.avpr").read_text())

    def kind(what: Any) -> tuple[str, bool]:
        if isinstance(what, list):
            null, one = what
            assert null == "null"
            return kind(one)[0], False
        if isinstance(what, dict):
            assert what["type"] == "array"
            return f"{what['items']}*", True
        return ("int32" if what == "int" else what), True

    def member(what: dict[str, Any], record: dict[str, Any]) -> Field:
        name, required = kind(what["type"])
        assert required or what["default"] is None
        return field(what["name"], name, f"{record.get('doc', '')} {what.get('doc', '')}", required=required)

    return {
        record["name"]: {what["name"]: member(what, record) for what in record["fields"]}
        for record in protocol["types"]
        if record["type"] == "record"
    }


def thrift() -> Records:
    return _braces(
        (HERE / "antiphon.thrift").read_text(),
        "struct",
        re.compile(r"\d+: (?P<optional>optional )?(?P<kind>[\w<>]+) (?P<name>\w+)(?P<about>.*)"),
        {},
    )


def ice() -> Records:
    text = (HERE / "antiphon.ice").read_text()
    sequences = {name: f"{item}*" for item, name in re.findall(r"sequence<(\w+)> (\w+);", text)}
    return _braces(
        text,
        "struct|class",
        re.compile(r"(?P<optional>optional\(\d+\) )?(?P<kind>\w+) (?P<name>\w+);(?P<about>.*)"),
        {**sequences, "int": "int32"},
    )


def _braces(text: str, word: str, member: re.Pattern[str], kinds: dict[str, str]) -> Records:
    """The records of a language in which they are ``word Name { one member a line }``, comments above and beside.
    It is spoken in calls alone: an event is an answer."""
    records: Records = {}
    for about, name, body in re.findall(rf"((?: *//.*\n)*) *(?:{word}) (\w+)\s*{{([^}}]*)}}", text):
        records[name] = {}
        for line in filter(None, map(str.strip, body.splitlines())):
            found = member.fullmatch(line)
            assert found, line
            kind = kinds.get(found["kind"], re.sub(r"list<(\w+)>", r"\1*", found["kind"]))
            records[name][found["name"]] = field(
                found["name"], kind, about + found["about"], required=not found["optional"]
            )
    records["Answer"] = records.pop("Event")
    return records


READERS: dict[str, Callable[..., Records]] = {
    "openapi.json": lambda _: openapi(),
    "openrpc.json": lambda _: openrpc(),
    "asyncapi.json": lambda _: asyncapi(),
    "antiphon.proto": protobuf,
    "antiphon.avpr": lambda _: avro(),
    "antiphon.thrift": lambda _: thrift(),
    "antiphon.ice": lambda _: ice(),
}


def test_every_contract_is_read() -> None:
    """A file in the folder that is no Python is a contract."""
    assert {path.name for path in HERE.iterdir() if path.is_file() and path.suffix != ".py"} == READERS.keys()


def test_the_domain_is_what_we_think_it_is() -> None:
    """So that what the contracts are held against is not empty by a mistake of this file."""
    assert domain()["Order"] == {
        **dict.fromkeys(("order_id", "customer", "card", "ship_to"), Field("text", required=True, unit="")),
        "lines": Field("Line*", required=True, unit=""),
        "amount_cents": Field("integer", required=True, unit="cents"),
    }
    assert domain()["Line"]["quantity"] == Field("integer", required=True, unit="pieces")
    assert domain()["Answer"]["reason"] == Field("text", required=False, unit="")
    assert list(domain()["Event"]) == ["type", "order", "reason", "carrier", "price_cents", "days"]
    assert domain()["Event"]["price_cents"] == Field("integer", required=False, unit="cents")
    assert domain()["Event"]["days"] == Field("integer", required=False, unit="days")


CALLS = ("openapi.json", "openrpc.json", "antiphon.thrift", "antiphon.ice")
"""Of nothing but calls: their events are answers. The others' are messages', too."""


def records(contract: str) -> tuple[str, ...]:
    return ("Line", "Order", "Command", "Answer" if contract in CALLS else "Event")


@pytest.mark.parametrize(("contract", "record"), [(each, record) for each in READERS for record in records(each)])
def test_a_record_is_the_domain_s(contract: str, record: str, tmp_path: Path) -> None:
    """The same fields in the same order, of the same kinds and units, and the same ones may be missing."""
    said = READERS[contract](tmp_path)[record]
    assert said == domain()[record]
    assert list(said) == list(domain()[record])


@pytest.mark.parametrize(
    ("contract", "before", "after"),
    [
        ("openapi.json", '"ship_to"', '"shipTo"'),
        ("openapi.json", "So many pieces", "So much"),
        ("openrpc.json", '"required": true', '"required": false'),
        ("asyncapi.json", '"type": "integer"', '"type": "number"'),
        ("antiphon.proto", "int64 quantity", "int32 quantity"),
        ("antiphon.proto", "optional string reason", "string reason"),
        ("antiphon.proto", "pieces", "kilograms"),
        ("antiphon.proto", "optional int64 days", "optional int32 days"),
        ("antiphon.proto", "optional int64 price_cents", "int64 price_cents"),
        ("antiphon.avpr", '"name": "carrier"', '"name": "haulier"'),
        ("antiphon.avpr", '"price_cents", "type": ["null", "long"]', '"price_cents", "type": ["null", "int"]'),
        ("asyncapi.json", '"days": {', '"weeks": {'),
        ("openapi.json", '"reason": {', '"why": {'),
        ("antiphon.avpr", '"amount_cents", "type": "long"', '"amount_cents", "type": "int"'),
        ("antiphon.avpr", '"amount_cents"', '"amount"'),
        ("antiphon.thrift", "3: optional string reason", "3: string reason"),
        ("antiphon.thrift", "i64 quantity", "i32 quantity"),
        ("antiphon.thrift", "  2: string customer\n", ""),
        ("antiphon.ice", "long amount_cents", "int amount_cents"),
        ("antiphon.ice", "Lines lines", "string lines"),
    ],
)
def test_a_difference_would_be_found(
    contract: str, before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reader really reads."""
    right = (HERE / contract).read_text()
    assert before in right
    (tmp_path / contract).write_text(right.replace(before, after))
    monkeypatch.setitem(globals(), "HERE", tmp_path)
    wrong = READERS[contract](tmp_path)
    assert any(wrong[record] != domain()[record] for record in records(contract))


def commands() -> dict[tuple[str, str], type[Command]]:
    """By service and verb."""
    return {
        (step.service, type_name(command).partition(".")[0]): command
        for step in STEPS
        for command in (step.do, step.undo)
        if command is not None
    }


def operations(contract: str, tmp_path: Path) -> set[tuple[str, str]]:
    """Each command that can be given, as its service and its verb."""
    text = (HERE / contract).read_text()
    if contract == "openapi.json":
        found = [each for path in json.loads(text)["paths"].values() for each in path.values()]
        verbs = {command.__name__: verb for (_, verb), command in commands().items()}
        return {(each["tags"][0], verbs[each["operationId"]]) for each in found}
    if contract == "openrpc.json":
        return {tuple(method["name"].split(".")) for method in json.loads(text)["methods"]}  # type: ignore[misc]
    if contract == "asyncapi.json":
        channels = {n: each for n, each in json.loads(text)["channels"].items() if n.endswith(".commands")}
        return {(n.partition(".")[0], m.partition(".")[0]) for n, each in channels.items() for m in each["messages"]}
    if contract == "antiphon.proto":
        services = protobuf_file(tmp_path).service
        return {(service.name.lower(), method.name.lower()) for service in services for method in service.method}
    if contract == "antiphon.avpr":  # one protocol for all services
        service = {verb: service for service, verb in commands()}
        return {(service.get(verb, "nobody"), verb) for verb in json.loads(text)["messages"]}
    blocks = re.findall(r"(?:service|interface) (\w+)\s*{(.*?)}", text, re.DOTALL)
    return {(name.lower(), verb) for name, body in blocks for verb in re.findall(r"Event (\w+)\(", body)}


@pytest.mark.parametrize("contract", READERS)
def test_every_command_can_be_given(contract: str, tmp_path: Path) -> None:
    """To the service whose it is, and no other command."""
    assert operations(contract, tmp_path) == commands().keys()
