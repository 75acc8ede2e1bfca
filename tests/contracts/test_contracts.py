"""The contracts and the domain say the same, and what is generated from them is what is committed."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts.events import ANSWERS
from services.contracts.generate import HERE, document, generate
from services.contracts.generated import antiphon_pb2 as pb
from services.contracts.protobuf import event_from, event_to, order_from, order_to
from services.domain.messages import MESSAGES, Command, Event, Line, Order, type_name
from services.domain.order import STEP_OF, STEPS
from services.transports.rpc import grpc, rest

COMMANDS = [command for step in STEPS for command in (step.do, step.undo) if command is not None]
MESSAGES_ALONE = [kind for name, kind in MESSAGES.items() if issubclass(kind, Event) and name not in ANSWERS]
texts = st.text(st.characters(exclude_categories=["Cs"]))
orders = st.builds(
    Order,
    texts.filter(bool),
    *[texts] * 3,
    st.lists(st.builds(Line, texts, st.integers(1, 2**63 - 1)), min_size=1).map(tuple),
    st.integers(-(2**63), 2**63 - 1),
)
_MEMBERS = {
    "reason": texts,
    "carrier": texts,
    "price_cents": st.integers(0, 2**63 - 1),
    "days": st.integers(0, 2**63 - 1),
}


def events(event_type: type[Event]) -> st.SearchStrategy[Event]:
    """Of that type, with any text and any number in it."""
    more = {field.name: _MEMBERS[field.name] for field in fields(event_type) if field.name != "order"}
    return st.builds(event_type, orders, **more)


def test_what_is_generated_is_committed(tmp_path: Path) -> None:
    """``make contracts`` would change nothing."""
    made = generate(tmp_path)
    assert made
    for path in made:
        assert path.read_text() == (HERE / path.relative_to(tmp_path)).read_text(), path.name


def test_the_generated_code_is_a_package() -> None:
    """It imports from anywhere, without a path of its own."""
    code = "from services.contracts.generated import antiphon_pb2_grpc as g; print(g.PaymentStub.__module__)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("message", [Line, Order], ids=lambda message: message.__name__)
def test_every_contract_has_the_domain_s_fields(message: type) -> None:
    names = [field.name for field in fields(message)]
    assert [field.name for field in pb.DESCRIPTOR.message_types_by_name[message.__name__].fields] == names
    schema = document()["components"]["schemas"][message.__name__]
    assert list(schema["properties"]) == names
    assert schema["required"] == names


def test_an_answer_has_the_same_fields_everywhere() -> None:
    names = [field.name for field in pb.Event.DESCRIPTOR.fields]
    assert names == ["type", "order", "reason", "carrier", "price_cents", "days"]  # messages have it, too
    schema = document()["components"]["schemas"]["Answer"]
    assert list(schema["properties"]) == names[:3]
    assert set(schema["properties"]["type"]["enum"]) == set(ANSWERS)


def test_every_command_is_one_method_and_one_route() -> None:
    methods = {(s.name, m.name) for s in pb.DESCRIPTOR.services_by_name.values() for m in s.methods}
    assert methods == {grpc.method(command) for command in COMMANDS}
    openapi = document()
    routes = {(verb.upper(), path) for path, verbs in openapi["paths"].items() for verb in verbs}
    assert routes == {rest.resource(command) for command in COMMANDS}
    assert len(routes) == len(methods) == len(COMMANDS)


def test_the_openapi_document_is_whole() -> None:
    """Every reference leads somewhere, every path parameter is declared, every operation has a name and answers."""
    openapi = document()

    def refs(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [node["$ref"]] if "$ref" in node else [ref for value in node.values() for ref in refs(value)]
        return [ref for value in node for ref in refs(value)] if isinstance(node, list) else []

    schemas = openapi["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in refs(openapi)} <= schemas.keys()
    operations = [operation for path in openapi["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert [p["name"] for p in operation["parameters"]] == ["order_id"]
        assert operation["responses"].keys() == {"200", "400", "413", "415", "422", "500", "503"}
        assert operation["requestBody"]["required"]


@given(orders)
def test_an_order_survives_protobuf(order: Order) -> None:
    sent = pb.Command(order=order_to(order)).SerializeToString()
    assert order_from(pb.Command.FromString(sent)) == order


@pytest.mark.parametrize("event_type", ANSWERS.values(), ids=type_name)
@given(data=st.data())
def test_an_answer_survives_protobuf(event_type: type[Event], data: st.DataObject) -> None:
    event = data.draw(events(event_type))
    assert event_from(pb.Event.FromString(event_to(event).SerializeToString()), asked(event)) == event


def asked(event: Event) -> Command:
    """The command that ``event`` answers."""
    do = STEP_OF[type(event)].do
    assert do is not None
    return do(event.order)


@pytest.mark.parametrize("event_type", MESSAGES_ALONE, ids=type_name)
@given(data=st.data())
def test_what_travels_as_a_message_only_is_no_answer(event_type: type[Event], data: st.DataObject) -> None:
    """To nobody: not even the news that somebody will tell the customer, which is of the same step."""
    event = data.draw(events(event_type))
    for command in COMMANDS:
        with pytest.raises(ValueError, match="is no answer to"):
            event_from(event_to(event), command(event.order))
