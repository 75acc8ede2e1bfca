"""How much the span store takes in, and how quickly it joins an order.

    python benchmarks/span_store.py [--spans 100000] [--stored 1000000] [--clients 4]

Spans are those of choreography over RabbitMQ: 31 to an order, about 10 attributes each, a link on every second one,
512 to a payload; spans of one order are spread over neighbouring payloads, as services export on their own. Figures:
in process (decode, index, commit), over HTTP (a real ``python -m lab.spans``; with and without forwarding to a sink),
the time to join all traces of one order among ``--stored`` spans, and a run's summary. CPU seconds are the store's own
process and the best of ``--repeat`` runs; on a busy machine they grow too (caches, sibling threads), wall-clock
figures far more.
"""

import argparse
import contextlib
import http.server
import multiprocessing
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from lab.spans.ingest import Export, SpanWriter
from lab.spans.queries import Questions
from services.telemetry import conventions as names

PAYLOAD = 512
SERVICES = ("orders", "inventory", "payment", "shipping", "notifications")
HEADERS = {"content-type": "application/x-protobuf"}
_START_NS = 1_795_000_000_000_000_000


def order_spans(number: int, run_id: str, shape: str) -> list[tuple[str, Span]]:
    """The 31 spans of an order that passes through five services and comes back: (service, span)."""
    dice = random.Random(f"{run_id}/{number}")
    order_id = f"{dice.getrandbits(128):032x}"
    now = _START_NS + number * 10_000_000
    trace_id = dice.randbytes(16)
    found: list[tuple[str, Span]] = []

    def add(service: str, name: str, kind: int, start: int, end: int, parent: Span | None, **more: str) -> Span:
        span = Span(
            trace_id=parent.trace_id if parent is not None else trace_id,
            span_id=dice.randbytes(8),
            parent_span_id=parent.span_id if parent is not None else b"",
            name=name,
            kind=kind,
            start_time_unix_nano=start,
            end_time_unix_nano=end,
            flags=0x301,
        )
        values = {
            names.LAB_ORDER_ID: order_id,
            names.LAB_RUN_ID: run_id,
            names.LAB_STYLE: "choreography",
            names.LAB_TRANSPORT: "rabbitmq",
            **{key.replace("__", "."): value for key, value in more.items()},
        }
        for key, value in values.items():
            span.attributes.add(key=key).value.string_value = value
        found.append((service, span))
        return span

    def message(channel: str, operation: str, message_id: str) -> dict[str, str]:
        return {
            names.MESSAGING_SYSTEM: "rabbitmq",
            names.OPERATION_NAME: operation,
            names.OPERATION_TYPE: operation,
            names.DESTINATION_NAME: channel,
            names.MESSAGE_ID: message_id,
        }

    ms = 1_000_000
    above = add("orders", "POST /orders", Span.SPAN_KIND_SERVER, now, now + 5 * ms, None, http__route="/orders")
    for hop, service in enumerate((*SERVICES[1:], "orders", *SERVICES[1:2])):
        source = above
        sender = (*SERVICES, "orders")[hop]
        channel = f"{sender}.events"
        message_id = f"{dice.getrandbits(128):032x}"
        now += 2 * ms
        wait = add(sender, f"outbox {sender}", Span.SPAN_KIND_INTERNAL, now, now + ms, source, lab__wait="outbox")
        sent = add(sender, f"publish {channel}", Span.SPAN_KIND_PRODUCER, now + ms, now + 2 * ms, wait,
                   **message(channel, "send", message_id))  # fmt: skip
        parent = None if shape == "link" else sent
        if shape == "link":
            trace_id = dice.randbytes(16)
        above = add(service, f"process {channel}", Span.SPAN_KIND_CONSUMER, now + 5 * ms, now + 12 * ms, parent,
                    **message(channel, "process", message_id),
                    **{names.LAB_PRODUCER_TRACE_ID: sent.trace_id.hex(), names.LAB_PRODUCER_SPAN_ID: sent.span_id.hex(),
                       names.LAB_PRODUCER_SERVICE: sender})  # fmt: skip
        above.links.add(trace_id=sent.trace_id, span_id=sent.span_id)
        above.attributes.add(key=names.LAB_DELIVERY_ATTEMPT).value.int_value = 1
        held = add(service, f"queue {channel}", Span.SPAN_KIND_INTERNAL, now + ms, now + 5 * ms, parent or above,
                   lab__wait="queue", **{names.DESTINATION_NAME: channel, names.MESSAGE_ID: message_id})  # fmt: skip
        held.links.add(trace_id=sent.trace_id, span_id=sent.span_id)
        add(service, f"ack {channel}", Span.SPAN_KIND_CLIENT, now + 11 * ms, now + 12 * ms, above,
            **message(channel, "settle", message_id))  # fmt: skip
        if hop == len(SERVICES) - 1:
            above.attributes.add(key=names.LAB_ORDER_STATE).value.string_value = "completed"
        now += 10 * ms
    return found


