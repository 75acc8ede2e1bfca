"""What a conversation is written in terms of: the roles that a style's functions are handed.

A style never sees a broker's or a server's insides, only who can be asked and what can be said.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.domain.messages import Command, Event, QuoteRequested
from services.domain.order import IN_TURN, OrderState, Plan
from services.transports import Port
from services.transports.ports import Message, Rpc


class Participant(Protocol):
    """Whoever is asked, while it handles one message."""

    @property
    def service(self) -> str:
        """Its name, and its group's."""

    async def do(self, command: Command, *, cause: str) -> Event:
        """Carry ``command`` out, once: the answer that ``cause`` (a message's id) led to before is given again."""

    async def quote(self, request: QuoteRequested) -> Event | None:
        """A carrier's quote; None where it keeps silent."""

    async def say(self, payload: Command | Event, *, channel: str, to: Message) -> None:
        """Publish what ``to`` led to, on the broker that ``to`` came from; returns when the broker has it."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that orders makes, to be sent by the outbox. ``port`` is the one of the style's that it leaves by;
    None for a style that has one broker only. An answer is wanted on the channel ``reply_to``."""

    channel: str
    payload: Command | Event
    port: Port | None = None
    reply_to: str = ""


class Desk(Protocol):
    """Orders: the owner of an order's state."""

    async def record(self, order_id: str, event: Event, *, say: tuple[Outgoing, ...] = ()) -> OrderState:
        """Fold ``event`` into the order, durably. What is said goes out surely, and from then on the conversation goes
        on by messages: nobody else carries it on."""


class Requests(Protocol):
    """Orders as somebody who asks by message and is woken by the answer."""

    async def ask(self, state: OrderState, command: Command, *, channel: str, reply_to: str) -> OrderState:
        """Publish ``command`` and return, once its answer was heard and recorded, the order as it stands then. Waits
        for as long as it takes and asks again now and then, which is harmless."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What orders goes by in a conversation that nobody waits for: the order before and after ``event`` was folded in,
    and what the style noted the last time. ``event`` is ``OrderPlaced`` at the beginning, and None where the alarm
    rang. ``setting`` gives the value of a live setting."""

    event: Event | None
    before: OrderState
    state: OrderState
    memory: Mapping[str, Any]
    setting: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Next:
    """What orders does then: all of it in the transaction that records the event, or nothing.

    ``record`` are events of its own making. ``memory`` (JSON) replaces what was noted, if given. An alarm rings
    ``alarm_s`` from now, in place of one that was set before; None leaves that as it is, and ``NO_ALARM`` takes it off.
    ``late`` says that the answer came when nobody expected it any more.
    """

    say: tuple[Outgoing, ...] = ()
    record: tuple[Event, ...] = ()
    memory: Mapping[str, Any] | None = None
    alarm_s: float | None = None
    late: bool = False


NO_ALARM = math.inf

Topology = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Style:
    """Who speaks to whom and when: a whole conversation, all its roles.

    ``ports`` are what it needs, one transport each; ``default`` names them, comma-separated. ``plan`` is the order in
    which an order's steps are asked for. Orders' side is at least one of

    ``converse``  carried on while the caller waits, by calls
    ``pursue``    carried on after the caller was answered, by requests whose answers wake it
    ``orders``    a pure function of what was heard: nobody carries it on, each message leads to the next

    ``participate`` is everybody else's side. ``topology`` is who hears what on which port; where a channel brings a
    group more than it has a use for, as a journal does, ``wants(group, type)`` says which of it is handled (of one's
    own words nothing ever is).
    """

    name: str
    cell: str
    ports: tuple[Port, ...]
    default: str
    summary: str
    plan: Plan = IN_TURN
    converse: Callable[[OrderState, Rpc, Desk, float], Awaitable[OrderState]] | None = None
    pursue: Callable[[OrderState, Requests], Awaitable[OrderState]] | None = None
    orders: Callable[[Heard], Next] | None = None
    participate: Callable[[Participant, Message], Awaitable[None]] | None = None
    topology: Mapping[Port, Topology] = field(default_factory=dict)
    wants: Callable[[str, str], bool] = lambda _group, _type: True

    @property
    def synchronous(self) -> bool:
        return self.converse is not None

    @property
    def channels(self) -> dict[str, frozenset[str]]:
        """Every channel, on whichever port, and the groups that hear it."""
        return {channel: groups for topology in self.topology.values() for channel, groups in topology.items()}

    def wires(self, transport: str) -> dict[Port, str]:
        """Each port's transport, of the names in ``transport``."""
        return dict(zip(self.ports, transport.split(","), strict=True))

    def broker(self, transport: str, port: Port | None = None) -> str:
        """The name of the broker that a message leaves by."""
        wires = self.wires(transport)
        return wires[port] if port is not None else next(name for p, name in wires.items() if p is not Port.RPC)
