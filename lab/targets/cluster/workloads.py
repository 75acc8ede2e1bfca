"""How the lab's Deployments and StatefulSets are, read from the API, and why one is not as it should be.

The reason is the one that a person would dig for: the scheduler's message, the registry's refusal, the last line of
what crashed, the body of the failing probe.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import httpx

from lab.targets import LabError
from lab.targets.cluster.access import NAMESPACE, OURS, Api
from lab.targets.local.process import reason_in

KINDS = ("deployment", "statefulset")
NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
HOPELESS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
"""A container that waits for one of these mostly waits for a person."""
SHOWN = 300  # characters of a reason

Document = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """One of them. `reason` is empty when all replicas are there, of the newest revision, and ready.

    `pods` are those that are not ending, ready ones first; `hopeless`: waiting alone will not help.
    """

    kind: str
    name: str
    component: str
    image: str
    replicas: int
    reason: str
    pods: tuple[str, ...]
    nodes: tuple[str, ...]
    hopeless: bool = False

    @property
    def ready(self) -> bool:
        """All of it is as it should be, and there is some of it."""
        return not self.reason


def read(api: Api) -> list[Workload]:
    """All workloads of the lab, backends first; none when the chart is not installed."""
    pods = [pod for pod in api.namespaced("pods", **OURS) if not pod["metadata"].get("deletionTimestamp")]
    found = []
    warnings = _Warnings(api)
    for kind in KINDS:
        for document in api.namespaced(f"{kind}s", group="apis/apps/v1", **OURS):
            own = [pod for pod in pods if _selects(document, pod)]
            own.sort(key=lambda pod: (not _is_ready(pod), pod["metadata"]["name"]))
            unsettled = _unsettled(kind, document)
            reason, hopeless = _reason(api, document, own, warnings) if unsettled else ("", False)
            found.append(
                Workload(
                    kind=kind,
                    name=document["metadata"]["name"],
                    component=document["metadata"].get("labels", {}).get(COMPONENT, ""),
                    image=document["spec"]["template"]["spec"]["containers"][0]["image"],
                    replicas=_wanted(document),
                    reason=(reason or unsettled)[:SHOWN],
                    pods=tuple(pod["metadata"]["name"] for pod in own),
                    nodes=tuple(dict.fromkeys(pod["spec"].get("nodeName", "") for pod in own)),
                    hopeless=hopeless,
                )
            )
    return sorted(found, key=lambda workload: (workload.component, workload.name))


def memory_bytes(api: Api, nodes: set[str]) -> dict[str, int]:
    """Resident memory of each pod, as the kubelets count it; nothing of those that this user may not ask."""
    found: dict[str, int] = {}
    for node in nodes - {""}:
        with contextlib.suppress(LabError):
            summary = api.document(f"/api/v1/nodes/{node}/proxy/stats/summary")
            for pod in summary.get("pods", []):
                if pod["podRef"]["namespace"] == NAMESPACE:
                    found[pod["podRef"]["name"]] = sum(
                        container.get("memory", {}).get("rssBytes", 0) for container in pod.get("containers", [])
                    )
    return found


def asked(api: Api, path: str) -> dict[str, Document | None]:
    """What the admin port of each live pod of ours answers at a path, None where it does not; a pod that has no such
    path is left out."""
    found: dict[str, Document | None] = {}
    for pod in api.namespaced("pods", **OURS):
        if pod["metadata"].get("deletionTimestamp") or (port := _admin_port(pod)) is None:
            continue
        name = pod["metadata"]["name"]
        answer = api.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:{port}/proxy{path}")
        if answer.status_code != httpx.codes.NOT_FOUND:
            found[name] = answer.json() if answer.is_success else None
    return found


def _admin_port(pod: Document) -> int | None:
    ports = (port for container in pod["spec"]["containers"] for port in container.get("ports", []))
    return next((port["containerPort"] for port in ports if port.get("name") == "admin"), None)


def _wanted(document: Document) -> int:
    return int(document["spec"].get("replicas", 1))


def _selects(document: Document, pod: Document) -> bool:
    labels = pod["metadata"].get("labels", {})
    return bool(document["spec"]["selector"]["matchLabels"].items() <= labels.items())


def _unsettled(kind: str, document: Document) -> str:
    """Empty when the controller has nothing left to do (what `kubectl rollout status` waits for)."""
    status, wanted = document.get("status", {}), _wanted(document)
    if status.get("observedGeneration", 0) < document["metadata"].get("generation", 0):
        return "starting"
    if not wanted:
        return "scaled to 0"
    updated = status.get("updatedReplicas", 0)
    if updated < wanted or status.get("updateRevision") != status.get("currentRevision"):
        return f"{updated} of {wanted} started"
    if status.get("replicas", 0) > updated:
        return "old ones are ending"
    ready = status.get("availableReplicas" if kind == "deployment" else "readyReplicas", 0)
    return f"{ready} of {wanted} ready" if ready < wanted else ""


def _is_ready(pod: Document) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


class _Warnings:
    """The newest warning about each object, asked for once, and only if somebody wants to know."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._newest: dict[str, tuple[str, str]] | None = None

    def about(self, document: Document) -> str:
        """Empty where there is none since this object was made: a pod's forerunner may have had its name."""
        if self._newest is None:
            events = self._api.namespaced("events", fieldSelector="type=Warning")
            told = [
                (_when(event), event["involvedObject"]["name"], _line(event.get("message", ""))) for event in events
            ]
            self._newest = {name: (when, message) for when, name, message in sorted(told)}
        when, message = self._newest.get(document["metadata"]["name"], ("", ""))
        return message if when >= document["metadata"].get("creationTimestamp", "") else ""


