"""How long work is shown: a live table on a terminal, a line per event elsewhere, nothing to API callers."""

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lab.targets import Status

if TYPE_CHECKING:  # rich takes long to import, and most commands need little of it
    from rich.table import Table as Grid

SIGNS = {"busy": " ", "done": "[green]✓[/]", "failed": "[red]✗[/]", "absent": "[yellow]-[/]"}


def quiet(name: str, text: str, state: str = "busy") -> None:
    """Show nothing."""


class Lines:
    """One line for each thing that began or ended, on stderr: for logs and pipes."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str, text: str, state: str = "busy") -> None:
        # Counters move many times a second: only their first words are news.
        head = state + text.rstrip("0123456789 %").split(" ", 1)[0]
        with self._lock:
            if self._last.get(name) != head:
                self._last[name] = head
                print(f"{name}: {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Table:
    """A line for each thing that moves in place, with the seconds that it has taken, on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._rows: dict[str, tuple[str, str, float, float | None]] = {}
        self._lock = threading.Lock()
        self._live = Live(
            console=Console(stderr=True), get_renderable=self._render, refresh_per_second=8, transient=False
        )

    def __call__(self, name: str, text: str, state: str = "busy") -> None:
        now = time.monotonic()
        with self._lock:
            began = self._rows[name][2] if name in self._rows else now
            self._rows[name] = (state, text, began, None if state == "busy" else now)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def _render(self) -> "Grid":
        from rich.spinner import Spinner
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid.grid(padding=(0, 1))
        now = time.monotonic()
        with self._lock:
            rows = dict(self._rows)
        for name, (state, text, began, ended) in rows.items():
            sign = Spinner("dots") if state == "busy" else Text.from_markup(SIGNS[state])
            grid.add_row(sign, name, f"{(ended or now) - began:5.1f} s", Text(text))
        return grid


def display() -> Lines | Table:
    """What fits where stderr goes."""
    return Table() if sys.stderr.isatty() else Lines()


def memory_line(status: Status) -> str:
    """What all of it holds. Shared pages count once where that is known; the column above counts them for each."""
    resident, held = status.rss_bytes, status.pss_bytes
    running = sum(process.replicas for process in status.processes if process.rss_bytes)
    if not running:  # a cluster whose kubelets this user may not ask
        return "memory: not known"
    shared = f" ({_mib(resident)} with shared pages counted for each)" if held is not None else ""
    return f"memory: {_mib(resident if held is None else held)} in {running} processes{shared}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"


def print_status(status: Status) -> None:
    """`lab status` for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    console = Console(highlight=False)
    with_pids = any(process.pid for process in status.processes)  # a cluster's mean nothing here
    columns = ("process", "pid", "state", "memory") if with_pids else ("process", "state", "memory")
    grid = Grid(*columns, box=None, pad_edge=False, header_style="bold")
    for process in status.processes:
        many = f", {process.replicas} of them" if process.replicas > 1 else ""
        state = f"[green]ready{many}[/]" if process.ready else f"[yellow]{escape(process.reason)}[/]"
        pid = [str(process.pid or "-")] if with_pids else []
        grid.add_row(process.name, *pid, state, _mib(process.rss_bytes))
    console.print(grid)
    console.print(memory_line(status) + "\n")
    parts = {"addresses": status.addresses, "transports": status.transports, "notes": status.notes}
    for heading, rows in parts.items():
        if rows:
            console.print(f"[bold]{heading}[/]")
            for name, text in rows.items():
                console.print(f"  {name:20} {text}", soft_wrap=True, markup=False)
