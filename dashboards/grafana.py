"""A board as Grafana's JSON, by grafana-foundation-sdk. What all boards share in looks stands here."""

import json
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from dashboards.panels import Board, Choice, Link, Panel, Query, Text

P = TypeVar("P", timeseries.Panel, stat.Panel)
TAG = "antiphon"
PROMETHEUS = common.DataSourceRef(type_val="prometheus", uid="prometheus")
CALM, LOUD = "green", "red"


def render(board: Board) -> str:
    """The file of ``board``. Raises nothing: what a board must be like, its tests say."""
    built = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.question)
        .tags([TAG])
        .readonly()
        .time("now-15m", "now")
        .refresh("5s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .variables([*map(_choice, board.choices), *map(_text, board.texts)])
        .links([_boards(), *map(_link, board.links)])
    )
    number = 0
    for row in board.rows:
        number += 1
        built.with_row(build.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            built.with_panel((_stat if panel.stat else _graph)(panel).id(number))
    document = json.loads(JSONEncoder().encode(built.build()))
    _trim(document)
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def _trim(document: dict[str, Any]) -> None:
    """Take out what the SDK writes unasked: members that only interval variables have, members of a board's links in
    those of a series, and the place of a board's links, which would hide them in a menu."""
    for variable in document["templating"]["list"]:
        for member in ("auto", "auto_min", "auto_count"):
            variable.pop(member, None)
    for link in document["links"]:
        link.pop("placement", None)
    for panel in document["panels"]:
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", []):
            for member in link.keys() - {"title", "url", "targetBlank"}:
                del link[member]


def _graph(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .legend(
            build_common.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(build_common.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        .line_width(1)
        .fill_opacity(30 if panel.stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
        .axis_soft_min(0)
    )
    if panel.stacked:
        built.stacking(build_common.StackingConfig().mode(common.StackingMode.NORMAL))
    if panel.warn is not None:
        built.thresholds_style(build_common.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return _common(built, panel)


def _stat(panel: Panel) -> stat.Panel:
    built = (
        stat.Panel()
        .graph_mode(common.BigValueGraphMode.AREA)
        .color_mode(common.BigValueColorMode.VALUE)
        .reduce_options(build_common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    return _common(built, panel)


def _common(built: P, panel: Panel) -> P:
    steps = [dashboard.Threshold(value=None, color=CALM)]
    if panel.warn is not None:
        steps.append(dashboard.Threshold(value=panel.warn, color=LOUD))
    built.title(panel.title).description(panel.question).unit(panel.unit).datasource(PROMETHEUS)
    built.span(panel.width).height(panel.height)
    built.thresholds(build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))
    if panel.links:
        built.data_links([_link(link) for link in panel.links])
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        built.with_target(_query(query).ref_id(letter))
    return built


def _query(query: Query) -> prometheus.Dataquery:
    built = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).datasource(PROMETHEUS).range()
    return built.exemplar(exemplar=True) if query.exemplars else built


def _choice(choice: Choice) -> build.QueryVariable:
    built = (
        build.QueryVariable(choice.name)
        .label(choice.name.capitalize())
        .datasource(PROMETHEUS)
        .query({"query": choice.query, "refId": choice.name, "qryType": 1})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=not choice.single)
        .include_all(include_all=not choice.single)
    )
    if choice.everything:
        built.all_value(choice.everything)
    return built if choice.single else built.current(dashboard.VariableOption(text=["All"], value=["$__all"]))


def _text(text: Text) -> build.TextBoxVariable:
    """In sight if it is to be typed in; in the menu of the board's controls if it says something already."""
    return (
        build.TextBoxVariable(text.name)
        .label(text.title)
        .hide(dashboard.VariableHide.IN_CONTROLS_MENU if text.value else dashboard.VariableHide.DONT_HIDE)
        .default_value(text.value)
        .current(dashboard.VariableOption(text=text.value, value=text.value))
    )


def _link(link: Link) -> build.DashboardLink:
    return (
        build.DashboardLink(link.title)
        .type(dashboard.DashboardLinkType.LINK)
        .url(link.url)
        .icon("external link")
        .target_blank(target_blank=True)
    )


def _boards() -> build.DashboardLink:
    """The way to the other boards, at the same time."""
    return (
        build.DashboardLink("Boards")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .keep_time(keep_time=True)
        .as_dropdown(as_dropdown=True)
    )
