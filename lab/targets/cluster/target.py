"""The two cluster targets: `kind`, with a cluster and an image of its own, and `k8s`, whatever kubectl reaches."""

import os
from collections.abc import Sequence
from pathlib import Path

from lab.targets import LabError, Progress
from lab.targets.cluster import image, tools
from lab.targets.cluster.access import NAMESPACE, OURS, RELEASE, Access
from lab.targets.cluster.base import GONE_S, ClusterTarget
from lab.targets.cluster.kind import Kind
from lab.targets.cluster.release import Release

__all__ = ["ClusterTarget", "K8sTarget", "KindTarget"]

DEFAULT_CLUSTER = "antiphon"


class KindTarget(ClusterTarget):
    """A cluster in this machine's Docker engine, named by KIND_CLUSTER; KIND_NODE_IMAGE is its node's image."""

    name = "kind"
    again = "make kind-up"

    def __init__(self, state_dir: Path | None = None) -> None:
        super().__init__(state_dir)
        self._kind = Kind(os.environ.get("KIND_CLUSTER") or DEFAULT_CLUSTER, self._dir.root)

    @property
    def kubeconfig(self) -> str:
        """The cluster's own, in the state folder."""
        return str(self._kind.kubeconfig)

    def _access(self) -> Access:
        tools.require("docker", "kind", "kubectl", "helm")
        if not self._kind.find():
            raise self._down()
        return self._kind.access

    def _prepare(self, progress: Progress) -> Access:
        tools.require("docker", "kind", "kubectl", "helm")
        Release(self._kind.access).images()  # values that the chart refuses are refused before anything is made
        self._kind.make(self._dir.logs, progress)
        return self._kind.access

    def _deliver(self, access: Access, progress: Progress) -> Release:
        built = image.build(self._dir.logs, progress)
        release = Release(access, ("--set-string", f"image.tag={built.tag}"))
        self._load(release.images(), built, progress)
        return release

    def _remove(self, *, purge: bool, progress: Progress) -> None:
        tools.require("docker", "kind", "kubectl", "helm")
        if not self._kind.find():
            self._kind.kubeconfig.unlink(missing_ok=True)
            return
        by_hand = f"kind delete cluster --name {self._kind.name}"
        try:
            ours = self._kind.is_ours()
        except tools.ToolError as error:
            raise LabError(
                f"the cluster does not say whether it is the lab's ({error}): {by_hand} removes it"
            ) from error
        if ours:
            progress("cluster", f"kind delete cluster {self._kind.name}")
            self._kind.delete()
            progress("cluster", "deleted", "done")
            return
        progress("chart", "helm uninstall")
        Release(self._kind.access).uninstall()
        progress("chart", "uninstalled", "done")
        progress("cluster", f"was not made by the lab, so it stays: {by_hand} removes it", "absent")

    def _load(self, names: Sequence[str], built: image.Image, progress: Progress) -> None:
        """Bring our image to the nodes, and what else they lack and the engine has, which need not be pulled then."""
        there = self._kind.images()
        lacking = [name for name in names if image.full_name(name) not in there]
        for number, name in enumerate(lacking, 1):
            progress("images", f"{number} of {len(lacking)}: {name}")
            if name.endswith(f":{built.tag}"):
                built.named(name)
                self._kind.load(name, self._dir.logs)
            elif image.in_engine(name):
                try:
                    self._kind.load(name, self._dir.logs)
                except tools.ToolError as error:  # the node may still pull it
                    progress(name, f"not loaded from the engine: {error}", "absent")
        progress("images", f"{len(names)} needed, {len(names) - len(lacking)} were there", "done")

    def _notes(self, access: Access) -> dict[str, str]:
        return {**super()._notes(access), "kubectl": f"export KUBECONFIG={self._kind.kubeconfig}"}


class K8sTarget(ClusterTarget):
    """The cluster of kubectl's current context. With IMAGE_REGISTRY our image is built and pushed there; without, the
    values say where it is."""

    name = "k8s"
    again = "make k8s-up"

    @property
    def kubeconfig(self) -> str:
        """The user's."""
        return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")

    def _access(self) -> Access:
        tools.require("kubectl", "helm")
        try:
            return Access(tools.run("kubectl", "config", "current-context").strip())
        except tools.ToolError as error:
            raise LabError(
                f"kubectl has no current context ({error}): kubectl config use-context NAME, or set KUBECONFIG"
            ) from error

    def _prepare(self, progress: Progress) -> Access:
        tools.require("kubectl", "helm", *(["docker"] if _registry() else []))
        access = self._access()
        server = tools.run(
            *access.kubectl("config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}")
        )
        progress("context", f"{access.context} at {server}", "done")
        Release(access).images()
        return access

    def _deliver(self, access: Access, progress: Progress) -> Release:
        registry = _registry()
        if not registry:
            progress("image", "not built: the values say where it is (IMAGE_REGISTRY=… builds and pushes it)", "absent")
            return Release(access)
        built = image.build(self._dir.logs, progress)
        repository = f"{registry}/{image.REPOSITORY}"
        release = Release(
            access, ("--set-string", f"image.repository={repository}", "--set-string", f"image.tag={built.tag}")
        )
        for name in release.images():
            if name.endswith(f":{built.tag}"):
                image.push(built, name, self._dir.logs, progress)
        return release

    def _remove(self, *, purge: bool, progress: Progress) -> None:
        access = self._access()
        progress("context", access.context, "done")
        progress("chart", "helm uninstall")
        Release(access).uninstall()
        progress("chart", "uninstalled", "done")
        if purge:
            self._purge(access, progress)
            return
        with access.api() as api:
            claims = api.namespaced("persistentvolumeclaims", **OURS)
        if claims:
            command = " ".join(access.kubectl("delete", "pvc", "--selector", OURS["labelSelector"]))
            progress("volumes", f"{len(claims)} claims stay with their data: {command}", "absent")

    def _purge(self, access: Access, progress: Progress) -> None:
        progress("volumes", "deleting")
        tools.run(*access.kubectl("delete", "pvc", "--selector", OURS["labelSelector"]), timeout_s=GONE_S)
        progress("volumes", "deleted", "done")
        made = tools.run(
            *access.kubectl("get", "namespace", "--selector", f"app.kubernetes.io/part-of={RELEASE}", "--output=name")
        )
        if f"namespace/{NAMESPACE}" in made.split():
            tools.run(*access.kubectl("delete", "namespace", NAMESPACE), timeout_s=GONE_S * 3)
            progress("namespace", "deleted", "done")


def _registry() -> str:
    return os.environ.get("IMAGE_REGISTRY", "").rstrip("/")
