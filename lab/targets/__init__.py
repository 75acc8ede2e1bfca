"""Where the lab runs. Every target offers the same few methods, so that nothing above asks which one it is.

`local` runs plain processes on this machine (`lab.targets.local`). A target only names places and
moves processes: what flows between them is read from the front door, the span store and Prometheus.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


class LabError(Exception):
    """One line for a person: what went wrong and what to do. The CLI prints it and exits with `exit_code`."""

    exit_code = 1


class TargetDownError(LabError):
    """The target does not run; `lab up` starts it."""

    exit_code = 3


@dataclass(frozen=True)
class ProcessStatus:
    """One process. `pid` is None when it is not running; `reason` says why it is not ready, else is empty."""

    name: str
    pid: int | None
    ready: bool
    rss_bytes: int
    reason: str


@dataclass(frozen=True)
class Status:
    """What `lab status --json` prints: a contract for scripts, so fields are added and never changed.

    `ready`: all that `lab up` waits for is ready (it waits for no Jaeger that is being built). `notes` says
    where each server came from.
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

    def to_json(self) -> dict[str, Any]:
        """The contract as plain data."""
        return {**asdict(self), "rss_bytes": self.rss_bytes}


class Progress(Protocol):
    """Hears how far long work is. `state` is busy, done, failed or absent; called from any thread."""

    def __call__(self, name: str, text: str, state: str = "busy") -> None: ...


class Target(Protocol):
    """A place where the lab runs. Methods raise LabError; TargetDownError where it must run but does not."""

    name: str

    @property
    def addresses(self) -> Mapping[str, str]:
        """URLs and host:port pairs by name: front_door, jaeger, prometheus, span_store, …"""

    @property
    def settings_token(self) -> str:
        """The bearer token that orders' admin port wants."""

    def up(self) -> Status:
        """Start what is not running, and wait until it is ready."""

    def down(self) -> None:
        """End every process of the target; data stays."""

    def status(self) -> Status:
        """Ask every process how it is, now."""

    def restart(self, *names: str) -> Status:
        """Stop and start the named processes with the settings that they had; also starts dead ones."""

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """Send a signal to one process, as an incident or a test does."""

    def log_path(self, name: str) -> Path:
        """The file that holds what the named process printed."""


def current(state_dir: Path | None = None) -> Target:
    """The target that commands act on: the local one, until another runs."""
    from lab.targets.local.target import LocalTarget

    return LocalTarget(state_dir)
