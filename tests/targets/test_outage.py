"""``lab outage``: how orders are told apart, and that the outage ends whatever happens."""

import pytest
from rich.console import Console

from lab.outage import CASES, HEADINGS, _Outage, kind_of, phases, rows, show
from lab.targets import LabError
from load.plan import Flow
from load.records import FlowResult, OrderRecord
from services.styles import STYLES


def record(index, *, due_s=0.0, accept_ms=100.0, outcome="completed", complete_ms=100.0):
    return OrderRecord(
        index,
        "ordinary",
        outcome,
        order_id=None if outcome == "failed" else f"o-{index}",
        due_s=due_s,
        accept_ms=accept_ms,
        complete_ms=None if outcome in {"failed", "lost"} else complete_ms,
    )


def result(*records):
    return FlowResult(Flow("request_response", "rest"), "", "", list(records))


def test_an_order_belongs_to_the_phase_in_which_it_was_sent():
    before, during, after = phases(
        result(
            record(0),
            record(1, outcome="failed", accept_ms=2000),
            record(2, outcome="lost"),
            record(3, complete_ms=300),
        ),
        began=1,
        ended=3,
    )
    assert (before.orders, before.accepted, before.failed, before.ended, before.lost) == (1, 1, 0, 1, 0)
    assert (during.orders, during.accepted, during.failed, during.ended, during.lost) == (2, 1, 1, 0, 1)
    assert (after.orders, after.accepted, after.failed, after.ended, after.lost) == (1, 1, 0, 1, 0)
    assert during.answer_p95_ms == pytest.approx(1905)
    assert during.complete_p95_ms is None
    assert after.complete_p95_ms == 300


def test_callers_wait_at_once_whose_answers_overlap():
    waits = [record(n, due_s=n / 10, accept_ms=250) for n in range(10)]
    (before, _, _) = phases(result(*waits), began=10, ended=10)
    assert before.waiting == 3


def test_an_outage_ends_also_when_the_load_is_cut():
    said = []
    outage = _Outage(lambda: said.append("begin"), lambda: said.append("end"), after_orders=2, for_s=60)
    outage.watch({"sent": 1})
    assert said == []
    outage.watch({"sent": 2})
    outage.cut()
    assert said == ["begin", "end"]
    outage.check()


def test_an_outage_that_cannot_begin_says_why_and_is_undone():
    said = []

    def begin():
        raise LabError("payment is not there")

    outage = _Outage(begin, lambda: said.append("end"), after_orders=0, for_s=60)
    outage.watch({"sent": 1})
    outage.cut()
    with pytest.raises(LabError, match="payment is not there"):
        outage.check()
    assert said == ["end"]


def test_a_load_that_is_too_short_is_said():
    outage = _Outage(lambda: None, lambda: None, after_orders=5, for_s=1)
    outage.cut()
    with pytest.raises(LabError, match="over before the outage"):
        outage.check()


def test_the_cases_are_flows_that_can_be():
    assert all(len(STYLES[case.flow.style].ports) == len(case.flow.transport.split(",")) for case in CASES)


def test_a_service_can_hang_or_be_killed():
    assert [kind_of(how) for how in ("hang", "kill")] == ["hang", "kill"]
    with pytest.raises(LabError, match="a service can hang or kill, not 'die'") as wrong:
        kind_of("die")
    assert wrong.value.exit_code == 2


def test_the_cases_stand_side_by_side(capsys):
    """Three rows each, whole on 100 columns."""
    seen = {case.name: phases(result(record(0), record(1, outcome="failed")), began=1, ended=2) for case in CASES}
    table = rows(seen)
    assert [row[0] for row in table[::3]] == [case.name for case in CASES]
    assert [row[1] for row in table[:3]] == ["before", "during", "after"]
    assert {len(row) for row in table} == {len(HEADINGS)}
    assert table[1][2:6] == ("1", "0", "1", "100")
    assert table[2][5:7] == ("-", "-")
    show(seen, Console(width=100))
    assert "…" not in capsys.readouterr().out
