"""The lab of the live tests: processes of this machine."""

import re

import httpx

from lab.targets.local.ports import Ports
from lab.targets.local.state import StateDir
from lab.targets.local.target import LocalTarget
from tests.lab import Lab, eventually


class RealLab(Lab[LocalTarget]):
    def __init__(self, target: LocalTarget) -> None:
        super().__init__(target)
        self.ports = Ports(int(self.addresses["front_door"].rsplit(":", 1)[1]))

    def admin(self, service: str) -> list[str]:
        """The first process of a service, then those that scaling added."""
        running = StateDir(self.target.state_dir).load().running
        own = re.compile(rf"{service}(-\d+)?")
        return [self.ports.url(f"{name}.admin") for name in sorted(running) if own.fullmatch(name)]

    @property
    def jaeger_metrics(self) -> str:
        return self.ports.url("jaeger.metrics")

    def settle(self) -> None:
        """Return when every process is ready; start those that a test left dead."""
        dead = [p.name for p in self.target.status().processes if p.pid is None]
        if dead:
            self.target.restart(*dead)
        eventually(lambda: self.target.status().ready or None, "everything is ready", 60)

    def wait_for_jaeger(self) -> None:
        """Return when Jaeger answers; where it is being built, that takes minutes."""
        self.addresses = eventually(
            lambda: self.target.addresses if self._jaeger_answers() else None, "Jaeger is there", 1500
        )

    def _jaeger_answers(self) -> bool:
        address = self.target.addresses.get("jaeger")
        try:
            return address is not None and self.http.get(f"{address}/api/services").status_code == 200
        except httpx.TransportError:
            return False
