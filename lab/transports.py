"""``lab transports``: the data sheets side by side, one as a whole, or one heading of all; and which wires run now."""

from collections.abc import Iterable, Mapping

from lab.sheets import HEADINGS, Sheet
from lab.targets import LabError, Target, TargetDownError

DOWN = "lab not running"
SPOKEN = {name.casefold().replace(" ", "-"): name for name in HEADINGS}
"""How a heading is named on the command line."""


def statuses(target: Target) -> tuple[dict[str, str], str]:
    """What each transport is now, in the front door's words; of those that it does not name, why that is not known."""
    from load.flows import FrontDoor, FrontDoorError

    try:
        return FrontDoor(target.addresses["front_door"]).transports(), "not known there"
    except (TargetDownError, KeyError, FrontDoorError):
        return {}, DOWN
    except LabError as error:  # a cluster's tools are missing; the sheets can be read without
        return {}, f"not known: {error}"


def print_overview(found: Iterable[Sheet], status: Mapping[str, str], unknown: str) -> None:
    """A line for each transport; why one does not run stands below. Which styles it can carry stands in its sheet."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from services.styles import STYLES

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("transport", "kind", "delivery", "ordering", "styles", *(["now"] if status else [])):
        table.add_column(column, no_wrap=column != "ordering")
    for sheet in found:
        now = [status.get(sheet.name, unknown).partition(":")[0]] if status else []
        table.add_row(
            sheet.name,
            sheet.kind,
            sheet.transport.delivery,
            sheet.ordering,
            f"{len(sheet.styles)} of {len(STYLES)}",
            *now,
        )
    console.print(table)
    for name, text in status.items():
        if ":" in text:
            console.print(f"{name}: {text}", soft_wrap=True, markup=False)
    if not status:
        console.print(f"Which of them run: {unknown}", soft_wrap=True, markup=False)
    console.print("lab transports NAME prints a whole data sheet, lab transports HEADING one line of each:")
    console.print(", ".join(SPOKEN))


def print_sheet(sheet: Sheet, status: str) -> None:
    """All that is known of one."""
    rows = {
        "Kind": f"{sheet.kind}, {sheet.transport.delivery}",
        **sheet.lines,
        "Styles": ", ".join(sheet.styles) or "none",
        "Not possible": "\n".join(sheet.not_possible.values()) or "nothing",
        "Now": status,
    }
    _print_rows(sheet.summary, rows)


def print_heading(name: str, found: Iterable[Sheet]) -> None:
    """One line of every sheet."""
    _print_rows(name, {sheet.name: sheet.lines[name] for sheet in found})


def _print_rows(title: str, rows: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for name, text in rows.items():
        grid.add_row(Text(name, style="bold"), Text(_words(text)))
    console = Console(highlight=False)
    console.print(Text(_words(title)))
    console.print()
    console.print(grid)


def _words(text: str) -> str:
    """What docstrings mark as code is plain on a terminal."""
    return text.replace("``", "")
