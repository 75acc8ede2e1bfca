"""The vocabulary."""

import ast
import dataclasses
import re
import sys
from pathlib import Path

import pytest

import services.domain
from services.domain import catalog
from services.domain import messages as m
from tests.domain.strategies import make_event, make_order

ORDER = make_order()


def test_every_message_is_in_the_vocabulary() -> None:
    """A command or event that a decoder does not accept cannot be declared."""
    bases = {m.Command, m.Event, m.Refusal, m.Quote}
    declared = {t for t in vars(m).values() if isinstance(t, type) and bases & set(t.__mro__)} - bases
    assert set(m.MESSAGES.values()) == declared
    assert len(m.MESSAGES) == len(declared)


@pytest.mark.parametrize("name", m.MESSAGES)
def test_a_type_name_leads_back_to_its_type(name: str) -> None:
    """The dotted name is the class name and nothing else, so either gives the other."""
    message_type = m.MESSAGES[name]
    assert m.type_name(message_type) == name
    assert "".join(part.title() for part in name.split(".")) == message_type.__name__
    assert re.fullmatch(r"[a-z]+(\.[a-z]+)+", name)


def test_type_names_that_people_rely_on() -> None:
    """A literal, since brokers, traces and other programs have these names too."""
    assert m.type_name(m.StockReserved) == "stock.reserved"
    assert m.type_name(m.ReserveStock) == "reserve.stock"


@pytest.mark.parametrize("message_type", m.MESSAGES.values(), ids=m.MESSAGES)
def test_a_message_never_changes(message_type: type[m.Command | m.Event]) -> None:
    """Every field of every message is frozen, and so is the order within."""
    message = message_type(ORDER) if issubclass(message_type, m.Command) else make_event(ORDER, message_type, "no")
    assert dataclasses.is_dataclass(message_type)
    for field in dataclasses.fields(message):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field.name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.order.amount_cents = 0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.order.lines[0].quantity = 0  # type: ignore[misc]
    hash(message)


def test_messages_of_two_types_are_never_equal() -> None:
    """The type is part of what a message says."""
    assert m.StockReserved(ORDER) == m.StockReserved(make_order())
    assert m.StockReserved(ORDER) != m.PaymentCharged(ORDER)
    assert m.StockRefused(ORDER, "no") != m.StockRefused(ORDER, "sold out")
    assert m.QuoteOffered(ORDER, "swift", 900, 1) != m.QuoteCountered(ORDER, "swift", 900, 1)
    assert m.QuoteOffered(ORDER, "swift", 900, 1) != m.QuoteOffered(ORDER, "swift", 900, 2)


def test_commands_are_imperative_and_events_are_past() -> None:
    """An event's last word is a participle (-ed, but for two); no command's first word is."""
    for message_type in m.MESSAGES.values():
        first, *_, last = re.findall("[A-Z][a-z]+", message_type.__name__)
        if issubclass(message_type, m.Event):
            assert last.endswith("ed") or last in {"Chosen", "Found"}, message_type
        else:
            assert not first.endswith("ed"), message_type


def test_money_is_an_int_of_cents() -> None:
    """The sum of an order is exact, and what is not sold is named."""
    assert catalog.amount_cents([m.Line("tea", 2), m.Line("cup", 1)]) == 2 * 450 + 1200
    assert all(type(price) is int and price > 0 for price in catalog.PRICES_CENTS.values())
    with pytest.raises(KeyError, match="gold"):
        catalog.amount_cents([m.Line("gold", 1)])


def test_what_is_always_out_of_stock_is_for_sale() -> None:
    """An order that must be refused can be placed."""
    assert set(catalog.PRICES_CENTS) >= catalog.ALWAYS_OUT_OF_STOCK


def test_the_domain_needs_the_standard_library_alone() -> None:
    """Pure: no library, nothing else of ours, and no module that reads clocks, makes ids or does I/O."""
    impure = {"asyncio", "datetime", "io", "os", "pathlib", "random", "secrets", "socket", "time", "uuid"}
    for path in Path(services.domain.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                root = name.partition(".")[0]
                assert name.startswith("services.domain") or root in sys.stdlib_module_names, f"{path}: {name}"
                assert root not in impure, f"{path}: {name}"
