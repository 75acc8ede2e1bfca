"""The pages of docs/ that come from tables in the code: `make docs` writes them, a test compares them."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from docs import chart_values, styles, transports
from services.domain import catalog
from services.domain import messages as m
from services.domain.order import STEPS, TRANSITIONS, OrderState, Slot, evolve, next_command, place
from services.domain.order import Step as OrderStep
from services.runtime.faults import FAULTS, SERVICES
from services.runtime.live import SETTINGS
from services.runtime.values import shown
from services.styles import STYLES

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
    rows = [f"| `{s.name}` | {shown(s.default)} | {s.sentence} |" for s in SETTINGS.values()]
    table = "\n".join(["| setting | default | |", "| --- | --- | --- |", *rows])
    return f"""# Settings at run time

<!-- Written by `make docs` from services/runtime/live.py. Do not edit. -->

They belong to orders, and every process asks for them each second. While orders is away the last known values
hold. Units stand in the names.

{table}

`lab settings` shows and changes them, as does `GET` and `PUT /settings` on orders' admin port, which wants the
token that `lab up` generates. [Faults](faults.md) are settings, too.
"""


def faults() -> str:
    """docs/faults.md."""
    everybody = max((knob.services for knob in FAULTS.values()), key=len)
    rows = [
        f"| `{knob.name}` | {shown(knob.default)} | {knob.acts} | {knob.sentence}"
        f"{'' if knob.services == everybody else f' For {_codes(knob.services)}.'} |"
        for knob in FAULTS.values()
    ]
    table = "\n".join(["| knob | default | acts at | |", "| --- | --- | --- | --- |", *rows])
    return f"""# Faults

<!-- Written by `make docs` from services/runtime/faults.py. Do not edit. -->

A fault is a setting that is off. `lab fault set payment.delay_ms=800` switches one on while the lab runs and returns
when every process goes by it, mostly within two seconds; `lab fault list` shows what is on, `lab fault clear` ends it.

Its name is `<service>.<knob>`, or `<service>.<style>.<knob>` for the conversations of one style; the narrower counts,
also to leave one style out (`payment.choreography.delay_ms=0`). A rate is a share from 0 to 1, a switch is `on` or
`off`.

{table}

Services: {_codes(SERVICES)}. `carrier` is every carrier that has no knob of its own set.

Styles: {_codes(STYLES)}.

## Where a knob acts

- **handler**: where a service handles a message or a call, before it begins or when it is done. Whose conversation a
  call belongs to is known by its baggage, a message's by the message.
- **decision**: where a participant would decide what to do about a command. What takes something back is never refused.
- **publish**: where a message leaves for its broker. Spans and metrics tell of one that is lost there that it was sent.
- **consumer**: where a subscription takes a message in hand and settles it.
- **outbox**: where orders sends what it has accepted.

They wrap handlers and brokers; the domain knows nothing of them. Probes, `/metrics` and `/settings` never meet one.

## What can be seen of them

Their effects, and nothing else: no log line, span, metric or Kubernetes object names a fault that is on. Who looks for
the cause of trouble has to find it in the traces.

## Chance

The same `faults.seed` decides the same for the same ids of messages and orders: `error_rate` meets the same share of
them again, `refuse_rate` refuses the same orders however often they are asked. What is tried again has a chance of its
own each time, or a rate of 0.5 would fail half of the messages for ever. Orders get random ids, so two runs of the lab
agree in the shares and not in the orders.

A crash alone is left to real chance: decided by a message's id, a process that died of it would die of it again and
again. At a rate of 1 that is what it does, until the fault is cleared; `crash_after_effect_rate` excepted, which finds
at a participant that all is done already. Where all services are one process (`python -m services.all`), it is all of
them that die.
"""


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PAGES: dict[str, Callable[[], str]] = {
    "order-states.md": order_states,
    "settings.md": settings,
    "faults.md": faults,
    "chart-values.md": chart_values.page,
    "transports.md": transports.page,
    **styles.pages(),
}
"""Each generated page of docs/ and the function that gives its text."""


if __name__ == "__main__":
    for name, text in PAGES.items():
        page, new = DOCS / name, text()
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or not styles.same(page.read_text(), new):
            page.write_text(new)
        print(f"docs/{name}")
