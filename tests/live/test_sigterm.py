"""SIGTERM under load: exit 0 within ten seconds, nothing lost. And every process of ours."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lab.targets.local.state import StateDir
from tests.lab import ASYNCHRONOUS, SERVICES, SYNCHRONOUS, burst, eventually
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]


class StandIn:
    """A process of the lab, started by the test itself, so that its exit code can be seen."""

    def __init__(self, lab: RealLab, name: str, log: Path) -> None:
        running = StateDir(lab.target.state_dir).load().running[name]
        os.kill(running.pid, signal.SIGTERM)
        eventually(lambda: _gone(running.pid) or None, f"{name} ends")
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                running.process.argv,
                cwd=running.process.cwd,
                env={**os.environ, **running.process.env},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> tuple[int, float]:
        """SIGTERM; the exit code and how long it took."""
        asked = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15), time.monotonic() - asked
        finally:
            self.process.kill()
            self.process.wait()


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("service", [*SERVICES, "carrier-swift", "ledger"])
async def test_a_service_that_is_told_to_stop_finishes_and_loses_no_span(
    lab: RealLab, tmp_path: Path, service: str
) -> None:
    stand_in = await asyncio.to_thread(StandIn, lab, service, tmp_path / "log")
    try:
        await asyncio.to_thread(eventually, lambda: _answers(lab, service) or None, f"{service} is ready again", 30)
        ended: list[tuple[int, float]] = []

        async def stop() -> None:
            ended.append(await asyncio.to_thread(stand_in.stop))

        placed = await burst(lab, [*SYNCHRONOUS, *ASYNCHRONOUS], 130, halfway=stop)
    finally:
        stand_in.process.kill()
        stand_in.process.wait()
    lab.settle()
    code, seconds = ended[0]
    assert code == 0, stand_in.log.read_text()[-2000:]
    assert seconds < 10
    last = json.loads([line for line in stand_in.log.read_text().splitlines() if '"stopped"' in line][-1])
    spans = last["spans"]
    assert spans["started"] > 0
    assert spans == {**spans, "ended": spans["started"], "exported": spans["started"], "given_up": 0}
    for order in placed:
        if order["status"] in {201, 202}:
            await asyncio.to_thread(lab.ended, order["order_id"])
    lab.assert_nothing_twice()


def _answers(lab: RealLab, service: str) -> bool:
    try:
        return lab.http.get(f"{lab.admin(service)[0]}/readyz").status_code == 200
    except Exception:
        return False


def test_the_span_store_that_is_told_to_stop_exits_0(lab: RealLab, tmp_path: Path) -> None:
    stand_in = StandIn(lab, "spans", tmp_path / "log")
    try:
        eventually(lambda: _store_answers(lab) or None, "the span store is ready again")
        lab.finished("choreography", "rabbitmq")
        code, seconds = stand_in.stop()
    finally:
        stand_in.process.kill()
        stand_in.process.wait()
    assert code == 0, stand_in.log.read_text()[-2000:]
    assert seconds < 10


def _store_answers(lab: RealLab) -> bool:
    try:
        return lab.http.get(lab.addresses["span_store"] + "/readyz").status_code == 200
    except Exception:
        return False
