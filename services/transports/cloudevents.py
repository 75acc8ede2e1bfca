"""CloudEvents 1.0 in binary mode: a ``Message`` as headers and body, and back.

Headers are named as the HTTP binding names them (``ce-id``, ``content-type``: CloudEvents HTTP binding 1.0.2,
section 3.1); adapters rename the prefix to their protocol's (``cloudEvents:`` in AMQP 1.0's binding, section 3.1;
``ce_`` in Kafka's, section 3.2). The mapping is ours because the official library's costs more than the rest of a
send together (docs/adr/010); the tests read our messages with that library.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

from services.domain.messages import Command, Event, type_name
from services.transports import formats
from services.transports.errors import Undecodable
from services.transports.formats import JSON, Format
from services.transports.ports import Message

_NAMESPACE = uuid.UUID("6f1c7b1e-0f8e-5d0c-9b0e-2d7b7f0c2a11")


def compose(
    payload: Command | Event,
    *,
    source: str,
    cause: str,
    style: str,
    transport: str,
    reply_to: str = "",
    correlation_id: str = "",
) -> Message:
    """A new message. Its id follows from ``source``, ``cause`` (the id of what led to it) and its type alone: a handler
    that runs again says the same message again, and whoever heard it once knows it."""
    message_type = type_name(type(payload))
    return Message(
        id=str(uuid.uuid5(_NAMESPACE, f"{source}/{cause}/{message_type}")),
        source=source,
        type=message_type,
        subject=payload.order.order_id,
        time=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        style=style,
        transport=transport,
        payload=payload,
        reply_to=reply_to,
        correlation_id=correlation_id,
    )


def encode(message: Message, written: Format = JSON) -> tuple[dict[str, str], bytes]:
    """Headers (fresh, to be added to) and body of ``message``, its payload in the format ``written``."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": message.id,
        "ce-source": message.source,
        "ce-type": message.type,
        "ce-subject": message.subject,
        "ce-time": message.time,
        "ce-labstyle": message.style,
        "ce-labtransport": message.transport,
        "content-type": written.content_type,
    }
    if message.reply_to:
        headers["reply-to"] = message.reply_to
    if message.correlation_id:
        headers["ce-correlationid"] = message.correlation_id
    if written.schemas:
        headers["ce-dataschema"] = written.schema_of(type(message.payload))
    return headers, written.dumps(message.payload)


def decode(headers: Mapping[str, str], body: bytes) -> Message:
    """The message in ``headers`` and ``body``. Raises ``Undecodable`` with the first thing that is wrong."""
    try:
        if headers["ce-specversion"] != "1.0":
            raise Undecodable(f"CloudEvents specversion {headers['ce-specversion'][:20]!r} is not 1.0")
        name = headers["ce-type"]
        written = formats.of(headers.get("content-type"))
        if written.schemas and (schema := headers.get("ce-dataschema")):
            written.check_schema(name, schema)
        payload = written.loads(name, body)
        message = Message(
            id=headers["ce-id"],
            source=headers["ce-source"],
            type=name,
            subject=payload.order.order_id,
            time=headers.get("ce-time", ""),
            style=headers["ce-labstyle"],
            transport=headers["ce-labtransport"],
            payload=payload,
            reply_to=headers.get("reply-to", ""),
            correlation_id=headers.get("ce-correlationid", ""),
        )
    except KeyError as error:
        raise Undecodable(f"CloudEvents attribute {error.args[0]} is missing") from None
    if not message.id or not message.source:
        raise Undecodable("CloudEvents attributes id and source must not be empty")
    return message


def dumps(payload: Command | Event) -> bytes:
    """``payload`` as JSON, without its type."""
    return JSON.dumps(payload)


def loads(name: str, body: bytes) -> Command | Event:
    """The message type called ``name`` from JSON. Raises ``Undecodable``."""
    return JSON.loads(name, body)
