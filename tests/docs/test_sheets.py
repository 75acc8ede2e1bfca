"""Each adapter opens with the same data sheet, and whoever compares the wires finds it there."""

import subprocess
import sys
from dataclasses import replace

import pytest

from docs import transports
from lab import sheets
from lab.sheets import HEADINGS, SheetError
from services.styles import STYLES
from services.transports import MEMORY, TRANSPORTS, Transport

KAFKA = TRANSPORTS["kafka"]
ADAPTERS = {
    **TRANSPORTS,
    "memory calls": replace(MEMORY, broker=None),
    "memory messages": replace(MEMORY, rpc=None),
}


def sheet(*headings: str, summary: str = "A wire.") -> str:
    return f"{summary}\n\n" + "\n".join(f"{heading:<14} words about it" for heading in headings)


@pytest.mark.parametrize("transport", ADAPTERS.values(), ids=list(ADAPTERS))
def test_every_adapter_has_a_data_sheet(transport: Transport) -> None:
    """A sentence, then all headings in their order, each with something to say."""
    found = sheets.read(transport)
    assert found.summary.endswith(".")
    assert tuple(found.lines) == HEADINGS
    assert all(len(text.split()) > 1 or text in {"none", "off"} for text in found.lines.values()), found.lines


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=list(TRANSPORTS))
def test_a_sheet_promises_what_the_table_says(transport: Transport) -> None:
    """The table of transports has the promise in three words; the sheet begins with them."""
    assert sheets.read(transport).lines["Delivery"].startswith(transport.delivery)


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=list(TRANSPORTS))
def test_the_ordering_has_a_short_form(transport: Transport) -> None:
    """The overview shows the words before the first comma, and they stand for the rest."""
    assert 1 <= len(sheets.read(transport).ordering.split()) <= 5


def test_a_sheet_is_read_and_the_adapter_is_not_imported() -> None:
    """Where Ice, or any other library, is absent, its sheet is there."""
    code = (
        "import sys; from lab.sheets import sheets; found = sheets(); "
        "adapters = {(t.transport.rpc or t.transport.broker).partition(':')[0] for t in found}; "
        "print(len(adapters), sorted(adapters & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split(maxsplit=1) == [str(len(TRANSPORTS)), "[]\n"]


# --- what is no sheet ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("", f"lacks {', '.join(HEADINGS)}"),
        ("A wire.\n\nProse about it.", f"lacks {', '.join(HEADINGS)}"),
        (sheet(*HEADINGS[:-2]), "lacks Peer down, Timeouts"),
        (sheet(*HEADINGS, "Colour"), "has Colour, which no other has"),
        (sheet(*HEADINGS[:-1], "Timeout"), "lacks Timeouts and has Timeout, which no other has"),
        (sheet(*reversed(HEADINGS)), "has its headings out of order"),
    ],
)
def test_half_a_sheet_is_refused_with_what_is_wrong(docstring: str, fault: str) -> None:
    with pytest.raises(SheetError) as caught:
        sheets.parse(KAFKA, docstring)
    assert str(caught.value) == f"the data sheet of kafka {fault}"


def test_lines_that_go_on_belong_to_their_heading_and_what_follows_the_sheet_does_not() -> None:
    docstring = sheet(*HEADINGS, summary="A wire\nof two lines.") + "\n               and more\n\nSource: a book."
    found = sheets.parse(KAFKA, docstring)
    assert found.summary == "A wire of two lines."
    assert found.lines["Timeouts"] == "words about it and more"
    assert found.lines["Wire"] == "words about it"


def test_adapters_that_are_not_there_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, so that it is mended in one go."""
    for name in ("rest", "kafka"):
        absent = replace(TRANSPORTS[name], rpc=None, broker=f"services.transports.messaging.no_{name}:None")
        monkeypatch.setitem(TRANSPORTS, name, absent)
    with pytest.raises(SheetError) as caught:
        sheets.sheets(["rest", "grpc", "kafka"])
    assert str(caught.value) == (
        "rest has no data sheet: there is no module services.transports.messaging.no_rest; "
        "kafka has no data sheet: there is no module services.transports.messaging.no_kafka"
    )


# --- the page --------------------------------------------------------------------------------------------------------
def test_the_page_has_every_transport_with_every_heading() -> None:
    """A row in the overview that leads to its section, and the section's table."""
    page = transports.page()
    overview, *sections = page.split("\n## ")
    assert [section.partition("\n")[0] for section in sections] == list(TRANSPORTS)
    for section, name in zip(sections, TRANSPORTS, strict=True):
        assert f"| [{name}](#{name}) |" in overview
        rows = [line.split(" | ")[0].strip("| ") for line in section.splitlines() if line.startswith("| ")]
        assert [row for row in rows if row in HEADINGS] == list(HEADINGS)
        assert rows[-1] == "Not possible", "no transport can carry everything"


def test_the_overview_says_who_can_carry_what() -> None:
    """As why_not does, which the front door answers by."""
    rows = [line for line in transports.page().splitlines() if line.startswith("| [")]
    for line, sheet in zip(rows, sheets.sheets(), strict=True):
        carries = [cell.strip() for cell in line.strip("|").split("|")][-len(STYLES) :]
        assert [name for name, word in zip(STYLES, carries, strict=True) if word == "yes"] == sheet.styles
        assert set(sheet.styles) | set(sheet.not_possible) == set(STYLES)
    pubsub = next(line for line in rows if "redis_pubsub" in line)
    assert "| at most once |" in pubsub
