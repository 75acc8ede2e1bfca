"""Who says which message where: a style's conversation, found out by holding it.

Nobody writes it down, so nobody can write it down wrong: each role is played with an order that means nothing, once
with every step done and once with every step refused, until nothing new is said. The AsyncAPI document is made of it.
"""

import asyncio
from dataclasses import dataclass, field

from services.domain.messages import Command, Event, Line, Order, type_name
from services.domain.order import STEP_OF, place
from services.styles.roles import Style
from services.transports.ports import Message

_ORDER = Order("o", "c", "0", "x", (Line("x", 1),), 1)


@dataclass(frozen=True, slots=True)
class Exchange:
    """``sender`` says ``message`` into ``channel``."""

    sender: str
    channel: str
    message: type[Command | Event]


def exchanges(style: Style) -> frozenset[Exchange]:
    """All that is said in ``style``; nothing where nobody sends messages."""
    return asyncio.run(_hold(style))


async def _hold(style: Style) -> frozenset[Exchange]:
    if style.opening is None or style.participate is None:
        return frozenset()
    found: set[Exchange] = set()
    new = {Exchange("orders", each.channel, type(each.payload)) for each in style.opening(place(_ORDER)[0])}
    while new:
        found |= new
        said: set[Exchange] = set()
        for heard in new:
            for service in style.topology[heard.channel] - {"orders"}:
                for willing in (True, False):
                    actor = _Actor(service, willing)
                    await style.participate(actor, _message(heard, style))
                    said |= actor.said
        new = said - found
    return frozenset(found)


def _message(heard: Exchange, style: Style) -> Message:
    name = type_name(heard.message)
    return Message("m", heard.sender, name, _ORDER.order_id, "", style.name, "", _said(heard.message))


def _said(message_type: type[Command | Event]) -> Command | Event:
    return message_type(_ORDER, *["no"] * (len(message_type.__dataclass_fields__) - 1))


@dataclass(slots=True)
class _Actor:
    """A ``roles.Participant`` that does nothing and remembers what it was made to say."""

    service: str
    willing: bool
    said: set[Exchange] = field(default_factory=set)

    async def do(self, command: Command, *, cause: str) -> Event:
        step = STEP_OF[type(command)]
        if type(command) is step.do:
            return step.done(_ORDER) if self.willing else step.refused(_ORDER, "no")
        assert step.undone is not None
        return step.undone(_ORDER)

    async def say(self, payload: Command | Event, *, channel: str, to: Message) -> None:
        self.said.add(Exchange(self.service, channel, type(payload)))
