"""The report as one HTML page that needs nothing else: plotly.js stands in it once, its own policy forbids
the rest."""

import json
from importlib import resources
from urllib.parse import urlencode

import jinja2
from plotly.offline import get_plotlyjs

from lab.compare.figures import Comparison
from lab.compare.numbers import number
from lab.compare.plots import plots
from lab.compare.rows import ROWS, TRACE_COMMAND, footnotes, header_lines, mark, sentence_of
from services.telemetry.conventions import LAB_ORDER_ID

_PAGE = "page.html.j2"


def to_html(comparison: Comparison) -> str:
    """The whole page, about five megabytes, nearly all of it plotly.js."""
    source = resources.files("lab.compare").joinpath(_PAGE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = number
    return environment.from_string(source).render(
        run=comparison,
        header=header_lines(comparison),
        rows=ROWS,
        mark=mark,
        footnotes=footnotes(comparison),
        sentences=[sentence for flow in comparison.flows if (sentence := sentence_of(flow))],
        plots=plots(comparison.flows),
        plotly=get_plotlyjs(),
        command=TRACE_COMMAND,
        jaeger_search=lambda order_id: _jaeger_search(comparison.jaeger, order_id),
    )


def _jaeger_search(jaeger: str | None, order_id: str) -> str | None:
    """Jaeger's page of all traces of an order, of the last two days."""
    if jaeger is None:
        return None
    tags = json.dumps({LAB_ORDER_ID: order_id})
    return f"{jaeger.rstrip('/')}/search?{urlencode({'service': 'orders', 'lookback': '2d', 'tags': tags})}"
