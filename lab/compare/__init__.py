"""``lab compare``: what one run says about styles and transports, side by side.

``collect`` asks the span store, the load's own file and Prometheus; ``figures`` is what they answered;
``rows`` says which figures are shown, where each comes from and how it is computed; ``terminal``,
``markdown`` and ``html`` only lay them out.
"""

from lab.compare.collect import CompareError, compare
from lab.compare.figures import Comparison, FlowFigures, LoadFigures, SpanFigures, TelemetryFigure
from lab.compare.markdown import to_markdown
from lab.compare.report import Written, write_report
from lab.compare.terminal import print_comparison

__all__ = [
    "CompareError",
    "Comparison",
    "FlowFigures",
    "LoadFigures",
    "SpanFigures",
    "TelemetryFigure",
    "Written",
    "compare",
    "print_comparison",
    "to_markdown",
    "write_report",
]
