"""Where the release is reached, and what its front door says: read from the cluster, so that nothing is kept here."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lab.targets import LabError
from lab.targets.cluster.access import NAMESPACE, Api
from lab.targets.cluster.release import Release

HERE = "127.0.0.1"
TRIES = 3
"""One of them may meet a pod that is ending: orders' Service knows these, too."""


@dataclass(frozen=True)
class Address:
    """One thing that can be opened. `service` is empty where it is not run here but used elsewhere (`external`)."""

    url: str
    service: str = ""
    port: str = ""
    local_port: int = 0
    """Where `lab forward` brings it: the number of its node port."""


def published(release: Release) -> dict[str, Address]:
    """By name: front_door, jaeger, …, as the values of what is installed say it (`access` of each component)."""
    values = release.values
    access = values["access"]
    host = access["host"] if access["type"] == "NodePort" else HERE
    found = {}
    for component, entry in {**values.get("services", {}), **values.get("backends", {})}.items():
        for name, port in (entry.get("access") or {}).items():
            number = int(access["nodePorts"].get(name) or 0)
            if entry.get("external"):
                if port == "http":
                    found[name] = Address(_url(entry["external"]))
            elif entry.get("enabled", True) and number:
                found[name] = Address(f"http://{host}:{number}", component, port, number)
    return dict(sorted(found.items()))


def secret_name(values: dict[str, Any]) -> str:
    """The Secret with the passwords and the settings token: generated, or the installer's own."""
    return values.get("secret", {}).get("existing") or "antiphon"


def transports(api: Api) -> dict[str, str]:
    """What the front door says of them, asked through the API; nothing while it does not answer."""
    for _ in range(TRIES):
        with suppress(LabError, ValueError, KeyError, TypeError):
            answer = api.get(f"/api/v1/namespaces/{NAMESPACE}/services/orders:http/proxy/transports", timeout_s=5)
            if answer.is_success:
                return {item["name"]: str(item.get("status", "ready")) for item in answer.json()}
    return {}


def _url(external: str) -> str:
    return external.rstrip("/") if "://" in external else f"http://{external}"
