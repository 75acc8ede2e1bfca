"""One real lab for all live tests: every server and service as a process, ended with the session, however that ends."""

from collections.abc import Iterator

import pytest

from lab.targets.local.ports import free_block
from lab.targets.local.target import LocalTarget
from tests.live.lab import RealLab


@pytest.fixture(scope="session")
def real_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    target = LocalTarget(tmp_path_factory.mktemp("lab"), tied=True)
    with free_block() as ports:
        try:
            target.up(port_base=ports.base, jaeger="build")
            running = RealLab(target)
            with running.http:
                running.wait_for_jaeger()
                yield running
        finally:
            target.down()


@pytest.fixture
def lab(real_lab: RealLab) -> Iterator[RealLab]:
    """The lab with its default settings, everything ready, before and after each test."""
    real_lab.settle()
    yield real_lab
    real_lab.put_settings(dict.fromkeys(real_lab.settings()))
