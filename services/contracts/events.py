"""What events say beside their order, and which of them answer a call: what the codecs have in common."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from services.contracts.validity import check_quote
from services.domain.messages import MESSAGES, Command, Event, Order, Quote, type_name
from services.domain.order import STEP_OF, STEPS

ANSWERS: Mapping[str, type[Event]] = {
    type_name(event): event for step in STEPS for event in (step.done, step.refused, step.undone) if event is not None
}
"""By name: what participants answer to calls. All other events travel as messages only."""

MEMBERS: Mapping[type[Event], tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind) if field.name != "order")
    for kind in MESSAGES.values()
    if issubclass(kind, Event)
}
"""The fields beside the order: a refusal has its reason, a quote its terms."""


def answers(name: str, command: Command) -> bool:
    """Whether a participant may answer ``command`` with the message called ``name``."""
    return name in ANSWERS and STEP_OF[ANSWERS[name]] is STEP_OF[type(command)]


def answer(name: str, command: Command) -> type[Event]:
    """The event called ``name``. Raises ``ValueError`` if no participant answers ``command`` with it."""
    if not answers(name, command):
        raise ValueError(f"type: {name[:60]!r} is no answer to {type_name(type(command))}")
    return ANSWERS[name]


def made(event_type: type[Event], order: Order, sent: Callable[[str], Any]) -> Event:
    """The event. ``sent`` gives a field that came, None for one that did not. Raises ``ValueError`` with the field that
    is wrong."""
    said = {name: sent(name) for name in MEMBERS[event_type]}
    for name, value in said.items():
        if value is None:
            raise ValueError(f"{name}: is missing")
    event = event_type(order, **said)
    if isinstance(event, Quote):
        check_quote(event)
    return event
