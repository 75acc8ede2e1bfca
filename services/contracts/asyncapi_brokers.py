"""What the AsyncAPI document says of the brokers: where they are, how a message's headers stand there, and what each
makes of a channel."""

from collections.abc import Collection
from typing import Any

_BINARY = "CloudEvents binary mode"
_STRUCTURED = (
    "CloudEvents structured mode: the message is one JSON object that holds the headers, without ce-, content-type as "
    "datacontenttype, sent-at as labsentat, reply-to as labreplyto, and the payload as data (data_base64, where it is "
    "not JSON)"
)
_ADDRESS = {"host": "{address}"}
_KEPT = {"topicConfiguration": {"retention.ms": -1, "retention.bytes": -1}}


def _server(address: str, variable: str, protocol: str, description: str, **more: Any) -> dict[str, Any]:
    about = {"default": address, "description": f"the setting {variable}"}
    return {**_ADDRESS, "protocol": protocol, **more, "description": description, "variables": {"address": about}}


SERVERS = {
    "rabbitmq": _server(
        "localhost:5672",
        "LAB_RABBITMQ_URL",
        "amqp",
        f"{_BINARY}; ce-<name> is the header cloudEvents:<name>, content-type and reply-to are properties.",
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
        f"{_STRUCTURED}. traceparent, tracestate and ce-labreplayed are message attributes instead.",
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


def bindings(channel: str, transports: Collection[str], *, kept: bool) -> dict[str, Any]:
    """What those of ``transports`` that AsyncAPI has words for (it has none for Redis) call ``channel`` and make of it.
    What is ``kept`` is so for good."""
    name = channel.replace(".", "_")
    queue = {"name": name, "fifoQueue": False}
    dead = {"name": f"{name}_dead", "fifoQueue": False, "messageRetentionPeriod": 14 * 24 * 3600}
    redrive = {"deadLetterQueue": {"name": dead["name"]}, "maxReceiveCount": 20}
    exchange = {"name": "antiphon", "type": "topic", "durable": True, "autoDelete": False}
    words = {
        "rabbitmq": ("amqp", {"is": "routingKey", "exchange": exchange}),
        "kafka": ("kafka", {"topic": channel, "partitions": 3, "replicas": 1, **(_KEPT if kept else {})}),
        "sqs": ("sqs", {"queue": {**queue, "redrivePolicy": redrive}, "deadLetterQueue": dead}),
    }
    return dict(words[name] for name in sorted(words.keys() & transports))
