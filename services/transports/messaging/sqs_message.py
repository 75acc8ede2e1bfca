"""A message of SQS: the event is its body; the trace context, and notes on its death, are message attributes."""

import re
from collections.abc import Mapping
from typing import Any

from services.telemetry import conventions as c
from services.transports.errors import Undecodable
from services.transports.messaging.headers import ATTEMPTS, REASON
from services.transports.messaging.structured import Unreadable, unpack

AT_MOST = 10
"""Messages of one request, and attributes of one message."""
IN_ATTRIBUTES = ("traceparent", "tracestate", c.HEADER_REPLAYED)
"""Headers that are attributes of the message: a dead letter is sent again without a touch on its body."""
NOTES = frozenset({REASON, ATTEMPTS, c.SQS_RECEIPT, c.SQS_RECEIVE_COUNT})
"""What a dead letter has beside the attributes of its message."""
_UNSPEAKABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What has no letter in XML, and so none in a message of SQS."""


def attribute(text: str) -> dict[str, str]:
    """A message attribute."""
    return {"DataType": "String", "StringValue": _UNSPEAKABLE.sub("?", text)}


def kept(message: Mapping[str, Any], room: int) -> dict[str, Any]:
    """The attributes of ``message`` but for the notes, ours first, as many as there is room for."""
    had = message.get("MessageAttributes", {}).items()
    own = sorted((each for each in had if each[0] not in NOTES), key=lambda each: each[0] not in IN_ATTRIBUTES)
    return dict(own[:room])


def taken_apart(message: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
    """Headers and body. Of text that is no event, asking for a header that is not there raises the reason."""
    headers: dict[str, str]
    text = message["Body"]
    try:
        headers, body = unpack(text)
    except Undecodable as error:
        headers, body = Unreadable(error), text.encode(errors="replace")
    for name in IN_ATTRIBUTES:
        if value := message.get("MessageAttributes", {}).get(name, {}).get("StringValue"):
            headers[name] = value
    return headers, body
