"""What the JSON-RPC contract says: an OpenRPC 1.3.2 document, made of the domain's steps and of the messages below.

The messages are written out: a caller is held to more than the domain's types say, and to no other field. Tests compare
them with the domain's. A field's unit stands in its name.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

from pjrpc.common import UNSET
from pjrpc.server.specs import openrpc as spec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from services.domain import messages as m
from services.domain.order import STEP_OF, Step

_REF = "#/components/schemas/"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Line(_Strict):
    """So many pieces of one article."""

    sku: str
    quantity: Annotated[int, Field(ge=1)]


class Order(_Strict):
    """What the customer asked for; it never changes. ``amount_cents`` is the sum that is charged."""

    order_id: Annotated[str, Field(min_length=1)]
    customer: str
    card: str
    ship_to: str
    lines: Annotated[list[Line], Field(min_length=1)]
    amount_cents: int


class Answer(_Strict):
    """What a step came to: ``type`` says what, ``reason`` why not (in refusals only)."""

    type: str
    order: Order
    reason: str | None = None


def method(command: type[m.Command]) -> str:
    """A command's method: ``payment.charge``."""
    return f"{STEP_OF[command].service}.{m.type_name(command).partition('.')[0]}"


def order_from(order: Order) -> m.Order:
    """The domain's order in a call."""
    lines = tuple(m.Line(line.sku, line.quantity) for line in order.lines)
    return m.Order(order.order_id, order.customer, order.card, order.ship_to, lines, order.amount_cents)


def answer_to(event: m.Event) -> dict[str, Any]:
    """The result that says ``event``; its order is the domain's."""
    reason = {"reason": event.reason} if isinstance(event, m.Refusal) else {}
    return {"type": m.type_name(type(event)), "order": event.order, **reason}


def document(steps: Iterable[Step]) -> dict[str, Any]:
    """The methods of ``steps``. The errors are those that JSON-RPC itself defines, and so none is listed."""
    _, schemas = models_json_schema([(Order, "validation"), (Answer, "validation")], ref_template=f"{_REF}{{model}}")
    root = spec.SpecRoot(
        spec.Info("Antiphon: the participants of an order", "1"),
        spec.Components(schemas=schemas["$defs"]),
        [_method(step, command) for step in steps for command in (step.do, step.undo) if command is not None],
    )
    return asdict(root, dict_factory=lambda members: {name: value for name, value in members if value is not UNSET})


def _method(step: Step, command: type[m.Command]) -> spec.MethodInfo:
    events = (step.done, step.refused) if command is step.do else (step.undone,)
    types = [m.type_name(event) for event in events if event is not None]
    result: Any = {"allOf": [{"$ref": f"{_REF}Answer"}], "properties": {"type": {"enum": types}}}
    return spec.MethodInfo(
        name=method(command),
        summary=m.type_name(command).replace(".", " ").capitalize(),
        tags=[spec.Tag(step.service)],
        params=[spec.ContentDescriptor("order", {"$ref": f"{_REF}Order"}, required=True)],
        result=spec.ContentDescriptor("event", result, summary=" or ".join(types)),
    )
