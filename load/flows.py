"""Which flows can be loaded: what the front door says that it speaks, and that runs now."""

from collections.abc import Iterable
from typing import Any

import httpx

from load.orders import Catalog
from load.plan import Flow

READY = "ready"


class FrontDoorError(Exception):
    """The front door cannot be used; the text is one line for a person, with what to do."""


class FrontDoor:
    """The few questions that a load asks before it starts. Blocking; ``timeout_s`` per question."""

    def __init__(self, address: str, *, timeout_s: float = 5.0) -> None:
        self.address = address.rstrip("/")
        self.timeout_s = timeout_s

    def catalog(self) -> Catalog:
        """Raises FrontDoorError."""
        answer = self._get("/catalog")
        try:
            return Catalog.from_answer(answer)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FrontDoorError(f"{self.address}/catalog cannot be read: {error}") from error

    def transports(self) -> dict[str, str]:
        """Each transport's status, ``ready`` or why not. Raises FrontDoorError."""
        return {item["name"]: str(item.get("status", READY)) for item in _items(self._get("/transports"))}

    def flows(self) -> list[Flow]:
        """Every style over every transport that is ready. Raises FrontDoorError, also where there is none."""
        status = self.transports()
        flows = [
            Flow(style["name"], transport)
            for style in _items(self._get("/styles"))
            for transport in _transports_of(style)
            if all(status.get(name) == READY for name in transport.split(","))
        ]
        if not flows:
            raise FrontDoorError(f"nothing to load at {self.address}: no style has a transport that is ready")
        return flows

    def check(self, flows: Iterable[Flow]) -> None:
        """Raises FrontDoorError with the reason where one of them cannot run now."""
        status = self.transports()
        styles = {style["name"] for style in _items(self._get("/styles"))}
        for flow in flows:
            if flow.style not in styles:
                raise FrontDoorError(f"no style {flow.style!r}; there are {', '.join(sorted(styles))}")
            for name in flow.transport.split(","):
                if status.get(name) != READY:
                    why = status.get(name, f"no such transport; there are {', '.join(sorted(status))}")
                    raise FrontDoorError(f"{flow} cannot run: {name}: {why}")

    def _get(self, path: str) -> Any:
        try:
            # the lab's addresses are reached directly, whatever proxy the shell is set to
            answer = httpx.get(self.address + path, timeout=self.timeout_s, trust_env=False)
            answer.raise_for_status()
            return answer.json()
        except httpx.HTTPStatusError as error:
            raise FrontDoorError(f"{self.address}{path} answers {error.response.status_code}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FrontDoorError(
                f"no front door at {self.address} ({error or type(error).__name__}); start it with .venv/bin/lab up"
            ) from error
        except ValueError as error:
            raise FrontDoorError(f"{self.address}{path} does not answer JSON; is this the front door?") from error


def _items(answer: Any) -> list[dict[str, Any]]:
    """The list itself, or the one list of an object around it."""
    if isinstance(answer, dict):
        answer = next((value for value in answer.values() if isinstance(value, list)), [])
    return [item for item in answer if isinstance(item, dict) and "name" in item]


def _transports_of(style: dict[str, Any]) -> list[str]:
    """What may stand in ``transport=``: each listed name for a style of one port, the default for one of
    several."""
    default = style.get("default") or style.get("default_transport")
    listed = style.get("transports") or []
    if isinstance(listed, dict):
        listed = next(iter(listed.values())) if len(listed) == 1 else []
    names = [name if isinstance(name, str) else name["name"] for name in listed]
    if len(style.get("ports") or [""]) > 1:
        names = [name for name in names if "," in name]
    return list(dict.fromkeys(names)) or ([default] if default else [])
