"""Logs: one JSON object a line, with the trace and span that it belongs to, and never without its service."""

import contextvars
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from services.runtime import logs
from services.telemetry.setup import set_up
from tests.services.lab import ORDER
from tests.services.parts import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture
def json_logs() -> Iterator[Any]:
    """Logs as a process of ``payment`` has them; gives what reads the lines."""
    out = io.StringIO()
    config, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        logs.set_up("payment")
    try:
        yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.configure(**config)
        root.handlers[:] = handlers
        root.setLevel(level)


def _speak() -> None:
    log = structlog.get_logger()
    log.info("ours", order_id="o-1")
    logging.getLogger("library").warning("%d things went wrong", 3)
    try:
        int("two\nlines")
    except ValueError as error:
        log.warning("ours_failed", exc_info=error)
        logging.getLogger("library").exception("it failed")
    logging.getLogger("library").info("too much detail")


@pytest.mark.parametrize("context", ["the process's", "a request's or a message's"])
def test_each_line_is_json_with_its_service_and_its_span(json_logs: Any, context: str) -> None:
    """Ours and the libraries', also where a task began in an empty context; a traceback is in the line."""
    run = contextvars.copy_context().run if context == "the process's" else contextvars.Context().run
    tracer = set_up("payment").tracer

    def inside() -> None:
        with tracer.start_as_current_span("handling") as span:
            _speak()
            spans.append(span.get_span_context())
        structlog.get_logger().info("outside")

    spans: list[Any] = []
    run(inside)
    lines = json_logs()
    assert [line["event"] for line in lines] == [
        *("ours", "3 things went wrong", "ours_failed", "it failed", "outside")
    ]
    assert {line["service"] for line in lines} == {"payment"}
    for line in lines[:-1]:
        assert line["trace_id"] == f"{spans[0].trace_id:032x}"
        assert line["span_id"] == f"{spans[0].span_id:016x}"
    assert "trace_id" not in lines[-1]
    assert all("ValueError: invalid literal" in lines[i]["exception"] for i in (2, 3))
    assert [line["level"] for line in lines] == ["info", "warning", "warning", "error", "info"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["time"]) for line in lines)


def test_a_run_of_everything_writes_json_and_ends_with_exit_code_0(tmp_path: Path) -> None:
    """``python -m services.all``: orders, refusals, a recovery that has to wait, SIGTERM; every line of it is JSON, and
    those that were written within a span say so."""
    port, admin = free_port(), free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LAB_", "OTEL_"))},
        "LAB_LISTEN": json.dumps({"http": port}),
        "LAB_ADMIN_PORT": str(admin),
        "LAB_SETTINGS_TOKEN": "token",
    }
    with (tmp_path / "log").open("w") as out, (tmp_path / "errors").open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "services.all"], cwd=ROOT, env=env, stdout=out, stderr=err)
        try:
            with httpx.Client(trust_env=False, verify=False, timeout=20) as client:
                _use(client, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "errors").read_text() == ""
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines
    for line in lines:
        assert {"time", "level", "event", "service"} <= set(line), line
        assert ("trace_id" in line) == ("span_id" in line)
        if "trace_id" in line:
            assert re.fullmatch("[0-9a-f]{32}", line["trace_id"])
            assert re.fullmatch("[0-9a-f]{16}", line["span_id"])
    waits = [line for line in lines if line["event"] == "recovery_waits"]
    assert waits
    assert all("trace_id" in line and "order_id" in line for line in waits)


@pytest.mark.parametrize("service", ["orders", "payment"])
def test_a_process_that_still_waits_for_its_database_ends_with_exit_code_0(tmp_path: Path, service: str) -> None:
    """In a container the first process does not even hear SIGTERM unless it handles it."""
    admin = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LAB_", "OTEL_"))},
        "LAB_ADMIN_PORT": str(admin),
        "LAB_DATABASE_URL": f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/nothing",
    }
    argv = [sys.executable, "-m", f"services.{service}"]
    with (tmp_path / "log").open("w") as out, subprocess.Popen(argv, cwd=ROOT, env=env, stdout=out) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{admin}", trust_env=False) as client:
                _until(lambda: "database: " in client.get("/readyz").text, "it says that it waits for its database")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["event"] == "stopped"


def _use(client: httpx.Client, door: str, admin: str) -> None:
    _until(lambda: client.get(f"{admin}/readyz").status_code == 200, "everything is ready")
    for style in ("request_response", "message_queue", "choreography"):
        where = client.post(f"{door}/orders", params={"style": style}, json=ORDER).headers["location"]
        assert client.get(door + where, params={"wait_s": 10}).json()["state"] == "completed"
    assert client.post(f"{door}/orders", json={}).status_code == 422
    token = {"authorization": "Bearer token"}

    def put(**values: str | None) -> None:
        body = {"values": {name.replace("__", "."): value for name, value in values.items()}}
        assert client.put(f"{admin}/settings", json=body, headers=token).status_code == 200

    put(rpc__timeout_s="0.01", payment__work_ms="100", inventory__work_ms="0")
    broken_off = client.post(f"{door}/orders", json=ORDER)
    assert broken_off.status_code == 504
    time.sleep(0.2)  # the recovery has tried in the meantime
    put(rpc__timeout_s=None, payment__work_ms="0")
    where = broken_off.json()["order"]
    assert client.get(door + where, params={"wait_s": 20}).json()["state"] == "rejected"


def _until(ask: Any, what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if ask():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
