"""``lab styles``: the interaction matrix, with the styles in its cells, made of the table ``STYLES``."""

import re

from services.styles import STYLES

COLUMNS = ("1 to 1", "1 to many", "a chain, a log")
ROWS = ("sync", "async", "both")


def matrix() -> tuple[tuple[str, ...], dict[str, list[list[str]]]]:
    """The columns, and for each row the names of the styles in each of its cells."""
    rows: dict[str, list[list[str]]] = {row: [[] for _ in COLUMNS] for row in ROWS}
    for style in STYLES.values():
        kind, _, rest = style.cell.partition(", ")
        reach = re.match("1 to (1|many)", rest)
        column = COLUMNS.index(reach[0]) if reach else len(COLUMNS) - 1
        rows[kind][column].append(style.name)
    return COLUMNS, rows


def print_matrix() -> None:
    """The matrix, and a line on each style."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    columns, rows = matrix()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_lines=True)
    for heading in ("", *columns):
        table.add_column(heading, no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *("\n".join(cell) for cell in cells))
    console.print(table)
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True)
    for style in STYLES.values():
        lines.add_row(style.name, f"{style.summary} ({style.default})")
    console.print(lines)
    console.print("Each has a page: docs/styles/NAME.md. Try one: lab order --style NAME", soft_wrap=True)
