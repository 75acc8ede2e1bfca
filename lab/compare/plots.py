"""The report's plots as plotly figures: data and layout only, without a library in sight of the page's theme.

Colours are Okabe and Ito's, which colour-blind readers tell apart, and which stand on light and dark alike.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plotly import graph_objects
from plotly.subplots import make_subplots

from lab.compare.figures import FlowFigures, LoadFigures, SpanFigures

BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW = (
    "#3b8fd0",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#b8a800",
)
FLOW_COLOURS = (BLUE, ORANGE, GREEN, PINK, VERMILION, SKY, YELLOW)
DARK, WHITE = "#1b1b1b", "#ffffff"
TICKS_MS = [step * 10**power for power in range(-1, 6) for step in (1, 2, 5)]
TICK_TEXTS = [f"{tick:,g}" for tick in TICKS_MS]
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Plot:
    """``sentences`` say what is seen and how it was computed."""

    key: str
    title: str
    sentences: str
    figure: Any

    @property
    def json(self) -> str:
        """Plotly's JSON, safe inside a script element."""
        return str(self.figure.to_json()).replace("<", "\\u003c")


def plots(flows: Sequence[FlowFigures]) -> list[Plot]:
    """Those for which there are figures."""
    found = [_accept_and_complete(flows), _distribution(flows), _where_the_time_goes(flows), _per_order(flows)]
    return [plot for plot in found if plot is not None]


def _label(flow: FlowFigures) -> str:
    return f"{flow.style}<br>{flow.transport.replace(',', ', ')}"


def _layout(figure: Any, height: int, **more: Any) -> Any:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 60, "r": 20, "t": 36, "b": 70},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.03, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hoverlabel={"namelength": -1},
        **more,
    )
    return figure


def _accept_and_complete(flows: Sequence[FlowFigures]) -> Plot | None:
    known: list[tuple[FlowFigures, LoadFigures | SpanFigures]] = [
        (flow, side) for flow in reversed(flows) if (side := flow.load or flow.spans) and side.accept_p50_ms is not None
    ]
    if not known:
        return None
    source = "Locust, on the client's clock" if known[0][0].load else "the span store"
    figure = graph_objects.Figure()
    names = [_label(flow) for flow, _ in known]
    # drawn upwards, so that accept comes to lie above complete
    for name, colour in (("complete", ORANGE), ("accept", BLUE)):
        middle = [getattr(side, f"{name}_p50_ms") or 0.0 for _, side in known]
        high = [getattr(side, f"{name}_p95_ms") or 0.0 for _, side in known]
        figure.add_bar(
            name=name,
            y=names,
            x=middle,
            orientation="h",
            marker_color=colour,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, top - bar) for top, bar in zip(high, middle, strict=True)],
                "arrayminus": [0.0] * len(middle),
                "thickness": 1.5,
                "width": 6,
            },
            customdata=high,
            hovertemplate=f"{name}: p50 %{{x:.4g}} ms, p95 %{{customdata:.4g}} ms<extra></extra>",
        )
    _layout(
        figure,
        130 + 62 * len(known),
        barmode="group",
        bargap=0.35,
        xaxis={"title": "ms", "rangemode": "tozero"},
        yaxis={"automargin": True},
    )
    figure.update_layout(legend_traceorder="reversed")
    return Plot(
        "accept-complete",
        "When the customer has an answer, and when the order has its end",
        "A bar is the median, its whisker reaches to the 95th percentile. Where both bars are equal the customer "
        "waited for everything; where they differ, that distance is what asynchrony buys, and what it hides. "
        f"Measured by {source}: accept from the sending of the POST to its answer, complete to the order's end.",
        figure,
    )


