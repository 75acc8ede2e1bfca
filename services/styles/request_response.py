"""Request/response: orders asks each participant in turn and waits; whoever called orders waits for all of it.

::

    client ── POST ─> orders ── ReserveStock ──> inventory
                        │  <── StockReserved ──┘
                        ├── ChargePayment ──> payment …          each arrow back is awaited
                        ├── BookShipment ──> shipping …
                        └── NotifyCustomer ──> notifications …
    client <── 201 ──┘

A refusal is answered with the compensations, last step first, in the same conversation. When a participant cannot be
reached or does not answer in time, the conversation breaks off: the client gets 503 or 504, and what had been done
is taken back by the recovery pass, once the participants are there again.
"""

from services.domain.order import STEP_OF, OrderState, next_command
from services.styles.roles import Desk, Style
from services.transports import Port
from services.transports.ports import Rpc


async def converse(state: OrderState, rpc: Rpc, desk: Desk, timeout_s: float) -> OrderState:
    """Carry the order to its end; ``timeout_s`` is for each call. Raises the call's ``TransportError``."""
    while command := next_command(state):
        event = await rpc.call(STEP_OF[type(command)].service, command, timeout_s=timeout_s)
        state = await desk.record(state.order.order_id, event)
    return state


STYLE = Style(
    name="request_response",
    cell="sync, 1 to 1",
    ports=(Port.RPC,),
    default="rest",
    summary="orders calls each participant in turn and waits",
    converse=converse,
)
