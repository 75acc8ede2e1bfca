"""One lab on one cluster for all cluster tests: the cluster that KUBECONFIG names, or a kind cluster of our own.

``LAB_TEST_KIND=1`` asks for the latter: the suite then makes it by `make kind-up`, as a person would, and removes it.
In a cluster that has the lab already, that one is tested and left as it is.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.targets import TargetDownError
from lab.targets.cluster.target import ClusterTarget, K8sTarget, KindTarget
from tests.cluster.lab import ROOT, ClusterLab, Kube, proxy

TOOLS = ("kubectl", "helm")


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterTarget]:
    """The lab, up; what the suite made is removed with the session, however that ends."""
    kind = os.environ.get("LAB_TEST_KIND") == "1"
    if not kind and not os.environ.get("KUBECONFIG"):
        pytest.skip(
            "no cluster: KUBECONFIG=FILE make test-cluster uses one, "
            "LAB_TEST_KIND=1 make test-cluster makes one with Docker and kind"
        )
    missing = [tool for tool in (*TOOLS, *(("docker", "kind") if kind else ())) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    state_dir = tmp_path_factory.mktemp("lab")
    environment = {**os.environ, "LAB_STATE_DIR": str(state_dir)}
    made = KindTarget(state_dir) if kind else K8sTarget(state_dir)
    name = "kind" if kind else "k8s"
    if installed(made):
        yield made
        return
    try:
        make(f"{name}-up", environment)
        yield made
    finally:
        make(f"{name}-down", environment)


def installed(target: ClusterTarget) -> bool:
    try:
        target.status()
    except TargetDownError:
        return False
    return True


def make(goal: str, environment: dict[str, str], *words: str) -> str:
    """Run a make target as the README says it, whatever make these tests were started with. Gives what it printed."""
    environment = {name: value for name, value in environment.items() if name not in {"ARGS", "MAKEFLAGS", "MFLAGS"}}
    done = subprocess.run(
        ["make", goal, *words], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"make {goal}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def kube(target: ClusterTarget) -> Iterator[Kube]:
    with proxy(target.kubeconfig) as api:
        hand = Kube(target.kubeconfig, api)
        with hand.http:
            yield hand


@pytest.fixture(scope="session")
def cluster_lab(target: ClusterTarget, kube: Kube) -> Iterator[ClusterLab]:
    running = ClusterLab(target, kube)
    with running.http:
        yield running


@pytest.fixture
def lab(cluster_lab: ClusterLab) -> Iterator[ClusterLab]:
    """The lab with its default settings, everything ready, before and after each test."""
    cluster_lab.settle()
    yield cluster_lab
    cluster_lab.put_settings(dict.fromkeys(cluster_lab.settings()))


@pytest.fixture(scope="session")
def environment(target: ClusterTarget) -> dict[str, str]:
    """For commands that shall act on this lab."""
    return {**os.environ, "LAB_STATE_DIR": str(Path(target.state_dir)), "LAB_TARGET": target.name}
