"""Every span and every metric of a run keeps to the conventions, in each shape; and the walker would notice if not."""

import asyncio
import copy
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from services.runtime import consumer
from services.styles import STYLES
from services.telemetry import conventions as c
from services.telemetry.messaging import Shape
from tests.services.lab import DECLINED, NOT_SERVED, ORDER, OUT_OF_STOCK, UNREACHABLE, MemoryLab, memory_lab
from tests.services.parts import eventually, free_port
from tests.telemetry.walker import OURS as OUR_ATTRIBUTES
from tests.telemetry.walker import known_attributes, plain, problems, traces

BODIES = (ORDER, OUT_OF_STOCK, DECLINED, NOT_SERVED, UNREACHABLE)
RUN = {"baggage": "lab.run_id=run-1"}
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


@asynccontextmanager
async def running(folder: Path, shape: str) -> AsyncIterator[tuple[MemoryLab, str]]:
    """A lab in that shape, and its metrics' address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_ADMIN_PORT", str(port := free_port()))
        patch.setattr(consumer, "MAX_BACKOFF_S", 0.01)
        async with memory_lab(folder, {"trace.shape": shape, "messaging.max_attempts": "2"}) as lab:
            yield lab, f"http://127.0.0.1:{port}/metrics"


async def everything(lab: MemoryLab) -> None:
    """Each kind of order in each style, and all that can go wrong with one."""
    for style in STYLES:
        for body in BODIES:
            answer = await lab.place(body, style, **RUN)
            await lab.client.get(answer.headers["location"], params={"wait_s": 10})
    for refused in ({}, {**ORDER, "lines": []}):
        assert (await lab.place(refused, "choreography")).status_code == 422
    assert (await lab.client.get("/orders/nobody")).status_code == 404
    assert (await lab.client.get("/nowhere")).status_code == 404
    await _conversation_that_breaks_off(lab)
    await _handler_that_fails(lab)
    await _message_that_comes_twice(lab)
    await _looking_back(lab)
    await lab.spans()


async def _looking_back(lab: MemoryLab) -> None:
    """A dead letter that is put back, and a journal that is read again."""
    broker, (letter, *_) = lab.orders.process.brokers["memory"], lab.orders.process.network.dead_letters
    assert await broker.settle_dead_letter(letter.channel, letter.group, letter.id, replay=True)
    ledger = f"http://127.0.0.1:{lab.participants['ledger'].admin_port}"
    async with httpx.AsyncClient(base_url=ledger, trust_env=False) as client:
        assert (await client.get("/history/nobody")).status_code == 404


async def _conversation_that_breaks_off(lab: MemoryLab) -> None:
    network = lab.orders.process.network
    server = network.servers.pop("shipping")
    answer = await lab.place(ORDER, "request_response", **RUN)
    assert answer.status_code == 503
    network.servers["shipping"] = server
    where = answer.json()["order"]
    assert (await lab.client.get(where, params={"wait_s": 10})).json()["state"] == "rejected"


async def _handler_that_fails(lab: MemoryLab) -> None:
    """A message that is tried again, and given up."""
    store, letters = lab.orders.store, lab.orders.process.network.dead_letters
    record, given_up = store.record, len(letters)

    async def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("out of ink")

    store.record = fail  # type: ignore[method-assign]
    await lab.place(OUT_OF_STOCK, "choreography", **RUN)
    await eventually(lambda: len(letters) > given_up, "the message is given up")
    store.record = record  # type: ignore[method-assign]


async def _message_that_comes_twice(lab: MemoryLab) -> None:
    broker = lab.orders.process.brokers["memory"]
    publish = broker.publish

    async def twice(headers: Any, body: bytes, **where: Any) -> None:
        await publish(headers, body, **where)
        await publish(headers, body, **where)

    broker.publish = twice  # type: ignore[method-assign]
    answer = await lab.place(OUT_OF_STOCK, "choreography", **RUN)
    await lab.client.get(answer.headers["location"], params={"wait_s": 10})
    await lab.spans()
    broker.publish = publish  # type: ignore[method-assign]


@pytest.mark.parametrize("shape", list(Shape))
async def test_every_span_keeps_to_the_conventions(tmp_path: Path, shape: Shape) -> None:
    """Names, kinds, required attributes, errors, links and parents; every span that began has ended."""
    started, ended = _spans_counted()
    async with running(tmp_path, shape) as (lab, _):
        await everything(lab)
        exporter = lab.exporter
    spans = [plain(span) for span in exporter.get_finished_spans()]
    assert problems(spans, shape) == []
    started_since, ended_since = (now - before for now, before in zip(_spans_counted(), (started, ended), strict=True))
    assert started_since == ended_since >= len(spans) > 250
    kinds = {(span["attributes"].get(c.OPERATION_TYPE) or span["attributes"].get(c.LAB_WAIT)) for span in spans}
    assert kinds >= {"send", "process", "settle", "queue", "outbox"}
    assert {span["service"] for span in spans} == {process.service for process in lab.processes}
    assert sum(span["status"] == "ERROR" for span in spans) >= 4
    used = {key for span in spans for key in span["attributes"] if key.startswith("lab.")}
    brokers = {key for key in OUR_ATTRIBUTES if key.startswith(("lab.redis.", "lab.sqs."))}
    assert OUR_ATTRIBUTES - used == {c.LAB_CLOCK_SKEW} | brokers, "each of ours is used by such a run"
    assert (traces(spans) > 250) == (shape is Shape.LINK)


def _spans_counted() -> tuple[float, float]:
    """How many spans this process began and ended, of all services."""
    totals = dict.fromkeys(("otel_sdk_span_started_total", "lab_spans_ended_total"), 0.0)
    for family in REGISTRY.collect():
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += sample.value
    started, ended = totals.values()
    return started, ended


# --- the walker itself ----------------------------------------------------------------------------------------------
def _good() -> list[dict[str, Any]]:
    """A message that is sent, waits, and is handled and settled: four spans in shape ``both``."""
    common = {c.LAB_ORDER_ID: "o-1", c.LAB_STYLE: "choreography", c.LAB_TRANSPORT: "memory", c.MESSAGE_ID: "m-1"}
    messaging = {**common, c.MESSAGING_SYSTEM: "memory", c.DESTINATION_NAME: "orders.events"}
    producer = {c.LAB_PRODUCER_TRACE_ID: "t", c.LAB_PRODUCER_SPAN_ID: "1", c.LAB_PRODUCER_SERVICE: "orders"}

    def span(number: int, name: str, kind: str, parent: int | None, **attributes: Any) -> dict[str, Any]:
        ids = {"trace_id": "t", "span_id": str(number), "parent_span_id": str(parent) if parent else None}
        told = {"name": name, "kind": kind, "service": "inventory", "start_ns": 1, "end_ns": 2, "status": "UNSET"}
        return {**ids, **told, "attributes": attributes, "links": []}

    def operation(name: str) -> dict[str, str]:
        return {c.OPERATION_NAME: name, c.OPERATION_TYPE: "settle" if name == "ack" else name}

    process = {
        **messaging,
        **operation("process"),
        **producer,
        c.CONSUMER_GROUP: "inventory",
        c.LAB_DELIVERY_ATTEMPT: 1,
    }
    spans = [
        span(1, "send orders.events", "PRODUCER", None, **messaging, **operation("send")),
        span(
            *(2, "queue orders.events", "INTERNAL", 1),
            **{**common, **producer, c.LAB_WAIT: "queue", c.DESTINATION_NAME: "orders.events"},
        ),
        span(3, "process orders.events", "CONSUMER", 1, **process),
        span(4, "ack orders.events", "CLIENT", 3, **messaging, **operation("ack")),
    ]
    spans[2]["links"] = [{"trace_id": "t", "span_id": "1"}]
    return spans


def test_the_walker_finds_nothing_wrong_with_what_is_right() -> None:
    assert problems(_good(), "both") == []


WRONG = {
    # what is changed in which span: what the walker must say
    "an unknown attribute": (2, "attributes", {"colour": "green"}, "has colour, which the semantic conventions"),
    "contrib's old name": (2, "attributes", {"messaging.operation": "receive"}, "have deprecated"),
    "another old name": (2, "attributes", {"net.peer.name": "x"}, "have deprecated"),
    "an attribute of ours that is not ours": (2, "attributes", {"lab.colour": "green"}, "conventions.py does not name"),
    "an empty attribute": (2, "attributes", {c.MESSAGE_ID: ""}, "without a value"),
    "no style": (2, "attributes", {c.LAB_STYLE: ...}, "lacks lab.style"),
    "no system": (0, "attributes", {c.MESSAGING_SYSTEM: ...}, "lacks messaging.system"),
    "no group": (2, "attributes", {c.CONSUMER_GROUP: ...}, "lacks messaging.consumer.group.name"),
    "an error that says nothing": (3, "status", "ERROR", "is an error without error.type"),
    "an error that is none": (3, "attributes", {c.ERROR_TYPE: "ValueError"}, "but is no error"),
    "a wrong name": (0, "name", "orders.events send", "should be called 'send orders.events'"),
    "a wrong kind": (2, "kind", "CLIENT", "process is CONSUMER"),
    "a wait of a wrong kind": (1, "kind", "CONSUMER", "queue is INTERNAL"),
    "a kind for nothing": (3, "attributes", {c.OPERATION_TYPE: ...}, "neither messaging, RPC nor HTTP"),
    "a batch of one": (3, "attributes", {c.BATCH_MESSAGE_COUNT: 1}, "is a batch of one"),
    "a batch with a parent": (3, "attributes", {c.BATCH_MESSAGE_COUNT: 2}, "is a batch, but has a parent"),
    "an orphan": (3, "parent_span_id", "9", "is an orphan"),
    "a link to nowhere": (3, "links", [{"trace_id": "t", "span_id": "9"}], "links to a span that was not exported"),
    "no link": (2, "links", [], "has 0 links; in shape both it has 1"),
    "no end": (2, "end_ns", None, "has not ended"),
    "an end before the beginning": (2, "end_ns", 0.5, "ends before it begins"),
    "the same span twice": (3, "span_id", "3", "share their ids"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_walker_finds_what_is_wrong(case: str) -> None:
    number, member, change, says = WRONG[case]
    spans = copy.deepcopy(_good())
    if isinstance(change, dict):
        changed = {**spans[number][member], **change}
        spans[number][member] = {key: value for key, value in changed.items() if value is not ...}
    else:
        spans[number][member] = change
    found = problems(spans, "both")
    assert any(says in each for each in found), found or "nothing found"


@pytest.mark.parametrize("shape", ["link", "parent"])
def test_the_walker_knows_the_shapes(shape: str) -> None:
    """What is right in one is wrong in another."""
    assert problems(_good(), shape)


def test_the_conventions_are_read_with_what_they_have_deprecated() -> None:
    known = known_attributes()
    assert len(known) > 800
    assert sum(not current for current in known.values()) > 200
    assert known["messaging.operation.type"]
    assert known["http.route"]
    assert not known["messaging.operation"]
    assert not known["messaging.kafka.message.offset"]
    assert "messaging.wisdom" not in known


# --- metrics ----------------------------------------------------------------------------------------------------------
OURS = {value for name, value in vars(c).items() if name.startswith("METRIC_")}
FOREIGN = re.compile(
    "python_gc_.*|python_info|process_.*"  # prometheus-client's own
    "|otel_sdk_.*|target"  # the SDK's internal metrics and its resource
    "|http_server_(request_duration_seconds|active_requests|(request|response)_body_size_bytes)"  # contrib, asgi
    "|http_client_request_duration_seconds"  # contrib, httpx
)
LABELS = {value for name, value in vars(c).items() if name.startswith("LABEL_")} | {"le"}
AN_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-|[0-9a-f]{16}")


async def test_every_metric_keeps_to_the_conventions(tmp_path: Path) -> None:
    """The exposition is valid OpenMetrics; names, units, buckets and labels are those of the conventions; no label
    holds an id; histograms carry exemplars that lead to spans."""
    async with running(tmp_path, "both") as (lab, address):
        await everything(lab)
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            answer = await client.get(address, headers=OPENMETRICS)
        exporter = lab.exporter
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    unknown = {name for name in families if name not in OURS and not FOREIGN.fullmatch(name)}
    assert unknown == set()
    assert OURS - set(families) <= {c.METRIC_BAD_CONTEXT}, "each of our metrics is used by such a run"
    span_ids = {(f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}") for s in exporter.get_finished_spans()}
    led = set()
    families.pop("target")  # the SDK's resource, which has its own id
    for name, family in families.items():
        for sample in family.samples:
            assert not any(AN_ID.search(value) for value in sample.labels.values()), sample
            assert not {"order_id", "message_id", "trace_id", "customer"} & set(sample.labels)
            if sample.exemplar and name in OURS:
                span = (sample.exemplar.labels["trace_id"], sample.exemplar.labels["span_id"])
                assert re.fullmatch("[0-9a-f]{32}/[0-9a-f]{16}", "/".join(span))
                led |= {name} if span in span_ids else set()
        if name in OURS:
            assert {label for sample in family.samples for label in sample.labels} <= LABELS, name
            assert (family.type == "histogram") == name.endswith("_duration_seconds"), name
            assert family.type in {"histogram", "counter", "gauge"}
            assert not name.endswith(("_total", "_ms", "_milliseconds", "_count"))
            if family.type == "histogram":
                buckets = {sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")}
                assert {float(le) for le in buckets} == {*c.DURATION_BUCKETS_S, float("inf")}
    histograms = {name for name in OURS if name.endswith("_duration_seconds")}
    assert histograms <= led, "each leads from its buckets to a span of this run"


async def test_the_queue_metric_has_an_edge_for_every_arrow_of_the_conversation(tmp_path: Path) -> None:
    """Its count is the edge of a service graph that links make as well as parents."""
    before = _edges()
    async with running(tmp_path, "link") as (lab, _):
        await lab.finished(ORDER, "choreography")
        await lab.spans()
        await asyncio.sleep(0)
    edges = {edge: count - before[edge] for edge, count in _edges().items()}
    assert {edge for edge, count in edges.items() if count} == {
        ("orders", "inventory"),
        *(("inventory", hearer) for hearer in ("orders", "payment")),
        *(("payment", hearer) for hearer in ("orders", "shipping", "inventory")),
        *(("shipping", hearer) for hearer in ("orders", "notifications", "payment")),
        *(("notifications", hearer) for hearer in ("orders", "shipping")),
    }
    assert set(edges.values()) <= {0, 1}


def _edges() -> Counter[tuple[str, str]]:
    """Messages by who sent and who heard them, on whatever channel."""
    edges: Counter[tuple[str, str]] = Counter()
    for family in REGISTRY.collect():
        for sample in family.samples:
            if sample.name == f"{c.METRIC_QUEUE_DURATION}_count":
                edges[sample.labels[c.LABEL_SOURCE], sample.labels[c.LABEL_SERVICE]] += int(sample.value)
    return edges
