"""The domain's messages as Protobuf (antiphon.proto) and back, field by field: explicit, and strict on the way in."""

from typing import Any

from services.contracts.generated import antiphon_pb2 as pb
from services.domain.messages import MESSAGES, Command, Event, Line, Order, Refusal, type_name
from services.domain.order import STEP_OF


def order_to(order: Order) -> Any:
    return pb.Order(
        order_id=order.order_id,
        customer=order.customer,
        card=order.card,
        ship_to=order.ship_to,
        lines=[pb.Line(sku=line.sku, quantity=line.quantity) for line in order.lines],
        amount_cents=order.amount_cents,
    )


def order_from(message: Any) -> Order:
    """The order of a Command or an Event. Raises ``ValueError`` with the field that is wrong: what is missing arrives
    as empty or zero in Protobuf."""
    if not message.HasField("order"):
        raise ValueError("order: is missing")
    order = message.order
    if not order.order_id:
        raise ValueError("order.order_id: is missing or empty")
    if not order.lines:
        raise ValueError("order.lines: is missing or empty")
    for index, line in enumerate(order.lines):
        if line.quantity < 1:
            raise ValueError(f"order.lines.{index}.quantity: is missing or less than 1")
    lines = tuple(Line(line.sku, line.quantity) for line in order.lines)
    return Order(order.order_id, order.customer, order.card, order.ship_to, lines, order.amount_cents)


def event_to(event: Event) -> Any:
    reason = event.reason if isinstance(event, Refusal) else None
    return pb.Event(type=type_name(type(event)), order=order_to(event.order), reason=reason)


def event_from(message: Any, command: Command) -> Event:
    """The event in an answer to ``command``. Raises ``ValueError``."""
    event_type = MESSAGES.get(message.type)
    if event_type is None or STEP_OF.get(event_type) is not STEP_OF[type(command)]:
        raise ValueError(f"type: {message.type[:60]!r} is no answer to {type_name(type(command))}")
    order = order_from(message)
    if issubclass(event_type, Refusal):
        if not message.HasField("reason"):
            raise ValueError("reason: is missing")
        return event_type(order, message.reason)
    assert issubclass(event_type, Event)
    return event_type(order)
