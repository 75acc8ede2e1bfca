"""Without helm these tests cannot be run: they say so."""

import pytest

from tests.helm.chart import NO_HELM, has_helm


@pytest.fixture(autouse=True, scope="session")
def _helm():
    if not has_helm():
        pytest.skip(NO_HELM)
