"""`lab dlq`: what was given up is listed, shown, tried again and thrown away, by one who only has the tool."""

import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import cli, dlq
from tests.services.lab import ORDER
from tests.services.parts import publish_raw
from tests.targets.served import ServedLab, served_lab

Run = Callable[..., tuple[int, str, str]]
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def one_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLab]:
    with served_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def served(one_lab: ServedLab) -> ServedLab:
    """The lab that all tests share, as if it had just been started."""
    one_lab.clean(f"run-{next(NUMBERS)}.")
    return one_lab


@pytest.fixture
def lab(served: ServedLab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as `lab dlq` would: (exit code, stdout, stderr)."""
    monkeypatch.setattr(dlq, "_target", lambda: served.target)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lab", "dlq", *words])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def given_up(served: ServedLab, orders: int = 1) -> list[str]:
    """Orders that payment has given up; gives their ids."""
    served.put(payment__error_rate="1", messaging__max_attempts="1")
    ids = [served.place(ORDER, "message_queue") for _ in range(orders)]
    served.until(lambda: len(served.network.dead_letters) == orders, "payment gives up")
    served.quiet()
    return ids


def stranger(served: ServedLab, headers: dict[str, str], body: bytes) -> None:
    """Bytes in payment's queue that are no message of ours."""
    count = len(served.network.dead_letters)

    async def put() -> None:
        publish_raw(served.network, "payment.commands", headers, body)
        async with served.network.arrived:
            served.network.arrived.notify_all()

    served.run(put())
    served.until(lambda: len(served.network.dead_letters) == count + 1, "nobody can read it")


def letters(lab: Run) -> list[dict[str, Any]]:
    code, out, _ = lab("list", "--json")
    assert code == 0
    found: list[dict[str, Any]] = json.loads(out)["dead_letters"]
    return found


def test_where_there_are_none_it_says_so(lab: Run) -> None:
    assert lab("list") == (0, "no dead letters\n", "")
    assert lab("replay", "--all", "--yes") == (0, "no dead letters\n", "")
    assert lab("show", "m-1") == (1, "", "lab: there are no dead letters: lab dlq list\n")


def test_from_poison_to_the_orders_end(served: ServedLab, lab: Run) -> None:
    (order_id,) = given_up(served)
    code, out, err = lab("list")
    (letter,) = letters(lab)
    assert (code, err) == (0, "")
    for word in (letter["id"], "payment", "memory", "payment.commands", "charge.payment", order_id, "RuntimeError"):
        assert word in out
    code, out, _ = lab("show", letter["id"])
    assert code == 0
    assert f".venv/bin/lab trace {order_id}" in out
    assert letter["trace_id"] in out
    assert "ce-type: charge.payment" in out
    assert '"card": "4242424242424242"' in out
    served.put(payment__error_rate="0")
    code, out, _ = lab("replay", letter["id"])
    assert (code, out) == (0, f"replayed {letter['id']} back into payment.commands on memory for payment\n")
    assert served.state(order_id, wait_s=20) == "completed"
    assert lab("list") == (0, "no dead letters\n", "")


def test_what_is_dropped_is_gone_for_good(served: ServedLab, lab: Run) -> None:
    (order_id,) = given_up(served)
    (letter,) = letters(lab)
    assert lab("drop", letter["id"]) == (0, f"dropped {letter['id']} from payment.commands on memory for payment\n", "")
    served.put(payment__error_rate="0")
    assert letters(lab) == []
    assert served.state(order_id) == "accepted"


def test_all_at_once_wants_a_yes(served: ServedLab, lab: Run) -> None:
    ids = given_up(served, 3)
    code, out, err = lab("replay", "--all")
    assert (code, out) == (2, "")
    assert "lab dlq replay --all --yes" in err
    assert len(letters(lab)) == 3
    served.put(payment__error_rate="0")
    code, out, _ = lab("replay", "--all", "--yes", "--json")
    told = json.loads(out)
    assert (code, len(told["done"]), told["failed"]) == (0, 3, [])
    assert {served.state(order_id, wait_s=20) for order_id in ids} == {"completed"}
    given_up(served, 2)
    code, out, _ = lab("drop", "--all", "--yes")
    assert (code, out.count("dropped ")) == (0, 2)
    assert letters(lab) == []


def test_bytes_of_a_stranger_are_shown_in_hex_and_move_no_cursor(served: ServedLab, lab: Run) -> None:
    stranger(served, {"ce-id": "\x1b[2Jm", "ce-type": "[red]x"}, b"\x00\xff" * 100)
    stranger(served, {}, b"?")
    first, second = letters(lab)
    assert second["id"].startswith("sha256-")
    for words in (("list",), ("show", first["id"])):
        code, out, _ = lab(*words)
        assert code == 0
        assert "\x1b[2J" not in out
        assert "\\x1b[2Jm" in out
        assert "[red]x" in out
    assert "00 ff 00 ff" in out
    assert "(200 bytes)" in out
    assert "none: its headers name no context" in out
    assert lab("drop", first["id"])[0] == 0
    assert lab("drop", second["id"])[0] == 0


def test_one_service_alone(served: ServedLab, lab: Run) -> None:
    given_up(served)
    assert lab("list", "shipping") == (0, "no dead letters\n", "")
    assert "charge.payment" in lab("list", "payment")[1]
    assert lab("list", "paymnet") == (1, "", "lab: no service is called 'paymnet': did you mean 'payment'?\n")


@pytest.mark.parametrize("verb", ["show", "replay", "drop"])
def test_an_unknown_id_gets_the_near_ones(served: ServedLab, lab: Run, verb: str) -> None:
    given_up(served)
    (letter,) = letters(lab)
    code, out, err = lab(verb, letter["id"][:8])
    assert (code, out) == (1, "")
    assert err == f"lab: no dead letter is called {letter['id'][:8]!r}: did you mean {letter['id']}?\n"
    assert f"did you mean {letter['id']!r}" in lab(verb, f"{letter['id'][:-1]}x")[2]
    assert "there are" in lab(verb, "something-else")[2]
    assert len(letters(lab)) == 1


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_one_or_all_but_not_both_and_not_none(served: ServedLab, lab: Run, verb: str) -> None:
    for words in ((), ("m-1", "--all")):
        code, out, err = lab(verb, *words)
        assert (code, out, err) == (2, "", f"lab: which one? lab dlq {verb} ID, or lab dlq {verb} --all\n")


def test_one_that_is_gone_by_then_is_said(served: ServedLab, lab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up(served)
    (letter,) = letters(lab)
    found = dlq.found

    def then_gone(*words: Any) -> Any:
        listed = found(*words)
        served.network.dead_letters.clear()
        return listed

    monkeypatch.setattr(dlq, "found", then_gone)
    code, out, err = lab("replay", letter["id"])
    assert (code, out) == (1, "")
    assert err == f"{letter['id']} of payment: there is no dead letter '{letter['id']}'\n"


def test_a_lab_that_is_down_is_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capfd: Any) -> None:
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LAB_TARGET", raising=False)
    monkeypatch.setattr(sys, "argv", ["lab", "dlq", "list"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 3
    assert "lab up" in capfd.readouterr().err
