"""Hybrid: what the customer waits for is a call, what must happen is a message, what must be known is in the journal.

::

    client ── POST ─> orders ── ChargePayment ──> payment       a call: the customer needs the answer now
    client <── 202 ──┤ (201, where the card is declined)
                     └─ PaymentCharged ─> fulfilment.journal ─> inventory, shipping: StockReserved, ShipmentBooked
                     ├─ NotifyCustomer ─> [notifications.commands]            an ordinary message, to be done once
                     │<─ [orders.replies] ─ CustomerNotified ──┘
                     └─ CustomerNotified ─> fulfilment.journal                    the journal has the whole order

Money comes first, so its way back is the longest: a refusal of inventory, shipping or notifications goes back through
the journal to payment. Two brokers carry one order, and one trace shows both.
"""

from services.domain.messages import (
    MESSAGES,
    Command,
    CustomerNotified,
    NotificationRefused,
    NotifyCustomer,
    PaymentCharged,
    ShipmentBooked,
)
from services.domain.order import PAYMENT_FIRST, STEP_OF, OrderState, chain, next_command
from services.styles.choreography import react, reacts
from services.styles.message_queue import REPLIES, commands_of
from services.styles.roles import Desk, Heard, Next, Outgoing, Participant, Style
from services.transports import Port
from services.transports.errors import Undecodable
from services.transports.ports import Message, Rpc

JOURNAL = "fulfilment.journal"
NOTIFY = commands_of("notifications")
_REACTIONS = {
    event: command
    for event, command in chain(PAYMENT_FIRST).items()
    if STEP_OF[command].name != "notification"  # orders asks for that itself, on the other broker
}


async def converse(state: OrderState, rpc: Rpc, desk: Desk, timeout_s: float) -> OrderState:
    """Have the payment authorised; what follows goes by messages. Raises the call's ``TransportError``."""
    command = next_command(state)
    assert command is not None
    event = await rpc.call(STEP_OF[type(command)].service, command, timeout_s=timeout_s)
    say = (Outgoing(JOURNAL, event, Port.LOG),) if isinstance(event, PaymentCharged) else ()
    return await desk.record(state.order.order_id, event, say=say)


def orders(heard: Heard) -> Next:
    if isinstance(heard.event, ShipmentBooked):
        return Next(say=(Outgoing(NOTIFY, NotifyCustomer(heard.state.order), Port.QUEUE, reply_to=REPLIES),))
    if isinstance(heard.event, CustomerNotified | NotificationRefused):
        return Next(say=(Outgoing(JOURNAL, heard.event, Port.LOG),))
    return Next()


async def participate(participant: Participant, heard: Message) -> None:
    if isinstance(heard.payload, Command):
        if not heard.reply_to:
            raise Undecodable("reply-to: is missing")
        event = await participant.do(heard.payload, cause=heard.id)
        await participant.say(event, channel=heard.reply_to, to=heard)
    else:
        await react(participant, heard, _REACTIONS, channel=JOURNAL)


def wants(group: str, type_name: str) -> bool:
    return (
        group in {"orders", "ledger"}
        or issubclass(MESSAGES[type_name], Command)
        or reacts(group, type_name, _REACTIONS)
    )


STYLE = Style(
    name="hybrid",
    cell="both",
    ports=(Port.RPC, Port.QUEUE, Port.LOG),
    default="grpc,rabbitmq,kafka",
    summary="the payment is a call, the rest follows by messages: ordinary ones, and those of the journal",
    plan=PAYMENT_FIRST,
    converse=converse,
    orders=orders,
    participate=participate,
    wants=wants,
    topology={
        Port.QUEUE: {NOTIFY: frozenset({"notifications"}), REPLIES: frozenset({"orders"})},
        Port.LOG: {JOURNAL: frozenset({"orders", "inventory", "payment", "shipping", "ledger"})},
    },
)
