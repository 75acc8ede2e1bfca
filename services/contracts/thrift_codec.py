"""The domain's messages as Thrift's structs (antiphon.thrift) and back, field by field: explicit, and strict on the way
in. What is missing arrives as None; a field of another type than the contract's is one that is missing.
"""

from types import ModuleType
from typing import Any, NamedTuple

from services.contracts.events import answer, made
from services.contracts.generated.antiphon_thrift import Inventory, Notifications, Payment, Shipping
from services.contracts.generated.antiphon_thrift import ttypes as t
from services.contracts.validity import check
from services.domain.messages import Command, Event, Line, Order, type_name
from services.domain.order import STEPS

_SERVICES: dict[str, ModuleType] = {
    "inventory": Inventory,
    "payment": Payment,
    "shipping": Shipping,
    "notifications": Notifications,
}


class Method(NamedTuple):
    """A method of the contract; ``arguments`` and ``result`` are what its two messages hold (Thrift RPC)."""

    service: str
    name: str
    command: type[Command]
    arguments: type[Any]
    result: type[Any]

    @property
    def full_name(self) -> str:
        return f"antiphon.{self.service}/{self.name}"


def _method(service: str, command: type[Command]) -> Method:
    module, name = _SERVICES[service], type_name(command).partition(".")[0]
    return Method(
        service.capitalize(), name, command, getattr(module, f"{name}_args"), getattr(module, f"{name}_result")
    )


METHODS: dict[type[Command], Method] = {
    command: _method(step.service, command) for step in STEPS for command in (step.do, step.undo) if command is not None
}


def command_to(command: Command) -> Any:
    """What the command's method is called with."""
    return METHODS[type(command)].arguments(t.Command(order_to(command.order)))


def command_from(method: Method, arguments: Any) -> Command:
    """The command that ``method`` was called with. Raises ``ValueError`` with the field that is wrong."""
    return method.command(order_from(_given(arguments.command, "command").order))


def order_to(order: Order) -> Any:
    lines = [t.Line(line.sku, line.quantity) for line in order.lines]
    return t.Order(order.order_id, order.customer, order.card, order.ship_to, lines, order.amount_cents)


def order_from(sent: Any) -> Order:
    """Raises ``ValueError`` with the field that is wrong."""
    _whole(sent, "order")
    for index, line in enumerate(sent.lines):
        _whole(line, f"order.lines.{index}")
    lines = tuple(Line(line.sku, line.quantity) for line in sent.lines)
    order = Order(sent.order_id, sent.customer, sent.card, sent.ship_to, lines, sent.amount_cents)
    check(order)
    return order


def event_to(event: Event) -> Any:
    return t.Event(type_name(type(event)), order_to(event.order), getattr(event, "reason", None))


def event_from(sent: Any, command: Command) -> Event:
    """The event in an answer to ``command``. Raises ``ValueError``."""
    event_type = answer(_given(sent.type, "type"), command)
    return made(event_type, order_from(sent.order), lambda name: getattr(sent, name))


def _whole(struct: Any, path: str) -> None:
    """Every field of it is there; the generated classes list them."""
    _given(struct, path)
    for field in filter(None, struct.thrift_spec):
        _given(getattr(struct, field[2]), f"{path}.{field[2]}")


def _given(value: Any, path: str) -> Any:
    if value is None:
        raise ValueError(f"{path}: is missing")
    return value
