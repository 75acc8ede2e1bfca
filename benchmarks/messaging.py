"""What the adapters and our spans cost: ``python -m benchmarks.messaging [rabbitmq|kafka …]``.

One process publishes and consumes the same messages in four ways: by the bare client library and by the adapter, each
with tracing off (no-op) and on: contrib's instrumentation of the client, our spans in the adapter. Headers, confirms,
prefetch and commits are the same. Spans go through a batch processor to an exporter that only counts them, so that it
is the making of spans that is compared. Rounds are interleaved, figures are medians; throughput suffers from whatever
else the machine does, CPU time less. Servers: ``LAB_RABBITMQ_URL``, ``LAB_KAFKA_BOOTSTRAP``, else started for it.
"""

import asyncio
import gc
import logging
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor
from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracerProvider

from lab.targets.local.ports import free_block
from lab.targets.local.servers import ENTRIES
from lab.targets.local.target import LocalTarget
from services.domain.messages import Line, Order, OrderPlaced
from services.telemetry.setup import Telemetry, set_up
from services.transports import cloudevents
from services.transports.messaging import kafka, rabbitmq
from services.transports.ports import Broker, Wiring

VARIABLES = {"rabbitmq": "LAB_RABBITMQ_URL", "kafka": "LAB_KAFKA_BOOTSTRAP"}
MESSAGES = 1500
WARM_UP = 200
PUBLISHERS = 16
IN_FLIGHT = 16
ROUNDS = 9
ORDER = Order("o-1", "c-1", "4242424242424242", "Lisbon", (Line("tea", 2), Line("cup", 1)), 4200)

Publish = Callable[[int], Awaitable[None]]


class Counting(SpanExporter):
    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


@dataclass
class Way:
    """One way to publish and consume ``count`` messages over a channel of its own."""

    name: str
    run: Callable[[str, int], Awaitable[None]]
    exporter: Counting
    flush: Callable[[], object] = lambda: None
    wrap: Callable[[bool], None] = lambda _: None

    def __post_init__(self) -> None:
        self.rate: list[float] = []
        self.cpu_us: list[float] = []
        self.spans: list[float] = []


def message(number: int) -> tuple[dict[str, str], bytes]:
    composed = cloudevents.compose(
        OrderPlaced(ORDER), source="orders", cause=str(number), style="choreography", transport="x"
    )
    return cloudevents.encode(composed)


def headers_of(number: int) -> dict[str, str]:
    return {**MESSAGE[0], "ce-id": str(number)}


MESSAGE = message(0)


async def publish_all(publish: Publish, count: int) -> None:
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await publish(number)

    await asyncio.gather(*(some() for _ in range(PUBLISHERS)))


