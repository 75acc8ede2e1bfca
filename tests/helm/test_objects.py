"""What every rendered object must be: valid for Kubernetes, restricted, small enough, without secrets."""

import base64
import json
import re
from fractions import Fraction
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.version import Version

from lab.targets.local import ours
from lab.targets.local.plan import Plan
from lab.targets.local.ports import Ports
from lab.targets.local.state import CREDENTIALS
from tests.docs.tree import read
from tests.helm.chart import CARRIERS, CHART, EVERYBODY, PROFILES, containers, environment, files, of, pods, render

ALL = ("networkPolicies.enabled=true", "load.enabled=true")
VERSIONS = sorted(set(kubernetes_validate.utils.all_versions()), key=Version)[-2:]
UNITS = {"Mi": 1, "Gi": 1024}
CREDENTIALS_OF_NONE = dict.fromkeys(CREDENTIALS, "")
LIMITS_MIB = {"mini": 1792, "std": 4096, "full": 4096}


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Kubernetes' own schemas, unknown fields refused. What several profiles have is looked at once."""
    # megabytes of definitions, which it would read again for each object
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
    every = {json.dumps(each): each for profile in PROFILES for each in render(*ALL, profile=profile)}
    for each in every.values():
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("profile", PROFILES)
def test_pods_pass_the_restricted_level(profile: str) -> None:
    """And more than it asks for: a numeric user, nothing writable but what is mounted, no token."""
    for name, spec in pods(render(*ALL, profile=profile)).items():
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
        kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim", "projected"}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_container_says_what_it_needs(profile: str) -> None:
    """Memory both ways; a processor is asked for and not bounded."""
    for name, spec in pods(render(*ALL, profile=profile)).items():
        for container in containers(spec):
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
            assert set(container["resources"]["limits"]) == {"memory"}, name


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_fits(profile: str) -> None:
    """The sum of what its pods ask for is below its limit, and is what the page says."""
    objects = render(profile=profile)
    specs = pods(objects)
    total_mib = sum(
        _mib(specs[name]["containers"][0]["resources"]["requests"]["memory"]) * each["spec"]["replicas"]
        for kind in ("Deployment", "StatefulSet")
        for name, each in of(objects, kind).items()
    )
    assert total_mib <= LIMITS_MIB[profile]
    assert re.search(
        rf"^\| `{profile}` \| .* \| {float(total_mib) / 1024:.1f} GiB \|$", read("docs/kubernetes.md"), re.MULTILINE
    )


