"""The chart's own life: values change, versions change, back again, and away."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab import CHART, NAMESPACE, ClusterLab, Kube, namespace
from tests.lab import ORDER, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BEFORE = max((Path(__file__).parent / "charts").glob("antiphon-*.tgz"))
"""The chart as it was before its last version bump."""


def test_a_changed_value_restarts_only_what_it_touches(lab: ClusterLab, kube: Kube) -> None:
    def pods() -> dict[str, str]:
        return {pod["metadata"]["uid"]: pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in kube.pods()}

    before = pods()
    helm(kube, "upgrade", "antiphon", str(CHART), "--reuse-values", "--set", "services.payment.env.LAB_MAX_IN_FLIGHT=8")
    lab.settle()
    changed = {name for uid, name in pods().items() if uid not in before}
    assert changed == {"payment"}
    helm(kube, "rollback", "antiphon")
    lab.settle()
    changed = {name for uid, name in pods().items() if uid not in before}
    assert changed == {"payment"}
    lab.finished("choreography", "rabbitmq")


class Elsewhere:
    """A release of its own, in a namespace of its own, reached through the API server."""

    def __init__(self, kube: Kube, namespace: str, tag: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self.door = f"{kube.api}/{namespace}/services/orders:http/proxy"
        mini = ("--values", str(CHART / "profiles/mini.yaml"))
        self.values = [*mini, "--set", "access.type=ClusterIP", "--set", f"image.tag={tag}"]

    def helm(self, *words: str) -> None:
        self.kube.run("helm", *words, "--namespace", self.namespace, "--wait", "--timeout", "4m")

    def secret(self) -> dict[str, str]:
        (secret,) = self.kube.get("secret", "antiphon", namespace=self.namespace)
        data: dict[str, str] = secret["data"]
        return data

    def place(self) -> str:
        answer = self.kube.http.post(f"{self.door}/orders", params={"style": "choreography"}, json=ORDER)
        assert answer.status_code == 202, answer.text
        order_id: str = answer.json()["id"]
        eventually(lambda: self.state(order_id) == "completed" or None, "the order completes")
        return order_id

    def state(self, order_id: str) -> str | None:
        """None while the front door is away."""
        answer = self.kube.http.get(f"{self.door}/orders/{order_id}", params={"wait_s": 5})
        state: str | None = answer.json().get("state") if answer.status_code == 200 else None
        return state


@pytest.fixture
def elsewhere(kube: Kube, cluster_lab: ClusterLab) -> Iterator[Elsewhere]:
    with namespace(kube) as name:
        yield Elsewhere(kube, name, cluster_lab.image_tag)


def test_upgrade_from_the_version_before_rollback_and_uninstall(kube: Kube, elsewhere: Elsewhere) -> None:
    elsewhere.helm("install", "antiphon", str(BEFORE), *elsewhere.values)
    first, secret = elsewhere.place(), elsewhere.secret()

    elsewhere.helm("upgrade", "antiphon", str(CHART), *elsewhere.values)
    assert elsewhere.state(first) == "completed", "what was accepted is still known"
    assert secret.items() <= elsewhere.secret().items(), "passwords stay; what is new comes beside them"
    second = elsewhere.place()

    elsewhere.helm("rollback", "antiphon")
    assert [elsewhere.state(order_id) for order_id in (first, second)] == ["completed"] * 2
    elsewhere.place()

    elsewhere.kube.run("helm", "uninstall", "antiphon", "--namespace", elsewhere.namespace, "--wait")
    kept = {"PersistentVolumeClaim"}
    eventually(lambda: left(kube, elsewhere.namespace) == kept, f"nothing but {kept} is left", 90)


def left(kube: Kube, namespace: str) -> set[str]:
    """The kinds of our objects in the namespace."""
    kinds = kube.run("kubectl", "api-resources", "--namespaced", "--verbs=list", "-o", "name").stdout.split()
    objects: list[dict[str, Any]] = kube.get(
        ",".join(kind for kind in kinds if not kind.startswith("events")),
        "--selector",
        "app.kubernetes.io/part-of=antiphon",
        namespace=namespace,
    )
    return {each["kind"] for each in objects}


def helm(kube: Kube, command: str, *words: str) -> None:
    kube.run("helm", command, *words, "--namespace", NAMESPACE, "--wait", "--timeout", "4m")
