"""Notifications: tells the customer that the order is on its way. That cannot be taken back.

In: ``NotifyCustomer``. Out: ``CustomerNotified``, ``NotificationRefused`` (a customer who cannot be reached). It works
``notifications.work_ms``.
"""

from services.domain import participants
from services.domain.messages import CustomerNotified, NotificationRefused, NotifyCustomer
from services.runtime.live import Live
from services.runtime.participant import Handlers
from services.runtime.process import run_participant


def handlers(live: Live) -> Handlers:
    async def notify(command: NotifyCustomer) -> CustomerNotified | NotificationRefused:
        await live.work("notifications", command.order.order_id)
        return participants.notify(command)

    return {NotifyCustomer: notify}


if __name__ == "__main__":
    run_participant("notifications", handlers)