def payloads(orders: int, run_id: str, shape: str = "both") -> Iterator[bytes]:
    """The orders' spans as exports of 512; forty orders are under way at a time."""
    waiting: dict[str, list[Span]] = {service: [] for service in SERVICES}
    for number in range(orders):
        for service, span in order_spans(number, run_id, shape):
            waiting[service].append(span)
        for service, spans in waiting.items():
            while len(spans) >= PAYLOAD:
                yield _export(service, spans[:PAYLOAD])
                del spans[:PAYLOAD]
    for service, spans in waiting.items():
        if spans:
            yield _export(service, spans)


def _export(service: str, spans: list[Span]) -> bytes:
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    for key, value in {
        "service.name": service,
        "service.namespace": "antiphon",
        "telemetry.sdk.language": "python",
    }.items():
        resource_spans.resource.attributes.add(key=key).value.string_value = value
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "antiphon"
    scope_spans.spans.extend(spans)
    return request.SerializeToString()


def in_process(folder: Path, bodies: list[bytes], spans: int, repeat: int, *, forwarded: bool) -> None:
    """Decode, index and commit in this process, four payloads to a transaction."""
    best_cpu = best_wall = float("inf")
    for number in range(repeat):
        writer = SpanWriter(folder / f"in-process-{forwarded}-{number}.db", forwarded=forwarded)
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(bodies), 4):
            writer.store([Export(body, body, "") for body in bodies[start : start + 4]])
        best_cpu = min(best_cpu, time.process_time() - cpu)
        best_wall = min(best_wall, time.perf_counter() - wall)
        writer.close()
    note = ", payloads queued for forwarding" if forwarded else ""
    print(f"in process{note}: {figures(spans, best_cpu, best_wall)}")


def figures(spans: int, cpu: float, wall: float) -> str:
    return (
        f"{spans / cpu:,.0f} spans per CPU second ({cpu / spans * 1e6:.1f} µs each), {spans / wall:,.0f} spans/s wall"
    )


class _Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _sink(port: int) -> None:
    http.server.ThreadingHTTPServer(("127.0.0.1", port), _Sink).serve_forever()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def store_process(database: Path, forward: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """A real store on a free port: its address and process."""
    port = free_port()
    environment = os.environ | {"LAB_SPANS_PORT": str(port), "LAB_SPANS_DATABASE": str(database),
                                "LAB_SPANS_FORWARD": forward}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "lab.spans"], env=environment, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{address}/readyz").is_success:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the span store did not start (exit code {process.poll()})")
            time.sleep(0.05)
        yield address, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def over_http(folder: Path, bodies: list[bytes], spans: int, clients: int, repeat: int, *, forwarded: bool) -> None:
    """A real store; its process's CPU seconds count until the last payload is also forwarded."""
    best_cpu = best_wall = slowest_s = float("inf")
    resident = 0.0
    for number in range(repeat):
        with (
            sink() if forwarded else contextlib.nullcontext("") as forward,
            store_process(folder / f"http-{forwarded}-{number}.db", forward) as (address, process),
            httpx.Client(timeout=60) as client,
            ThreadPoolExecutor(clients) as pool,
        ):
            before = sum(process.cpu_times()[:2])
            probe = _Probe(address)
            wall = time.perf_counter()

            def post(body: bytes, client: httpx.Client = client, address: str = address) -> None:
                client.post(f"{address}/v1/traces", content=body, headers=HEADERS).raise_for_status()

            list(pool.map(post, bodies))
            best_wall = min(best_wall, time.perf_counter() - wall)
            slowest_s = min(slowest_s, probe.stop())
            while forwarded and client.get(f"{address}/stats").json()["forward"][0]["queued_payloads"]:
                time.sleep(0.05)
            best_cpu = min(best_cpu, sum(process.cpu_times()[:2]) - before)
            resident = max(resident, process.memory_info().rss / 2**20)
    note = " and forwarded" if forwarded else ""
    print(
        f"over HTTP{note}: {figures(spans, best_cpu, best_wall)} with {clients} clients; "
        f"slowest /healthz meanwhile {slowest_s * 1e3:.0f} ms; {resident:.0f} MiB resident"
    )


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """An OTLP address in a process of its own."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_sink, args=(port,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join()


class _Probe:
    """Asks /healthz every 20 ms and remembers the slowest answer."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._over = threading.Event()
        self._slowest = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._over.wait(0.02):
                began = time.perf_counter()
                client.get(f"{self._address}/healthz")
                self._slowest = max(self._slowest, time.perf_counter() - began)

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self._slowest


