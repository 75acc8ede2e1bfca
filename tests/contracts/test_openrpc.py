"""The OpenRPC document: by OpenRPC's own schema, and against the domain."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT7

from lab.targets.local.provision import UnavailableError, cache
from lab.targets.local.provision.tools import Job
from services.contracts import openrpc, validity
from services.contracts.generate import HERE
from services.domain import messages as m
from services.domain.messages import type_name
from services.domain.order import STEPS

OPENRPC = "@open-rpc/meta-schema"
JSON_SCHEMA = "@json-schema-tools/meta-schema"
PINNED = {OPENRPC: "1.14.9", JSON_SCHEMA: "1.8.0"}
"""The second is what the first says of the schemas in it: draft 7, as OpenRPC 1.3 wants it."""

DOCUMENT = json.loads((HERE / "openrpc.json").read_text())
ORDER = {
    "order_id": "o-1",
    "customer": "c-1",
    "card": "4242",
    "ship_to": "Zürich",
    "lines": [{"sku": "tea", "quantity": 1}],
    "amount_cents": 350,
}
texts = st.text(st.characters(exclude_categories=["Cs"]))
orders = st.builds(
    m.Order,
    texts.filter(bool),
    *[texts] * 3,
    st.lists(st.builds(m.Line, texts, st.integers(1)), min_size=1).map(tuple),
    st.integers(),
)


# --- by OpenRPC's own schema


@pytest.fixture(scope="session")
def problems() -> Callable[[Any], list[str]]:
    """What the meta-schema says against a document. It comes from npm's registry, and is kept in the lab's cache."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    wanted = [f"{package}@{version}" for package, version in PINNED.items()]
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]

    def install(folder: Path) -> None:
        job.run(["npm", "install", *options, "--prefix", str(folder), *wanted])

    job = Job("openrpc-schema", lambda *_: None)
    try:
        folder = cache.entry("openrpc-schema", " ".join(wanted), install, job)
    except UnavailableError as error:
        pytest.skip(f"npm did not get {' and '.join(wanted)}: {str(error)[-300:]}")
    meta, schema = (exported(folder, package) for package in PINNED)
    resource = DRAFT7.create_resource(schema)
    # it is asked for without the slash that its id ends in
    registry: Registry[Any] = Registry().with_resources(
        [(schema["$id"], resource), (schema["$id"].rstrip("/"), resource)]
    )
    validator = Draft7Validator(meta, registry=registry)
    return lambda document: [f"{each.json_path}: {each.message[:200]}" for each in validator.iter_errors(document)]


def exported(folder: Path, package: str) -> Any:
    """The schema that an npm package exports: a JavaScript object."""
    script = f"process.stdout.write(JSON.stringify(require({package!r}).default))"
    done = subprocess.run(["node", "-e", script], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_the_document_is_one_by_openrpc_s_own_schema(problems: Callable[[Any], list[str]]) -> None:
    assert DOCUMENT["openrpc"] == "1.3.2"
    assert problems(DOCUMENT) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.pop("info"),
        lambda document: document.update(openrpc="0.1"),
        lambda document: document.update(paths={}),
        lambda document: document["methods"][0].pop("name"),
        lambda document: document["methods"][0].update(paramStructure="by-magic"),
        lambda document: document["methods"][0]["params"][0].pop("schema"),
        lambda document: document["methods"][0]["params"][0].update(schema="Order"),
        lambda document: document["methods"][0]["result"].update(errors=[]),
        lambda document: document["components"]["schemas"]["Order"].update(required="order_id"),
        lambda document: document["components"]["schemas"]["Line"]["properties"]["quantity"].update(minimum="1"),
    ],
)
def test_a_mistake_would_be_found(problems: Callable[[Any], list[str]], damage: Callable[[Any], Any]) -> None:
    document = copy.deepcopy(DOCUMENT)
    damage(document)
    assert problems(document)


# --- against the domain


def test_every_command_is_one_method_and_answers_with_its_events() -> None:
    expected = {
        openrpc.method(command): {type_name(event) for event in events if event}
        for step in STEPS
        for command, events in ((step.do, (step.done, step.refused)), (step.undo, (step.undone,)))
        if command is not None
    }
    methods = {
        each["name"]: set(each["result"]["schema"]["properties"]["type"]["enum"]) for each in DOCUMENT["methods"]
    }
    assert methods == expected
    assert len(methods) == len(DOCUMENT["methods"])
    assert all(name.partition(".")[0] in {step.service for step in STEPS} for name in methods)


@pytest.mark.parametrize("message", [m.Line, m.Order], ids=lambda message: message.__name__)
def test_the_messages_have_the_domain_s_fields(message: type) -> None:
    names = [field.name for field in fields(message)]
    schema = DOCUMENT["components"]["schemas"][message.__name__]
    assert list(schema["properties"]) == schema["required"] == names
    assert schema["additionalProperties"] is False


def test_the_document_is_whole() -> None:
    """Every reference leads somewhere, and what it leads to is a schema."""

    def refs(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [node["$ref"]] if "$ref" in node else [ref for value in node.values() for ref in refs(value)]
        return [ref for value in node for ref in refs(value)] if isinstance(node, list) else []

    schemas = DOCUMENT["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in refs(DOCUMENT)} == schemas.keys()
    for schema in schemas.values():
        Draft7Validator.check_schema(schema)


@pytest.mark.parametrize(
    "changes",
    [
        {"order_id": ""},
        {"order_id": None},
        {"order_id": 7},
        {"card": 4242},
        {"lines": []},
        {"lines": {}},
        {"lines": [{"sku": "tea"}]},
        {"lines": [{"sku": "tea", "quantity": 0}]},
        {"lines": [{"sku": "tea", "quantity": -1}]},
        {"lines": [{"sku": "tea", "quantity": "1"}]},
        {"lines": [{"sku": "tea", "quantity": 1, "colour": "green"}]},
        {"amount_cents": "350"},
        {"amount_cents": 3.5},
        {"amount_cents": True},
        {"coupon": "free"},
    ],
    ids=str,
)
def test_what_the_schema_refuses_is_refused(changes: dict[str, Any]) -> None:
    """A caller that checks against the document sends nothing that comes back as -32602, and the reverse."""
    schema = Draft7Validator({**DOCUMENT, "$ref": "#/components/schemas/Order"})
    assert schema.is_valid(ORDER)
    assert openrpc.order_from(openrpc.Order.model_validate(ORDER)).lines == (m.Line("tea", 1),)
    assert not schema.is_valid({**ORDER, **changes})
    with pytest.raises(ValidationError):
        openrpc.Order.model_validate({**ORDER, **changes})


@given(
    st.builds(m.Order, texts, *[texts] * 3, st.lists(st.builds(m.Line, texts, st.integers())).map(tuple), st.integers())
)
def test_it_holds_callers_to_what_every_wire_does(order: m.Order) -> None:
    """What ``validity`` refuses, the contract refuses, and nothing else of the right form."""
    refused = []
    for judge in (
        lambda: validity.check(order),
        lambda: openrpc.Order.model_validate(json.loads(json.dumps(asdict(order)))),
    ):
        try:
            judge()
        except ValueError as error:
            refused.append(error)
    assert len(refused) in {0, 2}


@given(orders)
def test_an_order_survives(order: m.Order) -> None:
    sent = json.loads(json.dumps(asdict(order)))
    assert openrpc.order_from(openrpc.Order.model_validate(sent)) == order


@given(orders, texts)
def test_an_answer_is_as_the_contract_says(order: m.Order, reason: str) -> None:
    for step in STEPS:
        for event in filter(None, (step.done(order), step.refused(order, reason), step.undone and step.undone(order))):
            said = json.loads(json.dumps(openrpc.answer_to(event), default=asdict))
            assert openrpc.Answer.model_validate(said).type == type_name(type(event))
            assert said.get("reason") == (reason if isinstance(event, m.Refusal) else None)
