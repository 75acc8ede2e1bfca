"""The domain's messages in Slice (antiphon.ice) and back, field by field: explicit, and strict on the way in.

Importing this needs Ice for Python (its 3.7 API).
"""

from typing import Any

import Ice

from services.contracts.generated import antiphon_ice
from services.contracts.validity import check
from services.domain.messages import MESSAGES, Command, Event, Line, Order, Refusal, type_name
from services.domain.order import STEP_OF

Antiphon: Any = antiphon_ice._M_Antiphon  # noqa: SLF001
"""The contract's module. Of a name without an underscore slice2py makes only packages that are not below another."""


def order_to(order: Order) -> Any:
    lines = [Antiphon.Line(line.sku, line.quantity) for line in order.lines]
    return Antiphon.Order(order.order_id, order.customer, order.card, order.ship_to, lines, order.amount_cents)


def order_from(order: Any) -> Order:
    """Raises ``ValueError`` with the field that is wrong. That each is there, and of its type, is Ice's work."""
    lines = tuple(Line(line.sku, line.quantity) for line in order.lines)
    made = Order(order.order_id, order.customer, order.card, order.ship_to, lines, order.amount_cents)
    check(made)
    return made


def command_to(command: Command) -> Any:
    return Antiphon.Command(order_to(command.order))


def event_to(event: Event) -> Any:
    reason = event.reason if isinstance(event, Refusal) else Ice.Unset
    return Antiphon.Event(type_name(type(event)), order_to(event.order), reason)


def event_from(answer: Any, command: Command) -> Event:
    """The event in an answer to ``command``; None is an answer, too, to Ice. Raises ``ValueError``."""
    if answer is None:
        raise ValueError("event: is missing")
    event_type = MESSAGES.get(answer.type)
    step = STEP_OF[type(command)]
    if event_type is None or not issubclass(event_type, Event) or STEP_OF.get(event_type) is not step:
        raise ValueError(f"type: {answer.type[:60]!r} is no answer to {type_name(type(command))}")
    order = order_from(answer.order)
    if issubclass(event_type, Refusal):
        if answer.reason is Ice.Unset:
            raise ValueError("reason: is missing")
        return event_type(order, answer.reason)
    return event_type(order)
