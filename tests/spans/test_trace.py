"""``lab trace``: the drawing itself, as one sees it without colours."""

import io

import pytest
from inline_snapshot import snapshot
from rich.console import Console

from lab.trace import render_trace, trace_command
from services.telemetry import conventions as names
from tests.spans.stories import COMPLETED, Story, choreography
from tests.spans.support import free_port, store_process, stored
from tests.spans.test_causality import batch_stories


def drawn(questions, order_id="o-1", *, width=100, path=True, encoding="utf-8"):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=out, width=width, no_color=True, legacy_windows=False)
    order = questions.order(order_id).model_dump(mode="json")
    console.print(render_trace(order, questions.critical_path(order_id).model_dump(mode="json") if path else None))
    out.flush()
    lines = out.buffer.getvalue().decode(encoding).splitlines()
    assert max(map(len, lines)) <= width
    return [line.rstrip() for line in lines]


def test_one_trace(tmp_path):
    assert drawn(stored(tmp_path, choreography("both"))) == snapshot(
        [
            "order o-1  completed  choreography over rabbitmq",
            "100.0 ms from accept to complete, 11 spans in 1 trace, run run-1",
            "* critical path, at ms, took ms, █ work ▒ wire ░ waiting, ⇠ link to parent",
            "",
            "trace 56d3baf17306f21c13d4271ef042e8a1  11 spans, from +0.0 ms",
            "*      0.0      10.0 ██·············· orders POST /orders  server",
            "*      8.0      10.0 ·░░············· ├╴orders outbox orders.events  waiting",
            "*     18.0       4.0 ··▒▒············ └╴orders send orders.events  producer",
            "*     20.0       5.0 ···░············   ├╴inventory queue orders.events  waiting ⇠",
            "*     25.0      20.0 ····███·········   └╴inventory process orders.events  consumer ⇠",
            "*     40.0       4.0 ······▒·········     └╴inventory send inventory.events  producer",
            "*     42.0       5.0 ······░░········       ├╴payment queue inventory.events  waiting ⇠",
            "*     47.0      33.0 ·······██████···       └╴payment process inventory.events  consumer ⇠",
            "*     70.0       4.0 ···········▒····         └╴payment send payment.events  producer",
            "*     72.0       5.0 ···········░····           ├╴orders queue payment.events  waiting ⇠",
            "*     77.0      23.0 ············████           └╴orders process payment.events  order completed ⇠",
            "",
            "critical path 100.0 ms: █ work 69.0%, ▒ wire 6.0%, ░ waiting 25.0%, ? unexplained 0.0%",
        ]
    )


def test_four_traces_with_links(tmp_path):
    assert drawn(stored(tmp_path, choreography("link"))) == snapshot(
        [
            "order o-1  completed  choreography over rabbitmq",
            "100.0 ms from accept to complete, 11 spans in 4 traces, run run-1",
            "* critical path, at ms, took ms, █ work ▒ wire ░ waiting, ⇠ link to parent",
            "",
            "trace 56d3baf17306f21c13d4271ef042e8a1  3 spans, from +0.0 ms",
            "*      0.0      10.0 ██·············· orders POST /orders  server",
            "*      8.0      10.0 ·░░············· ├╴orders outbox orders.events  waiting",
            "*     18.0       4.0 ··▒▒············ └╴orders send orders.events  producer",
            "                                          ⇢ consumed by process or…s (inventory)  in trace 6145c406…",
            "",
            "trace 6145c406a85a40add99d9abd41d5e09d  3 spans, from +20.0 ms",
            "*     20.0       5.0 ···░············ inventory queue orders.events  waiting",
            "                                        ⇠ link to send orders.events (orders)  in trace 56d3baf1…",
            "*     25.0      20.0 ····███········· inventory process orders.events  consumer",
            "                                      │ ⇠ link to send orders.events (orders)  in trace 56d3baf1…",
            "*     40.0       4.0 ······▒········· └╴inventory send inventory.events  producer",
            "                                          ⇢ consumed by process in…nts (payment)  in trace 48e9bb6b…",
            "",
            "trace 48e9bb6b4a0bb3cb80f26fe7c85d78f6  3 spans, from +42.0 ms",
            "*     42.0       5.0 ······░░········ payment queue inventory.events  waiting",
            "                                        ⇠ link to send inventory.e…s (inventory)  in trace 6145c406…",
            "*     47.0      33.0 ·······██████··· payment process inventory.events  consumer",
            "                                      │ ⇠ link to send inventory.e…s (inventory)  in trace 6145c406…",
            "*     70.0       4.0 ···········▒···· └╴payment send payment.events  producer",
            "                                          ⇢ consumed by process pa…ents (orders)  in trace 5808c853…",
            "",
            "trace 5808c85345a7f886e675da53257e680e  2 spans, from +72.0 ms",
            "*     72.0       5.0 ···········░···· orders queue payment.events  waiting",
            "                                        ⇠ link to send payment.events (payment)  in trace 48e9bb6b…",
            "*     77.0      23.0 ············████ orders process payment.events  consumer order completed",
            "                                        ⇠ link to send payment.events (payment)  in trace 48e9bb6b…",
            "",
            "critical path 100.0 ms: █ work 69.0%, ▒ wire 6.0%, ░ waiting 25.0%, ? unexplained 0.0%",
        ]
    )


