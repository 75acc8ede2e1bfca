"""Inventory: reserves the stock of an order, and releases it again.

In: ``ReserveStock``, ``ReleaseStock``. Out: ``StockReserved``, ``StockRefused`` (an article that is always out of
stock), ``StockReleased``. It works ``inventory.work_ms`` on each.
"""

from services.domain import participants
from services.domain.messages import ReleaseStock, ReserveStock, StockRefused, StockReleased, StockReserved
from services.runtime.live import Live
from services.runtime.participant import Handlers
from services.runtime.process import run_participant


def handlers(live: Live) -> Handlers:
    async def reserve(command: ReserveStock) -> StockReserved | StockRefused:
        await live.work("inventory", command.order.order_id)
        return participants.reserve(command)

    async def release(command: ReleaseStock) -> StockReleased:
        await live.work("inventory", command.order.order_id)
        return participants.release(command)

    return {ReserveStock: reserve, ReleaseStock: release}


if __name__ == "__main__":
    run_participant("inventory", handlers)
