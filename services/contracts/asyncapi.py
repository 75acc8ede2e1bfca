"""What the AsyncAPI 3.0 document says: the channels, who sends and receives what there, and on which brokers.

Made of the styles' conversations (which are handed in: contracts know no style) and of the domain's types, so that it
cannot drift from them. A field's unit stands in its name. AsyncAPI has one place for headers and brokers have several:
they are described by their names in CloudEvents' HTTP binding, and each server says what becomes of them there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import get_annotations
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.contracts.asyncapi_brokers import SERVERS, bindings
from services.domain.messages import MESSAGES, Command, Event, type_name

MEDIA_TYPE = "application/vnd.aai.asyncapi+json;version=3.0.0"
Messages = frozenset[type[Command | Event]]
REPLY_TO = "reply-to"


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of the running system: who says what in it, what each group that hears it has a use for, which styles
    use it, and which transports can carry it. Whoever is in ``asked`` may want answers: those, on the channels
    ``replies``. ``kept`` is for good."""

    name: str
    said: Mapping[str, Messages]
    heard: Mapping[str, Messages]
    asked: Mapping[str, Messages]
    replies: frozenset[str]
    styles: frozenset[str]
    transports: frozenset[str]
    kept: bool = False

    @property
    def messages(self) -> list[str]:
        return _names(_all(self.said))


def document(channels: Iterable[Channel], formats: Mapping[str, str]) -> dict[str, Any]:
    """The document of all services together. ``formats`` are the payload's content-types by name, the default first."""
    channels = sorted(channels, key=lambda channel: channel.name)
    requests = {kind for channel in channels if channel.asked for kind in _all(channel.said)}
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
        "servers": {name: SERVERS[name] for name in sorted({t for c in channels for t in c.transports})},
        "channels": {
            **{channel.name: _channel(channel) for channel in channels},
            REPLY_TO: _reply_channel(channels, formats),
        },
        "operations": {name: operation for channel in channels for name, operation in _operations(channel)},
        "components": {
            "messages": {
                name: _message(name, kind, formats, "request" if kind in requests else "order")
                for name, kind in _spoken(channels).items()
            },
            "schemas": {**_payloads(channels), "Headers": _headers(channels, formats)},
            "correlationIds": {
                "order": {"description": "the order's id", "location": "$message.header#/ce-subject"},
                "request": {"description": "the request's own id", "location": "$message.header#/ce-id"},
                "answer": {"description": "the request's id", "location": "$message.header#/ce-correlationid"},
            },
            "securitySchemes": {"user": {"type": "userPassword"}},
        },
    }


@cache
def committed() -> str:
    """The document as ``make contracts`` has written it."""
    return Path(__file__).with_name("asyncapi.json").read_text("utf-8")


def _spoken(channels: Iterable[Channel]) -> dict[str, type[Command | Event]]:
    """Every message that is said somewhere."""
    return _by_name(kind for channel in channels for kind in _all(channel.said))


def _by_name(kinds: Iterable[type[Command | Event]]) -> dict[str, type[Command | Event]]:
    """In the vocabulary's order."""
    wanted = set(kinds)
    return {name: kind for name, kind in MESSAGES.items() if kind in wanted}


def _all(kinds: Mapping[str, Messages]) -> Messages:
    return Messages().union(*kinds.values())


def _names(kinds: Iterable[type[Command | Event]]) -> list[str]:
    return sorted(map(type_name, kinds))


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "address": channel.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
        "servers": [{"$ref": f"#/servers/{name}"} for name in sorted(channel.transports)],
        "tags": [{"name": style} for style in sorted(channel.styles)],
        "bindings": bindings(channel.name, channel.transports, kept=channel.kept),
    }


def _reply_channel(channels: Iterable[Channel], formats: Mapping[str, str]) -> dict[str, Any]:
    """Where answers go. AsyncAPI wants a channel without an address where the request has it (3.0.0, Operation Reply
    Object); those that requests of ours name are channels of their own beside it."""
    named = _replies(channels)
    answers = _by_name(kind for channel in channels for kind in _all(channel.asked))
    carrying = {name for channel in channels if channel.name in named for name in channel.transports}
    return {
        "address": None,
        "title": "The channel that a request names",
        "description": f"One of {', '.join(named)}.",
        "messages": {name: _message(name, kind, formats, "answer") for name, kind in answers.items()},
        "servers": [{"$ref": f"#/servers/{name}"} for name in sorted(carrying)],
    }


def _replies(channels: Iterable[Channel]) -> list[str]:
    """Every channel that a request names."""
    return sorted({name for channel in channels for name in channel.replies})


def _reply(kinds: Messages) -> dict[str, Any]:
    """What is answered to an operation's messages, where they ask for it."""
    about = "not every message has it: no answer is wanted then"
    return {
        "address": {"location": f"$message.header#/{REPLY_TO}", "description": about},
        "channel": {"$ref": f"#/channels/{REPLY_TO}"},
        "messages": [{"$ref": f"#/channels/{REPLY_TO}/messages/{name}"} for name in _names(kinds)],
    }


