"""Shipping: books the shipment of an order, and cancels it.

In: ``BookShipment``, ``CancelShipment``. Out: ``ShipmentBooked``, ``ShipmentRefused`` (a place that no carrier goes
to), ``ShipmentCancelled``. It works ``shipping.work_ms`` on each.
"""

from services.domain import participants
from services.domain.messages import (
    BookShipment,
    CancelShipment,
    ShipmentBooked,
    ShipmentCancelled,
    ShipmentRefused,
)
from services.runtime.live import Live
from services.runtime.participant import Handlers
from services.runtime.process import run_participant


def handlers(live: Live) -> Handlers:
    async def book(command: BookShipment) -> ShipmentBooked | ShipmentRefused:
        await live.work("shipping", command.order.order_id)
        return participants.book(command)

    async def cancel(command: CancelShipment) -> ShipmentCancelled:
        await live.work("shipping", command.order.order_id)
        return participants.cancel(command)

    return {BookShipment: book, CancelShipment: cancel}


if __name__ == "__main__":
    run_participant("shipping", handlers)
