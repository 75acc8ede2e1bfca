"""What an upgrade touches: the pods that a changed value is about, and no password."""

import base64
import shutil
from pathlib import Path

import pytest
import yaml

from tests.docs.tree import ROOT
from tests.helm.api_server import api_server
from tests.helm.chart import CARRIERS, CHART, EVERYBODY, SERVICES, common, helm, of, render, templates

# what is changed, and whose pods are made anew
TOUCHED = [
    ("image.tag=other", {*EVERYBODY, "spans"}),
    ("services.payment.env.LAB_MAX_IN_FLIGHT=4", {"payment"}),
    ("services.payment.resources.limits.memory=1Gi", {"payment"}),
    ("services.payment.replicas=3", set()),
    ("env.LAB_MAX_IN_FLIGHT=4", {*EVERYBODY, "spans"}),
    ("transports.kafka.enabled=false", set(EVERYBODY)),
    ("transports.rabbitmq.enabled=false", {*SERVICES, *CARRIERS, "ledger"}),
    ("transports.grpc.port=50052", set(SERVICES)),
    ("services.carrier-frugal.args={swift}", {"carrier-frugal"}),
    ("backends.kafka.settings.heapMiB=512", {"kafka"}),
    ("backends.kafka.image.tag=4.4.0", {"kafka"}),
    ("backends.rabbitmq.settings.memoryWatermarkMiB=128", {"rabbitmq"}),
    ("backends.redis.settings.appendfsync=everysec", {"redis"}),
    ("backends.elasticmq.settings.heapMiB=256", {"elasticmq"}),
    ("backends.postgres.settings.maxConnections=50", {"postgres"}),
    ("backends.otel-collector.settings.tailSampling.enabled=true", {"otel-collector"}),
    ("backends.jaeger.settings.maxTraces=1000000", {"jaeger"}),
    ("backends.prometheus.settings.retention=6h", {"prometheus"}),
    ("backends.grafana.enabled=false", {"grafana", "prometheus"}),
    ("access.type=ClusterIP", set()),
    ("access.host=10.0.0.7", {"jaeger"}),
    ("networkPolicies.enabled=true", set()),
    ("load.enabled=true", set()),
    ("storage.className=fast", set()),
]


@pytest.mark.parametrize(("value", "touched"), TOUCHED, ids=[value for value, _ in TOUCHED])
def test_a_changed_value_restarts_what_it_is_about(value: str, touched: set[str]) -> None:
    """By the pod templates before and after, which is what a Deployment goes by."""
    before, after = dict(templates(render())), dict(templates(render(value)))
    assert {name for name in before | after if before.get(name) != after.get(name)} == touched


def test_a_new_version_of_the_chart_restarts_nothing(tmp_path: Path) -> None:
    """Versions stand on objects and never on pods."""
    before = dict(templates(render()))
    chart = _copy_with_version(tmp_path, "9.9.9")
    done = helm("template", "antiphon", str(chart), "-n", "antiphon", *common())
    assert done.returncode == 0, done.stderr
    assert dict(templates(tuple(yaml.safe_load_all(done.stdout)))) == before


def _copy_with_version(folder: Path, version: str) -> Path:
    chart = folder / "antiphon"
    shutil.copytree(CHART, chart)
    text = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(text.replace("\nversion: ", f"\nversion: {version} # "))
    return chart


def test_another_load_is_another_job() -> None:
    """A Job cannot be changed; the same load is the same Job, which an upgrade does not run again."""
    names = [
        set(of(render("load.enabled=true", *more), "Job"))
        for more in ((), ("backends.kafka.settings.heapMiB=512",), ("load.profile=smoke",), ("image.tag=other",))
    ]
    assert names[0] == names[1]
    assert len(names[0] | names[2] | names[3]) == 3


def test_passwords_stay_over_upgrades() -> None:
    """What the cluster has is kept; a key that a newer chart adds is made, and no other."""
    kept = {
        key: text
        for key, text in of(render(), "Secret")["antiphon"]["data"].items()
        if key not in ("grafana-password", "postgres-username")
    }
    with api_server(kept) as address:
        done = helm(
            *("template", "antiphon", str(CHART), "-n", "antiphon", "--dry-run=server", "--kube-apiserver", address),
            *("--show-only", "templates/secret.yaml", *common()),
        )
    assert done.returncode == 0, done.stderr
    upgraded = yaml.safe_load(done.stdout)["data"]
    assert {key: upgraded[key] for key in kept} == kept
    assert base64.b64decode(upgraded["postgres-username"]) == b"lab"
    assert len(base64.b64decode(upgraded["grafana-password"])) >= 24


def test_a_secret_of_ones_own_replaces_the_generated_one() -> None:
    """Then the chart makes none, and everything refers to that."""
    objects = render("secret.existing=mine")
    assert not of(objects, "Secret")
    names = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for _, template in templates(objects)
        for variable in template["spec"]["containers"][0].get("env", [])
        if "valueFrom" in variable
    }
    assert names == {"mine"}


def test_the_chart_before_is_kept_for_the_cluster_suite_to_upgrade_from() -> None:
    (before,) = (ROOT / "tests/cluster/charts").glob("antiphon-*.tgz")
    shown = yaml.safe_load(helm("show", "chart", str(before)).stdout)
    now = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert _version(shown) < _version(now)


def _version(chart: dict[str, str]) -> tuple[int, ...]:
    return tuple(map(int, chart["version"].split(".")))