def joins(folder: Path, stored: int) -> None:
    database = folder / "large.db"
    writer = SpanWriter(database, forwarded=False)
    began = time.perf_counter()
    flows = 8
    orders = stored // 31 // flows
    for flow in range(flows):
        for body in payloads(orders, f"run-{flow}", "link" if flow % 2 else "both"):
            writer.store([Export(body, body, "")])
    writer.close()
    questions = Questions(database)
    total = questions.stats().stored
    print(f"{total:,} spans stored in {time.perf_counter() - began:.0f} s (their making included), "
          f"{database.stat().st_size / total:.0f} bytes each")  # fmt: skip
    with store_process(database) as (address, process), httpx.Client(timeout=120) as client:
        for shape, flow in (("both", 0), ("link", 1)):
            for what, path in (("joined", ""), ("critical path", "/critical-path")):
                times, here = [], []
                for number in random.Random(1).sample(range(orders), 40):
                    order_id = f"{random.Random(f'run-{flow}/{number}').getrandbits(128):032x}"
                    began = time.perf_counter()
                    answer = client.get(f"{address}/orders/{order_id}{path}")
                    times.append((time.perf_counter() - began) * 1e3)
                    assert len(answer.json()["segments" if path else "spans"]) == (21 if path else 31)
                    began = time.perf_counter()
                    (questions.critical_path if path else questions.order)(order_id)
                    here.append((time.perf_counter() - began) * 1e3)
                print(
                    f"one order {what}, shape {shape}: over HTTP median {statistics.median(times):.1f} ms, fastest "
                    f"{min(times):.1f}, slowest of 40 {max(times):.1f}; in process {statistics.median(here):.1f} ms"
                )
        for shape, flow in (("both", 0), ("link", 1)):
            before, began = sum(process.cpu_times()[:2]), time.perf_counter()
            answer = client.get(f"{address}/runs/run-{flow}/summary").json()["flows"][0]
            wall = time.perf_counter() - began
            print(
                f"summary of a run of {answer['orders']:,} orders, {answer['spans']:,} spans, shape {shape}: "
                f"{wall:.2f} s ({sum(process.cpu_times()[:2]) - before:.2f} CPU seconds); store at "
                f"{process.memory_info().rss / 2**20:.0f} MiB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=100_000, help="spans for the two ingest figures")
    parser.add_argument("--stored", type=int, default=1_000_000, help="spans in the file that an order is joined from")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3, help="ingest is measured so often; the best counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bodies = list(payloads(options.spans // 31, "ingest"))
        spans = options.spans // 31 * 31
        print(f"{spans:,} spans in {len(bodies)} payloads, {sum(map(len, bodies)) / spans:.0f} bytes per span")
        for forwarded in (False, True):
            in_process(folder, bodies, spans, options.repeat, forwarded=forwarded)
        for forwarded in (False, True):
            over_http(folder, bodies, spans, options.clients, options.repeat, forwarded=forwarded)
        if options.stored:
            joins(folder, options.stored)


if __name__ == "__main__":
    main()
