"""`lab audit`: what became of every message, in figures and in a line for each order that is not fine."""

import io
import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from lab import cli, commands
from lab.audit import Report, ask_brokers, audit, reconcile, show, take_stock
from services.storage.database import EFFECTS, ORDERS, OUTBOX
from services.styles import STYLES
from services.telemetry.conventions import LAB_RUN_ID
from services.transports.messaging.memory import MemoryDelivery
from tests.services.lab import DECLINED, ORDER, OUT_OF_STOCK
from tests.services.parts import effects_of
from tests.targets.served import ServedLab, served_lab

Run = Callable[..., tuple[int, str, str]]
FIGURES = {
    # style: messages produced, delivered to a group
    "request_response": (0, 0),
    "async_request_response": (8, 8),
    "notification": (1, 1),
    "message_queue": (8, 8),
    "publish_subscribe": (5, 8),
    "choreography": (5, 11),
    "orchestration": (8, 8),
}


NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def one_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLab]:
    with served_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def served(one_lab: ServedLab) -> ServedLab:
    """The lab that all tests share, with a run of each test's own."""
    one_lab.clean(f"run-{next(NUMBERS)}.")
    return one_lab


def audited(served: ServedLab) -> Report:
    return audit(served.ports, run_id=served.run_id)


@pytest.fixture
def lab(served: ServedLab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as `lab` would: (exit code, stdout, stderr)."""
    monkeypatch.setattr(commands, "_target", lambda **_: served.target)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lab", *words])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        out = "\n".join(line for line in out.splitlines() if not line.startswith("event="))
        return int(ended.value.code or 0), out, err

    return run


async def charged(served: ServedLab, order_id: str) -> bool:
    return "charge.payment" in await effects_of(served.lab.participants["payment"].database, order_id)


def flow(report: Report, style: str) -> Any:
    (found,) = [each for each in report.flows if each.style == style]
    return found


def test_the_run_is_named_as_in_the_baggage() -> None:
    assert LAB_RUN_ID == "lab.run_id"


def test_where_all_is_well_everything_produced_was_delivered_once(served: ServedLab) -> None:
    for style in STYLES:
        served.finished(ORDER, style)
        served.finished(DECLINED, style)
    report = audited(served)
    assert report.violations == []
    assert report.orders == []
    assert [(each.style, each.orders, each.completed, each.rejected) for each in report.flows] == [
        (style, 2, 1, 1) for style in sorted(STYLES)
    ]
    for each in report.flows:
        assert (each.open, each.duplicated, each.suppressed, each.lost, each.dead_lettered, each.pending) == (0,) * 6
        assert each.effects_twice == 0
        # payment first, as in hybrid, has nothing done before it is declined
        assert each.compensated_orders == (0 if each.style == "hybrid" else 1), each.style
        assert each.compensated_effects >= each.compensated_orders


@pytest.mark.parametrize("style", FIGURES)
def test_figures_of_one_order(served: ServedLab, style: str) -> None:
    served.finished(ORDER, style)
    found = flow(audited(served), style)
    assert (found.produced, found.delivered) == FIGURES[style]
    assert found.effects == 4


def test_a_run_is_told_from_other_orders(served: ServedLab) -> None:
    own = served.finished(ORDER, "choreography")
    longer = served.finished(ORDER, "choreography", f"{served.run_id}1")
    none = served.finished(ORDER, "choreography", "")
    assert [row["id"] for row in take_stock(served.ports, run_id=served.run_id).orders] == [own]
    assert {own, longer, none} <= {row["id"] for row in take_stock(served.ports).orders}
    assert audit(served.ports, run_id=served.run_id.replace("-", "_")).flows == []


def test_what_a_broker_holds_is_pending_and_what_it_lets_go_of_is_lost(served: ServedLab, lab: Run) -> None:
    """Said, due, not heard, not dead: as long as the broker has it, it is on its way."""
    served.put(shipping__pause="on")
    orders = [served.place(ORDER, "choreography") for _ in range(2)]
    queue = served.network.queues["payment.events", "shipping"]
    served.until(lambda: len(queue) == 1 or None, "one message is in hand, one in the queue")
    code, out, _ = lab("audit", served.run_id, "--json")
    told = json.loads(out)
    assert (code, told["ok"], told["totals"]["pending"] >= 2, told["totals"]["lost"]) == (0, True, True, 0)
    assert {order["id"] for order in told["orders"]} == set(orders)
    for order in told["orders"]:
        assert (order["stuck"], order["explained"]) == ("shipment of shipping", True)
        assert "waits for shipping in payment.events on memory" in order["text"]

    gone = queue.popleft()  # behind everybody's back
    served.put(shipping__pause="off")
    (other,) = set(orders) - {gone.key}
    assert served.state(other, wait_s=20) == "completed"
    served.quiet()
    code, out, _ = lab("audit", served.run_id, "--json")
    told = json.loads(out)
    assert (code, told["violations"]) == (1, ["1 messages lost that should not be"])
    (order,) = told["orders"]
    (problem,) = order["problems"]
    assert (order["id"], problem["kind"], problem["message_id"]) == (gone.key, "lost", gone.headers["ce-id"])
    assert (problem["type"], problem["channel"], problem["group"]) == ("payment.charged", "payment.events", "shipping")


def test_what_a_broker_confirmed_and_dropped_is_lost(served: ServedLab, lab: Run) -> None:
    served.put(payment__choreography__drop_rate="1")
    lost = served.place(ORDER, "choreography")
    fine = served.finished(ORDER, "orchestration")
    served.until(lambda: charged(served, lost), "payment has charged")
    served.quiet()
    code, out, _ = lab("audit", served.run_id, "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (1, False)
    assert told["violations"] == ["3 messages lost that should not be"]  # to orders, to shipping and to inventory
    (order,) = told["orders"]
    assert order["id"] == lost != fine
    assert {problem["group"] for problem in order["problems"]} == {"orders", "shipping", "inventory"}
    assert {(p["kind"], p["type"], p["channel"]) for p in order["problems"]} == {
        ("lost", "payment.charged", "payment.events")
    }
    assert order["problems"][0]["look"] == f".venv/bin/lab trace {lost}"
    code, out, _ = lab("audit", served.run_id)
    assert code == 1
    assert f"\n{lost} choreography/memory accepted, waits for payment of payment: payment.charged" in out
    assert f"  .venv/bin/lab trace {lost}\n" in out
    assert out.endswith("3 messages lost that should not be")


def test_a_message_taken_out_of_a_queue_is_lost(served: ServedLab) -> None:
    """The broker itself loses it: nobody has it, and the audit names it and whom it did not reach."""
    served.put(orders__hold_outbox="on")
    order_id = served.place(ORDER, "message_queue")
    report = audited(served)
    assert report.violations == []
    assert (flow(report, "message_queue").pending, report.orders[0].problems[0].kind) == (1, "outbox")

    # as if the broker had confirmed it, and had forgotten it since
    confirmed = OUTBOX.update().where(OUTBOX.c.order_id == order_id).values(published_at_ns=2**62)
    served.run(served.lab.orders.process.database.write(lambda connection: connection.execute(confirmed)))
    report = audited(served)
    assert report.violations == ["1 messages lost that should not be"]
    (finding,) = report.orders
    (problem,) = finding.problems
    assert finding.id == order_id
    assert (problem.kind, problem.type, problem.group, problem.declared) == (
        "lost",
        "reserve.stock",
        "inventory",
        False,
    )


def test_what_the_transport_does_not_promise_is_shown_and_no_failure(served: ServedLab) -> None:
    served.put(payment__drop_rate="1")
    lost = served.place(ORDER, "choreography")
    served.until(lambda: charged(served, lost), "payment has charged")
    served.quiet()
    stock = take_stock(served.ports, run_id=served.run_id)
    ask_brokers(stock, served.ports)
    assert reconcile(stock).violations != []

    def over_pubsub(rows: Any) -> Any:
        return [
            {**row, "transport": "redis_pubsub", **({"broker": "redis_pubsub"} if "broker" in row else {})}
            for row in rows
        ]

    stock.orders, stock.outbox = over_pubsub(stock.orders), over_pubsub(stock.outbox)
    stock.ledgers = {service: over_pubsub(rows) for service, rows in stock.ledgers.items()}
    stock.held = {place._replace(broker="redis_pubsub"): count for place, count in stock.held.items()}
    report = reconcile(stock)
    assert report.violations == []
    assert flow(report, "choreography").lost == flow(report, "choreography").lost_declared == 3
    assert "redis_pubsub delivers at most once" in report.orders[0].text


def test_what_was_published_twice_is_suppressed(served: ServedLab) -> None:
    served.put(**{f"{service}__duplicate_rate": "1" for service in ("orders", "payment")})
    served.finished(ORDER, "choreography")
    report = audited(served)
    found = flow(report, "choreography")
    assert report.violations == []
    # at least OrderPlaced to inventory; PaymentCharged to orders, shipping, and inventory, which has no use for it;
    # and who hears something again says again what came of it
    assert found.produced == 5
    assert found.delivered == 11 + found.duplicated
    assert found.duplicated >= found.suppressed >= 3
    assert found.duplicated >= 4
    assert (found.effects, found.effects_twice) == (4, 0)


def test_what_is_redelivered_is_counted(served: ServedLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker does not hear of the acknowledgement, once: it delivers again."""
    ack, deaf = MemoryDelivery.ack, [True]

    async def not_heard(delivery: MemoryDelivery) -> None:
        if delivery.group == "payment" and deaf:
            deaf.pop()
            delivery.broker.settled(delivery)
            await delivery.broker.release(delivery, 2)
        else:
            await ack(delivery)

    monkeypatch.setattr(MemoryDelivery, "ack", not_heard)
    served.finished(ORDER, "message_queue")
    found = flow(audited(served), "message_queue")
    # payment says its answer, and the next command, again: shipping and orders hear these twice, and so on
    assert deaf == []
    assert (found.produced, found.delivered) == (8, 8 + found.duplicated)
    assert found.duplicated == found.suppressed >= 1
    assert (found.effects, found.effects_twice) == (4, 0)


def test_an_effect_done_twice_is_a_failure(served: ServedLab, lab: Run) -> None:
    order_id = served.finished(ORDER, "choreography")
    database = served.lab.participants["payment"].database
    again = EFFECTS.insert().values(order_id=order_id, action="charge.payment", cause="x", at_ns=2**62)
    served.run(database.write(lambda connection: connection.execute(again)))
    code, out, _ = lab("audit", served.run_id, "--json")
    told = json.loads(out)
    assert (code, told["violations"], told["totals"]["effects_twice"]) == (1, ["1 effects done twice"], 1)
    assert told["orders"][0]["text"] == "payment did charge.payment 2 times"


def test_effects_that_do_not_fit_the_end_are_a_failure(served: ServedLab) -> None:
    kept = served.finished(DECLINED, "choreography")
    missing = served.finished(ORDER, "choreography")

    def forget(order_id: str, action: str) -> Any:
        gone = EFFECTS.delete().where(EFFECTS.c.order_id == order_id, EFFECTS.c.action == action)
        return lambda connection: connection.execute(gone)

    served.run(served.lab.participants["inventory"].database.write(forget(kept, "release.stock")))
    served.run(served.lab.participants["shipping"].database.write(forget(missing, "book.shipment")))
    report = audited(served)
    assert sorted(report.violations) == [
        "1 effects missing of completed orders",
        "1 effects not taken back of rejected orders",
    ]
    texts = {order.id: order.text for order in report.orders}
    assert texts[kept] == "it was rejected, and inventory did reserve.stock and never release.stock"
    assert texts[missing] == "it was completed, and shipping never did book.shipment"


def test_an_open_order_that_nothing_explains_is_a_failure(served: ServedLab, lab: Run) -> None:
    """As if orders had forgotten to fold what it heard last."""
    order_id = served.finished(ORDER, "choreography")
    reopen = ORDERS.update().where(ORDERS.c.id == order_id).values(state="accepted", completed_at_ns=None)
    served.run(served.lab.orders.process.database.write(lambda connection: connection.execute(reopen)))
    code, out, _ = lab("audit", served.run_id)
    assert code == 1
    assert f"{order_id} choreography/memory accepted: no message of it is under way, and nobody carries it on" in out
    assert out.endswith("1 orders are open and nothing says why")


def test_a_dead_letter_explains_an_open_order(served: ServedLab, lab: Run) -> None:
    served.put(shipping__error_rate="1", messaging__max_attempts="1")
    order_id = served.place(ORDER, "choreography")
    served.until(lambda: served.network.dead_letters, "there is a dead letter")
    served.quiet()
    code, out, _ = lab("audit", served.run_id, "--json")
    told = json.loads(out)
    letter = served.network.dead_letters[0]
    assert (code, told["totals"]["dead_lettered"]) == (0, len(served.network.dead_letters))
    (order,) = told["orders"]
    assert (order["id"], order["stuck"]) == (order_id, "shipment of shipping")
    assert order["problems"][0]["look"] == f".venv/bin/lab dlq show {letter.id}"
    # dropped, it stays explained
    broker = served.lab.participants["shipping"].brokers["memory"]
    for each in list(served.network.dead_letters):
        assert served.run(broker.settle_dead_letter(each.channel, each.group, each.id, replay=False))
    code, out, _ = lab("audit", served.run_id, "--json")
    (order,) = json.loads(out)["orders"]
    assert (code, order["explained"]) == (0, True)
    assert "was dropped since" in order["text"]


def test_a_broken_off_conversation_is_carried_on(served: ServedLab) -> None:
    served.put(shipping__error_rate="1")
    answer = served.run(served.lab.place(ORDER, "request_response", baggage=f"lab.run_id={served.run_id}"))
    assert answer.status_code == 503
    report = audited(served)
    (finding,) = report.orders
    assert finding.stuck == "shipment of shipping"
    assert finding.explained
    assert "orders carries it on" in finding.text
    assert report.violations == []


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("run-1", "--since", "10m"), 2, "a run or --since, not both"),
        (("--since", "yesterday"), 2, "90s, 10m, 2h or 1d"),
        (("--since", "10"), 2, "90s, 10m, 2h or 1d"),
        (("no-such-run",), 1, "orders has no order of run 'no-such-run'"),
    ],
)
def test_a_wrong_word_is_one_line(lab: Run, words: tuple[str, ...], code: int, hint: str) -> None:
    ended, out, err = lab("audit", *words)
    assert (ended, out) == (code, "")
    assert hint in err
    assert err.count("\n") == 1


