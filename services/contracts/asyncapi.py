"""What the AsyncAPI 3.0 document says: the channels, who sends and receives what there, and on which brokers.

Made of the styles' conversations (which are handed in: contracts know no style) and of the domain's types, so that it
cannot drift from them. A field's unit stands in its name. AsyncAPI has one place for headers and brokers have several:
they are described by their names in CloudEvents' HTTP binding, and each server says what becomes of them there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.domain.messages import MESSAGES, Command, Event, Refusal, type_name

MEDIA_TYPE = "application/vnd.aai.asyncapi+json;version=3.0.0"
_BINARY = "CloudEvents binary mode"
_STRUCTURED = (
    "CloudEvents structured mode: the message is one JSON object that holds the headers, without ce-, content-type as "
    "datacontenttype, sent-at as labsentat, and the payload as data (data_base64, where it is not JSON)"
)
_ADDRESS = {"host": "{address}"}


def _server(address: str, variable: str, protocol: str, description: str, **more: Any) -> dict[str, Any]:
    about = {"default": address, "description": f"the setting {variable}"}
    return {**_ADDRESS, "protocol": protocol, **more, "description": description, "variables": {"address": about}}


_SERVERS = {
    "rabbitmq": _server(
        "localhost:5672",
        "LAB_RABBITMQ_URL",
        "amqp",
        f"{_BINARY}; ce-<name> is the header cloudEvents:<name>, content-type the property.",
        protocolVersion="0-9-1",
        security=[{"$ref": "#/components/securitySchemes/user"}],
    ),
    "kafka": _server(
        "localhost:9092", "LAB_KAFKA_BOOTSTRAP", "kafka", f"{_BINARY}; ce-<name> is the record's header ce_<name>."
    ),
    "sqs": _server(
        "localhost:9324",
        "LAB_SQS_URL",
        "sqs",
        f"{_STRUCTURED}. traceparent and tracestate are message attributes instead.",
    ),
    "redis_streams": _server(
        "localhost:6379",
        "LAB_REDIS_URL",
        "redis",
        f"{_BINARY}; ce-<name> is the field ce_<name>, data the payload.",
    ),
    "redis_pubsub": _server(
        "localhost:6379",
        "LAB_REDIS_URL",
        "redis",
        f"{_STRUCTURED}. What is published while nobody listens is gone.",
    ),
}


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of the running system: who says what in it, which groups hear it, which styles use it, and which
    transports can carry it."""

    name: str
    said: Mapping[str, frozenset[type[Command | Event]]]
    groups: frozenset[str]
    styles: frozenset[str]
    transports: frozenset[str]

    @property
    def messages(self) -> list[str]:
        return _names(frozenset[type[Command | Event]]().union(*self.said.values()))

    @property
    def bindings(self) -> dict[str, Any]:
        """What the brokers call it and make of it. AsyncAPI has no words for Redis."""
        name = self.name.replace(".", "_")
        queue = {"name": name, "fifoQueue": False}
        dead = {"name": f"{name}_dead", "fifoQueue": False, "messageRetentionPeriod": 14 * 24 * 3600}
        redrive = {"deadLetterQueue": {"name": dead["name"]}, "maxReceiveCount": 20}
        exchange = {"name": "antiphon", "type": "topic", "durable": True, "autoDelete": False}
        words = {
            "rabbitmq": ("amqp", {"is": "routingKey", "exchange": exchange}),
            "kafka": ("kafka", {"topic": self.name, "partitions": 3, "replicas": 1}),
            "sqs": ("sqs", {"queue": {**queue, "redrivePolicy": redrive}, "deadLetterQueue": dead}),
        }
        return dict(words[name] for name in sorted(self.transports & words.keys()))


def document(channels: Iterable[Channel], formats: Mapping[str, str]) -> dict[str, Any]:
    """The document of all services together. ``formats`` are the payload's content-types by name, the default first."""
    channels = sorted(channels, key=lambda channel: channel.name)
    default = next(iter(formats.values()))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Antiphon: the messages of an order",
            "version": "1",
            "description": "Commands have one addressee, events as many hearers as care. Messages are CloudEvents 1.0 "
            "and keyed by the order's id. Delivery is at least once; on Redis pub/sub it is at most once.",
        },
        "defaultContentType": default,
        "servers": {name: _SERVERS[name] for name in sorted({t for c in channels for t in c.transports})},
        "channels": {channel.name: _channel(channel) for channel in channels},
        "operations": {name: operation for channel in channels for name, operation in _operations(channel)},
        "components": {
            "messages": {name: _message(name, kind, formats) for name, kind in _spoken(channels).items()},
            "schemas": {**_payloads(), "Headers": _headers(channels, formats)},
            "correlationIds": {
                "order": {"description": "the order's id", "location": "$message.header#/ce-subject"},
            },
            "securitySchemes": {"user": {"type": "userPassword"}},
        },
    }


