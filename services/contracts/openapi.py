"""What the REST contract says of the messages; the routes are the adapter's (services/transports/rpc/rest.py).

The schemas come from the domain's own types, so that the contract cannot drift from them. A field's unit stands in
its name.
"""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

from services.contracts.events import ANSWERS
from services.domain.messages import Command, Event, Order, type_name

JSON = "application/json"
PROBLEM = "application/problem+json"
_REF = "#/components/schemas/"


class Answer(BaseModel):
    """What a step came to: ``type`` says what, ``reason`` why not (in refusals only)."""

    type: str
    order: Order
    reason: str | None = None


class Problem(BaseModel):
    """RFC 9457. ``errors`` names each field that is wrong; ``nothing_done`` is true where that is certain."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
    nothing_done: bool = False


_PROBLEMS = {
    400: "not JSON",
    413: "a body over 64 KiB",
    415: "not application/json",
    422: "JSON of the wrong form",
    500: "the participant failed; whether it was done is unknown",
    503: "the participant is going away",
}


def responses(events: Iterable[type[Event]]) -> dict[int | str, dict[str, Any]]:
    """What a route answers: one of ``events``, or a problem."""
    return {
        200: {"description": " or ".join(map(type_name, events)), **_content(JSON, "Answer")},
        **{code: {"description": text, **_content(PROBLEM, "Problem")} for code, text in _PROBLEMS.items()},
    }


def request_body() -> dict[str, Any]:
    return {"requestBody": {"required": True, **_content(JSON, "Command")}}


def complete(app: FastAPI) -> None:
    """Have ``app`` serve its document with our schemas in it."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        _, schemas = TypeAdapter.json_schemas(
            [(t, "validation", TypeAdapter(t)) for t in (Command, Answer, Problem)], ref_template=_REF + "{model}"
        )
        document["components"] = {"schemas": schemas["$defs"]}
        document["components"]["schemas"]["Answer"]["properties"]["type"]["enum"] = sorted(ANSWERS)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _content(media_type: str, schema: str) -> dict[str, Any]:
    return {"content": {media_type: {"schema": {"$ref": _REF + schema}}}}
