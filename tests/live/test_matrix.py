"""Every style over every transport that can carry it, on real servers: `make matrix`, and no part of `make test`.

A style of several ports goes over each combination of distinct transports; of the wires for calls its default alone, as
`request_response` goes over all of them. Twenty orders each, of which every way of being refused has one.
"""

import itertools
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from services.styles import STYLES, runnable
from services.transports import Port
from tests.lab import ORDER
from tests.live.conftest import MATRIX
from tests.live.lab import RealLab

pytestmark = [pytest.mark.live, pytest.mark.matrix, pytest.mark.timeout(120)]

REFUSED = (
    {**ORDER, "lines": [{"sku": "unicorn", "quantity": 1}]},
    {**ORDER, "card": "4000000000000002"},
    {**ORDER, "ship_to": "Atlantis"},
)
UNREACHABLE = {**ORDER, "customer": "c-unreachable"}
ORDERS = [*[ORDER] * 16, *REFUSED, UNREACHABLE]


def flows() -> Iterator[tuple[str, str]]:
    for style in STYLES.values():
        usual = dict(zip(style.ports, style.default.split(","), strict=True))
        one_wire = len(style.ports) > 1
        able = [[usual[port]] if one_wire and port is Port.RPC else runnable(style, port) for port in style.ports]
        for names in itertools.product(*able):
            if len(set(names)) == len(names):
                yield style.name, ",".join(names)


@pytest.mark.parametrize(("style", "transport"), list(flows()))
def test_twenty_orders_end_as_they_should(
    lab: RealLab, request: pytest.FixtureRequest, style: str, transport: str
) -> None:
    """Completed, or refused and taken back; nobody who was only notified could say no."""
    with ThreadPoolExecutor(8) as several:
        placed = list(several.map(lambda body: lab.place(style, transport, body), ORDERS))
    assert {answer.status_code for answer in placed} <= {201, 202}, [answer.text for answer in placed][-1]
    ended = [lab.ended(answer.json()["id"]) for answer in placed]
    wanted = ["completed"] * 16 + ["rejected"] * 3 + ["completed" if style == "notification" else "rejected"]
    request.config.stash.setdefault(MATRIX, []).append(
        (
            *(style, transport),
            *(sum(order["state"] == state for order in ended) for state in ("completed", "rejected")),
            statistics.median(answer.elapsed.total_seconds() for answer in placed) * 1000,
            statistics.median(_took_ms(order) for order in ended),
        )
    )
    assert [order["state"] for order in ended] == wanted
    for order in ended:
        if order["state"] == "rejected":
            assert "done" not in {order["slots"][step] for step in ("stock", "payment", "shipment")}, order
    lab.assert_nothing_twice()


def _took_ms(order: dict[str, str]) -> float:
    began, ended = (datetime.fromisoformat(order[name]) for name in ("accepted_at", "completed_at"))
    return (ended - began).total_seconds() * 1000
