"""The domain's messages as Protobuf (antiphon.proto) and back, field by field: explicit, and strict on the way in."""

from typing import Any

from google.protobuf.message import DecodeError

from services.contracts.events import answer, made
from services.contracts.generated import antiphon_pb2 as pb
from services.contracts.validity import check
from services.domain.messages import Command, Event, Line, Order, type_name


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
    sent = message.order
    lines = tuple(Line(line.sku, line.quantity) for line in sent.lines)
    order = Order(sent.order_id, sent.customer, sent.card, sent.ship_to, lines, sent.amount_cents)
    check(order)
    return order


def event_to(event: Event) -> Any:
    return pb.Event(
        type=type_name(type(event)),
        order=order_to(event.order),
        reason=getattr(event, "reason", None),
        carrier=getattr(event, "carrier", None),
        price_cents=getattr(event, "price_cents", None),
        days=getattr(event, "days", None),
    )


def event_from(message: Any, command: Command) -> Event:
    """The event in an answer to ``command``. Raises ``ValueError``."""
    return _event(message, answer(message.type, command))


def _event(message: Any, event_type: type[Event]) -> Event:
    order = order_from(message)
    return made(event_type, order, lambda name: getattr(message, name) if message.HasField(name) else None)


def dumps(payload: Command | Event) -> bytes:
    """A message's payload: an Event, or a Command, whose name is the message's."""
    message = event_to(payload) if isinstance(payload, Event) else pb.Command(order=order_to(payload.order))
    data: bytes = message.SerializeToString()
    return data


def loads(message_type: type[Command | Event], body: bytes) -> Command | Event:
    """The reverse of ``dumps``. Raises ``ValueError``."""
    try:
        message = (pb.Command if issubclass(message_type, Command) else pb.Event).FromString(body)
    except DecodeError as error:
        raise ValueError(f"no Protobuf: {error}") from None
    if issubclass(message_type, Command):
        return message_type(order_from(message))
    if message.type != type_name(message_type):
        raise ValueError(f"type: {message.type[:60]!r} is another")
    return _event(message, message_type)
