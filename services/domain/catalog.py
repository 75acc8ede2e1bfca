"""What can be bought, and what is always refused (so that every way an order can end can be asked for)."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from services.domain.messages import Line

PRICES_CENTS: Mapping[str, int] = MappingProxyType(
    {"tea": 450, "coffee": 690, "cup": 1200, "kettle": 3900, "honey": 820, "samovar": 24900, "unicorn": 99900}
)
ALWAYS_OUT_OF_STOCK = frozenset({"unicorn"})
ALWAYS_DECLINED = frozenset({"4000000000000002"})
NOT_SERVED = frozenset({"Atlantis"})
UNREACHABLE = frozenset({"c-unreachable"})


def amount_cents(lines: Iterable[Line]) -> int:
    """The sum of an order. Raises KeyError with the sku that is not sold."""
    return sum(PRICES_CENTS[line.sku] * line.quantity for line in lines)