def test_without_a_run_the_last_hour_counts_and_else_the_last_run(served: ServedLab, lab: Run) -> None:
    served.finished(OUT_OF_STOCK, "choreography")
    served.finished(ORDER, "choreography", "")
    told = json.loads(lab("audit", "--json")[1])
    assert told["scope"] == "the last 1h"
    assert told["totals"]["orders"] >= 2
    (served.target.state_dir / "runs" / served.run_id).mkdir(parents=True)
    told = json.loads(lab("audit", "--json")[1])
    assert (told["scope"], told["totals"]["orders"]) == (f"run {served.run_id}", 1)


def test_what_is_older_than_the_ledger_is_refused(served: ServedLab, lab: Run) -> None:
    order_id = served.finished(ORDER, "choreography")
    aged = ORDERS.update().where(ORDERS.c.id == order_id)
    aged = aged.values(accepted_at_ns=ORDERS.c.accepted_at_ns - 25 * 3600 * 10**9)
    served.run(served.lab.orders.process.database.write(lambda connection: connection.execute(aged)))
    code, _, err = lab("audit", served.run_id)
    assert code == 1
    assert "is gone" in err


def test_a_service_that_does_not_answer_is_named(served: ServedLab, lab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served.finished(ORDER, "choreography")
    monkeypatch.setitem(served.ports, "payment", "http://127.0.0.1:1")
    code, _, err = lab("audit", served.run_id)
    assert code == 3
    assert "http://127.0.0.1:1" in err


@pytest.mark.parametrize("width", [80, 94])
def test_nothing_is_cut(served: ServedLab, width: int) -> None:
    served.put(payment__duplicate_rate="1")
    served.finished(ORDER, "publish_async_responses")
    served.finished(DECLINED, "async_request_response")
    printed = io.StringIO()
    show(audited(served), Console(width=width, file=printed))
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    assert "…" not in printed.getvalue()
    assert max(map(len, lines)) <= width
    begins = [line.split()[0] for line in lines if line]
    assert [word for word in begins if word in {"publish_async_", "responses", "async_request_", "response"}] == [
        *("async_request_", "response"),
        *("publish_async_", "responses"),
    ]
    assert ("nothing open, lost, dead, pending, twice" in lines) == (width == 80)
    assert lines[-1] == "all accounted for: nothing lost undeclared, nothing done twice"
