"""kill -9 of anything, in the middle: what was accepted ends, once."""

import asyncio
import time
from typing import Any

import pytest

from tests.lab import ASYNCHRONOUS, ENDS, PARTICIPANTS, burst, place_again
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

ORDERS = 200
DOWN_S = 1.0


def killing(lab: RealLab, name: str) -> Any:
    async def kill_and_restart() -> None:
        await asyncio.to_thread(lab.target.kill, name)
        await asyncio.sleep(DOWN_S)  # how long it is away is part of the case, not something to wait for
        await asyncio.to_thread(lab.target.restart, name)

    return kill_and_restart


def all_ended(lab: RealLab, order_ids: list[str], since: float, within_s: float = 60) -> list[dict[str, Any]]:
    """The orders, each ended within ``within_s`` of ``since`` (monotonic)."""
    return [lab.ended(order_id, timeout_s=max(0.5, since + within_s - time.monotonic())) for order_id in order_ids]


@pytest.mark.parametrize(("style", "transport"), ASYNCHRONOUS)
@pytest.mark.parametrize("victim", [*PARTICIPANTS, "orders", "broker"])
async def test_every_accepted_order_ends_though_a_process_is_killed(
    lab: RealLab, style: str, transport: str, victim: str
) -> None:
    name = transport if victim == "broker" else victim
    placed = await burst(lab, style, transport, ORDERS, halfway=killing(lab, name))
    back = time.monotonic()
    lab.settle()
    accepted = [order["order_id"] for order in placed if order["status"] == 202]
    unanswered = [order["key"] for order in placed if order["status"] == 0]
    assert len(accepted) + len(unanswered) == ORDERS
    assert bool(unanswered) == (victim == "orders"), "only orders' own death is seen by a client"
    accepted += await place_again(lab, style, transport, unanswered)
    assert len(set(accepted)) == ORDERS
    ended = await asyncio.to_thread(all_ended, lab, accepted, back)
    assert {order["state"] for order in ended} == {"completed"}
    lab.assert_nothing_twice()


@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("victim", ["payment", "notifications", "orders"])
async def test_a_broken_off_conversation_is_told_and_then_brought_to_its_end(
    lab: RealLab, transport: str, victim: str
) -> None:
    placed = await burst(lab, "request_response", transport, ORDERS, halfway=killing(lab, victim))
    back = time.monotonic()
    lab.settle()
    assert {order["status"] for order in placed} <= {201, 503, 504, 0}
    assert {order["status"] for order in placed} - {201}, "the kill was noticed"
    if victim != "orders":
        assert not [order for order in placed if order["status"] == 0], "orders lives, so it answers"

    known = [order["order_id"] for order in placed if order["order_id"]]
    unanswered = [order["key"] for order in placed if order["status"] == 0]
    known += await place_again(lab, "request_response", transport, unanswered)
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
