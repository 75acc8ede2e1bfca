"""What Hypothesis may make of the domain: orders of every fate, and whatever may be heard of them."""

from hypothesis import strategies as st

from services.domain import catalog
from services.domain import messages as m
from services.domain.order import AT_ONCE, HEARD, IN_TURN, PAYMENT_FIRST, QUOTE_FIRST
from services.domain.quotes import CARRIERS

PLANS = {"in turn": IN_TURN, "at once": AT_ONCE, "payment first": PAYMENT_FIRST, "quote first": QUOTE_FIRST}
SKUS = sorted(catalog.PRICES_CENTS)
CARDS = ["4242424242424242", *sorted(catalog.ALWAYS_DECLINED)]
PLACES = ["Lisbon", *sorted(catalog.NOT_SERVED)]
CUSTOMERS = ["c-1", *sorted(catalog.UNREACHABLE)]


def make_order(
    order_id: str = "o-1",
    *,
    sku: str = "tea",
    card: str = CARDS[0],
    ship_to: str = PLACES[0],
    customer: str = CUSTOMERS[0],
) -> m.Order:
    lines = (m.Line(sku, 2),)
    return m.Order(order_id, customer, card, ship_to, lines, catalog.amount_cents(lines))


FATES = {
    # what is refused: an order that is refused there, and nowhere else
    "nothing": make_order(),
    "stock": make_order(sku=min(catalog.ALWAYS_OUT_OF_STOCK)),
    "payment": make_order(card=min(catalog.ALWAYS_DECLINED)),
    "shipment": make_order(ship_to=min(catalog.NOT_SERVED)),
    "notification": make_order(customer=min(catalog.UNREACHABLE)),
}

lines = st.lists(st.builds(m.Line, st.sampled_from(SKUS), st.integers(1, 5)), min_size=1, max_size=3)


@st.composite
def orders(draw: st.DrawFn, order_id: str = "o-1") -> m.Order:
    bought = tuple(draw(lines))
    return m.Order(
        order_id,
        draw(st.sampled_from(CUSTOMERS)),
        draw(st.sampled_from(CARDS)),
        draw(st.sampled_from(PLACES)),
        bought,
        catalog.amount_cents(bought),
    )


def make_event(order: m.Order, event_type: type[m.Event], reason: str = "no", carrier: str = "swift") -> m.Event:
    """An event of that type, and of its fields those that it has."""
    if issubclass(event_type, m.Quote):
        return event_type(order, carrier, 909, 1)
    if issubclass(event_type, m.QuoteDeclined):
        return event_type(order, reason, carrier)
    return event_type(order, reason) if issubclass(event_type, m.Refusal) else event_type(order)


plans = st.sampled_from(list(PLANS.values()))
EVENTS = [kind for kind in m.MESSAGES.values() if issubclass(kind, m.Event)]
assert {m.OrderPlaced, *HEARD} <= set(EVENTS)


def events(order: m.Order) -> st.SearchStrategy[m.Event]:
    """Any event about ``order``, sensible or not, whether or not it says something of a step."""
    kinds, reasons = st.sampled_from(EVENTS), st.sampled_from(["sold out", "no", "not there"])
    return st.builds(make_event, st.just(order), kinds, reasons, st.sampled_from(sorted(CARRIERS)))
