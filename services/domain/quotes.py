"""What carriers would do for an order, and which of their quotes it goes with.

Three carriers, known by name: a quick and dear one, a slow and cheap one, and one that does not always answer. What
they ask follows from the order alone. How long they take to say so is the running service's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.domain import catalog
from services.domain import messages as m

WANTED_DAYS = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """A carrier's: a price of ``base_cents`` and ``share`` of the order's worth, ``days``, the most that it takes."""

    base_cents: int
    share: float
    days: int
    most_pieces: int


CARRIERS: Mapping[str, Terms] = MappingProxyType(
    {
        "swift": Terms(base_cents=900, share=0.02, days=1, most_pieces=20),
        "steady": Terms(base_cents=500, share=0.01, days=3, most_pieces=200),
        "frugal": Terms(base_cents=250, share=0.01, days=6, most_pieces=1000),
    }
)


def quote(carrier: str, request: m.QuoteRequested) -> m.QuoteOffered | m.QuoteCountered | m.QuoteDeclined:
    """What ``carrier`` answers: a price, a price with another date, or no. Raises KeyError for one that is none."""
    terms = CARRIERS[carrier]
    order = request.order
    pieces = sum(line.quantity for line in order.lines)
    if order.ship_to in catalog.NOT_SERVED:
        return m.QuoteDeclined(order, f"{carrier} does not go to {order.ship_to}", carrier)
    if pieces > terms.most_pieces:
        return m.QuoteDeclined(order, f"{pieces} pieces are too many for {carrier}", carrier)
    answer = m.QuoteOffered if terms.days <= WANTED_DAYS else m.QuoteCountered
    return answer(order, carrier, terms.base_cents + round(order.amount_cents * terms.share), terms.days)


def choose(order: m.Order, answers: Iterable[m.Event], missing: int) -> m.CarrierChosen | m.CarrierNotFound:
    """The cheapest offer; where nobody offers what was asked for, the soonest counter-offer; else nobody. ``missing``
    is how many did not answer."""
    heard = list(answers)
    offers = [answer for answer in heard if isinstance(answer, m.QuoteOffered)]
    counters = [answer for answer in heard if isinstance(answer, m.QuoteCountered)]
    best = min(offers, key=lambda q: (q.price_cents, q.days, q.carrier), default=None) or min(
        counters, key=lambda q: (q.days, q.price_cents, q.carrier), default=None
    )
    if best is not None:
        return m.CarrierChosen(order, best.carrier, best.price_cents, best.days)
    said = sorted(answer.reason for answer in heard if isinstance(answer, m.QuoteDeclined))
    silent = [f"{missing} did not answer in time"] if missing else []
    return m.CarrierNotFound(order, "; ".join([*said, *silent]) or "nobody was asked")
