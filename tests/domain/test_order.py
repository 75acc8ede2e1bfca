"""The two tables, and the folding of whatever is heard."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import messages as m
from services.domain.order import (
    AT_ONCE,
    HEARD,
    IN_TURN,
    PAYMENT_FIRST,
    QUOTE,
    QUOTE_FIRST,
    STEP_OF,
    STEPS,
    TRANSITIONS,
    OrderState,
    Plan,
    Slot,
    Step,
    Verdict,
    chain,
    evolve,
    fold,
    next_command,
    place,
    recovery_command,
)
from tests.domain.strategies import FATES, PLANS, events, make_event, make_order, orders, plans

ORDER = make_order()
CLIMB = list(Slot)
HEARABLE = [Slot.REFUSED, Slot.DONE, Slot.COMPENSATED]


every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
TURNS = {name: plan for name, plan in PLANS.items() if plan is not AT_ONCE}
every_chain = pytest.mark.parametrize("plan", TURNS.values(), ids=TURNS)


def steps_of(plan: Plan) -> list[Step]:
    return [step for stage in plan for step in stage]


def all_states(plan: Plan) -> Iterator[OrderState]:
    """Every combination of slots that hearing anything, in any order, can lead to."""
    steps = steps_of(plan)
    reachable = [
        [Slot.PENDING, *(slot for slot in HEARABLE if slot is not Slot.COMPENSATED or step.undo)] for step in steps
    ]
    for slots in itertools.product(*reachable):
        yield OrderState(ORDER, dict(zip((step.name for step in steps), slots, strict=True)), plan=plan)


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


def test_every_message_but_the_announcements_and_the_quotes_belongs_to_one_step() -> None:
    """No other command or event is without a step, and none has two."""
    announced = {m.OrderPlaced, m.OrderCancelled, m.QuoteRequested}
    quoted = {m.QuoteOffered, m.QuoteCountered, m.QuoteDeclined}
    assert set(STEP_OF) == set(m.MESSAGES.values()) - announced - quoted
    steps = (*STEPS, QUOTE)
    named = [t for s in steps for t in (s.do, s.done, s.refused, s.undo, s.undone) if t is not None]
    assert len(named) == len(set(named))
    assert set(HEARD) == {m.NotificationDispatched, *(t for t in named if issubclass(t, m.Event))}


def test_a_plan_has_every_step_once() -> None:
    """Four of them, in stages; the quote is no step of those that command each."""
    for name, plan in PLANS.items():
        steps = steps_of(plan)
        assert sorted(step.name for step in steps if step is not QUOTE) == sorted(step.name for step in STEPS)
        assert steps.count(QUOTE) == (plan is QUOTE_FIRST), name
        assert len({step.name for step in steps}) == len(steps)
    assert [[step.name for step in stage] for stage in PAYMENT_FIRST] == [
        *(["payment"], ["stock"], ["shipment"], ["notification"])
    ]
    assert [list(stage) for stage in IN_TURN] == [[step] for step in STEPS]
    assert [list(stage) for stage in AT_ONCE] == [list(STEPS)]
    assert list(QUOTE_FIRST[0]) == [QUOTE]


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


@given(st.data(), orders(), plans)
def test_events_in_any_order_and_number_fold_to_the_same_state(data: st.DataObject, order: m.Order, plan: Plan) -> None:
    """Fan-out and at-least-once delivery may permute and repeat: the state is that of the set of events."""
    heard = data.draw(st.lists(events(order), max_size=12))
    again = data.draw(st.lists(st.sampled_from(heard), max_size=12)) if heard else []
    shuffled = data.draw(st.permutations([*heard, *again]))
    assert fold(order, shuffled, plan) == fold(order, heard, plan)


@given(st.data())
def test_conversations_may_be_interleaved(data: st.DataObject) -> None:
    """One stream that carries several orders, each with a plan of its own, gives each the state that it would have had
    alone."""
    placed = {order_id: data.draw(orders(order_id)) for order_id in ("o-1", "o-2", "o-3")}
    planned = {order_id: data.draw(plans) for order_id in placed}
    apart = {order_id: data.draw(st.lists(events(order), max_size=8)) for order_id, order in placed.items()}
    stream = data.draw(st.permutations([event for heard in apart.values() for event in heard]))

    together: dict[str, OrderState] = {
        order_id: place(order, planned[order_id])[0] for order_id, order in placed.items()
    }
    for event in stream:
        order_id = event.order.order_id
        together[order_id] = evolve(together[order_id], event)

    assert together == {order_id: fold(placed[order_id], heard, planned[order_id]) for order_id, heard in apart.items()}


@given(st.data(), orders(), plans)
def test_no_sequence_leads_out_of_the_table(data: st.DataObject, order: m.Order, plan: Plan) -> None:
    """After anything at all: the plan's own slots, each in ``Slot`` and none lower than before; a verdict."""
    state, _ = place(order, plan)
    for event in data.draw(st.lists(events(order), max_size=20)):
        after = evolve(state, event)
        assert list(after.slots) == [step.name for step in steps_of(plan)]
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