def _distribution(flows: Sequence[FlowFigures]) -> Plot | None:
    known = [flow for flow in flows if flow.load and flow.load.complete_percentiles_ms]
    if not known:
        return None
    figure = graph_objects.Figure()
    percents = list(range(101))
    for number, flow in enumerate(known):
        assert flow.load is not None
        figure.add_scatter(
            name=flow.name,
            x=flow.load.complete_percentiles_ms,
            y=percents,
            mode="lines",
            line={
                "color": FLOW_COLOURS[number % len(FLOW_COLOURS)],
                "dash": DASHES[number // len(FLOW_COLOURS) % len(DASHES)],
                "width": 2.5,
            },
            hovertemplate=f"{flow.name}: %{{y}} % of the orders within %{{x:.4g}} ms<extra></extra>",
        )
    _layout(
        figure,
        380 + 22 * (len(known) // 3),
        xaxis={"title": "complete, ms (logarithmic)", "type": "log", "tickvals": TICKS_MS, "ticktext": TICK_TEXTS},
        yaxis={"title": "% of the orders", "range": [0, 101], "dtick": 25},
    )
    return Plot(
        "distribution",
        "How many orders have ended after how long",
        "Read upwards: at a time on the axis, the curve's height is the share of orders that had ended by then. A "
        "steep curve is a steady system; a long way to the right near the top is its slow tail, and a step near the "
        "bottom are refused orders, whose way is shorter. From Locust's record of each order.",
        figure,
    )


def _where_the_time_goes(flows: Sequence[FlowFigures]) -> Plot | None:
    known = [flow for flow in reversed(flows) if flow.spans and flow.spans.waiting_share is not None]
    if not known:
        return None
    figure = graph_objects.Figure()
    kinds = (
        ("work", "inside services", GREEN),
        ("wire", "calls and sends", BLUE),
        ("waiting", "waiting in queues", ORANGE),
        ("unexplained", "unexplained", "#8a8f98"),
    )
    for name, words, colour in kinds:
        values = [100 * (getattr(flow.spans, f"{name}_share") or 0.0) for flow in known]
        if name == "unexplained" and max(values) < 0.5:
            continue
        figure.add_bar(
            name=words,
            y=[_label(flow) for flow in known],
            x=values,
            orientation="h",
            marker_color=colour,
            text=[f"{value:.0f} %" if value >= 4 else "" for value in values],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"color": DARK if colour == ORANGE else WHITE},
            hovertemplate=f"{words}: %{{x:.1f}} %<extra></extra>",
        )
    _layout(
        figure,
        130 + 48 * len(known),
        barmode="stack",
        bargap=0.35,
        xaxis={"title": "% of the time from accept to complete", "range": [0, 100]},
        yaxis={"automargin": True},
    )
    return Plot(
        "time",
        "Where the time goes",
        "The critical path of every order, from the front door to the span in which it ended, followed backwards "
        "through parents, links and queues; the mean share over all orders. Waiting is what queue and outbox spans "
        "cover, which no ordinary instrumentation draws. Calls and sends are what remains of a client's span when "
        "the server's is taken away. From the span store.",
        figure,
    )


def _per_order(flows: Sequence[FlowFigures]) -> Plot | None:
    known = [flow for flow in reversed(flows) if flow.spans and flow.spans.spans_per_order is not None]
    if not known:
        return None
    figure = make_subplots(
        rows=1, cols=3, subplot_titles=("traces", "spans", "links"), shared_yaxes=True, horizontal_spacing=0.06
    )
    for column, (name, colour) in enumerate((("traces", PINK), ("spans", BLUE), ("links", ORANGE)), start=1):
        values = [getattr(flow.spans, f"{name}_per_order") or 0.0 for flow in known]
        figure.add_bar(
            name=name,
            y=[_label(flow) for flow in known],
            x=values,
            orientation="h",
            marker_color=colour,
            text=[f"{value:.3g}" for value in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{x:.3g}} {name} per order<extra></extra>",
            row=1,
            col=column,
        )
        figure.update_xaxes(range=[0, max(values, default=0) * 1.25 or 1], row=1, col=column)
    _layout(figure, 130 + 44 * len(known), showlegend=False, bargap=0.35)
    figure.update_yaxes(automargin=True)
    return Plot(
        "per-order",
        "What one order leaves behind",
        "How many traces a person has to find, how many spans these hold, and how many links join them: the mean "
        "over a flow's orders. From the span store, which follows links in both directions.",
        figure,
    )


def json_of(found: Sequence[Plot]) -> dict[str, Any]:
    """All plots by key, decoded: for tests."""
    return {plot.key: json.loads(plot.json) for plot in found}
