"""Every conversation, held without wires in any order in which its messages may come: how it ends, and what it leaves.

``Rehearsal`` draws what comes next; Hypothesis draws for it. No delivery is ever lost here, but any may be late, and
any may come again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.domain import messages as m
from services.domain.order import STEPS, Slot
from services.domain.participants import DECISIONS
from services.domain.quotes import CARRIERS
from services.styles import STYLES
from services.styles.rehearsal import Rehearsal
from tests.domain.strategies import FATES, make_order, orders

every_style = pytest.mark.parametrize("name", STYLES)
every_fate = pytest.mark.parametrize("fate", FATES)
WOKEN = ("publish_async_responses", "orchestration")
"""The styles that set an alarm."""

EXCEPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "notification": "completes an order whose customer cannot be reached: nobody who called hears of that",
        "publish_async_responses": "rejects an order for which no carrier is to be had, be it that none takes it or "
        "that none has answered when the alarm rings",
        "orchestration": "rejects an order whose participant has not answered when the alarm rings",
    }
)
"""Where a style may end an order otherwise than choreography does with the same order, and why."""


@dataclass(frozen=True)
class Course:
    """How things go: which of the things that could happen next does, and what comes a second time. When it is used
    up, things go in order and come once."""

    picks: tuple[int, ...] = ()
    again: tuple[bool, ...] = ()
    silent: frozenset[str] = frozenset()
    early: int = 0
    """How often an alarm may ring although messages are on their way."""


courses = st.builds(
    Course,
    picks=st.lists(st.integers(0, 11), max_size=40).map(tuple),
    again=st.lists(st.booleans(), max_size=25).map(tuple),
    silent=st.frozensets(st.sampled_from(sorted(CARRIERS))),
)
some_answer = courses.filter(lambda course: len(course.silent) < len(CARRIERS))


@dataclass
class _Script:
    course: Course
    picks: Iterator[int] = field(init=False)
    again: Iterator[bool] = field(init=False)

    def __post_init__(self) -> None:
        self.picks, self.again = iter(self.course.picks), iter(self.course.again)

    def pick(self, choices: int) -> int:
        return next(self.picks, 0) % choices

    def once_more(self) -> bool:
        return next(self.again, False)


class Watched(Rehearsal):
    """Remembers what had been done when the verdict was reached."""

    by_then: tuple[type[m.Command], ...] = ()

    def _fold(self, event: m.Event) -> None:
        before = self.end
        super()._fold(event)
        if self.end and not before:
            self.by_then = tuple(self.effects)


def hold(name: str, order: m.Order, course: Course = Course()) -> Watched:
    """The conversation, once nothing is left to happen. It never waits for anything."""
    script = _Script(course)
    held = Watched(STYLES[name], order, script.pick, script.once_more, silent=course.silent, early=course.early)
    try:
        held.hold().send(None)
    except StopIteration:
        return held
    raise AssertionError(f"{name} waits for something that is not in the rehearsal")


def refused(order: m.Order) -> set[str]:
    """The steps that say no to ``order``."""
    return {step.name for step in STEPS if step.do and type(DECISIONS[step.do](step.do(order))) is step.refused}


def expected(name: str, order: m.Order, course: Course = Course()) -> str:
    """What choreography makes of ``order`` when all goes well, or what ``EXCEPTIONS`` says instead."""
    if name == "notification" and refused(order) == {"notification"}:
        return "completed"
    if name == "publish_async_responses" and len(course.silent) == len(CARRIERS):
        return "rejected"
    return hold("choreography", order).end


def assert_nothing_was_done_twice(held: Watched) -> None:
    assert len(held.effects) == len(set(held.effects)), held.effects
    for step in STEPS:
        if step.undo in held.effects:
            assert held.effects.index(step.undo) > held.effects.index(step.do), "taken back before it was done"


def assert_what_stands_agrees(held: Watched) -> None:
    """After ``rejected`` nothing stands that could be taken back, after ``completed`` everything; and each slot says
    what was done."""
    refuses = refused(held.order)
    one_way = held.style.name == "notification"
    for step in STEPS:
        done, undone = step.do in held.effects, step.undo in held.effects
        slot = held.state.slots[step.name]
        if held.end == "completed":
            assert (done, undone) == (not (one_way and step.name in refuses), False), step.name
        elif step.undo is not None:
            assert done == undone, f"{step.name} stands in an order that was rejected"
            assert (step.do in held.by_then) == (step.undo in held.by_then), "rejected, it said, before it was so"
        if one_way and step.name == "notification":
            assert slot is (Slot.DONE if held.end == "completed" else Slot.PENDING)
        else:
            assert (slot is Slot.DONE) == (done and not undone), step.name
        if undone:
            assert slot is Slot.COMPENSATED
        if slot is Slot.REFUSED:
            assert step.name in refuses
    assert held.state.verdict.value == held.end, "what was heard after the end is another end"


# --- one end for all --------------------------------------------------------------------------------------------------
@given(orders(), courses, courses)
@example(FATES["nothing"], Course(), Course())
@example(FATES["notification"], Course(), Course())
def test_orchestration_and_choreography_bring_every_order_to_the_same_end_on_the_same_inputs(
    order: m.Order, one: Course, other: Course
) -> None:
    """Somebody in charge or nobody, whatever the order in which messages come and however often: the same verdict, and
    the same effects stand."""
    orchestrated, danced = hold("orchestration", order, one), hold("choreography", order, other)
    assert orchestrated.end == danced.end != ""
    assert set(orchestrated.effects) == set(danced.effects)
    assert orchestrated.state.reason == danced.state.reason


@every_style
@every_fate
def test_a_style_ends_an_order_as_choreography_does_when_all_goes_in_order(name: str, fate: str) -> None:
    """Each fate by itself; a step that was never asked for says nothing."""
    held = hold(name, FATES[fate])
    assert held.end == expected(name, FATES[fate])
    assert (held.end == "completed") == (fate == "nothing" or (name, fate) == ("notification", "notification"))
    assert_nothing_was_done_twice(held)
    assert_what_stands_agrees(held)


@every_style
@settings(max_examples=75)
@given(order=orders(), course=some_answer)
def test_however_its_messages_come_a_conversation_ends_alike(name: str, order: m.Order, course: Course) -> None:
    """In any order, any of them several times, some carriers silent: the same end as in order and once."""
    held = hold(name, order, course)
    assert held.end == expected(name, order, course)
    assert_nothing_was_done_twice(held)
    assert_what_stands_agrees(held)


@given(order=orders(), course=courses)
def test_where_no_carrier_answers_the_order_is_rejected(order: m.Order, course: Course) -> None:
    """The alarm ends the waiting, and nothing has been done yet."""
    silent = Course(course.picks, course.again, frozenset(CARRIERS))
    held = hold("publish_async_responses", order, silent)
    assert held.end == "rejected" == expected("publish_async_responses", order, silent)
    assert held.effects == []
    assert held.state.reason == "3 did not answer in time"


@pytest.mark.parametrize("name", WOKEN)
@given(order=orders(), course=courses, early=st.integers(1, 6))
def test_an_alarm_that_rings_too_early_costs_an_order_and_nothing_else(
    name: str, order: m.Order, course: Course, early: int
) -> None:
    """An order that would have completed may be rejected then; but none that is refused completes, nothing is done
    twice, and nothing stands in the end."""
    held = hold(name, order, Course(course.picks, course.again, course.silent, early))
    assert held.end in {"rejected", expected(name, order, course)}
    assert_nothing_was_done_twice(held)
    assert_what_stands_agrees(held)


def test_an_early_alarm_does_cost_an_order() -> None:
    """Guards the test above it: there is a course of which it speaks, for each style that sets an alarm."""
    for name in WOKEN:
        last = Course(picks=(99,) * 40, early=6)  # whatever could ring, does
        held = hold(name, FATES["nothing"], last)
        assert held.early < 6, "no alarm rang"
        ends = {hold(name, FATES["nothing"], Course((0,) * n + (11,), early=1)).end for n in range(12)}
        assert "rejected" in ends | {held.end}


def test_only_the_exceptions_ever_end_an_order_otherwise() -> None:
    """The table is complete, and has nothing in it that does not happen. An order that is more than any carrier takes
    is one that only whoever asks them finds out."""
    too_many = make_order()
    too_many = m.Order("o-1", "c-1", too_many.card, "Lisbon", (m.Line("tea", 1001),), 450 * 1001)
    found = set()
    for name in STYLES:
        for order in (*FATES.values(), too_many):
            plain = hold(name, order)
            pushed = [hold(name, order, Course((0,) * n + (11,) * 9, early=4)) for n in range(12)]
            if {plain.end, *(held.end for held in pushed)} != {hold("choreography", order).end}:
                found.add(name)
    assert found == set(EXCEPTIONS)
    assert hold("publish_async_responses", too_many).end == "rejected"
    assert hold("publish_async_responses", too_many).effects == []


# --- what is said -----------------------------------------------------------------------------------------------------
@every_style
@every_fate
def test_what_comes_again_leads_to_nothing_new(name: str, fate: str) -> None:
    """Each of the first twenty messages twice: nobody says anything that was not said before, to anybody."""
    once = hold(name, FATES[fate])
    twice = hold(name, FATES[fate], Course(again=(True, False) * 20))
    assert set(twice.said) == set(once.said)
    assert (twice.end, twice.effects) == (once.end, once.effects)


@every_style
def test_everything_that_is_said_is_heard_by_somebody(name: str) -> None:
    """A channel without a group would be a letter to nobody; and every channel is used by some order."""
    style = STYLES[name]
    said = {(each.port, each.channel) for fate in FATES.values() for each in hold(name, fate).said}
    assert said == {(port, channel) for port, topology in style.topology.items() for channel in topology}
    for port, channel in said:
        assert style.topology[port][channel]


@given(order=orders(), course=some_answer)
def test_the_carrier_that_was_chosen_does_not_depend_on_who_was_quicker(order: m.Order, course: Course) -> None:
    """All who answer are heard, so the quote that the order goes with follows from who they are."""
    answering = Course(silent=course.silent)
    chosen = [_chosen(hold("publish_async_responses", order, each)) for each in (course, answering)]
    assert chosen[0] == chosen[1]


def _chosen(held: Watched) -> str | None:
    answers = [answer for answer in held._memory["answers"] if answer["type"] != "quote.declined"]
    wanted = [a for a in answers if a["type"] == "quote.offered"] or answers
    assert bool(wanted) == (held.state.slots["quote"] is Slot.DONE)
    return min((a["price_cents"], a["carrier"]) for a in wanted)[1] if wanted else None
