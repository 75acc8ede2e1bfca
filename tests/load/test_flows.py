"""Which flows a front door offers, in the shapes in which it may say so."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from load.flows import FrontDoor, FrontDoorError
from load.plan import Flow
from tests.load.front_door import front_door, serve


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with front_door() as seen:
        yield seen.address


def test_flows_are_what_is_ready(address: str) -> None:
    """Every style over each ready transport; a style of several ports over its default combination."""
    one_port = ("prompt", "slow", "lossy", "flaky", "stuck")
    assert FrontDoor(address).flows() == [
        *(Flow(style, "memory") for style in one_port),
        Flow("both", "memory,queue"),
    ]


def test_a_flow_of_several_ports_is_named_with_commas(address: str) -> None:
    """Whatever combination is asked for, and it can be part of a file's name."""
    flow = Flow.parse("both/queue,memory")
    FrontDoor(address).check([flow])
    assert flow == Flow("both", "queue,memory")
    assert flow.slug == "both-queue+memory"
    with pytest.raises(FrontDoorError, match="both over memory,absent_one cannot run: absent_one: absent: no server"):
        FrontDoor(address).check([Flow.parse("both/memory,absent_one")])


def test_a_style_of_several_ports_is_loaded_over_its_default_combination() -> None:
    """As the front door lists it, which has every choice beside it; none where one of its ports has no transport."""
    hybrid = {
        "name": "hybrid",
        "ports": ["rpc", "broker with queues", "log"],
        "choices": [["rest", "grpc"], ["q"], ["l"]],
    }
    app = FastAPI()
    styles = [
        {**hybrid, "default": "grpc,q,l", "transports": ["grpc,q,l"]},
        {**hybrid, "name": "half", "default": "grpc,q,l", "transports": ["grpc,q,gone"]},
    ]
    app.get("/styles")(lambda: styles)
    ready = dict.fromkeys(("rest", "grpc", "q", "l"), "ready")
    app.get("/transports")(lambda: [{"name": n, "status": s} for n, s in {**ready, "gone": "not ready: x"}.items()])
    with serve(app) as address:
        assert FrontDoor(address).flows() == [Flow("hybrid", "grpc,q,l")]


def test_nothing_ready_is_said() -> None:
    """An empty lab is no success."""
    app = FastAPI()
    app.get("/styles")(lambda: {"styles": [{"name": "a", "ports": ["rpc"], "transports": ["x"]}]})
    app.get("/transports")(lambda: {"transports": [{"name": "x", "status": "absent: no server"}]})
    with serve(app) as address, pytest.raises(FrontDoorError, match="no style has a transport that is ready"):
        FrontDoor(address).flows()


def test_something_else_at_the_address_is_said() -> None:
    """A page that is not ours, and an address with nothing of ours."""
    app = FastAPI()
    app.get("/catalog")(lambda: "hello")
    with serve(app) as address:
        with pytest.raises(FrontDoorError, match="cannot be read"):
            FrontDoor(address).catalog()
        with pytest.raises(FrontDoorError, match="/transports answers 404"):
            FrontDoor(address).flows()
