"""What a setting's text is turned into, each with what it should have been: the parsers of the settings' tables."""

import math
from collections.abc import Callable


def number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}, not {text[:60]!r}")
        return value

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or len(text) > 20 or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}, not {text[:60]!r}")
        return int(text)

    return parse


def on_off(text: str) -> bool:
    if text not in {"on", "off"}:
        raise ValueError(f"on or off, not {text[:60]!r}")
    return text == "on"


def shown(value: object) -> str:
    """A value as the text that gives it again."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
