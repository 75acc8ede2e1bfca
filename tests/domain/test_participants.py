"""What the participants decide and remember, and what becomes of a conversation that breaks off anywhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import catalog, participants
from services.domain import messages as m
from services.domain.order import (
    STEP_OF,
    STEPS,
    OrderState,
    Slot,
    Verdict,
    evolve,
    next_command,
    place,
    recovery_command,
)
from services.domain.participants import known_answer, settle
from tests.domain.strategies import FATES, orders

DECIDE: Mapping[type[m.Command], Callable[..., m.Event]] = MappingProxyType(
    {
        m.ReserveStock: participants.reserve,
        m.ReleaseStock: participants.release,
        m.ChargePayment: participants.charge,
        m.RefundPayment: participants.refund,
        m.BookShipment: participants.book,
        m.CancelShipment: participants.cancel,
        m.NotifyCustomer: participants.notify,
    }
)
COMMANDS = list(DECIDE)
ORDER = FATES["nothing"]


# --- decisions ---------------------------------------------------------------------------------------------


@given(orders(), st.sampled_from(COMMANDS))
def test_a_decision_is_an_answer_to_its_command(order: m.Order, command_type: type[m.Command]) -> None:
    """Asked to do: done or refused, always the same. Asked to take back: taken back, and never a refusal."""
    answer = DECIDE[command_type](command_type(order))
    step = STEP_OF[command_type]
    expected = (step.done, step.refused) if command_type is step.do else (step.undone,)
    assert type(answer) in expected
    assert answer.order is order
    assert answer == DECIDE[command_type](command_type(order))
    if isinstance(answer, m.Refusal):
        assert answer.reason


@pytest.mark.parametrize("fate", FATES)
def test_each_refusal_can_be_asked_for(fate: str) -> None:
    """For each step there is an order that it alone refuses."""
    refused = {step.name for step in STEPS if type(DECIDE[step.do](step.do(FATES[fate]))) is step.refused}
    assert refused == {fate} - {"nothing"}


def test_a_refusal_says_what_is_wrong() -> None:
    """A sentence for people, which names the article or the place; and never the card."""
    assert participants.reserve(m.ReserveStock(FATES["stock"])).reason == "unicorn is out of stock"
    assert participants.book(m.BookShipment(FATES["shipment"])).reason == "no carrier goes to Atlantis"
    declined = participants.charge(m.ChargePayment(FATES["payment"]))
    assert declined.reason == "the card was declined"
    assert not any(card in declined.reason for card in catalog.ALWAYS_DECLINED)


# --- memory ------------------------------------------------------------------------------------------------


@dataclass
class Participant:
    """What storage must do: keep one slot per order and the refusal's reason. And the effects, to count."""

    slot: Slot = Slot.PENDING
    reason: str | None = None
    effects: list[type[m.Command]] = field(default_factory=list)

    def handle(self, command: m.Command) -> m.Event:
        answer = known_answer(self.slot, command, self.reason)
        if answer is None:
            answer = DECIDE[type(command)](command)
            if isinstance(answer, m.Refusal):
                self.reason = answer.reason
            else:
                self.effects.append(type(command))
        self.slot = settle(self.slot, answer)
        return answer


@given(st.sampled_from(sorted(FATES)), st.sampled_from(STEPS), st.lists(st.booleans(), max_size=8))
def test_a_participant_does_nothing_twice(fate: str, step, requests: list[bool]) -> None:
    """Any sequence of asking (True) and taking back (False): at most one effect, and one way back for it."""
    order, participant = FATES[fate], Participant()
    for forward in requests:
        command_type = step.do if forward or step.undo is None else step.undo
        command = command_type(order)
        answer = participant.handle(command)
        repeated = participant.handle(command)
        assert repeated == answer
    assert participant.effects in ([], [step.do], [step.do, step.undo])
    assert (participant.effects == [step.do]) == (participant.slot is Slot.DONE)


