"""The table of arrows, from which the NetworkPolicies are made, against the connections of a running lab."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
import yaml

from tests.cluster.lab import CHART, ClusterLab, Kube
from tests.lab import CALLS, FIGURES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

Arrow = tuple[str, str, str]  # who, to whom, the name of the port
NOW_AND_THEN = {"load", "check", "jaeger", "grafana"}
"""Who speaks only when asked to: nobody looks at Jaeger's Monitor page here, and Grafana need not run."""
ESTABLISHED, TIME_WAIT, CLOSE_WAIT = 1, 6, 8


def test_every_connection_of_a_run_is_an_arrow_and_every_arrow_is_seen(lab: ClusterLab, kube: Kube) -> None:
    for style, transport in FIGURES:
        lab.finished(style, transport)
    pods = kube.pods()
    here = {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods}
    table = {arrow for arrow in arrows() if {arrow[0], arrow[1]} <= here}
    seen = connections(kube, pods)
    assert seen - table == set(), "connections that the table does not know"
    assert {arrow for arrow in table - seen if arrow[0] not in NOW_AND_THEN} == set(), "arrows that nobody uses"


def arrows() -> Iterator[Arrow]:
    for row in yaml.safe_load((CHART / "files/arrows.yaml").read_text()):
        for who in row["from"]:
            for whom in row["to"]:
                for port in row["ports"]:
                    for name in CALLS if port == "rpc" else (port,):
                        yield who, whom, name.replace("_", "-")  # a port's name has no underscores


def connections(kube: Kube, pods: list[dict[str, Any]]) -> set[Arrow]:
    """Who has a connection to which port of whom, from the socket tables of all pods in which `cat` can be run."""
    names = {pod["status"]["podIP"]: pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods}
    ports: dict[str, dict[int, str]] = {}
    for pod in pods:
        listed = [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]
        ports[names[pod["status"]["podIP"]]] = {port["containerPort"]: port["name"] for port in listed}
    for service in kube.get("services", "--selector", "app.kubernetes.io/part-of=antiphon"):
        if service["spec"].get("clusterIP", "None") != "None":
            names[service["spec"]["clusterIP"]] = service["spec"]["selector"]["app.kubernetes.io/name"]
    found: set[Arrow] = set()
    for pod in pods:
        me = names[pod["status"]["podIP"]]
        told = kube.run(
            "kubectl", "-n", pod["metadata"]["namespace"], "exec", pod["metadata"]["name"], "--",
            "cat", "/proc/net/tcp", "/proc/net/tcp6", check=False,
        )  # fmt: skip
        for mine, (address, theirs) in sockets(told.stdout):
            other = names.get(address)
            if other is None or address == pod["status"]["podIP"]:
                continue
            if mine in ports[me]:
                found.add((other, me, ports[me][mine]))
            elif theirs in ports[other]:
                found.add((me, other, ports[other][theirs]))
    return found


def sockets(table: str) -> Iterator[tuple[int, tuple[str, int]]]:
    """Own port, and address and port of the other side, of each connection in /proc/net/tcp or tcp6."""
    for mine, address, port, state in re.findall(
        r"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]+):([0-9A-F]{4}) ([0-9A-F]{2}) ", table, re.MULTILINE
    ):
        if int(state, 16) in {ESTABLISHED, TIME_WAIT, CLOSE_WAIT}:
            # the last word is the IPv4 address, also of one that is mapped into IPv6 (little-endian)
            yield int(mine, 16), (str(IPv4Address(bytes.fromhex(address[-8:])[::-1])), int(port, 16))
