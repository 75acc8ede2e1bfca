"""A style's conversation about one order, held by its roles alone: no wire, no database, no clock.

What comes next is the rehearsal's to choose, so that a conversation can be held in any order of deliveries, with any of
them repeated, with any alarm too early. The AsyncAPI document is made of what is said in it, and the tests prove with
it that every style brings every order to the same end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.domain.messages import Command, Event, Order, QuoteRequested
from services.domain.order import STEP_OF, OrderState, Slot, evolve, place
from services.domain.participants import DECISIONS, known_answer, settle
from services.domain.quotes import quote
from services.styles.roles import NO_ALARM, Heard, Next, Outgoing, Style
from services.transports import Port, cloudevents
from services.transports.ports import Message

MOST = 500
"""Deliveries after which a conversation that does not end is given up."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """``sender`` says ``message`` into ``channel``, which leaves by ``port``; an answer is wanted on ``reply_to``."""

    sender: str
    port: Port
    channel: str
    message: type[Command | Event]
    reply_to: str = ""


@dataclass(frozen=True, slots=True)
class _Waiting:
    group: str
    port: Port
    message: Message


def _first(_: int) -> int:
    return 0


@dataclass
class Rehearsal:
    """``pick`` chooses among so many things that could happen next. ``settings`` are the live ones. ``again`` says
    whether a message is delivered once more (asked after each delivery)."""

    style: Style
    order: Order
    pick: Callable[[int], int] = _first
    again: Callable[[], bool] = lambda: False
    settings: Mapping[str, Any] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    """Carriers that do not answer."""
    early: int = 2
    """How often an alarm may ring although messages are on their way."""

    said: list[Exchange] = field(init=False, default_factory=list)
    effects: list[type[Command]] = field(init=False, default_factory=list)
    """What was done, in the order in which it was done; refused commands are not in it."""
    state: OrderState = field(init=False)
    end: str = field(init=False, default="")
    """The verdict that was reached first."""

    def __post_init__(self) -> None:
        self.state, self._placed = place(self.order, self.style.plan)
        self._waiting: list[_Waiting] = []
        self._slots: dict[str, tuple[Slot, str | None]] = {}
        self._answers: dict[tuple[str, str], Event] = {}
        self._heard: set[str] = set()
        self._memory: Mapping[str, Any] = {}
        self._alarm = False

    async def hold(self) -> "Rehearsal":
        """From the placing of the order until nothing is left to happen."""
        if self.style.converse is not None:
            await self.style.converse(self.state, self, self, 1.0)
        elif self.style.pursue is not None:
            await self.style.pursue(self.state, self)
        else:
            self._turn(self._placed)
        await self._until(lambda: False)
        return self

    async def _until(self, enough: Callable[[], bool]) -> None:
        for _ in range(MOST):
            if enough() or not await self._step():
                return
        raise AssertionError(f"{self.style.name}: the conversation does not end ({self.state})")

    async def _step(self) -> bool:
        alarm = self._alarm and not self.end and (self.early > 0 or not self._waiting)
        choices = len(self._waiting) + alarm
        if not choices:
            return False
        chosen = self.pick(choices)
        if chosen == len(self._waiting):
            self._alarm = False
            self.early -= 1
            self._turn(None)
            return True
        waiting = self._waiting.pop(chosen)
        if self.again():
            self._waiting.append(waiting)
        message = waiting.message
        if waiting.group == "orders":
            if message.id not in self._heard:
                self._heard.add(message.id)
                assert isinstance(message.payload, Event)
                self._turn(message.payload)
        elif waiting.group != "ledger":
            assert self.style.participate is not None
            await self.style.participate(_Actor(self, waiting.group, waiting.port), message)
        return True

    # --- orders -------------------------------------------------------------------------------------------------------
    def _turn(self, event: Event | None) -> None:
        before = self.state
        if event is not None:
            self._fold(event)
        if self.style.orders is None:
            return
        following = self.style.orders(Heard(event, before, self.state, self._memory, self._setting))
        self._memory = self._memory if following.memory is None else following.memory
        self._alarm = self._alarm if following.alarm_s is None else following.alarm_s != NO_ALARM
        for own in following.record:
            self._fold(own)
        self._send(following)

    def _setting(self, name: str) -> Any:
        return self.settings.get(name, 1.0)

    def _fold(self, event: Event) -> None:
        self.state = evolve(self.state, event)
        if not self.end and self.state.verdict.value != "accepted":
            self.end = self.state.verdict.value

    def _send(self, following: Next) -> None:
        for outgoing in following.say:
            self.tell("orders", outgoing, cause=self.order.order_id)

    async def record(self, order_id: str, event: Event, *, say: tuple[Outgoing, ...] = ()) -> OrderState:
        assert order_id == self.order.order_id
        self._fold(event)
        self._send(Next(say=say))
        return self.state

    async def ask(self, state: OrderState, command: Command, *, channel: str, reply_to: str) -> OrderState:
        step = STEP_OF[type(command)]
        self.tell("orders", Outgoing(channel, command, reply_to=reply_to), cause=self.order.order_id)
        await self._until(lambda: self.state.slots[step.name] is not state.slots[step.name])
        return self.state

    # --- everybody ----------------------------------------------------------------------------------------------------
    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        assert peer == STEP_OF[type(command)].service, timeout_s
        return self.carry_out(command, f"call/{type(command).__name__}")

    def carry_out(self, command: Command, cause: str) -> Event:
        """By the domain's rules, once per order and step."""
        step = STEP_OF[type(command)]
        if known := self._answers.get((step.service, cause)):
            return known
        slot, reason = self._slots.get(step.name, (Slot.PENDING, None))
        event = known_answer(slot, command, reason)
        if event is None:
            event = DECISIONS[type(command)](command)
            if type(event) is not step.refused:
                self.effects.append(type(command))
        self._slots[step.name] = (settle(slot, event), getattr(event, "reason", reason))
        self._answers[step.service, cause] = event
        return event

    def tell(self, sender: str, outgoing: Outgoing, *, cause: str, correlation_id: str = "") -> None:
        """Publish: a copy for each group that hears the channel."""
        port = outgoing.port or next(port for port in self.style.ports if port is not Port.RPC)
        message = cloudevents.compose(
            outgoing.payload,
            source=sender,
            cause=cause,
            style=self.style.name,
            transport="",
            reply_to=outgoing.reply_to,
            correlation_id=correlation_id,
        )
        self.said.append(Exchange(sender, port, outgoing.channel, type(outgoing.payload), outgoing.reply_to))
        groups = sorted(self.style.topology[port][outgoing.channel])
        self._waiting += [
            _Waiting(group, port, message)
            for group in groups
            if group != sender and self.style.wants(group, message.type)
        ]

    # an Rpc that serves nobody
    name = "rehearsal"

    async def serve(self, service: str, handler: Any) -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Actor:
    """A ``roles.Participant`` in a rehearsal."""

    held: Rehearsal
    service: str
    port: Port

    async def do(self, command: Command, *, cause: str) -> Event:
        assert STEP_OF[type(command)].service == self.service, f"{command} is not for {self.service}"
        return self.held.carry_out(command, cause)

    async def quote(self, request: QuoteRequested) -> Event | None:
        name = self.service.removeprefix("carrier-")
        return None if name in self.held.silent else quote(name, request)

    async def say(self, payload: Command | Event, *, channel: str, to: Message) -> None:
        self.held.tell(self.service, Outgoing(channel, payload, self.port), cause=to.id, correlation_id=to.id)
