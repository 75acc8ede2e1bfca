"""What a process is, as data: how it starts, which ports it takes, when it is ready, how it ends."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.targets.local.ports import HOST

PROBE_TIMEOUT_S = 2.0
# Names a file in a process' environment: a line that it writes there is its reason for not being ready.
PROGRESS_VARIABLE = "LAB_PROGRESS_FILE"


@dataclass(frozen=True)
class Probe:
    """When a process is ready: its port answers, over HTTP with 200 where `path` is given.

    With `log_line` the text must also stand in what it printed since its start, for servers whose
    port is open before they serve.
    """

    port: int
    path: str = ""
    log_line: str = ""


@dataclass(frozen=True)
class Scrape:
    """A metrics page for Prometheus; `params` are its query."""

    job: str
    port: int
    path: str = "/metrics"
    params: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Process:
    """One process of the target.

    `env` is laid over the environment that `lab` itself has. `files` are written below the state folder
    before each start. `needs` must be ready before it starts. At the end, processes with a low
    `stop_rank` are gone before those with a higher one are asked; each has `grace_s` seconds from
    SIGTERM to SIGKILL. `optional`: that it fails does not fail the others. `awaited`: `lab up` waits for it.
    """

    name: str
    argv: tuple[str, ...]
    cwd: str
    ports: tuple[str, ...]
    ready: Probe
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    scrapes: tuple[Scrape, ...] = ()
    start_timeout_s: float = 90
    grace_s: float = 12
    stop_rank: int = 0
    optional: bool = False
    awaited: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the state file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Process":
        """The reverse of to_json."""
        return cls(
            **{
                **data,
                "argv": tuple(data["argv"]),
                "ports": tuple(data["ports"]),
                "needs": tuple(data["needs"]),
                "ready": Probe(**data["ready"]),
                "scrapes": tuple(
                    Scrape(**{**scrape, "params": {key: tuple(value) for key, value in scrape["params"].items()}})
                    for scrape in data["scrapes"]
                ),
            }
        )


def why_not_ready(probe: Probe, log: Path, log_offset: int) -> str:
    """Empty when the process is ready, else the reason in a few words."""
    if probe.log_line and not _has_line(log, log_offset, probe.log_line):
        return "starting"
    if not probe.path:
        try:
            socket.create_connection((HOST, probe.port), PROBE_TIMEOUT_S).close()
        except OSError:
            return f"port {probe.port} does not answer"
        return ""
    return _ask_http(probe)


def _has_line(log: Path, offset: int, text: str) -> bool:
    try:
        with log.open("rb") as file:
            file.seek(offset)
            return text.encode() in file.read()
    except OSError:
        return False


def _ask_http(probe: Probe) -> str:
    connection = http.client.HTTPConnection(HOST, probe.port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", probe.path)
        response = connection.getresponse()
        body = response.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return f"port {probe.port} does not answer"
    finally:
        connection.close()
    return "" if response.status == 200 else reason_in(body) or f"{probe.path} answers {response.status}"


def reason_in(body: str) -> str:
    """The reason in a readiness answer: a field of a JSON object, or its first line of text."""
    try:
        data = json.loads(body)
    except ValueError:
        return body.strip().split("\n", 1)[0][:200]
    if isinstance(data, dict):
        if data.get("reasons"):
            return "; ".join(map(str, data["reasons"]))[:200]
        for key in ("reason", "detail", "status"):
            if data.get(key):
                return str(data[key])[:200]
    return ""
