"""antiphon.thrift, the code that is made of it, and the way from the domain to that code and back."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thrift.protocol.TBase import TBase
from thrift.protocol.TCompactProtocol import TCompactProtocol, TCompactProtocolAccelerated
from thrift.Thrift import TType
from thrift.transport.TTransport import TMemoryBuffer

from lab.targets.local.provision import Files
from services.contracts import thrift_compiler
from services.contracts.generated.antiphon_thrift import Payment
from services.contracts.generated.antiphon_thrift import ttypes as t
from services.contracts.thrift_codec import METHODS, command_from, command_to, event_from, event_to, order_to
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
from tests.contracts.test_contracts import ANSWERS, asked, events, orders

COMMANDS = [command for step in STEPS for command in (step.do, step.undo) if command is not None]
ORDER = Order("o-1", "c-1", "4242", "Zürich", (Line("tea", 2), Line("茶碗", 1)), 2100)


@pytest.fixture(scope="module")
def compiler() -> Files:
    """Thrift's, which may have to be fetched."""
    try:
        return thrift_compiler.compiler()
    except thrift_compiler.CompilerMissingError as error:
        pytest.skip(str(error))


def test_what_is_generated_is_committed(compiler: Files, tmp_path: Path) -> None:
    """``make contracts`` would change nothing, leave nothing out, and names no place of this machine."""
    made = thrift_compiler.generate(tmp_path)
    committed = Path(thrift_compiler.IDL.parent, thrift_compiler.PACKAGE)
    assert [path.name for path in made] == sorted(path.name for path in committed.glob("*.py"))
    for path in made:
        assert path.read_text() == (committed / path.name).read_text(), path.name
        assert str(tmp_path.parent) not in path.read_text()


def test_a_compiler_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor is one that lies on PATH; what would get the right one is said."""
    other = tmp_path / "thrift"
    other.write_text("#!/bin/sh\necho Thrift version 0.99.1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(thrift_compiler.CompilerMissingError, match=r"apt-get install .*thrift-compiler$"):
        thrift_compiler.compiler()
    other.write_text(f"#!/bin/sh\necho Thrift version {thrift_compiler.VERSION}\n")
    assert thrift_compiler.compiler().path == other


def test_no_field_is_required() -> None:
    """Thrift's word for what can never be taken back."""
    contract = re.sub("//.*", "", thrift_compiler.IDL.read_text())
    assert "required" not in contract
    assert re.findall(r"\boptional (\w+ \w+)", contract) == ["string reason"]


@pytest.mark.parametrize("command", COMMANDS, ids=type_name)
def test_every_command_is_one_method(command: type[Command]) -> None:
    method = METHODS[command]
    verb = type_name(command).partition(".")[0]
    assert method.full_name == f"antiphon.{STEP_OF[command].service.capitalize()}/{verb}"
    assert [field[2] for field in method.result.thrift_spec] == ["success", "failed"]
    assert command_from(method, method.arguments(t.Command(order_to(ORDER)))) == command(ORDER)


def sent(struct: Any, protocol: Any = TCompactProtocolAccelerated) -> bytes:
    buffer = TMemoryBuffer()
    struct.write(protocol(buffer))
    return buffer.getvalue()


def received(struct: Any, data: bytes) -> Any:
    struct.read(TCompactProtocol(TMemoryBuffer(data)))
    return struct


@given(orders)
def test_a_command_survives_thrift(order: Order) -> None:
    command = ChargePayment(order)
    data = sent(command_to(command))
    assert command_from(METHODS[ChargePayment], received(Payment.charge_args(), data)) == command
    assert data == sent(command_to(command), TCompactProtocol), "the accelerated encoder writes the same"


@pytest.mark.parametrize("event_type", ANSWERS.values(), ids=type_name)
@given(data=st.data())
def test_an_event_survives_thrift(event_type: type[Event], data: st.DataObject) -> None:
    event = data.draw(events(event_type))
    assert event_from(received(t.Event(), sent(event_to(event))), asked(event)) == event


def test_that_somebody_is_being_told_is_no_answer() -> None:
    """It is of the same step, but travels as a message only."""
    with pytest.raises(ValueError, match=r"'notification\.dispatched' is no answer to notify\.customer"):
        event_from(event_to(NotificationDispatched(ORDER)), NotifyCustomer(ORDER))


FIELDS = [spec[2] for spec in t.Order.thrift_spec if spec]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_missing_is_named(field: str) -> None:
    order = order_to(ORDER)
    setattr(order, field, None)
    arguments = received(Payment.charge_args(), sent(Payment.charge_args(t.Command(order))))
    with pytest.raises(ValueError, match=rf"^order\.{field}: is missing$"):
        command_from(METHODS[ChargePayment], arguments)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_missing(field: str) -> None:
    """Whoever changes a field's type has taken it away: readers go by number and type."""

    class Changed(TBase):  # type: ignore[misc]
        thrift_spec = tuple(
            (spec[0], TType.DOUBLE, field, None, None) if spec and spec[2] == field else spec
            for spec in t.Order.thrift_spec
        )

    changed = Changed()
    vars(changed).update({**vars(order_to(ORDER)), field: 1.5})
    arguments = received(Payment.charge_args(), sent(Payment.charge_args(t.Command(changed)), TCompactProtocol))
    with pytest.raises(ValueError, match=rf"^order\.{field}: is missing$"):
        command_from(METHODS[ChargePayment], arguments)


def test_a_reader_skips_what_it_does_not_know() -> None:
    """A newer writer's fields, of any type and number."""

    class Newer(TBase):  # type: ignore[misc]
        thrift_spec = (*t.Order.thrift_spec, (7, TType.STRING, "coupon", "UTF8", None))

    newer = Newer()
    vars(newer).update({**vars(order_to(ORDER)), "coupon": "tea for two"})
    arguments = received(Payment.charge_args(), sent(Payment.charge_args(t.Command(newer)), TCompactProtocol))
    assert command_from(METHODS[ChargePayment], arguments) == ChargePayment(ORDER)


def test_the_accelerated_decoder_would_pass_over_what_is_no_text() -> None:
    """Why the other one reads what comes in: it says so. If this fails, the library has mended it."""
    data = sent(t.Line("tea", 1)).replace(b"tea", b"t\xffa")
    lenient = t.Line()
    lenient.read(TCompactProtocolAccelerated(TMemoryBuffer(data)))
    assert lenient.sku == "t\ufffda"
    with pytest.raises(UnicodeDecodeError):
        received(t.Line(), data)
