"""``lab load``: the same seeded orders over one flow after the other.

One Locust process per flow, one flow at a time; a flow's orders have ended, or are counted as lost, before
the next one starts. What was seen lies in ``<runs_dir>/<run_id>/load.json``, and what Locust logged beside
it.

``python -m lab.load --front-door URL`` is the same for where nobody looks on, such as a Job in a cluster: it prints a
summary as JSON, and ends with 1 when an order was lost.
"""

import argparse
import json
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from lab.targets import LabError
from load.flows import FrontDoor, FrontDoorError
from load.orders import DEFAULT_REFUSED_SHARE
from load.plan import Flow, Plan
from load.process import run_locust
from load.profiles import PROFILES, Profile, profile_named
from load.records import FlowResult, LoadResult, OrderRecord, quantile

READY_POLL_S = 1.0


class LoadError(LabError):
    """The load cannot run; the text is one line for a person."""


def new_run_id() -> str:
    """Sorts by time, and is safe in a header and as a folder's name."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_load(
    *,
    front_door: str,
    runs_dir: Path,
    flows: Sequence[Flow] | None = None,
    profile: str | Profile = "standard",
    seed: int = 1,
    refused_share: float = DEFAULT_REFUSED_SHARE,
    run_id: str | None = None,
    console: Console | None = None,
    ui_port: int | None = None,
    watch: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> LoadResult:
    """Loads whatever runs, or the given ``flows``, and waits until the orders have ended (bounded by the
    profile).

    ``console`` is where progress is drawn; None draws none. With ``ui_port``, Locust's web page serves there
    on loopback instead, with every flow to choose from, until Ctrl-C. ``watch`` hears about each second how many
    orders of the current flow were sent, are in flight, ended in which way.

    Raises LoadError with one line; KeyboardInterrupt after Locust has ended and what was seen is saved.
    """
    run_id = run_id or new_run_id()
    plan = _plan(
        front_door=front_door,
        run_id=run_id,
        flows=flows,
        profile=profile,
        seed=seed,
        refused_share=refused_share,
    )
    run_dir = runs_dir / run_id
    run_dir.mkdir(parents=True, exist_ok=True)
    result = LoadResult(
        run_id=run_id,
        front_door=plan.front_door,
        profile=plan.profile,
        workload=plan.profile.sentence(),
        seed=seed,
        refused_share=refused_share,
        started_at=_now(),
        ended_at="",
        busy_before=psutil.cpu_percent(interval=0.5) / 100,
    )
    batches = [(flow,) for flow in plan.flows] if ui_port is None else [plan.flows]
    with _View(console, plan.profile) as view:
        if ui_port is None:
            view.announce(len(batches))
        for batch in batches:
            try:
                _load(plan.only(batch), run_dir, result, view, ui_port, watch)
            except KeyboardInterrupt:
                if ui_port is None:
                    raise
                # how a person ends the page; flows that were not chosen are no part of the run
                result.flows = [replace(flow, complaint=None) for flow in result.flows if flow.orders]
            finally:
                result.ended_at = _now()
                result.save(run_dir)
    return result


def _plan(
    *,
    front_door: str,
    run_id: str,
    flows: Sequence[Flow] | None,
    profile: str | Profile,
    seed: int,
    refused_share: float,
) -> Plan:
    """Asks the front door what there is. Raises LoadError for what cannot be."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_id):
        raise LoadError(f"a run's name is letters, digits, dots, dashes and underscores, not {run_id!r}")
    if not 0 <= refused_share <= 1:
        raise LoadError(f"the refused share is a number from 0 to 1, not {refused_share:g}")
    door = FrontDoor(front_door)
    try:
        profile = profile_named(profile) if isinstance(profile, str) else profile
        if flows:
            door.check(flows)
        chosen = tuple(flows or door.flows())
        return Plan(door.address, run_id, chosen, profile, seed, door.catalog(), refused_share)
    except FrontDoorError as error:
        raise LoadError(str(error)) from error
    except KeyError as error:
        raise LoadError(error.args[0]) from error


def _load(
    plan: Plan,
    run_dir: Path,
    result: LoadResult,
    view: "_View",
    ui_port: int | None,
    watch: Callable[[Mapping[str, int]], None],
) -> None:
    """One Locust process from start to end; its orders go to ``result`` as they end."""
    seen = {flow: FlowResult(flow, _now(), "") for flow in plan.flows}
    result.flows += seen.values()

    def hear(kind: str, content: dict[str, Any]) -> None:
        flow_result = seen[Flow(content.pop("style"), content.pop("transport"))]
        if kind == "order":
            flow_result.orders.append(OrderRecord(**content))
        elif kind == "progress":
            view.progress(content)
            watch(content)
        elif kind == "end":
            flow_result.warmup_failed = content["warmup_failed"]
            flow_result.poll_errors = content["poll_errors"]

    log = run_dir / f"locust-{plan.flows[0].slug if ui_port is None else 'ui'}.log"
    complaint: str | None = "interrupted"
    try:
        with view.flow(plan.flows[0], seen[plan.flows[0]], ui_port):
            complaint = run_locust(plan, log=log, hear=hear, ui_port=ui_port)
    finally:
        for flow_result in seen.values():
            flow_result.ended_at = _now()
            flow_result.complaint = complaint
            flow_result.orders.sort(key=lambda record: record.index)
    if complaint and not any(flow_result.orders for flow_result in seen.values()):
        raise LoadError(f"{complaint} (see {log})")


