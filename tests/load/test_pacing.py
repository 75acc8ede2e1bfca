"""Shapes and profiles: how many orders, due when."""

import pytest

from load.plan import Flow, Plan
from load.profiles import PROFILES, Profile, profile_named
from load.shapes import instants_s, spike, steady, step
from tests.load.test_orders import CATALOG


def test_steady_is_evenly_spaced() -> None:
    """Ten a second for two seconds are twenty, a tenth of a second apart."""
    assert list(instants_s(steady(10, 2))) == pytest.approx([n / 10 for n in range(20)])


def test_stages_follow_each_other() -> None:
    """A stage begins where the one before ends, also where its last order came earlier."""
    due_s = list(instants_s(step((1, 2), each_s=2)))
    assert due_s == pytest.approx([0, 1, 2, 2.5, 3, 3.5])


def test_spike_returns_to_its_base() -> None:
    """Base, peak, base."""
    due_s = list(instants_s(spike(2, 20, base_s=5, peak_s=1, after_s=5)))
    assert len(due_s) == 10 + 20 + 10
    assert sum(5 <= at < 6 for at in due_s) == 20
    assert due_s == sorted(due_s)


def test_standard_and_demo_are_what_the_design_says() -> None:
    """Steady, 10 orders/s, for 100 s and for 20 s, open."""
    for name, duration_s in (("standard", 100), ("demo", 20)):
        profile = profile_named(name)
        assert (profile.workload, profile.duration_s, profile.orders) == ("open", duration_s, 10 * duration_s)


def test_every_profile_says_open_or_closed() -> None:
    """In its sentence, as reports show it."""
    for profile in PROFILES.values():
        assert profile.sentence().startswith(f"{profile.workload}: ")
        assert (profile.orders is None) == (profile.workload == "closed")


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_plan_survives_the_journey_to_locust(profile: Profile) -> None:
    """What Locust reads is what was written."""
    flows = (Flow("hybrid", "grpc,rabbitmq,kafka"), Flow("choreography", "kafka"))
    plan = Plan("http://127.0.0.1:1", "r", flows, profile, 3, CATALOG, 0.2)
    assert Plan.loads(plan.dumps()) == plan


@pytest.mark.parametrize("text", ["choreography/kafka", "choreography:kafka", " choreography / kafka"])
def test_a_flow_is_read(text: str) -> None:
    """Style, slash or colon, transport."""
    assert Flow.parse(text) == Flow("choreography", "kafka")


@pytest.mark.parametrize("text", ["", "choreography", "/kafka", "choreography/"])
def test_half_a_flow_is_refused(text: str) -> None:
    """With an example of a whole one."""
    with pytest.raises(ValueError, match="choreography/kafka"):
        Flow.parse(text)
