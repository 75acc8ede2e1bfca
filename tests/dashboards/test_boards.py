"""What every board must be like: whole, readable, and asking for nothing that is not there."""

import itertools
import json
import re
from typing import Any

import pytest
import yaml

from dashboards import foreign
from dashboards.__main__ import BUILT, built
from dashboards.panels import Board, Panel, Query
from dashboards.queries import BOARDS, Asked, plain
from services.telemetry import conventions as c
from tests.dashboards.metrics import asked, known, span_store
from tests.docs.tree import ROOT, read

GRAFANAS_OWN = {"__rate_interval", "__from", "__to", "__field"}
PANELS = [(board, panel) for board in BOARDS for panel in board.panels]
QUERIES = [(panel, query) for _, panel in PANELS for query in panel.queries]
DOCUMENTS = {board.uid: json.loads((BUILT / "dashboards" / f"{board.uid}.json").read_text()) for board in BOARDS}


def panel_ids(value: object) -> str:
    return value.title if isinstance(value, Panel) else value.uid if isinstance(value, Board) else ""


# --- what is built ----------------------------------------------------------------------------------------------------
def test_the_files_are_what_the_code_builds() -> None:
    """`make dashboards` would change nothing, and nothing else lies there."""
    files = built()
    assert {path: path.read_text() for path in files} == files, "run: make dashboards"
    assert set((BUILT / "dashboards").glob("*")) == {path for path in files if path.suffix == ".json"}


def test_the_chart_and_the_code_mean_the_same_folder() -> None:
    assert BUILT.is_symlink()
    assert BUILT.resolve() == (ROOT / "helm/antiphon/files").resolve()


@pytest.mark.parametrize("uid", DOCUMENTS)
def test_a_file_is_called_like_its_board(uid: str) -> None:
    document = DOCUMENTS[uid]
    assert document["uid"] == uid
    assert document["schemaVersion"] == 42
    assert len(document["description"]) > 40


def test_titles_and_ids_are_unique() -> None:
    titles = [document["title"] for document in DOCUMENTS.values()]
    assert len(set(titles)) == len(titles) == 5
    for document in DOCUMENTS.values():
        ids = [panel["id"] for panel in document["panels"]]
        names = [panel["title"] for panel in document["panels"]]
        assert len(set(ids)) == len(ids)
        assert len(set(names)) == len(names), names


@pytest.mark.parametrize("uid", DOCUMENTS)
def test_panels_do_not_overlap(uid: str) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DOCUMENTS[uid]["panels"]:
        place = panel["gridPos"]
        own = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert place["x"] + place["w"] <= 24
        assert not own & cells, panel["title"]
        cells |= own


# --- what a panel is ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("board", "panel"), PANELS, ids=panel_ids)
def test_a_panel_says_how_to_read_it(board: Board, panel: Panel) -> None:
    """A unit, a description in sentences, at least one query, a legend for each."""
    assert panel.unit
    assert len(panel.question) > 30
    assert panel.question.endswith(".")
    assert 0 < len(panel.queries) <= 8
    assert all(query.legend for query in panel.queries)
    legends = [query.legend for query in panel.queries]
    assert len(set(legends)) == len(legends)


@pytest.mark.parametrize(("panel", "query"), QUERIES, ids=panel_ids)
def test_a_legend_shows_labels_that_the_answer_has(panel: Panel, query: Query) -> None:
    """And all of them, so that no two lines have one name; so do links of a series."""
    by = re.search(r"^(?:histogram_quantile\([\d.]+, |1 - \()?\w+ by \(([^)]*)\)", query.expr)
    has = {label.strip() for label in by[1].split(",")} - {"le"} if by else set()
    in_legend = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    assert in_legend == has, query.legend


@pytest.mark.parametrize(("panel", "query"), QUERIES, ids=panel_ids)
def test_a_quantile_leads_to_traces(panel: Panel, query: Query) -> None:
    """Exemplars are on for each estimate from a histogram, and for nothing else."""
    assert query.exemplars == bool(re.match(r"histogram_quantile\([^-]*$", query.expr))


