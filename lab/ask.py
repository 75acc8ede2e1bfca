"""Plain questions to a running lab: place an order, read and change settings. Answers are the documents as they come.

Every failure is a ``LabError`` with the service's own words: a problem document's ``detail``.
"""

import time
from collections.abc import Mapping
from typing import Any

import httpx

from lab.targets import LabError, TargetDownError

WAIT_S = 30


def place_order(
    front_door: str, *, style: str, transport: str | None, body: Mapping[str, Any], wait_s: float = WAIT_S
) -> dict[str, Any]:
    """Place an order and give it as it stands when it has ended, or after ``wait_s``."""
    params = {"style": style} if transport is None else {"style": style, "transport": transport}
    placed = ask("POST", f"{front_door}/orders", params=params, json=body)
    if placed["state"] != "accepted":
        return placed
    return ask("GET", f"{front_door}/orders/{placed['id']}", params={"wait_s": wait_s}, timeout=wait_s + 10)


def wait_for_trace(span_store: str, order_id: str, *, wait_s: float = 5) -> bool:
    """Return once the span store has the order's whole trace (services send their spans each half second): its end,
    and no span whose parent is still to come. False after ``wait_s``."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{span_store}/orders/{order_id}", trust_env=False)
        except httpx.TransportError:
            return False
        if answer.status_code == httpx.codes.OK:
            order = answer.json()
            if order["state"] and not any(span["orphan"] for span in order["spans"]):
                return True
        time.sleep(0.2)
    return False


def get_settings(admin: str, token: str) -> dict[str, Any]:
    """``values`` by name, and ``about``: a sentence on each."""
    return ask("GET", f"{admin}/settings", headers=bearer(token))


def put_settings(admin: str, token: str, values: Mapping[str, str | None]) -> dict[str, Any]:
    """Change settings; None goes back to the default. In force everywhere within two seconds."""
    return ask("PUT", f"{admin}/settings", headers=bearer(token), json={"values": dict(values)})


def bearer(token: str) -> dict[str, str]:
    """The header of those who may change something."""
    return {"authorization": f"Bearer {token}"}


def ask(method: str, url: str, **how: Any) -> dict[str, Any]:
    """A service's answer as the JSON document that it is. Raises LabError with its own words, and TargetDownError."""
    try:
        answer = httpx.request(method, url, trust_env=False, **{"timeout": 30, **how})
    except httpx.TransportError as error:
        raise TargetDownError(f"{url} does not answer ({error}): lab status shows what runs") from error
    try:
        document: dict[str, Any] = answer.json()
    except ValueError:
        document = {}
    if answer.is_error:
        valid = f" (there are: {', '.join(document['valid'])})" if "valid" in document else ""
        raise LabError(f"{document.get('detail', answer.reason_phrase)}{valid}")
    return document
