"""One database per service: SQLite in a file by default, PostgreSQL by URL. SQLAlchemy Core; no mapper.

A transaction either happens whole or not at all, and has happened for good once ``write`` returns: SQLite runs in
WAL mode (a killed process loses nothing that was committed).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import SingletonThreadPool, StaticPool

T = TypeVar("T")

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

LEDGER = Table(
    "ledger",  # append only: what was said and what was heard, a row each time (services/storage/ledger.py)
    METADATA,
    Column("id", _SERIAL, primary_key=True),
    Column("at_ns", BigInteger, nullable=False, index=True),
    Column("said", Integer, nullable=False),  # 1; 0: heard
    Column("outcome", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("broker", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("order_id", Text, nullable=False),
    Column("style", Text, nullable=False),
    Column("transport", Text, nullable=False),
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
CONVERSATIONS = Table(
    "conversations",  # what orders' side of a style notes between two messages, and when it wants to be woken
    METADATA,
    Column("order_id", Text, primary_key=True),
    Column("memory", Text, nullable=False),
    Column("alarm_at_ns", BigInteger, index=True),  # NULL: nothing is waited for
    Column("carrier", Text, nullable=False),  # the trace context of the last turn
)
# --- ledger ----------------------------------------------------------------------------------------------------------
VIEWS = Table(
    "views",  # the rows of all read models, as JSON
    METADATA,
    Column("projection", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("row", Text, nullable=False),
)
PROJECTED = Table(
    "projected",  # which events are in which read model
    METADATA,
    Column("projection", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
)
SETTINGS = Table("settings", METADATA, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))


CONNECT_TIMEOUT_S = 5.0
"""asyncpg's own is a minute, in which a process that starts could say nothing."""

AWAY = (OperationalError, InterfaceError, PoolTimeoutError, OSError)
"""What is raised while the database cannot be reached."""


def why(error: Exception) -> str:
    """``error`` in one line; a connection that timed out has no words of its own."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class Database:
    """An open database. A transaction is a plain function over a connection: on SQLite it runs in a thread of ours
    (one writer at a time, in order), which spares the way there and back for each statement (docs/adr/011); on
    PostgreSQL in the event loop, over asyncpg.
    """

    def __init__(self, url: str) -> None:
        address = make_url(url)
        self.sqlite = address.get_backend_name() == "sqlite"
        self._postgres: AsyncEngine | None = None
        if not self.sqlite:
            self._postgres = create_async_engine(address, connect_args={"timeout": CONNECT_TIMEOUT_S})
            return
        self._engine = create_engine(address.set(drivername="sqlite"))
        event.listen(self._engine, "connect", _durable_sqlite)
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        # in memory there is one connection for all, so readers queue with the writer
        in_memory = isinstance(self._engine.pool, StaticPool | SingletonThreadPool)
        self._reader = self._writer if in_memory else ThreadPoolExecutor(2, "sqlite-reader")

    def insert(self, table: Table) -> Any:
        """An INSERT that takes ON CONFLICT, in this database's words."""
        return (sqlite if self.sqlite else postgresql).insert(table)

    async def open(self) -> None:
        """Connect and make what is missing. Raises one of ``AWAY`` while it is not there."""

        def make(connection: Connection) -> None:
            if not self.sqlite:  # replicas may start at once
                connection.execute(text("SELECT pg_advisory_xact_lock(4711)"))
            METADATA.create_all(connection)

        await self.write(make)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction: committed at its end, rolled back by an exception. On SQLite a caller that is
        cancelled does not stop it."""
        if self._postgres is not None:
            async with self._postgres.begin() as connection:
                return await connection.run_sync(work)
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._write, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which writes nothing."""
        if self._postgres is not None:
            async with self._postgres.connect() as connection:
                return await connection.run_sync(work)
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._read, work)

    async def snapshot(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which writes nothing and sees one moment in all that it asks."""
        if self._postgres is not None:
            async with self._postgres.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ")
                return await connection.run_sync(work)
        return await self.write(work)

    def _write(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            # else what is read before the first write may be out of date by then: a replica's
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return work(connection)

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._engine.connect() as connection:
            return work(connection)

    async def ready(self) -> str | None:
        """None while it answers, else the reason in one line."""
        try:
            await self.read(lambda connection: connection.execute(text("SELECT 1")).scalar_one())
        except (DBAPIError, *AWAY) as error:
            return f"database: {why(error)}"
        return None

    async def close(self) -> None:
        if self._postgres is not None:
            await self._postgres.dispose()
            return
        for threads in {self._writer, self._reader}:
            await asyncio.to_thread(threads.shutdown)
        self._engine.dispose()


def _durable_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
