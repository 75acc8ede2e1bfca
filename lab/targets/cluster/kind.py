"""A kind cluster: Kubernetes in containers of this machine's Docker engine, with the ports of `k8s/kind.yaml`."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.targets import LabError, Progress
from lab.targets.cluster import tools
from lab.targets.cluster.access import Access
from lab.targets.local.paths import project_root

CONFIG = "k8s/kind.yaml"
LABEL = "antiphon=lab"
"""Carried by the nodes of a cluster made from our file; no other one is ever deleted."""
CREATE_TIMEOUT_S = 900.0
LOAD_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Kind:
    """The cluster of that name (KIND_CLUSTER), whether it exists or not. `folder` holds its kubeconfig."""

    name: str
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        """A file of our own: the user's is not touched."""
        return self.folder / f"{self.name}.kubeconfig"

    @property
    def access(self) -> Access:
        """How kubectl and helm reach it."""
        return Access(f"kind-{self.name}", self.kubeconfig)

    def exists(self) -> bool:
        """Whether the engine has its nodes, running or not."""
        return self.name in tools.run("kind", "get", "clusters").split()

    def find(self) -> bool:
        """False when there is no such cluster; else its kubeconfig is there."""
        if not self.exists():
            return False
        if not self.kubeconfig.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            tools.run("kind", "export", "kubeconfig", "--name", self.name, "--kubeconfig", str(self.kubeconfig))
        return True

    def make(self, logs: Path, progress: Progress) -> None:
        """Create it, unless it is there."""
        if self.find():
            self._wake()
            progress("cluster", f"kind {self.name} is there", "done")
            return
        image = os.environ.get("KIND_NODE_IMAGE")
        progress("cluster", f"kind create cluster {self.name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["kind", "create", "cluster", "--name", self.name, "--config", str(project_root() / CONFIG)]
        with self._undone_on_failure():
            tools.watch(
                [*command, "--kubeconfig", str(self.kubeconfig), *(["--image", image] if image else [])],
                log=logs / "kind.log",
                timeout_s=CREATE_TIMEOUT_S,
                on_line=lambda line: progress("cluster", line) if line and "🖼" not in line else None,
            )
        progress("cluster", f"kind {self.name} created", "done")

    def images(self) -> set[str]:
        """The images that every node has, by their full names. Tags of ours and of the versions file never move, so a
        name says enough."""
        found = []
        for node in tools.run("kind", "get", "nodes", "--name", self.name).split():
            with suppress(tools.ToolError):
                listed = tools.run("docker", "exec", node, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet")
                found.append(set(listed.split()))
        return set.intersection(*found) if found else set()

    def load(self, image: str, logs: Path) -> None:
        """Bring an image of the engine to every node."""
        tools.watch(
            ["kind", "load", "docker-image", image, "--name", self.name],
            log=logs / "load.log",
            timeout_s=LOAD_TIMEOUT_S,
            on_line=lambda _: None,
        )

    def is_ours(self) -> bool:
        """Whether it was made from our file."""
        access = self.access
        return bool(tools.run(*access.kubectl("get", "nodes", "-l", LABEL, "-o", "name"), timeout_s=20).strip())

    def delete(self) -> None:
        """Remove it with all that is in it, volumes and kubeconfig included."""
        tools.run("kind", "delete", "cluster", "--name", self.name, "--kubeconfig", str(self.kubeconfig), timeout_s=120)
        self.kubeconfig.unlink(missing_ok=True)

    def _wake(self) -> None:
        """Start nodes that ended with the machine or the engine."""
        for node in tools.run("kind", "get", "nodes", "--name", self.name).split():
            if tools.run("docker", "inspect", "--format", "{{.State.Running}}", node).strip() != "true":
                tools.run("docker", "start", node)

    @contextmanager
    def _undone_on_failure(self) -> Iterator[None]:
        """What was created by half is removed again."""
        try:
            yield
        except BaseException as error:
            self.delete()
            taken = re.search(r"Bind for (\S+) failed|listen tcp4? (\S+): bind", getattr(error, "output", ""))
            if taken:
                raise LabError(
                    f"port {taken[1] or taken[2]} is taken, by another cluster or a program (docker ps, ss -ltnp): "
                    f"end it, or change the ports in {CONFIG} and access.nodePorts"
                ) from error
            raise
