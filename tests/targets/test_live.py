"""The real servers, from the machine or the cache, on ports and in folders of their own."""

import asyncio
import time
from pathlib import Path

import aio_pika
import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from lab.targets import LabError
from lab.targets.local.paths import cache_root
from lab.targets.local.ports import OFFSETS, Ports, free_block, is_free
from lab.targets.local.postgres import postgres
from lab.targets.local.state import StateDir, marked
from lab.targets.local.target import LocalTarget

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

SERVERS = ("rabbitmq", "kafka", "jaeger", "prometheus")
QUORUM = {"x-queue-type": "quorum"}


def eventually(check, what, timeout_s=60):
    """Poll until the check gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """All servers, up; an empty home shows what they write where they should not."""
    root = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch, free_block() as ports:
        patch.setenv("XDG_CACHE_HOME", str(cache_root().parent))
        patch.setenv("HOME", str(root / "home"))
        (root / "home").mkdir()
        target = LocalTarget(root / "state", tied=True)
        # a test does not build Jaeger for minutes: with `defer` it is there only if it can be found
        target.up(SERVERS, port_base=ports.base, jaeger="defer")
        yield target
        target.down()


@pytest.fixture
def jaeger(target):
    if "jaeger" not in target.addresses:
        pytest.skip(f"Jaeger is {target.status().notes['jaeger']}")
    return target.addresses["jaeger"]


def test_all_servers_are_ready_and_small(target):
    status = target.status()
    assert status.ready
    assert status.transports["rabbitmq"] == status.transports["kafka"] == "ready"
    assert status.rss_bytes < 1 << 30


def test_prometheus_scrapes_every_server(target):
    def all_up():
        answer = httpx.get(f"{target.addresses['prometheus']}/api/v1/targets").json()
        targets = answer["data"]["activeTargets"]
        return {each["labels"]["job"] for each in targets} if {each["health"] for each in targets} == {"up"} else None

    jobs = eventually(all_up, "all targets are up")
    assert {"rabbitmq", "rabbitmq-queues", "prometheus"} <= jobs


def test_pages_for_people_answer(target):
    for name, path in (("prometheus", "/classic/graph"), ("rabbitmq_management", "/")):
        assert httpx.get(target.addresses[name] + path).status_code == 200


def test_a_span_arrives_in_jaeger_and_its_exemplar_in_prometheus(target, jaeger):
    trace_id = "0123456789abcdef0123456789abcdef"

    def send():
        now = time.time_ns()
        span = {
            "traceId": trace_id,
            "spanId": f"{now & (1 << 63) - 1:016x}",
            "name": "probe",
            "kind": 2,
            "startTimeUnixNano": str(now),
            "endTimeUnixNano": str(now + 1_000_000),
        }
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "probe"}}]}
        httpx.post(
            target.addresses["jaeger_otlp_http"] + "/v1/traces",
            json={"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]},
        ).raise_for_status()

    send()
    found = eventually(lambda: httpx.get(f"{jaeger}/api/traces/{trace_id}").json().get("data"), "the trace is found")
    assert found[0]["spans"][0]["operationName"] == "probe"

    def exemplars():
        send()
        return httpx.get(
            f"{target.addresses['prometheus']}/api/v1/query_exemplars",
            params={
                "query": 'traces_span_metrics_duration_milliseconds_bucket{service_name="probe"}',
                "start": time.time() - 300,
                "end": time.time(),
            },
        ).json()["data"]

    # as labels, so whatever the exporter names them
    assert trace_id in str(eventually(exemplars, "an exemplar is stored"))


async def _fill_kafka(address):
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic("kept", 3, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True)
    await producer.start()
    await asyncio.gather(*[await producer.send("kept", b"%d" % number) for number in range(500)])
    await producer.stop()


async def _drain_kafka(address):
    consumer = AIOKafkaConsumer("kept", bootstrap_servers=address, auto_offset_reset="earliest", group_id="drain")
    await consumer.start()
    got = set()
    async with asyncio.timeout(60):
        while len(got) < 500:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                got |= {int(record.value) for record in records}
    await consumer.stop()
    return got


def test_kafka_comes_back_from_kill_9_with_its_data(target):
    asyncio.run(_fill_kafka(target.addresses["kafka"]))
    target.kill("kafka")
    assert not target.status().ready
    assert target.restart("kafka").ready
    assert asyncio.run(_drain_kafka(target.addresses["kafka"])) == set(range(500))


async def _declare(url):
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments=QUORUM)


async def _fill_rabbitmq(url):
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        for number in range(200):
            message = aio_pika.Message(b"%d" % number, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, "kept")


async def _drain_rabbitmq(url):
    connection = await aio_pika.connect(url)
    got = set()
    async with connection, asyncio.timeout(60):
        channel = await connection.channel()
        queue = await channel.declare_queue("kept", durable=True, arguments=QUORUM)
        while len(got) < 200:
            message = await queue.get(fail=False)
            if message:
                await message.ack()
                got.add(int(message.body))
    return got


def _on_disk(target):
    """RabbitMQ 3.10 writes the names of new queues down up to two seconds late: a kill before that loses them."""
    node = target.state_dir / "data/rabbitmq/lab@localhost"
    return (
        b"kept" in (node / "LATEST.LOG").read_bytes()
        and b"kept" in (node / "quorum/lab@localhost/names.dets").read_bytes()
    )


def test_rabbitmq_comes_back_from_kill_9_with_its_data(target):
    asyncio.run(_declare(target.rabbitmq_url))
    eventually(lambda: _on_disk(target), "the queue is known on disk")
    asyncio.run(_fill_rabbitmq(target.rabbitmq_url))
    target.kill("rabbitmq")
    assert target.restart("rabbitmq").ready
    assert asyncio.run(_drain_rabbitmq(target.rabbitmq_url)) == set(range(200))


def test_rabbitmq_restarts_cleanly_with_its_epmd(target):
    assert target.restart("rabbitmq", "epmd").ready


def test_a_second_lab_runs_beside_the_first(target, tmp_path):
    """Two brokers on one machine: other ports, other epmd, same cache."""
    with free_block() as ports:
        other = LocalTarget(tmp_path / "state", tied=True)
        try:
            assert other.up(["rabbitmq"], port_base=ports.base).ready
            assert other.addresses["rabbitmq"] != target.addresses["rabbitmq"]
        finally:
            other.down()
    assert target.status().ready


def test_postgres_runs_whoever_we_are(tmp_path):
    async def answer(url):
        connection = await asyncpg.connect(url.replace("+asyncpg", "") + "shop")
        try:
            return await connection.fetchval("select 6 * 7")
        finally:
            await connection.close()

    with free_block() as ports:
        for _ in range(2):  # the second time with the data of the first
            with postgres(tmp_path / "state", ports["postgres"], ["shop"]) as url:
                assert asyncio.run(answer(url)) == 42
        assert is_free(ports["postgres"])


def test_down_leaves_no_process_no_port_and_no_file_elsewhere(target):
    ports = Ports(StateDir(target.state_dir).load().port_base)
    target.down()
    assert marked(StateDir(target.state_dir).mark) == {}
    assert all(is_free(ports[name]) for name in OFFSETS)
    assert list(Path.home().iterdir()) == []
    with pytest.raises(LabError, match="lab up starts it"):
        target.status()
