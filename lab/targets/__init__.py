"""Where the lab runs. Every target offers the same few methods, so that nothing above asks which one it is.

`local` runs plain processes on this machine (`lab.targets.local`); `kind` and `k8s` run the chart on Kubernetes
(`lab.targets.cluster`). A target only names places and moves processes: what flows between them is read from the
front door, the span store and Prometheus.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

TARGETS = ("local", "kind", "k8s")


class LabError(Exception):
    """One line for a person: what went wrong and what to do. The CLI prints it and exits with `exit_code`."""

    exit_code = 1


class TargetDownError(LabError):
    """The target does not run; `lab up` starts it."""

    exit_code = 3


@dataclass(frozen=True)
class ProcessStatus:
    """One process, or all replicas of one; its name is what `lab logs`, `restart` and `scale` take.

    `pid` is None when it is not running, and in a cluster, where pids mean nothing here. `reason` says why it is not
    ready, else is empty. `replicas` is how many there should be; the memory is that of all. `rss_bytes` is what is
    resident; of that `pss_bytes` counts a page that n processes share as an nth, None where nobody knows.
    """

    name: str
    pid: int | None
    ready: bool
    rss_bytes: int
    reason: str
    replicas: int = 1
    pss_bytes: int | None = None


@dataclass(frozen=True)
class Status:
    """What `lab status --json` prints: a contract for scripts, so fields are added and never changed.

    `ready`: all that `lab up` waits for is ready (it waits for no Jaeger that is being built). `notes` says
    where things come from: each server of the local target, a cluster's context and image.
    """

    target: str
    ready: bool
    addresses: Mapping[str, str]
    processes: Sequence[ProcessStatus]
    transports: Mapping[str, str]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of all processes; pages that two of them share are counted twice."""
        return sum(process.rss_bytes for process in self.processes)

    @property
    def pss_bytes(self) -> int | None:
        """What all processes hold together, each page counted once; None where that is not known of one."""
        known = [process.pss_bytes for process in self.processes if process.pss_bytes is not None]
        return sum(known) if len(known) == len(self.processes) else None

    def to_json(self) -> dict[str, Any]:
        """The contract as plain data."""
        return {**asdict(self), "rss_bytes": self.rss_bytes, "pss_bytes": self.pss_bytes}


class Progress(Protocol):
    """Hears how far long work is. `state` is busy, done, failed or absent; called from any thread."""

    def __call__(self, name: str, text: str, state: str = "busy") -> None: ...


Ask = Callable[[str], dict[str, dict[str, Any] | None]]
"""Asks every process of the services for a path of its admin port: its document by the process's name, None where
nobody answers. Who knows no such path is left out."""


class Target(Protocol):
    """A place where the lab runs. Methods raise LabError; TargetDownError where it must run but does not."""

    name: str

    @property
    def state_dir(self) -> Path:
        """Where the tool keeps what it has to know again, and the runs of the load."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """URLs and host:port pairs by name: front_door, jaeger, prometheus, span_store, …"""

    @property
    def settings_token(self) -> str:
        """The bearer token that orders' admin port wants."""

    @property
    def installable(self) -> list[str]:
        """Packages that would bring what could not be had, where installing them is all that is left."""

    @property
    def up(self) -> Callable[..., Status]:
        """Start what is not running, or only the names given, and wait until it is ready; `progress` hears how far it
        is. Other keywords are a target's own choices."""

    def down(self, *, purge: bool = False, progress: Progress = ...) -> None:
        """End every process of the target; data stays, unless `purge` says otherwise."""

    def status(self) -> Status:
        """Ask every process how it is, now."""

    def restart(self, *names: str, progress: Progress = ...) -> Status:
        """Stop and start the named processes with the settings that they had; also starts dead ones."""

    def scale(self, name: str, replicas: int, *, progress: Progress = ...) -> Status:
        """Run so many of one process, and wait until they are ready."""

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """Send a signal to one process, as an incident or a test does."""

    def logs(self, name: str, *, lines: int = 50, follow: bool = False) -> Iterator[str]:
        """The last lines that a process has printed; with `follow`, go on with what it prints."""

    def admin_ports(self) -> AbstractContextManager[Mapping[str, str]]:
        """Each service's admin port as a URL that is good within the block; of replicas, one's. Those of a service
        share its database."""

    def admins(self) -> AbstractContextManager[Ask]:
        """The services' admin ports, to be asked within the block."""

    def forward(self, say: Callable[[str], None]) -> None:
        """Bring addresses that are out of reach to this machine, until Ctrl-C; `say` hears where they are."""


# What `lab --target` says, for the length of one command.
chosen: ContextVar[str] = ContextVar("chosen", default="")


def current(state_dir: Path | None = None, *, remembered: bool = True) -> Target:
    """The target that commands act on: the chosen one, else the one brought up last, else the local one.

    Without `remembered` what was brought up last does not count: `lab up` alone means this machine.
    Raises LabError for a wrong word.
    """
    name = chosen.get() or os.environ.get("LAB_TARGET") or (last(_root(state_dir)) if remembered else "local")
    if name not in TARGETS:
        raise LabError(f"no target is called {name!r}: there are {', '.join(TARGETS)}")
    if name == "local":
        from lab.targets.local.target import LocalTarget

        return LocalTarget(state_dir)
    from lab.targets.cluster.target import K8sTarget, KindTarget

    return KindTarget(state_dir) if name == "kind" else K8sTarget(state_dir)


def last(root: Path) -> str:
    """The name of the target that was brought up last."""
    with suppress(OSError):
        return (root / "target").read_text().strip()
    return "local"


def remember(root: Path, name: str) -> None:
    """Commands that name no target mean this one from now on."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "target").write_text(f"{name}\n")


def forget(root: Path, name: str) -> None:
    """The target is down: commands that name none mean the local one again."""
    if last(root) == name:
        (root / "target").unlink(missing_ok=True)


def _root(state_dir: Path | None) -> Path:
    from lab.targets.local.paths import state_dir as default

    return state_dir or default()
