"""What the tests of the targets share: a port block of their own, and processes that stand in for servers."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.targets.local.paths import project_root
from lab.targets.local.plan import Plan
from lab.targets.local.ports import Ports, free_block
from lab.targets.local.process import Probe, Process
from lab.targets.local.servers import Entry
from lab.targets.local.target import LocalTarget

MakeTarget = Callable[..., LocalTarget]


@pytest.fixture
def ports() -> Iterator[Ports]:
    with free_block() as block:
        yield block


def standin(plan: Plan, port_name: str, *options: str, **fields: object) -> Process:
    """A stand-in process; `options` are its command line, `fields` those of Process."""
    port = plan.ports[port_name]
    described = {
        "name": port_name,
        "argv": (sys.executable, "-m", "tests.targets.standin", str(port), *options),
        "cwd": str(project_root()),
        "ports": (port_name,),
        "ready": Probe(port, "/readyz"),
        "start_timeout_s": 20,
        "grace_s": 5,
    }
    return Process(**{**described, **fields})  # type: ignore[arg-type]


def entry(name: str, *options: str, **fields: object) -> Entry:
    """A stand-in as an entry of the table, on the port of the same name."""
    return Entry(lambda plan, _: [standin(plan, name, *options, **fields)])


@pytest.fixture
def make_target(tmp_path: Path, ports: Ports) -> Iterator[MakeTarget]:
    """Makes a tied target in a folder of its own, with the given entries; ends it after the test."""
    made: list[LocalTarget] = []

    def make(**entries: Entry) -> LocalTarget:
        target = LocalTarget(tmp_path / "state", tied=True, entries=entries)
        up = target.up
        target.up = lambda *args, **kwargs: up(*args, **{"port_base": ports.base, **kwargs})  # type: ignore[method-assign]
        made.append(target)
        return target

    yield make
    for target in made:
        target.down()
