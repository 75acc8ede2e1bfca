"""Who says which message where: a style's conversation, found out by holding it.

Nobody writes it down, so nobody can write it down wrong: the conversation is rehearsed once for every way in which an
order can end, and once with an alarm that rings too early. The AsyncAPI document is made of it.
"""

import asyncio
from collections.abc import Callable

from services.domain import catalog
from services.domain.messages import Line, Order
from services.styles.rehearsal import Exchange, Rehearsal
from services.styles.roles import Style

_FINE = Order("o", "c", "0", "x", (Line("x", 1),), 1)
FATES = (
    _FINE,
    Order("o", "c", "0", "x", (Line(min(catalog.ALWAYS_OUT_OF_STOCK), 1),), 1),
    Order("o", "c", min(catalog.ALWAYS_DECLINED), "x", (Line("x", 1),), 1),
    Order("o", "c", "0", min(catalog.NOT_SERVED), (Line("x", 1),), 1),
    Order("o", min(catalog.UNREACHABLE), "0", "x", (Line("x", 1),), 1),
)


def exchanges(style: Style) -> frozenset[Exchange]:
    """All that is said in ``style``; nothing where nobody sends messages."""
    return asyncio.run(_hold(style))


async def _hold(style: Style) -> frozenset[Exchange]:
    found: set[Exchange] = set()
    picks: tuple[Callable[[int], int], ...] = (lambda _: 0, lambda choices: choices - 1)
    for order in FATES:
        for pick in picks:
            rehearsal = Rehearsal(style, order, pick)
            found.update((await rehearsal.hold()).said)
    return frozenset(found)


__all__ = ["FATES", "Exchange", "exchanges"]
