"""kill -9 of anything, in the middle: what was accepted ends, once."""

import asyncio
import time
from typing import Any

import pytest

from tests.lab import ASYNCHRONOUS, ENDS, PARTICIPANTS, SYNCHRONOUS, burst, place_again
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

ORDERS = 200
DOWN_S = 1.0
BROKERS = {
    "rabbitmq": ["rabbitmq"],
    "kafka": ["kafka"],
    "elasticmq": ["sqs"],
    "redis": ["redis_streams"],
}
"""Each broker's process and the transports that it carries (without those that promise nothing)."""


def killing(lab: RealLab, name: str) -> Any:
    async def kill_and_restart() -> None:
        await asyncio.to_thread(lab.target.kill, name)
        await asyncio.sleep(DOWN_S)  # how long it is away is part of the case, not something to wait for
        await asyncio.to_thread(lab.target.restart, name)

    return kill_and_restart


def all_ended(lab: RealLab, order_ids: list[str], since: float, within_s: float = 60) -> list[dict[str, Any]]:
    """The orders, each ended within ``within_s`` of ``since`` (monotonic)."""
    return [lab.ended(order_id, timeout_s=max(0.5, since + within_s - time.monotonic())) for order_id in order_ids]


@pytest.mark.parametrize("victim", [*PARTICIPANTS, "orders"])
async def test_every_accepted_order_ends_though_a_service_is_killed(lab: RealLab, victim: str) -> None:
    await assert_all_end(lab, victim, ASYNCHRONOUS)


@pytest.mark.parametrize("victim", BROKERS)
async def test_every_accepted_order_ends_though_a_broker_is_killed(lab: RealLab, victim: str) -> None:
    await assert_all_end(lab, victim, [flow for flow in ASYNCHRONOUS if flow[1] in BROKERS[victim]])


async def assert_all_end(lab: RealLab, victim: str, flows: list[tuple[str, str]]) -> None:
    """200 orders through ``flows`` by turns, and ``victim`` killed after half of them: each that was accepted
    completes, and nothing is done twice."""
    placed = await burst(lab, flows, ORDERS, halfway=killing(lab, victim))
    back = time.monotonic()
    lab.settle()
    accepted = [order["order_id"] for order in placed if order["status"] == 202]
    unanswered = [order for order in placed if order["status"] == 0]
    assert len(accepted) + len(unanswered) == ORDERS
    assert bool(unanswered) == (victim == "orders"), "only orders' own death is seen by a client"
    accepted += await place_again(lab, unanswered)
    assert len(set(accepted)) == ORDERS
    ended = await asyncio.to_thread(all_ended, lab, accepted, back)
    assert {order["state"] for order in ended} == {"completed"}
    lab.assert_nothing_twice()


@pytest.mark.parametrize("victim", ["payment", "notifications", "orders"])
async def test_a_broken_off_conversation_is_told_and_then_brought_to_its_end(lab: RealLab, victim: str) -> None:
    placed = await burst(lab, SYNCHRONOUS, ORDERS, halfway=killing(lab, victim))
    back = time.monotonic()
    lab.settle()
    assert {order["status"] for order in placed} <= {201, 503, 504, 0}
    noticed = {order["flow"] for order in placed if order["status"] != 201}
    assert noticed == set(SYNCHRONOUS), "the kill was noticed on every wire"
    if victim != "orders":
        assert not [order for order in placed if order["status"] == 0], "orders lives, so it answers"

    known = [order["order_id"] for order in placed if order["order_id"]]
    known += await place_again(lab, [order for order in placed if order["status"] == 0])
    assert len(set(known)) == ORDERS
    ended = await asyncio.to_thread(all_ended, lab, known, back)
    assert {order["state"] for order in ended} <= ENDS
    for order in ended:
        standing = {step for step, slot in order["slots"].items() if slot == "done"}
        expected = {"stock", "payment", "shipment", "notification"} if order["state"] == "completed" else set()
        assert standing - {"notification"} == expected - {"notification"}, f"half an order: {order}"
    told_done = {order["order_id"] for order in placed if order["status"] == 201}
    assert all(order["state"] == "completed" for order in ended if order["id"] in told_done)
    lab.assert_nothing_twice()
