"""Hypothesis without chance, and log lines that cost little."""

import pytest
from hypothesis import settings

from tests.services.parts import plain_logs

settings.register_profile("antiphon", derandomize=True, database=None, deadline=None, max_examples=150)
settings.load_profile("antiphon")


@pytest.fixture(autouse=True, scope="session")
def _plain_logs() -> None:
    plain_logs()
