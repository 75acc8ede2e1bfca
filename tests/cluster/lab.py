"""The lab of the cluster tests: what runs in a namespace, asked through the API server and the printed addresses."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from lab.targets.cluster.target import ClusterTarget
from tests.lab import Lab, eventually

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/antiphon"
NAMESPACE = "antiphon"
NAME = "app.kubernetes.io/name"
OURS = "app.kubernetes.io/part-of=antiphon,app.kubernetes.io/component in (service, backend)"


class Kube:
    """kubectl and helm as a person types them, and ``api``, the API server without its credentials, on loopback."""

    def __init__(self, kubeconfig: Path | str, api: str) -> None:
        self.environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self.api = f"{api}/api/v1/namespaces"
        self.http = httpx.Client(trust_env=False, timeout=30)

    def run(self, *words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, capture_output=True, text=True, input=stdin, env=self.environment, timeout=300, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done

    def get(self, what: str, *words: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        """The objects of a kind; ``words`` are kubectl's own, such as a selector."""
        document = json.loads(self.run("kubectl", "-n", namespace, "get", what, "-o", "json", *words).stdout)
        items: list[dict[str, Any]] = document.get("items", [document])
        return items

    def pods(self, name: str | None = None, *, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        """The live pods, of one component or of all, without those of Jobs and tests."""
        answer = self.http.get(f"{self.api}/{namespace}/pods", params={"labelSelector": OURS})
        assert answer.status_code == 200, answer.text
        return [
            pod
            for pod in answer.json()["items"]
            if "deletionTimestamp" not in pod["metadata"] and name in {None, pod["metadata"]["labels"][NAME]}
        ]


@contextmanager
def namespace(kube: Kube) -> Iterator[str]:
    """A namespace that enforces the restricted level, for as long as the block runs."""
    name = f"{NAMESPACE}-{secrets.token_hex(3)}"
    kube.run("kubectl", "create", "namespace", name)
    try:
        kube.run("kubectl", "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        yield name
    finally:
        kube.run("kubectl", "delete", "namespace", name, "--wait=false")


@contextmanager
def proxy(kubeconfig: Path | str) -> Iterator[str]:
    """The address at which `kubectl proxy` serves."""
    with subprocess.Popen(
        ["kubectl", "proxy", "--port=0", "--kubeconfig", str(kubeconfig)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield "http://" + process.stdout.readline().rsplit(maxsplit=1)[-1]  # the one line that it prints
        finally:
            process.terminate()


class ClusterLab(Lab[ClusterTarget]):
    def __init__(self, target: ClusterTarget, kube: Kube) -> None:
        super().__init__(target)
        self.kube = kube

    def admin(self, service: str) -> Sequence[str]:
        pods = self.kube.pods(service)
        return [f"{self.kube.api}/{NAMESPACE}/pods/{pod['metadata']['name']}:9464/proxy" for pod in pods]

    @property
    def image_tag(self) -> str:
        """Of our own image, as it runs."""
        (container,) = self.kube.pods("orders")[0]["spec"]["containers"]
        tag: str = container["image"].rpartition(":")[2]
        return tag

    @property
    def jaeger_metrics(self) -> str:
        return f"{self.kube.api}/{NAMESPACE}/services/jaeger:metrics/proxy"

    def settle(self) -> None:
        """Return when every pod is ready."""
        eventually(lambda: all(ready(pod) for pod in self.kube.pods()) or None, "every pod is ready", 180)


def ready(pod: Mapping[str, Any]) -> bool:
    """What its Ready condition says."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))