class _View:
    """What a person sees meanwhile: a bar per flow on a terminal, a line per flow elsewhere."""

    def __init__(self, console: Console | None, profile: Profile) -> None:
        self.console = console or Console(quiet=True)
        self.profile = profile
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def announce(self, flows: int) -> None:
        """What it will take: with every transport there, the standard load lasts an hour."""
        minutes = flows * self.profile.duration_s / 60
        if minutes >= 5:
            self.console.print(
                f"{flows} flows, {minutes:.0f} min at least; fewer: --flow STYLE/TRANSPORT; shorter: --profile demo"
            )

    @contextmanager
    def flow(self, flow: Flow, seen: FlowResult, ui_port: int | None) -> Iterator[None]:
        if ui_port is not None:
            self.console.print(f"Locust's page: http://127.0.0.1:{ui_port} (Ctrl-C ends it)")
            yield
            return
        self.task = self.bars.add_task(str(flow), total=self.profile.orders, figures="starting")
        if not self.console.is_terminal:
            self.console.print(f"loading {flow} for {self.profile.duration_s:g} s …")
        yield
        if not self.console.is_terminal:
            self.console.print(f"  {_figures(seen)}")
        self.bars.update(self.task, figures=_figures(seen), total=1, completed=1)
        self.task = None

    def progress(self, content: dict[str, Any]) -> None:
        """``content``: how many orders were sent, are in flight, ended in which way."""
        if self.task is None:
            return
        sent, in_flight = content.get("sent", 0), content.get("in_flight", 0)
        figures = f"{sent} sent, {in_flight} in flight"
        if wrong := content.get("failed", 0) + content.get("lost", 0):
            figures += f", [red]{wrong} failed[/red]"
        self.bars.update(self.task, completed=sent - in_flight, figures=figures)


def _figures(seen: FlowResult) -> str:
    parts = [
        f"{len(seen.orders)} orders",
        f"{seen.count('completed')} completed",
        f"{seen.count('rejected')} rejected",
    ]
    parts += [f"{seen.count(name)} {name}" for name in ("failed", "lost", "interrupted") if seen.count(name)]
    return ", ".join(parts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def summary(result: LoadResult) -> dict[str, Any]:
    """A run in a few figures for each flow, as plain data; durations in ms."""
    return {
        "run_id": result.run_id,
        "profile": result.profile.name,
        "workload": result.workload,
        "lost": result.lost,
        "failed": result.failed,
        "flows": [
            {
                "style": flow.flow.style,
                "transport": flow.flow.transport,
                "orders": len(flow.orders),
                "completed": flow.count("completed"),
                "rejected": flow.count("rejected"),
                "failed": flow.count("failed"),
                "lost": flow.lost,
                "orders_per_s": flow.orders_per_s,
                "accept_p50_ms": quantile(flow.accept_ms(), 0.5),
                "accept_p95_ms": quantile(flow.accept_ms(), 0.95),
                "complete_p50_ms": quantile(flow.complete_ms(), 0.5),
                "complete_p95_ms": quantile(flow.complete_ms(), 0.95),
                "complaint": flow.complaint,
            }
            for flow in result.flows
        ],
    }


def wait_until_ready(front_door: str, wait_s: float) -> None:
    """Return when the front door answers and no transport is still coming up, at the latest after ``wait_s``."""
    door = FrontDoor(front_door)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        with suppress(FrontDoorError):
            if not any(status.startswith("not ready") for status in door.transports().values()):
                return
        time.sleep(READY_POLL_S)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The command line; progress goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m lab.load", description="Drive load and print a summary as JSON.")
    parser.add_argument("--front-door", required=True, metavar="URL")
    parser.add_argument("--profile", default="standard", choices=PROFILES)
    parser.add_argument("--flow", action="append", metavar="STYLE/TRANSPORT", help="may be repeated; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wait-s", type=float, default=300, help="how long the lab may take to become ready")
    parser.add_argument("--runs-dir", type=Path, help="where load.json is written; default: a new temporary folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # which the first process of a container would not hear otherwise
    try:
        wait_until_ready(options.front_door, options.wait_s)
        result = run_load(
            front_door=options.front_door,
            runs_dir=options.runs_dir or Path(tempfile.mkdtemp(prefix="antiphon-runs-")),
            flows=[Flow.parse(text) for text in options.flow] if options.flow else None,
            profile=options.profile,
            seed=options.seed,
            console=Console(stderr=True),
        )
    except (LabError, ValueError) as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(summary(result), indent=1))
    sys.exit(1 if result.lost else 0)


if __name__ == "__main__":
    main()