@pytest.mark.parametrize(("panel", "query"), QUERIES, ids=panel_ids)
def test_rates_fit_the_scrape_interval(panel: Panel, query: Query) -> None:
    """No window is written out: a board must show something two minutes after the start, at any zoom."""
    assert set(re.findall(r"\[([^\].]+)\]", query.expr)) <= {"$__rate_interval"}


# --- variables and links ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("board", BOARDS, ids=panel_ids)
def test_every_variable_is_used_and_every_name_is_one(board: Board) -> None:
    urls = [link.url for panel in board.panels for link in panel.links] + [link.url for link in board.links]
    text = " ".join([*urls, *(query.expr for panel in board.panels for query in panel.queries)])
    used = set(re.findall(r"\$\{?(\w+)", text))
    names = [variable.name for variable in (*board.choices, *board.texts)]
    assert len(set(names)) == len(names)
    assert used - GRAFANAS_OWN == set(names)


@pytest.mark.parametrize("board", BOARDS, ids=panel_ids)
def test_the_values_of_a_variable_come_from_a_metric_that_has_the_label(board: Board) -> None:
    labels = {value for name, value in vars(c).items() if name.startswith("LABEL_")}
    for choice in board.choices:
        assert choice.metric in known()
        assert choice.label in labels


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=panel_ids)
def test_a_link_of_a_series_uses_labels_that_the_series_has(board: Board, panel: Panel) -> None:
    for link in panel.links:
        for label in re.findall(r"\$\{__field\.labels\.(\w+)\}", link.url):
            assert all(f"{{{{{label}}}}}" in query.legend for query in panel.queries), link.title


# --- metrics ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("query", list(plain()), ids=lambda asked: f"{asked.board}: {asked.panel}")
def test_every_metric_is_known(query: Asked) -> None:
    """It is one of ours (and is asked for as what it is), of the span store, or on the list of others'."""
    names = asked(query.expr)
    assert names
    assert names <= known(), names - known()


def test_the_list_of_foreign_names_is_not_longer_than_needed() -> None:
    named = set().union(*(asked(query.expr) for query in plain()))
    for constant, name in vars(foreign).items():
        if constant.isupper():
            assert any(each.startswith(name) for each in named), f"{name} is used nowhere"


def test_the_span_stores_names_are_its_own() -> None:
    stores = {name for name in vars(foreign).values() if isinstance(name, str) and name.startswith("lab_")}
    assert all({name, f"{name}_total"} & span_store() for name in stores)


def test_a_query_is_read_for_its_metrics() -> None:
    """The reader of queries itself."""
    expr = 'max by (job) ((time() - a_b{x="y{z}"}) * (c:d > bool 0)) or rate(e_total[5m] offset 5m) unless sum(f)'
    assert asked(expr) == {"a_b", "c:d", "e_total", "f"}
    assert asked('sum({__name__=~"otelcol_receiver_refused_spans(_total)?"})') == {
        "otelcol_receiver_refused_spans",
        "otelcol_receiver_refused_spans_total",
    }


# --- where they are described and loaded ------------------------------------------------------------------------------
def test_each_board_has_its_paragraph() -> None:
    """With its title and its file's name, in the order of the code."""
    page = read("docs/dashboards.md").partition("\n## Boards\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.+?) \(`([\w-]+)`\)$", page, re.MULTILINE) == [(b.title, b.uid) for b in BOARDS]


def test_grafana_is_told_where_the_boards_and_their_sources_are() -> None:
    """The provisioning files name a folder of boards, and the data sources by the ids that boards use."""
    folder = ROOT / "helm/antiphon/files/config"
    (provider,) = yaml.safe_load((folder / "grafana-dashboards.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]
    sources = re.findall(r"^\s+uid: (\w+)$", (folder / "grafana-datasources.yaml").read_text(), re.MULTILINE)
    assert _sources(DOCUMENTS) <= set(sources)


def _sources(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["datasource"]["uid"]} if "datasource" in value else set()
        return own.union(*map(_sources, value.values()))
    return set().union(*map(_sources, value)) if isinstance(value, list) else set()
