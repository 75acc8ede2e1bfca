"""The life of an order, as data.

Rule 1: everything that decides in which state an order is stands in this file, in the two tables ``STEPS`` and
``TRANSITIONS``. Nothing here reads a clock, makes an id or talks to anyone.

An order has one **slot per step**. A slot only ever climbs ``pending < refused < done < compensated``: the join of
what has been heard, so events may come late, twice and in any order and fold to the same state. ``done`` outranks
``refused`` because an effect that exists has to be seen to be taken back. The verdict is computed from the slots and
never stored on its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType

from services.domain import messages as m


class Slot(StrEnum):
    PENDING = "pending"
    REFUSED = "refused"
    DONE = "done"
    COMPENSATED = "compensated"


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that must happen to an order, who does it, and how it is taken back (if it can be)."""

    name: str
    service: str
    do: type[m.Command]
    done: type[m.Event]
    refused: type[m.Refusal]
    undo: type[m.Command] | None = None
    undone: type[m.Event] | None = None


STEPS: tuple[Step, ...] = (
    Step("stock", "inventory", m.ReserveStock, m.StockReserved, m.StockRefused, m.ReleaseStock, m.StockReleased),
    Step(
        *("payment", "payment", m.ChargePayment, m.PaymentCharged, m.PaymentDeclined),
        *(m.RefundPayment, m.PaymentRefunded),
    ),
    Step(
        *("shipment", "shipping", m.BookShipment, m.ShipmentBooked, m.ShipmentRefused),
        *(m.CancelShipment, m.ShipmentCancelled),
    ),
    Step("notification", "notifications", m.NotifyCustomer, m.CustomerNotified, m.NotificationRefused),
)

TRANSITIONS: Mapping[tuple[Slot, Slot], Slot] = MappingProxyType(
    {
        # (what the slot was, what is heard): what it is
        (Slot.PENDING, Slot.REFUSED): Slot.REFUSED,
        (Slot.PENDING, Slot.DONE): Slot.DONE,
        (Slot.PENDING, Slot.COMPENSATED): Slot.COMPENSATED,  # taken back before it was asked for
        (Slot.REFUSED, Slot.REFUSED): Slot.REFUSED,
        (Slot.REFUSED, Slot.DONE): Slot.DONE,
        (Slot.REFUSED, Slot.COMPENSATED): Slot.COMPENSATED,
        (Slot.DONE, Slot.REFUSED): Slot.DONE,
        (Slot.DONE, Slot.DONE): Slot.DONE,
        (Slot.DONE, Slot.COMPENSATED): Slot.COMPENSATED,
        (Slot.COMPENSATED, Slot.REFUSED): Slot.COMPENSATED,
        (Slot.COMPENSATED, Slot.DONE): Slot.COMPENSATED,
        (Slot.COMPENSATED, Slot.COMPENSATED): Slot.COMPENSATED,
    }
)

STEP_OF: Mapping[type[m.Command | m.Event], Step] = MappingProxyType(
    {t: step for step in STEPS for t in (step.do, step.done, step.refused, step.undo, step.undone) if t is not None}
)

HEARD: Mapping[type[m.Event], Slot] = MappingProxyType(
    {
        **{step.done: Slot.DONE for step in STEPS},
        **{step.refused: Slot.REFUSED for step in STEPS},
        **{step.undone: Slot.COMPENSATED for step in STEPS if step.undone is not None},
    }
)
"""What an event says of its step's slot."""


def _chain() -> dict[type[m.Event], type[m.Command]]:
    chain: dict[type[m.Event], type[m.Command]] = {m.OrderPlaced: STEPS[0].do}
    for step, following in pairwise(STEPS):
        chain[step.done] = following.do
        assert step.undo is not None
        chain[following.refused] = step.undo
        if following.undone is not None:
            chain[following.undone] = step.undo
    return chain


CHAIN: Mapping[type[m.Event], type[m.Command]] = MappingProxyType(_chain())
"""Step by step, without anyone in charge: what has to be done after an event. Forward through the steps; from one that
was refused, backward through what was done. An event that is not in it ends the order."""

_UNTOUCHED: Mapping[str, Slot] = MappingProxyType({step.name: Slot.PENDING for step in STEPS})


@dataclass(frozen=True, slots=True)
class OrderState:
    """An order and how far it has come: one slot per step (all four, always) and each refusal's reason."""

    order: m.Order
    slots: Mapping[str, Slot] = field(default_factory=lambda: _UNTOUCHED)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        if all(slot is Slot.DONE for slot in self.slots.values()):
            return Verdict.COMPLETED
        if self.failed and not self.standing:
            return Verdict.REJECTED
        return Verdict.ACCEPTED

    @property
    def failed(self) -> bool:
        """A step was refused or taken back: the order can only end ``rejected``."""
        return any(slot in {Slot.REFUSED, Slot.COMPENSATED} for slot in self.slots.values())

    @property
    def reason(self) -> str | None:
        """Why it was refused: the reason of the earliest step that said no."""
        return next((self.reasons[step.name] for step in STEPS if step.name in self.reasons), None)

    @property
    def standing(self) -> tuple[Step, ...]:
        """The steps that have to be taken back if the order fails: what is done, and what is still pending though a
        later step was heard (services have a channel each, so a refusal may overtake the steps that led to it)."""
        last = max((i for i, step in enumerate(STEPS) if self.slots[step.name] is not Slot.PENDING), default=-1)
        return tuple(
            step
            for i, step in enumerate(STEPS)
            if step.undo is not None
            and (self.slots[step.name] is Slot.DONE or (self.slots[step.name] is Slot.PENDING and i < last))
        )


def place(order: m.Order) -> tuple[OrderState, m.OrderPlaced]:
    """A new order: nothing has been done yet, and everybody may hear of it."""
    return OrderState(order), m.OrderPlaced(order)


def evolve(state: OrderState, event: m.Event) -> OrderState:
    """``state`` after ``event`` was heard. Order and number of hearings do not matter."""
    if type(event) not in HEARD:
        return state
    name = STEP_OF[type(event)].name
    slot = TRANSITIONS[state.slots[name], HEARD[type(event)]]
    reasons = state.reasons
    if isinstance(event, m.Refusal):
        reasons = {**reasons, name: min(event.reason, reasons.get(name, event.reason))}
    return replace(state, slots={**state.slots, name: slot}, reasons=reasons)


def fold(order: m.Order, events: Iterable[m.Event]) -> OrderState:
    state, _ = place(order)
    for event in events:
        state = evolve(state, event)
    return state


def next_command(state: OrderState) -> m.Command | None:
    """What a conversation that goes step by step must ask for next; None when the order has ended.

    Forward through the pending steps; once a step has failed, backward through what stands.
    """
    if state.verdict is not Verdict.ACCEPTED:
        return None
    if state.failed:
        return _undo(state.standing[-1], state.order)
    pending = next(step for step in STEPS if state.slots[step.name] is Slot.PENDING)
    return pending.do(state.order)


def recovery_command(state: OrderState) -> m.Command | None:
    """What brings a step-by-step conversation that broke off to its end; None when the order has ended.

    The step that was being asked for is *unknown*: it may have been carried out and the answer lost. It is taken
    back (harmless where it never was), and the rest after it. Only the notification, which nobody can take back,
    is asked for again instead.
    """
    command = next_command(state)
    if command is None or state.failed:
        return command
    return _undo(STEP_OF[type(command)], state.order) if STEP_OF[type(command)].undo else command


def _undo(step: Step, order: m.Order) -> m.Command:
    if step.undo is None:
        raise ValueError(f"{step.name} cannot be taken back")
    return step.undo(order)
