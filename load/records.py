"""What the load saw, order by order: the raw figures of a run, as JSON in its folder.

All durations are milliseconds on the client's clock, from the sending of the POST: ``accept_ms`` to its
answer, ``complete_ms`` to the order's end.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from load.orders import OrderKind
from load.plan import Flow
from load.profiles import Profile

Outcome = Literal["completed", "rejected", "lost", "failed", "interrupted"]
TERMINAL_STATES = ("completed", "rejected")
FILE_NAME = "load.json"


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of them lie, interpolated between the two nearest; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass
class OrderRecord:
    """One order that was sent.

    ``outcome``: ``completed`` and ``rejected`` are its end; ``lost`` was accepted and did not end before the
    drain timeout; ``failed`` was not accepted (``error`` says why); ``interrupted`` was in flight when the
    load was stopped.
    """

    index: int
    kind: OrderKind
    outcome: Outcome = "interrupted"
    order_id: str | None = None
    status_code: int = 0
    """Of the POST; 0 where no answer came."""
    due_s: float = 0.0
    """When the order was due, in seconds from the start of the flow."""
    late_ms: float = 0.0
    """How much later than that it was sent: the load generator's own delay, in no other figure."""
    accept_ms: float | None = None
    complete_ms: float | None = None
    reason: str | None = None
    """Why it was rejected, in the order's words."""
    error: str | None = None

    @property
    def accepted(self) -> bool:
        return self.order_id is not None

    @property
    def expected(self) -> bool:
        """Whether it ended as its kind should: an ordinary order completed, a refused one rejected."""
        return self.outcome == ("completed" if self.kind == "ordinary" else "rejected")


@dataclass
class FlowResult:
    """One flow's share of a run. Instants are ISO 8601, UTC."""

    flow: Flow
    started_at: str
    ended_at: str
    orders: list[OrderRecord] = field(default_factory=list)
    warmup_failed: int = 0
    poll_errors: dict[str, int] = field(default_factory=dict)
    """Failed looks at an accepted order, by type; the look was repeated."""
    complaint: str | None = None
    """Why this flow's load ended before its time, if it did."""

    def count(self, outcome: Outcome) -> int:
        return sum(record.outcome == outcome for record in self.orders)

    @property
    def accepted(self) -> int:
        return sum(record.accepted for record in self.orders)

    @property
    def ended(self) -> int:
        return self.count("completed") + self.count("rejected")

    @property
    def lost(self) -> int:
        return self.count("lost")

    @property
    def unexpected(self) -> int:
        """Orders that ended otherwise than their kind should."""
        return sum(r.outcome in TERMINAL_STATES and not r.expected for r in self.orders)

    @property
    def errors(self) -> dict[str, int]:
        return dict(Counter(record.error for record in self.orders if record.error is not None))

    @property
    def orders_per_s(self) -> float | None:
        """Orders that ended, per second between the first one's sending and the last one's end; None of
        nothing."""
        sent = [r.due_s + r.late_ms / 1000 for r in self.orders]
        ends = [
            r.due_s + (r.late_ms + r.complete_ms) / 1000
            for r in self.orders
            if r.outcome in TERMINAL_STATES and r.complete_ms is not None
        ]
        return len(ends) / (max(ends) - min(sent)) if ends and max(ends) > min(sent) else None

    def accept_ms(self) -> list[float]:
        """Of the orders that were accepted."""
        return [r.accept_ms for r in self.orders if r.accepted and r.accept_ms is not None]

    def complete_ms(self) -> list[float]:
        """Of the orders that ended, completed or rejected."""
        return [r.complete_ms for r in self.orders if r.outcome in TERMINAL_STATES and r.complete_ms is not None]

    def late_ms(self) -> list[float]:
        return [record.late_ms for record in self.orders]


@dataclass
class LoadResult:
    """A run: the same seeded orders over one flow after the other."""

    run_id: str
    front_door: str
    profile: Profile
    workload: str
    """The profile in a sentence."""
    seed: int
    refused_share: float
    started_at: str
    ended_at: str
    flows: list[FlowResult] = field(default_factory=list)
    busy_before: float | None = None
    """The share of the machine's CPUs that was taken, by whatever, just before the load began."""

    @property
    def lost(self) -> int:
        return sum(flow.lost for flow in self.flows)

    @property
    def failed(self) -> int:
        return sum(flow.count("failed") for flow in self.flows)

    def save(self, run_dir: Path) -> Path:
        """Writes ``load.json`` whole or not at all."""
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / FILE_NAME
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return unfinished.replace(path)

    @classmethod
    def read(cls, run_dir: Path) -> "LoadResult":
        """Raises FileNotFoundError where no load ran, ValueError where the file is not one of ours."""
        try:
            data = json.loads((run_dir / FILE_NAME).read_text())
            flows = [_flow_from(flow) for flow in data["flows"]]
            return cls(**{**data, "profile": Profile.from_json(data["profile"]), "flows": flows})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{run_dir / FILE_NAME} is no load result: {error!r}") from error


def _flow_from(data: dict[str, Any]) -> FlowResult:
    orders: Iterable[dict[str, Any]] = data["orders"]
    return FlowResult(**{**data, "flow": Flow(**data["flow"]), "orders": [OrderRecord(**order) for order in orders]})
