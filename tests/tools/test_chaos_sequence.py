"""The sequence of a bad day: the same for the same seed and flow, and with all that a day has to have."""

import pytest

from lab.chaos import Act, sequence
from lab.chaos.sequence import PARTICIPANTS, PAUSE_S, SERVER, at_most_once
from load.plan import Flow
from services.runtime.faults import key_of
from services.styles import STYLES, runnable
from services.transports import TRANSPORTS, Port

FLOWS = [
    Flow(style.name, transport)
    for style in STYLES.values()
    for transport in (runnable(style, style.ports[0]) if len(style.ports) == 1 else [style.default])
]
MESSAGES = [flow for flow in FLOWS if STYLES[flow.style].ports != (Port.RPC,)]
SEEDS = range(1, 21)


def words(acts: tuple[Act, ...]) -> set[str]:
    return {act.what.split()[0] for act in acts}


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_it_follows_from_seed_and_flow(flow: Flow) -> None:
    assert sequence(3, flow) == sequence(3, flow)
    assert len({str(sequence(seed, flow)) for seed in SEEDS}) == len(SEEDS)
    others = [other for other in FLOWS if other.style == flow.style and other != flow]
    assert sequence(3, flow) not in [sequence(3, other) for other in others]


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_every_day_has_deaths_and_failures_that_are_faults_of_the_style_alone(flow: Flow) -> None:
    for seed in SEEDS:
        acts = sequence(seed, flow)
        assert {"kill", "crash", "fail"} <= words(acts)
        assert all(bool(act.knobs) == bool(act.for_s) for act in acts)
        for name in (name for act in acts for name in act.knobs):
            key = key_of(name)
            assert key is not None
            assert key[1] == flow.style
        crashes = [act for act in acts if act.what.startswith("crash")]
        assert {act.what.split(maxsplit=2)[2] for act in crashes} == {"before its effect", "after its effect"}
        assert {act.process for act in crashes} <= set(PARTICIPANTS)
        assert all(act.wait_s > 0 for act in acts)


@pytest.mark.parametrize("flow", MESSAGES, ids=str)
def test_where_messages_are_sent_brokers_die_and_consumers_pause(flow: Flow) -> None:
    style = STYLES[flow.style]
    wires = {wire for port, wire in style.wires(flow.transport).items() if port is not Port.RPC}
    hearers = {group for groups in style.channels.values() for group in groups}
    for seed in SEEDS:
        acts = sequence(seed, flow)
        assert {"pause", "duplicate", "strangers", "reorder"} <= words(acts)
        assert {SERVER[wire] for wire in wires} <= {act.process for act in acts if not act.knobs}
        (pause,) = [act for act in acts if act.what.startswith("pause")]
        assert pause.for_s == PAUSE_S
        assert {name.split(".")[0] for name in pause.knobs} <= hearers


def test_in_the_course_of_time_everybody_is_killed() -> None:
    for flow in (Flow("choreography", "kafka"), Flow("request_response", "rest")):
        killed = {act.process for seed in range(100) for act in sequence(seed, flow) if not act.knobs}
        assert {"orders", *PARTICIPANTS} <= killed
    killed = {act.process for seed in range(100) for act in sequence(seed, Flow("publish_async_responses", "kafka"))}
    assert {"carrier-swift", "carrier-steady", "carrier-frugal"} <= killed
    assert "ledger" in {act.process for act in sequence(1, Flow("event_sourcing", "kafka"))}


def test_every_transport_of_messages_has_a_server() -> None:
    assert set(SERVER) == {name for name, transport in TRANSPORTS.items() if transport.broker}


def test_at_most_once_is_what_the_transport_declares() -> None:
    assert [str(flow) for flow in FLOWS if at_most_once(flow)] == [
        str(flow) for flow in FLOWS if flow.transport == "redis_pubsub"
    ]
    assert any(map(at_most_once, FLOWS))


def test_a_flow_that_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="no style 'choreographie'; there are"):
        sequence(1, Flow("choreographie", "kafka"))
    with pytest.raises(ValueError, match="zip"):
        sequence(1, Flow("hybrid", "kafka"))
