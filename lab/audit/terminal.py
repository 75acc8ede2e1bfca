"""An audit on a terminal: a row for each flow, a line for each order that is not fine, and the verdict."""

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.audit.report import LAB, Flow, Report

SHOWN = 20
LONGEST = 15
WIDE = 94
"""So many columns the whole table takes."""
COLUMNS: tuple[tuple[str, str, Callable[[Flow], str]], ...] = (
    ("orders", "orders", lambda flow: str(flow.orders)),
    ("completed", "com-\nplet-\ned", lambda flow: str(flow.completed)),
    ("rejected", "re-\nject-\ned", lambda flow: str(flow.rejected)),
    ("open", "open", lambda flow: str(flow.open)),
    ("produced", "pro-\nduc-\ned", lambda flow: str(flow.produced)),
    ("delivered", "de-\nliv-\nered", lambda flow: str(flow.delivered)),
    ("duplicated", "du-\npli-\ncated", lambda flow: str(flow.duplicated)),
    ("suppressed", "sup-\npres-\nsed", lambda flow: str(flow.suppressed)),
    ("lost", "lost", lambda flow: f"{flow.lost}{'*' if flow.lost_declared else ''}"),
    ("dead", "dead", lambda flow: str(flow.dead_lettered)),
    ("compensated", "com-\npen-\nsated", lambda flow: f"{flow.compensated_orders}/{flow.compensated_effects}"),
    ("pending", "pend-\ning", lambda flow: str(flow.pending)),
    ("twice", "twice", lambda flow: str(flow.effects_twice)),
)


def show(report: Report, console: Console) -> None:
    """Print it. On a narrow terminal columns of zeros are left out, which is said; nothing is cut."""
    console.print(Text(f"Audit of {report.scope}", style="bold"))
    shown = [each for each in COLUMNS if console.width >= WIDE or any(each[2](f) not in _NONE for f in report.flows)]
    if report.flows:
        console.print(_table(report, shown))
    else:
        console.print("no orders")
    if left_out := [name for name, *_ in COLUMNS if name not in {each[0] for each in shown}]:
        console.print(Text(f"nothing {', '.join(left_out)}"))
    if any(flow.compensated_orders for flow in report.flows):
        console.print(Text("compensated: orders/effects", style="dim"))
    if any(flow.lost_declared for flow in report.flows):
        console.print(Text("* declared: the transport delivers at most once (lab transports delivery)"))
    for order in report.orders[:SHOWN]:
        stuck = f", waits for {order.stuck}" if order.stuck else ""
        line = f"{order.id} {order.style}/{order.transport} {order.state}{stuck}: {order.text}"
        look = order.problems[0].look if order.problems else f"{LAB} trace {order.id}"
        console.print(Text(line, style="" if order.explained else "red"), soft_wrap=True)
        console.print(Text(f"  {look}"), soft_wrap=True)
    if len(report.orders) > SHOWN:
        console.print(f"… and {len(report.orders) - SHOWN} more: --json has all")
    for note in report.notes:
        console.print(Text(f"note  {note}", style="yellow"), soft_wrap=True)
    verdict = "; ".join(report.violations) or "all accounted for: nothing lost undeclared, nothing done twice"
    console.print(Text(verdict, style="bold red" if report.violations else "green"), soft_wrap=True)


_NONE = ("0", "0/0")


def _table(report: Report, columns: list[tuple[str, str, Callable[[Flow], str]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", min_width=LONGEST)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for flow in report.flows:
        bad = flow.lost > flow.lost_declared or flow.effects_twice
        name = "\n".join([_two_lines(flow.style), *(f" {wire}" for wire in flow.transport.split(","))])
        table.add_row(name, *(cell(flow) for *_, cell in columns), style="red" if bad else "")
    return table


def _two_lines(style: str) -> str:
    """A long style breaks after an underscore."""
    if len(style) <= LONGEST:
        return style
    place = style.rfind("_", 0, LONGEST) + 1
    return f"{style[:place]}\n{style[place:]}"
