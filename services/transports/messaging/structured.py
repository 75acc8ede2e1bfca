"""CloudEvents 1.0 in structured mode, for wires that have few headers or none: the whole message is one JSON object.

Source: CloudEvents JSON event format 1.0.2; what it has no attribute for are extension attributes, whose names may
hold only ``a`` to ``z`` and digits (specification 1.0.2, section 3.1): ``labsentat``, ``labreplyto``, ``baggage``, and
by the distributed tracing extension ``traceparent`` and ``tracestate``. The text is ASCII, so that no wire minds it.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from services.telemetry import conventions as c
from services.transports.errors import Undecodable

CONTENT_TYPE = "application/cloudevents+json"
_ATTRIBUTES = {
    "content-type": "datacontenttype",
    c.HEADER_SENT_AT: "labsentat",
    "reply-to": "labreplyto",
    **{name: name for name in ("traceparent", "tracestate", "baggage")},
}
_HEADERS = {attribute: header for header, attribute in _ATTRIBUTES.items()}
_NAME = re.compile("[a-z0-9]+")


class Unreadable(dict[str, str]):
    """The headers of bytes that could not be taken apart: asking for one that is not there raises the reason."""

    def __init__(self, reason: Undecodable, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers or {})
        self._reason = reason

    def __missing__(self, name: str) -> str:
        raise self._reason


def pack(headers: Mapping[str, str], body: bytes) -> bytes:
    """The event as JSON. A body that is JSON and comes out as it went in stands in ``data`` as what it is, any other
    in ``data_base64``. Raises ValueError for a header that no CloudEvents attribute can be named after."""
    event: dict[str, Any] = {}
    for header, value in headers.items():
        name = _ATTRIBUTES.get(header) or header.removeprefix("ce-")
        if not _NAME.fullmatch(name):
            raise ValueError(f"no CloudEvents attribute can carry the header {header!r}")
        event[name] = value
    try:
        value = from_json(body, allow_inf_nan=False)
        # null would pass for no data
        same = value is not None and _is_json(headers.get("content-type")) and to_json(value) == body
    except ValueError:
        same = False
    event.update({"data": value} if same else {"data_base64": b64encode(body).decode()})
    return to_json(event, ensure_ascii=True)


def unpack(packed: bytes | str) -> tuple[dict[str, str], bytes]:
    """Headers and body of an event, whoever packed it. Raises ``Undecodable``."""
    try:
        event = from_json(packed, allow_inf_nan=False)
    except ValueError as error:
        raise Undecodable(f"no JSON: {error!s:.200}") from None
    if not isinstance(event, dict):
        raise Undecodable("JSON, but no CloudEvent: no object")
    if "data" in event and "data_base64" in event:
        raise Undecodable("CloudEvents attributes data and data_base64 stand beside each other")
    data, base64 = event.pop("data", None), event.pop("data_base64", None)
    headers = {_HEADERS.get(name) or f"ce-{name}": _text(name, v) for name, v in event.items() if v is not None}
    if base64 is not None:
        return headers, _bytes(base64)
    if data is None:
        return headers, b""
    if _is_json(headers.get("content-type")):
        return headers, to_json(data)
    if not isinstance(data, str):
        raise Undecodable("CloudEvents attribute data is no text, and datacontenttype is not JSON")
    return headers, data.encode()


def _text(name: str, value: Any) -> str:
    """An attribute as text, by the canonical forms of the CloudEvents type system (section 3.3)."""
    if not _NAME.fullmatch(name):
        raise Undecodable(f"{name[:60]!r} is no name of a CloudEvents attribute")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise Undecodable(f"CloudEvents attribute {name[:60]} is no text")
    return value


def _bytes(base64: Any) -> bytes:
    try:
        return b64decode(base64, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise Undecodable("CloudEvents attribute data_base64 is no base64") from None


def _is_json(content_type: str | None) -> bool:
    """Whether ``data`` is the JSON value itself (JSON event format, section 3.1); it is where nothing is said."""
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))
