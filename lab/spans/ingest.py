"""Rows to disk: one writer, one transaction for all payloads that wait.

``SpanWriter`` is the writer itself, synchronous. ``WriterThread`` runs it beside the event loop and commits whatever
has gathered while the last commit was under way, so that many small exports cost one commit and not many.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import structlog

from lab.spans import otlp, schema

log = structlog.get_logger("lab.spans")

_CHUNK = 128
_MAX_GROUP_BYTES = 8 * 1024 * 1024
_CACHE_ENTRIES = 50_000


@dataclass(slots=True, frozen=True)
class Export:
    """One request as it came: the body without its Content-Encoding, and the raw one for the forward queue."""

    body: bytes
    raw: bytes
    encoding: str


@dataclass(slots=True, frozen=True)
class Outcome:
    """What became of one export, after the commit. ``received`` counts all of its spans, refused ones too."""

    received: int
    stored: int
    duplicates: int
    rejected: int
    reason: str


class _Numbers:
    """Numbers for ids from outside, given in order of arrival. Only the one writer may give them."""

    def __init__(self, connection: sqlite3.Connection, table: str, number: str, key: str) -> None:
        self._connection = connection
        self._known: dict[Any, int] = {}
        self._read = f"SELECT {key}, {number} FROM {table} WHERE {key} IN "  # noqa: S608 (our own names)
        self._write = f"INSERT INTO {table} ({key}, {number}) VALUES "  # noqa: S608 (our own names)
        (self._last,) = connection.execute(f"SELECT coalesce(max({number}), 0) FROM {table}").fetchone()  # noqa: S608

    def of(self, keys: Iterable[Any]) -> dict[Any, int]:
        """The number of each key; keys never seen before get the next ones."""
        if len(self._known) > _CACHE_ENTRIES:
            self._known.clear()
        known = self._known
        missing = [key for key in keys if key not in known]
        for start in range(0, len(missing), _CHUNK):
            part = missing[start : start + _CHUNK]
            known.update(self._connection.execute(f"{self._read} ({','.join('?' * len(part))})", part))
        fresh = [key for key in missing if key not in known]
        if fresh:
            for key in fresh:
                self._last += 1
                known[key] = self._last
            _insert(self._connection, self._write, [(key, known[key]) for key in fresh])
        return known


def _insert(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Insert rows, many to a statement, and return how many were new.

    ``executemany`` gives the GIL away at every row and then waits for it, up to 5 ms each while a question is being
    computed in another thread; a statement of 128 rows does so once.
    """
    changed = 0
    left = len(rows)
    start = 0
    while left:
        size = _CHUNK if left >= _CHUNK else 16 if left >= 16 else 1
        part = rows[start : start + size]
        values = ",".join(["(" + ",".join("?" * len(part[0])) + ")"] * size)
        changed += connection.execute(statement + values, tuple(chain.from_iterable(part))).rowcount
        start += size
        left -= size
    return changed