def _when(event: Document) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or ""


def _reason(api: Api, document: Document, pods: list[Document], warnings: _Warnings) -> tuple[str, bool]:
    """Why it is not as it should be, of the first pod that knows; and whether that is hopeless."""
    for pod in pods:
        if not _is_ready(pod):
            reason, hopeless = _of_pod(api, pod, warnings)
            several = f"{pod['metadata']['name']}: " if _wanted(document) > 1 else ""
            return f"{several}{reason}", hopeless
    if pods:
        return "", False
    for condition in document.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"no pod: {_line(condition['message'])}", False
    warning = warnings.about(document)
    return (f"no pod: {warning}" if warning else ""), False


def _of_pod(api: Api, pod: Document, warnings: _Warnings) -> tuple[str, bool]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"no node takes it: {_line(condition.get('message', ''))}", False
    if status.get("phase") == "Failed":
        return f"{status.get('reason', 'failed')}: {_line(status.get('message', ''))}", False
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = container.get("state", {})
        if waiting := state.get("waiting"):
            reason, message = waiting.get("reason", ""), _line(waiting.get("message", ""))
            if reason == "CrashLoopBackOff":
                ended = container.get("lastState", {}).get("terminated", {})
                return (
                    f"keeps ending ({_ended(ended)}): {_last_line(api, name, container['name'], previous=True)}",
                    False,
                )
            if reason in HOPELESS:
                return f"{reason}: {message}", True
            return f"starting: {message or warnings.about(pod) or reason}", False
        ended = state.get("terminated")
        if ended and ended.get("exitCode"):
            return f"has ended ({_ended(ended)}): {_last_line(api, name, container['name'])}", False
    if status.get("phase") == "Pending":
        return f"starting: {warnings.about(pod)}".rstrip(": "), False
    return _probe(api, pod) or warnings.about(pod) or "not ready yet", False


def _ended(terminated: Document) -> str:
    reason = terminated.get("reason", "Error")
    return f"exit code {terminated.get('exitCode', '?')}" if reason in ("Error", "Completed") else reason


def _last_line(api: Api, pod: str, container: str, *, previous: bool = False) -> str:
    """What it printed last, which mostly is its reason."""
    with contextlib.suppress(LabError):
        answer = api.get(
            f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/log",
            container=container,
            tailLines="1",
            previous=str(previous).lower(),
        )
        if answer.is_success and answer.text.strip():
            return _line(answer.text)
    return "it printed nothing"


def _probe(api: Api, pod: Document) -> str:
    """The body of its failing readiness probe, asked through the API; empty where that is no HTTP or no answer."""
    for container in pod["spec"]["containers"]:
        probe = container.get("readinessProbe", {}).get("httpGet")
        if not probe:
            continue
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        port = ports.get(probe["port"], probe["port"])
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:{port}/proxy{probe.get('path', '/')}"
        with contextlib.suppress(LabError):
            answer = api.get(path, timeout_s=3)
            if answer.is_success:
                return "answers; Kubernetes will see it at the next probe"
            # the API server's own complaint that nobody listens there is not the pod's
            if answer.status_code == 503 and '"kind":"Status"' not in answer.text:
                return reason_in(answer.text)
    return ""


def _line(text: str) -> str:
    return " ".join(text.split())
