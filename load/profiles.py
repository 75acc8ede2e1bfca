"""The workloads by name. Each says whether it is open (orders come by the clock) or closed (customers wait).

==========  ========  ======================================================================================
standard    open      steady: 10 orders/s for 100 s per flow; what the figures of the documentation mean
demo        open      steady: 10 orders/s for 20 s per flow
smoke       open      steady: 5 orders/s for 2 s per flow: does it work at all?
step        open      2, 5, 10, 20, 40 orders/s, 20 s each: where does it bend?
spike       open      5 orders/s for 20 s, 40 for 10 s, 5 for 30 s: how long does the backlog last?
soak        closed    8 customers for 30 min, each waits for the order's end, then thinks for 1 s
==========  ========  ======================================================================================

Flows run one at a time, so that none disturbs another's figures.
"""

from dataclasses import dataclass
from typing import Any, Literal

from load.shapes import Stage, spike, steady, step


@dataclass(frozen=True)
class Profile:
    """A workload for one flow. Open: ``stages``. Closed: ``users``, ``think_s`` and ``closed_s`` (how
    long)."""

    name: str
    stages: tuple[Stage, ...] = ()
    users: int = 0
    think_s: float = 0.0
    closed_s: float = 0.0
    warmup_orders: int = 5
    """Sent one by one before the measurement, marked as run ``<run id>-warmup``, and counted nowhere: the
    first orders after a start pay for connections and imports."""
    timeout_s: float = 30.0
    """How long the first answer may take before it is an error."""
    drain_s: float = 30.0
    """How long an accepted order may take to end, after the last one was sent (open) or after it was sent
    itself (closed); what has not ended by then is lost."""

    @property
    def workload(self) -> Literal["open", "closed"]:
        return "open" if self.stages else "closed"

    @property
    def duration_s(self) -> float:
        """How long orders are sent, in seconds, per flow; the drain comes on top."""
        return sum(stage.duration_s for stage in self.stages) if self.stages else self.closed_s

    @property
    def orders(self) -> int | None:
        """How many orders an open profile sends per flow; None for a closed one, where the system decides."""
        return sum(stage.orders for stage in self.stages) if self.stages else None

    def sentence(self) -> str:
        """The workload in words, for reports."""
        if self.workload == "closed":
            return (
                f"closed: {self.users} customers for {self.closed_s:g} s per flow, each waits for its order "
                f"to end and then thinks for {self.think_s:g} s"
            )
        rates = ", then ".join(f"{stage.rate_per_s:g} orders/s for {stage.duration_s:g} s" for stage in self.stages)
        return f"open: {rates} per flow, sent by the clock, whether or not earlier ones were answered"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Profile":
        return cls(**{**data, "stages": tuple(Stage(**stage) for stage in data["stages"])})


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("standard", steady(10, 100)),
        Profile("demo", steady(10, 20)),
        Profile("smoke", steady(5, 2), warmup_orders=1),
        Profile("step", step((2, 5, 10, 20, 40), each_s=20)),
        Profile("spike", spike(5, 40, base_s=20, peak_s=10, after_s=30)),
        Profile("soak", users=8, think_s=1.0, closed_s=1800),
    )
}


def profile_named(name: str) -> Profile:
    """The profile of that name. Raises KeyError with a sentence that lists the names."""
    try:
        return PROFILES[name]
    except KeyError:
        raise KeyError(f"no load profile {name!r}; there are {', '.join(PROFILES)}") from None
