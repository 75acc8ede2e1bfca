"""Bytes that are no payload, in each format."""

import pytest

from services.contracts.single_object import HEADER_BYTES
from services.domain.messages import Event, Line, Order, QuoteOffered, StockRefused, type_name
from services.transports.errors import Undecodable
from services.transports.formats import FORMATS
from tests.transports.fuzz import hammer

pytestmark = pytest.mark.timeout(300)
ORDER = Order("o-1", "c-1", "4242424242424242", "Lisbon", (Line("tea", 2), Line("cup", 1)), 900)
EVENTS = (StockRefused(ORDER, "no"), QuoteOffered(ORDER, "steady", 509, 3))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type_name(type(event)))
@pytest.mark.parametrize("name", FORMATS)
def test_malformed_bytes_are_refused(name: str, event: Event) -> None:
    """10,000 of them: a reason each, and nothing else."""
    codec, called = FORMATS[name], type_name(type(event))
    hammer(lambda data: codec.loads(called, data), Undecodable, codec.dumps(event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type_name(type(event)))
def test_malformed_avro_behind_a_good_fingerprint_is_refused(event: Event) -> None:
    """Past the first check, where the schema leads."""
    avro, called = FORMATS["avro"], type_name(type(event))
    data = avro.dumps(event)
    header = data[:HEADER_BYTES]
    hammer(lambda rest: avro.loads(called, header + rest), Undecodable, data[HEADER_BYTES:])
