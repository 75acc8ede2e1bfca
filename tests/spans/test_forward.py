"""Payloads to other addresses: in order, once each, and nothing is missed by one that comes up later."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator

import httpx

from lab.spans import forward
from lab.spans.app import build
from lab.spans.settings import Settings
from tests.spans.stories import request_response
from tests.spans.support import PATIENCE_S, PROTOBUF, Sink

BODIES = [request_response(seed=seed, order_id=seed).payload() for seed in "abcdef"]


@contextlib.asynccontextmanager
async def serving(folder, *sinks: Sink, drain_s: float = 3.0) -> AsyncIterator[httpx.AsyncClient]:
    addresses = ",".join(sink.url for sink in sinks)
    app = build(Settings(database=folder / "spans.db", forward=addresses, drain_s=drain_s))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client,
    ):
        yield client


async def post(client: httpx.AsyncClient, body: bytes, **headers: str) -> None:
    (await client.post("/v1/traces", content=body, headers=PROTOBUF | headers)).raise_for_status()


async def eventually(condition, what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE_S} s: {what}") from None


async def queued(client: httpx.AsyncClient) -> dict[str, int]:
    stats = (await client.get("/stats")).json()
    return {entry["address"]: entry["queued_payloads"] for entry in stats["forward"]}


async def test_every_payload_arrives_once_and_in_order(tmp_path):
    sink = Sink()
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            for body in BODIES:
                await post(client, body)
            await eventually(lambda: len(sink.bodies) >= len(BODIES), "all payloads")
    assert sink.bodies == BODIES


async def test_an_address_that_comes_up_later_misses_nothing(tmp_path):
    sink, late = Sink(), Sink()
    with sink.serving():
        async with serving(tmp_path, sink, late) as client:
            for body in BODIES:
                await post(client, body)
            await eventually(lambda: len(sink.bodies) == len(BODIES), "all payloads at the first address")
            assert (await queued(client))[late.url] == len(BODIES)
            metrics = (await client.get("/metrics")).text
            assert f'lab_spans_forward_queued_payloads{{address="{late.url}"}} {len(BODIES)}.0' in metrics
            assert f'lab_spans_forwarded_total{{address="{sink.url}"}} {5 * len(BODIES)}.0' in metrics
            lag = next(line for line in metrics.splitlines() if line.startswith("lab_spans_forward_lag_seconds{")
                       and late.url in line)  # fmt: skip
            assert float(lag.rsplit(" ", 1)[1]) > 0
            with late.serving():
                await eventually(lambda: len(late.bodies) == len(BODIES), "all payloads at the late address")
                assert late.bodies == BODIES
                assert sink.bodies == BODIES


async def test_a_retried_export_is_forwarded_once(tmp_path):
    sink = Sink()
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            await post(client, BODIES[0])
            await eventually(lambda: sink.bodies, "the first payload")
            await post(client, BODIES[0])
            await post(client, BODIES[1])
            await eventually(lambda: len(sink.bodies) >= 2, "the second payload")
    assert sink.bodies == BODIES[:2]


async def test_a_compressed_payload_stays_compressed(tmp_path):
    sink = Sink()
    body = gzip.compress(BODIES[0])
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            await post(client, body, **{"content-encoding": "gzip"})
            await eventually(lambda: sink.bodies, "the payload")
    assert (sink.bodies, sink.encodings) == ([body], ["gzip"])


async def test_a_busy_address_is_asked_again_and_a_refusal_is_final(tmp_path):
    """429, 503 and even 404 may pass; 400 will not: that payload is counted and the next one follows."""
    sink = Sink(answers=[503, 429, 404, 200, 400])
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            for body in BODIES[:3]:
                await post(client, body)
            await eventually(lambda: len(sink.bodies) == 2, "the first and the third payload")
            metrics = (await client.get("/metrics")).text
    assert sink.bodies == [BODIES[0], BODIES[2]]
    assert f'lab_spans_forward_refused_total{{address="{sink.url}"}} 5.0' in metrics
    assert f'lab_spans_forward_failures_total{{address="{sink.url}"}} 3.0' in metrics


async def test_a_restart_goes_on_at_the_cursor(tmp_path):
    sink = Sink()
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            for body in BODIES[:3]:
                await post(client, body)
            await eventually(lambda: len(sink.bodies) == 3, "the first half")
    async with serving(tmp_path, sink, drain_s=0.1) as client:  # nobody listens: it stays in the file
        for body in BODIES[3:]:
            await post(client, body)
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            await eventually(lambda: len(sink.bodies) == len(BODIES), "the second half")
            async with asyncio.timeout(PATIENCE_S):
                while (await queued(client))[sink.url]:
                    await asyncio.sleep(0.02)
    assert sink.bodies == BODIES


async def test_stopping_sends_what_an_address_that_answers_still_lacks(tmp_path):
    sink = Sink()
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            for body in BODIES:
                await post(client, body)
        assert sink.bodies == BODIES


async def test_stopping_does_not_wait_for_an_address_that_is_away(tmp_path):
    async with asyncio.timeout(PATIENCE_S):
        async with serving(tmp_path, Sink(), drain_s=3600) as client:
            none_yet = 'lab_spans_forward_failures_total{address="http://127.0.0.1'
            await post(client, BODIES[0])
            async with asyncio.timeout(PATIENCE_S):
                while any(
                    line.startswith(none_yet) and line.endswith(" 0.0")
                    for line in (await client.get("/metrics")).text.splitlines()
                ):
                    await asyncio.sleep(0.02)


async def test_a_fault_of_the_forwarder_is_not_its_end(tmp_path, monkeypatch):
    """Whatever goes wrong (here: the file cannot be read once), it begins again at the cursor."""
    monkeypatch.setattr(forward, "_LONGEST_PAUSE_S", 0.05)
    faults = [RuntimeError("once")]
    working = forward._next

    def failing(*arguments):
        if faults:
            raise faults.pop()
        return working(*arguments)

    monkeypatch.setattr(forward, "_next", failing)
    sink = Sink()
    with sink.serving():
        async with serving(tmp_path, sink) as client:
            await post(client, BODIES[0])
            await eventually(lambda: sink.bodies, "the payload")
    assert sink.bodies == BODIES[:1]
