"""`lab outage` on real servers: payment hangs, and who calls it hears of it, who sends it messages does not."""

import pytest
from rich.console import Console

from lab.outage import CASES, run_outage
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

CALLS, EVENTS = CASES[0], CASES[2]


def test_callers_fail_and_events_are_all_accepted_and_catch_up(lab: RealLab) -> None:
    """By counts: six seconds are three times as long as a call waits. Everything is as before behind it."""
    before = lab.settings()
    seen = run_outage(
        lab.target,
        Console(quiet=True),
        service="payment",
        how="hang",
        for_s=6,
        rate_per_s=3,
        chosen=[CALLS, EVENTS],
    )
    assert list(seen) == [CALLS.name, EVENTS.name]
    for phases in seen.values():
        assert [phase.phase for phase in phases] == ["before", "during", "after"]
        assert all(phase.orders for phase in phases)
        assert not any(phase.lost for phase in phases)
    (_, calls, _), events = seen[CALLS.name], seen[EVENTS.name]
    assert calls.failed > calls.accepted
    assert calls.failed + calls.accepted == calls.orders
    assert [phase.failed for phase in events] == [0, 0, 0]
    assert [phase.ended for phase in events] == [phase.orders for phase in events]
    assert lab.settings() == before
