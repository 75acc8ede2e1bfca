"""Deadlines that travel: until when the answer to a whole conversation is of use, told to everybody who is asked on the
way.

An instant, in Unix milliseconds, as the baggage member ``lab.deadline``: baggage is on every wire already, whatever the
protocol itself knows of deadlines (of ours only gRPC does). It needs clocks that agree to a few milliseconds. It is
no attribute of spans, and what makes no sense as one is none. It only ever moves nearer: whoever sets a later one than
the caller's keeps the caller's.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach, get_current

from services.telemetry import conventions as c

MAX_DIGITS = 15
"""Of an instant that is taken for one: it is the year 33658 after that."""

UnixClock = Callable[[], float]


def remaining_s(context: Context | None = None, *, now: UnixClock = time.time) -> float | None:
    """How long there is until the deadline of ``context`` (the current one): 0 or less when it has passed, None where
    there is none."""
    value = baggage.get_baggage(c.Baggage.DEADLINE, context)
    if not isinstance(value, str) or len(value) > MAX_DIGITS or not (value.isascii() and value.isdecimal()):
        return None
    return int(value) / 1000 - now()


def with_deadline(context: Context | None, seconds: float, *, now: UnixClock = time.time) -> Context:
    """``context`` (None: the current one) with the deadline in ``seconds``, or earlier where it had an earlier one."""
    left_s = remaining_s(context, now=now)
    if left_s is not None and left_s <= seconds:
        return get_current() if context is None else context
    return baggage.set_baggage(c.Baggage.DEADLINE, str(max(0, int((now() + seconds) * 1000))), context)


def without_deadline(context: Context | None = None) -> Context:
    """``context`` (the current one) with all the time in the world: for what is stored, and done by somebody else, when
    the caller has long been answered."""
    return baggage.remove_baggage(c.Baggage.DEADLINE, get_current() if context is None else context)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block's context has its deadline in ``seconds``. It is not ended by it: whoever asks somebody does that."""
    token = attach(with_deadline(None, seconds))
    try:
        yield
    finally:
        detach(token)