@every_plan
def test_verdicts(plan: Plan) -> None:
    """Completed: all is done. Rejected: something failed, and no effect stands or may still be heard of."""
    stage_of = {step.name: number for number, stage in enumerate(plan) for step in stage}
    for state in all_states(plan):
        slots = dict(state.slots)
        failed = Slot.REFUSED in slots.values() or Slot.COMPENSATED in slots.values()
        heard_until = max((stage_of[name] for name, slot in slots.items() if slot is not Slot.PENDING), default=-1)
        stands = any(slots[step.name] is Slot.DONE for step in steps_of(plan) if step.undo)
        to_come = any(slot is Slot.PENDING and stage_of[name] <= heard_until for name, slot in slots.items())
        assert (state.verdict is Verdict.COMPLETED) == (set(slots.values()) == {Slot.DONE})
        assert (state.verdict is Verdict.REJECTED) == (failed and not stands and not to_come)


@pytest.mark.parametrize(
    ("plan", "refused"),
    [pytest.param(plan, step, id=f"{name}, {step.name}") for name, plan in PLANS.items() for step in steps_of(plan)],
)
def test_a_refusal_that_overtakes_the_steps_before_it_does_not_end_the_order(plan: Plan, refused: Step) -> None:
    """Each service has its own channel, so a refusal may be heard before what it came after, or before what was asked
    for at the same time. Until those steps are heard and taken back the order has not ended: ``rejected`` is not said
    and then taken back."""
    asked = [stage for stage in plan if refused not in stage][: [refused in stage for stage in plan].index(True)]
    others = [step for stage in (*asked, *(stage for stage in plan if refused in stage)) for step in stage]
    others.remove(refused)
    before = [make_event(ORDER, step.done) for step in others]
    refusal = make_event(ORDER, refused.refused)
    undone = [make_event(ORDER, step.undone) for step in others if step.undone]
    for heard in itertools.permutations(before):
        state = evolve(place(ORDER, plan)[0], refusal)
        for event in [*heard, *undone]:
            assert state.verdict is Verdict.ACCEPTED
            state = evolve(state, event)
        assert state.verdict is Verdict.REJECTED


# --- every order can end -----------------------------------------------------------------------------------


@every_plan
@pytest.mark.parametrize("first", [next_command, recovery_command])
def test_every_order_can_end(first, plan: Plan) -> None:
    """From every state there is, whatever the participants answer, obeying the next command (or, once, the
    recovery command) ends the order, and asks for nothing twice. Nobody can be told to quote: that is said, and once
    a carrier was chosen or none was found, the order goes on."""
    for start in all_states(plan):
        todo = [(start, first, [])]
        while todo:
            state, advise, asked = todo.pop()
            if state.slots.get("quote") is Slot.PENDING and not (state.failed and state.standing):
                with pytest.raises(ValueError, match="nobody can be told to do quote"):
                    advise(state)
                quoted = [make_event(ORDER, kind) for kind in (m.CarrierChosen, m.CarrierNotFound)]
                todo += [(evolve(state, event), next_command, asked) for event in quoted]
                continue
            command = advise(state)
            if command is None:
                assert state.verdict is not Verdict.ACCEPTED
                _assert_nothing_stands_unless_completed(state)
                continue
            assert state.verdict is Verdict.ACCEPTED
            assert type(command) not in asked
            assert command.order is ORDER
            todo += [(evolve(state, answer), next_command, [*asked, type(command)]) for answer in answers_to(command)]


