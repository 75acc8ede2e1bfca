"""The files of a comparison, in the run's folder: ``report.html``, ``comparison.md``, ``comparison.json``."""

from dataclasses import dataclass
from pathlib import Path

from lab.compare.figures import Comparison
from lab.compare.markdown import to_markdown


@dataclass(frozen=True)
class Written:
    html: Path
    markdown: Path
    json: Path


def write_report(comparison: Comparison, runs_dir: Path) -> Written:
    """Writes all three, each whole or not at all. Raises OSError."""
    # plotly takes most of a second to import, and only the page needs it
    from lab.compare.html import to_html

    run_dir = runs_dir / comparison.run_id
    run_dir.mkdir(parents=True, exist_ok=True)
    return Written(
        html=_write(run_dir / "report.html", to_html(comparison)),
        markdown=_write(run_dir / "comparison.md", to_markdown(comparison)),
        json=_write(run_dir / "comparison.json", comparison.dumps() + "\n"),
    )


def _write(path: Path, text: str) -> Path:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    return unfinished.replace(path)
