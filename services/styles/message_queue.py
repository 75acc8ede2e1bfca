"""Message queue: each worker takes a command from its queue when it is ready, and puts the next on the next queue.

::

    orders ─ ReserveStock ─> [inventory.commands] ─ ChargePayment ─> [payment.commands] ─ BookShipment ─>
                             [shipping.commands] ─ NotifyCustomer ─> [notifications.commands]

    backward, from whoever refused:  ShipmentRefused  ─ RefundPayment ─> [payment.commands] ─ ReleaseStock ─> …

    each of them ── its event ─> [orders.replies]

A command has one addressee, and of a service's workers one gets it: as many workers as there are share the work
(competing consumers). The way is a routing slip that needs no writing down: after an event, the domain's table
``CHAIN`` names the next command and so the next queue. Who does the work also reports it to orders, which folds the
order's state.
"""

from services.domain.messages import Command, OrderPlaced
from services.domain.order import CHAIN, STEP_OF, STEPS
from services.styles.roles import Heard, Next, Outgoing, Participant, Style, Topology
from services.transports import Port
from services.transports.ports import Message

REPLIES = "orders.replies"


def commands_of(service: str) -> str:
    return f"{service}.commands"


def queues(replies: str) -> Topology:
    """A queue of commands for each participant, and one for what comes back."""
    return {
        replies: frozenset({"orders"}),
        **{commands_of(step.service): frozenset({step.service}) for step in STEPS},
    }


def orders(heard: Heard) -> Next:
    if not isinstance(heard.event, OrderPlaced):
        return Next()
    first = CHAIN[OrderPlaced]
    return Next(say=(Outgoing(commands_of(STEP_OF[first].service), first(heard.state.order)),))


async def participate(participant: Participant, heard: Message) -> None:
    """Carry a command out, report it, and put the next command on its queue, if there is one."""
    assert isinstance(heard.payload, Command)
    event = await participant.do(heard.payload, cause=heard.id)
    await participant.say(event, channel=REPLIES, to=heard)
    following = CHAIN.get(type(event))
    if following is not None:
        queue = commands_of(STEP_OF[following].service)
        await participant.say(following(heard.payload.order), channel=queue, to=heard)


STYLE = Style(
    name="message_queue",
    cell="async, 1 to 1, pull",
    ports=(Port.QUEUE,),
    default="sqs",
    summary="each worker takes a command from its queue and puts the next on the next queue",
    orders=orders,
    participate=participate,
    topology={Port.QUEUE: queues(REPLIES)},
)
