"""Log lines that cost little."""

import pytest

from tests.services.parts import plain_logs


@pytest.fixture(autouse=True, scope="session")
def _plain_logs() -> None:
    plain_logs()
