"""The chart as Helm renders it. Each set of values is rendered once per test run."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tests.docs.tree import ROOT

CHART = ROOT / "helm/antiphon"
PROFILES = ("mini", "std", "full")
# a helm that was built without its release's flags knows no Kubernetes version of its own
KUBERNETES = "1.34.0"
NO_HELM = "helm is not on PATH: it is one program, got as https://helm.sh/docs/intro/install says"
SERVICES = ("orders", "inventory", "payment", "shipping", "notifications")
CARRIERS = ("carrier-swift", "carrier-steady", "carrier-frugal")
EVERYBODY = (*SERVICES, *CARRIERS, "ledger")
"""With those who are reached by brokers alone."""

Manifest = dict[str, Any]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as quick, where libyaml is


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm, away from whatever cluster is configured here."""
    env = {**os.environ, "KUBECONFIG": os.devnull}
    return subprocess.run(["helm", *arguments], capture_output=True, text=True, env=env, check=False)


def has_helm() -> bool:
    return shutil.which("helm") is not None


@cache
def render(*values: str, profile: str = "std") -> tuple[Manifest, ...]:
    """All objects, with `KEY=VALUE` set as by --set. Raises AssertionError with what helm said."""
    done = template(*values, profile=profile)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.load_all(done.stdout, _Loader) if document)


def template(*values: str, profile: str = "std") -> subprocess.CompletedProcess[str]:
    return helm("template", "antiphon", str(CHART), "-n", "antiphon", *common(*values, profile=profile))


def common(*values: str, profile: str = "std") -> list[str]:
    sets = [word for value in values for word in ("--set", value)]
    return ["--kube-version", KUBERNETES, "--values", str(CHART / "profiles" / f"{profile}.yaml"), *sets]


def of(objects: tuple[Manifest, ...], kind: str) -> dict[str, Manifest]:
    """The objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Every pod's spec, wherever it stands, by the name of what makes it."""
    found = {}
    for each in objects:
        if each["kind"] == "Pod":
            found[each["metadata"]["name"]] = each["spec"]
        elif "template" in each.get("spec", {}):
            found[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
    return found


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(objects: tuple[Manifest, ...], name: str) -> dict[str, str]:
    """A component's plain environment."""
    return {
        each["name"]: each["value"] for each in pods(objects)[name]["containers"][0].get("env", []) if "value" in each
    }


def files(objects: tuple[Manifest, ...], component: str) -> dict[str, str]:
    """The files that a component's ConfigMap puts into its container, by path."""
    texts = of(objects, "ConfigMap")[component]["data"]
    mounts = pods(objects)[component]["containers"][0]["volumeMounts"]
    return {each["mountPath"]: texts[each["subPath"]] for each in mounts if each["name"] == "config"}


def templates(objects: tuple[Manifest, ...]) -> Iterator[tuple[str, Manifest]]:
    """What a Deployment or StatefulSet restarts its pods for."""
    for each in objects:
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["metadata"]["name"], each["spec"]["template"]
