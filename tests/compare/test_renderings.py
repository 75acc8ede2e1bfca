# ruff: noqa: E501 - snapshots are as wide as what they show
"""The same fixed figures on a terminal, as Markdown, as JSON and as a page."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from inline_snapshot import snapshot
from rich.console import Console

from lab.compare import Comparison, print_comparison, to_markdown, write_report
from lab.compare.html import to_html
from lab.compare.numbers import milliseconds, number, share
from lab.compare.plots import json_of, plots
from lab.demo import finish_demo
from tests.compare.fixed import COMPARISON


def terminal(comparison: Comparison, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    print_comparison(comparison, console)
    return console.export_text()


def test_terminal() -> None:
    """At 100 columns."""
    assert terminal(COMPARISON, 100) == snapshot("""\
Run 20261122-101500-c0de
Workload: open: 10 orders/s for 20 s per flow, sent by the clock, whether or not earlier ones were \n\
answered; one flow at a time.
Seed 1; 10 % of the orders are refused on purpose.
                                                                                      \n\
                                    request_     request_                             \n\
                                    response     response  choreography  choreography \n\
                         from           rest         grpc      rabbitmq         kafka \n\
 ──────────────────────────────────────────────────────────────────────────────────── \n\
 accept p50 / p95, ms    Locust  31.4 / 59.7  22.8 / 43.3   8.40 / 16.0   8.10 / 15.4 \n\
 accept p50 / p95, ms    spans   29.2 / 55.5  20.9 / 39.7   6.20 / 11.8   6.10 / 11.6 \n\
 complete p50 / p95, ms  Locust  31.4 / 53.4  22.8 / 38.8    64.1 / 109     118 / 201 \n\
 complete p50 / p95, ms  spans   28.9 / 49.1  20.5 / 34.9    60.3 / 103     113 / 192 \n\
 orders/s                Locust         9.97         9.97          9.97          9.97 \n\
 completed + rejected    Locust     179 + 21     179 + 21      179 + 21      178 + 21 \n\
 traces per order        spans             1            1             1             1 \n\
 spans per order         spans          17.2         17.2          41.4          41.4 \n\
 links per order         spans             0            0          12.1          12.1 \n\
 waiting in queues       spans           0 %          0 %          43 %          61 % \n\
 working / on the wire   spans   71 % / 29 %  71 % / 29 %   40 % / 17 %   24 % / 17 % \n\
 redeliveries            spans             0            0             0             3 \n\
 orphan spans            spans             0            0             0             0 \n\
 failed orders           Locust            0            0             0             0 \n\
 lost orders             Locust            0            0             0             1 \n\
                                                                                      \n\
request_response over rest: the customer waits the whole 31.4 ms. Seen as one trace of 17.2 spans \n\
per order, no links.
request_response over grpc: the customer waits the whole 22.8 ms. Seen as one trace of 17.2 spans \n\
per order, no links.
choreography over rabbitmq: the customer has an answer after 8.40 ms, the order its end after 64.1 \n\
ms; 43 % of the time in queues. Seen as one trace of 41.4 spans per order, 12.1 links.
choreography over kafka: the customer has an answer after 8.10 ms, the order its end after 118 ms; \n\
61 % of the time in queues. Seen as one trace of 41.4 spans per order, 12.1 links.
All processes, while the run lasted (Prometheus): 23,456 spans started, 0 spans dropped by the SDK, \n\
its queue being full.
note  choreography over kafka: 1 of 200 orders lost (accepted, never ended)
""")


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_terminal_cuts_nothing(width: int) -> None:
    """Where a flow does not fit beside the others it comes below them."""
    text = terminal(COMPARISON, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for figure in ("31.4 / 59.7", "40 % / 17 %", "118 / 201"):
        assert figure in text


def test_markdown() -> None:
    """For issues and READMEs."""
    assert to_markdown(COMPARISON) == snapshot("""\
## Run 20261122-101500-c0de

Workload: open: 10 orders/s for 20 s per flow, sent by the clock, whether or not earlier ones were answered; one flow at a time.

Seed 1; 10 % of the orders are refused on purpose.

