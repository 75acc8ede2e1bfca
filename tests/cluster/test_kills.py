"""SIGKILL of a service's pod, and of all brokers', in the middle of a load: what was accepted ends, once."""

import asyncio
import time

import pytest

from tests.cluster.lab import ClusterLab
from tests.lab import ASYNCHRONOUS, assert_as_promised, burst, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

ORDERS, RATE_PER_S = 200, 10  # which two cores carry beside a cluster
WITHIN_S = 150  # Kubernetes starts the pod anew: seconds for Python, and RabbitMQ takes half a minute on two cores


@pytest.mark.parametrize(
    "victims", [["payment"], ["rabbitmq", "kafka", "elasticmq", "redis"]], ids=["payment", "brokers"]
)
async def test_every_accepted_order_ends_though_pods_are_killed(lab: ClusterLab, victims: list[str]) -> None:
    async def kill() -> None:
        for victim in victims:
            await asyncio.to_thread(lab.target.kill, victim)

    before = {pod["metadata"]["uid"] for victim in victims for pod in lab.kube.pods(victim)}
    placed = await burst(lab, ASYNCHRONOUS, ORDERS, halfway=kill, rate_per_s=RATE_PER_S)
    assert [order for order in placed if order["status"] != 202] == [], "orders lives, so it accepts"
    until = time.monotonic() + WITHIN_S
    ended = [
        await asyncio.to_thread(lab.ended, order["order_id"], max(1.0, until - time.monotonic())) for order in placed
    ]
    assert_as_promised(ended)
    assert len({order["id"] for order in ended}) == ORDERS
    lab.assert_nothing_twice()
    eventually(lambda: lab.target.status().ready or None, "the pods are back", WITHIN_S)
    after = {pod["metadata"]["uid"] for victim in victims for pod in lab.kube.pods(victim)}
    assert not before & after, "the pods are others"
