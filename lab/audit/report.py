"""What an audit finds: figures for each flow, and the orders that are not fine."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

LAB = ".venv/bin/lab"


@dataclass(frozen=True)
class Problem:
    """One thing that an order lacks or has too much of. ``kind``: lost, dead, pending, outbox, twice, missing, kept or
    unknown. ``declared``: the transport promises no more. ``look`` is the command that looks closer."""

    kind: str
    text: str
    look: str
    message_id: str = ""
    type: str = ""
    broker: str = ""
    channel: str = ""
    group: str = ""
    declared: bool = False


@dataclass
class Finding:
    """An order that is not fine. ``explained``: it is known why it is where it is. ``stuck`` is the step that it waits
    for, as ``step of service``, while it is open."""

    id: str
    style: str
    transport: str
    state: str
    stuck: str
    explained: bool
    problems: list[Problem]
    text: str


@dataclass
class Flow:
    """The figures of one style over one transport. ``lost_declared`` are those of ``lost`` that the transport does not
    promise to deliver; deliveries are counted per group."""

    style: str
    transport: str
    orders: int = 0
    completed: int = 0
    rejected: int = 0
    open: int = 0
    produced: int = 0
    delivered: int = 0
    duplicated: int = 0
    suppressed: int = 0
    lost: int = 0
    lost_declared: int = 0
    dead_lettered: int = 0
    compensated_orders: int = 0
    compensated_effects: int = 0
    pending: int = 0
    effects: int = 0
    effects_twice: int = 0


@dataclass
class Report:
    scope: str
    flows: list[Flow]
    orders: list[Finding]
    notes: list[str]
    made_at: str = ""

    @property
    def violations(self) -> list[str]:
        """What must not be, in a line each; nothing where all is well."""
        counts = Counter(
            problem.kind
            for order in self.orders
            for problem in order.problems
            if problem.kind in _WRONG and not problem.declared
        )
        found = [f"{count} {_WRONG[kind]}" for kind, count in sorted(counts.items())]
        if unexplained := sum(not order.explained for order in self.orders):
            found.append(f"{unexplained} orders are open and nothing says why")
        return found

    def to_json(self) -> dict[str, Any]:
        """A contract for scripts: fields are added and never changed."""
        totals = Counter[str]()
        for flow in self.flows:
            totals.update({name: value for name, value in asdict(flow).items() if isinstance(value, int)})
        return {
            "scope": self.scope,
            "made_at": self.made_at,
            "ok": not self.violations,
            "violations": self.violations,
            "totals": dict(totals),
            "flows": [asdict(flow) for flow in self.flows],
            "orders": [asdict(order) for order in self.orders],
            "notes": self.notes,
        }


_WRONG = {
    "lost": "messages lost that should not be",
    "twice": "effects done twice",
    "missing": "effects missing of completed orders",
    "kept": "effects not taken back of rejected orders",
    "unknown": "messages of which nobody could be asked",
}
