"""``lab outage``: one service hangs, or dies, for a while under load; what comes of it, side by side.

The same orders at the same rate over four ways to talk: calls, calls behind a circuit breaker, events, and the hybrid
of both. In each the service works as ever, then does not, then does again; orders are told apart by when they were
sent.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.ask import get_settings, put_settings
from lab.audit.stock import pages
from lab.load import run_load
from lab.targets import LabError, Target
from load.plan import Flow
from load.profiles import Profile
from load.records import FlowResult, OrderRecord, quantile
from load.shapes import steady

How = Literal["hang", "kill"]
HANG_MS = "60000"
PHASES = ("before", "during", "after")
SETTLE_S = 60.0


class UsageError(LabError):
    exit_code = 2


def kind_of(text: str) -> How:
    """How a service is away. Raises UsageError."""
    for how in get_args(How):
        if how == text:
            return how  # type: ignore[no-any-return]
    raise UsageError(f"a service can {' or '.join(get_args(How))}, not {text!r}")


@dataclass(frozen=True, slots=True)
class Case:
    """A way to talk, and the settings that make it so."""

    name: str
    flow: Flow
    settings: Mapping[str, str] = field(default_factory=dict)


CASES = (
    Case("calls", Flow("request_response", "rest"), {"rpc.breaker": "off"}),
    Case("calls, breaker", Flow("request_response", "rest"), {"rpc.breaker": "on"}),
    Case("events", Flow("choreography", "rabbitmq")),
    Case("hybrid", Flow("hybrid", "grpc,rabbitmq,kafka"), {"rpc.breaker": "off"}),
)


@dataclass(frozen=True, slots=True)
class Phase:
    """Of the orders that were sent in it: how they were answered, how many callers waited at once at most, and what
    became of those that were accepted. Durations in milliseconds; None of nothing."""

    phase: str
    orders: int
    accepted: int
    failed: int
    answer_p50_ms: float | None
    answer_p95_ms: float | None
    waiting: int
    ended: int
    lost: int
    complete_p95_ms: float | None


@dataclass
class _Outage:
    """Begins when so many orders were sent, and lasts ``for_s``. ``marks`` are how many had been sent when it began and
    when it was over."""

    begin: Callable[[], None]
    end: Callable[[], None]
    after_orders: int
    for_s: float
    marks: list[int] = field(default_factory=list)
    failure: BaseException | None = None
    _cut: threading.Event = field(default_factory=threading.Event)
    _sent: int = 0
    _thread: threading.Thread | None = None

    def watch(self, counts: Mapping[str, int]) -> None:
        self._sent = counts.get("sent", 0)
        if self._thread is None and self._sent >= self.after_orders:
            self._thread = threading.Thread(target=self._happen, name="outage", daemon=True)
            self._thread.start()

    def _happen(self) -> None:
        try:
            self.marks.append(self._sent)
            try:
                self.begin()
                self._cut.wait(self.for_s)
            finally:
                self.end()
            self.marks.append(self._sent)
        except BaseException as error:
            self.failure = error

    def cut(self) -> None:
        """End it now, if it is not over."""
        self._cut.set()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise what went wrong in it."""
        if self.failure is not None:
            raise self.failure
        if len(self.marks) != 2:
            raise LabError("the load was over before the outage was: is the front door answering? (lab status)")


def run_outage(
    target: Target,
    console: Console,
    *,
    service: str,
    how: How,
    for_s: float,
    rate_per_s: float,
    chosen: Sequence[Case] = CASES,
) -> dict[str, list[Phase]]:
    """The phases of each chosen case that can run here, by its name. Raises LabError."""
    around_s = max(5.0, for_s / 2)
    profile = Profile("outage", steady(rate_per_s, 2 * around_s + 2 * for_s), drain_s=60)
    ready = {name for name, state in target.status().transports.items() if state == "ready"}
    cases = [case for case in chosen if set(case.flow.transport.split(",")) <= ready]
    if not cases:
        raise LabError("none of rest, rabbitmq and grpc,rabbitmq,kafka is ready here: lab status says why")
    seen: dict[str, list[Phase]] = {}
    began_ns = time.time_ns()
    for case in cases:
        with _settings(target, case.settings):
            outage = _Outage(*_switches(target, service, how), int(rate_per_s * around_s), for_s)
            console.print(f"{case.name}: {case.flow}; {service} will {how} for {for_s:g} s")
            try:
                result = run_load(
                    front_door=target.addresses["front_door"],
                    runs_dir=target.state_dir / "runs",
                    flows=[case.flow],
                    profile=profile,
                    refused_share=0,
                    console=console,
                    watch=outage.watch,
                )
            finally:
                outage.cut()
            outage.check()
        seen[case.name] = phases(result.flows[0], *outage.marks)
        if not _settled(target, began_ns):
            console.print(f"{case.name}: after {SETTLE_S:g} s orders are open still, which disturbs what comes next")
    return seen


