"""Databases to test storage on: SQLite in a file, and a PostgreSQL of the session's own."""

import functools
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.targets.local.ports import free_block
from lab.targets.local.postgres import postgres


def postgres_url(config: pytest.Config) -> str:
    """The address of the session's PostgreSQL, started on first use and ended with the session."""
    return _start(config)


@functools.cache
def _start(config: pytest.Config) -> str:
    cleanup = ExitStack()
    config.add_cleanup(cleanup.close)
    ports = cleanup.enter_context(free_block())
    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-postgres-"))
    return cleanup.enter_context(postgres(Path(folder, "state"), ports["postgres"], ("storage",))) + "storage"
