"""One real lab for all live tests: every server and service as a process, ended with the session, however that ends."""

from collections.abc import Iterator

import pytest

from lab.targets.local.ports import free_block
from lab.targets.local.target import LocalTarget
from tests.live.lab import RealLab

MATRIX = pytest.StashKey[list[tuple[str, str, int, int, float, float]]]()
"""What each flow of the matrix came to: style, transport, completed, rejected, ms to the answer, ms to the end."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash.get(MATRIX, [])
    if rows:
        terminalreporter.section("every style over every transport")
        head = ("style", "transport", "completed", "rejected", "answer p50 ms", "end p50 ms")
        cells = [head, *((*row[:4], *(f"{each:.0f}" for each in row[4:])) for row in rows)]
        widths = [max(len(str(row[column])) for row in cells) for column in range(len(head))]
        for style, transport, *figures in cells:
            right = "  ".join(f"{figure:>{width}}" for figure, width in zip(figures, widths[2:], strict=True))
            terminalreporter.write_line(f"{style:<{widths[0]}}  {transport:<{widths[1]}}  {right}")


@pytest.fixture(scope="session")
def real_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    target = LocalTarget(tmp_path_factory.mktemp("lab"), tied=True)
    with free_block() as ports:
        try:
            target.up(port_base=ports.base, jaeger="build")
            running = RealLab(target)
            with running.http:
                running.wait_for_jaeger()
                yield running
        finally:
            target.down()


@pytest.fixture
def lab(real_lab: RealLab) -> Iterator[RealLab]:
    """The lab with its default settings, everything ready, before and after each test."""
    real_lab.settle()
    yield real_lab
    real_lab.put_settings(dict.fromkeys(real_lab.settings()))
