"""One Locust process: started, heard, ended. gevent patches the standard library, so Locust never runs in
ours."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load.plan import PLAN_VARIABLE, Plan

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
STOP_S = 10.0
"""How long Locust may take to end when it is told to."""
SPARE_S = 60.0
"""Added to the longest that a profile can take: starting, and a busy machine."""

Hear = Callable[[str, dict[str, Any]], None]
"""Called with what Locust reports: ``order``, ``progress`` or ``end``, and its content."""


def run_locust(plan: Plan, *, log: Path, hear: Hear, ui_port: int | None = None) -> str | None:
    """Runs the plan to its end and reports each message to ``hear``; None, or one line on why it ended early.

    Headless, or with Locust's web page on loopback at ``ui_port`` until it is interrupted. KeyboardInterrupt
    ends Locust, hears its last words (orders in flight), and is raised again.
    """
    ends = 0

    def listen() -> None:
        nonlocal ends
        assert process.stdout is not None
        for line in process.stdout:
            try:
                [(kind, content)] = json.loads(line).items()
            except (ValueError, AttributeError):
                continue  # a library's own word on stdout
            ends += kind == "end"
            hear(kind, content)

    with log.open("w") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            _command(plan, ui_port),
            cwd=log.parent,  # where no locust.conf or pyproject.toml of anyone's lies
            env=_environment(plan),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to hand on, once
        )
    with process:
        try:
            with _at_most(None if ui_port else _bound_s(plan), process):
                listen()
        except KeyboardInterrupt:
            _stop(process)
            listen()
            raise
        finally:
            _stop(process)
    return None if ends >= len(plan.flows) else f"Locust ended early, exit code {process.returncode}: {_last_line(log)}"


def _command(plan: Plan, ui_port: int | None) -> list[str]:
    users = str((plan.profile.users or 1) * len(plan.flows))
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--users", users, "--spawn-rate", users]
    command += ["--only-summary", "--exit-code-on-error", "0", "--loglevel", "WARNING"]
    if ui_port is None:
        return [*command, "--headless"]
    return [*command, "--class-picker", "--web-host", "127.0.0.1", "--web-port", str(ui_port)]


def _environment(plan: Plan) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    path = os.pathsep.join(filter(None, (str(LOCUSTFILE.parent.parent), others.get("PYTHONPATH"))))
    return {**others, PLAN_VARIABLE: plan.dumps(), "PYTHONPATH": path}


def _bound_s(plan: Plan) -> float:
    profile = plan.profile
    return profile.duration_s + profile.drain_s + (2 + 2 * profile.warmup_orders) * profile.timeout_s + SPARE_S


@contextmanager
def _at_most(bound_s: float | None, process: "subprocess.Popen[str]") -> Iterator[None]:
    """Ends Locust where it takes longer than its profile can."""
    if bound_s is None:
        yield
        return
    watchdog = threading.Timer(bound_s, _stop, [process])
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _stop(process: "subprocess.Popen[str]") -> None:
    """Tells it to end, and makes it end ``STOP_S`` later; whoever calls reads or waits meanwhile."""
    if process.poll() is None:
        process.terminate()
        killer = threading.Timer(STOP_S, process.kill)
        killer.daemon = True
        killer.start()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
