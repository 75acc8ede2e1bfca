"""kill -9 of anything, in the middle: what was accepted ends, once."""

import asyncio
import time
from typing import Any

import pytest

from tests.lab import (
    BOTH,
    CHAINS,
    CONVERSATIONS,
    ENDS,
    PARTICIPANTS,
    SYNCHRONOUS,
    assert_as_promised,
    burst,
    eventually,
    place_again,
)
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

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
    await assert_all_end(lab, victim, CHAINS)


@pytest.mark.parametrize("victim", BROKERS)
async def test_every_accepted_order_ends_though_a_broker_is_killed(lab: RealLab, victim: str) -> None:
    # what SQS had handed out is hidden for 30 s, in each queue that an order still has to pass
    within_s = 180 if victim == "elasticmq" else 60
    await assert_all_end(lab, victim, [flow for flow in CHAINS if flow[1] in BROKERS[victim]], within_s)


async def test_orders_end_though_a_carrier_is_killed_and_the_ledger_catches_up(lab: RealLab) -> None:
    """Whoever waits for carriers has a deadline, and nobody waits for the ledger: it reads on where it was."""

    async def kill_both() -> None:
        for victim in ("carrier-frugal", "ledger"):
            await killing(lab, victim)()

    lab.put_settings({"quotes.deadline_s": "10"})  # time enough for those that live
    flows = [("publish_async_responses", "kafka"), ("event_sourcing", "kafka"), ("event_sourcing", "redis_streams")]
    placed = await burst(lab, flows, 60, halfway=kill_both, rate_per_s=10)
    lab.settle()
    ended = {order["order_id"]: lab.ended(order["order_id"]) for order in placed}
    assert {order["state"] for order in ended.values()} == {"completed"}
    lab.assert_nothing_twice()
    journalled = {order["order_id"] for order in placed if order["flow"][0] == "event_sourcing"}

    def behind() -> set[str]:
        rows = lab.http.get(lab.admin("ledger")[0] + "/projections/orders").json()["rows"]
        return {order_id for order_id in journalled if rows.get(order_id, {}).get("state") != "completed"}

    eventually(lambda: not behind(), "the ledger has every order's end")


@pytest.mark.parametrize("victim", ["payment", "orders", "rabbitmq", "kafka"])
async def test_every_conversation_ends_though_somebody_is_killed(lab: RealLab, victim: str) -> None:
    """What was answered well is done, but where a style has a deadline. An error, which only a call can lead to, is an
    order that is taken back or done. None is ever half done."""
    placed = await burst(lab, [*CONVERSATIONS, *BOTH], 100, halfway=killing(lab, victim), rate_per_s=10)
    back = time.monotonic()
    lab.settle()
    gone = {0} if victim == "orders" else set()
    for order in placed:
        errors = {503, 504} if order["flow"] in BOTH or victim == "orders" else set()
        assert order["status"] in {201, 202} | errors | gone, order
    known = [order["order_id"] for order in placed if order["order_id"]]
    known += await place_again(lab, [order for order in placed if not order["order_id"]])
    assert len(set(known)) == len(placed)
    ended = await asyncio.to_thread(all_ended, lab, known, back)
    well = {order["order_id"] for order in placed if order["status"] in {201, 202}}
    assert_as_promised(ended, may_reject=set(known) - well)
    lab.assert_nothing_twice()


async def assert_all_end(lab: RealLab, victim: str, flows: list[tuple[str, str]], within_s: float = 60) -> None:
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
    ended = await asyncio.to_thread(all_ended, lab, accepted, back, within_s)
    assert_as_promised(ended)
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
