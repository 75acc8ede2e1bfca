"""For every test: what the processes that it starts inherit from this one."""

import signal
from collections.abc import Iterator

import pytest


def pytest_sessionstart() -> None:
    """A shell's background job ignores Ctrl-C, and so would every process started here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """No test leaves signals blocked: what later ones start would not hear them."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    assert signal.pthread_sigmask(signal.SIG_SETMASK, blocked) == blocked
