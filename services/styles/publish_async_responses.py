"""Publish with asynchronous responses: one question to many, whose answers come in any order and mean different things.

::

                             ┌─> carrier-swift ─ QuoteOffered ─────┐
    orders ─ QuoteRequested ─┼─> carrier-steady ─ QuoteDeclined ───┼─> [carriers.answers] ─> orders
                             └─> carrier-frugal ─ QuoteCountered ──┘   until all have answered, or the deadline
    orders ─ CarrierChosen ─> inventory ─ StockReserved ─> …            the rest follows as in choreography

A price, a counter-offer with another date, a refusal, or silence: orders gathers what comes until ``quotes.deadline_s``
and chooses among it (services/domain/quotes.py). What comes later is counted and changes nothing.
"""

from typing import Any

from services.domain.messages import (
    MESSAGES,
    CarrierChosen,
    Event,
    OrderPlaced,
    Quote,
    QuoteDeclined,
    QuoteRequested,
    type_name,
)
from services.domain.order import QUOTE_FIRST, Slot, chain
from services.domain.quotes import CARRIERS, choose
from services.styles.choreography import events_of, heard_by, react
from services.styles.roles import NO_ALARM, Heard, Next, Outgoing, Participant, Style
from services.transports import Port
from services.transports.ports import Message

INQUIRIES = "orders.inquiries"
ANSWERS = "carriers.answers"
_REACTIONS = chain(QUOTE_FIRST)


def carrier(name: str) -> str:
    """The service that speaks for the carrier ``name``."""
    return f"carrier-{name}"


def orders(heard: Heard) -> Next:
    order = heard.state.order
    if isinstance(heard.event, OrderPlaced):
        asked = Outgoing(INQUIRIES, QuoteRequested(order))
        return Next(say=(asked,), memory={"answers": []}, alarm_s=heard.setting("quotes.deadline_s"))
    if not isinstance(heard.event, Quote | QuoteDeclined | None):
        return Next()
    if heard.state.slots["quote"] is not Slot.PENDING:
        return Next(late=heard.event is not None)
    answers = [*heard.memory["answers"], *([_written(heard.event)] if heard.event else [])]
    missing = len(CARRIERS) - len(answers)
    if missing and heard.event is not None:
        return Next(memory={"answers": answers})
    chosen = choose(order, [_read(order, answer) for answer in answers], missing)
    say = (Outgoing(events_of("orders"), chosen),) if isinstance(chosen, CarrierChosen) else ()
    return Next(say=say, record=(chosen,), memory={"answers": answers}, alarm_s=NO_ALARM)


def _written(event: Event) -> dict[str, Any]:
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__ if name != "order"}
    return {"type": type_name(type(event)), **fields}


def _read(order: Any, answer: dict[str, Any]) -> Event:
    fields = {name: value for name, value in answer.items() if name != "type"}
    event = MESSAGES[answer["type"]](order, **fields)
    assert isinstance(event, Event)
    return event


async def participate(participant: Participant, heard: Message) -> None:
    """A carrier answers the question; the others go on as in choreography once a carrier was chosen."""
    if not isinstance(heard.payload, QuoteRequested):
        await react(participant, heard, _REACTIONS)
    elif (answer := await participant.quote(heard.payload)) is not None:
        await participant.say(answer, channel=ANSWERS, to=heard)


STYLE = Style(
    name="publish_async_responses",
    cell="async, 1 to many, with answers",
    ports=(Port.FAN_OUT,),
    default="kafka",
    summary="one question to all carriers; what they answer until the deadline decides",
    plan=QUOTE_FIRST,
    orders=orders,
    participate=participate,
    topology={
        Port.FAN_OUT: {
            **heard_by(_REACTIONS),
            INQUIRIES: frozenset(carrier(name) for name in CARRIERS),
            ANSWERS: frozenset({"orders"}),
        }
    },
)
