"""What each participant decides: a command in, an event out, nothing else.

The four decisions and their compensations are rules about the order alone. ``known_answer`` is the memory rule that
they share: what has been settled for an order is answered again, never done again.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from services.domain import catalog
from services.domain import messages as m
from services.domain.order import HEARD, STEP_OF, TRANSITIONS, Slot


def reserve(command: m.ReserveStock) -> m.StockReserved | m.StockRefused:
    for line in command.order.lines:
        if line.sku in catalog.ALWAYS_OUT_OF_STOCK:
            return m.StockRefused(command.order, f"{line.sku} is out of stock")
    return m.StockReserved(command.order)


def release(command: m.ReleaseStock) -> m.StockReleased:
    return m.StockReleased(command.order)


def charge(command: m.ChargePayment) -> m.PaymentCharged | m.PaymentDeclined:
    if command.order.card in catalog.ALWAYS_DECLINED:
        return m.PaymentDeclined(command.order, "the card was declined")
    return m.PaymentCharged(command.order)


def refund(command: m.RefundPayment) -> m.PaymentRefunded:
    return m.PaymentRefunded(command.order)


def book(command: m.BookShipment) -> m.ShipmentBooked | m.ShipmentRefused:
    if command.order.ship_to in catalog.NOT_SERVED:
        return m.ShipmentRefused(command.order, f"no carrier goes to {command.order.ship_to}")
    return m.ShipmentBooked(command.order)


def cancel(command: m.CancelShipment) -> m.ShipmentCancelled:
    return m.ShipmentCancelled(command.order)


def notify(command: m.NotifyCustomer) -> m.CustomerNotified | m.NotificationRefused:
    if command.order.customer in catalog.UNREACHABLE:
        return m.NotificationRefused(command.order, f"customer {command.order.customer} cannot be reached")
    return m.CustomerNotified(command.order)


DECISIONS: Mapping[type[m.Command], Callable[[Any], m.Event]] = MappingProxyType(
    {
        m.ReserveStock: reserve,
        m.ReleaseStock: release,
        m.ChargePayment: charge,
        m.RefundPayment: refund,
        m.BookShipment: book,
        m.CancelShipment: cancel,
        m.NotifyCustomer: notify,
    }
)


def known_answer(slot: Slot, command: m.Command, reason: str | None = None) -> m.Event | None:
    """The answer to ``command`` where the order's slot already settles it; None where the work is still to do.

    Asking again for what is done, refused or taken back repeats that answer (``reason`` is the refusal's). Taking
    back what was never done leaves a tombstone: the slot is ``compensated``, and a command that comes later finds it.
    """
    step = STEP_OF[type(command)]
    if type(command) is step.do:
        if slot is Slot.PENDING:
            return None
        if slot is Slot.REFUSED:
            return step.refused(command.order, reason or "refused")
        answer = step.done if slot is Slot.DONE else step.undone
    else:
        if slot is Slot.DONE:
            return None
        answer = step.undone
    if answer is None:
        raise ValueError(f"{step.name} cannot be {slot}")
    return answer(command.order)


def settle(slot: Slot, event: m.Event) -> Slot:
    """The participant's own slot for an order after it said ``event``."""
    return TRANSITIONS[slot, HEARD[type(event)]]
