"""Figures as people read them. None is a dash."""

NOTHING = "-"


def number(value: float | None) -> str:
    """Three digits that matter: 0.42, 4.21, 42.1, 421, 4,210."""
    if value is None:
        return NOTHING
    magnitude = abs(value)
    if magnitude >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"


def pair(low: float | None, high: float | None) -> str:
    """Two figures of one kind, for example p50 and p95."""
    return NOTHING if low is None and high is None else f"{number(low)} / {number(high)}"


def share(value: float | None) -> str:
    """Per cent, from 0 to 1."""
    if value is None:
        return NOTHING
    percent = value * 100
    if 0 < percent < 1:
        return "<1 %"
    return "99 %" if 99 <= percent < 100 else f"{percent:.0f} %"


def milliseconds(value: float | None) -> str:
    """With its unit, in seconds from ten on: 12.3 ms, 12.3 s."""
    if value is None:
        return NOTHING
    return f"{number(value / 1000)} s" if value >= 10_000 else f"{number(value)} ms"