def _settled(target: Target, began_ns: int) -> bool:
    """Return when all orders since then have ended: those whose calls broke off are taken back by more calls. False
    after a while."""
    deadline = time.monotonic() + SETTLE_S
    with target.admin_ports() as ports:
        while any(row["state"] == "accepted" for row in pages(ports["orders"], "/audit/orders", since_ns=began_ns)):
            if time.monotonic() > deadline:
                return False
            time.sleep(1)
    return True


def _switches(target: Target, service: str, how: How) -> tuple[Callable[[], None], Callable[[], None]]:
    """How it begins and how it ends."""
    if how == "kill":
        return lambda: target.kill(service), lambda: void(target.restart(service))
    name = f"{service}.delay_ms"
    admin, token = target.addresses["orders_admin"], target.settings_token
    return lambda: void(put_settings(admin, token, {name: HANG_MS})), lambda: void(
        put_settings(admin, token, {name: None})
    )


def void(_: object) -> None:
    """What is called for its effect."""


@contextmanager
def _settings(target: Target, wanted: Mapping[str, str]) -> Iterator[None]:
    """``wanted`` within the block, and what was there before behind it."""
    admin, token = target.addresses["orders_admin"], target.settings_token
    before = get_settings(admin, token)["values"] if wanted else {}
    put_settings(admin, token, wanted)
    try:
        yield
    finally:
        put_settings(admin, token, {name: before[name] for name in wanted})


def phases(result: FlowResult, began: int, ended: int) -> list[Phase]:
    """The phases of a flow's orders, of which ``began`` had been sent when the outage began and ``ended`` when it was
    over."""
    parts = (
        [r for r in result.orders if r.index < began],
        [r for r in result.orders if began <= r.index < ended],
        [r for r in result.orders if r.index >= ended],
    )
    return [_phase(name, records) for name, records in zip(PHASES, parts, strict=True)]


def _phase(name: str, records: Sequence[OrderRecord]) -> Phase:
    answers = [record.accept_ms for record in records if record.accept_ms is not None]
    ends = [r.complete_ms for r in records if r.outcome in {"completed", "rejected"} and r.complete_ms is not None]
    return Phase(
        name,
        orders=len(records),
        accepted=sum(record.accepted for record in records),
        failed=sum(record.outcome == "failed" for record in records),
        answer_p50_ms=quantile(answers, 0.5),
        answer_p95_ms=quantile(answers, 0.95),
        waiting=_at_once(records),
        ended=len(ends),
        lost=sum(record.outcome in {"lost", "interrupted"} for record in records),
        complete_p95_ms=quantile(ends, 0.95),
    )


def _at_once(records: Sequence[OrderRecord]) -> int:
    """How many callers waited for their answer at the same time, at most."""
    changes = []
    for record in records:
        if record.accept_ms is not None:
            sent_s = record.due_s + record.late_ms / 1000
            changes += [(sent_s, 1), (sent_s + record.accept_ms / 1000, -1)]
    waiting = most = 0
    for _, change in sorted(changes):
        waiting += change
        most = max(most, waiting)
    return most


def show(seen: Mapping[str, Sequence[Phase]], console: Console) -> None:
    """Print the cases side by side."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading.replace(" ", "\n", 1), justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows(seen):
        table.add_row(*row, end_section=row[1] == PHASES[-1])
    console.print(table)
    console.print(Text("waiting: callers at once, at most; answer and end: ms; end: of those that ended", style="dim"))


HEADINGS = (
    "",
    "sent",
    "orders",
    "accepted",
    "failed",
    "answer p50",
    "answer p95",
    "waiting",
    "ended",
    "lost",
    "end p95",
)


def rows(seen: Mapping[str, Sequence[Phase]]) -> list[tuple[str, ...]]:
    """A row for each phase of each case, whose name the first has."""
    return [
        (
            name if number == 0 else "",
            part.phase,
            *(str(count) for count in (part.orders, part.accepted, part.failed)),
            *(_ms(took) for took in (part.answer_p50_ms, part.answer_p95_ms)),
            *(str(count) for count in (part.waiting, part.ended, part.lost)),
            _ms(part.complete_p95_ms),
        )
        for name, parts in seen.items()
        for number, part in enumerate(parts)
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def to_json(seen: Mapping[str, Sequence[Phase]]) -> dict[str, Any]:
    return {name: [asdict(part) for part in parts] for name, parts in seen.items()}
