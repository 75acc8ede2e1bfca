"""The seeded order bodies."""

from collections import Counter

import pytest
from inline_snapshot import snapshot

from load.orders import Catalog, OrderBook

CATALOG = Catalog(("tea", "coffee", "cup"), ("unicorn",), ("4000000000000002",), ("Atlantis",))


def test_the_same_seed_gives_the_same_orders() -> None:
    """Whatever is asked first: an order depends on seed and index alone."""
    forwards = [OrderBook(7, CATALOG).order(index).body for index in range(50)]
    backwards = [OrderBook(7, CATALOG).order(index).body for index in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [OrderBook(8, CATALOG).order(index).body for index in range(50)]


def test_an_order_is_what_it_was_last_year() -> None:
    """Runs are compared over time, so the sequence of a seed does not change with Python or a refactoring."""
    assert OrderBook(1, CATALOG).order(0).body == snapshot(
        {
            "customer": "c-131",
            "card": "4242276790166287",
            "ship_to": "Linz",
            "lines": [{"sku": "coffee", "quantity": 1}, {"sku": "tea", "quantity": 1}],
        }
    )


def test_a_tenth_is_refused_half_of_it_for_want_of_stock() -> None:
    """The default share, near enough over many orders; each refused order is refused for one reason."""
    orders = [OrderBook(1, CATALOG).order(index) for index in range(4000)]
    kinds = Counter(order.kind for order in orders)
    assert kinds["out_of_stock"] == pytest.approx(200, abs=50)
    assert kinds["declined"] == pytest.approx(200, abs=50)
    for order in orders:
        out_of_stock = any(line["sku"] == "unicorn" for line in order.body["lines"])
        declined = order.body["card"] == "4000000000000002"
        assert (out_of_stock, declined) == (order.kind == "out_of_stock", order.kind == "declined")


@pytest.mark.parametrize(("share", "kinds"), [(0.0, {"ordinary"}), (1.0, {"out_of_stock", "declined"})])
def test_the_share_may_be_none_or_all(share: float, kinds: set[str]) -> None:
    """0 and 1 mean exactly that."""
    assert {OrderBook(1, CATALOG, share).order(index).kind for index in range(200)} == kinds


def test_without_refusals_in_the_catalog_all_are_ordinary() -> None:
    """A front door that refuses nothing is asked for nothing impossible."""
    book = OrderBook(1, Catalog(("tea",)), 1.0)
    assert {book.order(index).kind for index in range(50)} == {"ordinary"}


def test_a_catalog_without_stock_is_refused() -> None:
    """There is nothing to order."""
    with pytest.raises(ValueError, match="nothing that is in stock"):
        Catalog.from_answer({"items": [{"sku": "unicorn"}], "always_out_of_stock": ["unicorn"]})
