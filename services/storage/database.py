"""One database per service: SQLite in a file by default, PostgreSQL by URL. SQLAlchemy Core; no mapper.

A transaction either happens whole or not at all, and has happened for good once ``transaction`` is left: SQLite runs
in WAL mode (a killed process loses nothing that was committed).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

METADATA = MetaData()
_SERIAL = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER key

# --- every service ---------------------------------------------------------------------------------------------
INBOX = Table(
    "inbox",
    METADATA,
    Column("cause", Text, primary_key=True),  # id of the message or call that was handled
    Column("answer_type", Text),
    Column("answer", LargeBinary),
    Column("handled_at_ns", BigInteger, nullable=False),
)
FAILURES = Table(
    "failures",
    METADATA,
    Column("cause", Text, primary_key=True),
    Column("count", Integer, nullable=False),
)

# --- participants ------------------------------------------------------------------------------------------------
STEPS = Table(
    "steps",
    METADATA,
    Column("order_id", Text, primary_key=True),
    Column("slot", Text, nullable=False),
    Column("reason", Text),
)
EFFECTS = Table(
    "effects",  # append only and without a unique key on purpose: an effect done twice would stand here twice
    METADATA,
    Column("id", _SERIAL, primary_key=True),
    Column("order_id", Text, nullable=False, index=True),
    Column("action", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)

# --- orders ----------------------------------------------------------------------------------------------------------
ORDERS = Table(
    "orders",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("style", Text, nullable=False),
    Column("transport", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("order_json", LargeBinary, nullable=False),
    Column("slots", Text, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("reason", Text),
    Column("accepted_at_ns", BigInteger, nullable=False),
    Column("completed_at_ns", BigInteger),
    Column("idempotency_key", Text, unique=True),
    Column("body_hash", Text),
    Column("carrier", Text, nullable=False),  # the trace context and baggage that it was accepted in
    Column("lease_until_ns", BigInteger),  # while somebody carries the conversation on; NULL: nobody needs to
)
HISTORY = Table(
    "history",
    METADATA,
    Column("id", _SERIAL, primary_key=True),
    Column("order_id", Text, nullable=False, index=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("event", Text, nullable=False),
)
OUTBOX = Table(
    "outbox",
    METADATA,
    Column("id", _SERIAL, primary_key=True),
    Column("order_id", Text, nullable=False),
    Column("broker", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("carrier", Text, nullable=False),
    Column("written_at_ns", BigInteger, nullable=False),
    Column("lease_until_ns", BigInteger, nullable=False),  # whoever holds it is sending it
    Column("published_at_ns", BigInteger, index=True),
)
SETTINGS = Table("settings", METADATA, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))


AWAY = (OperationalError, InterfaceError, PoolTimeoutError, OSError)
"""What is raised while the database cannot be reached."""


class Database:
    """An open database. SQLite has one writer at a time: ``transaction`` queues for it here, in order; in memory it is
    one connection for all, and readers queue too."""

    def __init__(self, url: str) -> None:
        self._engine: AsyncEngine = create_async_engine(url)
        self.sqlite = self._engine.dialect.name == "sqlite"
        self._one_connection = isinstance(self._engine.pool, StaticPool)
        self._writer = asyncio.Lock()
        if self.sqlite:
            event.listen(self._engine.sync_engine, "connect", _durable_sqlite)

    def insert(self, table: Table) -> Any:
        """An INSERT that takes ON CONFLICT, in this database's words."""
        return (sqlite if self.sqlite else postgresql).insert(table)

    async def open(self) -> None:
        """Connect and make what is missing. Raises one of ``AWAY`` while it is not there."""
        async with self.transaction() as connection:
            if not self.sqlite:  # replicas may start at once
                await connection.execute(text("SELECT pg_advisory_xact_lock(4711)"))
            await connection.run_sync(METADATA.create_all)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection with a transaction around it: committed at the end, rolled back by an exception."""
        async with self._writer if self.sqlite else nullcontext(), self._engine.begin() as connection:
            if self.sqlite:  # else what is read before the first write may be out of date by then: a replica's
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._writer if self._one_connection else nullcontext(), self._engine.connect() as connection:
            yield connection

    async def ready(self) -> str | None:
        """None while it answers, else the reason in one line."""
        try:
            async with self.reading() as connection:
                await connection.execute(text("SELECT 1"))
        except (DBAPIError, *AWAY) as error:
            return f"database: {str(error).splitlines()[0]}"
        return None

    async def close(self) -> None:
        await self._engine.dispose()


def _durable_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
