"""Starts, watches and ends processes. No daemon: it works while a command runs, and leaves a list behind.

Starting is one loop over a graph: whatever has its needs ready is spawned, whatever was spawned is
probed, until all are ready or one has failed. Ending goes by rank, SIGTERM first.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from lab.targets import LabError, Progress
from lab.targets.local.process import PROGRESS_VARIABLE, Process, why_not_ready
from lab.targets.local.provision.tools import TIED
from lab.targets.local.state import MARK, Running, State, StateDir, marked, start_ticks

POLL_S = 0.05
# Some servers hear SIGTERM only when they are up; before that they have nothing to lose.
GRACE_WHILE_STARTING_S = 3.0

# In tied mode the kernel ends a child when the *thread* that made it ends: this one never does.
_spawner = ThreadPoolExecutor(1, "lab-spawner")
# Our own children, kept so that they are reaped; those of an earlier command belong to init.
_children: dict[int, subprocess.Popen[bytes]] = {}


class Supervisor:
    """Moves the processes of one state folder. `tied`: none of them outlives the process that started it."""

    def __init__(self, state_dir: StateDir, *, tied: bool = False) -> None:
        self._dir = state_dir
        self._tied = tied

    def start(self, processes: Iterable[Process], state: State, progress: Progress) -> None:
        """Start all in the order of their needs, and wait until they are ready.

        Raises LabError when one that is not optional ends or is not ready in time. What was started is in
        `state` (and on disk) from its first moment, so that the caller can end it.
        """
        waiting = {process.name: process for process in processes}
        starting: dict[str, float] = {}
        while waiting or starting:
            for process in [
                process
                for process in waiting.values()
                if not any(need in waiting or need in starting for need in process.needs)
            ]:
                del waiting[process.name]
                state.running[process.name] = self.spawn(process)
                self._dir.save(state)
                progress(process.name, "starting")
                starting[process.name] = time.monotonic() + process.start_timeout_s
            for name in list(starting):
                running = state.running[name]
                failure = self._failure(running, starting[name])
                if failure is None:
                    continue
                del starting[name]
                running.was_ready = not failure
                if failure and not running.process.optional:
                    progress(name, failure, "failed")
                    raise LabError(f"{name} {failure}{self._last_words(running)} (lab logs {name})")
                progress(name, failure or _started(running.process), "failed" if failure else "done")
            time.sleep(POLL_S)
        self._dir.save(state)

    def spawn(self, process: Process) -> Running:
        """Start one process in a session of its own, its output going to its log file."""
        for name, text in process.files.items():
            self._dir.write_private(self._dir.root / name, text)
        log = self._dir.log(process.name)
        argv = process.argv
        if self._tied:
            argv = (*TIED, *argv)
        env = {
            **os.environ,
            **process.env,
            MARK: f"{self._dir.mark}:{process.name}",
            "TMPDIR": str(self._dir.tmp),
            PROGRESS_VARIABLE: str(self._dir.progress(process.name)),
        }
        self._dir.progress(process.name).unlink(missing_ok=True)
        with log.open("ab") as output:
            offset = output.tell()
            try:
                child = _spawner.submit(
                    subprocess.Popen,
                    argv,
                    cwd=process.cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,
                ).result()
            except OSError as error:
                raise LabError(f"cannot start {process.name}: {error}") from error
        _children[child.pid] = child
        return Running(process, child.pid, start_ticks(child.pid) or 0, offset)

    def is_alive(self, running: Running) -> bool:
        """True while this very process runs, not merely one with its pid."""
        alive = start_ticks(running.pid) == running.start_ticks
        child = _children.get(running.pid)
        if child is not None and child.poll() is not None:  # asked last, so that what is dead has been reaped
            del _children[running.pid]
        return alive

    def why_not_ready(self, running: Running) -> str:
        """Empty when it is ready, else the reason."""
        process = running.process
        if not self.is_alive(running):
            reason = "not running"
        else:
            reason = why_not_ready(process.ready, self._dir.log(process.name), running.log_offset)
        with suppress(OSError):
            reason = (reason and self._dir.progress(process.name).read_text().strip()) or reason
        return reason

    def stop(self, names: Iterable[str], state: State, progress: Progress) -> None:
        """End the named processes, rank by rank, and what is left of them; return when they are gone."""
        doomed = [state.running[name] for name in names if name in state.running]
        for rank in sorted({running.process.stop_rank for running in doomed}):
            wave = [running for running in doomed if running.process.stop_rank == rank]
            began = time.monotonic()
            for running in wave:
                self._signal(running, signal.SIGTERM)
                progress(running.process.name, "stopping")
            for running in wave:
                name = running.process.name
                grace_s = running.process.grace_s
                if not running.was_ready:
                    grace_s = min(grace_s, GRACE_WHILE_STARTING_S)
                stopped = _wait(lambda: not self.is_alive(running), began + grace_s)  # noqa: B023  (used at once)
                if not stopped:
                    self.kill(running, signal.SIGKILL)
                self.sweep(name)
                progress(name, "stopped" if stopped else f"killed after {grace_s:.0f} s", "done")
                del state.running[name]
                with suppress(OSError):  # on a full disk, too, the rest has to be ended
                    self._dir.save(state)

    def sweep(self, name: str = "") -> None:
        """Kill what still carries the mark of this target, or of one process of it."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            found = marked(self._dir.mark)
            left = found.get(name, []) if name else [pid for pids in found.values() for pid in pids]
            if not left:
                return
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for child in list(_children.values()):
                child.poll()
            time.sleep(POLL_S)

    def kill(self, running: Running, signum: int) -> None:
        """Send a signal to one process; with SIGKILL, return when it is gone."""
        self._signal(running, signum)
        if signum == signal.SIGKILL:
            _wait(lambda: not self.is_alive(running), time.monotonic() + 5)

    def _signal(self, running: Running, signum: int) -> None:
        if self.is_alive(running):
            with suppress(ProcessLookupError):
                os.kill(running.pid, signum)

    def _failure(self, running: Running, deadline: float) -> str | None:
        """None while it may still become ready, empty when it is, else what went wrong."""
        if not self.is_alive(running):
            return "ended while it was starting"
        if not running.process.awaited:
            return ""
        reason = self.why_not_ready(running)
        if reason and time.monotonic() < deadline:
            return None
        return reason and f"was not ready after {running.process.start_timeout_s:.0f} s: {reason}"

    def _last_words(self, running: Running) -> str:
        """The last line that it printed, which mostly is its reason."""
        with suppress(OSError), self._dir.log(running.process.name).open("rb") as log:
            log.seek(running.log_offset)
            lines = log.read()[-4096:].decode(errors="replace").strip().splitlines()
            if lines:
                return f": {lines[-1].strip()[:300]}"
        return ""


def _started(process: Process) -> str:
    return "ready" if process.awaited else "in the background: lab status tells how far it is"


def _wait(done: Callable[[], bool], deadline: float) -> bool:
    """Poll until it is done; False when the deadline (of the monotonic clock) came first."""
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