def test_what_is_missing_or_went_wrong_is_said(tmp_path):
    told = Story()
    door = told.front_door(0, 10)
    sent = told.send(door, "orders.events", "m-1", 5, 8)
    told.consume(
        "payment", sent, "orders.events", "m-1", shape="both", sent_ms=6, received_ms=10, end_ms=20, error=True
    )
    told.consume("payment", sent, "orders.events", "m-1", shape="both", sent_ms=20, received_ms=50, end_ms=60,
                 attempt=2, attributes={names.LAB_DUPLICATE: True} | COMPLETED)  # fmt: skip
    lost = told.send(door, "lost", "m-2", 1, 2)
    told.consume("shipping", lost, "lost", "m-2", shape="both", sent_ms=20, received_ms=30, end_ms=40)
    told.lose(lost)
    told.span("notifications", "process mail", "consumer", 70, 75)
    assert drawn(stored(tmp_path, told)) == snapshot(
        [
            "order o-1  completed  choreography over rabbitmq",
            "60.0 ms from accept to complete, 9 spans in 2 traces, run run-1",
            "* critical path, at ms, took ms, █ work ▒ wire ░ waiting, ⇠ link to parent",
            "",
            "trace 56d3baf17306f21c13d4271ef042e8a1  8 spans, from +0.0 ms",
            "*      0.0      10.0 ██·············· orders POST /orders  server",
            "*      5.0       3.0 ·▒·············· └╴orders send orders.events  producer",
            "*      6.0       4.0 ·░··············   ├╴payment queue orders.events  waiting ⇠",
            "*     10.0      10.0 ··██············   ├╴payment process orders.events  consumer ⇠",
            "                                        │   ! error boom",
            "*     20.0      30.0 ····░░░░░░░·····   ├╴payment queue orders.events  waiting ⇠",
            "*     50.0      10.0 ··········███···   └╴payment proc…events  attempt 2 duplicate order completed ⇠",
            "      20.0      10.0 ····░░·········· shipping queue lost  waiting ⇠",
            "                                        ! orphan: its parent 82b917f1… never came",
            "      30.0      10.0 ······███······· shipping process lost  consumer ⇠",
            "                                        ! orphan: its parent 82b917f1… never came",
            "",
            "trace 91a60245de363b8787bd40a49f42987e  1 span, from +70.0 ms",
            "      70.0       5.0 ··············██ notifications process mail  consumer",
            "                                        ! orphan: it names no cause at all, its context was lost",
            "",
            "critical path 60.0 ms: █ work 41.7%, ▒ wire 1.7%, ░ waiting 56.7%, ? unexplained 0.0%",
        ]
    )


