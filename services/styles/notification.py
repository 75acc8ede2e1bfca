"""Notification: all but the last step are synchronous; the last is a message that nobody answers.

::

    client ── POST ─> orders ── ReserveStock ──> inventory      each answer is awaited
                        ├── ChargePayment ──> payment
                        ├── BookShipment ──> shipping
                        └─ NotifyCustomer ─> [notifications.commands]      one-way
    client <── 201 ──┘

The client need not wait for a mail to be written, and an absent notifications service holds nobody up. The price: the
order is complete once the message is in the outbox, and nobody who called hears that a customer cannot be reached.
"""

from services.domain.messages import Command, NotificationDispatched, NotifyCustomer
from services.domain.order import STEP_OF, OrderState, next_command
from services.styles.message_queue import commands_of
from services.styles.roles import Desk, Outgoing, Participant, Style
from services.transports import Port
from services.transports.ports import Message, Rpc

CHANNEL = commands_of("notifications")


async def converse(state: OrderState, rpc: Rpc, desk: Desk, timeout_s: float) -> OrderState:
    """Carry the order to its end; ``timeout_s`` is for each call. Raises the call's ``TransportError``."""
    order = state.order
    while command := next_command(state):
        if isinstance(command, NotifyCustomer):
            said = NotificationDispatched(order)
            state = await desk.record(order.order_id, said, say=(Outgoing(CHANNEL, command),))
        else:
            event = await rpc.call(STEP_OF[type(command)].service, command, timeout_s=timeout_s)
            state = await desk.record(order.order_id, event)
    return state


async def participate(participant: Participant, heard: Message) -> None:
    assert isinstance(heard.payload, Command)
    await participant.do(heard.payload, cause=heard.id)


STYLE = Style(
    name="notification",
    cell="async, 1 to 1",
    ports=(Port.RPC, Port.QUEUE),
    default="rest,rabbitmq",
    summary="orders calls all but the last and waits; the last gets a message that nobody answers",
    converse=converse,
    participate=participate,
    topology={Port.QUEUE: {CHANNEL: frozenset({"notifications"})}},
)
