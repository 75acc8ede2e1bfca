"""The two tables, and the folding of whatever is heard."""

import itertools
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import messages as m
from services.domain.order import (
    HEARD,
    STEP_OF,
    STEPS,
    TRANSITIONS,
    OrderState,
    Slot,
    Verdict,
    evolve,
    fold,
    next_command,
    place,
    recovery_command,
)
from tests.domain.strategies import FATES, events, make_event, make_order, orders

ORDER = make_order()
CLIMB = list(Slot)
HEARABLE = [Slot.REFUSED, Slot.DONE, Slot.COMPENSATED]


def all_states() -> Iterator[OrderState]:
    """Every combination of slots that hearing anything, in any order, can lead to."""
    reachable = [
        [Slot.PENDING, *(slot for slot in HEARABLE if slot is not Slot.COMPENSATED or step.undo)] for step in STEPS
    ]
    for slots in itertools.product(*reachable):
        yield OrderState(ORDER, dict(zip((step.name for step in STEPS), slots, strict=True)))


def answers_to(command: m.Command) -> list[m.Event]:
    """All that its addressee may answer."""
    step = STEP_OF[type(command)]
    if type(command) is step.do:
        return [step.done(command.order), step.refused(command.order, "no")]
    assert step.undone is not None
    return [step.undone(command.order)]


# --- the tables --------------------------------------------------------------------------------------------


def test_transitions_are_total() -> None:
    """Whatever a slot is and whatever is heard, the table knows what it is then."""
    assert set(TRANSITIONS) == set(itertools.product(Slot, HEARABLE))
    assert set(TRANSITIONS.values()) <= set(Slot)
    assert set(HEARD.values()) == set(HEARABLE)


def test_a_slot_only_climbs() -> None:
    """The table is the join of the chain pending < refused < done < compensated, in the order of ``Slot``."""
    assert [slot.value for slot in CLIMB] == ["pending", "refused", "done", "compensated"]
    for (was, heard), now in TRANSITIONS.items():
        assert now is max(was, heard, key=CLIMB.index)


def test_every_message_but_the_placing_belongs_to_one_step() -> None:
    """No command or event is without a step, and none has two."""
    assert set(STEP_OF) == set(m.MESSAGES.values()) - {m.OrderPlaced}
    named = [t for s in STEPS for t in (s.do, s.done, s.refused, s.undo, s.undone) if t is not None]
    assert len(named) == len(set(named))
    assert set(HEARD) == {t for t in named if issubclass(t, m.Event)}


def test_what_can_be_undone_says_so() -> None:
    """A step has both a compensation and its event, or neither; only the last has none."""
    for step in STEPS:
        assert (step.undo is None) == (step.undone is None)
    assert [step.name for step in STEPS if step.undo is None] == [STEPS[-1].name]


def test_the_tables_cannot_be_written_to() -> None:
    """A state machine that is changed at run time is none."""
    for table in (TRANSITIONS, STEP_OF, HEARD):
        with pytest.raises(TypeError):
            table[next(iter(table))] = None  # type: ignore[index]


# --- folding -----------------------------------------------------------------------------------------------


@given(st.data(), orders())
def test_events_in_any_order_and_number_fold_to_the_same_state(data: st.DataObject, order: m.Order) -> None:
    """Fan-out and at-least-once delivery may permute and repeat: the state is that of the set of events."""
    heard = data.draw(st.lists(events(order), max_size=12))
    again = data.draw(st.lists(st.sampled_from(heard), max_size=12)) if heard else []
    shuffled = data.draw(st.permutations([*heard, *again]))
    assert fold(order, shuffled) == fold(order, heard)


@given(st.data())
def test_conversations_may_be_interleaved(data: st.DataObject) -> None:
    """One stream that carries several orders gives each the state that it would have had alone."""
    placed = {order_id: data.draw(orders(order_id)) for order_id in ("o-1", "o-2", "o-3")}
    apart = {order_id: data.draw(st.lists(events(order), max_size=8)) for order_id, order in placed.items()}
    stream = data.draw(st.permutations([event for heard in apart.values() for event in heard]))

    together: dict[str, OrderState] = {order_id: place(order)[0] for order_id, order in placed.items()}
    for event in stream:
        order_id = event.order.order_id
        together[order_id] = evolve(together[order_id], event)

    assert together == {order_id: fold(placed[order_id], heard) for order_id, heard in apart.items()}


@given(st.data(), orders())
def test_no_sequence_leads_out_of_the_table(data: st.DataObject, order: m.Order) -> None:
    """After anything at all: the same four slots, each in ``Slot`` and none lower than before; a verdict."""
    state, _ = place(order)
    for event in data.draw(st.lists(events(order), max_size=20)):
        after = evolve(state, event)
        assert list(after.slots) == [step.name for step in STEPS]
        assert all(isinstance(slot, Slot) for slot in after.slots.values())
        assert all(CLIMB.index(after.slots[name]) >= CLIMB.index(slot) for name, slot in state.slots.items())
        assert after.verdict in Verdict
        assert after.order is order
        assert not state.failed or after.failed or _was_done_after_all(state, after)
        state = after


