"""What a board is made of. A panel has a title, a question with how to read the answer, and queries.

Queries are PromQL with Grafana's variables in them. ``zero`` says why an answer may be empty at any time, ``some`` for
which values of a variable (a regular expression) it is, and why. Else it must have data once the lab was under load.
"""

from dataclasses import dataclass

from services.telemetry import conventions as c


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str
    exemplars: bool = False
    zero: str = ""
    some: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """``url`` may hold the variables of the board and, on a panel, ``${__field.labels.…}`` of the series."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Panel:
    """``unit`` is one of Grafana's ids or ``suffix: …``. From ``warn`` on, the value is drawn red."""

    title: str
    question: str
    unit: str
    queries: tuple[Query, ...]
    width: int
    height: int
    stat: bool = False
    stacked: bool = False
    warn: float | None = None
    links: tuple[Link, ...] = ()


def stat(title: str, question: str, unit: str, query: Query, warn: float | None = None) -> Panel:
    """One figure; six in a line."""
    return Panel(title, question, unit, (query,), 4, 4, stat=True, warn=warn)


def graph(
    title: str,
    question: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    stacked: bool = False,
    warn: float | None = None,
    links: tuple[Link, ...] = (),
) -> Panel:
    """Lines over time; a line of panels is 24 wide."""
    return Panel(title, question, unit, queries, width, 8, stacked=stacked, warn=warn, links=links)


class Row:
    """A heading and what stands below it."""

    def __init__(self, title: str, *panels: Panel) -> None:
        self.title = title
        self.panels = panels


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable whose values are those that ``label`` has on ``metric``; several and All, or ``single``.

    ``everything`` is the regular expression that All stands for; empty: all values, one by one.
    """

    name: str
    metric: str
    label: str
    single: bool = False
    everything: str = ""

    @property
    def query(self) -> str:
        return f"label_values({self.metric}, {self.label})"


@dataclass(frozen=True, slots=True)
class Text:
    """A variable that is typed in."""

    name: str
    title: str
    value: str


STYLE = Choice("style", f"{c.METRIC_ORDERS}_total", c.LABEL_STYLE)
TRANSPORT = Choice("transport", f"{c.METRIC_ORDERS}_total", c.LABEL_TRANSPORT)
SERVICE = Choice("service", f"{c.METRIC_SPANS_STARTED}_total", c.LABEL_SERVICE)
SYSTEM = Choice("system", c.METRIC_OLDEST_MESSAGE, c.LABEL_SYSTEM)
# a queue of SQS may not be called like its channel, so that All must not be a list of channels
DESTINATION = Choice("destination", c.METRIC_OLDEST_MESSAGE, c.LABEL_DESTINATION, everything=".*")

SPAN_STORE = Text("span_store", "Span store", "http://127.0.0.1:30082")
JAEGER = Text("jaeger", "Jaeger", "http://127.0.0.1:30086")
ORDER = Text("order", "Order (its id)", "")

_SEARCH = "${jaeger}/search?start=${__from}000&end=${__to}000&limit=20"


def _tags(**tags: str) -> str:
    """Jaeger's search by tags, as it stands in an address."""
    return "&tags=%7B" + ",".join(f"%22{name}%22:%22{value}%22" for name, value in tags.items()) + "%7D"


TIMELINE = (
    Link("Joined timeline of the order", "${span_store}/orders/${order}"),
    Link("Its critical path", "${span_store}/orders/${order}/critical-path"),
    Link("The order in Jaeger", f"{_SEARCH}&service=orders{_tags(**{c.LAB_ORDER_ID: '${order}'})}"),
)
"""Of a board: what the span store and Jaeger know of the order that was typed in."""
TRACES_OF_FLOW = Link(
    "Traces of this flow in Jaeger",
    f"{_SEARCH}&service=orders"
    + _tags(
        **{
            c.LAB_STYLE: f"${{__field.labels.{c.LABEL_STYLE}}}",
            c.LAB_TRANSPORT: f"${{__field.labels.{c.LABEL_TRANSPORT}}}",
        }
    ),
)
TRACES_OF_SERVICE = Link("Traces of this service in Jaeger", f"{_SEARCH}&service=${{__field.labels.{c.LABEL_SERVICE}}}")
TRACES_OF_THE_SERVICE = Link("Its traces in Jaeger", f"{_SEARCH}&service=${{service}}")
"""Of a board that is about one service."""
RUNS = Link("Runs in the span store", "${span_store}/runs")


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard; ``uid`` is also the name of its file."""

    uid: str
    title: str
    question: str
    rows: tuple[Row, ...]
    choices: tuple[Choice, ...] = ()
    texts: tuple[Text, ...] = (SPAN_STORE, JAEGER, ORDER)
    links: tuple[Link, ...] = TIMELINE

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)
