"""What is ordered: the n-th order of a seed, always the same, and the same for every flow.

Each order is drawn from its own random numbers (seed and index), so the sequence depends neither on timing
nor on how many users share it. A share of the orders is refused on purpose, half for want of stock and half
by the card, so that refusal and compensation are seen.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

OrderKind = Literal["ordinary", "out_of_stock", "declined"]

CITIES = ("Graz", "Linz", "Wien", "Salzburg", "Innsbruck", "Bregenz", "Villach", "Wels")
DEFAULT_REFUSED_SHARE = 0.10


@dataclass(frozen=True)
class Catalog:
    """What ``GET /catalog`` says can be bought, and what is always refused."""

    skus: tuple[str, ...]
    out_of_stock: tuple[str, ...] = ()
    declined_cards: tuple[str, ...] = ()
    not_served: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()

    @classmethod
    def from_answer(cls, answer: dict[str, Any]) -> "Catalog":
        """Raises ValueError where the answer names nothing that can be bought."""
        out_of_stock = tuple(answer.get("always_out_of_stock") or ())
        skus = tuple(item["sku"] for item in answer.get("items") or () if item["sku"] not in out_of_stock)
        if not skus:
            raise ValueError("the catalog names nothing that is in stock")
        return cls(
            skus,
            out_of_stock,
            tuple(answer.get("always_declined") or ()),
            tuple(answer.get("not_served") or ()),
            tuple(answer.get("unreachable") or ()),
        )


@dataclass(frozen=True)
class Order:
    """The body of a ``POST /orders``, and what is expected of it."""

    index: int
    kind: OrderKind
    body: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class OrderBook:
    """``book.order(n)`` is the n-th order of this seed."""

    seed: int
    catalog: Catalog
    refused_share: float = DEFAULT_REFUSED_SHARE

    def order(self, index: int) -> Order:
        draw = random.Random(f"{self.seed}/{index}")
        kind = self._kind(draw.random())
        skus = draw.sample(self.catalog.skus, k=min(draw.randint(1, 3), len(self.catalog.skus)))
        card = f"4242{draw.randrange(10**12):012d}"
        if card in self.catalog.declined_cards:
            card = "4242424242424242"
        body = {
            "customer": f"c-{draw.randint(1, 200)}",
            "card": card,
            "ship_to": draw.choice([city for city in CITIES if city not in self.catalog.not_served]),
            "lines": [{"sku": sku, "quantity": draw.randint(1, 3)} for sku in skus],
        }
        if kind == "out_of_stock":
            body["lines"] = [{"sku": draw.choice(self.catalog.out_of_stock), "quantity": 1}]
        if kind == "declined":
            body["card"] = draw.choice(self.catalog.declined_cards)
        return Order(index, kind, body)

    def _kind(self, drawn: float) -> OrderKind:
        if drawn < self.refused_share / 2 and self.catalog.out_of_stock:
            return "out_of_stock"
        if self.refused_share / 2 <= drawn < self.refused_share and self.catalog.declined_cards:
            return "declined"
        return "ordinary"
