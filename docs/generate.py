"""The pages of docs/ that come from tables in the code: `make docs` writes them, a test compares them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from docs import chart_values, transports
from services.domain import catalog
from services.domain import messages as m
from services.domain.order import STEPS, TRANSITIONS, OrderState, Slot, evolve, next_command, place
from services.domain.order import Step as OrderStep
from services.runtime.live import SETTINGS

DOCS = Path(__file__).parent
LINES = (m.Line("tea", 1),)
ORDER = m.Order("o-1", "c-1", "4242424242424242", "Lisbon", LINES, catalog.amount_cents(LINES))


def slot_diagram() -> str:
    """What can become of a slot. What is heard and changes nothing is left out."""
    changes = [(was, heard, now) for (was, heard), now in TRANSITIONS.items() if now is not was]
    return mermaid([f"[*] --> {Slot.PENDING}", *(f"{was} --> {now} : {heard}" for was, heard, now in changes)])


def conversation_diagram() -> str:
    """Every way that an order takes step by step, from `place` to a verdict."""
    edges = [f"[*] --> {state_name(place(ORDER)[0])} : {m.OrderPlaced.__name__}"]
    ends: list[str] = []
    for state, answer, after in conversation(place(ORDER)[0]):
        edges.append(f"{state_name(state)} --> {state_name(after)} : {type(answer).__name__}")
        if next_command(after) is None:
            ends.append(f"{state_name(after)} --> [*] : {after.verdict}")
    return mermaid([*edges, *dict.fromkeys(ends)])


def conversation(state: OrderState) -> Iterator[tuple[OrderState, m.Event, OrderState]]:
    """Each (state, answer, state after it) that obeying `next_command` leads through, depth first."""
    command = next_command(state)
    if command is None:
        return
    step = next(step for step in STEPS if type(command) in {step.do, step.undo})
    for answer in answers(step, command):
        after = evolve(state, answer)
        yield state, answer, after
        yield from conversation(after)


def answers(step: OrderStep, command: m.Command) -> list[m.Event]:
    """All that may be answered to `command`."""
    if type(command) is step.do:
        return [step.done(command.order), step.refused(command.order, "")]
    return [step.undone(command.order)] if step.undone else []


def state_name(state: OrderState) -> str:
    """The slots in the order of the steps, one letter each: drpp is done, refused, pending, pending."""
    return "".join(state.slots[step.name][0] for step in STEPS)


def step_table() -> str:
    """The steps, as a Markdown table."""
    rows: list[tuple[str, ...]] = [
        ("step", "service", "do", "done", "refused", "undo", "undone"),
        ("---",) * 7,
    ]
    rows += [(step.name, step.service, *(f"`{t.__name__}`" if t else "-" for t in messages_of(step))) for step in STEPS]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def messages_of(step: OrderStep) -> list[type | None]:
    """In the order of the table's columns."""
    return [step.do, step.done, step.refused, step.undo, step.undone]


def mermaid(lines: list[str]) -> str:
    """A state diagram that GitHub and most Markdown viewers draw."""
    body = "\n".join(f"    {line}" for line in lines)
    return f"```mermaid\nstateDiagram-v2\n{body}\n```"


def order_states() -> str:
    """docs/order-states.md."""
    return f"""# The states of an order

<!-- Written by `make docs` from services/domain/order.py. Do not edit. -->

An order has one slot per step and a verdict. Both follow from the tables `STEPS` and `TRANSITIONS` in
`services/domain/order.py`.

## The steps

{step_table()}

A service turns a command (`do`, `undo`) into an event (`done`, `refused`, `undone`). A notification cannot
be taken back, which is why it comes last.

## The life of a slot

An arrow is what is heard of the step; what changes nothing is left out. A slot only climbs,
`{" < ".join(Slot)}`, so events may arrive in any order and more than once: the slots end
up the same ([ADR 007](adr/007-slots-as-a-join.md)).

{slot_diagram()}

## The verdict

The verdict is computed from the slots and not stored on its own.

- `completed`: every slot is `done`.
- `rejected`: a slot is `refused` or `compensated`, and nothing is left to take back: no step that can be
  undone is `done`, and none is still `pending` although a later step was heard.
- `accepted`: everything else; the order is on its way, forward or back.

## One order, step by step

Every path of a conversation that asks for one step at a time (`next_command`), as `request_response` does.
A state is written as its four slots: `p`ending, `r`efused, `d`one, `c`ompensated. Where events travel on
channels of their own, the front door may hear them in another order, and arrives at the same last state.

{conversation_diagram()}
"""


def settings() -> str:
    """docs/settings.md."""
    rows = [f"| `{s.name}` | {s.default} | {s.sentence} |" for s in SETTINGS.values()]
    table = "\n".join(["| setting | default | |", "| --- | --- | --- |", *rows])
    return f"""# Settings at run time

<!-- Written by `make docs` from services/runtime/live.py. Do not edit. -->

They belong to orders, and every process asks for them each second. While orders is away the last known values
hold. Units stand in the names.

{table}

`lab settings` shows and changes them, as does `GET` and `PUT /settings` on orders' admin port, which wants the
token that `lab up` generates.
"""


PAGES: dict[str, Callable[[], str]] = {
    "order-states.md": order_states,
    "settings.md": settings,
    "chart-values.md": chart_values.page,
    "transports.md": transports.page,
}
"""Each generated page of docs/ and the function that gives its text."""


if __name__ == "__main__":
    for name, text in PAGES.items():
        (DOCS / name).write_text(text())
        print(f"docs/{name}")