|  | from | `request_response`<br>rest | `request_response`<br>grpc | `choreography`<br>rabbitmq | `choreography`<br>kafka |
| :-- | :-- | --: | --: | --: | --: |
| accept p50 / p95, ms | Locust | 31.4 / 59.7 | 22.8 / 43.3 | 8.40 / 16.0 | 8.10 / 15.4 |
| accept p50 / p95, ms | spans | 29.2 / 55.5 | 20.9 / 39.7 | 6.20 / 11.8 | 6.10 / 11.6 |
| complete p50 / p95, ms | Locust | 31.4 / 53.4 | 22.8 / 38.8 | 64.1 / 109 | 118 / 201 |
| complete p50 / p95, ms | spans | 28.9 / 49.1 | 20.5 / 34.9 | 60.3 / 103 | 113 / 192 |
| orders/s | Locust | 9.97 | 9.97 | 9.97 | 9.97 |
| completed + rejected | Locust | 179 + 21 | 179 + 21 | 179 + 21 | 178 + 21 |
| traces per order | spans | 1 | 1 | 1 | 1 |
| spans per order | spans | 17.2 | 17.2 | 41.4 | 41.4 |
| links per order | spans | 0 | 0 | 12.1 | 12.1 |
| waiting in queues | spans | 0 % | 0 % | 43 % | 61 % |
| working / on the wire | spans | 71 % / 29 % | 71 % / 29 % | 40 % / 17 % | 24 % / 17 % |
| redeliveries | spans | 0 | 0 | 0 | 3 |
| orphan spans | spans | 0 | 0 | 0 | 0 |
| failed orders | Locust | 0 | 0 | 0 | 0 |
| lost orders | Locust | 0 | 0 | 0 | **1** |

- request_response over rest: the customer waits the whole 31.4 ms. Seen as one trace of 17.2 spans per order, no links.
- request_response over grpc: the customer waits the whole 22.8 ms. Seen as one trace of 17.2 spans per order, no links.
- choreography over rabbitmq: the customer has an answer after 8.40 ms, the order its end after 64.1 ms; 43 % of the time in queues. Seen as one trace of 41.4 spans per order, 12.1 links.
- choreography over kafka: the customer has an answer after 8.10 ms, the order its end after 118 ms; 61 % of the time in queues. Seen as one trace of 41.4 spans per order, 12.1 links.

All processes, while the run lasted (Prometheus):

- 23,456 spans started
- 0 spans dropped by the SDK, its queue being full

An example order of each:

- request_response over rest: `.venv/bin/lab trace o-1`
- request_response over grpc: `.venv/bin/lab trace o-3`
- choreography over rabbitmq: `.venv/bin/lab trace o-5`
- choreography over kafka: `.venv/bin/lab trace o-7`

Notes:

