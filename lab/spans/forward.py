"""Payloads to other OTLP addresses (Jaeger): each address at its own pace, in order, missing nothing.

The queue is in the store's file, written in the transaction that stores the spans. Each address has a cursor; one
that is away is tried again for ever, so a Jaeger that comes up minutes later gets everything. Delivery is at least
once: a store that dies between an answer and its cursor's commit sends those payloads again.
"""

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from lab.spans import otlp, schema
from lab.spans.ingest import WriterThread
from lab.spans.metrics import Metrics

log = structlog.get_logger("lab.spans")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_TIMEOUT_S = 10.0
_READ = 8
"""Payloads read, and noted as sent, at a time: as many may be sent again after a crash."""
_REFUSED_FOR_GOOD = frozenset({400, 413, 415, 422})
"""Answers that sending again cannot change. OTLP counts every 4xx but 429 among them; a 404 or 401 is more likely an
address that is not set up yet, and is waited for."""


@dataclass(slots=True, frozen=True)
class _Queued:
    seq: int
    spans: int
    encoding: str
    body: bytes


class Forwarder:
    """One background task for each address."""

    def __init__(self, database: Path, addresses: Sequence[str], writer: WriterThread, metrics: Metrics) -> None:
        self._database = database
        self._addresses = tuple(addresses)
        self._writer = writer
        self._metrics = metrics
        self._news = {address: asyncio.Event() for address in self._addresses}
        self._empty = {address: asyncio.Event() for address in self._addresses}
        self._away: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        metrics.know(self._addresses)

    def start(self) -> None:
        """Carry on at the cursors; needs a running loop."""
        self._tasks = [
            asyncio.create_task(self._keep_running(address), name=f"forward to {address}")
            for address in self._addresses
        ]

    def wake(self) -> None:
        """There are new payloads."""
        for address in self._addresses:
            self._empty[address].clear()
            self._news[address].set()

    async def stop(self, drain_s: float) -> None:
        """Send for at most ``drain_s`` what addresses that answer still lack, then end; the rest stays in the file."""
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await asyncio.gather(
                    *(event.wait() for address, event in self._empty.items() if address not in self._away)
                )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_running(self, address: str) -> None:
        while True:
            try:
                await self._run(address)
            except Exception:
                log.exception("forwarding begins again at its cursor", address=address)
                await asyncio.sleep(_LONGEST_PAUSE_S)

    async def _run(self, address: str) -> None:
        connection = schema.open_reader(self._database)
        try:
            (seq,) = connection.execute("SELECT seq FROM cursors WHERE address = ?", (address,)).fetchone()
            # certificates are read only where one will be checked: that takes 10 MB and a tenth of a second
            secure = address.startswith("https://")
            async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False, verify=secure) as client:
                while True:
                    self._news[address].clear()
                    queued = await asyncio.to_thread(_next, connection, seq)
                    if not queued:
                        self._empty[address].set()
                        await self._news[address].wait()
                    try:
                        for payload in queued:
                            await self._deliver(client, address, payload)
                            seq = payload.seq
                    finally:
                        if queued and seq >= queued[0].seq:
                            self._writer.advance(address, seq)
        finally:
            connection.close()

    async def _deliver(self, client: httpx.AsyncClient, address: str, payload: _Queued) -> None:
        """Return once the address has the payload, or has refused it in a way that no repetition changes."""
        headers = {"content-type": otlp.CONTENT_TYPE}
        if payload.encoding:
            headers["content-encoding"] = payload.encoding
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                response = await client.post(f"{address}/v1/traces", content=payload.body, headers=headers)
            except httpx.HTTPError as error:
                fault = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    self._away.discard(address)
                    refused = _refused(response.content)
                    self._metrics.forwarded_spans.labels(address).inc(payload.spans - min(refused, payload.spans))
                    self._metrics.forwarded_payloads.labels(address).inc()
                    if refused:
                        self._metrics.forward_refused.labels(address).inc(refused)
                        log.warning("spans refused", address=address, spans=refused)
                    return
                fault = f"HTTP {response.status_code}"
                if response.status_code in _REFUSED_FOR_GOOD:
                    self._metrics.forward_refused.labels(address).inc(payload.spans)
                    log.error("payload refused for good", address=address, fault=fault, spans=payload.spans)
                    return
            if address not in self._away:
                self._away.add(address)
                log.info("address is away, payloads wait", address=address, fault=fault)
            self._metrics.forward_failures.labels(address).inc()
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _next(connection: sqlite3.Connection, seq: int) -> list[_Queued]:
    rows = connection.execute(
        "SELECT seq, spans, encoding, body FROM payloads WHERE seq > ? ORDER BY seq LIMIT ?", (seq, _READ)
    ).fetchall()
    return [_Queued(*row) for row in rows]


def _refused(answer: bytes) -> int:
    """How many spans a 200 nevertheless refused (OTLP partial success); 0 for an answer that is none."""
    try:
        return int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
    except DecodeError:
        return 0


def backlog(connection: sqlite3.Connection) -> dict[str, tuple[int, int | None]]:
    """Per address: how many payloads it lacks, and when the oldest of them came (ns), None without any."""
    return {
        address: (payloads, oldest_ns)
        for address, payloads, oldest_ns in connection.execute(
            "SELECT c.address, count(p.seq), min(p.received_ns) FROM cursors c LEFT JOIN payloads p ON p.seq > c.seq "
            "GROUP BY c.address"
        )
    }
