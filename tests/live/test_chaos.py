"""Bad days on real servers: one for each broker, and between them each kind of style. The audit gives the verdict."""

import pytest

from lab.chaos import TERMINAL_S, at_most_once, run_one
from load.plan import Flow
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

SEED = 6
ORDERS = 60
FLOWS = {
    "calls": Flow("request_response", "grpc"),
    "rabbitmq and kafka": Flow("hybrid", "grpc,rabbitmq,kafka"),
    "sqs": Flow("message_queue", "sqs"),
    "redis": Flow("event_sourcing", "redis_streams"),
    "at most once": Flow("choreography", "redis_pubsub"),
}


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_a_bad_day_loses_nothing_that_is_promised(lab: RealLab, flow: Flow) -> None:
    """And does nothing twice; all orders end, but for those whose transport has declared its losses."""
    run = run_one(lab.target, flow, seed=SEED, orders=ORDERS, say=print)
    assert run.problems == []
    assert (run.orders, run.lost, run.effects_twice) == (ORDERS, run.lost_declared, 0)
    if not at_most_once(flow):
        assert (run.ended, run.lost) == (ORDERS, 0)
        assert run.end_s is not None
        assert run.end_s <= TERMINAL_S
    assert run.tries >= ORDERS