# --- the bare client libraries, used as their documentation does -------------------------------------------------
async def bare_rabbitmq(channel: str, count: int) -> None:
    queue_name = f"payment.{channel}"
    connection = await aio_pika.connect(os.environ["LAB_RABBITMQ_URL"])
    async with connection:
        publishing = await connection.channel(on_return_raises=True)
        exchange = await publishing.declare_exchange("antiphon", aio_pika.ExchangeType.TOPIC, durable=True)
        consuming = await connection.channel()
        await consuming.set_qos(prefetch_count=IN_FLIGHT)
        queue = await consuming.get_queue(queue_name)
        done, left = asyncio.Event(), count

        async def consume(delivered: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal left
            await delivered.ack()
            left -= 1
            if not left:
                done.set()

        tag = await queue.consume(consume)

        async def publish(number: int) -> None:
            sent = headers_of(number)
            sent["sent-at"] = str(time.time_ns())
            await exchange.publish(
                aio_pika.Message(
                    MESSAGE[1],
                    headers={"cloudEvents:" + n[3:]: v for n, v in sent.items() if n != "content-type"},
                    content_type=sent["content-type"],
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    correlation_id="o-1",
                    message_id=sent["ce-id"],
                    type=sent["ce-type"],
                    app_id=sent["ce-source"],
                    timestamp=time.time(),
                ),
                f"{channel}.order.placed",
                mandatory=True,
                timeout=5,
            )

        await publish_all(publish, count)
        await done.wait()
        await queue.cancel(tag)


async def bare_kafka(channel: str, count: int) -> None:
    where = os.environ["LAB_KAFKA_BOOTSTRAP"]
    producer = AIOKafkaProducer(bootstrap_servers=where, enable_idempotence=True, acks="all")
    consumer = AIOKafkaConsumer(
        channel,
        bootstrap_servers=where,
        group_id=f"payment.{channel}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await producer.start()
    await consumer.start()
    progress = asyncio.Event()
    offsets: dict[Any, int] = {}

    async def commit() -> None:
        while True:
            await progress.wait()
            progress.clear()
            await consumer.commit(dict(offsets))

    async def consume() -> None:
        left = count
        while left:
            polled = await consumer.getmany(timeout_ms=1000, max_records=IN_FLIGHT)
            for partition, records in polled.items():
                for record in records:
                    left -= 1
                    offsets[partition] = record.offset + 1
            if polled:
                progress.set()

    async def publish(number: int) -> None:
        sent = headers_of(number)
        sent["sent-at"] = str(time.time_ns())
        headers = [(n.replace("ce-", "ce_", 1), v.encode()) for n, v in sent.items()]
        await asyncio.wait_for(producer.send_and_wait(channel, MESSAGE[1], b"o-1", headers=headers), 5)

    committing = asyncio.create_task(commit())
    await asyncio.gather(publish_all(publish, count), consume())
    committing.cancel()
    await consumer.commit(offsets)
    await consumer.stop()
    await producer.stop()


# --- the adapters, settling as the runtime does ------------------------------------------------------------------
def adapter(make: Callable[[Wiring], Broker], telemetry: Telemetry) -> Callable[[str, int], Awaitable[None]]:
    servers = {name: os.environ[variable] for name, variable in VARIABLES.items() if variable in os.environ}
    traced = not isinstance(telemetry.provider, NoOpTracerProvider)

    async def run(channel: str, count: int) -> None:
        broker = make(Wiring("payment", telemetry, servers=servers))
        await broker.open({channel: frozenset({"payment"})})

        async def consume() -> None:
            left = count
            async for delivery in broker.subscribe(channel, "payment", max_in_flight=IN_FLIGHT):
                if traced:
                    with telemetry.messaging.process(
                        broker.words,
                        delivery.destination or delivery.channel,
                        delivery.group,
                        delivery.headers,
                        attempt=delivery.attempt,
                        attributes=delivery.attributes,
                        received_with=delivery.received_with,
                        released_at_ns=delivery.released_at_ns,
                    ):
                        await delivery.ack()
                else:
                    await delivery.ack()
                left -= 1
                if not left:
                    return

        async def publish(number: int) -> None:
            await broker.publish(headers_of(number), MESSAGE[1], channel=channel, key="o-1")

        await asyncio.gather(publish_all(publish, count), consume())
        await broker.close()

    return run


def no_tracing() -> Telemetry:
    return Telemetry("payment", NoOpTracerProvider())  # type: ignore[arg-type]


def ours() -> tuple[Telemetry, Counting]:
    telemetry, exporter = set_up("payment"), Counting()
    telemetry.provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=100_000))
    return telemetry, exporter


def contrib(instrumentor: Any) -> tuple[Callable[[bool], None], Callable[[], object], Counting]:
    provider, exporter = TracerProvider(shutdown_on_exit=False), Counting()
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=100_000))

    def wrap(on: bool) -> None:
        if on:
            instrumentor.instrument(tracer_provider=provider)
        else:
            instrumentor.uninstrument()

    return wrap, provider.force_flush, exporter


