"""SIGKILL of a service's pod, and of a broker's, in the middle of a load: what was accepted ends, once."""

import asyncio
import time

import pytest

from tests.cluster.lab import ClusterLab
from tests.lab import ENDS, burst, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ORDERS, RATE_PER_S = 200, 10  # which two cores carry beside a cluster
WITHIN_S = 150  # Kubernetes starts the pod anew: seconds for Python, and RabbitMQ takes half a minute on two cores


@pytest.mark.parametrize(
    ("victim", "transport"),
    [("payment", "rabbitmq"), ("rabbitmq", "rabbitmq"), ("kafka", "kafka")],
)
async def test_every_accepted_order_ends_though_a_pod_is_killed(lab: ClusterLab, victim: str, transport: str) -> None:
    async def kill() -> None:
        await asyncio.to_thread(lab.target.kill, victim)

    before = {pod["metadata"]["uid"]: pod for pod in lab.kube.pods(victim)}
    placed = await burst(lab, "choreography", transport, ORDERS, halfway=kill, rate_per_s=RATE_PER_S)
    assert [order for order in placed if order["status"] != 202] == [], "orders lives, so it accepts"
    until = time.monotonic() + WITHIN_S
    ended = [
        await asyncio.to_thread(lab.ended, order["order_id"], max(1.0, until - time.monotonic())) for order in placed
    ]
    assert {order["state"] for order in ended} <= ENDS
    assert {order["state"] for order in ended} == {"completed"}
    assert len({order["id"] for order in ended}) == ORDERS
    lab.assert_nothing_twice()
    eventually(lambda: lab.target.status().ready or None, "the pod is back", WITHIN_S)
    assert not any(pod["metadata"]["uid"] in before for pod in lab.kube.pods(victim)), "the pod is another one"
