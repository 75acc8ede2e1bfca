"""A machine and a cluster as a test wants them: programs on PATH that answer, and objects that the API gives."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

FAKE_TOOL = Path(__file__).with_name("fake_tool.py")
Document = dict[str, Any]
LABELS = {"app.kubernetes.io/instance": "antiphon"}
VALUES: Document = {
    "access": {
        "type": "NodePort",
        "host": "127.0.0.1",
        "nodePorts": {"front_door": 30080, "orders_admin": 30081, "jaeger": 30086},
    },
    "secret": {"existing": ""},
    "services": {"orders": {"access": {"front_door": "http", "orders_admin": "admin"}}, "payment": {}},
    "backends": {
        "jaeger": {"enabled": True, "external": "", "access": {"jaeger": "http"}},
        "prometheus": {"enabled": False, "external": "metrics.example:9090", "access": {"prometheus": "http"}},
        "grafana": {"enabled": False, "external": "", "access": {"grafana": "http"}},
    },
}


class Machine:
    """PATH holds the named tools and nothing else; what they answer is told one by one."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, *names: str) -> None:
        self._folder = folder
        self._answers: list[tuple[str, int, str, str]] = []
        self._api: dict[str, tuple[int, Any]] = {}
        programs = folder / "bin"
        programs.mkdir()
        for name in names:
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {FAKE_TOOL} {name} "$@"\n')
            program.chmod(0o755)
        patch.setenv("PATH", str(programs))
        patch.setenv("FAKE_DIR", str(folder))
        for variable in (
            "HELM_ARGS",
            "PROFILE",
            "KIND_CLUSTER",
            "KIND_NODE_IMAGE",
            "IMAGE_REGISTRY",
            "DOCKER_BUILD_ARGS",
        ):
            patch.delenv(variable, raising=False)
        self.clusters()
        self._save()

    def clusters(self, *names: str) -> None:
        """The kind clusters that there are."""
        (self._folder / "clusters").write_text("".join(f"{name}\n" for name in names))

    def answer(self, pattern: str, out: str = "", *, err: str = "", code: int = 0) -> None:
        """What the first command that fits the pattern prints, from now on, and its exit code."""
        self._answers.insert(0, (pattern, code, out, err))
        self._save()

    def api(self, path: str, body: Any, status: int = 200) -> None:
        """What the cluster answers at a path: a document, a text, or a list, which becomes that of `items`."""
        self._api[path] = (status, {"items": body} if isinstance(body, list) else body)
        self._save()

    def calls(self, begin: str = "") -> list[str]:
        """The commands that were run, in order."""
        file = self._folder / "calls"
        return [call for call in (file.read_text().splitlines() if file.exists() else []) if call.startswith(begin)]

    def has(self, *workloads: Document, pods: list[Document] | None = None) -> None:
        """The namespace's Deployments, and their pods; one good pod each unless the test has its own."""
        group = "/apis/apps/v1/namespaces/antiphon"
        self.api(f"{group}/deployments", list(workloads))
        self.api(f"{group}/statefulsets", [])
        good = [pod(workload["metadata"]["name"]) for workload in workloads]
        self.api("/api/v1/namespaces/antiphon/pods", good if pods is None else pods)
        self.api("/api/v1/namespaces/antiphon/events", [])

    def _save(self) -> None:
        (self._folder / "answers.json").write_text(json.dumps(self._answers))
        (self._folder / "api.json").write_text(json.dumps(self._api))


def deployment(name: str, *, wanted: int = 1, ready: int | None = None, **status: Any) -> Document:
    """A Deployment, settled unless `ready` or `status` say otherwise."""
    there = wanted if ready is None else ready
    return {
        "metadata": {"name": name, "generation": 1, "labels": {**LABELS, "app.kubernetes.io/component": "service"}},
        "spec": {
            "replicas": wanted,
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "template": {"spec": {"containers": [{"image": "antiphon:1-abc"}]}},
        },
        "status": {
            "observedGeneration": 1,
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": there,
            "availableReplicas": there,
            **status,
        },
    }


def pod(name: str, suffix: str = "1", *, ready: bool = True, **status: Any) -> Document:
    """A pod of the Deployment of that name."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"name": f"{name}-{suffix}", "labels": {**LABELS, "app.kubernetes.io/name": name}},
        "spec": {
            "nodeName": "node",
            "containers": [
                {
                    "name": name,
                    "ports": [{"name": "admin", "containerPort": 9464}],
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": "admin"}},
                }
            ],
        },
        "status": {"phase": "Running", "conditions": [condition], **status},
    }
