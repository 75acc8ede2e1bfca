"""What keeps a caller from making a bad thing worse: the circuit breaker, and the budget of its retries.

Both are pure: no I/O, no waiting, the clock is given. They are ours, as no library does what is wanted here. Of the
circuit breakers that are still maintained (purgatory 3.0, circuitbreaker 2.1), both let every caller in as soon as the
circuit is half open (20 of 20, tried), so that a peer that comes up is met by all who wait at once; both take the word
of a call that was let in before the circuit opened; and limits and clock are fixed when the breaker is made, where
ours are settings that change while it runs. pybreaker knows no asyncio (its issue 7), aiobreaker is of 2021. A retry
budget, in proportion to calls, none of tenacity, stamina and aiolimiter has.
"""

from collections.abc import Callable
from enum import IntEnum

from services.transports.errors import Unavailable


class Circuit(IntEnum):
    """A breaker's state; the number is the metric's."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitOpen(Unavailable):
    """Not asked: the last calls failed, and it is too early to try again."""


class Breaker:
    """For one peer. ``clock`` is monotonic, in seconds; ``turned`` hears of each change of ``state``.

    Closed, it counts failures that follow one another. Open, it lets nobody in for a while. Then the next one is the
    probe, on which it depends, and until that is back nobody else is let in.
    """

    def __init__(self, clock: Callable[[], float], turned: Callable[[Circuit], None] = lambda _: None) -> None:
        self.state = Circuit.CLOSED
        self.failures = 0
        self._clock = clock
        self._turned = turned
        self._opened_at = 0.0
        self._turns = 0

    def enter(self, open_s: float) -> int:
        """A ticket, to be handed to ``leave``. Raises ``CircuitOpen``."""
        if self.state is Circuit.HALF_OPEN:
            raise CircuitOpen(f"circuit half open after {self.failures} failures, another call tries")
        if self.state is Circuit.OPEN:
            left_s = self._opened_at + open_s - self._clock()
            if left_s > 0:
                raise CircuitOpen(f"circuit open for another {left_s:.3g} s after {self.failures} failures")
            self._turn(Circuit.HALF_OPEN)
        return self._turns

    def leave(self, ticket: int, *, worked: bool | None, limit: int) -> None:
        """How the call went that ``ticket`` was for; None where that says nothing about the peer. ``limit`` failures
        open the circuit. What comes from before the last change of state is old news."""
        if ticket != self._turns:
            return
        probed = self.state is Circuit.HALF_OPEN
        if worked:
            self.failures = 0
            if probed:
                self._turn(Circuit.CLOSED)
        elif worked is None:
            if probed:
                self._turn(Circuit.OPEN)  # since when it has been: the next one may try at once
        else:
            self.failures += 1
            if probed or self.failures >= limit:
                self._opened_at = self._clock()
                self._turn(Circuit.OPEN)

    def reset(self) -> None:
        """Forget all of it."""
        if self.state is not Circuit.CLOSED or self.failures:
            self.failures = 0
            self._turn(Circuit.CLOSED)

    def _turn(self, state: Circuit) -> None:
        turned, self.state = state is not self.state, state
        self._turns += 1
        if turned:
            self._turned(state)


class Budget:
    """How many calls may be repeated: a share of all calls, from a bucket that holds ``BURST`` retries and is full at
    first, as where few calls are made a share of them would allow none (so does gRPC, proposal A6; Finagle instead
    allows some each second). When all calls fail, the peer gets that share more of them, not a multiple."""

    BURST = 10

    def __init__(self) -> None:
        self._thousandths = self.BURST * 1000

    def earn(self, share: float) -> None:
        """A call was made (not: repeated)."""
        self._thousandths = min(self.BURST * 1000, self._thousandths + round(share * 1000))

    def spend(self, share: float) -> bool:
        """Whether a call may be repeated; then it counts. With a share of 0 none may."""
        if share <= 0 or self._thousandths < 1000:
            return False
        self._thousandths -= 1000
        return True
