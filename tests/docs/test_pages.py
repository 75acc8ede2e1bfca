"""Generated pages are fresh, decisions are listed, links lead somewhere."""

import re
from pathlib import Path

import pytest

from docs import styles
from docs.generate import DOCS, PAGES
from tests.docs.tree import ROOT, files, read

DECISIONS = sorted(path for path in (ROOT / "docs/adr").glob("*.md") if path.name != "README.md")
PAGES_OF_OURS = [path for path in files() if path.suffix == ".md"]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_fresh(name: str) -> None:
    """`make docs` would change nothing."""
    assert styles.same((DOCS / name).read_text(), PAGES[name]()), "run: make docs"


def test_every_decision_is_in_the_index() -> None:
    """In order, each once, and no other."""
    index = read("docs/adr/README.md")
    assert re.findall(r"^\| \[\d+\]\((.*?)\)", index, re.MULTILINE) == [path.name for path in DECISIONS]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_four_parts(path: Path) -> None:
    """Status, context, decision, consequences, below its number and name."""
    text = path.read_text()
    number = int(path.name[:3])
    assert re.match(rf"# {number}\. \S", text)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Status", "Context", "Decision", "Consequences"]


def test_decisions_are_numbered_without_gaps() -> None:
    """001, 002, and so on."""
    assert [int(path.name[:3]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", PAGES_OF_OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    """A page that is moved takes its links along."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_decisions_that_the_code_cites_exist() -> None:
    """`docs/adr/004` in a comment leads to a page."""
    numbers = {path.name[:3] for path in DECISIONS}
    for path in files():
        if path.suffix in {".py", ".toml"}:
            cited = set(re.findall(r"docs/adr/(\d{3})", path.read_text()))
            assert cited <= numbers, path
