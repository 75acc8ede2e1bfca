"""Publish/subscribe: one event fans out, and everybody reacts at once, independently.

::

                          ┌─> inventory ─ StockReserved ────┐
    orders ─ OrderPlaced ─┼─> payment ─ PaymentCharged ─────┼─> orders
                          ├─> shipping ─ ShipmentBooked ────┤   folds them in any order
                          └─> notifications ─ CustomerNotified

    after the first refusal:  orders ─ OrderCancelled ─> inventory, payment, shipping   each takes back what it did

The quickest of all, and the price of it: what was done before somebody refused was done too early. Most can be taken
back; a customer who was told cannot be untold.
"""

from services.domain.messages import OrderCancelled, OrderPlaced
from services.domain.order import AT_ONCE, STEPS
from services.styles.roles import Heard, Next, Outgoing, Participant, Style
from services.transports import Port
from services.transports.ports import Message

ANNOUNCEMENTS = "orders.announcements"
REACTIONS = "orders.reactions"
_STEP = {step.service: step for step in STEPS}


def orders(heard: Heard) -> Next:
    order = heard.state.order
    if isinstance(heard.event, OrderPlaced):
        return Next(say=(Outgoing(ANNOUNCEMENTS, heard.event),))
    if heard.state.failed and not heard.before.failed:
        return Next(say=(Outgoing(ANNOUNCEMENTS, OrderCancelled(order)),))
    return Next()


async def participate(participant: Participant, heard: Message) -> None:
    """Do one's own step, or take it back."""
    step = _STEP[participant.service]
    reaction = step.do if isinstance(heard.payload, OrderPlaced) else step.undo
    if reaction is None or not isinstance(heard.payload, OrderPlaced | OrderCancelled):
        return
    event = await participant.do(reaction(heard.payload.order), cause=heard.id)
    await participant.say(event, channel=REACTIONS, to=heard)


STYLE = Style(
    name="publish_subscribe",
    cell="async, 1 to many, push",
    ports=(Port.FAN_OUT,),
    default="rabbitmq",
    summary="one event fans out and everybody reacts at once; what was done too early is taken back",
    plan=AT_ONCE,
    orders=orders,
    participate=participate,
    topology={
        Port.FAN_OUT: {
            ANNOUNCEMENTS: frozenset(_STEP),
            REACTIONS: frozenset({"orders"}),
        }
    },
)
