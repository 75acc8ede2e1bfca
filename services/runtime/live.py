"""The settings that may change while the lab runs: rows that orders owns, asked for by every process each second.

A process keeps the last known values while orders is away. A setting is a name, a unit in that name, a default and a
sentence; ``lab settings`` and the docs are built from ``SETTINGS``.
"""

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from services.domain.order import STEPS
from services.telemetry.messaging import Shape

log = structlog.get_logger()

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """``parse`` turns text into the value or raises ValueError with what it should be."""

    name: str
    default: Any
    sentence: str
    parse: Callable[[str], Any]


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}, not {text!r}")
        return value

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return parse


def _shape(text: str) -> Shape:
    if text not in set(Shape):
        raise ValueError(f"one of {', '.join(Shape)}, not {text!r}")
    return Shape(text)


_WORK_MS = {"inventory": 8.0, "payment": 40.0, "shipping": 15.0, "notifications": 10.0}

SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        Setting(
            "trace.shape",
            Shape.BOTH,
            "How a consumer's spans join the producer's: both, link or parent",
            _shape,
        ),
        *(
            Setting(
                f"{step.service}.work_ms",
                _WORK_MS[step.service],
                f"Time that {step.service} works on a step",
                _number(0, 60_000),
            )
            for step in STEPS
        ),
        Setting("work.jitter", 0.3, "Spread of the work times: sigma of their logarithm", _number(0, 2)),
        Setting("work.seed", 1, "Seed of the spread: the same order takes the same time again", _whole(0, 2**31)),
        Setting("rpc.timeout_s", 2.0, "How long orders waits for one answer", _number(0.01, 60)),
        Setting("messaging.max_attempts", 5, "Failed handlings before a message is a dead letter", _whole(1, 100)),
    )
}


class Live:
    """The current values; ``changed`` is called after each change, and ``also`` follows it in the same process."""

    def __init__(self, changed: Callable[["Live"], None] = lambda _: None) -> None:
        self._values: dict[str, Any] = {name: setting.default for name, setting in SETTINGS.items()}
        self._changed = changed
        self._followers: list[Live] = []

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def also(self, *followers: "Live") -> None:
        self._followers += followers

    def update(self, stored: Mapping[str, str]) -> None:
        """Take over what is stored; what is not stored has its default, what is unknown here is left alone."""
        values = {
            name: setting.parse(stored[name]) if name in stored else setting.default
            for name, setting in SETTINGS.items()
        }
        if values != self._values:
            self._values = values
            self._changed(self)
        for follower in self._followers:
            follower.update(stored)

    def as_text(self) -> dict[str, str]:
        return {name: str(value) for name, value in self._values.items()}

    async def work(self, service: str, order_id: str) -> None:
        """Take the time that ``service`` works on this order: its ``work_ms``, spread log-normally by the seed."""
        work_ms = self[f"{service}.work_ms"]
        if work_ms <= 0:
            return
        chance = random.Random(f"{self['work.seed']}/{service}/{order_id}")
        await asyncio.sleep(work_ms / 1000 * chance.lognormvariate(0, self["work.jitter"]))


async def follow(live: Live, url: str, token: str) -> None:
    """Ask orders for the settings each second, for ever. Failures keep what is known."""
    away = False
    async with httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=2.0, trust_env=False
    ) as client:
        while True:
            try:
                answer = await client.get("/settings")
                answer.raise_for_status()
                live.update(answer.json()["values"])
                away = False
            except Exception as error:  # whatever it is that answers there
                if not away:
                    log.info("settings_unreachable", error=str(error) or type(error).__name__)
                away = True
            await asyncio.sleep(POLL_S)
