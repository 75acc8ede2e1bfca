"""Event sourcing: the journal is the truth; whatever else is known was folded from it and can be again.

::

                 ┌───────────────────────── orders.journal ─────────────────────────┐
    orders ──────┤ OrderPlaced  StockReserved  PaymentCharged  ShipmentBooked  …     │ kept for good
                 └──┬─────────────┬──────────────┬───────────────┬──────────────┬───┘
                inventory      payment        shipping     notifications     ledger: read models, a little behind

Everybody reads the one journal and adds to it. What a service reacts to is as in choreography; what an order's state
is, anyone can find out from the journal alone, for now or for any moment of the past (``lab replay``).
"""

from services.domain.messages import OrderPlaced
from services.domain.order import CHAIN, STEPS
from services.styles.choreography import react, reacts
from services.styles.roles import Heard, Next, Outgoing, Participant, Style
from services.transports import Port
from services.transports.ports import Message

JOURNAL = "orders.journal"


def orders(heard: Heard) -> Next:
    return Next(say=(Outgoing(JOURNAL, heard.event),)) if isinstance(heard.event, OrderPlaced) else Next()


async def participate(participant: Participant, heard: Message) -> None:
    await react(participant, heard, CHAIN, channel=JOURNAL)


def wants(group: str, type_name: str) -> bool:
    return group in {"orders", "ledger"} or reacts(group, type_name, CHAIN)


STYLE = Style(
    name="event_sourcing",
    cell="async, log",
    ports=(Port.LOG,),
    default="kafka",
    summary="events are the truth: state and read models are folded from the journal",
    orders=orders,
    participate=participate,
    wants=wants,
    topology={Port.LOG: {JOURNAL: frozenset({"orders", "ledger", *(step.service for step in STEPS)})}},
)
