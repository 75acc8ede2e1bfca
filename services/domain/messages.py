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


@dataclass(frozen=True, slots=True)
class Quote(Event):
    """What a carrier would do: for ``price_cents``, within ``days`` days."""

    carrier: str
    price_cents: int
    days: int


class OrderPlaced(Event): ...


class OrderCancelled(Event):
    """It will not be: whoever has done something for the order takes it back."""


class QuoteRequested(Event):
    """Asked of all carriers: what would it cost to ship this within ``quotes.WANTED_DAYS`` days?"""


class QuoteOffered(Quote):
    """As it was asked for."""


class QuoteCountered(Quote):
    """Not as it was asked for, but later."""


@dataclass(frozen=True, slots=True)
class QuoteDeclined(Refusal):
    """A carrier that makes no offer."""

    carrier: str


class CarrierChosen(Quote):
    """The quote that the order goes with."""


class CarrierNotFound(Refusal): ...


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


class NotificationDispatched(Event):
    """The customer is being told, by somebody who will not say whether it worked: one-way."""


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
        *(OrderPlaced, OrderCancelled),
        *(QuoteRequested, QuoteOffered, QuoteCountered, QuoteDeclined, CarrierChosen, CarrierNotFound),
        *(StockReserved, StockRefused, StockReleased),
        *(PaymentCharged, PaymentDeclined, PaymentRefunded),
        *(ShipmentBooked, ShipmentRefused, ShipmentCancelled),
        *(CustomerNotified, NotificationRefused, NotificationDispatched),
    )
}
"""Each message type by its CloudEvents type: what a decoder accepts, and nothing else."""
