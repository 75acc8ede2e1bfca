"""Runs the package managers: their output becomes progress, their last words the reason of a failure."""

import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lab.targets import Progress
from lab.targets.local.provision import UnavailableError

# What a command begins with to be killed when the thread that started it ends.
TIED = ("setpriv", "--pdeathsig", "KILL", "--")


class CancelledError(Exception):
    """The person pressed Ctrl-C while a tool was at work."""


class Job:
    """One piece of provisioning: it reports under a name, and ends when `cancel` is set."""

    def __init__(self, name: str, progress: Progress, cancel: threading.Event | None = None) -> None:
        self.name = name
        self._progress = progress
        self._cancel = cancel or threading.Event()

    def say(self, text: str) -> None:
        """Report what is being done."""
        self._progress(self.name, text)

    def check(self) -> None:
        """Raise CancelledError when the work is not wanted any more."""
        if self._cancel.is_set():
            raise CancelledError

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        """Run a tool to its end and return its output; `on_line` hears each line as it comes.

        Raises UnavailableError with its last lines when it fails or is not there. A cancelled job takes the
        tool's whole process group with it, and a tool does not outlive the thread that waits for it.
        """
        self.check()
        if not shutil.which(argv[0]):
            raise UnavailableError(f"{argv[0]} is not there")
        try:
            tool = subprocess.Popen(  # noqa: S603  (a list of arguments, no shell)
                [*TIED, *argv],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"{argv[0]} cannot be run ({error.strerror})") from error
        watcher = threading.Thread(target=self._end_when_cancelled, args=(tool,), daemon=True)
        watcher.start()
        tail: deque[str] = deque(maxlen=2000)
        with tool:
            assert tool.stdout
            for line in tool.stdout:
                tail.append(line)
                if on_line:
                    on_line(line.rstrip())
        watcher.join()
        self.check()
        if tool.returncode:
            raise UnavailableError(f"{Path(argv[0]).name} failed: {_reason(tail)}")
        return "".join(tail)

    def _end_when_cancelled(self, tool: subprocess.Popen[str]) -> None:
        while tool.poll() is None:
            if self._cancel.wait(0.1):
                with suppress(ProcessLookupError):
                    os.killpg(tool.pid, signal.SIGKILL)
                return


def _reason(lines: Sequence[str]) -> str:
    """The line of an output that most likely tells what went wrong."""
    told = [line.strip() for line in lines if line.strip()]
    blamed = [line for line in told if line.startswith(("E:", "[ERROR]", "ERROR", "error:", "go: "))]
    return (blamed[:1] or told[-1:] or ["it printed nothing"])[0][:300]