def _mib(text: str) -> Fraction:
    return Fraction(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("profile", PROFILES)
def test_what_runs_long_is_probed(profile: str) -> None:
    """When it has started, when it is ready, and whether it lives; by ports that the container names."""
    objects = render(profile=profile)
    specs = pods(objects)
    for name in [*of(objects, "Deployment"), *of(objects, "StatefulSet")]:
        container = specs[name]["containers"][0]
        named = {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            port = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
            assert port is None or port in named, name


def test_our_own_are_probed_on_their_admin_port() -> None:
    """Readiness has reasons; liveness has none but that it answers."""
    for name in EVERYBODY:
        container = pods(render())[name]["containers"][0]
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}


def test_nobody_waits_for_another() -> None:
    """Start is ordered by trying again: the one container before another prepares its own files."""
    initial = {name: spec["initContainers"] for name, spec in pods(render()).items() if "initContainers" in spec}
    assert {name: [each["name"] for each in these] for name, these in initial.items()} == {"rabbitmq": ["prepare"]}


def test_passwords_stand_in_the_secret_alone() -> None:
    """They are long, made anew by each rendering without a cluster, and nowhere else."""
    objects = render(*ALL)
    passwords = {
        key: base64.b64decode(text).decode()
        for key, text in of(objects, "Secret")["antiphon"]["data"].items()
        if not key.endswith("-username")
    }
    others = {base64.b64decode(text).decode() for text in of(render(), "Secret")["antiphon"]["data"].values()}
    everything_else = yaml.safe_dump_all(each for each in objects if each["kind"] != "Secret")
    for key, password in passwords.items():
        assert len(password) >= 24, key
        assert password not in others
        assert password not in everything_else


def test_what_is_secret_comes_by_reference() -> None:
    """Environments name the Secret's keys; addresses take user and password from there."""
    for name, spec in pods(render(*ALL)).items():
        for container in containers(spec):
            for variable in container.get("env", []):
                if re.search(r"PASS|TOKEN|COOKIE|SECRET", variable["name"]):
                    assert variable["valueFrom"]["secretKeyRef"]["name"] == "antiphon", name
                assert not re.search(r"://[^/@$]*:[^/@$]*@", variable.get("value", "")), name


def test_a_variable_is_set_before_it_is_used() -> None:
    """Kubernetes puts $(NAME) in only where NAME stands before."""
    for name, spec in pods(render(*ALL)).items():
        for container in containers(spec):
            known: set[str] = set()
            for variable in container.get("env", []):
                assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= known, name
                assert variable["name"] not in known
                known.add(variable["name"])


def test_the_services_are_told_what_the_local_target_tells() -> None:
    """The same variables, so that a new one cannot be forgotten on one side."""
    plan = Plan(Path("/state"), Ports(), CREDENTIALS_OF_NONE, transports=["rest", "grpc"])
    for name in EVERYBODY:
        container = pods(render())[name]["containers"][0]
        told = {each["name"] for each in container["env"] if each["name"].startswith(("LAB_", "OTEL_"))}
        assert told == set(ours.service(plan, name).env)


def test_a_services_environment() -> None:
    """Addresses by name, and the secrets by reference."""
    env = environment(render(), "payment")
    assert (
        env["LAB_DATABASE_URL"]
        == "postgresql+asyncpg://$(POSTGRES_USERNAME):$(POSTGRES_PASSWORD)@postgres:5432/payment"
    )
    assert env["LAB_RABBITMQ_URL"] == "amqp://$(RABBITMQ_USERNAME):$(RABBITMQ_PASSWORD)@rabbitmq:5672/"
    assert env["LAB_KAFKA_BOOTSTRAP"] == "kafka:9092"
    assert env["LAB_SQS_URL"] == "http://elasticmq:9324"
    assert env["LAB_REDIS_URL"] == "redis://$(REDIS_USERNAME):$(REDIS_PASSWORD)@redis:6379/0"
    wires = {"rest": 8080, "grpc": 50051, "json_rpc": 8081, "thrift": 9090, "avro_rpc": 8082, "ice": 10000}
    assert json.loads(env["LAB_LISTEN"]) == wires
    assert set(env["LAB_TRANSPORTS"].split(",")) >= {*wires, "kafka", "rabbitmq", "redis_streams", "redis_pubsub"}
    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4318"


def test_who_has_a_use_for_some_transports_speaks_those_alone() -> None:
    """A carrier is asked by a broker that gives each of them a copy, and the ledger reads logs; they know no other
    broker's address, and where none of theirs runs they are not there."""
    objects = render()
    for name in (*CARRIERS, "ledger"):
        env = environment(objects, name)
        assert tuple(sorted(env["LAB_TRANSPORTS"].split(","))) == tuple(sorted(ours.SPEAKS[name]))
        assert json.loads(env["LAB_LISTEN"]) == {}
        assert "LAB_SQS_URL" not in env
        command = pods(objects)[name]["containers"][0]["command"]
        assert command[1:] == list(ours.service(Plan(Path("/state"), Ports(), CREDENTIALS_OF_NONE), name).argv[1:])
        (deployment,) = [each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"] == name]
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    mini = render(*ALL, profile="mini")
    assert set(CARRIERS) < set(pods(mini))
    assert environment(mini, "carrier-swift")["LAB_TRANSPORTS"] == "rabbitmq"
    assert not [each["metadata"]["name"] for each in mini if "ledger" in each["metadata"]["name"]]
    assert "ledger" not in files(mini, "prometheus")["/etc/prometheus/prometheus.yml"]


def test_a_transport_that_does_not_run_says_why() -> None:
    """The front door passes the reason on."""
    env = environment(render(profile="mini"), "orders")
    assert not {"kafka", "redis_streams", "redis_pubsub"} & set(env["LAB_TRANSPORTS"].split(","))
    assert "backends.kafka.enabled" in env["LAB_ABSENT"]
    assert json.loads(env["LAB_ABSENT"])["redis_pubsub"] == "there is no redis here (backends.redis.enabled)"
    assert not {"LAB_KAFKA_BOOTSTRAP", "LAB_REDIS_URL"} & set(env)


def test_a_registry_stands_before_every_image() -> None:
    """One value for a cluster that pulls from one place."""
    for name, spec in pods(render(*ALL, "image.registry=registry.example:5000/lab/", "image.tag=v7")).items():
        for container in containers(spec):
            assert container["image"].startswith("registry.example:5000/lab/"), name
            assert re.search(r":[^/]+$", container["image"])


def test_a_configmap_holds_what_it_can() -> None:
    """1 MiB is the limit for one."""
    for name, config in of(render(), "ConfigMap").items():
        assert sum(len(text.encode()) for text in config["data"].values()) < 1_000_000, name


def test_data_outlives_its_pod() -> None:
    """Where it must; the rest is made again."""
    objects = render()
    claims = {name for name, each in of(objects, "StatefulSet").items() if each["spec"].get("volumeClaimTemplates")} | {
        name.removeprefix("data-") for name in of(objects, "PersistentVolumeClaim")
    }
    assert claims == {"rabbitmq", "kafka", "redis", "elasticmq", "postgres", "prometheus", "spans"}
    assert of(objects, "Deployment")["spans"]["spec"]["strategy"] == {"type": "Recreate"}
    for each in of(objects, "PersistentVolumeClaim").values():
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_rabbitmqs_cookie_is_not_on_its_volume() -> None:
    """A volume's files are the group's, too, which Erlang refuses of a cookie."""
    container = pods(render())["rabbitmq"]["containers"][0]
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounts["/var/lib/rabbitmq/mnesia"] == "data"
    assert mounts["/var/lib/rabbitmq"] != "data"
    assert "chmod 400 .erlang.cookie" in files(render(), "rabbitmq")["/etc/rabbitmq/prepare.sh"]


def test_nothing_is_opened_unasked() -> None:
    """NodePorts are those of access.nodePorts, each a Service of its own; with ClusterIP there is none."""
    services = of(render(), "Service")
    opened = {
        port["name"].replace("-", "_"): port["nodePort"]
        for each in services.values()
        if each["spec"].get("type") == "NodePort"
        for port in each["spec"]["ports"]
    }
    assert opened == {
        "front_door": 30080,
        "orders_admin": 30081,
        "span_store": 30082,
        "jaeger": 30086,
        "prometheus": 30090,
        "grafana": 30030,
        "rabbitmq_management": 30072,
    }
    closed = of(render("access.type=ClusterIP"), "Service").values()
    assert all("nodePort" not in port for each in closed for port in each["spec"]["ports"])


def test_node_ports_are_mapped_by_kind() -> None:
    """k8s/kind.yaml brings each to 127.0.0.1."""
    text = (CHART.parents[1] / "k8s/kind.yaml").read_text()
    for each in of(render(), "Service").values():
        for port in each["spec"]["ports"]:
            if number := port.get("nodePort"):
                assert f"hostPort: {number}, listenAddress: 127.0.0.1" in text
