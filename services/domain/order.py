"""The life of an order, as data.

Rule 1: everything that decides in which state an order is stands in this file, in the tables ``STEPS``,
``TRANSITIONS`` and the four plans. Nothing here reads a clock, makes an id or talks to anyone.

An order has a **plan**, the stages in which its steps are asked for, and one **slot per step** of it. A slot only ever
climbs ``pending < refused < done < compensated``: the join of what has been heard, so events may come late, twice and
in any order and fold to the same state. ``done`` outranks ``refused`` because an effect that exists has to be seen to
be taken back. The verdict is computed from the slots and never stored on its own.
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
    do: type[m.Command] | None
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
"""What the four participants do, in the order in which it is done where one thing follows another."""

QUOTE = Step("quote", "carrier", None, m.CarrierChosen, m.CarrierNotFound)
"""Nobody is commanded to quote: several are asked, and orders chooses."""

Plan = tuple[tuple[Step, ...], ...]
"""The stages of an order, one after another; the steps of a stage are asked for at once."""

_STOCK, _PAYMENT, _SHIPMENT, _NOTIFICATION = STEPS
IN_TURN: Plan = tuple((step,) for step in STEPS)
AT_ONCE: Plan = (STEPS,)
PAYMENT_FIRST: Plan = ((_PAYMENT,), (_STOCK,), (_SHIPMENT,), (_NOTIFICATION,))
QUOTE_FIRST: Plan = ((QUOTE,), *IN_TURN)

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
    {
        **{
            t: step
            for step in (*STEPS, QUOTE)
            for t in (step.do, step.done, step.refused, step.undo, step.undone)
            if t is not None
        },
        m.NotificationDispatched: _NOTIFICATION,
    }
)

HEARD: Mapping[type[m.Event], Slot] = MappingProxyType(
    {
        **{step.done: Slot.DONE for step in (*STEPS, QUOTE)},
        **{step.refused: Slot.REFUSED for step in (*STEPS, QUOTE)},
        **{step.undone: Slot.COMPENSATED for step in STEPS if step.undone is not None},
        m.NotificationDispatched: Slot.DONE,
    }
)
"""What an event says of its step's slot."""


def chain(plan: Plan) -> Mapping[type[m.Event], type[m.Command]]:
    """Stage by stage, without anyone in charge: what has to be done after an event. Forward through the plan; from a
    step that was refused, backward through what was done. An event that is not in it ends the order. Raises ValueError
    for a plan that asks for several steps at once."""
    if any(len(stage) != 1 for stage in plan):
        raise ValueError("steps that are asked for at once do not follow from one another")
    steps = [step for (step,) in plan]
    follows: dict[type[m.Event], type[m.Command]] = {}
    if steps[0].do is not None:
        follows[m.OrderPlaced] = steps[0].do
    for step, following in pairwise(steps):
        assert following.do is not None
        follows[step.done] = following.do
        if step.undo is None:
            continue
        follows[following.refused] = step.undo
        if following.undone is not None:
            follows[following.undone] = step.undo
    return MappingProxyType(follows)


CHAIN = chain(IN_TURN)


@dataclass(frozen=True, slots=True)
class OrderState:
    """An order and how far it has come: one slot per step of its plan (always all) and each refusal's reason."""

    order: m.Order
    slots: Mapping[str, Slot] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    plan: Plan = IN_TURN

    def __post_init__(self) -> None:
        if not self.slots:
            object.__setattr__(self, "slots", dict.fromkeys((step.name for step in self.steps), Slot.PENDING))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of its plan, in the order of the plan."""
        return tuple(step for stage in self.plan for step in stage)

    @property
    def verdict(self) -> Verdict:
        if all(slot is Slot.DONE for slot in self.slots.values()):
            return Verdict.COMPLETED
        if self.failed and not self.standing and not self.awaited:
            return Verdict.REJECTED
        return Verdict.ACCEPTED

    @property
    def failed(self) -> bool:
        """A step was refused or taken back: the order can only end ``rejected``."""
        return any(slot in {Slot.REFUSED, Slot.COMPENSATED} for slot in self.slots.values())

    @property
    def reason(self) -> str | None:
        """Why it was refused: the reason of the earliest step that said no."""
        return next((self.reasons[step.name] for step in self.steps if step.name in self.reasons), None)

    @property
    def awaited(self) -> tuple[Step, ...]:
        """The steps that were asked for, as far as can be told, and of which nothing was heard: the pending ones of
        the last stage that was heard of, and of those before it (services have a channel each, so a refusal may
        overtake the steps that led to it)."""
        heard = [n for n, stage in enumerate(self.plan) if any(self.slots[s.name] is not Slot.PENDING for s in stage)]
        reached = self.plan[: heard[-1] + 1] if heard else ()
        return tuple(step for stage in reached for step in stage if self.slots[step.name] is Slot.PENDING)

    @property
    def standing(self) -> tuple[Step, ...]:
        """The steps that have to be taken back if the order fails: what is done, and what is awaited."""
        awaited = self.awaited
        return tuple(
            step
            for step in self.steps
            if step.undo is not None and (self.slots[step.name] is Slot.DONE or step in awaited)
        )


def place(order: m.Order, plan: Plan = IN_TURN) -> tuple[OrderState, m.OrderPlaced]:
    """A new order: nothing has been done yet, and everybody may hear of it."""
    return OrderState(order, plan=plan), m.OrderPlaced(order)


def evolve(state: OrderState, event: m.Event) -> OrderState:
    """``state`` after ``event`` was heard. Order and number of hearings do not matter."""
    if type(event) not in HEARD or STEP_OF[type(event)] not in state.steps:
        return state
    name = STEP_OF[type(event)].name
    slot = TRANSITIONS[state.slots[name], HEARD[type(event)]]
    reasons = state.reasons
    if isinstance(event, m.Refusal):
        reasons = {**reasons, name: min(event.reason, reasons.get(name, event.reason))}
    return replace(state, slots={**state.slots, name: slot}, reasons=reasons)


def fold(order: m.Order, events: Iterable[m.Event], plan: Plan = IN_TURN) -> OrderState:
    state, _ = place(order, plan)
    for event in events:
        state = evolve(state, event)
    return state


def next_command(state: OrderState) -> m.Command | None:
    """What a conversation that goes step by step must ask for next; None when the order has ended.

    Forward through the pending steps; once a step has failed, backward through what stands, and to what cannot be taken
    back but may have been done. Raises ValueError where it is a quote that is missing.
    """
    if state.verdict is not Verdict.ACCEPTED:
        return None
    if state.failed and state.standing:
        return _undo(state.standing[-1], state.order)
    pending = next(step for step in state.steps if state.slots[step.name] is Slot.PENDING)
    if pending.do is None:
        raise ValueError(f"nobody can be told to do {pending.name}")
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
