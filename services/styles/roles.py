"""What a conversation is written in terms of: the roles that a style's functions are handed.

A style never sees a broker's or a server's insides, only who can be asked and what can be said.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.domain.messages import Command, Event
from services.domain.order import OrderState
from services.transports import Port
from services.transports.ports import Message, Rpc


class Participant(Protocol):
    """One of inventory, payment, shipping, notifications, while it handles one message."""

    service: str

    async def do(self, command: Command, *, cause: str) -> Event:
        """Carry ``command`` out, once: the answer that ``cause`` (a message's id) led to before is given again."""

    async def say(self, payload: Command | Event, *, channel: str, to: Message) -> None:
        """Publish what ``to`` led to; returns when the broker has it."""


class Desk(Protocol):
    """Orders: the owner of an order's state."""

    async def record(self, order_id: str, event: Event, *, cause: str | None = None) -> OrderState:
        """Fold ``event`` into the order, durably; a second hearing of ``cause`` changes nothing."""


async def fold(desk: Desk, heard: Message) -> None:
    """What orders does with an event in every conversation that nobody waits for: write it down."""
    assert isinstance(heard.payload, Event)
    await desk.record(heard.subject, heard.payload, cause=heard.id)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that accepting an order makes, to be sent by the outbox."""

    channel: str
    payload: Command | Event


@dataclass(frozen=True, slots=True)
class Style:
    """Who speaks to whom and when: a whole conversation, all its roles.

    A synchronous style has ``converse`` (the caller waits for its end); an asynchronous one has ``opening`` (what
    accepting an order says), ``participate`` and ``conclude`` (what the others and orders do with what they hear)
    and ``topology`` (who hears what). ``ports`` are what it needs, one transport each; ``default`` names them.
    """

    name: str
    cell: str
    ports: tuple[Port, ...]
    default: str
    summary: str
    converse: Callable[[OrderState, Rpc, Desk, float], Awaitable[OrderState]] | None = None
    opening: Callable[[OrderState], list[Outgoing]] | None = None
    participate: Callable[[Participant, Message], Awaitable[None]] | None = None
    conclude: Callable[[Desk, Message], Awaitable[None]] | None = None
    topology: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def synchronous(self) -> bool:
        return self.converse is not None
