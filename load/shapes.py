"""Shapes: the pacing of an open workload, as stages of a constant rate.

Open means that orders are sent when the schedule says so, whether or not earlier ones were answered, so that
a slow system cannot slow its own load down and hide its queue. Arrivals are evenly spaced within a stage.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """``rate_per_s`` orders per second for ``duration_s`` seconds."""

    rate_per_s: float
    duration_s: float

    @property
    def orders(self) -> int:
        return round(self.rate_per_s * self.duration_s)


def steady(rate_per_s: float, duration_s: float) -> tuple[Stage, ...]:
    """One rate throughout."""
    return (Stage(rate_per_s, duration_s),)


def step(rates_per_s: Iterable[float], each_s: float) -> tuple[Stage, ...]:
    """One rate after the other, ``each_s`` seconds each: where does it bend?"""
    return tuple(Stage(rate, each_s) for rate in rates_per_s)


def spike(base_per_s: float, peak_per_s: float, *, base_s: float, peak_s: float, after_s: float) -> tuple[Stage, ...]:
    """A base, a peak, and the base again: how long does the backlog last?"""
    return (Stage(base_per_s, base_s), Stage(peak_per_s, peak_s), Stage(base_per_s, after_s))


def instants_s(stages: Iterable[Stage]) -> Iterator[float]:
    """When each order is due, in seconds from the start, in order."""
    begin_s = 0.0
    for stage in stages:
        for nth in range(stage.orders):
            yield begin_s + nth / stage.rate_per_s
        begin_s += stage.duration_s
