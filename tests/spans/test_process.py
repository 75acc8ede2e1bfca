"""The real process: what it acknowledged survives its death, and it stops and refuses as a supervisor expects."""

import os
import subprocess
import sys

import httpx
import pytest

from tests.spans.stories import choreography, request_response
from tests.spans.support import PATIENCE_S, PROTOBUF, Sink, environment, free_port, store_process, until


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path):
    """Spans and the forward queue alike: the next process answers for them and forwards them."""
    database, sink = tmp_path / "spans.db", Sink()
    bodies = [request_response(seed=str(number), order_id=f"o-{number}").payload() for number in range(40)]
    acknowledged = 0
    with store_process(database, forward=sink.url) as store, httpx.Client() as client:
        for body in bodies:
            if client.post(f"{store.url}/v1/traces", content=body, headers=PROTOBUF).is_success:
                acknowledged += 1
            if acknowledged == 30:
                store.kill()
                break
    with store_process(database, forward=sink.url) as store:
        assert httpx.get(f"{store.url}/stats").json()["stored"] == 5 * acknowledged
        for number in range(acknowledged):
            assert len(httpx.get(f"{store.url}/orders/o-{number}").json()["spans"]) == 5
        with sink.serving():
            until(lambda: len(sink.bodies) == acknowledged, "every acknowledged payload is forwarded")
            assert sink.bodies == bodies[:acknowledged]


def test_sigterm_ends_it_cleanly_with_0(tmp_path):
    database = tmp_path / "deep" / "folder" / "spans.db"
    with store_process(database) as store:
        httpx.post(
            f"{store.url}/v1/traces", content=choreography("both").payload(), headers=PROTOBUF
        ).raise_for_status()
        assert store.terminate() == 0
    assert not database.with_name("spans.db-wal").exists(), "the WAL was folded in"


def refused(arguments: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lab.spans"], env=os.environ | arguments, capture_output=True, timeout=PATIENCE_S,
        check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith("span store: ")
    assert "Traceback" not in done.stderr
    return line


@pytest.mark.parametrize(
    ("setting", "about"),
    [
        ({"LAB_SPANS_PORT": "many"}, "LAB_SPANS_PORT"),
        ({"LAB_SPANS_FORWARD": "127.0.0.1:4318"}, "LAB_SPANS_FORWARD"),
        ({"LAB_SPANS_HOST": "256.0.0.1"}, "span store"),
        ({"LAB_SPANS_DATABASE": "/dev/null/spans.db"}, "/dev/null"),
    ],
)
def test_settings_that_cannot_work_are_one_line_and_exit_code_1(tmp_path, setting, about):
    assert about in refused(environment(tmp_path / "spans.db") | setting)


def test_a_port_that_is_taken_and_a_file_that_is_in_use(tmp_path):
    with store_process(tmp_path / "spans.db") as store:
        port = int(store.url.rsplit(":", 1)[1])
        assert "use" in refused(environment(tmp_path / "other.db", port=port))
        assert "in use by another span store" in refused(environment(tmp_path / "spans.db", port=free_port()))
        assert httpx.get(f"{store.url}/healthz").is_success