@pytest.mark.parametrize("step", [step for step in STEPS if step.undo], ids=lambda step: step.name)
def test_taking_back_what_never_was_leaves_a_tombstone(step) -> None:
    """The command that was overtaken by its own compensation finds it, and has no effect."""
    participant = Participant()
    assert type(participant.handle(step.undo(ORDER))) is step.undone
    assert participant.slot is Slot.COMPENSATED
    assert type(participant.handle(step.do(ORDER))) is step.undone
    assert participant.effects == []


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_refusal_is_remembered_with_its_reason(step) -> None:
    """Asked again, a participant gives the answer that it gave, not another decision."""
    command = step.do(ORDER)
    assert known_answer(Slot.REFUSED, command, "it rained") == step.refused(ORDER, "it rained")
    assert known_answer(Slot.REFUSED, command) == step.refused(ORDER, "refused")


@pytest.mark.parametrize("command_type", COMMANDS)
@pytest.mark.parametrize("slot", Slot)
def test_every_slot_answers_every_command(slot: Slot, command_type: type[m.Command]) -> None:
    """Settled or still to do; only a notification that was taken back makes no sense, and that is said."""
    step = STEP_OF[command_type]
    command = command_type(ORDER)
    if slot is Slot.COMPENSATED and step.undo is None:
        with pytest.raises(ValueError, match="notification cannot be compensated"):
            known_answer(slot, command)
        return
    answer = known_answer(slot, command)
    to_do = Slot.PENDING if command_type is step.do else Slot.DONE
    assert (answer is None) == (slot is to_do)
    if answer is not None:
        assert STEP_OF[type(answer)] is step
        assert known_answer(settle(slot, answer), command) == answer


# --- conversations that break off --------------------------------------------------------------------------

ANSWERED, NOT_DELIVERED, ANSWER_LOST, LATE = "answered", "not delivered", "answer lost", "late"


@given(
    st.sampled_from(sorted(FATES)),
    st.lists(st.sampled_from([ANSWERED, ANSWERED, NOT_DELIVERED, ANSWER_LOST, LATE]), max_size=16),
)
def test_a_broken_conversation_is_brought_to_its_end(fate: str, luck: list[str]) -> None:
    """Each call may be answered, get lost before or after it was handled, or arrive when all is over.
    Recovery takes over after each loss, and may break off too. When it ends nothing stands unless the order
    is completed, nothing was done twice, and a command that arrives late changes nothing."""
    order = FATES[fate]
    state, _ = place(order)
    peers = {step.service: Participant() for step in STEPS}
    late: list[m.Command] = []
    broken_off = False
    for what in [*luck, *[ANSWERED] * 2 * len(STEPS)]:
        command = recovery_command(state) if broken_off else next_command(state)
        if command is None:
            break
        broken_off = what is not ANSWERED
        peer = peers[STEP_OF[type(command)].service]
        if what is ANSWERED:
            state = evolve(state, peer.handle(command))
        elif what is ANSWER_LOST:
            peer.handle(command)
        elif what is LATE:
            late.append(command)
    for command in late:
        peers[STEP_OF[type(command)].service].handle(command)

    assert state.verdict is not Verdict.ACCEPTED
    if fate != "nothing":
        assert state.verdict is Verdict.REJECTED
    _assert_the_effects_agree(state, peers)


def _assert_the_effects_agree(state: OrderState, peers: Mapping[str, Participant]) -> None:
    for step in STEPS:
        effects = peers[step.service].effects
        if state.verdict is Verdict.COMPLETED:
            assert effects == [step.do]
        elif step.undo is not None:
            assert effects in ([], [step.do, step.undo])
        else:
            assert effects == []


@pytest.mark.parametrize("fate", FATES)
def test_an_unbroken_conversation(fate: str) -> None:
    """What happens when nothing goes wrong: forward, and back from a refusal, each once."""
    order = FATES[fate]
    state, _ = place(order)
    peers = {step.service: Participant() for step in STEPS}
    while (command := next_command(state)) is not None:
        state = evolve(state, peers[STEP_OF[type(command)].service].handle(command))
    assert state.verdict is (Verdict.COMPLETED if fate == "nothing" else Verdict.REJECTED)
    assert (state.reason is None) == (fate == "nothing")
    _assert_the_effects_agree(state, peers)
