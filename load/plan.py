"""What a Locust process is told: where, which flows, how much, for which run. It travels in one variable."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from load.orders import DEFAULT_REFUSED_SHARE, Catalog
from load.profiles import Profile

PLAN_VARIABLE = "LAB_LOAD_PLAN"


@dataclass(frozen=True, order=True)
class Flow:
    """A style over a transport; a style of several ports has one transport name per port, comma-separated."""

    style: str
    transport: str

    def __str__(self) -> str:
        return f"{self.style} over {self.transport}"

    @property
    def slug(self) -> str:
        """The flow as part of a file name."""
        return f"{self.style}-{self.transport.replace(',', '+')}"

    @classmethod
    def parse(cls, text: str) -> "Flow":
        """From ``style/transport`` or ``style:transport``. Raises ValueError otherwise."""
        style, _, transport = text.replace(":", "/", 1).partition("/")
        if not style or not transport:
            raise ValueError(f"{text!r} is no flow; write style/transport, for example choreography/kafka")
        return cls(style.strip(), transport.strip())


@dataclass(frozen=True)
class Plan:
    """``flows`` has one member, except under Locust's web page, where each flow is a user class to choose."""

    front_door: str
    run_id: str
    flows: tuple[Flow, ...]
    profile: Profile
    seed: int
    catalog: Catalog
    refused_share: float = DEFAULT_REFUSED_SHARE

    def only(self, flows: tuple[Flow, ...]) -> "Plan":
        return replace(self, flows=flows)

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Plan":
        data: dict[str, Any] = json.loads(text)
        catalog = {name: tuple(values) for name, values in data["catalog"].items()}
        return cls(
            **{
                **data,
                "flows": tuple(Flow(**flow) for flow in data["flows"]),
                "profile": Profile.from_json(data["profile"]),
                "catalog": Catalog(**catalog),
            }
        )
