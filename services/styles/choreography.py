"""Choreography: each service reacts to an event with its own event; no one is in charge.

::

    orders ─ OrderPlaced ─> inventory ─ StockReserved ─> payment ─ PaymentCharged ─> shipping ─ ShipmentBooked ─>
                            notifications ─ CustomerNotified ─>

    backward, from whoever refused:  StockRefused          nothing to take back
                                     PaymentDeclined       ─> inventory ─ StockReleased
                                     ShipmentRefused       ─> payment ─ PaymentRefunded ─> inventory ─ StockReleased
                                     NotificationRefused   ─> shipping ─ ShipmentCancelled ─> payment ─ …

Every service speaks on its own channel ``<service>.events``; orders listens to all of them and folds the order's
state. Which event makes which service do what is the domain's table ``CHAIN``: the whole conversation, and the
topology too.
"""

from collections.abc import Mapping

from services.domain.messages import MESSAGES, Command, Event, OrderPlaced
from services.domain.order import CHAIN, STEP_OF, STEPS
from services.styles.roles import Heard, Next, Outgoing, Participant, Style, Topology
from services.transports import Port
from services.transports.ports import Message


def events_of(service: str) -> str:
    return f"{service}.events"


def heard_by(reactions: Mapping[type[Event], type[Command]]) -> Topology:
    """Who hears whom, where ``reactions`` says which event makes whom do what."""
    heard: dict[str, set[str]] = {events_of(step.service): {"orders"} for step in STEPS}
    for event, command in reactions.items():
        step = STEP_OF.get(event)
        speaker = step.service if step in STEPS else "orders"
        heard.setdefault(events_of(speaker), set()).add(STEP_OF[command].service)
    return {channel: frozenset(groups) for channel, groups in heard.items()}


def orders(heard: Heard) -> Next:
    return Next(say=(Outgoing(events_of("orders"), heard.event),)) if isinstance(heard.event, OrderPlaced) else Next()


async def react(
    participant: Participant,
    heard: Message,
    reactions: Mapping[type[Event], type[Command]],
    channel: str | None = None,
) -> None:
    """React to an event, if ``reactions`` has one of this service to it; say what came of it, on this service's own
    channel or on ``channel``."""
    reaction = reactions.get(type(heard.payload))  # type: ignore[arg-type]
    if reaction is None or STEP_OF[reaction].service != participant.service:
        return
    event = await participant.do(reaction(heard.payload.order), cause=heard.id)
    await participant.say(event, channel=channel or events_of(participant.service), to=heard)


def reacts(service: str, type_name: str, reactions: Mapping[type[Event], type[Command]]) -> bool:
    """Whether ``service`` has something to do after an event of that name."""
    reaction = reactions.get(MESSAGES[type_name])  # type: ignore[arg-type]
    return reaction is not None and STEP_OF[reaction].service == service


async def participate(participant: Participant, heard: Message) -> None:
    await react(participant, heard, CHAIN)


STYLE = Style(
    name="choreography",
    cell="async, chain",
    ports=(Port.FAN_OUT,),
    default="rabbitmq",
    summary="each service reacts to an event with its own event; no one is in charge",
    orders=orders,
    participate=participate,
    topology={Port.FAN_OUT: heard_by(CHAIN)},
)