def _was_done_after_all(before: OrderState, after: OrderState) -> bool:
    return any(slot is Slot.REFUSED and after.slots[name] is Slot.DONE for name, slot in before.slots.items())


def test_evolve_leaves_the_old_state_alone() -> None:
    """States are values: whoever holds one keeps what it held."""
    state, placed = place(ORDER)
    assert placed == m.OrderPlaced(ORDER)
    evolve(state, m.StockRefused(ORDER, "no"))
    assert set(state.slots.values()) == {Slot.PENDING}
    assert evolve(state, placed) == state
    assert state.reason is None


def test_the_reason_is_the_earliest_step_that_said_no() -> None:
    """Whichever refusal came first on the wire."""
    refusals = [m.PaymentDeclined(ORDER, "the card was declined"), m.StockRefused(ORDER, "sold out")]
    assert fold(ORDER, refusals).reason == "sold out"
    assert fold(ORDER, reversed(refusals)).reason == "sold out"


# --- verdicts ----------------------------------------------------------------------------------------------


def test_verdicts() -> None:
    """Completed: all is done. Rejected: something failed and no effect stands or may still be heard of."""
    for state in all_states():
        slots = list(state.slots.values())
        failed = Slot.REFUSED in slots or Slot.COMPENSATED in slots
        heard_until = max((i for i, slot in enumerate(slots) if slot is not Slot.PENDING), default=-1)
        open_effect = any(
            slots[i] is Slot.DONE or (slots[i] is Slot.PENDING and i < heard_until)
            for i, step in enumerate(STEPS)
            if step.undo
        )
        assert (state.verdict is Verdict.COMPLETED) == (slots == [Slot.DONE] * len(STEPS))
        assert (state.verdict is Verdict.REJECTED) == (failed and not open_effect)


@pytest.mark.parametrize("refused", [step.name for step in STEPS])
def test_a_refusal_that_overtakes_the_steps_before_it_does_not_end_the_order(refused: str) -> None:
    """Each service has its own channel, so a refusal may be heard before what it came after. Until those
    steps are heard and taken back the order has not ended: ``rejected`` is not said and then taken back."""
    index = [step.name for step in STEPS].index(refused)
    before = [make_event(ORDER, step.done, "") for step in STEPS[:index]]
    refusal = STEPS[index].refused(ORDER, "no")
    undone = [make_event(ORDER, step.undone, "") for step in STEPS[:index] if step.undone]
    for heard in itertools.permutations(before):
        state = evolve(place(ORDER)[0], refusal)
        for event in [*heard, *undone]:
            assert state.verdict is Verdict.ACCEPTED
            state = evolve(state, event)
        assert state.verdict is Verdict.REJECTED


# --- every order can end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [next_command, recovery_command])
def test_every_order_can_end(first) -> None:
    """From every state there is, whatever the participants answer, obeying the next command (or, once, the
    recovery command) ends the order, and asks for nothing twice."""
    for start in all_states():
        todo = [(start, first, [])]
        while todo:
            state, advise, asked = todo.pop()
            command = advise(state)
            if command is None:
                assert state.verdict is not Verdict.ACCEPTED
                _assert_nothing_stands_unless_completed(state.verdict, state.slots)
                continue
            assert state.verdict is Verdict.ACCEPTED
            assert type(command) not in asked
            assert command.order is ORDER
            todo += [(evolve(state, answer), next_command, [*asked, type(command)]) for answer in answers_to(command)]


def _assert_nothing_stands_unless_completed(verdict: Verdict, slots: Mapping[str, Slot]) -> None:
    for step in STEPS:
        if verdict is Verdict.COMPLETED:
            assert slots[step.name] is Slot.DONE
        elif step.undo is not None:
            assert slots[step.name] is not Slot.DONE


def test_the_way_forward_and_the_way_back() -> None:
    """Forward in the order of the steps; back in the reverse order."""
    done = [m.StockReserved(ORDER), m.PaymentCharged(ORDER), m.ShipmentBooked(ORDER)]
    assert [type(next_command(fold(ORDER, done[:n]))) for n in range(4)] == [step.do for step in STEPS]

    failed = [*done, m.NotificationRefused(ORDER, "no")]
    back = [m.ShipmentCancelled(ORDER), m.PaymentRefunded(ORDER), m.StockReleased(ORDER)]
    undo = [m.CancelShipment, m.RefundPayment, m.ReleaseStock, type(None)]
    assert [type(next_command(fold(ORDER, [*failed, *back[:n]]))) for n in range(4)] == undo


def test_recovery_takes_back_the_unknown_step() -> None:
    """Whose answer is unknown is taken back; the notification, which cannot be, is asked for again."""
    done = [m.StockReserved(ORDER), m.PaymentCharged(ORDER), m.ShipmentBooked(ORDER)]
    asked = [type(recovery_command(fold(ORDER, done[:n]))) for n in range(4)]
    assert asked == [m.ReleaseStock, m.RefundPayment, m.CancelShipment, m.NotifyCustomer]
    assert recovery_command(fold(ORDER, [*done, m.CustomerNotified(ORDER)])) is None


def test_the_fates_cover_every_refusal() -> None:
    """Guards the tests below it: an order for each step that can be refused, and one for none."""
    assert set(FATES) == {"nothing", *(step.name for step in STEPS)}
