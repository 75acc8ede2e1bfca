"""Carrier: one of several that are asked what a shipment would cost. ``python -m services.carrier swift``

In: ``QuoteRequested``. Out: ``QuoteOffered``, ``QuoteCountered`` (another date), ``QuoteDeclined``, or nothing. Each
carrier takes its time (``carrier-<name>.work_ms``) and has its terms (services/domain/quotes.py); frugal leaves a share
of the requests unanswered (``carrier-frugal.silent_share``). A request that comes twice is answered alike.
"""

import sys

from services.domain import quotes
from services.domain.messages import Event, QuoteRequested
from services.runtime.live import Live
from services.runtime.participant import Quote
from services.runtime.process import run_participant


def service_of(name: str) -> str:
    """The service that speaks for the carrier ``name``."""
    return f"carrier-{name}"


def quoting(name: str, live: Live) -> Quote:
    """How the carrier ``name`` answers."""
    service = service_of(name)

    async def quote(request: QuoteRequested) -> Event | None:
        order_id = request.order.order_id
        await live.work(service, order_id)
        silent_share = live["carrier-frugal.silent_share"] if name == "frugal" else 0
        if live.chance(f"{service}/silence", order_id).random() < silent_share:
            return None
        return quotes.quote(name, request)

    return quote


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in quotes.CARRIERS:
        sys.exit(f"carrier: which one? python -m services.carrier {'|'.join(quotes.CARRIERS)}")
    run_participant(service_of(sys.argv[1]), lambda _: {}, lambda live: quoting(sys.argv[1], live))
