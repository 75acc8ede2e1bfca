"""Asynchronous request/response: a request by message, with the address for its answer; who asked goes on meanwhile.

::

    client ── POST ─> orders ── 202 ─> client
                        ├─ ReserveStock ─> [inventory.commands]     reply-to: orders.answers, correlation id: the
                        │<─ [orders.answers] ─ StockReserved ──┘    request's id, which the answer brings back
                        ├─ ChargePayment ─> [payment.commands] …

One conversation reads like request/response, since its requester waits; but it waits for a message, so a participant
that is away costs time instead of an error, and the requester itself may die: whoever takes its place finds the
order's state, asks again for what is pending (the same request, by its id), and the answers that came meanwhile lie in
the queue. An answer that was overdue comes twice, and one may come for an order that nobody knows: orders counts which.
"""

from services.domain.messages import Command
from services.domain.order import STEP_OF, OrderState, next_command
from services.styles.message_queue import commands_of, queues
from services.styles.roles import Participant, Requests, Style
from services.transports import Port
from services.transports.errors import Undecodable
from services.transports.ports import Message

ANSWERS = "orders.answers"


async def pursue(state: OrderState, requests: Requests) -> OrderState:
    """Carry the order to its end."""
    while command := next_command(state):
        channel = commands_of(STEP_OF[type(command)].service)
        state = await requests.ask(state, command, channel=channel, reply_to=ANSWERS)
    return state


async def participate(participant: Participant, heard: Message) -> None:
    """Carry a request out, and answer where it says."""
    assert isinstance(heard.payload, Command)
    if not heard.reply_to:
        raise Undecodable("reply-to: is missing")
    event = await participant.do(heard.payload, cause=heard.id)
    await participant.say(event, channel=heard.reply_to, to=heard)


STYLE = Style(
    name="async_request_response",
    cell="async, 1 to 1",
    ports=(Port.QUEUE,),
    default="rabbitmq",
    summary="orders asks each participant by message and is woken by the answer",
    pursue=pursue,
    participate=participate,
    topology={Port.QUEUE: queues(ANSWERS)},
)
