"""antiphon.ice: what is generated from it is what is committed, and it says the same as the domain."""

from tests import ice  # noqa: F401, isort: skip  (first: it makes Ice importable, or skips this)

import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import Ice
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contracts.generate import HERE, generate
from services.contracts.slice import Antiphon, command_to, event_from, event_to, order_from, order_to
from services.domain.messages import (
    ChargePayment,
    Command,
    Event,
    Line,
    NotificationDispatched,
    NotifyCustomer,
    Order,
    type_name,
)
from services.domain.order import STEP_OF, STEPS
from services.transports.rpc.ice import full_name
from tests.contracts.test_contracts import ANSWERS, COMMANDS, asked, events, orders


def test_what_is_generated_is_committed(tmp_path: Path) -> None:
    """In any version of 3.7: the compiler's is not written down."""
    made = tmp_path / "generated/antiphon_ice.py"
    assert made in generate(tmp_path)
    assert made.read_text() == (HERE / "generated/antiphon_ice.py").read_text()


@pytest.mark.parametrize("message", [Line, Order, Command], ids=lambda message: message.__name__)
def test_it_has_the_domain_s_fields(message: type) -> None:
    members = inspect.signature(getattr(Antiphon, message.__name__)).parameters
    assert list(members) == [field.name for field in fields(message)]


def test_an_event_may_have_a_reason() -> None:
    members = inspect.signature(Antiphon.Event).parameters
    assert list(members) == ["type", "order", "reason"]
    assert members["reason"].default is Ice.Unset


def test_every_command_is_one_operation() -> None:
    interfaces = {step.service.capitalize() for step in STEPS}
    operations = {
        f"Antiphon::{interface}/{name.removeprefix('_op_')}"
        for interface in interfaces
        for name in vars(getattr(Antiphon, interface))
        if name.startswith("_op_")
    }
    assert operations == {full_name(command) for command in COMMANDS}


@pytest.fixture(scope="module")
def echo() -> Iterator[Any]:
    """A payment service without a wire that answers with what the test wants; encoding is Ice's all the same."""

    class Payment(Antiphon.Payment):  # type: ignore[misc]
        def charge(self, sent: Any, current: Any = None) -> Any:
            self.sent = sent
            return self.answer

    servant = Payment()
    with Ice.initialize() as communicator:
        adapter = communicator.createObjectAdapter("")
        adapter.activate()
        proxy = Antiphon.PaymentPrx.uncheckedCast(adapter.addWithUUID(servant))

        def echo(command: Command, event: Event) -> tuple[Any, Any]:
            servant.answer = event_to(event)
            answer = proxy.charge(command_to(command))
            return servant.sent, answer

        yield echo


@settings(deadline=None)
@given(order=orders)
def test_an_order_survives_slice(echo: Any, order: Order) -> None:
    sent, _ = echo(ChargePayment(order), STEP_OF[ChargePayment].done(order))
    assert order_from(sent.order) == order


@pytest.mark.parametrize("event_type", ANSWERS.values(), ids=type_name)
@settings(deadline=None)
@given(data=st.data())
def test_an_event_survives_slice(echo: Any, event_type: type[Event], data: st.DataObject) -> None:
    event = data.draw(events(event_type))
    _, answer = echo(asked(event), event)
    assert event_from(answer, asked(event)) == event


def test_that_somebody_is_being_told_is_no_answer(echo: Any) -> None:
    """It is of the same step, but travels as a message only."""
    order = Order("o-1", "c-1", "4242", "Zürich", (Line("tea", 1),), 100)
    _, answer = echo(NotifyCustomer(order), NotificationDispatched(order))
    with pytest.raises(ValueError, match=r"'notification\.dispatched' is no answer to notify\.customer"):
        event_from(answer, NotifyCustomer(order))


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"order_id": ""}, "order.order_id: is missing or empty"),
        ({"lines": []}, "order.lines: is missing or empty"),
        ({"lines": [Antiphon.Line("tea", 1), Antiphon.Line("tea", 0)]}, "order.lines.1.quantity: is missing or less"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(changes: dict[str, Any], wrong: str) -> None:
    order = order_to(Order("o-1", "c-1", "4242", "Zürich", (Line("tea", 1),), 100))
    for name, value in changes.items():
        setattr(order, name, value)
    with pytest.raises(ValueError, match=wrong):
        order_from(order)
