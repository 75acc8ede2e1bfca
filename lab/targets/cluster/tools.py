"""The command lines that a cluster needs: named with a remedy where missing, run with a deadline, quoted on failure.

Each tool runs in a session of its own, so that Ctrl-C is ours to hand on; none outlives the call that started it.
"""

import itertools
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.targets import LabError

REMEDIES = {
    "docker": "https://docs.docker.com/engine/install",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "helm": "https://helm.sh/docs/intro/install",
    "kubectl": "https://kubernetes.io/docs/tasks/tools",
}
END_S = 10.0
"""From SIGTERM to SIGKILL."""
QUOTED = 600
"""Characters of a tool's own words in an error."""


class ToolError(LabError):
    """A tool failed; `output` is all that it said."""

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(text)
        self.output = output


def require(*names: str) -> None:
    """Raise LabError that names every program that is missing, and a Docker engine that does not answer."""
    faults = [f"{name} was not found ({REMEDIES[name]})" for name in names if shutil.which(name) is None]
    if "docker" in names and shutil.which("docker"):
        faults += _engine_fault()
    if faults:
        raise LabError("; ".join(faults))


def _engine_fault() -> list[str]:
    try:
        run("docker", "version", "--format", "{{.Server.Version}}", timeout_s=20)
    except ToolError as error:
        if "permission denied" in error.output:
            return ["this user may not use Docker's engine (sudo usermod -aG docker $USER, then log in again)"]
        start = "start Docker Desktop, or: sudo systemctl start docker; DOCKER_HOST names another engine"
        return [f"Docker's engine does not answer ({start})"]
    return []


def run(*argv: str, timeout_s: float = 60, stdin: str = "", patient: bool = False) -> str:
    """What the tool printed. Raises ToolError with its own words.

    Ctrl-C ends the tool; a `patient` one, which must not be cut in the middle, is left to finish first.
    """
    with started(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tool:
        try:
            printed, said = tool.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ToolError(f"{_short(argv)} did not end within {timeout_s:.0f} s") from None
        except KeyboardInterrupt:
            if patient:
                tool.communicate(timeout=timeout_s)
            raise
    if tool.returncode:
        raise ToolError(f"{_short(argv)}: {gist(said or printed)}", said + printed)
    return str(printed)


def watch(argv: Sequence[str], *, log: Path, timeout_s: float, on_line: Callable[[str], None]) -> None:
    """Run a tool that takes its time: each line goes to `on_line` and to the log, which the error names."""
    with (
        log.open("w") as file,
        started(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as tool,
    ):
        assert tool.stdout is not None
        watchdog = threading.Timer(timeout_s, tool.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            for line in tool.stdout:
                file.write(line)
                on_line(line.strip())
        finally:
            watchdog.cancel()
    if tool.returncode:
        said = log.read_text()
        cause = gist(said) if tool.returncode > 0 else f"ended after {timeout_s:.0f} s"
        raise ToolError(f"{_short(argv)}: {cause} (all of it: {log})", said)


def lines(argv: Sequence[str]) -> Iterator[str]:
    """What the tool prints, line by line, until it ends or is no longer wanted. Raises ToolError."""
    with started(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tool:
        assert tool.stdout is not None
        assert tool.stderr is not None
        for line in tool.stdout:
            yield line.rstrip("\n")
        said = tool.stderr.read()
    if tool.returncode:
        raise ToolError(f"{_short(argv)}: {gist(said)}", said)


@contextmanager
def started(argv: Sequence[str], *, stdin: int, stdout: int, stderr: int) -> Iterator["subprocess.Popen[str]"]:
    """The tool while the block runs; if that fails or is interrupted, the tool is ended."""
    try:
        tool = subprocess.Popen(  # noqa: S603  (a list of arguments, no shell)
            argv, stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace", start_new_session=True
        )
    except OSError as error:
        remedy = f" ({REMEDIES[argv[0]]})" if argv[0] in REMEDIES else ""
        raise ToolError(f"{argv[0]} cannot be run: {error.strerror}{remedy}") from error
    with tool:
        try:
            yield tool
        except BaseException:
            end(tool)
            raise


def end(tool: "subprocess.Popen[str]") -> None:
    """Tell it to end, and make it end."""
    tool.terminate()
    try:
        tool.wait(END_S)
    except subprocess.TimeoutExpired:
        tool.kill()
        tool.wait()


def gist(said: str) -> str:
    """A tool's own reason in one line: from its last error on."""
    found = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(found) if re.match(r"(?i)error\b", line)]
    return " ".join(" ".join(found[errors[-1] if errors else -1 :]).split())[:QUOTED] or "it said nothing"


def words(text: str, variable: str) -> list[str]:
    """A variable's value as a shell would split it. Raises LabError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise LabError(f"{variable} cannot be read ({str(error).lower()}): {text}") from error


def _short(argv: Sequence[str]) -> str:
    """The command without its options: enough to know which one it was."""
    return " ".join(itertools.takewhile(lambda word: not word.startswith("-"), argv[:3]))
