"""What one order leaves behind, flow by flow: the same on this machine and on a cluster."""

import pytest

from tests.lab import FIGURES, assert_figures
from tests.live.lab import RealLab

pytestmark = pytest.mark.live


@pytest.mark.parametrize(("style", "transport"), FIGURES)
def test_an_order_has_its_traces_spans_and_links(lab: RealLab, style: str, transport: str) -> None:
    assert_figures(lab, style, transport)
