"""Real servers for tests: the local target's own recipes, in a folder and on ports of their own, one per session.

They are tied to this process, so that they end with it however it ends.
"""

import functools
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.targets import LabError
from lab.targets.local.ports import free_block
from lab.targets.local.servers import ENTRIES
from lab.targets.local.target import LocalTarget


class Server:
    """One server of the table. Its methods block: call them in a thread."""

    def __init__(self, name: str, cleanup: ExitStack) -> None:
        self.name = name
        ports = cleanup.enter_context(free_block())
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix=f"antiphon-{name}-"))
        self._target = LocalTarget(Path(folder, "state"), tied=True, entries={name: ENTRIES[name]})
        cleanup.callback(self._target.down)
        status = self._target.up([name], port_base=ports.base)
        for transport in ENTRIES[name].transports:
            if status.transports[transport] != "ready":
                pytest.fail(f"{transport}: {status.transports[transport]} {status.notes.get(name, '')}")
        addresses = {
            "rabbitmq": lambda: self._target.rabbitmq_url,
            "redis": lambda: self._target.redis_url,
            "elasticmq": lambda: ports.url("sqs"),
        }
        self.address = addresses.get(name, lambda: ports.address(name))()

    def kill(self) -> None:
        """kill -9."""
        self._target.kill(self.name)

    def start(self) -> None:
        """Start it again with its old data; returns when it is ready."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self._target.restart(self.name)
            except LabError:
                # a JVM that was killed is a zombie before its last thread has let go of the port
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return


def server(name: str, config: pytest.Config) -> Server:
    """The session's server of that name, started on first use."""
    return _start(name, config)


@functools.cache
def _start(name: str, config: pytest.Config) -> Server:
    cleanup = ExitStack()
    config.add_cleanup(cleanup.close)
    return Server(name, cleanup)