def _assert_nothing_stands_unless_completed(state: OrderState) -> None:
    for step in state.steps:
        if state.verdict is Verdict.COMPLETED:
            assert state.slots[step.name] is Slot.DONE
        elif step.undo is not None:
            assert state.slots[step.name] is not Slot.DONE


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (IN_TURN, ["stock", "payment", "shipment", "notification"]),
        (PAYMENT_FIRST, ["payment", "stock", "shipment", "notification"]),
        (QUOTE_FIRST, ["stock", "payment", "shipment", "notification"]),
    ],
    ids=TURNS,
)
def test_the_way_forward_and_the_way_back(plan: Plan, names: list[str]) -> None:
    """Forward in the order of the plan; back in the reverse order."""
    steps = [next(step for step in STEPS if step.name == name) for name in names]
    quoted = [make_event(ORDER, m.CarrierChosen)] if plan is QUOTE_FIRST else []
    done = [*quoted, *(make_event(ORDER, step.done) for step in steps[:3])]
    start = len(quoted)
    forward = [type(next_command(fold(ORDER, done[: start + n], plan))) for n in range(4)]
    assert forward == [step.do for step in steps]

    failed = [*done, m.NotificationRefused(ORDER, "no")]
    undone = [make_event(ORDER, step.undone) for step in reversed(steps[:3])]
    back = [type(next_command(fold(ORDER, [*failed, *undone[:n]], plan))) for n in range(4)]
    assert back == [*(step.undo for step in reversed(steps[:3])), type(None)]


@every_chain
def test_the_chain_says_what_somebody_in_charge_would_ask_for_next(plan: Plan) -> None:
    """Whoever follows the events and whoever folds the order's state go the same way, forward and back."""
    for refused in [None, *steps_of(plan)]:
        state, event = place(ORDER, plan)
        heard: m.Event = event
        said = []
        if plan[0][0] is QUOTE:
            heard = make_event(ORDER, m.CarrierNotFound if refused is QUOTE else m.CarrierChosen)
            state = evolve(state, heard)
        while (command := next_command(state)) is not None:
            assert chain(plan)[type(heard)] is type(command)
            said.append(type(command))
            done, no, *_ = [*answers_to(command), None]
            heard = no if no is not None and STEP_OF[type(command)] is refused else done
            state = evolve(state, heard)
        assert type(heard) not in chain(plan)
        assert state.verdict is (Verdict.COMPLETED if refused is None else Verdict.REJECTED)
        assert len(said) == len(set(said))


def test_what_is_asked_for_at_once_does_not_follow_from_one_another() -> None:
    """There is no chain of such a plan, and that is said."""
    with pytest.raises(ValueError, match="asked for at once"):
        chain(AT_ONCE)


def test_a_step_that_is_not_in_the_plan_changes_nothing() -> None:
    """A carrier that was chosen says nothing of an order that is not quoted."""
    state, _ = place(ORDER)
    assert evolve(state, make_event(ORDER, m.CarrierChosen)) == state
    assert evolve(state, make_event(ORDER, m.CarrierNotFound)) == state


def test_a_notification_that_was_dispatched_is_as_good_as_one_that_arrived() -> None:
    """One-way: nobody will say more, so the order does not wait for it. What is heard later changes nothing."""
    done = [m.StockReserved(ORDER), m.PaymentCharged(ORDER), m.ShipmentBooked(ORDER)]
    state = fold(ORDER, [*done, m.NotificationDispatched(ORDER)])
    assert state.verdict is Verdict.COMPLETED
    assert evolve(state, m.NotificationRefused(ORDER, "no")).verdict is Verdict.COMPLETED


def test_recovery_takes_back_the_unknown_step() -> None:
    """Whose answer is unknown is taken back; the notification, which cannot be, is asked for again."""
    done = [m.StockReserved(ORDER), m.PaymentCharged(ORDER), m.ShipmentBooked(ORDER)]
    asked = [type(recovery_command(fold(ORDER, done[:n]))) for n in range(4)]
    assert asked == [m.ReleaseStock, m.RefundPayment, m.CancelShipment, m.NotifyCustomer]
    assert recovery_command(fold(ORDER, [*done, m.CustomerNotified(ORDER)])) is None


def test_the_fates_cover_every_refusal() -> None:
    """Guards the tests below it: an order for each step that can be refused, and one for none."""
    assert set(FATES) == {"nothing", *(step.name for step in STEPS)}
