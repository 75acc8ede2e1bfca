"""What runs, written down: the state folder is all that one `lab` command knows of the one before it.

A process is known by its pid *and* its start time in clock ticks, within one boot: a pid alone may
belong to somebody else by now. Each process also carries a mark in its environment, so that ours are
found even when the file is lost.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.targets import LabError
from lab.targets.local.ports import DEFAULT_BASE
from lab.targets.local.process import Process

MARK = "LAB_MARK"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CREDENTIALS = ("settings_token", "rabbitmq_password", "postgres_password", "redis_password")


@dataclass
class Running:
    """A process that was started.

    `start_ticks` is field 22 of /proc/<pid>/stat; `log_offset` is in bytes; `was_ready` since it was seen to be.
    """

    process: Process
    pid: int
    start_ticks: int
    log_offset: int
    was_ready: bool = False


@dataclass
class State:
    """The content of state.json: the choices of `lab up` and what came of them.

    `entries` are names of the table; `absent` says why one could not be had, `notes` where one came from;
    `installable` are the Debian packages that would help; `replicas` how many were asked for of what is more than one.
    """

    port_base: int = DEFAULT_BASE
    jaeger: str = "auto"
    database: str = "sqlite"
    tls: bool = False
    boot_id: str = ""
    entries: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    installable: list[str] = field(default_factory=list)
    replicas: dict[str, int] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)


class StateDir:
    """The state folder of one target: file names, the state file, the credentials, the lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs = root / "logs"
        self.data = root / "data"
        self.tmp = root / "tmp"
        self._file = root / "state.json"
        self._credentials = root / "credentials.json"

    @property
    def mark(self) -> str:
        """What LAB_MARK begins with in the environment of every process of this target."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:16]

    def log(self, name: str) -> Path:
        """The file that a process prints to."""
        return self.logs / f"{name}.log"

    def progress(self, name: str) -> Path:
        """The file in which a process may tell why it is not ready."""
        return self.logs / f"{name}.progress"

    def make(self) -> None:
        """Create the folders. Other users may only pass through, which PostgreSQL's has to."""
        try:
            for folder in (self.root, self.logs, self.data, self.tmp):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o711)
        except OSError as error:
            raise LabError(
                f"cannot write to {self.root} ({error.strerror}): name another place with LAB_STATE_DIR"
            ) from error

    def rotate_logs(self) -> None:
        """Begin new logs; those of the run before stay beside them."""
        for log in self.logs.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))

    def load(self) -> State:
        """The state as it was last saved; an empty one when there is none or it is of an earlier boot."""
        try:
            data = json.loads(self._file.read_text())
        except FileNotFoundError:
            return State()
        except (OSError, ValueError) as error:
            raise LabError(f"cannot read {self._file} ({error}): run lab down, then lab up") from error
        running = {
            name: Running(**{**record, "process": Process.from_json(record["process"])})
            for name, record in data.pop("running").items()
        }
        state = State(**data, running=running)
        if state.boot_id != boot_id():
            state.running = {}
        return state

    def save(self, state: State) -> None:
        """Write the state file as a whole or not at all; it holds addresses with passwords, hence 0600."""
        state.boot_id = boot_id()
        data: dict[str, Any] = {key: value for key, value in vars(state).items() if key != "running"}
        data["running"] = {
            name: {**vars(running), "process": running.process.to_json()} for name, running in state.running.items()
        }
        self.write_private(self._file, json.dumps(data, indent=1))

    def forget(self) -> None:
        """Remove the state file."""
        self._file.unlink(missing_ok=True)

    def credentials(self) -> dict[str, str]:
        """Generated once per state folder: the settings token and the servers' passwords."""
        known: dict[str, str] = {}
        with suppress(OSError, ValueError):
            known = dict(json.loads(self._credentials.read_text()))
        made = {name: secrets.token_urlsafe(24) for name in CREDENTIALS if name not in known}
        if made:  # a folder from before a server came to the table lacks that one's
            self.make()
            known |= made
            self.write_private(self._credentials, json.dumps(known))
        return known

    def write_private(self, path: Path, text: str) -> None:
        """Write a file that only this user may read, in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(text)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One command at a time changes a target. Raises LabError when another one is at it."""
        self.make()
        with (self.root / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                who = file.read().strip() or "unknown"
                raise LabError(
                    f"another lab command is changing this target (pid {who}): wait for it, or press Ctrl-C there"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)


def boot_id() -> str:
    """Differs after every boot of the machine."""
    return BOOT_ID.read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone or only waits to be reaped.

    A killed process shows as a zombie as soon as its first thread is: its ports are free when the last one is.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1:
            return None
    except OSError:
        return None
    return int(fields[19])


def marked(mark: str) -> dict[str, list[int]]:
    """The pids of all live processes with the mark of a target, by the name of the process they belong to."""
    wanted = f"{MARK}={mark}:".encode()
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            for variable in (entry / "environ").read_bytes().split(b"\0"):
                if variable.startswith(wanted) and start_ticks(int(entry.name)) is not None:
                    name = variable.removeprefix(wanted).decode()
                    found.setdefault(name, []).append(int(entry.name))
    return found


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of the processes, 0 for those that are gone."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return total


def pss_bytes(pids: Iterable[int]) -> int | None:
    """Like rss_bytes, with each shared page divided among those who map it; None where the kernel does not tell.

    Linux does, since 4.14, to root and to the processes' own user.
    """
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            if start_ticks(pid) is not None:
                return None
        else:
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