- choreography over kafka: 1 of 200 orders lost (accepted, never ended)
""")


def test_json() -> None:
    """Each flow's figures by their source, percentiles left out here."""
    data = json.loads(COMPARISON.dumps())
    flow = data["flows"][3]
    del flow["load"]["accept_percentiles_ms"], flow["load"]["complete_percentiles_ms"]
    assert flow == snapshot(
        {
            "style": "choreography",
            "transport": "kafka",
            "load": {
                "sent": 200,
                "accepted": 200,
                "completed": 178,
                "rejected": 21,
                "lost": 1,
                "failed": 0,
                "interrupted": 0,
                "unexpected": 0,
                "orders_per_s": 9.97,
                "accept_p50_ms": 8.1,
                "accept_p95_ms": 15.389999999999999,
                "complete_p50_ms": 118.3,
                "complete_p95_ms": 201.10999999999999,
                "late_p95_ms": 1.2,
                "warmup_failed": 0,
                "errors": {},
                "complaint": None,
            },
            "spans": {
                "orders": 200,
                "completed": 179,
                "rejected": 21,
                "unfinished": 0,
                "spans": 3400,
                "traces_per_order": 1.0,
                "spans_per_order": 41.4,
                "links_per_order": 12.1,
                "orders_per_s": 9.98,
                "accept_p50_ms": 6.1,
                "accept_p95_ms": 11.589999999999998,
                "complete_p50_ms": 113.0,
                "complete_p95_ms": 192.1,
                "waiting_share": 0.61,
                "work_share": 0.24,
                "wire_share": 0.17,
                "unexplained_share": 0.002,
                "orphan_spans": 0,
                "redeliveries": 3,
                "duplicates": 0,
                "errors": 20,
            },
            "example_order_id": "o-7",
            "example_rejected_id": "o-8",
            "delivery": "at least once",
        }
    )
    assert [flow["delivery"] for flow in data["flows"]] == [None, None, "at least once", "at least once"]
    assert {key: value for key, value in data.items() if key != "flows"} == snapshot(
        {
            "run_id": "20261122-101500-c0de",
            "made_at": "2026-11-22T10:17:05Z",
            "started_at": "2026-11-22T10:15:00.000000Z",
            "ended_at": "2026-11-22T10:16:40.000000Z",
            "workload": "open: 10 orders/s for 20 s per flow, sent by the clock, whether or not earlier ones were answered",
            "seed": 1,
            "refused_share": 0.1,
            "telemetry": [
                {
                    "name": "spans_started",
                    "sentence": "spans started",
                    "value": 23456.0,
                    "bad": False,
                },
                {
                    "name": "spans_dropped",
                    "sentence": "spans dropped by the SDK, its queue being full",
                    "value": 0.0,
                    "bad": True,
                },
            ],
            "notes": ["choreography over kafka: 1 of 200 orders lost (accepted, never ended)"],
            "jaeger": "http://127.0.0.1:16686",
        }
    )


def test_a_transport_that_may_lose_messages_has_a_footnote() -> None:
    """Its figures are not those of a broker that keeps what it was given. Nobody else's table has the sign."""
    flow = replace(COMPARISON.flows[2], transport="redis_pubsub", delivery="at most once")
    lossy = replace(COMPARISON, flows=[*COMPARISON.flows, flow])
    footnote = "† at most once: what is published while nobody listens is gone."
    shown = terminal(lossy, 120)
    assert re.search(r"rabbitmq +kafka +redis_pubsub † *\n", shown)
    assert f"\n{footnote}\n" in shown
    assert "| `choreography`<br>kafka | `choreography`<br>redis_pubsub † |" in to_markdown(lossy)
    assert f"\n\n{footnote}\n\n" in to_markdown(lossy)
    assert "<small>redis_pubsub †</small>" in to_html(lossy)
    assert to_html(lossy).count(footnote) == 1
    assert json.loads(lossy.dumps())["flows"][4]["delivery"] == "at most once"
    for text in (shown, to_markdown(lossy), to_html(lossy).partition("</table>")[0]):
        assert text.count("redis_pubsub †") == 1
        assert text.replace(footnote, "").count("†") == 1
    for rendering in (terminal(COMPARISON, 120), to_markdown(COMPARISON), to_html(COMPARISON).partition("</table>")[0]):
        assert "†" not in rendering


def test_unknown_figures_are_dashes() -> None:
    """A side that did not answer leaves its rows empty, on every rendering."""
    blind = replace(COMPARISON, flows=[replace(flow, spans=None) for flow in COMPARISON.flows])
    assert re.search(r"traces per order +spans +- +- +- +-", terminal(blind, 120))
    deaf = replace(COMPARISON, flows=[replace(flow, load=None) for flow in COMPARISON.flows])
    assert re.search(r"lost orders +Locust +- +- +- +-", terminal(deaf, 120))
    nothing = replace(COMPARISON, flows=[replace(flow, load=None, spans=None) for flow in COMPARISON.flows])
    for comparison in (blind, deaf, nothing, replace(COMPARISON, flows=[])):
        assert to_markdown(comparison)
        assert "</html>" in to_html(comparison)


