"""From names to processes: get what each entry needs, side by side, then render them all for one plan."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lab.targets import LabError, Progress
from lab.targets.local import certificates
from lab.targets.local.jaeger import what_a_build_has
from lab.targets.local.plan import Plan
from lab.targets.local.ports import Ports
from lab.targets.local.process import Process
from lab.targets.local.provision import UnavailableError, golang
from lab.targets.local.provision.tools import Job
from lab.targets.local.servers import TRANSPORTS, Entry
from lab.targets.local.state import State, StateDir

JAEGER = ("auto", "build", "defer", "off")
DATABASES = ("sqlite", "postgres")
AT_ONCE = 4  # they wait for the network; apt, Maven and Debian's unpacking share two cores well


def choose(names: Sequence[str], entries: Mapping[str, Entry], *, jaeger: str, database: str) -> list[str]:
    """The entries to run: the named ones, or all default ones. Raises LabError for unknown words."""
    from lab.targets.local.target import unknown

    for word, known in ((jaeger, JAEGER), (database, DATABASES)):
        if word not in known:
            raise LabError(unknown("choice", word, known))
    for name in names:
        if name not in entries:
            raise LabError(unknown("process", name, entries))
    chosen = list(names) or [name for name, entry in entries.items() if entry.default]
    if jaeger == "off":
        chosen = [name for name in chosen if name != "jaeger"]
    if database == "postgres" and "postgres" not in chosen:
        chosen.append("postgres")
    return chosen


def assemble(state: State, state_dir: StateDir, entries: Mapping[str, Entry], progress: Progress) -> list[Process]:
    """All processes of `state.entries`. What cannot be had is left out, and said in `state.absent`."""
    found, missing = provide(state.entries, entries, progress)
    state.absent = {name: str(error) for name, error in missing.items()}
    state.installable = sorted({package for error in missing.values() for package in error.packages})
    state.notes = {name: f"{files.source} ({files.path})" for name, files in found.items() if files is not None}
    if "jaeger" in found and found["jaeger"] is None:
        state.notes["jaeger"] = what_a_build_has()
        if "jaeger" not in state.running:
            _announce_build(state, progress)
    plan = planned(state, state_dir)
    processes: list[Process] = []
    for name in state.entries:
        if name not in state.absent:
            made = entries[name].processes(plan, found.get(name))
            plan.scrapes += [scrape for process in made for scrape in process.scrapes]
            processes += made
    return processes


def planned(state: State, state_dir: StateDir) -> Plan:
    """What the entries render from, by what was chosen and what could be had of it."""
    plan = Plan(
        root=state_dir.root,
        ports=Ports(state.port_base),
        credentials=state_dir.credentials(),
        database=state.database,
        jaeger=state.jaeger,
        tls=certificates.made(state_dir) if state.tls else None,
        replicas=dict(state.replicas),
    )
    for transport, server in TRANSPORTS.items():
        if server is None or (server in state.entries and server not in state.absent):
            plan.transports.append(transport)
        else:
            plan.absent[transport] = state.absent.get(server, f"{server} was not started: lab up {server}")
    return plan


def provide(
    names: Sequence[str], entries: Mapping[str, Entry], progress: Progress
) -> tuple[dict[str, Any], dict[str, UnavailableError]]:
    """What was found or fetched, and the reasons for what was not."""
    cancel = threading.Event()
    found: dict[str, Any] = {}
    missing: dict[str, UnavailableError] = {}
    with ThreadPoolExecutor(AT_ONCE, "lab-provision") as pool:
        work = {
            name: pool.submit(provide, Job(name, progress, cancel))
            for name in names
            if (provide := entries[name].provide)
        }
        try:
            for name, future in work.items():
                try:
                    found[name] = future.result()
                except UnavailableError as error:
                    missing[name] = error
                    progress(name, str(error), "absent")
        except BaseException:
            cancel.set()
            raise
    return found, missing


def _announce_build(state: State, progress: Progress) -> None:
    if state.jaeger == "defer":
        state.absent["jaeger"] = "not built yet: lab up --jaeger build starts it, in the background"
        progress("jaeger", state.absent["jaeger"], "absent")
        return
    progress(
        "jaeger",
        f"no release found (LAB_JAEGER or PATH): building {golang.version()} in the background, about "
        f"{golang.EXPECTED_MIN} min on two cores and {golang.NEEDS_MB / 1000:.0f} GB until it is done",
    )
