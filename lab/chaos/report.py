"""What a run came to, and whether it is as the data sheets promise."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.audit import Report
from load.plan import Flow

LAB = ".venv/bin/lab"
TERMINAL_S = 60.0
"""Every order has ended by then, counted from when everything is well again."""


@dataclass
class Run:
    """``orders`` are those that customers were told of; ``end_s`` is how long after healing the last of them ended (0:
    before it), None while one is open. Dead letters are counted per service: ``strangers`` of them nobody can decode,
    ``replayed`` were put back. The rest is the audit's."""

    flow: Flow
    seed: int
    run_id: str
    acts: Sequence[str]
    at_most_once: bool = False
    requests: int = 0
    tries: int = 0
    orders: int = 0
    completed: int = 0
    rejected: int = 0
    open: int = 0
    open_unexplained: int = 0
    redelivered: int = 0
    suppressed: int = 0
    strangers: int = 0
    replayed: int = 0
    lost: int = 0
    lost_declared: int = 0
    effects_twice: int = 0
    heal_s: float = 0.0
    end_s: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        return self.completed + self.rejected

    @property
    def dead_letters(self) -> int:
        return self.strangers + self.replayed

    @property
    def look(self) -> list[str]:
        """The commands that look closer, and that do it again."""
        flow = f"{self.flow.style}/{self.flow.transport}"
        return [f"{LAB} audit {self.run_id}", f"{LAB} chaos --flow {flow} --seed {self.seed} --orders {self.requests}"]

    def take(self, report: Report) -> None:
        """Count what the audit of the run found."""
        for flow in report.flows:
            self.completed += flow.completed
            self.rejected += flow.rejected
            self.open += flow.open
            self.redelivered += flow.duplicated
            self.suppressed += flow.suppressed
            self.lost += flow.lost
            self.lost_declared += flow.lost_declared
            self.effects_twice += flow.effects_twice
        declared = {
            order.id
            for order in report.orders
            if order.explained and any(problem.kind == "lost" and problem.declared for problem in order.problems)
        }
        still_open = [order for order in report.orders if order.state == "accepted"]
        self.open_unexplained = sum(not (self.at_most_once and order.id in declared) for order in still_open)
        self.problems += report.violations

    def judge(self) -> None:
        """Say what is not as claimed: each accepted order is there and ended in time, but for what a transport that
        keeps nothing has declared to lose."""
        audited = self.ended + self.open
        if audited != self.orders:
            self.problems.append(f"{self.orders} orders were accepted, and orders knows {audited} of them")
        if self.requests > self.orders:
            self.problems.append(f"{self.requests - self.orders} requests were never answered")
        if self.open_unexplained:
            self.problems.append(f"{self.open_unexplained} orders have not ended {TERMINAL_S:g} s after healing")
        if self.end_s is not None and self.end_s > TERMINAL_S:
            self.problems.append(f"the last order ended {self.end_s:.0f} s after healing")

    def to_json(self) -> dict[str, Any]:
        """A contract for scripts: fields are added and never changed."""
        flow = {"style": self.flow.style, "transport": self.flow.transport}
        derived = {"ended": self.ended, "dead_letters": self.dead_letters, "held": not self.problems, "look": self.look}
        return {**asdict(self), "flow": flow, **derived}


HEADINGS = (
    "",
    "orders",
    "ended",
    "redelivered",
    "suppressed",
    "dead letters",
    "lost",
    "twice",
    "last end",
    "holds",
)
SHORT = {"redelivered": "rede-\nliv.", "suppressed": "sup-\npr.", "dead letters": "dead", "last end": "last\nend"}
"""For a terminal."""


def cells(run: Run) -> tuple[str, ...]:
    """A run as a row: dead letters, and how many of them were replayed; a star behind what was lost by declaration."""
    return (
        f"{run.flow.style} {run.flow.transport}",
        str(run.orders),
        str(run.ended),
        str(run.redelivered),
        str(run.suppressed),
        f"{run.dead_letters}/{run.replayed}",
        f"{run.lost}*" if run.lost and run.lost == run.lost_declared else str(run.lost),
        str(run.effects_twice),
        "never" if run.end_s is None else f"{run.end_s:.0f} s",
        "NO" if run.problems else "yes",
    )


def show(runs: Sequence[Run], console: Console) -> None:
    """Print a row for each run, and under it what was done to it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        table.add_column(SHORT.get(heading, heading), justify="left" if number == 0 else "right", no_wrap=True)
    for run in runs:
        row = cells(run)
        name = "\n".join([run.flow.style, *(f"  {wire}" for wire in run.flow.transport.split(","))])
        table.add_row(name, *row[1:], style="red" if run.problems else "")
    console.print(table)
    console.print(Text("dead letters/replayed; last end: after healing; * as the transport declares", style="dim"))
    for run in runs:
        for line in [*run.problems, *run.look] if run.problems else ():
            console.print(Text(f"{run.flow}: {line}", style="red"), soft_wrap=True)
    held = sum(not run.problems for run in runs)
    console.print(f"{held} of {len(runs)} runs are as promised: nothing lost that should not be, nothing done twice")


def to_markdown(runs: Sequence[Run]) -> str:
    """The runs as a table, with what was done to each."""
    rows: list[tuple[str, ...]] = [("flow", *HEADINGS[1:], "what was done")]
    rows.append(("---", *(["---:"] * (len(HEADINGS) - 2)), "---", "---"))
    rows += [(*cells(run), "; ".join(run.acts)) for run in runs]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
