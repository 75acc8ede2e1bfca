"""docs/transports.md: the transports side by side, and each one's data sheet, from the docstrings of the adapters."""

from lab.sheets import HEADINGS, Sheet, sheets
from services.styles import STYLES


def page() -> str:
    """The whole page. Raises SheetError where an adapter has no data sheet."""
    found = sheets()
    bodies = "\n\n".join(_section(sheet) for sheet in found)
    return f"""# The transports

<!-- Written by `make docs` from the adapters' docstrings in services/transports. Do not edit. -->

`lab transports` prints this page on a terminal, with what runs now. A call's delivery is that of one attempt: whoever
called knows how it ended, or that it is unknown. A message's is what becomes of it once it was accepted.

{_overview(found)}

{bodies}
"""


def _overview(found: list[Sheet]) -> str:
    rows: list[tuple[str, ...]] = [
        ("transport", "kind", "delivery", "ordering", *STYLES),
        ("---",) * (4 + len(STYLES)),
    ]
    for sheet in found:
        carries = ("yes" if name in sheet.styles else "" for name in STYLES)
        rows.append(
            (f"[{sheet.name}](#{sheet.name})", sheet.kind, sheet.transport.delivery, _code(sheet.ordering), *carries)
        )
    return "\n".join(_row(row) for row in rows)


def _section(sheet: Sheet) -> str:
    rows = [("", ""), ("---", "---")]
    rows += [(name, _code(sheet.lines[name])) for name in HEADINGS]
    rows += [("Styles", ", ".join(sheet.styles) or "none")]
    rows += [("Not possible", "<br>".join(sheet.not_possible.values()))] if sheet.not_possible else []
    table = "\n".join(_row(row) for row in rows)
    return f"## {sheet.name}\n\n{_code(sheet.summary)}\n\n{table}"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(text: str) -> str:
    """Code as Markdown marks it; what would be a tag or an emphasis elsewhere stays as it was written."""
    parts = text.split("``")
    for number in range(0, len(parts), 2):
        parts[number] = parts[number].replace("<", "&lt;").replace("*", r"\*")
    return "`".join(parts)
