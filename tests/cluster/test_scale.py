"""More replicas of a participant: what waits in queues for it goes faster."""

from datetime import datetime

import pytest

from tests.cluster.lab import ClusterLab
from tests.lab import burst

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ORDERS = 48
SLOW_MS = "4000"  # so that payment, with its 16 messages at once, is what all wait for, and not this machine's cores


@pytest.mark.parametrize("flow", [("choreography", "kafka"), ("message_queue", "sqs")])
async def test_three_payments_are_faster_than_one(lab: ClusterLab, flow: tuple[str, str]) -> None:
    lab.put_settings({"payment.work_ms": SLOW_MS, "work.jitter": "0"})
    one_s = await took_s(lab, flow)
    lab.target.scale("payment", 3)
    try:
        lab.settle()
        assert len(lab.kube.pods("payment")) == 3
        lab.put_settings({"payment.work_ms": SLOW_MS, "work.jitter": "0"})
        lab.finished(*flow)  # the brokers know the new consumers
        three_s = await took_s(lab, flow)
    finally:
        lab.target.scale("payment", 1)
    assert one_s / three_s > 1.3, f"{one_s:.1f} s with one, {three_s:.1f} s with three"
    lab.assert_nothing_twice()


async def took_s(lab: ClusterLab, flow: tuple[str, str]) -> float:
    """From the first order's acceptance to the last one's end."""

    async def nothing() -> None:
        pass

    placed = await burst(lab, [flow], ORDERS, halfway=nothing, rate_per_s=30)
    orders = [lab.ended(order["order_id"], 120) for order in placed]
    assert {order["state"] for order in orders} == {"completed"}
    first = min(datetime.fromisoformat(order["accepted_at"]) for order in orders)
    last = max(datetime.fromisoformat(order["completed_at"]) for order in orders)
    return (last - first).total_seconds()
