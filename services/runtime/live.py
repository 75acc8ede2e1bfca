"""The settings that may change while the lab runs: rows that orders owns, asked for by every process each second.

A process keeps the last known values while orders is away. A setting is a name, a unit in that name, a default and a
sentence; ``lab settings`` and the docs are built from ``SETTINGS``. Faults (services/runtime/faults.py) ride with them:
a thousand names, of which only those that are set are kept, shown and looked at.
"""

import asyncio
import random
from asyncio import Event
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx
import structlog

from services.domain.order import STEPS
from services.runtime import faults
from services.runtime.faults import FAULTS, Key, Knob
from services.runtime.values import number, shown, whole
from services.telemetry.messaging import Shape

log = structlog.get_logger()

POLL_S = 1.0


class Switch(StrEnum):
    OFF = "off"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Setting:
    """``parse`` turns text into the value or raises ValueError with what it should be."""

    name: str
    default: Any
    sentence: str
    parse: Callable[[str], Any]


def _shape(text: str) -> Shape:
    if text not in set(Shape):
        raise ValueError(f"one of {', '.join(Shape)}, not {text!r}")
    return Shape(text)


def _switch(text: str) -> Switch:
    if text not in set(Switch):
        raise ValueError(f"one of {', '.join(Switch)}, not {text!r}")
    return Switch(text)


_QUOTE_MS = {"swift": 10.0, "steady": 60.0, "frugal": 400.0}
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
                number(0, 60_000),
            )
            for step in STEPS
        ),
        *(
            Setting(
                f"carrier-{name}.work_ms",
                work_ms,
                f"Time until {name} answers a request for a quote",
                number(0, 60_000),
            )
            for name, work_ms in _QUOTE_MS.items()
        ),
        Setting("carrier-frugal.silent_share", 0.1, "Share of the requests that frugal never answers", number(0, 1)),
        Setting("quotes.deadline_s", 2.0, "How long orders gathers quotes", number(0.01, 600)),
        Setting("saga.timeout_s", 5.0, "How long a saga waits for a reply", number(0.01, 3600)),
        Setting(
            "reply.timeout_s",
            5.0,
            "How long orders waits for an answer by message before it asks again",
            number(0.01, 3600),
        ),
        Setting("work.jitter", 0.3, "Spread of the work times: sigma of their logarithm", number(0, 2)),
        Setting("work.seed", 1, "Seed of the spread: the same order takes the same time again", whole(0, 2**31)),
        Setting("rpc.timeout_s", 2.0, "How long orders waits for one answer", number(0.01, 60)),
        Setting("order.deadline_s", 10.0, "How long a synchronous conversation may take in all", number(0.01, 3600)),
        Setting("rpc.retries", 0, "How often a call that failed is made again, at most", whole(0, 10)),
        Setting("rpc.retry_budget", 0.1, "Retries to a peer, as a share of the calls to it", number(0, 1)),
        Setting("rpc.breaker", Switch.OFF, "Whether a peer whose calls fail is left alone: on, off", _switch),
        Setting("rpc.breaker_failures", 5, "So many failures in a row open the circuit to a peer", whole(1, 1000)),
        Setting("rpc.breaker_open_s", 3.0, "How long a circuit stays open until a call tries", number(0.01, 600)),
        Setting("messaging.max_attempts", 5, "Failed handlings before a message is a dead letter", whole(1, 100)),
        Setting("faults.seed", 1, "Seed of the faults' chance: the same ids meet the same again", whole(0, 2**31)),
    )
}


class UnknownSettingError(ValueError):
    """``str()`` of it says which name is none, and which ones are ``near``, if any is."""

    def __init__(self, name: str, near: list[str]) -> None:
        meant = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
        super().__init__(f"{name[:60]!r} is no setting{meant}")
        self.near = near


def find(name: str) -> Setting | Knob:
    """The setting called ``name``, or the fault. Raises UnknownSettingError."""
    if name in SETTINGS:
        return SETTINGS[name]
    if (key := faults.key_of(name)) is not None:
        return FAULTS[key[2]]
    raise UnknownSettingError(name, faults.near(name, list(SETTINGS)))


class Live:
    """The current values; ``changed`` is called after each change, and ``also`` follows it in the same process.
    ``faults`` are those that are set: whoever is asked for each message looks first whether there are any."""

    def __init__(self, changed: Callable[["Live"], None] = lambda _: None) -> None:
        self._values: dict[str, Any] = {name: setting.default for name, setting in SETTINGS.items()}
        self._faults_by_name: dict[str, tuple[Key, Any]] = {}
        self.faults: dict[Key, Any] = {}
        self._changed = changed
        self._news = Event()
        self._followers: list[Live] = []

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def fault(self, service: str, knob: str, style: str = "") -> Any:
        """The value of a knob of ``service`` in a conversation of ``style``, whether or not it is known which."""
        known = self.faults
        if known:
            for key in faults.wider(service, knob, style):
                if key in known:
                    return known[key]
        return FAULTS[knob].default

    async def news(self) -> None:
        """Return when something has changed."""
        await self._news.wait()

    def also(self, *followers: "Live") -> None:
        self._followers += followers

    def update(self, stored: Mapping[str, str]) -> None:
        """Take over what is stored; what is not stored has its default, what is unknown here is left alone."""
        values = {
            name: setting.parse(stored[name]) if name in stored else setting.default
            for name, setting in SETTINGS.items()
        }
        by_name = faults.set_in(stored)
        if (values, by_name) != (self._values, self._faults_by_name):
            self._values, self._faults_by_name = values, by_name
            self.faults = dict(by_name.values())
            self._changed(self)
            self._news.set()
            self._news = Event()
        for follower in self._followers:
            follower.update(stored)

    def as_text(self) -> dict[str, str]:
        """Every setting, and the faults that are set."""
        return {name: shown(value) for name, value in self._values.items()} | self.faults_as_text()

    def faults_as_text(self) -> dict[str, str]:
        return {name: shown(value) for name, (_, value) in sorted(self._faults_by_name.items())}

    def chance(self, service: str, order_id: str) -> random.Random:
        """What is chance for ``service`` and this order, and by the seed the same again."""
        return random.Random(f"{self['work.seed']}/{service}/{order_id}")

    async def work(self, service: str, order_id: str) -> None:
        """Take the time that ``service`` works on this order: its ``work_ms``, spread log-normally by the seed."""
        work_ms = self[f"{service}.work_ms"]
        if work_ms <= 0:
            return
        chance = self.chance(service, order_id)
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
