"""The comparison as Markdown, for issues, wikis and READMEs."""

from lab.compare.figures import Comparison
from lab.compare.numbers import number
from lab.compare.rows import ROWS, TRACE_COMMAND, footnotes, header_lines, mark, sentence_of


def to_markdown(comparison: Comparison) -> str:
    """GitHub's table syntax; a column per flow."""
    flows = comparison.flows
    lines = [f"## Run {comparison.run_id}", ""]
    for line in header_lines(comparison):
        lines += [line, ""]
    lines.append(_row(["", "from", *(f"`{flow.style}`<br>{flow.transport}{mark(flow)}" for flow in flows)]))
    lines.append(_row([":--", ":--", *("--:" for _ in flows)]))
    for row in ROWS:
        cells = [row.cell(flow) for flow in flows]
        texts = [f"**{cell.text}**" if cell.bad else cell.text for cell in cells]
        lines.append(_row([row.label, row.source, *texts]))
    for footnote in footnotes(comparison):
        lines += ["", footnote]
    lines += ["", *(f"- {sentence}" for flow in flows if (sentence := sentence_of(flow)))]
    if comparison.telemetry:
        lines += ["", "All processes, while the run lasted (Prometheus):", ""]
        lines += [f"- {number(figure.value)} {figure.sentence}" for figure in comparison.telemetry]
    examples = [flow for flow in flows if flow.example_order_id]
    if examples:
        lines += ["", "An example order of each:", ""]
        lines += [f"- {flow.name}: `{TRACE_COMMAND.format(flow.example_order_id)}`" for flow in examples]
    if comparison.notes:
        lines += ["", "Notes:", "", *(f"- {note}" for note in comparison.notes)]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
