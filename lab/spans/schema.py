"""The tables of a span store, and how its file is opened.

Ids that come from outside (trace, order) are numbered once, and everything else refers to the number: rows stay
small, and the rows of one trace, which come in over seconds from many services, land on neighbouring pages of each
index. That, and not the decoding, is what makes the ingest quick.

A span's row holds what questions search, sort or count by; ``data`` is the whole span as OTLP wrote it
(``opentelemetry.proto.trace.v1.Span``), decoded only for the spans that an answer shows. Times are nanoseconds since
1970-01-01 UTC.
"""

import fcntl
import os
import sqlite3
from pathlib import Path

VERSION = 1

TABLES = """
CREATE TABLE traces (trace_no INTEGER PRIMARY KEY, trace_id BLOB NOT NULL UNIQUE);
CREATE TABLE orders (order_no INTEGER PRIMARY KEY, order_id TEXT NOT NULL UNIQUE);

-- who wrote a span: OTLP's resource and scope, kept once
CREATE TABLE origins (
    origin_no INTEGER PRIMARY KEY, service TEXT NOT NULL, resource BLOB NOT NULL, scope BLOB NOT NULL,
    UNIQUE (resource, scope));
-- what all spans of one place in the code have in common; kind is OTLP's number
CREATE TABLE span_types (
    type_no INTEGER PRIMARY KEY, origin_no INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
    operation TEXT NOT NULL, destination TEXT NOT NULL, system TEXT NOT NULL, wait TEXT NOT NULL,
    UNIQUE (origin_no, name, kind, operation, destination, system, wait));
-- one style over one transport in one run; what a span does not say is ''
CREATE TABLE flows (
    flow_no INTEGER PRIMARY KEY, run_id TEXT NOT NULL, style TEXT NOT NULL, transport TEXT NOT NULL,
    spans INTEGER NOT NULL DEFAULT 0, first_ns INTEGER, last_ns INTEGER,
    UNIQUE (run_id, style, transport));

CREATE TABLE spans (
    row_no INTEGER PRIMARY KEY, trace_no INTEGER NOT NULL, span_id BLOB NOT NULL, parent_id BLOB,
    type_no INTEGER NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
    order_no INTEGER, flow_no INTEGER, flags INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX spans_by_id ON spans (trace_no, span_id);

CREATE TABLE links (
    trace_no INTEGER NOT NULL, span_id BLOB NOT NULL, to_trace_no INTEGER NOT NULL, to_span_id BLOB NOT NULL,
    PRIMARY KEY (trace_no, span_id, to_trace_no, to_span_id)) WITHOUT ROWID;
CREATE INDEX links_back ON links (to_trace_no, to_span_id);

-- which traces hold spans of an order, a flow, a message: a row for each pair, not for each span
CREATE TABLE order_traces (
    order_no INTEGER NOT NULL, trace_no INTEGER NOT NULL, PRIMARY KEY (order_no, trace_no)) WITHOUT ROWID;
CREATE TABLE flow_traces (
    flow_no INTEGER NOT NULL, trace_no INTEGER NOT NULL, PRIMARY KEY (flow_no, trace_no)) WITHOUT ROWID;
CREATE TABLE flow_orders (
    flow_no INTEGER NOT NULL, order_no INTEGER NOT NULL, PRIMARY KEY (flow_no, order_no)) WITHOUT ROWID;
CREATE TABLE message_traces (
    message_id TEXT NOT NULL, trace_no INTEGER NOT NULL, PRIMARY KEY (message_id, trace_no)) WITHOUT ROWID;

CREATE TABLE totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE service_spans (service TEXT PRIMARY KEY, spans INTEGER NOT NULL) WITHOUT ROWID;

-- the forward queue: raw payloads, deleted once every address has them
-- AUTOINCREMENT, since cursors outlive rows
CREATE TABLE payloads (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, received_ns INTEGER NOT NULL, spans INTEGER NOT NULL,
    encoding TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE cursors (address TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""

# bits of spans.flags
FRONT_DOOR = 1
"""The front door's SERVER span ``POST /orders`` of an order that it took."""
COMPLETED = 2
REJECTED = 4
DUPLICATE = 8
REDELIVERY = 16
"""``lab.delivery.attempt`` above 1."""
ERROR = 32
"""OTLP status code ERROR."""


class StoreError(Exception):
    """The file cannot serve as a span store; the message is one line that says why."""


def hold(path: Path) -> int:
    """Reserve the file for this process until the returned descriptor is closed.

    Raises StoreError when another process holds it: two writers would number traces behind each other's backs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"{path} is in use by another span store") from error
    return descriptor


def release(descriptor: int) -> None:
    """Let go of a file that ``hold`` reserved."""
    os.close(descriptor)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open for writing and make the tables where they are missing.

    A commit survives the death of the process (WAL, synchronous NORMAL); the loss of power may take the last ones.
    Raises StoreError for a file that is no SQLite database or was written by another version.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        # asked first: a file of somebody else's is left as it is
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version != VERSION and (version or tables):
            connection.close()
            raise StoreError(f"{path} is no span store of version {VERSION} (it says {version}); move it away")
        connection.execute("PRAGMA page_size=8192")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA cache_size=-16000")
        # a page of an index changes with every payload: copied into the file each 32 MB, not each 8
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute("PRAGMA journal_size_limit=67108864")
        if not tables:
            connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be opened as a span store: {error}") from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open read-only; a reader sees the last commit and never holds up the writer."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=10,
    )
    connection.execute("PRAGMA cache_size=-8000")
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection
