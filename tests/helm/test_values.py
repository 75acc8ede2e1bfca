"""What the chart refuses, and that its profiles are accepted."""

import re

import pytest
import yaml

from load.profiles import PROFILES as WORKLOADS
from services.transports import TRANSPORTS
from tests.helm.chart import CHART, PROFILES, common, environment, files, helm, render, template

# what is set, and what the refusal must name
REFUSED = [
    ("imagge.tag=1", "imagge"),
    ("image.tags=1", "tags"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("image.pullSecrets=registry", "pullSecrets"),
    ("image.repository=antiphon:1", "repository"),
    ("secret.password=x", "password"),
    ("secret.existing=Not_A_Name", "existing"),
    ("storage.enabled=often", "storage/enabled"),
    ("storage.class=fast", "class"),
    ("access.type=LoadBalancer", "access/type"),
    ("access.host=http://127.0.0.1", "access/host"),
    ("access.nodePorts.jeager=30086", "jeager"),
    ("access.nodePorts.jaeger=8086", "nodePorts/jaeger"),
    ("networkPolicies.enable=true", "networkPolicies"),
    ("load.profile=heavy", "load/profile"),
    ("load.flows={choreography}", "load/flows"),
    ("transports.kafak.enabled=false", "kafak"),
    ("transports.rest.port=70000", "transports/rest"),
    ("transports.kafka.backend=kafak", "transports.kafka.backend"),
    ("env.lab_host=x", "lab_host"),
    ("services.paymnet.replicas=2", "paymnet"),
    ("services.payment.replicas=-1", "payment/replicas"),
    ("services.payment.replicas=two", "payment/replicas"),
    ("services.payment.replica=2", "replica"),
    ("services.spans.replicas=2", "spans/replicas"),
    ("services.ledger.replicas=2", "ledger/replicas"),
    ("services.ledger.transports={kafak}", "kafak"),
    ("services.orders.resources.limits.memory=512MB", "limits/memory"),
    ("services.orders.env.TOKEN.secretKey=tokn", "tokn"),
    ("backends.rabitmq.enabled=false", "rabitmq"),
    ("backends.rabbitmq.enabled=yes please", "rabbitmq/enabled"),
    ("backends.rabbitmq.external=amqp://lab:lab@broker:5672", "rabbitmq/external"),
    ("backends.rabbitmq.external=amqps://broker:5671", "rabbitmq-password"),
    ("backends.rabbitmq.data.size=lots", "rabbitmq/data/size"),
    ("backends.redis.external=redis:6379", "redis/external"),
    ("backends.redis.external=rediss://default:x@redis.example:6379", "redis/external"),
    ("backends.redis.external=rediss://redis.example:6379/0", "redis-password"),
    ("backends.redis.settings.appendfsync=no", "appendfsync"),
    ("backends.elasticmq.external=sqs.eu-west-1.amazonaws.com", "elasticmq/external"),
    ("backends.elasticmq.settings.heapMiB=1", "heapMiB"),
    ("backends.kafka.settings.heapMb=256", "heapMb"),
    ("backends.kafka.settings.heapMiB=1", "heapMiB"),
    ("backends.kafka.settings.clusterId=short", "clusterId"),
    ("backends.kafka.external=kafka", "kafka/external"),
    ("backends.kafka.kind=DaemonSet", "kafka/kind"),
    ("backends.kafka.uid=0", "kafka/uid"),
    ("backends.postgres.enabled=false", "backends.postgres"),
    ("backends.postgres.external=db:5432", "postgres/external"),
    ("backends.otel-collector.settings.tailSampling.percent=120", "percent"),
    ("backends.jaeger.external=https://jaeger.example", "externalOtlp"),
    ("backends.jaeger.probes.readiness.periodSeconds=0", "periodSeconds"),
    ("backends.prometheus.settings.retention=forever", "retention"),
    ("backends.grafana.config.relative/path=x", "config"),
]


@pytest.mark.parametrize(("value", "named"), REFUSED, ids=[value for value, _ in REFUSED])
def test_a_bad_value_is_refused_by_name(value: str, named: str) -> None:
    """Before anything is applied, and with the key in the message."""
    done = template(value)
    assert done.returncode != 0, "accepted"
    assert named in done.stderr


def test_a_default_that_is_taken_away_is_refused() -> None:
    """`null` removes a value, which some things cannot be without."""
    done = template("services.orders=null")
    assert done.returncode != 0
    assert "orders" in done.stderr


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_passes_lint(profile: str) -> None:
    """Strictly: warnings count."""
    done = helm("lint", "--strict", str(CHART), *common("networkPolicies.enabled=true", profile=profile))
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint_refuses_what_the_schema_refuses() -> None:
    """A typo in a values file is found without a cluster."""
    done = helm("lint", "--strict", str(CHART), *common("services.payment.replica=2"))
    assert done.returncode != 0
    assert "replica" in done.stdout + done.stderr


def test_the_default_values_are_the_profile_std() -> None:
    """`helm install` without a profile gives what `make kind-up` gives."""
    assert yaml.safe_load((CHART / "profiles/std.yaml").read_text()) == {}


def test_workloads_are_those_that_exist() -> None:
    """load.profile takes the names that `lab load` knows."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert schema["properties"]["load"]["properties"]["profile"]["enum"] == list(WORKLOADS)


def test_transports_are_those_that_exist() -> None:
    """The services refuse to start with a name that they do not know."""
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())["transports"]) <= set(TRANSPORTS)


def test_every_object_of_the_schema_is_closed() -> None:
    """Nowhere may a misspelt key pass: every object says what it may hold. Settings of a backend that is not known
    yet are the one exception."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    open_ones = []

    def walk(part: object, path: str) -> None:
        if isinstance(part, dict):
            is_object = part.get("type") == "object"
            if is_object and part.get("additionalProperties") is not False and "maxProperties" not in part:
                open_ones.append(path)
            for key, value in part.items():
                walk(value, f"{path}/{key}")
        elif isinstance(part, list):
            for number, value in enumerate(part):
                walk(value, f"{path}/{number}")

    walk(schema, "")
    assert open_ones == ["/definitions/backend/properties/settings"]


def test_templates_are_short() -> None:
    """One template over the services, one over the backends, and none above 120 lines."""
    for path in (CHART / "templates").rglob("*.*"):
        assert len(path.read_text().splitlines()) <= 120, path.name


def test_the_chart_has_the_projects_version() -> None:
    """And needs no other chart."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.*)"', (CHART.parents[1] / "pyproject.toml").read_text(), re.MULTILINE)
    assert project
    assert chart["appVersion"] == project[1]
    assert "dependencies" not in chart


def test_a_service_more_is_one_entry() -> None:
    """Nothing else is to be told of it: it gets its peers, its database and its place among the scraped."""
    new = "services.carrier"
    objects = render(
        f"{new}.module=services.carrier",
        f"{new}.rpc=true",
        f"{new}.ports.admin=9464",
        f"{new}.resources.requests.memory=64Mi",
        f"{new}.resources.limits.memory=128Mi",
    )
    assert environment(objects, "carrier")["LAB_DATABASE_URL"].endswith("@postgres:5432/carrier")
    assert '"rest":"http://carrier:8080"' in environment(objects, "orders")["LAB_PEERS"]
    assert "names: [carrier-pods]" in files(objects, "prometheus")["/etc/prometheus/prometheus.yml"]
    assert "carrier" in files(objects, "postgres")["/etc/antiphon/databases.sh"]
