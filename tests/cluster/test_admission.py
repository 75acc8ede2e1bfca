"""What the API server says of the chart's objects, profile by profile, and how a broken value shows itself."""

from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.lab import CHART, ClusterLab, Kube, namespace, ready
from tests.lab import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PROFILES = sorted(path.stem for path in (CHART / "profiles").glob("*.yaml"))


@pytest.fixture
def elsewhere(kube: Kube) -> Iterator[str]:
    """An empty namespace that enforces the restricted level."""
    with namespace(kube) as name:
        yield name


def test_the_api_server_takes_every_object_of_every_profile(kube: Kube, elsewhere: str) -> None:
    for profile in PROFILES:
        rendered = kube.run(
            "helm", "template", "antiphon", str(CHART), "--namespace", elsewhere, "--set", "access.type=ClusterIP",
            "--validate", "--values", str(CHART / f"profiles/{profile}.yaml"),
        ).stdout  # fmt: skip
        told = kube.run("kubectl", "-n", elsewhere, "apply", "--dry-run=server", "-f", "-", stdin=rendered)
        assert "created (server dry run)" in told.stdout
        assert "violate" not in told.stderr, f"{profile}: {told.stderr}"


def test_a_backend_that_cannot_be_reached_is_a_pod_that_is_not_ready_and_says_why(
    kube: Kube, cluster_lab: ClusterLab, elsewhere: str
) -> None:
    keys = ("settings-token", "postgres-username", "postgres-password", "rabbitmq-username", "rabbitmq-password",
            "rabbitmq-erlang-cookie", "redis-username", "redis-password")  # fmt: skip
    kube.run(
        "kubectl", "-n", elsewhere, "create", "secret", "generic", "mine", *(f"--from-literal={key}=x1" for key in keys)
    )
    address = "postgresql://nowhere.invalid:5432"
    install(kube, elsewhere, f"secret.existing=mine,backends.postgres.external={address}", cluster_lab)
    pod = eventually(lambda: running(kube, elsewhere, "payment"), "payment's container runs", 120)
    address = f"{kube.api}/{elsewhere}/pods/{pod['metadata']['name']}:9464/proxy"

    def answer() -> httpx.Response | None:
        given = kube.http.get(f"{address}/readyz")
        return given if "database: " in given.text else None

    assert eventually(answer, "payment names its database", 60).status_code == 503
    (pod,) = kube.pods("payment", namespace=elsewhere)
    assert not ready(pod)


def test_a_secret_that_is_missing_is_a_pod_that_is_not_ready_and_names_it(
    kube: Kube, cluster_lab: ClusterLab, elsewhere: str
) -> None:
    install(kube, elsewhere, "secret.existing=not-there", cluster_lab)

    def waiting() -> dict[str, str] | None:
        for pod in kube.pods("payment", namespace=elsewhere):
            for container in pod["status"].get("containerStatuses", []):
                reason: dict[str, str] = container["state"].get("waiting", {})
                if reason.get("reason") == "CreateContainerConfigError":
                    return reason
        return None

    assert 'secret "not-there" not found' in eventually(waiting, "the pod waits for its Secret", 120)["message"]


def install(kube: Kube, namespace: str, values: str, lab: ClusterLab) -> None:
    """The smallest profile with ``values``, unwaited."""
    kube.run(
        "helm", "install", "antiphon", str(CHART), "--namespace", namespace, "--values",
        str(CHART / "profiles/mini.yaml"), "--set", f"access.type=ClusterIP,image.tag={lab.image_tag},{values}",
    )  # fmt: skip


def running(kube: Kube, namespace: str, name: str) -> dict | None:
    for pod in kube.pods(name, namespace=namespace):
        if any("running" in container["state"] for container in pod["status"].get("containerStatuses", [])):
            return pod
    return None
