"""The domain's messages in Slice (antiphon.ice) and back, field by field: explicit, and strict on the way in.

Importing this needs Ice for Python (its 3.7 API).
"""

from typing import Any

import Ice

from services.contracts.events import answer, made
from services.contracts.generated import antiphon_ice
from services.contracts.validity import check
from services.domain.messages import Command, Event, Line, Order, type_name

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
    return Antiphon.Event(type_name(type(event)), order_to(event.order), getattr(event, "reason", Ice.Unset))


def event_from(sent: Any, command: Command) -> Event:
    """The event in an answer to ``command``; None is an answer, too, to Ice. Raises ``ValueError``."""
    if sent is None:
        raise ValueError("event: is missing")
    event_type, order = answer(sent.type, command), order_from(sent.order)
    return made(event_type, order, lambda name: None if getattr(sent, name) is Ice.Unset else getattr(sent, name))
