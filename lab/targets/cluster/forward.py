"""`lab forward`: the lab's ports on this machine, where the cluster's own are out of reach."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO
from urllib.parse import urlsplit

from lab.targets import LabError
from lab.targets.cluster import tools
from lab.targets.cluster.access import Access

POLL_S = 0.5
AGAIN_S = 2.0
"""From the end of a forward that broke to the next try."""
READY_S = 20.0

Forwards = Mapping[str, Sequence[tuple[int, str]]]
"""By service: a local port, and the name of the service's port behind it."""


def reachable(address: str, timeout_s: float = 2.0) -> bool:
    """Whether something listens at a URL's host and port."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout_s).close()
    except OSError:
        return False
    return True


def forward(access: Access, forwards: Forwards, say: Callable[[str], None]) -> None:
    """Run one `kubectl port-forward` per service, and again whenever one ends, until Ctrl-C."""
    running: dict[str, tuple[subprocess.Popen[str], IO[str]]] = {}
    due = dict.fromkeys(forwards, 0.0)
    try:
        while True:
            for service, ports in forwards.items():
                if service in running:
                    tool, said = running[service]
                    if tool.poll() is not None:
                        said.seek(0)
                        say(f"{service}: {tools.gist(said.read())}; trying again")
                        said.close()
                        del running[service]
                        due[service] = time.monotonic() + AGAIN_S
                elif time.monotonic() >= due[service]:
                    running[service] = _start(access, service, ports)
            time.sleep(POLL_S)
    finally:
        for tool, said in running.values():
            tools.end(tool)
            said.close()


@contextmanager
def brought(access: Access, services: Sequence[str], port: str) -> Iterator[dict[str, str]]:
    """A port of each service as a URL on this machine, while the block runs. Raises LabError for one that cannot be
    had."""
    with ExitStack() as stack:
        running = {}
        for service in services:
            tool, said = _start(access, service, [(_free_port(), port)])
            stack.callback(said.close)
            stack.callback(tools.end, tool)
            running[service] = (tool, said)
        yield {service: _there(service, *both) for service, both in running.items()}


def _there(service: str, tool: "subprocess.Popen[str]", said: IO[str]) -> str:
    """Its URL, once it listens: the command has its port."""
    assert isinstance(tool.args, list)
    local = next(word.partition(":")[0] for word in tool.args if word.partition(":")[0].isdecimal())
    url = f"http://127.0.0.1:{local}"
    deadline = time.monotonic() + READY_S
    while not reachable(url):
        if tool.poll() is not None or time.monotonic() > deadline:
            said.seek(0)
            raise LabError(f"{service} cannot be asked: {tools.gist(said.read()) or f'no answer in {READY_S:g} s'}")
        time.sleep(0.05)
    return url


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _start(access: Access, service: str, ports: Sequence[tuple[int, str]]) -> tuple["subprocess.Popen[str]", IO[str]]:
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long-lived as the tool; a pipe would fill up)
    pairs = [f"{local}:{name}" for local, name in ports]
    command = access.kubectl("port-forward", f"service/{service}", *pairs, "--address", "127.0.0.1")
    tool = subprocess.Popen(  # noqa: S603  (a list of arguments, no shell)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        text=True,
        start_new_session=True,
    )
    return tool, said
