"""One parametrised fixture: every storage test runs on SQLite and (marker ``live``) on PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.storage.database import METADATA, Database
from tests.storage.databases import postgres_url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'storage'}.sqlite"
    address = postgres_url(request.config)
    leftovers = Database(address)
    await leftovers.write(METADATA.drop_all)
    await leftovers.close()
    return address


@pytest.fixture
async def databases(url: str) -> AsyncIterator[tuple[Database, Database]]:
    """The same database, opened twice: by a process and by its replica."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            database = Database(url)
            stack.push_async_callback(database.close)
            await database.open()
            opened.append(database)
        yield opened[0], opened[1]


@pytest.fixture
def database(databases: tuple[Database, Database]) -> Database:
    return databases[0]
