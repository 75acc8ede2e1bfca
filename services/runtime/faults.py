"""Faults, to be switched on while the lab runs: each a named knob with its unit, off by default.

They are settings (services/runtime/live.py) called ``<service>.<knob>`` or ``<service>.<style>.<knob>``, of which the
narrower counts, and are in force everywhere within two seconds. Where they act, in services/runtime/conditions.py and
services/runtime/leaving.py, they wrap handlers and transports; the domain knows nothing of them, and no log line, span,
metric or Kubernetes object tells that one is on. Probes, ``/metrics`` and ``/settings`` are exempt.

Chance comes from the setting ``faults.seed``, the service, the knob and the id of the message or order, so the same
seed decides the same for the same ids. A crash alone is left to real chance: decided by the message's id, a process
that died of it would die of it again for ever.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.domain.order import STEPS
from services.domain.quotes import CARRIERS
from services.runtime.values import number, on_off, shown
from services.styles import STYLES

if TYPE_CHECKING:
    from services.runtime.live import Live

PARTICIPANTS = tuple(step.service for step in STEPS)
_CARRIERS = ("carrier", *(f"carrier-{name}" for name in CARRIERS))
SERVICES = ("orders", *PARTICIPANTS, *_CARRIERS, "ledger")
"""Everybody that has knobs. ``carrier`` is each carrier that has none of its own set."""

Key = tuple[str, str, str]
"""Service, style (empty: all of them) and knob."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One way to go wrong. ``parse`` gives the value of a text, or raises ValueError with what it should be;
    ``acts`` is where it acts, ``services`` are those that have it."""

    name: str
    default: Any
    acts: str
    sentence: str
    parse: Callable[[str], Any]
    services: tuple[str, ...] = SERVICES


_MS = number(0, 60_000)
_RATE = number(0, 1)

FAULTS: dict[str, Knob] = {
    knob.name: knob
    for knob in (
        Knob("delay_ms", 0, "handler", "Handling a message or a call takes this much longer.", _MS),
        Knob(
            "error_rate",
            0,
            "handler",
            "This share of handlings fails before anything is done: a call is answered with its protocol's internal "
            "error, a message is tried again.",
            _RATE,
        ),
        Knob(
            "refuse_rate",
            0,
            "decision",
            "This share of orders is refused instead of done, and refused again when asked again.",
            _RATE,
            (*PARTICIPANTS, *_CARRIERS),
        ),
        Knob(
            "crash_before_effect_rate",
            0,
            "handler",
            "In this share of handlings the process dies at once (SIGKILL) before anything is done.",
            _RATE,
        ),
        Knob(
            "crash_after_effect_rate",
            0,
            "handler",
            "In this share of handlings the process dies at once when the effect is stored, before the answer or the "
            "acknowledgement.",
            _RATE,
        ),
        Knob(
            "crash_after_ack_rate",
            0,
            "consumer",
            "In this share of handlings of a message the process dies at once when that is acknowledged.",
            _RATE,
        ),
        Knob("duplicate_rate", 0, "publish", "This share of messages is published twice.", _RATE),
        Knob(
            "drop_rate",
            0,
            "publish",
            "This share of messages is reported as confirmed by the broker and never reaches it.",
            _RATE,
        ),
        Knob(
            "reorder_ms",
            0,
            "publish",
            "Each message waits a random time up to this before it is published, without holding up others.",
            _MS,
        ),
        Knob("poison_rate", 0, "publish", "This share of messages gets a body that nobody can decode.", _RATE),
        Knob(
            "stranger_rate",
            0,
            "publish",
            "This share of messages is followed by another one, with an id of its own, that nobody can decode.",
            _RATE,
        ),
        Knob(
            "lost_context_rate",
            0,
            "publish",
            "This share of messages is without traceparent, tracestate and baggage on the wire.",
            _RATE,
        ),
        Knob(
            "slow_consumer_ms",
            0,
            "consumer",
            "Each subscription waits this long before it takes the next message in hand.",
            _MS,
        ),
        Knob(
            "pause",
            False,  # noqa: FBT003
            "consumer",
            "Subscriptions take no further message in hand, and on a channel nothing overtakes the one that waits; "
            "what is in hand goes on.",
            on_off,
        ),
        Knob(
            "hold_outbox",
            False,  # noqa: FBT003
            "outbox",
            "What was accepted is not sent until this is off again.",
            on_off,
            ("orders",),
        ),
    )
}
"""Every knob by its name."""


def wider(service: str, knob: str, style: str) -> tuple[Key, ...]:
    """The keys under which a knob may be set for ``service`` in a conversation of ``style``, narrowest first."""
    keys: tuple[Key, ...] = ((service, style, knob), (service, "", knob))
    kind, dash, _ = service.partition("-")
    return (*keys, (kind, style, knob), (kind, "", knob)) if dash else keys


def key_of(name: str) -> Key | None:
    """What the setting called ``name`` is about; None if that is no fault."""
    service, _, rest = name.partition(".")
    style, dot, knob = rest.rpartition(".")
    if knob not in FAULTS or service not in FAULTS[knob].services or (dot and style not in STYLES):
        return None
    return service, style, knob


def names() -> list[str]:
    """Every name that a fault can have."""
    found = [f"{service}.{knob.name}" for knob in FAULTS.values() for service in knob.services]
    return found + [
        f"{service}.{style}.{knob.name}" for knob in FAULTS.values() for service in knob.services for style in STYLES
    ]


def near(name: str, others: list[str]) -> list[str]:
    """What somebody who wrote ``name`` may have meant, best first: a fault or one of ``others``."""
    knob = FAULTS.get(name.rpartition(".")[2])
    service = name.partition(".")[0]
    if knob is not None and service in SERVICES and service not in knob.services:
        return [f"{each}.{knob.name}" for each in knob.services]
    return difflib.get_close_matches(name[:60], [*others, *names()], 3)


def set_in(stored: Mapping[str, str]) -> dict[str, tuple[Key, Any]]:
    """The faults among the settings ``stored``, by name: key and value. Raises ValueError for what is no value."""
    return {
        name: (key, FAULTS[key[2]].parse(text)) for name, text in stored.items() if (key := key_of(name)) is not None
    }


def document() -> dict[str, Any]:
    """The table, for tools: which knobs there are, and for whom."""
    return {
        "styles": list(STYLES),
        "knobs": [
            {
                "name": knob.name,
                "default": shown(knob.default),
                "acts": knob.acts,
                "sentence": knob.sentence,
                "services": list(knob.services),
            }
            for knob in FAULTS.values()
        ],
    }


def held(live: "Live", style: str = "") -> bool:
    """Whether orders keeps what it has accepted in ``style`` in the outbox for now."""
    return bool(live.fault("orders", "hold_outbox", style))
