"""The store's port: what HTTP answers, good and bad, and that all of it is described."""

import asyncio
import gzip
import threading

import httpx
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from lab.spans import otlp
from lab.spans.app import build
from lab.spans.ingest import SpanWriter
from lab.spans.settings import Settings
from tests.spans.stories import choreography
from tests.spans.support import PATIENCE_S, PROTOBUF

GOOD = choreography("both").payload()


def settings(folder, **more) -> Settings:
    return Settings(database=folder / "spans.db", **more)


@pytest.fixture
async def client(tmp_path):
    app = build(settings(tmp_path))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client,
    ):
        yield client


async def test_a_good_export_is_answered_as_otlp_wants(client):
    """200, protobuf, and no partial_success where everything was taken."""
    answer = await client.post("/v1/traces", content=GOOD, headers=PROTOBUF)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-protobuf")
    assert not ExportTraceServiceResponse.FromString(answer.content).HasField("partial_success")
    assert len((await client.get("/orders/o-1")).json()["spans"]) == 11


async def test_gzip_is_taken(client):
    headers = PROTOBUF | {"content-encoding": "gzip"}
    assert (await client.post("/v1/traces", content=gzip.compress(GOOD), headers=headers)).status_code == 200
    assert (await client.get("/stats")).json()["stored"] == 11


async def test_spans_that_cannot_be_kept_are_counted_in_partial_success(client):
    request = ExportTraceServiceRequest.FromString(GOOD)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans.append(Span(trace_id=b"short", span_id=b"s" * 8))
    spans.append(Span(trace_id=b"t" * 16, span_id=b""))
    answer = await client.post("/v1/traces", content=request.SerializeToString(), headers=PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert (answer.status_code, partial.rejected_spans) == (200, 2)
    assert "trace_id must be 16 bytes" in partial.error_message
    stats = (await client.get("/stats")).json()
    assert (stats["received"], stats["stored"], stats["rejected"]) == (13, 11, 2)


JSON = {"content-type": "application/json"}
GZIP = PROTOBUF | {"content-encoding": "gzip"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "about"),
    [
        (b"not protobuf", PROTOBUF, 400, "ExportTraceServiceRequest"),
        (GOOD[:-7], PROTOBUF, 400, "ExportTraceServiceRequest"),
        (GOOD, GZIP, 400, "gzip"),
        (gzip.compress(GOOD)[:-9], GZIP, 400, "ends early"),
        (b'{"resourceSpans":[]}', JSON, 415, "http/protobuf"),
        (GOOD, {"content-type": "text/plain"}, 415, "text/plain"),
        (GOOD, PROTOBUF | {"content-encoding": "zstd"}, 415, "zstd"),
        (b"x" * (10 * 1024 * 1024 + 1), PROTOBUF, 413, "smaller batches"),
        (gzip.compress(b"\0" * (10 * 1024 * 1024 + 1)), GZIP, 413, "smaller batches"),
    ],
    ids=["garbage", "truncated", "no gzip", "cut gzip", "json", "text", "zstd", "large", "bomb"],
)
async def test_bad_exports(client, body, headers, status, about):
    """Each is refused with a google.rpc.Status that says why, stores nothing, and the store goes on."""
    answer = await client.post("/v1/traces", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/x-protobuf")
    assert about in Status.FromString(answer.content).message
    assert (await client.get("/stats")).json()["received"] == 0
    assert f'lab_spans_refused_requests_total{{status="{status}"}} 1.0' in (await client.get("/metrics")).text
    assert (await client.post("/v1/traces", content=GOOD, headers=PROTOBUF)).status_code == 200


async def test_a_body_without_a_length_is_measured_while_it_comes(client):
    async def endless():
        while True:
            yield b"\0" * 1_000_000

    answer = await client.post("/v1/traces", content=endless(), headers=PROTOBUF)
    assert answer.status_code == 413


async def test_too_much_at_once_is_sent_back_for_later(tmp_path, monkeypatch):
    """OTLP: 503 with Retry-After makes the sender keep its spans. One alone is always taken."""
    app = build(settings(tmp_path, max_waiting_bytes=1))
    begun, may_write = threading.Event(), threading.Event()
    working = SpanWriter.store

    def slow(self, *arguments):
        begun.set()
        assert may_write.wait(PATIENCE_S)
        return working(self, *arguments)

    monkeypatch.setattr(SpanWriter, "store", slow)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client,
    ):
        try:
            first = asyncio.create_task(client.post("/v1/traces", content=GOOD, headers=PROTOBUF))
            async with asyncio.timeout(PATIENCE_S):
                while not begun.is_set():
                    await asyncio.sleep(0.01)
            answer = await client.post("/v1/traces", content=GOOD, headers=PROTOBUF)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        finally:
            may_write.set()
        assert (await first).status_code == 200