class Page(HTMLParser):
    """Whether every element is closed, and what would be loaded from elsewhere."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "link" or "src" in found or "srcset" in found:
            self.loads.append(f"{tag} {found}")
        if found.get("id"):
            self.ids.append(str(found["id"]))
        self.scripts += tag == "script"

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_page_is_well_formed_and_loads_nothing() -> None:
    """One file: no element left open, nothing fetched, and a policy that forbids it."""
    text = to_html(COMPARISON)
    page = Page(text)
    assert page.open == []
    assert page.wrong == []
    assert page.loads == []
    assert "@import" not in text.partition("</style>")[0]
    assert "default-src 'none'" in text
    assert page.ids == ["accept-complete", "distribution", "time", "per-order"]
    assert page.scripts == 1 + 4 + 1, "plotly.js once, each plot's data, and what draws them"


def test_page_says_what_the_table_says() -> None:
    """Every figure, sentence, note and command."""
    text = to_html(COMPARISON)
    for figure in ("31.4 / 59.7", "40 % / 17 %", "118 / 201", "1 of 200 orders lost", ".venv/bin/lab trace o-5"):
        assert figure in text
    assert "http://127.0.0.1:16686/search?service=orders&amp;lookback=2d" in text


def test_page_trusts_no_text() -> None:
    """A name that looks like markup stays text, also inside the plots' data."""
    evil = "</script><script>alert(1)</script>"
    flow = replace(COMPARISON.flows[0], transport=evil, example_order_id=evil)
    text = to_html(replace(COMPARISON, flows=[flow], notes=[evil]))
    assert evil not in text
    assert Page(text).scripts == 6


def test_plots_carry_the_figures() -> None:
    """What is drawn is what was measured."""
    data = json_of(plots(COMPARISON.flows))
    accept = next(trace for trace in data["accept-complete"]["data"] if trace["name"] == "accept")
    assert accept["x"] == [8.1, 8.4, 22.8, 31.4]
    assert [trace["name"] for trace in data["distribution"]["data"]] == [flow.name for flow in COMPARISON.flows]
    waiting = next(trace for trace in data["time"]["data"] if trace["name"] == "waiting in queues")
    assert waiting["x"] == pytest.approx([61, 43, 0, 0])
    assert [trace["name"] for trace in data["per-order"]["data"]] == ["traces", "spans", "links"]


def test_report_files(tmp_path: Path) -> None:
    """All three lie in the run's folder."""
    written = write_report(COMPARISON, tmp_path)
    folder = tmp_path / COMPARISON.run_id
    assert (written.html, written.markdown, written.json) == (
        folder / "report.html",
        folder / "comparison.md",
        folder / "comparison.json",
    )
    assert Comparison.from_json(json.loads(written.json.read_text())) == COMPARISON
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.json", "comparison.md", "report.html"]


def test_demo_ends_with_what_to_do_next() -> None:
    """After the table: the report, an example of each flow with its command, the addresses; nothing broken
    in two."""
    console = Console(file=io.StringIO(), width=60, record=True)
    report = Path("/a/rather/long/path/to/a/checkout/of/antiphon/.lab/runs/20261122-101500-c0de/report.html")
    addresses = {"front_door": "http://127.0.0.1:21000", "prometheus": "http://127.0.0.1:21009"}
    finish_demo(COMPARISON, report=report, addresses=addresses, console=console)
    assert console.export_text().partition("The report")[2] == snapshot("""\
, with plots:
  /a/rather/long/path/to/a/checkout/of/antiphon/.lab/runs/20261122-101500-c0de/report.html
One order of each, and the command that shows its trace:
  request_response over rest  .venv/bin/lab trace o-1
  request_response over grpc  .venv/bin/lab trace o-3
  choreography over rabbitmq  .venv/bin/lab trace o-5
  choreography over kafka     .venv/bin/lab trace o-7
What runs:
  front_door  http://127.0.0.1:21000
  prometheus  http://127.0.0.1:21009
""")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.4237, "0.42"), (4.216, "4.22"), (42.16, "42.2"), (421.6, "422"), (4216.0, "4,216")],
)
def test_numbers(value: float | None, text: str) -> None:
    """Three digits that matter."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0 %"), (0.004, "<1 %"), (0.41, "41 %"), (0.996, "99 %"), (1.0, "100 %")],
)
def test_shares(value: float | None, text: str) -> None:
    """All and nothing are said of nothing else."""
    assert share(value) == text


def test_long_times_are_seconds() -> None:
    """From ten seconds on."""
    assert (milliseconds(9_999), milliseconds(12_300)) == ("9,999 ms", "12.3 s")
