"""What both cluster targets do alike: all but how they get at a cluster and an image, and what `down` removes."""

import base64
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.targets import Ask, LabError, ProcessStatus, Progress, Status, TargetDownError, forget, remember
from lab.targets.cluster import forward, tools
from lab.targets.cluster.access import NAMESPACE, OURS, Access, Api
from lab.targets.cluster.addresses import HERE, published, secret_name, transports
from lab.targets.cluster.release import Release
from lab.targets.cluster.waiting import wait
from lab.targets.cluster.workloads import NAME, Workload, asked, memory_bytes, read
from lab.targets.local import paths
from lab.targets.local.progress import quiet
from lab.targets.local.state import StateDir

GONE_S = 60


class ClusterTarget:
    """The chart's release in one cluster. Only logs and a kubeconfig are kept here: the cluster knows the rest."""

    name: str
    again: str
    """The command that goes on where a failed one stopped."""

    def __init__(self, state_dir: Path | None = None) -> None:
        self._root = state_dir or paths.state_dir()
        self._dir = StateDir(self._root / self.name)

    @property
    def state_dir(self) -> Path:
        """The state folder that all targets share."""
        return self._root

    @property
    def installable(self) -> list[str]:
        """Nothing: what a cluster lacks is pulled."""
        return []

    @property
    def addresses(self) -> dict[str, str]:
        """URLs by name. Raises LabError when this machine cannot reach the front door."""
        access = self._access()
        found = {name: each.url for name, each in published(self._release(access)).items()}
        door = found.get("front_door")
        if door is None or forward.reachable(door):
            return found
        with access.api() as api:
            workloads = self._installed(api)
        orders = next((each.reason for each in workloads if each.name == "orders" and each.reason), "")
        if orders:
            raise TargetDownError(f"orders does not serve ({orders}): .venv/bin/lab --target {self.name} status")
        raise TargetDownError(
            f"{door} is out of reach from here: run .venv/bin/lab --target {self.name} forward in another terminal"
        )

    @property
    def settings_token(self) -> str:
        """The bearer token of orders' settings, from the Secret."""
        access = self._access()
        name = secret_name(self._release(access).values)
        with access.api() as api:
            secret = api.document(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
        return base64.b64decode(secret["data"]["settings-token"]).decode()

    def up(self, names: Sequence[str] = (), *, progress: Progress = quiet, **choices: object) -> Status:
        """Get at a cluster and an image, install or upgrade the chart, and wait until all is ready."""
        given = [*names, *(f"--{name.replace('_', '-')}" for name in choices)]
        if given:
            raise LabError(
                f"{', '.join(given)}: for the local target only; here values decide (PROFILE, HELM_ARGS='--set …')"
            )
        with self._dir.lock():
            access = self._prepare(progress)
            try:
                self._namespace(access)
                release = self._deliver(access, progress)
                remember(self._root, self.name)
                progress("chart", "helm upgrade --install")
                release.install()
                progress("chart", "installed", "done")
                with access.api() as api:
                    wait(api, progress)
            except LabError as error:
                raise LabError(f"{error}. What is there stays: {self.again} goes on from here") from error
            except KeyboardInterrupt:
                progress("interrupted", f"what is there stays: {self.again} goes on from here", "absent")
                raise
        return self.status()

    def down(self, *, purge: bool = False, progress: Progress = quiet) -> None:
        """Remove the release, or the whole cluster where that is ours."""
        with self._dir.lock():
            self._remove(purge=purge, progress=progress)
            forget(self._root, self.name)

    def status(self) -> Status:
        """How every workload is, now. Raises TargetDownError when the chart is not installed."""
        access = self._access()
        with access.api() as api:
            workloads = self._installed(api)
            memory = memory_bytes(api, {node for each in workloads for node in each.nodes})
            spoken = transports(api)
        urls = {name: each.url for name, each in published(self._release(access)).items()}
        notes = self._notes(access)
        if images := {each.image for each in workloads if each.name == "orders"}:
            notes["image"] = images.pop()
        if "front_door" in urls and not forward.reachable(urls["front_door"]):
            notes["addresses"] = f"out of reach from here: .venv/bin/lab --target {self.name} forward brings them here"
        return Status(
            target=self.name,
            ready=all(each.ready for each in workloads),
            addresses=urls,
            processes=[
                ProcessStatus(
                    name=each.name,
                    pid=None,
                    ready=each.ready,
                    rss_bytes=sum(memory.get(pod, 0) for pod in each.pods),
                    reason=each.reason,
                    replicas=each.replicas,
                )
                for each in workloads
            ],
            transports=spoken,
            notes=notes,
        )

    def restart(self, *names: str, progress: Progress = quiet) -> Status:
        """Replace the pods of the named workloads by new ones, and wait until these are ready."""
        with self._changing() as (access, workloads):
            for workload in [_named(workloads, name) for name in names]:
                tools.run(*access.kubectl("rollout", "restart", f"{workload.kind}/{workload.name}"))
            with access.api() as api:
                wait(api, progress, names=names)
        return self.status()

    def scale(self, name: str, replicas: int, *, progress: Progress = quiet) -> Status:
        """Run so many pods of a workload, and wait until they are ready."""
        with self._changing() as (access, workloads):
            workload = _named(workloads, name)
            if replicas > 1 and self._release(access).values.get("services", {}).get(name, {}).get("single"):
                raise LabError(f"{name} stays one pod: there is one of each carrier, and read models have one writer")
            command = ("scale", f"{workload.kind}/{name}", f"--replicas={replicas}")
            tools.run(*access.kubectl(*command))
            with access.api() as api:
                wait(api, progress, names=[name])
        return self.status()

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """End one pod of a workload, or the pod of that name: with SIGKILL at once, and return when it is gone; with
        SIGTERM in the ordinary way. Its controller makes another one."""
        if signum not in (signal.SIGKILL, signal.SIGTERM):
            raise LabError("a pod can be sent SIGTERM or SIGKILL only")
        access = self._access()
        with access.api() as api:
            workloads = self._installed(api)
        pod = next((name for each in workloads if name in each.pods), None)
        if pod is None:
            pods = _named(workloads, name).pods
            if not pods:
                raise LabError(f"{name} has no pod that could be ended")
            pod = pods[0]
        at_once = (
            ("--grace-period=0", "--force", f"--timeout={GONE_S}s") if signum == signal.SIGKILL else ("--wait=false",)
        )
        tools.run(*access.kubectl("delete", "pod", pod, *at_once), timeout_s=GONE_S + 10)

    def logs(self, name: str, *, lines: int = 50, follow: bool = False) -> Iterator[str]:
        """The last lines of each replica, each with its pod's name where there are several."""
        access = self._access()
        with access.api() as api:
            pods: dict[str, list[str]] = {}
            for pod in api.namespaced("pods", **OURS):
                meta = pod["metadata"]
                pods.setdefault(meta["labels"].get(NAME, meta["name"]), []).append(meta["name"])
        options = [f"--tail={lines}", *(["--follow"] if follow else [])]
        if name in pods:
            selector = f"{OURS['labelSelector']},{NAME}={name}"
            prefix = ["--prefix"] if len(pods[name]) > 1 else []
            which = ["--selector", selector, "--all-containers", "--max-log-requests=50", *prefix]
        elif name in {pod for several in pods.values() for pod in several}:
            which = [name]
        else:
            raise _unknown(name, pods) if pods else self._down()
        yield from tools.lines(access.kubectl("logs", *which, *options))

    @contextmanager
    def admin_ports(self) -> Iterator[Mapping[str, str]]:
        """The services' admin ports, brought to ports of this machine while the block runs."""
        access = self._access()
        services = self._release(access).values.get("services", {})
        with access.api() as api:
            there = {each.name for each in self._installed(api)}  # one without any of its transports is not
        names = [n for n, each in services.items() if n in there and str(each.get("module")).startswith("services.")]
        with forward.brought(access, names, "admin") as urls:
            yield urls

    @contextmanager
    def admins(self) -> Iterator[Ask]:
        """The admin ports of the services' pods, through the API; one that is ending is left out."""
        access = self._access()
        with access.api() as api:
            self._installed(api)
            yield lambda path: asked(api, path)

    def forward(self, say: Callable[[str], None]) -> None:
        """Bring the addresses that are out of reach to this machine, until Ctrl-C."""
        access = self._access()
        found = {name: each for name, each in published(self._release(access)).items() if each.service}
        away: dict[str, list[tuple[int, str]]] = {}
        for name, each in found.items():
            url = f"http://{HERE}:{each.local_port}"
            is_there = forward.reachable(url)
            if not is_there:
                away.setdefault(each.service, []).append((each.local_port, each.port))
            say(f"{name:20} {url}{'  (is reached without this)' if is_there else ''}")
        if not away:
            return
        say("Ctrl-C ends it")
        forward.forward(access, away, say)

    # what the two do differently

    @property
    def kubeconfig(self) -> str:
        """The file (or files) in which the cluster's context stands."""
        raise NotImplementedError

    def _access(self) -> Access:
        """Raises TargetDownError when there is no cluster."""
        raise NotImplementedError

    def _prepare(self, progress: Progress) -> Access:
        """Make sure of the tools and the cluster."""
        raise NotImplementedError

    def _deliver(self, access: Access, progress: Progress) -> Release:
        """Bring the image to where the cluster gets it, and say what to install."""
        raise NotImplementedError

    def _remove(self, *, purge: bool, progress: Progress) -> None:
        raise NotImplementedError

    def _notes(self, access: Access) -> dict[str, str]:
        return {"context": access.context}

    # what they share

    def _down(self) -> TargetDownError:
        return TargetDownError(f"the lab is not running on {self.name}: {self.again} starts it")

    def _release(self, access: Access) -> Release:
        """What is installed. Raises TargetDownError when nothing is."""
        release = Release(access)
        if not release.is_there():
            raise self._down()
        return release

    def _installed(self, api: Api) -> list[Workload]:
        workloads = read(api)
        if not workloads:
            raise self._down()
        return workloads

    @contextmanager
    def _changing(self) -> Iterator[tuple[Access, list[Workload]]]:
        with self._dir.lock():
            access = self._access()
            with access.api() as api:
                workloads = self._installed(api)
            yield access, workloads

    def _namespace(self, access: Access) -> None:
        """Make it with its Pod Security level; one that is there stays as its owner made it."""
        with suppress(tools.ToolError):  # not everybody may look
            if tools.run(*access.kubectl("get", "namespace", NAMESPACE, "--output=name")):
                return
        tools.run(*access.kubectl("apply", "--filename", str(paths.project_root() / "k8s/namespace.yaml")))


def _named(workloads: Sequence[Workload], name: str) -> Workload:
    for workload in workloads:
        if workload.name == name:
            return workload
    raise _unknown(name, [workload.name for workload in workloads])


def _unknown(name: str, known: Iterable[str]) -> LabError:
    from lab.targets.local.target import unknown

    return LabError(unknown("process", name, known))
