"""Read models: what can be known of many orders, each folded from the journal's events and from nothing else.

A projection is a table of rows by key, and a rule that folds an event into one row. The rules do not mind in which
order they see the events of different orders, and whoever applies them sees to it that each event is folded once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from services.domain import catalog
from services.domain import messages as m
from services.domain.order import OrderState, Plan, Slot, evolve

Row = Mapping[str, Any]
"""JSON."""


@dataclass(frozen=True, slots=True)
class Projection:
    """``rows`` gives, for an event of an order with ``plan``, each key that it concerns and how the row there changes
    (None: there is none yet)."""

    name: str
    sentence: str
    rows: Callable[[m.Event, Plan], Iterable[tuple[str, Callable[[Row | None], Row]]]]


def _orders(event: m.Event, plan: Plan) -> Iterable[tuple[str, Callable[[Row | None], Row]]]:
    def fold(row: Row | None) -> Row:
        known = row or {"slots": {}, "reasons": {}}
        before = {name: Slot(slot) for name, slot in known["slots"].items()}
        state = evolve(OrderState(event.order, before, known["reasons"], plan), event)
        slots = {name: slot.value for name, slot in state.slots.items()}
        return {"state": state.verdict.value, "slots": slots, "reasons": dict(state.reasons)}

    return [(event.order.order_id, fold)]


def _sales(event: m.Event, _: Plan) -> Iterable[tuple[str, Callable[[Row | None], Row]]]:
    sign = {m.PaymentCharged: 1, m.PaymentRefunded: -1}.get(type(event))
    if sign is None:
        return []
    return [
        (line.sku, _add(pieces=sign * line.quantity, cents=sign * line.quantity * catalog.PRICES_CENTS[line.sku]))
        for line in event.order.lines
    ]


def _customers(event: m.Event, _: Plan) -> Iterable[tuple[str, Callable[[Row | None], Row]]]:
    added = {
        m.OrderPlaced: {"orders": 1},
        m.PaymentCharged: {"charged_cents": event.order.amount_cents},
        m.PaymentRefunded: {"charged_cents": -event.order.amount_cents},
    }.get(type(event))
    return [] if added is None else [(event.order.customer, _add(**added))]


def _add(**added: int) -> Callable[[Row | None], Row]:
    def fold(row: Row | None) -> Row:
        before = row or {}
        return {**before, **{name: before.get(name, 0) + count for name, count in added.items()}}

    return fold


PROJECTIONS: Mapping[str, Projection] = MappingProxyType(
    {
        p.name: p
        for p in (
            Projection("orders", "Each order's state", _orders),
            Projection("sales", "Pieces and cents that each article brought, refunds taken off", _sales),
            Projection("customers", "Orders that each customer placed, and cents that were charged", _customers),
        )
    }
)

ALWAYS = frozenset({"orders", "sales"})
"""The read models that are kept from the start; the others are filled from the past when somebody wants them."""


def fold(projection: Projection, events: Iterable[tuple[m.Event, Plan]]) -> dict[str, Row]:
    """The rows of ``projection`` from nothing but ``events``, each of them once."""
    rows: dict[str, Row] = {}
    for event, plan in events:
        for key, change in projection.rows(event, plan):
            rows[key] = change(rows.get(key))
    return rows