class SpanWriter:
    """Stores exports. Not for use by two threads at once.

    ``forwarded`` says whether payloads are kept for forwarding; a payload whose spans are all known (a retry) is not.
    """

    def __init__(self, path: Path, *, forwarded: bool) -> None:
        self._lock = schema.hold(path)
        try:
            self._connection = schema.open_writer(path)
        except BaseException:
            schema.release(self._lock)
            raise
        self._forwarded = forwarded
        self._forget()

    def _forget(self) -> None:
        """Drop every cached number, which a rolled-back transaction may have made wrong."""
        connection = self._connection
        self._traces = _Numbers(connection, "traces", "trace_no", "trace_id")
        self._orders = _Numbers(connection, "orders", "order_no", "order_id")
        self._origins: dict[tuple[str, bytes, bytes], int] = {}
        self._types: dict[tuple[Any, ...], int] = {}
        self._flows: dict[tuple[str, str, str], int] = {}
        (self._last_row,) = connection.execute("SELECT coalesce(max(row_no), 0) FROM spans").fetchone()

    def store(
        self, exports: Sequence[Export], cursors: Mapping[str, int] | None = None
    ) -> list[Outcome | otlp.BadPayloadError]:
        """Commit all exports in one transaction; a bad one is answered for itself and harms no other.

        ``cursors`` are noted in the same transaction: up to which payload each address has everything. What all
        addresses have is deleted.

        Raises sqlite3.Error when nothing of the group was stored (disk full, file gone).
        """
        payloads: list[otlp.Payload | otlp.BadPayloadError] = []
        for export in exports:
            try:
                payloads.append(otlp.decode(export.body))
            except otlp.BadPayloadError as refusal:
                payloads.append(refusal)
        outcomes: list[Outcome | otlp.BadPayloadError] = []
        with self._transaction():
            for export, payload in zip(exports, payloads, strict=True):
                if isinstance(payload, otlp.BadPayloadError):
                    outcomes.append(payload)
                else:
                    outcomes.append(self._store(export, payload))
            self._count([outcome for outcome in outcomes if isinstance(outcome, Outcome)])
            if cursors:
                self._connection.executemany(
                    "UPDATE cursors SET seq = ? WHERE address = ?", [(seq, address) for address, seq in cursors.items()]
                )
                self._drop_forwarded()
        return outcomes

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            self._forget()
            raise

    def _store(self, export: Export, payload: otlp.Payload) -> Outcome:
        connection = self._connection
        trace_ids: set[bytes] = set()
        order_ids: set[str] = set()
        for batch in payload.batches:
            for span in batch.spans:
                trace_ids.add(span.trace_id)
                if span.order_id is not None:
                    order_ids.add(span.order_id)
                for trace_id, _ in span.links:
                    trace_ids.add(trace_id)
        traces = self._traces.of(trace_ids)
        orders = self._orders.of(order_ids)

        spans: list[tuple[Any, ...]] = []
        links: list[tuple[Any, ...]] = []
        order_traces: set[tuple[int, int]] = set()
        flow_traces: set[tuple[int, int]] = set()
        flow_orders: set[tuple[int, int]] = set()
        message_traces: set[tuple[str, int]] = set()
        for batch in payload.batches:
            origin_no = self._origin(batch)
            for span in batch.spans:
                trace_no = traces[span.trace_id]
                order_no = flow_no = None
                if span.flow is not None:
                    flow_no = self._flows.get(span.flow) or self._flow(span.flow)
                    flow_traces.add((flow_no, trace_no))
                if span.order_id is not None:
                    order_no = orders[span.order_id]
                    order_traces.add((order_no, trace_no))
                    if flow_no is not None:
                        flow_orders.add((flow_no, order_no))
                if span.message_id is not None:
                    message_traces.add((span.message_id, trace_no))
                for trace_id, span_id in span.links:
                    links.append((trace_no, span.span_id, traces[trace_id], span_id))
                spans.append(
                    (
                        trace_no,
                        span.span_id,
                        span.parent_id,
                        self._types.get((origin_no, *span.common)) or self._type(origin_no, span.common),
                        span.start_ns,
                        span.end_ns,
                        order_no,
                        flow_no,
                        span.flags,
                        span.data,
                    )
                )
        stored = _insert(connection, _INSERT_SPANS, spans)
        _insert(connection, _INSERT_LINKS, links)
        for table, pairs in (
            ("order_traces", order_traces),
            ("flow_traces", flow_traces),
            ("flow_orders", flow_orders),
            ("message_traces", message_traces),
        ):
            _insert(connection, f"INSERT OR IGNORE INTO {table} VALUES ", list(pairs))  # noqa: S608 (our own names)
        if stored and self._forwarded:
            connection.execute(
                "INSERT INTO payloads (received_ns, spans, encoding, body) VALUES (?, ?, ?, ?)",
                (time.time_ns(), stored, export.encoding, export.raw),
            )
        return Outcome(
            payload.spans + payload.rejected, stored, payload.spans - stored, payload.rejected, payload.reason
        )

    def _origin(self, batch: otlp.ScopeBatch) -> int:
        key = (batch.service, batch.resource, batch.scope)
        known = self._origins.get(key)
        if known is None:
            known = self._origins[key] = self._row(
                "origins", "origin_no", {"service": key[0], "resource": key[1], "scope": key[2]}
            )
        return known

    def _type(self, origin_no: int, common: tuple[str, int, str, str, str, str]) -> int:
        if len(self._types) > _CACHE_ENTRIES:  # somebody puts ids into span names
            self._types.clear()
        columns = ("name", "kind", "operation", "destination", "system", "wait")
        known = self._row("span_types", "type_no", {"origin_no": origin_no, **dict(zip(columns, common, strict=True))})
        self._types[(origin_no, *common)] = known
        return known

    def _flow(self, flow: tuple[str, str, str]) -> int:
        if len(self._flows) > _CACHE_ENTRIES:
            self._flows.clear()
        known = self._row("flows", "flow_no", {"run_id": flow[0], "style": flow[1], "transport": flow[2]})
        self._flows[flow] = known
        return known

    def _row(self, table: str, number: str, values: dict[str, Any]) -> int:
        columns, marks = ", ".join(values), ", ".join("?" * len(values))
        where = " AND ".join(f"{column} = ?" for column in values)
        self._connection.execute(
            f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 (our own names)
            tuple(values.values()),
        )
        found = self._connection.execute(
            f"SELECT {number} FROM {table} WHERE {where}",  # noqa: S608 (our own names)
            tuple(values.values()),
        ).fetchone()
        return int(found[0])

    def _count(self, outcomes: list[Outcome]) -> None:
        """Keep the totals in the transaction of what they count; only rows that are really new count as stored."""
        if not outcomes:
            return
        connection = self._connection
        services: Counter[str] = Counter()
        for service, flow_no, spans, first_ns, last_ns in connection.execute(_NEW_ROWS, (self._last_row,)).fetchall():
            services[service] += spans
            if flow_no is not None:
                connection.execute(_COUNT_FLOW, (spans, first_ns, last_ns, flow_no))
        (self._last_row,) = connection.execute("SELECT coalesce(max(row_no), 0) FROM spans").fetchone()
        connection.executemany(_COUNT_SERVICE, services.items())
        totals = {
            "payloads": len(outcomes),
            "received": sum(outcome.received for outcome in outcomes),
            "stored": sum(outcome.stored for outcome in outcomes),
            "duplicates": sum(outcome.duplicates for outcome in outcomes),
            "rejected": sum(outcome.rejected for outcome in outcomes),
        }
        connection.executemany(_COUNT_TOTAL, totals.items())

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Keep one cursor for each address; one that is no longer asked for is forgotten with its backlog."""
        with self._transaction():
            execute = self._connection.execute
            for (address,) in execute("SELECT address FROM cursors").fetchall():
                if address not in addresses:
                    execute("DELETE FROM cursors WHERE address = ?", (address,))
            for address in addresses:
                execute("INSERT OR IGNORE INTO cursors VALUES (?, 0)", (address,))
            self._drop_forwarded()

    def _drop_forwarded(self) -> None:
        self._connection.execute(
            "DELETE FROM payloads WHERE seq <= coalesce((SELECT min(seq) FROM cursors), 9223372036854775807)"
        )

    def close(self) -> None:
        """Close the file, which folds the WAL into it, and let another process have it."""
        self._connection.close()
        schema.release(self._lock)


_INSERT_SPANS = (
    "INSERT OR IGNORE INTO spans (trace_no, span_id, parent_id, type_no, start_ns, end_ns, order_no, flow_no, flags, "
    "data) VALUES "
)
_INSERT_LINKS = "INSERT OR IGNORE INTO links VALUES "
_NEW_ROWS = """
SELECT o.service, s.flow_no, count(*), min(s.start_ns), max(s.end_ns)
FROM spans s CROSS JOIN span_types t ON t.type_no = s.type_no
    CROSS JOIN origins o ON o.origin_no = t.origin_no
