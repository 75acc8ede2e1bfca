"""Bytes that are no payload, in each format."""

import pytest

from services.contracts.single_object import HEADER_BYTES
from services.domain.messages import Line, Order, StockRefused
from services.transports.errors import Undecodable
from services.transports.formats import FORMATS
from tests.transports.fuzz import hammer

pytestmark = pytest.mark.timeout(300)
REFUSED = StockRefused(Order("o-1", "c-1", "4242424242424242", "Lisbon", (Line("tea", 2), Line("cup", 1)), 900), "no")


@pytest.mark.parametrize("name", FORMATS)
def test_malformed_bytes_are_refused(name: str) -> None:
    """10,000 of them: a reason each, and nothing else."""
    codec = FORMATS[name]
    hammer(lambda data: codec.loads("stock.refused", data), Undecodable, codec.dumps(REFUSED))


def test_malformed_avro_behind_a_good_fingerprint_is_refused() -> None:
    """Past the first check, where the schema leads."""
    avro = FORMATS["avro"]
    data = avro.dumps(REFUSED)
    header = data[:HEADER_BYTES]
    hammer(lambda rest: avro.loads("stock.refused", header + rest), Undecodable, data[HEADER_BYTES:])
