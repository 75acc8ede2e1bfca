"""Orders goes in the middle of a conversation, and comes back on the same database."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan

from services.styles import STYLES
from services.telemetry import conventions as c
from tests.services.lab import ORDER
from tests.services.parts import eventually
from tests.styles.rig import CARRIER_SERVICES, DO, Rig, attributes, of, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

BY_MESSAGE = {name: "payment" for name, style in STYLES.items() if not style.synchronous} | {"hybrid": "inventory"}
"""Whom an order has got to when orders goes: somebody who is asked by message."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("restart")) as running:
        yield running


@pytest.fixture
def stage(_rig: Rig) -> Rig:
    _rig.exporter.clear()
    _rig.worked.clear()
    return _rig


def resumed(stage: Rig, order_id: str) -> list[ReadableSpan]:
    return of(stage.spans("resume order"), order_id)


@pytest.mark.parametrize("name", BY_MESSAGE)
async def test_what_happened_while_orders_was_away_is_not_lost_on_it(stage: Rig, name: str) -> None:
    """What was said meanwhile waits for it; the order completes, and nothing is asked for or done twice."""
    async with stage.orders():
        stage.close(BY_MESSAGE[name])
        order_id = await stage.placed(ORDER, name)
        await eventually(lambda: BY_MESSAGE[name] in stage.worked, f"{BY_MESSAGE[name]} works")
    stage.open()
    await stage.only_orders_is_missing()
    async with stage.orders():
        ended = await stage.end(order_id)
    assert (ended["state"], await stage.effects(order_id)) == ("completed", DO)
    assert [stage.worked.count(service) for service in set(stage.worked)] == [1] * len(set(stage.worked))
    if name == "async_request_response":
        return
    assert resumed(stage, order_id) == [], "the messages carry it on"
    (post,) = stage.spans("POST /orders")
    assert {span.context.trace_id for span in of(stage.spans("process "), order_id)} == {post.context.trace_id}


async def test_a_requester_picks_its_pending_answer_up(stage: Rig) -> None:
    """In a trace of its own that is linked to the one in which the order was accepted. The request is asked again by
    its id, and the answer that came meanwhile counts."""
    async with stage.orders():
        stage.close("payment")
        order_id = await stage.placed(ORDER, "async_request_response")
        await eventually(lambda: "payment" in stage.worked, "payment works")
    async with stage.orders(anew=False):
        await eventually(lambda: resumed(stage, order_id), "the order is resumed")
        await eventually(lambda: len(_requests(stage, order_id)) == 2, "the request is made again")
        stage.open()
        ended = await stage.end(order_id)
    assert (ended["state"], await stage.effects(order_id)) == ("completed", DO)
    (post,), (resume,) = stage.spans("POST /orders"), resumed(stage, order_id)
    assert resume.parent is None
    assert [link.context.span_id for link in resume.links] == [post.context.span_id]
    assert attributes(resume)[c.LAB_STYLE] == "async_request_response"
    first, again = _requests(stage, order_id)
    assert attributes(first)[c.MESSAGE_ID] == attributes(again)[c.MESSAGE_ID]
    assert [first.context.trace_id, again.context.trace_id] == [post.context.trace_id, resume.context.trace_id]
    later = [span for name in ("shipping", "notifications") for span in stage.spans(f"request {name}.commands")]
    assert {span.context.trace_id for span in later} == {resume.context.trace_id}


def _requests(stage: Rig, order_id: str) -> list[ReadableSpan]:
    sent = of(stage.spans("send payment.commands"), order_id)
    return sorted(sent, key=lambda span: span.start_time or 0)


async def test_a_pursuit_that_died_is_taken_up_when_its_lease_is_over(stage: Rig) -> None:
    """Nobody gave it up: somebody was killed."""
    async with stage.orders() as lab:
        stage.close("shipping")
        order_id = await stage.placed(ORDER, "async_request_response")
        await eventually(lambda: "shipping" in stage.worked, "shipping works")
        lab.orders.desk._pursuits[order_id].cancel()
        await eventually(lambda: order_id not in lab.orders.desk._pursuits, "nobody carries it on")
        stage.open()
        assert (await stage.end(order_id))["state"] == "completed"
    assert len(resumed(stage, order_id)) == 1
    assert await stage.effects(order_id) == DO


async def test_a_saga_whose_alarm_was_due_carries_on_in_a_trace_linked_to_the_one_before(stage: Rig) -> None:
    """Its state and deadline are a row: it takes back what has not been answered, where it was. The link leads to its
    last turn."""
    async with stage.orders(saga__timeout_s="0.5"):
        stage.close("payment")
        order_id = await stage.placed(ORDER, "orchestration")
        await eventually(lambda: "payment" in stage.worked, "payment works")
        assert (await stage.order(order_id))["conversation"] == {"asked": "charge.payment", "times": 1}
    assert resumed(stage, order_id) == [], "orders went before its alarm rang"
    async with stage.orders(anew=False):
        await eventually(lambda: resumed(stage, order_id), "the saga is resumed")
        assert (await stage.order(order_id))["conversation"]["asked"] == "refund.payment"
        stage.open()
        ended = await stage.end(order_id)
    assert (ended["state"], ended["reason"]) == ("rejected", "taken back by recovery")
    assert await stage.effects(order_id) == ["reserve.stock", "release.stock", "charge.payment", "refund.payment"]
    resume = resumed(stage, order_id)[0]
    (turn,) = [
        span
        for span in of(stage.spans("process orders.replies"), order_id)
        if attributes(span)[c.EVENT_TYPE] == "stock.reserved"
    ]
    assert resume.parent is None
    assert [link.context.span_id for link in resume.links] == [turn.context.span_id]
    assert resume.context.trace_id != turn.context.trace_id
    (refund,) = {span.context.trace_id for span in of(stage.spans("send inventory.commands"), order_id)} - {
        turn.context.trace_id
    }
    assert refund == resume.context.trace_id


async def test_quotes_are_gathered_on_when_orders_is_back(stage: Rig) -> None:
    """Those that came before it went are noted, those that came meanwhile wait; the deadline is a row."""
    first, *others = CARRIER_SERVICES
    async with stage.orders(quotes__deadline_s="60"):
        stage.close(*others)
        order_id = await stage.placed(ORDER, "publish_async_responses")
        await eventually(lambda: _answers(stage, order_id, 1), f"{first} has answered")
        await eventually(lambda: set(others) <= set(stage.worked), "the others are asked")
    stage.open()
    await stage.only_orders_is_missing()
    async with stage.orders(anew=False):
        ended = await stage.end(order_id)
    assert (ended["state"], len(ended["conversation"]["answers"])) == ("completed", len(CARRIER_SERVICES))
    assert await stage.effects(order_id) == DO


async def _answers(stage: Rig, order_id: str, count: int) -> bool:
    return len((await stage.order(order_id))["conversation"]["answers"]) == count


async def test_a_deadline_that_passed_while_orders_was_away_still_counts(stage: Rig) -> None:
    """The order goes with the quotes that were noted in time."""
    async with stage.orders(quotes__deadline_s="0.5"):
        stage.close(*CARRIER_SERVICES[1:])
        order_id = await stage.placed(ORDER, "publish_async_responses")
        await eventually(lambda: _answers(stage, order_id, 1), "one has answered")
    async with stage.orders(anew=False):
        ended = await stage.order(order_id, 10)
        stage.open()
        assert (await stage.end(order_id))["conversation"] == ended["conversation"]
    assert (ended["state"], len(ended["conversation"]["answers"])) == ("completed", 1)
    assert len(resumed(stage, order_id)) == 1
