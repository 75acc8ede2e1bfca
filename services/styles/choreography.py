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

from services.domain.messages import OrderPlaced
from services.domain.order import CHAIN, STEP_OF, STEPS, OrderState
from services.styles.roles import Outgoing, Participant, Style, fold
from services.transports import Port
from services.transports.ports import Message


def events_of(service: str) -> str:
    return f"{service}.events"


def _topology() -> dict[str, frozenset[str]]:
    heard: dict[str, set[str]] = {events_of(step.service): {"orders"} for step in STEPS}
    for event, command in CHAIN.items():
        speaker = "orders" if event is OrderPlaced else STEP_OF[event].service
        heard.setdefault(events_of(speaker), set()).add(STEP_OF[command].service)
    return {channel: frozenset(groups) for channel, groups in heard.items()}


def opening(state: OrderState) -> list[Outgoing]:
    return [Outgoing(events_of("orders"), OrderPlaced(state.order))]


async def participate(participant: Participant, heard: Message) -> None:
    """React to an event, if it is one that this service reacts to; say what came of it."""
    reaction = CHAIN.get(type(heard.payload))  # type: ignore[arg-type]
    if reaction is None or STEP_OF[reaction].service != participant.service:
        return
    event = await participant.do(reaction(heard.payload.order), cause=heard.id)
    await participant.say(event, channel=events_of(participant.service), to=heard)


STYLE = Style(
    name="choreography",
    cell="async, chain",
    ports=(Port.FAN_OUT,),
    default="rabbitmq",
    summary="each service reacts to an event with its own event; no one is in charge",
    opening=opening,
    participate=participate,
    conclude=fold,
    topology=_topology(),
)