def _operations(channel: Channel) -> Iterable[tuple[str, dict[str, Any]]]:
    known = bindings(channel.name, channel.transports, kept=channel.kept)

    def operation(
        action: str, service: str, kinds: Messages, answers: Messages, words: dict[str, Any]
    ) -> dict[str, Any]:
        place = f"#/channels/{channel.name}"
        return {
            "action": action,
            "channel": {"$ref": place},
            "messages": [{"$ref": f"{place}/messages/{name}"} for name in _names(kinds)],
            **({"reply": _reply(answers)} if answers else {}),
            "tags": [{"name": service}],
            "bindings": {name: binding for name, binding in words.items() if name in known},
        }

    for sender, kinds in sorted(channel.said.items()):
        words: dict[str, Any] = {"amqp": {"deliveryMode": 2, "mandatory": True}}
        answers = channel.asked.get(sender, Messages())
        yield f"{sender}.sends.{channel.name}", operation("send", sender, kinds, answers, words)
    for group, kinds in sorted(channel.heard.items()):
        name = f"{group}.{channel.name}"
        words = {"amqp": {"ack": True, "x-queue": name}, "kafka": {"groupId": {"type": "string", "const": name}}}
        yield f"{group}.receives.{channel.name}", operation("receive", group, kinds, _all(channel.asked), words)


def _message(name: str, kind: type[Command | Event], formats: Mapping[str, str], correlation: str) -> dict[str, Any]:
    record = "Command" if issubclass(kind, Command) else "Event"
    files = {"protobuf": f"antiphon.proto#{record}", "avro": f"antiphon.avpr#{record}"}
    headers: dict[str, Any] = {"properties": {"ce-type": {"const": name}}}
    if correlation == "answer":
        headers["required"] = ["ce-correlationid"]
    return {
        "name": name,
        "title": kind.__name__,
        "headers": {"allOf": [{"$ref": "#/components/schemas/Headers"}, headers]},
        "payload": {"$ref": f"#/components/schemas/{_shape(kind).__name__}"},
        "correlationId": {"$ref": f"#/components/correlationIds/{correlation}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": "the order's id"}}},
        "x-formats": {formats[each]: file for each, file in files.items() if each in formats},
    }


def _shape(kind: type[Command | Event]) -> type[Command | Event]:
    """The type that says which fields ``kind`` has: the nearest above it that declares some."""
    types = (each for each in kind.__mro__ if issubclass(each, Command | Event))
    return next(each for each in types if get_annotations(each))


def _payloads(channels: Iterable[Channel]) -> dict[str, Any]:
    """The domain's types as JSON Schema, with what ``validity`` asks of them."""
    shapes = dict.fromkeys(map(_shape, _spoken(channels).values()))
    _, schemas = TypeAdapter.json_schemas(
        [(t.__name__, "validation", TypeAdapter(t)) for t in shapes],
        ref_template="#/components/schemas/{model}",
    )
    payloads: dict[str, Any] = schemas["$defs"]
    payloads["Line"]["properties"]["quantity"]["minimum"] = 1
    payloads["Order"]["properties"]["order_id"]["minLength"] = 1
    payloads["Order"]["properties"]["lines"]["minItems"] = 1
    for name in ("price_cents", "days"):
        payloads["Quote"]["properties"][name]["minimum"] = 0
    return payloads


def _headers(channels: Iterable[Channel], formats: Mapping[str, str]) -> dict[str, Any]:
    def text(description: str = "", **more: Any) -> dict[str, Any]:
        return {"type": "string", **({"description": description} if description else {}), **more}

    senders = sorted({sender for channel in channels for sender in channel.said})
    groups = sorted({group for channel in channels for group in channel.heard})
    attributes = {
        "ce-specversion": text(const="1.0"),
        "ce-id": text("follows from what led to the message: the same again is a duplicate", format="uuid"),
        "ce-source": text("who says it", enum=senders),
        "ce-type": text("which message it is"),
        "ce-subject": text("the order's id", minLength=1),
        "ce-time": text("when it was made, UTC", format="date-time"),
        "ce-labstyle": text("whose conversation it is", enum=sorted({s for c in channels for s in c.styles})),
        "ce-labtransport": text("which the customer chose, one for each port of the style, comma-separated"),
        "content-type": text("the payload's format", enum=list(formats.values())),
        "sent-at": text("when it was handed to the broker, in ns since 1970", pattern="^[0-9]{1,19}$"),
    }
    optional = {
        REPLY_TO: text("an answer is wanted on that channel", enum=_replies(channels)),
        "ce-correlationid": text("in an answer: the ce-id of its request", format="uuid"),
        "ce-dataschema": text("in Protobuf alone: the type URL", format="uri-reference"),
        "traceparent": text("W3C Trace Context", pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"),
        "tracestate": text("W3C Trace Context"),
        "baggage": text("W3C Baggage"),
        "ce-labreplayed": text("when it was put back from the dead letters, in ns since 1970", pattern="^[0-9]{1,19}$"),
        "ce-labonlygroup": text("put back for that group alone: the others pass it over", enum=groups),
    }
    return {"type": "object", "properties": {**attributes, **optional}, "required": list(attributes)}