WHERE s.row_no > ? GROUP BY 1, 2
"""
_COUNT_FLOW = """
UPDATE flows SET spans = spans + ?, first_ns = min(coalesce(first_ns, 9223372036854775807), ?),
    last_ns = max(coalesce(last_ns, 0), ?) WHERE flow_no = ?
"""
_COUNT_SERVICE = """
INSERT INTO service_spans VALUES (?, ?) ON CONFLICT (service) DO UPDATE SET spans = spans + excluded.spans
"""
_COUNT_TOTAL = "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"


class OverloadedError(Exception):
    """Too much waits for the writer; the sender keeps its spans and tries again."""


class UnavailableError(Exception):
    """The file took nothing: disk full, or the writer has stopped."""


# faults travel as results, not as exceptions of a future that a sender who hung up would never fetch
_Result = Outcome | otlp.BadPayloadError | UnavailableError


@dataclass(slots=True)
class _Task:
    export: Export
    future: "asyncio.Future[_Result]"


@dataclass(slots=True)
class _Cursor:
    address: str
    seq: int


def _is_of_the_file(error: Exception) -> bool:
    """Whether the disk or the file is at fault (full, locked, damaged), and not what was to be written."""
    return isinstance(error, (OSError, sqlite3.OperationalError)) or type(error) is sqlite3.DatabaseError


class WriterThread:
    """The writer beside an event loop. Use from that loop only, between ``start`` and ``stop``."""

    def __init__(
        self, writer: SpanWriter, *, max_waiting_bytes: int, on_commit: Callable[[list[Outcome]], None]
    ) -> None:
        self._writer = writer
        self._queue: queue.SimpleQueue[_Task | _Cursor | None] = queue.SimpleQueue()
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._on_commit = on_commit
        self._thread = threading.Thread(target=self._run, name="span-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.fault: str | None = None
        """Why the last commit failed; None when it did not."""

    def start(self) -> None:
        """Begin to write; needs a running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether exports are being written."""
        return self._thread.is_alive()

    async def store(self, export: Export) -> Outcome:
        """Return once the export's spans are committed.

        Raises otlp.BadPayloadError, OverloadedError (nothing was done) or UnavailableError (nothing was stored).
        """
        if not self.running:
            raise UnavailableError("the span store is stopping")
        size = len(export.body)
        if self._waiting_bytes and self._waiting_bytes + size > self._max_waiting_bytes:
            raise OverloadedError(f"{self._waiting_bytes} bytes wait to be written")
        self._waiting_bytes += size
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._queue.put(_Task(export, future))
        try:
            # shielded: a sender that hangs up does not undo a write that is under way
            outcome = await asyncio.shield(future)
        finally:
            self._waiting_bytes -= size
        if not isinstance(outcome, Outcome):
            raise outcome
        return outcome

    def advance(self, address: str, seq: int) -> None:
        """Note, with the next commit, that an address has every payload up to ``seq``."""
        self._queue.put(_Cursor(address, seq))

    async def stop(self) -> None:
        """Write what waits, then end."""
        if self.running:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            tasks: list[_Task] = []
            cursors: dict[str, int] = {}
            size = 0
            last = False
            while True:
                if item is None:
                    last = True
                elif isinstance(item, _Cursor):
                    cursors[item.address] = item.seq
                else:
                    tasks.append(item)
                    size += len(item.export.body)
                if last or size >= _MAX_GROUP_BYTES:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._write(tasks, cursors)
            if last:
                return

    def _write(self, tasks: list[_Task], cursors: dict[str, int]) -> None:
        results = self._store(tasks, cursors)
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._answer, tasks, results)

    def _store(self, tasks: list[_Task], cursors: dict[str, int]) -> list[_Result]:
        """The thread must outlive every fault: of the file (senders hear 503 and come again) and of an export."""
        try:
            results: list[_Result] = list(self._writer.store([task.export for task in tasks], cursors))
        except Exception as error:
            log.exception("nothing was stored", payloads=len(tasks))
            if _is_of_the_file(error):
                self.fault = f"{type(error).__name__}: {error}"
                return [UnavailableError(f"the spans could not be stored: {error}")] * len(tasks)
            if len(tasks) == 1:
                return [otlp.BadPayloadError(f"the spans cannot be indexed: {type(error).__name__}: {error}")]
            # one of them is at fault, and would be again with every retry: each for itself, so that it fails alone
            return [self._store([task], cursors)[0] for task in tasks]
        self.fault = None
        return results

    def _answer(self, tasks: list[_Task], results: list[_Result]) -> None:
        self._on_commit([result for result in results if isinstance(result, Outcome)])
        for task, result in zip(tasks, results, strict=True):
            if not task.future.cancelled():
                task.future.set_result(result)
