"""The documents that processes serve of themselves, in the eyes of those who wrote the formats."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from services import inventory, notifications, payment, shipping
from services.contracts.asyncapi import committed
from services.contracts.generate import HERE
from services.runtime.config import Config
from services.runtime.process import Process, participant
from tests import npm
from tests.services.lab import memory_lab
from tests.services.parts import free_port

ASYNCAPI = ("@asyncapi/specs@6.11.1", "@asyncapi/parser@3.6.3")
PARSE = """
const { Parser } = require("@asyncapi/parser");
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
Promise.all(texts.map((text) => new Parser().parse(text))).then((parsed) =>
  console.log(JSON.stringify(parsed.map((each) => each.diagnostics))));
"""
NOT_THE_LATEST = "asyncapi-latest-version"  # 3.1 is; 3.0 is what the tools around it read
ASYNCAPI_MISTAKES = (
    ('"action": "send"', '"action": "sent"'),
    ('"protocol": "amqp",', ""),
    ('"is": "routingKey"', '"is": "routing-key"'),
    ('"deliveryMode": 2', '"deliveryMode": "persistent"'),
)
WRONG_REFERENCES = (
    ('"$ref": "#/servers/kafka"', '"$ref": "#/servers/kafak"'),
    ('#/channels/orders.events/messages/order.placed"', '#/channels/orders.events/messages/order.eaten"'),
)
OPENAPI_MISTAKES = (
    ('"required": true', '"required": "yes"'),
    ('"in": "path"', '"in": "paht"'),
    ('"type": "integer"', '"type": "int"'),
    ('"description": "not JSON"', '"descripton": "not JSON"'),
    ('"operationId": "ReserveStock"', '"operationId": "ChargePayment"'),
)


def mistaken(text: str, mistakes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """``text`` with one mistake, for each."""
    for before, after in mistakes:
        assert before in text
        yield text.replace(before, after, 1)


# --- AsyncAPI --
@pytest.fixture(scope="session")
def tools() -> Path:
    """AsyncAPI's own schemas and parser."""
    return npm.installed("asyncapi", *ASYNCAPI)


def complaints(tools: Path, *texts: str) -> list[list[str]]:
    """What AsyncAPI's parser has against each document."""
    command, given = ["node", "--eval", PARSE], json.dumps(texts)
    done = subprocess.run(command, cwd=tools, input=given, capture_output=True, text=True, check=True, timeout=90)
    return [
        [f"{each['code']}: {each['message']}" for each in diagnostics if each["code"] != NOT_THE_LATEST]
        for diagnostics in json.loads(done.stdout)
    ]


async def test_asyncapi_is_valid_by_its_schema(tools: Path, tmp_path: Path) -> None:
    """What the front door serves; by the JSON Schema that AsyncAPI publishes for 3.0.0, bindings included. A mistake
    would be found."""
    async with memory_lab(tmp_path) as lab:
        served = (await lab.client.get("/asyncapi.json")).json()
    schema = json.loads((tools / "node_modules/@asyncapi/specs/schemas/3.0.0.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(served)] == []
    for wrong in mistaken(committed(), ASYNCAPI_MISTAKES):
        assert not validator.is_valid(json.loads(wrong))


def test_asyncapi_s_parser_has_nothing_against_it(tools: Path) -> None:
    """References and rules, too, which no schema sees; and a mistake would be found."""
    right, *found = complaints(tools, committed(), *mistaken(committed(), WRONG_REFERENCES))
    assert right == []
    assert all(found), found


# --- OpenAPI --
async def test_the_front_door_s_openapi_is_valid(tmp_path: Path) -> None:
    """By the JSON Schema of OpenAPI 3.1 and the rules beyond it."""
    async with memory_lab(tmp_path) as lab:
        served = (await lab.client.get("/openapi.json")).json()
    assert "/orders" in served["paths"]
    validate(served, cls=OpenAPIV31SpecValidator)


@pytest.mark.parametrize("module", [inventory, payment, shipping, notifications], ids=lambda module: module.__name__)
async def test_a_participant_s_openapi_is_valid(module: Any) -> None:
    """What each serves over REST."""
    service, port = module.__name__.rpartition(".")[2], free_port()
    async with (
        participant(Process(service, Config(transports="rest", listen={"rest": port})), module.handlers),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        served = (await client.get(f"http://127.0.0.1:{port}/openapi.json")).json()
    assert {tag for path in served["paths"].values() for each in path.values() for tag in each["tags"]} == {service}
    validate(served, cls=OpenAPIV31SpecValidator)


def test_the_committed_openapi_is_valid() -> None:
    """That of all participants together; and a mistake would be found."""
    text = (HERE / "openapi.json").read_text()
    validate(json.loads(text), cls=OpenAPIV31SpecValidator)
    for wrong in mistaken(text, OPENAPI_MISTAKES):
        with pytest.raises(OpenAPIValidationError):
            validate(json.loads(wrong), cls=OpenAPIV31SpecValidator)
