"""The vocabulary: every command and every event, on one screen.

A command is an imperative (``ReserveStock``) and has one addressee; an event is in the past tense
(``StockReserved``) and has as many hearers as care. Each carries the whole order as it was placed, so that whoever
hears it can act on it alone (event-carried state transfer). Money is an int of cents.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """So many pieces of one article: ``quantity`` is at least 1."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Order:
    """What the customer asked for; it never changes. ``amount_cents`` is the sum that is charged."""

    order_id: str
    customer: str
    card: str
    ship_to: str
    lines: tuple[Line, ...]
    amount_cents: int


@dataclass(frozen=True, slots=True)
class Command:
    order: Order


class ReserveStock(Command): ...


class ReleaseStock(Command): ...


class ChargePayment(Command): ...


class RefundPayment(Command): ...


class BookShipment(Command): ...


class CancelShipment(Command): ...


class NotifyCustomer(Command): ...


@dataclass(frozen=True, slots=True)
class Event:
    order: Order


@dataclass(frozen=True, slots=True)
class Refusal(Event):
    """An event that says no; ``reason`` is a sentence for people."""

    reason: str


class OrderPlaced(Event): ...


class StockReserved(Event): ...


class StockRefused(Refusal): ...


class StockReleased(Event): ...


class PaymentCharged(Event): ...


class PaymentDeclined(Refusal): ...


class PaymentRefunded(Event): ...


class ShipmentBooked(Event): ...


class ShipmentRefused(Refusal): ...


class ShipmentCancelled(Event): ...


class CustomerNotified(Event): ...


class NotificationRefused(Refusal): ...


def type_name(message_type: type[Command | Event]) -> str:
    """The CloudEvents ``type`` of a message: ``StockReserved`` is ``stock.reserved``."""
    return ".".join(re.findall("[A-Z][a-z]+", message_type.__name__)).lower()


MESSAGES: dict[str, type[Command | Event]] = {
    type_name(t): t
    for t in (
        *(
            ReserveStock,
            ReleaseStock,
            ChargePayment,
            RefundPayment,
            BookShipment,
            CancelShipment,
            NotifyCustomer,
        ),
        *(OrderPlaced, StockReserved, StockRefused, StockReleased),
        *(PaymentCharged, PaymentDeclined, PaymentRefunded),
        *(ShipmentBooked, ShipmentRefused, ShipmentCancelled),
        *(CustomerNotified, NotificationRefused),
    )
}
"""Each message type by its CloudEvents type: what a decoder accepts, and nothing else."""
