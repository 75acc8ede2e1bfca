"""Several processes of a participant: they share what is sent, and calls go to the first."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.lab import QUEUES, burst, eventually
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

ORDERS = 60
WORK_MS = "500"  # a process has 16 messages at once, so that what one cannot take waits, and others take it


@pytest.fixture
def three(lab: RealLab) -> Iterator[RealLab]:
    """Payment three times, as the brokers know."""
    lab.target.scale("payment", 3)
    try:
        lab.put_settings({"payment.work_ms": WORK_MS, "work.jitter": "0"})
        yield lab
    finally:
        lab.target.scale("payment", 1)


def charged(lab: RealLab) -> list[float]:
    """How many charges each process has made since it started."""
    return [lab.metric(admin, "lab_effects_total", action="charge.payment") for admin in lab.admin("payment")]


@pytest.mark.parametrize("flow", [("choreography", "rabbitmq"), *QUEUES], ids="-".join)
async def test_three_processes_share_the_messages(three: RealLab, flow: tuple[str, str]) -> None:
    """Each gets some, together they charge each order once."""
    before = charged(three)
    assert len(before) == 3
    count, shares = 0, [0.0] * 3
    deadline = time.monotonic() + 60
    while not all(shares) and time.monotonic() < deadline:  # a broker may need some time to deal out anew
        placed = await burst(three, [flow], ORDERS, halfway=_nothing, rate_per_s=30)
        assert {three.ended(order["order_id"], 60)["state"] for order in placed} == {"completed"}
        count += ORDERS
        shares = [now - then for now, then in zip(charged(three), before, strict=True)]
    assert all(shares), shares
    assert sum(shares) == count
    three.assert_nothing_twice()


def test_calls_go_to_the_first(three: RealLab) -> None:
    before = charged(three)
    for _ in range(6):
        assert three.finished("request_response", "rest")["state"] == "completed"
    assert [now - then for now, then in zip(charged(three), before, strict=True)] == [6, 0, 0]


async def test_nothing_is_lost_when_two_of_three_are_ended_under_load(three: RealLab) -> None:
    """They finish what they have in hand; what they leave to the queue the one that stays takes."""

    async def end_two() -> None:
        await asyncio.to_thread(three.target.scale, "payment", 1)

    placed = await burst(three, [("message_queue", "rabbitmq"), ("choreography", "kafka")], ORDERS, halfway=end_two)
    assert {three.ended(order["order_id"], 60)["state"] for order in placed} == {"completed"}
    eventually(lambda: len(three.admin("payment")) == 1, "two are gone")
    three.assert_nothing_twice()


def test_prometheus_sees_all_of_them_as_one_job(three: RealLab) -> None:
    def instances() -> set[str]:
        answer = three.http.get(f"{three.addresses['prometheus']}/api/v1/query", params={"query": 'up{job="payment"}'})
        return {each["metric"]["instance"] for each in answer.json()["data"]["result"] if each["value"][1] == "1"}

    wanted = {admin.removeprefix("http://") for admin in three.admin("payment")}
    eventually(lambda: instances() >= wanted, "all three are scraped", 40)


async def _nothing() -> None:
    pass
