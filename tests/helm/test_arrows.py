"""The NetworkPolicies: what is let through is what the environments and configurations need, and nothing else."""

import json
import re

import pytest
import yaml

from tests.helm.chart import CHART, PROFILES, Manifest, environment, files, of, pods, render

ON = "networkPolicies.enabled=true"
DNS = {("UDP", 53), ("TCP", 53)}
ADDRESS = re.compile(r"(?<![\w.-])([a-z][a-z-]*):(\d+)\b")
Arrow = tuple[str, str, int]


def arrows(objects: tuple[Manifest, ...], direction: str) -> set[Arrow]:
    """Who may speak to whom at which port, as one side of the policies says it."""
    found = set()
    for name, policy in of(objects, "NetworkPolicy").items():
        for rule in policy["spec"].get(direction) or []:
            for peer in rule.get("from" if direction == "ingress" else "to", []):
                other = peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
                pair = (other, name) if direction == "ingress" else (name, other)
                found |= {(*pair, port["port"]) for port in rule["ports"]}
    return found


def needed(objects: tuple[Manifest, ...]) -> set[Arrow]:
    """Every address that a component is told of: in its environment, its arguments, its files. All services are told
    the same: the participants of each other, whom they never call, and orders of the settings that are its own."""
    components = set(pods(objects))
    found = set()
    for name, spec in pods(objects).items():
        container = spec["containers"][0]
        env = environment(objects, name)
        unused = "LAB_ORDERS_ADMIN_URL" if name == "orders" else "LAB_PEERS"
        told = [text for key, text in env.items() if key != unused] + container.get("args", [])
        if name in of(objects, "ConfigMap"):
            told += [re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE) for text in files(objects, name).values()]
        label = "load" if name.startswith("load-") else name
        found |= {
            (label, host, int(port))
            for text in told
            for host, port in ADDRESS.findall(text)
            if host in components and not host == name == "kafka"  # what it tells its clients
        }
        for text in told:
            found |= {
                (label, host, int(port)) for host, port in re.findall(r"names: \[([a-z-]+)-pods\].*port: (\d+)", text)
            }
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_arrows_are_the_addresses_that_are_given(profile: str) -> None:
    """Each address that somebody is given has an arrow, and each arrow an address that somebody is given."""
    objects = render(ON, "load.enabled=true", profile=profile)
    assert needed(objects) == arrows(objects, "egress")


@pytest.mark.parametrize("profile", PROFILES)
def test_both_ends_agree(profile: str) -> None:
    """What one may send, the other may receive."""
    objects = render(ON, "load.enabled=true", profile=profile)
    assert arrows(objects, "egress") == arrows(objects, "ingress")


def test_all_else_is_denied() -> None:
    """One policy covers every pod of the chart, and lets nothing through; each pod has its own beside it."""
    objects = render(ON, "load.enabled=true")
    policies = of(objects, "NetworkPolicy")
    deny = policies.pop("deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    assert set(policies) == {"load" if name.startswith("load-") else name for name in pods(objects)}


def test_every_pod_may_ask_for_names() -> None:
    """Of the cluster's DNS, by both protocols."""
    for name, policy in of(render(ON), "NetworkPolicy").items():
        if name != "deny":
            first = policy["spec"]["egress"][0]
            assert {(port["protocol"], port["port"]) for port in first["ports"]} == DNS


def test_what_is_off_has_no_arrow() -> None:
    """Neither as a source nor as a target."""
    objects = render(ON, profile="mini")
    assert not {"kafka", "grafana", "redis", "load"} & {end for arrow in arrows(objects, "egress") for end in arrow[:2]}


def test_what_is_elsewhere_is_reached_by_its_ports() -> None:
    """Outside no selector holds: the port alone is let through."""
    objects = render(
        *(ON, "secret.existing=mine", r"backends.kafka.external=one.example:9093\,two.example:9094"),
        *("backends.jaeger.external=https://jaeger.example", "backends.jaeger.externalOtlp=jaeger.example:4317"),
        "backends.rabbitmq.external=amqps://broker.example:5671/lab",
        "backends.redis.external=rediss://redis.example:6380",
        "backends.elasticmq.external=https://sqs.eu-west-1.amazonaws.com",
    )
    policies = of(objects, "NetworkPolicy")
    assert not {"kafka", "jaeger", "rabbitmq", "redis", "elasticmq"} & set(policies)

    def outside(name: str) -> set[int]:
        rules = policies[name]["spec"]["egress"]
        return {port["port"] for rule in rules if "to" not in rule for port in rule["ports"]} - {53}

    assert outside("payment") == {9093, 9094, 5671, 6380, 443}
    assert outside("otel-collector") == {4317}
    assert outside("grafana") == {443}
    assert outside("postgres") == set()


def test_what_is_opened_is_open() -> None:
    """access.nodePorts lead in from anywhere, and only while there are any."""
    spec = of(render(ON), "NetworkPolicy")["orders"]["spec"]
    assert [{"port": 9464, "protocol": "TCP"}, {"port": 8080, "protocol": "TCP"}] in [
        rule["ports"] for rule in spec["ingress"] if "from" not in rule
    ]
    closed = of(render(ON, "access.type=ClusterIP"), "NetworkPolicy")["orders"]["spec"]
    assert all("from" in rule for rule in closed["ingress"])


def test_the_table_names_components_and_ports() -> None:
    """A misspelt one would be an arrow that is never drawn."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    entries = {**values["services"], **values["backends"]}
    for arrow in yaml.safe_load((CHART / "files/arrows.yaml").read_text()):
        assert set(arrow["from"]) <= {*entries, "load", "check"}
        for target in arrow["to"]:
            assert set(arrow["ports"]) <= {*entries[target]["ports"], "rpc"}, json.dumps(arrow)
