"""What is done to a run: a sequence that follows from the seed and the flow alone, so that it can be had again."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from load.plan import Flow
from services.styles import STYLES
from services.transports import TRANSPORTS, Port

PARTICIPANTS = ("inventory", "payment", "shipping", "notifications")
SERVER = {
    "rabbitmq": "rabbitmq",
    "kafka": "kafka",
    "sqs": "elasticmq",
    "redis_streams": "redis",
    "redis_pubsub": "redis",
}
"""The process that carries a transport."""
SLOT_S = 2.5
"""From one act's beginning to the next one's, at least: what dies is brought back before anything else begins."""
PAUSE_S = 10.0
HOLD_S = 4.0
"""For what shall be met by a few messages: every process goes by it within two seconds."""
LONG_S = 8.0


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that is done, ``wait_s`` after the one before has begun: ``knobs`` (faults) are set ``for_s`` long;
    ``process`` is killed, or may die of the knobs, and is started again when it is over."""

    what: str
    wait_s: float = 0.0
    knobs: Mapping[str, str] = field(default_factory=dict)
    for_s: float = 0.0
    process: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.for_s:g} s)" if self.for_s else self.what


def sequence(seed: int, flow: Flow) -> tuple[Act, ...]:
    """The acts of a run, in the order in which they begin. Raises ValueError for a flow that cannot be."""
    if flow.style not in STYLES:
        raise ValueError(f"no style {flow.style!r}; there are {', '.join(STYLES)}")
    style = flow.style
    chance = random.Random(f"{seed}/{style}/{flow.transport}")
    wires = STYLES[style].wires(flow.transport)
    brokers = sorted({wire for port, wire in wires.items() if port is not Port.RPC})
    acts = [*_deaths(style, chance), *(_kill(SERVER[wire]) for wire in brokers if wire in SERVER)]
    acts.append(_knobs("fail", style, [chance.choice(_asked(style))], "error_rate", "1", HOLD_S))
    if brokers:
        speakers = sorted({"orders", *_hearers(style)} - {"ledger"})
        acts += [
            _knobs("pause", style, [chance.choice(sorted(_hearers(style) - {"ledger"}))], "pause", "on", PAUSE_S),
            _knobs("duplicate", style, speakers, "duplicate_rate", "0.3", LONG_S),
            _knobs("strangers", style, speakers, "stranger_rate", "0.1", LONG_S),
            _knobs("reorder", style, speakers, "reorder_ms", "400", LONG_S),
        ]
    if Port.RPC in wires:
        acts.append(_knobs("slow", style, [chance.choice(_asked(style))], "delay_ms", "3000", HOLD_S))
    chance.shuffle(acts)
    return tuple(replace(act, wait_s=round(chance.uniform(0.5, 1) * SLOT_S, 1)) for act in acts)


def at_most_once(flow: Flow) -> bool:
    """Whether one of its brokers keeps nothing for those who are away: what it declares to lose it may lose."""
    wires = [TRANSPORTS[name] for name in flow.transport.split(",") if name in TRANSPORTS]
    return any(wire.broker is not None and not wire.queue for wire in wires)


def _hearers(style: str) -> set[str]:
    return {group for groups in STYLES[style].channels.values() for group in groups}


def _asked(style: str) -> list[str]:
    """The participants of its plan, in their order; the step of a quote is all carriers', who are no one process."""
    services = (step.service for stage in STYLES[style].plan for step in stage)
    return [service for service in services if service in PARTICIPANTS]


def _deaths(style: str, chance: random.Random) -> list[Act]:
    """Two are killed, one of them whoever else has a part in it; two die in the middle of a handling."""
    others = sorted(_hearers(style) - {*PARTICIPANTS, "orders"})
    asked = _asked(style)
    before, after = chance.sample(asked, 2)
    return [
        _kill(chance.choice([*asked, "orders", "orders"])),
        *([_kill(chance.choice(others))] if others else []),
        _crash(style, before, "before"),
        _crash(style, after, "after"),
    ]


def _kill(process: str) -> Act:
    return Act(f"kill {process}", process=process)


def _crash(style: str, service: str, when: str) -> Act:
    knobs = {f"{service}.{style}.crash_{when}_effect_rate": "1"}
    return Act(f"crash {service} {when} its effect", knobs=knobs, for_s=HOLD_S, process=service)


def _knobs(what: str, style: str, services: Iterable[str], knob: str, value: str, for_s: float) -> Act:
    chosen = list(services)
    whom = f" {chosen[0]}" if len(chosen) == 1 else ""
    return Act(f"{what}{whom}", knobs={f"{service}.{style}.{knob}": value for service in chosen}, for_s=for_s)