@cache
def committed() -> str:
    """The document as ``make contracts`` has written it."""
    return Path(__file__).with_name("asyncapi.json").read_text("utf-8")


def _spoken(channels: Iterable[Channel]) -> dict[str, type[Command | Event]]:
    """Every message that is said somewhere, in the vocabulary's order."""
    spoken = {kind for channel in channels for kinds in channel.said.values() for kind in kinds}
    return {name: kind for name, kind in MESSAGES.items() if kind in spoken}


def _names(kinds: Iterable[type[Command | Event]]) -> list[str]:
    return sorted(map(type_name, kinds))


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "address": channel.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
        "servers": [{"$ref": f"#/servers/{name}"} for name in sorted(channel.transports)],
        "tags": [{"name": style} for style in sorted(channel.styles)],
        "bindings": channel.bindings,
    }


def _operations(channel: Channel) -> Iterable[tuple[str, dict[str, Any]]]:
    def operation(action: str, service: str, names: Iterable[str], bindings: dict[str, Any]) -> dict[str, Any]:
        place = f"#/channels/{channel.name}"
        return {
            "action": action,
            "channel": {"$ref": place},
            "messages": [{"$ref": f"{place}/messages/{name}"} for name in names],
            "tags": [{"name": service}],
            "bindings": {name: binding for name, binding in bindings.items() if name in channel.bindings},
        }

    for sender, kinds in sorted(channel.said.items()):
        bindings: dict[str, Any] = {"amqp": {"deliveryMode": 2, "mandatory": True}}
        yield f"{sender}.sends.{channel.name}", operation("send", sender, _names(kinds), bindings)
    for group in sorted(channel.groups):
        name = f"{group}.{channel.name}"
        bindings = {"amqp": {"ack": True, "x-queue": name}, "kafka": {"groupId": {"type": "string", "const": name}}}
        yield f"{group}.receives.{channel.name}", operation("receive", group, channel.messages, bindings)


def _message(name: str, kind: type[Command | Event], formats: Mapping[str, str]) -> dict[str, Any]:
    record = "Command" if issubclass(kind, Command) else "Event"
    files = {"protobuf": f"antiphon.proto#{record}", "avro": f"antiphon.avpr#{record}"}
    shape = "Refusal" if issubclass(kind, Refusal) else record
    return {
        "name": name,
        "title": kind.__name__,
        "headers": {
            "allOf": [{"$ref": "#/components/schemas/Headers"}, {"properties": {"ce-type": {"const": name}}}],
        },
        "payload": {"$ref": f"#/components/schemas/{shape}"},
        "correlationId": {"$ref": "#/components/correlationIds/order"},
        "bindings": {"kafka": {"key": {"type": "string", "description": "the order's id"}}},
        "x-formats": {formats[each]: file for each, file in files.items() if each in formats},
    }


def _payloads() -> dict[str, Any]:
    """The domain's types as JSON Schema, with what ``validity.check`` asks of them."""
    _, schemas = TypeAdapter.json_schemas(
        [(t, "validation", TypeAdapter(t)) for t in (Command, Event, Refusal)],
        ref_template="#/components/schemas/{model}",
    )
    payloads: dict[str, Any] = schemas["$defs"]
    payloads["Line"]["properties"]["quantity"]["minimum"] = 1
    payloads["Order"]["properties"]["order_id"]["minLength"] = 1
    payloads["Order"]["properties"]["lines"]["minItems"] = 1
    return payloads


def _headers(channels: Iterable[Channel], formats: Mapping[str, str]) -> dict[str, Any]:
    def text(description: str = "", **more: Any) -> dict[str, Any]:
        return {"type": "string", **({"description": description} if description else {}), **more}

    senders = sorted({sender for channel in channels for sender in channel.said})
    attributes = {
        "ce-specversion": text(const="1.0"),
        "ce-id": text("follows from what led to the message: the same again is a duplicate", format="uuid"),
        "ce-source": text("who says it", enum=senders),
        "ce-type": text("which message it is"),
        "ce-subject": text("the order's id", minLength=1),
        "ce-time": text("when it was made, UTC", format="date-time"),
        "ce-labstyle": text("whose conversation it is", enum=sorted({s for c in channels for s in c.styles})),
        "ce-labtransport": text("by which the customer sent the order"),
        "content-type": text("the payload's format", enum=list(formats.values())),
        "sent-at": text("when it was handed to the broker, in ns since 1970", pattern="^[0-9]{1,19}$"),
    }
    optional = {
        "ce-dataschema": text("in Protobuf alone: the type URL", format="uri-reference"),
        "traceparent": text("W3C Trace Context", pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"),
        "tracestate": text("W3C Trace Context"),
        "baggage": text("W3C Baggage"),
    }
    return {"type": "object", "properties": {**attributes, **optional}, "required": list(attributes)}
