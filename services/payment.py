"""Payment: charges an order's amount, and refunds it.

In: ``ChargePayment``, ``RefundPayment``. Out: ``PaymentCharged``, ``PaymentDeclined`` (a card that is always
declined), ``PaymentRefunded``. It works ``payment.work_ms`` on each: the slowest of the four, as it is in life.
"""

from services.domain import participants
from services.domain.messages import (
    ChargePayment,
    PaymentCharged,
    PaymentDeclined,
    PaymentRefunded,
    RefundPayment,
)
from services.runtime.live import Live
from services.runtime.participant import Handlers
from services.runtime.process import run_participant


def handlers(live: Live) -> Handlers:
    async def charge(command: ChargePayment) -> PaymentCharged | PaymentDeclined:
        await live.work("payment", command.order.order_id)
        return participants.charge(command)

    async def refund(command: RefundPayment) -> PaymentRefunded:
        await live.work("payment", command.order.order_id)
        return participants.refund(command)

    return {ChargePayment: charge, RefundPayment: refund}


if __name__ == "__main__":
    run_participant("payment", handlers)
