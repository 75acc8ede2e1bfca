"""Asking every service what it noted, and the brokers, through the services, what they hold."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from lab.ask import ask
from lab.targets import LabError

Row = Mapping[str, Any]
T = TypeVar("T")
PAGE = 5_000
LETTERS = 1_000
SKEW_S = 60
"""Services' clocks may differ by so much, on several machines."""
_NS = 1_000_000_000


class Place(NamedTuple):
    broker: str
    channel: str
    group: str


@dataclass
class Stock:
    """What was found: rows by the service that has them, counts and letters by place, and who could not be asked."""

    orders: Sequence[Row] = ()
    outbox: Sequence[Row] = ()
    ledgers: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    effects: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    held: Mapping[Place, int] = field(default_factory=dict)
    letters: Mapping[Place, Mapping[str, Row]] = field(default_factory=dict)
    away: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Why a broker did not answer, by broker and group."""
    complete_since_ns: int = 0
    first_ns: int = 0
    """Since when rows were asked for."""


def take_stock(ports: Mapping[str, str], *, run_id: str = "", since: int = 0) -> Stock:
    """Ask every service what it noted. Raises LabError where one does not answer or does not remember that far back."""
    if "orders" not in ports:
        raise LabError("orders does not run here: lab status")
    stock = Stock(orders=list(pages(ports["orders"], "/audit/orders", since_ns=since, run_id=run_id)))
    if not stock.orders:
        return stock
    oldest_ns = min(order["accepted_at_ns"] for order in stock.orders)
    stock.first_ns = max(0, oldest_ns - SKEW_S * _NS)
    stock.outbox = list(pages(ports["orders"], "/audit/outbox", since_ns=stock.first_ns))
    stock.ledgers = _ledgers(ports, stock)
    stock.effects = _of_each(ports, lambda url: list(pages(url, "/audit/effects", since_ns=stock.first_ns)))
    if stock.complete_since_ns > oldest_ns:
        raise LabError(
            f"what the services noted before {_instant(stock.complete_since_ns)} is gone, and the first of these "
            f"orders is of {_instant(oldest_ns)}: ask for later ones (--since)"
        )
    return stock


def ask_brokers(stock: Stock, ports: Mapping[str, str]) -> None:
    """Complete ``stock`` by what is held, only then by what was heard meanwhile, and by what was given up. A message is
    noted as heard before it is acknowledged, so one that was said and is neither held nor heard is nowhere."""
    stock.held, away = _held(ports)
    said, heard = stock.ledgers, _ledgers(ports, stock)
    stock.ledgers = {
        service: [*(row for row in said[service] if row["said"]), *(row for row in heard[service] if not row["said"])]
        for service in ports
    }
    stock.letters, also_away = _letters(ports)
    stock.away = {**away, **also_away}


def _of_each(ports: Mapping[str, str], ask_one: Callable[[str], T]) -> dict[str, T]:
    """What each service answers, all asked at once: brokers take their time."""
    with ThreadPoolExecutor(len(ports), "lab-audit") as pool:
        return dict(zip(ports, pool.map(ask_one, ports.values()), strict=True))


def pages(url: str, path: str, **params: Any) -> Iterator[Row]:
    """All rows of what a service tells in pages."""
    after: Any = None
    while True:
        page = ask("GET", url + path, params={**params, "limit": PAGE, **({} if after is None else {"after": after})})
        yield from page["rows"]
        after = page["after"]
        if after is None:
            return


def _ledgers(ports: Mapping[str, str], stock: Stock) -> dict[str, list[Row]]:
    answers = _of_each(ports, lambda url: _ledger(url, stock.first_ns))
    stock.complete_since_ns = max(since_ns for _, since_ns in answers.values())
    return {service: rows for service, (rows, _) in answers.items()}


def _ledger(url: str, first_ns: int) -> tuple[list[Row], int]:
    """The rows since then, and the instant before which some may be gone."""
    rows: list[Row] = []
    after = 0
    while True:
        page = ask("GET", f"{url}/ledger", params={"since_ns": first_ns, "after": after, "limit": PAGE})
        rows += page["rows"]
        if page["after"] is None:
            return rows, page["complete_since_ns"]
        after = page["after"]


def _held(ports: Mapping[str, str]) -> tuple[dict[Place, int], dict[tuple[str, str], str]]:
    held: dict[Place, int] = {}
    away: dict[tuple[str, str], str] = {}
    for service, answer in _of_each(ports, lambda url: ask("GET", f"{url}/held", timeout=120)).items():
        held.update({Place(each["broker"], each["channel"], service): each["held"] for each in answer["held"]})
        away.update({(each["broker"], service): each["reason"] for each in answer["unavailable"]})
    return held, away


def _letters(ports: Mapping[str, str]) -> tuple[dict[Place, dict[str, Row]], dict[tuple[str, str], str]]:
    letters: dict[Place, dict[str, Row]] = defaultdict(dict)
    away: dict[tuple[str, str], str] = {}
    how: dict[str, Any] = {"params": {"limit": LETTERS}, "timeout": 120}
    for service, answer in _of_each(ports, lambda url: ask("GET", f"{url}/dead-letters", **how)).items():
        for letter in answer["dead_letters"]:
            letters[Place(letter["broker"], letter["channel"], service)][letter["id"][:200]] = letter
        away.update({(each["broker"], service): each["reason"] for each in answer["unavailable"]})
    return letters, away


def _instant(ns: int) -> str:
    return datetime.fromtimestamp(ns / _NS, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
