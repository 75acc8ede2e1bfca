"""The table on a terminal: a column per flow, as many side by side as fit, the rest below."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lab.compare.figures import Comparison, FlowFigures
from lab.compare.numbers import number
from lab.compare.rows import ROWS, footnotes, header_lines, mark, sentence_of


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Readable from 80 columns on; nothing is cut."""
    console.print(Text(f"Run {comparison.run_id}", style="bold"))
    for line in header_lines(comparison):
        console.print(Text(line))
    for table in _blocks(comparison.flows, console):
        console.print(table)
    for footnote in footnotes(comparison):
        console.print(Text(footnote))
    for flow in comparison.flows:
        if sentence := sentence_of(flow):
            console.print(Text(sentence), soft_wrap=False)
    if comparison.telemetry:
        figures = (f"{number(figure.value)} {figure.sentence}" for figure in comparison.telemetry)
        console.print(Text(f"All processes, while the run lasted (Prometheus): {', '.join(figures)}."))
    for note in comparison.notes:
        console.print(f"[yellow]note[/yellow]  {escape(note)}")


def _table(flows: Sequence[FlowFigures]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("from", style="dim", no_wrap=True)
    for flow in flows:
        table.add_column(_heading(flow), justify="right", no_wrap=True)
    for row in ROWS:
        cells = [row.cell(flow) for flow in flows]
        texts = [Text(cell.text, style="bold red" if cell.bad else "") for cell in cells]
        table.add_row(row.label, row.source, *texts)
    return table


def _heading(flow: FlowFigures) -> str:
    """Style above transport; a long style breaks after the underscore nearest its middle."""
    style = flow.style
    if len(style) > 14:
        breaks = [place for place, letter in enumerate(style) if letter == "_"]
        if breaks:
            middle = min(breaks, key=lambda place: abs(place - len(style) // 2)) + 1
            style = f"{style[:middle]}\n{style[middle:]}"
    return "\n".join([style, *flow.transport.split(",")]) + mark(flow)


def _blocks(flows: Sequence[FlowFigures], console: Console) -> Iterator[Table]:
    """As many flows as the console holds, at least one, and so on."""
    block: list[FlowFigures] = []
    for flow in flows:
        if block and _width(_table([*block, flow]), console) > console.width:
            yield _table(block)
            block = []
        block.append(flow)
    if block:
        yield _table(block)


def _width(table: Table, console: Console) -> int:
    """What it would take with nothing cut."""
    return Measurement.get(console, console.options.update(width=10_000), table).maximum
