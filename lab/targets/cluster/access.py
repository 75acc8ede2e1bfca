"""Which cluster, and how it is asked: kubectl and helm for what changes something, the API itself for what is read.

The API is reached through `kubectl proxy`, which knows every way to log in, on a socket that only this user can open:
many questions on one connection, and the bodies of failing probes, which `kubectl get --raw` keeps to itself.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lab.targets import LabError
from lab.targets.cluster import tools

NAMESPACE = "antiphon"
RELEASE = "antiphon"
OURS = {"labelSelector": f"app.kubernetes.io/instance={RELEASE}"}
ANSWER_S = 10.0


class Api:
    """The cluster's API. Methods raise LabError."""

    def __init__(self, client: httpx.Client, context: str) -> None:
        self._client = client
        self._context = context

    def get(self, path: str, *, timeout_s: float = ANSWER_S, **params: str) -> httpx.Response:
        """The answer to a question, whatever its status."""
        try:
            return self._client.get(path, params=params, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise LabError(f"the cluster of context {self._context} does not answer: {error}") from error

    def document(self, path: str, **params: str) -> dict[str, Any]:
        """One object, or a list of them as one object."""
        answer = self.get(path, timeout_s=ANSWER_S, **params)
        try:
            document: dict[str, Any] = answer.json()
        except ValueError:
            document = {"message": tools.gist(answer.text)}
        if answer.is_error:
            raise LabError(f"the cluster of context {self._context}: {document.get('message', answer.reason_phrase)}")
        return document

    def items(self, path: str, **params: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        found: list[dict[str, Any]] = self.document(path, **params).get("items") or []
        return found

    def namespaced(self, kind: str, *, group: str = "api/v1", **params: str) -> list[dict[str, Any]]:
        """The lab's objects of a kind, in the plural: pods, services, …"""
        return self.items(f"/{group}/namespaces/{NAMESPACE}/{kind}", **params)


@dataclass(frozen=True)
class Access:
    """A context of a kubeconfig; None is the user's own."""

    context: str
    kubeconfig: Path | None = None

    def kubectl(self, *words: str) -> list[str]:
        """A command on the lab's namespace. Options last, so that errors name the command."""
        file = ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return ["kubectl", *words, "--namespace", NAMESPACE, "--context", self.context, *file]

    def helm(self, *words: str) -> list[str]:
        """The same for helm."""
        file = ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return ["helm", *words, "--namespace", NAMESPACE, "--kube-context", self.context, *file]

    @contextmanager
    def api(self) -> Iterator[Api]:
        """The API, while the block runs."""
        with tempfile.TemporaryDirectory(prefix="lab-") as folder:  # a socket's path must be short
            socket = f"{folder}/api"
            command = self.kubectl("proxy", f"--unix-socket={socket}")
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            with tools.started(command, **pipes) as proxy:
                assert proxy.stdout is not None
                assert proxy.stderr is not None
                if not proxy.stdout.readline():  # "Starting to serve on …"
                    raise LabError(f"kubectl proxy: {tools.gist(proxy.stderr.read())}")
                transport = httpx.HTTPTransport(uds=socket)
                with httpx.Client(transport=transport, base_url="http://localhost", trust_env=False) as client:
                    yield Api(client, self.context)
                tools.end(proxy)