def ways(transport: str) -> list[Way]:
    bare, make, instrumentor = {
        "rabbitmq": (bare_rabbitmq, rabbitmq.RabbitMQ, AioPikaInstrumentor()),
        "kafka": (bare_kafka, kafka.Kafka, AIOKafkaInstrumentor()),
    }[transport]
    telemetry, exporter = ours()
    wrap, flush, contribs = contrib(instrumentor)
    return [
        Way("client", bare, Counting()),
        Way("adapter", adapter(make, no_tracing()), Counting()),
        Way("client + contrib", bare, contribs, flush, wrap),
        Way("adapter + ours", adapter(make, telemetry), exporter, telemetry.provider.force_flush),
    ]


async def measure(way: Way, channel: str, count: int) -> None:
    way.wrap(True)  # noqa: FBT003
    try:
        gc.collect()
        before = way.exporter.spans
        wall, cpu = time.perf_counter(), time.process_time()
        await way.run(channel, count)
        way.flush()
        way.rate.append(count / (time.perf_counter() - wall))
        way.cpu_us.append((time.process_time() - cpu) / count * 1e6)
        way.spans.append((way.exporter.spans - before) / count)
    finally:
        way.wrap(False)  # noqa: FBT003


async def compare(transport: str) -> None:
    channel = f"bench-{uuid.uuid4().hex[:8]}.events"
    setting_up = ways(transport)[1]
    await setting_up.run(channel, WARM_UP)
    tried = ways(transport)
    for way in tried:
        await measure(way, channel, WARM_UP)
        way.__post_init__()
    for number in range(ROUNDS):
        for way in tried if number % 2 else reversed(tried):
            await measure(way, channel, MESSAGES)
    report(transport, tried)


def report(transport: str, tried: list[Way]) -> None:
    client, bare_adapter, with_contrib, with_ours = tried
    print(f"\n{transport}: {MESSAGES} messages, {ROUNDS} rounds, medians")
    print(f"{'':18}{'messages/s':>12}{'CPU µs/message':>16}{'spans/message':>15}")
    for way in tried:
        print(f"{way.name:18}{middle(way.rate):12.0f}{middle(way.cpu_us):16.0f}{middle(way.spans):15.2f}")
    # of each round by itself, so that what else the machine did falls on both
    rate = middle([a / b for a, b in zip(bare_adapter.rate, client.rate, strict=True)])
    cpu = middle([a / b for a, b in zip(client.cpu_us, bare_adapter.cpu_us, strict=True)])
    theirs = middle([a - b for a, b in zip(with_contrib.cpu_us, client.cpu_us, strict=True)])
    own = middle([a - b for a, b in zip(with_ours.cpu_us, bare_adapter.cpu_us, strict=True)])
    their_spans, own_spans = middle(with_contrib.spans), middle(with_ours.spans)
    print(f"adapter / client, tracing off: throughput {rate:.2f}, by CPU {cpu:.2f}  (goal ≥ 0.9)")
    print(f"tracing a message: contrib {theirs:.0f} µs, ours {own:.0f} µs: {own / theirs:.2f}  (goal ≤ 1.5)")
    print(
        f"tracing a span: contrib {theirs / their_spans:.0f} µs, ours {own / own_spans:.0f} µs: "
        f"{own / own_spans / (theirs / their_spans):.2f}  (goal ≤ 0.8)"
    )


def middle(figures: list[float]) -> float:
    return statistics.median(figures)


def main(arguments: list[str]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with ExitStack() as cleanup:
        for name in arguments or VARIABLES:
            if VARIABLES[name] not in os.environ:
                os.environ[VARIABLES[name]] = start(name, cleanup)
            asyncio.run(compare(name))


def start(name: str, cleanup: ExitStack) -> str:
    """A server of our own, in a folder and on ports of its own; gives its address."""
    ports = cleanup.enter_context(free_block())
    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix=f"antiphon-{name}-"))
    target = LocalTarget(Path(folder, "state"), tied=True, entries={name: ENTRIES[name]})
    cleanup.callback(target.down)
    target.up([name], port_base=ports.base)
    return target.rabbitmq_url if name == "rabbitmq" else ports.address(name)


if __name__ == "__main__":
    main(sys.argv[1:])
