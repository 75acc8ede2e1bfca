"""What the span store's tests share: a store on disk without a server, a real one as a process, an OTLP sink."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from lab.spans.ingest import Export, Outcome, SpanWriter
from lab.spans.queries import Questions
from tests.spans.stories import Story

PROTOBUF = {"content-type": "application/x-protobuf"}
PATIENCE_S = 50.0


def until(condition: Callable[[], object], what: str, *, within_s: float = PATIENCE_S) -> None:
    """Poll until the condition holds; fail with ``what`` when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def stored(folder: Path, *stories: Story, name: str = "spans.db") -> Questions:
    """A store that holds these stories, each exported on its own."""
    writer = SpanWriter(folder / name, forwarded=False)
    try:
        for story in stories:
            body = story.payload()
            (outcome,) = writer.store([Export(body, body, "")])
            assert isinstance(outcome, Outcome)
            assert outcome.stored == len(story.told)
    finally:
        writer.close()
    return Questions(folder / name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class StoreProcess:
    """A real ``python -m lab.spans``."""

    url: str
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def environment(database: Path, *, port: int = 0, forward: str = "") -> dict[str, str]:
    return os.environ | {
        "LAB_SPANS_PORT": str(port),
        "LAB_SPANS_DATABASE": str(database),
        "LAB_SPANS_FORWARD": forward,
    }


@contextlib.contextmanager
def store_process(database: Path, *, forward: str = "") -> Iterator[StoreProcess]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.spans"],
        env=environment(database, port=port, forward=forward),
        stderr=subprocess.DEVNULL,
    )
    try:
        store = StoreProcess(f"http://127.0.0.1:{port}", process)

        def ready() -> bool:
            assert process.poll() is None, "the span store ended while it started"
            try:
                return httpx.get(f"{store.url}/readyz").is_success
            except httpx.TransportError:
                return False

        until(ready, "the span store is ready")
        yield store
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)


@dataclass
class Sink:
    """An OTLP address that keeps what it gets. ``answers`` are given first, one each, then 200."""

    port: int = field(default_factory=free_port)
    bodies: list[bytes] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                answer = sink.answers.pop(0) if sink.answers else 200
                if answer == 200:
                    sink.bodies.append(body)
                    sink.encodings.append(self.headers.get("content-encoding", ""))
                self.send_response(answer)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

        with Server(("127.0.0.1", self.port), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join(PATIENCE_S)