async def test_probes_and_metrics(client):
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    for _ in range(2):
        await client.post("/v1/traces", content=GOOD, headers=PROTOBUF)
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    for line in (
        "lab_spans_received_total 22.0",
        "lab_spans_stored_total 11.0",
        "lab_spans_duplicate_total 11.0",
        "lab_spans_rejected_total 0.0",
    ):
        assert line in plain.text
    asked = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")


async def test_a_full_disk_is_a_503_and_not_ready_until_it_is_over(tmp_path, monkeypatch):
    app = build(settings(tmp_path))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client,
    ):
        working = SpanWriter.store

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(SpanWriter, "store", full)
        answer = await client.post("/v1/traces", content=GOOD, headers=PROTOBUF)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "no space left" in Status.FromString(answer.content).message
        assert (await client.get("/readyz")).status_code == 503
        monkeypatch.setattr(SpanWriter, "store", working)
        assert (await client.post("/v1/traces", content=GOOD, headers=PROTOBUF)).status_code == 200
        assert (await client.get("/readyz")).status_code == 200


async def test_an_export_that_breaks_the_index_fails_alone_and_for_good(tmp_path, monkeypatch):
    """A fault of ours with one payload must not send its neighbours back, nor itself for ever."""
    poison = choreography("both", seed="poison", order_id="poison").payload()
    decode = otlp.decode

    def strange(body: bytes) -> otlp.Payload:
        payload = decode(body)
        if body == poison:
            payload.batches[0].spans[0].end_ns = 2**80
        return payload

    monkeypatch.setattr(otlp, "decode", strange)
    app = build(settings(tmp_path))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client,
    ):
        answers = await asyncio.gather(
            *(client.post("/v1/traces", content=body, headers=PROTOBUF) for body in (GOOD, poison, GOOD, poison))
        )
        assert [answer.status_code for answer in answers] == [200, 400, 200, 400]
        assert (await client.get("/stats")).json()["stored"] == 11
        assert (await client.get("/readyz")).status_code == 200


QUESTIONS = {
    "/orders/{order_id}": "/orders/o-1",
    "/orders/{order_id}/critical-path": "/orders/o-1/critical-path",
    "/traces/{trace_id}": "/traces/TRACE",
    "/messages/{message_id}": "/messages/m-1",
    "/spans/{trace_id}/{span_id}/causes": "/spans/TRACE/SPAN/causes",
    "/spans/{trace_id}/{span_id}/effects": "/spans/TRACE/SPAN/effects",
    "/runs": "/runs",
    "/runs/{run_id}/summary": "/runs/run-1/summary",
    "/runs/{run_id}/graph": "/runs/run-1/graph",
    "/runs/{run_id}/orphans": "/runs/run-1/orphans",
    "/stats": "/stats",
}


async def test_every_question_has_an_answer_and_a_description(client):
    """/openapi.json names the model of each answer, and what is unknown is a 404 with a sentence."""
    await client.post("/v1/traces", content=GOOD, headers=PROTOBUF)
    described = (await client.get("/openapi.json")).json()["paths"]
    assert set(QUESTIONS) | {"/v1/traces", "/healthz", "/readyz", "/metrics"} == set(described)
    span = choreography("both").told[3]
    for path, example in QUESTIONS.items():
        url = example.replace("TRACE", span.trace_id.hex()).replace("SPAN", span.span_id.hex())
        assert (await client.get(url)).status_code == 200, url
        operation = described[path]["get"]
        assert "$ref" in str(operation["responses"]["200"]["content"]["application/json"]["schema"])
        assert operation["description"]
        if "{" in path:
            nothing = "/".join("x" if "{" in part else part for part in path.split("/"))
            answer = await client.get(nothing)
            assert (answer.status_code, list(answer.json())) == (404, ["detail"])


async def test_the_json_of_a_span(client):
    await client.post("/v1/traces", content=choreography("link").payload(), headers=PROTOBUF)
    order = (await client.get("/orders/o-1")).json()
    span = next(span for span in order["spans"] if span["name"] == "process orders.events")
    assert set(span) >= {
        "trace_id", "span_id", "parent_span_id", "name", "kind", "service", "start_ns", "end_ns", "status",
        "attributes", "links", "linked_from", "orphan",
    }  # fmt: skip
    assert (span["kind"], span["status"], span["parent_span_id"], span["orphan"]) == ("CONSUMER", "UNSET", None, False)
    assert span["attributes"]["lab.delivery.attempt"] == 1
    (link,) = span["links"]
    assert set(link) >= {"trace_id", "span_id", "attributes"}
    send = next(span for span in order["spans"] if span["name"] == "send orders.events")
    assert {"trace_id": span["trace_id"], "span_id": span["span_id"]} in send["linked_from"]
