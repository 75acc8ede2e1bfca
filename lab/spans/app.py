"""The store's one port: OTLP in, questions out, probes and metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response

from lab.spans import answers, otlp
from lab.spans.forward import Forwarder, backlog
from lab.spans.ingest import Export, Outcome, OverloadedError, SpanWriter, UnavailableError, WriterThread
from lab.spans.metrics import Metrics
from lab.spans.queries import NotFoundError, Questions
from lab.spans.runs import RunQuestions
from lab.spans.settings import Settings

log = structlog.get_logger("lab.spans")

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "Nothing of that name has come"}}


def build(settings: Settings) -> FastAPI:
    """The application; opening the file and starting the tasks is its lifespan.

    Raises schema.StoreError at once when the file cannot serve.
    """
    database = settings.database
    writer = SpanWriter(database, forwarded=bool(settings.forward))
    writer.set_addresses(settings.forward)
    questions = Questions(database)
    runs = RunQuestions(questions)

    def queued() -> dict[str, tuple[int, int | None]]:
        with questions.view() as view:
            return backlog(view.connection)

    metrics = Metrics(database, queued)

    def committed(outcomes: list[Outcome]) -> None:
        metrics.count(outcomes)
        forwarder.wake()

    thread = WriterThread(writer, max_waiting_bytes=settings.max_waiting_bytes, on_commit=committed)
    forwarder = Forwarder(database, settings.forward, thread, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread.start()
        forwarder.start()
        try:
            yield
        finally:
            await forwarder.stop(settings.drain_s)
            await thread.stop()
            writer.close()

    app = FastAPI(title="Antiphon span store", version="1", description=__doc__, lifespan=lifespan)

    @app.exception_handler(NotFoundError)
    async def not_found(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=404)

    @app.post("/v1/traces", tags=["otlp"], response_class=Response)
    async def export(request: Request) -> Response:
        """OTLP/HTTP, protobuf, plain or gzip. 200 means that the spans are committed."""
        try:
            body, raw, encoding = await _read(request, settings.max_body_bytes)
            outcome = await thread.store(Export(body, raw, encoding))
        except otlp.BadPayloadError as refusal:
            return refuse(refusal.status, str(refusal))
        except (OverloadedError, UnavailableError) as fault:
            return refuse(503, str(fault), {"retry-after": "1"})
        return Response(otlp.accepted(outcome.rejected, outcome.reason), media_type=otlp.CONTENT_TYPE)

    def refuse(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        metrics.refused.labels(str(status)).inc()
        return Response(otlp.refused(status, message), status, headers, otlp.CONTENT_TYPE)

    @app.get("/healthz", tags=["probes"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["probes"])
    async def readyz() -> JSONResponse:
        """Spans can be stored; 503 says why not. A forward address that is away does not matter."""
        fault = thread.fault or (None if thread.running else "the writer has stopped")
        return JSONResponse({"status": fault or "ready"}, status_code=503 if fault else 200)

    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def show_metrics(request: Request) -> Response:
        """Prometheus text, or OpenMetrics when the Accept header asks for it."""
        body, content_type = await asyncio.to_thread(metrics.exposition, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    _add_questions(app, questions, runs)
    return app


async def _read(request: Request, limit_bytes: int) -> tuple[bytes, bytes, str]:
    """The unpacked body, the raw one and its encoding. Raises otlp.BadPayloadError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != otlp.CONTENT_TYPE:
        raise otlp.BadPayloadError(
            f"content-type {kind or 'none'!r} is not supported; set the exporter's protocol to http/protobuf "
            f"({otlp.CONTENT_TYPE})",
            status=415,
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit_bytes:
        raise otlp.too_large(limit_bytes)
    chunks = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise otlp.too_large(limit_bytes)
        chunks.append(chunk)
    raw = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return raw, raw, ""
    body = await asyncio.to_thread(otlp.unpack, raw, encoding, limit_bytes=limit_bytes)
    return body, raw, encoding


def _add_questions(app: FastAPI, questions: Questions, runs: RunQuestions) -> None:
    """The read side. Plain functions: FastAPI runs them in threads, beside the event loop."""

    @app.get("/orders/{order_id}", tags=["orders"], responses=_NOT_FOUND)
    def order(order_id: str) -> answers.Order:
        """All traces of an order, joined over parents and links."""
        return questions.order(order_id)

    @app.get("/orders/{order_id}/critical-path", tags=["orders"], responses=_NOT_FOUND)
    def order_critical_path(order_id: str) -> answers.CriticalPath:
        """What the order waited for, from accept to complete."""
        return questions.critical_path(order_id)

    @app.get("/traces/{trace_id}", tags=["spans"], responses=_NOT_FOUND)
    def trace(trace_id: str) -> answers.Trace:
        """One trace."""
        return questions.trace(trace_id)

    @app.get("/messages/{message_id}", tags=["spans"], responses=_NOT_FOUND)
    def message(message_id: str) -> answers.Message:
        """Who sent a message, how long it waited, who consumed it."""
        return questions.message(message_id)

    @app.get("/spans/{trace_id}/{span_id}/causes", tags=["spans"], responses=_NOT_FOUND)
    def causes(trace_id: str, span_id: str) -> answers.Causes:
        """What a span names as its causes, whether they came or not."""
        return questions.causes(trace_id, span_id)

    @app.get("/spans/{trace_id}/{span_id}/effects", tags=["spans"], responses=_NOT_FOUND)
    def effects(trace_id: str, span_id: str) -> answers.Effects:
        """The spans that name a span as their cause."""
        return questions.effects(trace_id, span_id)

    @app.get("/runs", tags=["runs"])
    def all_runs() -> list[answers.Run]:
        """All runs, the latest first."""
        return runs.runs()

    @app.get("/runs/{run_id}/summary", tags=["runs"], responses=_NOT_FOUND)
    def summary(run_id: str) -> answers.Summary:
        """The run's figures per style and transport."""
        return runs.summary(run_id)

    @app.get("/runs/{run_id}/graph", tags=["runs"], responses=_NOT_FOUND)
    def graph(run_id: str) -> answers.RunGraph:
        """Services and channels of the run, and who speaks to whom."""
        return runs.graph(run_id)

    @app.get("/runs/{run_id}/orphans", tags=["runs"], responses=_NOT_FOUND)
    def orphans(run_id: str, limit: Annotated[int, Query(ge=0, le=1000)] = 100) -> answers.Orphans:
        """The run's spans that lack every cause they should have."""
        return runs.orphans(run_id, limit)

    @app.get("/stats", tags=["runs"])
    def stats() -> answers.Stats:
        """Totals since the file was made."""
        return questions.stats()
