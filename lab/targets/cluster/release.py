"""The chart, installed with helm: one release, whose arguments come from the profile, the image and HELM_ARGS."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.targets import LabError
from lab.targets.cluster import tools
from lab.targets.cluster.access import RELEASE, Access
from lab.targets.local.paths import project_root

CHART = "helm/antiphon"
HELM_TIMEOUT_S = 300.0
DEFAULT_PROFILE = "std"
# What a rendering without a cluster assumes: Helm's own assumption may be older than the chart allows.
RENDERED_FOR = "1.34.0"


@dataclass(frozen=True)
class Release:
    """What is, or will be, installed through one access."""

    access: Access
    extra: tuple[str, ...] = field(default=())

    def images(self) -> list[str]:
        """Every image that the chart would run."""
        import yaml

        command = ("template", RELEASE, str(_chart()), f"--kube-version={RENDERED_FOR}", *self._arguments())
        rendered = tools.run(*self.access.helm(*command))
        return sorted({image for document in yaml.safe_load_all(rendered) for image in _images(document)})

    def install(self) -> None:
        """Install or upgrade, without waiting; what an interrupted one left locked is put right before."""
        self._unlock()
        command = ("upgrade", "--install", RELEASE, str(_chart()), *self._arguments())
        tools.run(*self.access.helm(*command), timeout_s=HELM_TIMEOUT_S, patient=True)

    def uninstall(self) -> None:
        """Remove what the chart made, and wait until it is gone; volume claims stay."""
        command = ("uninstall", RELEASE, "--ignore-not-found", "--wait", "--cascade=foreground")
        tools.run(*self.access.helm(*command), timeout_s=HELM_TIMEOUT_S, patient=True)

    @cached_property
    def values(self) -> dict[str, Any]:
        """All values of what is installed. Raises LabError when nothing is."""
        said = tools.run(*self.access.helm("get", "values", RELEASE, "--all", "--output", "json"))
        found: dict[str, Any] = json.loads(said)
        return found

    def is_there(self) -> bool:
        """Whether it is installed."""
        try:
            return bool(self.values)
        except tools.ToolError as error:
            if "not found" in error.output:
                return False
            raise

    def _unlock(self) -> None:
        """Helm refuses to touch a release on which it was killed."""
        with suppress(tools.ToolError):
            found = json.loads(tools.run(*self.access.helm("status", RELEASE, "--output", "json")))
            state = found["info"]["status"]
            if state == "pending-install":
                self.uninstall()
            elif state.startswith("pending-"):
                tools.run(*self.access.helm("rollback", RELEASE), timeout_s=HELM_TIMEOUT_S, patient=True)

    def _arguments(self) -> list[str]:
        own = tools.words(os.environ.get("HELM_ARGS", ""), "HELM_ARGS")
        return ["--values", str(_profile()), *self.extra, *own]


def _chart() -> Path:
    chart = project_root() / CHART
    if not (chart / "Chart.yaml").exists():
        raise LabError(f"there is no {CHART} here: the chart is installed from a checkout")
    return chart


def _profile() -> Path:
    """The values file that PROFILE names. Raises LabError for one that is not there."""
    profiles = _chart() / "profiles"
    name = os.environ.get("PROFILE") or DEFAULT_PROFILE
    path = profiles / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in profiles.glob("*.yaml")))
        raise LabError(f"PROFILE: no profile is called {name!r}: there are {known}")
    return path


def _images(part: Any) -> Iterator[str]:
    """The images of all containers in a manifest, however deep they are."""
    if isinstance(part, list):
        for each in part:
            yield from _images(each)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key in ("containers", "initContainers"):
                yield from (container["image"] for container in value)
            else:
                yield from _images(value)