def test_a_batch_names_its_links(tmp_path):
    first, second, shared, _, _ = batch_stories("both")
    assert drawn(stored(tmp_path, first, second, shared), width=110) == snapshot(
        [
            "order o-1  completed  choreography over kafka",
            "40.0 ms from accept to complete, 6 spans in 3 traces, run run-1",
            "* critical path, at ms, took ms, █ work ▒ wire ░ waiting, ⇠ link to parent",
            "",
            "trace 92237ffa1e3790509ab0d4b5c2aafccb  4 spans, from +0.0 ms",
            "*      0.0      10.0 ████·············· orders POST /orders  server",
            "*      5.0       3.0 ·▒▒··············· └╴orders send orders.events  producer",
            "*      6.0      14.0 ··░░░░░░··········   ├╴inventory queue orders.events  waiting ⇠",
            "*     20.0      20.0 ·······█████████··   └╴inventory process orders.events  consumer order completed ⇠",
            "",
            "trace e1519be78297b13d86d47d44625925af  1 span, from +6.0 ms",
            "       6.0      14.0 ··▒▒▒▒▒▒·········· inventory poll orders.events  client",
            "                                          ⇠ link to send orders.events (orders)  in trace 92237ffa…",
            "                                          ⇠ and 1 link to spans of other orders",
            "trace 04efd7cb16151a995794ed017f270d4a  1 span, from +45.0 ms",
            "      45.0       1.0 ·················▒ inventory commit orders.events  client",
            "                                          ⇠ link to process orders.events (inventory)  in trace 92237ffa…",
            "                                          ⇠ and 1 link to spans of other orders",
            "",
            "critical path 40.0 ms: █ work 62.5%, ▒ wire 2.5%, ░ waiting 35.0%, ? unexplained 0.0%",
        ]
    )


def test_a_terminal_without_utf_8(tmp_path):
    lines = drawn(stored(tmp_path, choreography("both")), encoding="ascii")
    assert lines[5:8] == snapshot(
        [
            "*      0.0      10.0 ##.............. orders POST /orders  server",
            "*      8.0      10.0 .--............. |-orders outbox orders.events  waiting",
            "*     18.0       4.0 ..==............ `-orders send orders.events  producer",
        ]
    )


def test_an_unfinished_order_says_so(tmp_path):
    told = Story(style="", transport="", run_id="")
    told.front_door(0, 10)
    assert drawn(stored(tmp_path, told)) == snapshot(
        [
            "order o-1  unfinished",
            "not finished, 1 span in 1 trace",
            "* critical path, at ms, took ms, █ work ▒ wire ░ waiting, ⇠ link to parent",
            "trace 56d3baf17306f21c13d4271ef042e8a1  1 span, from +0.0 ms",
            "       0.0      10.0 ████████████████ orders POST /orders  server",
            "",
            "no critical path: no span with lab.order.state has come: the order has not finished",
        ]
    )


@pytest.mark.parametrize("width", [80, 100, 160, 240])
def test_it_fits_every_width(tmp_path, width):
    """Also where names are long and nesting is deep."""
    told = Story()
    above = told.front_door(0, 10)
    for number in range(60):
        above = told.span("orders", f"publish antiphon:orders.events.order.placed:{'x' * 40}", "producer", number,
                          number + 1, parent=above)  # fmt: skip
    lines = drawn(stored(tmp_path, told), width=width, path=False)
    assert len(lines) == 3 + 2 + 61


def test_a_very_deep_trace_is_drawn(tmp_path):
    told = Story()
    above = told.front_door(0, 10)
    for number in range(2000):
        above = told.span("orders", "deeper", "internal", number, number + 1, parent=above)
    assert len(drawn(stored(tmp_path, told))) > 2000


def test_parents_in_a_circle_are_all_shown(tmp_path):
    told = Story()
    a = told.front_door(0, 10, trace="t")
    b = told.span("x", "b", "internal", 1, 2, parent=a)
    a.span.parent_span_id = b.span_id
    text = "\n".join(drawn(stored(tmp_path, told)))
    assert "POST /orders" in text
    assert "x b" in text


def test_the_command_against_a_real_store(tmp_path, capsys):
    stored(tmp_path, choreography("both"))
    with store_process(tmp_path / "spans.db") as store:
        out = io.StringIO()
        assert trace_command("o-1", store.url, console=Console(file=out, width=120)) == 0
        assert "queue payment.events" in out.getvalue()
        out = io.StringIO()
        assert trace_command("o-1", store.url, as_json=True, console=Console(file=out, width=120)) == 0
        assert '"critical_path"' in out.getvalue()
        for strange in ("nobody", "a/b", "", "?x=1", "../runs"):
            assert trace_command(strange, store.url) == 1
            assert capsys.readouterr().err.count("\n") == 1


def test_a_store_that_is_away_is_one_line_and_exit_code_1(capsys):
    assert trace_command("o-1", f"http://127.0.0.1:{free_port()}") == 1
    assert trace_command("o-1", "nowhere") == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("does not answer" in line for line in errors)
