"""Orchestration: a saga in charge of the order commands each participant, awaits the reply, and compensates.

::

    saga ─ ReserveStock ─> [inventory.commands]      each reply ─> [orders.replies] ─> saga
         ─ ChargePayment ─> [payment.commands]
         ─ BookShipment ─> [shipping.commands]
         ─ NotifyCustomer ─> [notifications.commands]

    backward, after a refusal or where no reply came in time:  CancelShipment, RefundPayment, ReleaseStock

The saga is a row: what was asked last, when its answer is due, in which trace. Each reply, and each alarm, is one
transaction that folds, decides and writes the next command to the outbox, so that a killed orders process carries on
where it was, and a saga that is resumed by its alarm is a new trace linked to the one before.

A step whose answer is overdue is *unknown*: it is taken back, which is harmless where it never was. What can only be
asked for again (a compensation, and the notification, which nobody can take back) is asked for again.
"""

from services.domain.messages import MESSAGES, Command, Event, OrderPlaced, type_name
from services.domain.order import STEP_OF, Step, next_command
from services.styles.async_request_response import participate
from services.styles.message_queue import REPLIES, commands_of, queues
from services.styles.roles import Heard, Next, Outgoing, Style
from services.transports import Port


def orders(heard: Heard) -> Next:
    if heard.event is None:
        return _overdue(heard)
    asked = heard.memory.get("asked")
    if not isinstance(heard.event, OrderPlaced) and not (asked and _answers(heard.event, MESSAGES[asked])):
        return Next(late=True)
    return _ask(heard, next_command(heard.state))


def _overdue(heard: Heard) -> Next:
    asked = MESSAGES[heard.memory["asked"]]
    step = STEP_OF[asked]
    again = step.undo if asked is step.do and step.undo is not None else asked
    assert issubclass(again, Command)
    return _ask(heard, again(heard.state.order))


def _ask(heard: Heard, command: Command | None) -> Next:
    if command is None:
        return Next(memory={})
    step = STEP_OF[type(command)]
    name = type_name(type(command))
    times = heard.memory.get("times", 0) + 1 if heard.memory.get("asked") == name else 1
    return Next(
        say=(Outgoing(commands_of(step.service), command, reply_to=REPLIES),),
        memory={"asked": name, "times": times},
        # asked again and again, but less and less often
        alarm_s=heard.setting("saga.timeout_s") * 2 ** min(times - 1, 3),
    )


def _answers(event: Event, asked: type) -> bool:
    """Whether ``event`` is what the saga waits for. The refusal of a step that is being taken back is not: it came too
    late."""
    step: Step = STEP_OF[asked]
    if asked is step.undo:
        return type(event) is step.undone
    return type(event) in {step.done, step.refused, step.undone}


STYLE = Style(
    name="orchestration",
    cell="async, chain",
    ports=(Port.QUEUE,),
    default="rabbitmq",
    summary="a saga commands each participant, awaits its reply, and compensates",
    orders=orders,
    participate=participate,
    topology={Port.QUEUE: queues(REPLIES)},
)
