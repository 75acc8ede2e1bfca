"""The table of transports: every wire, under one name that is also its module, URL parameter and span attribute.

What a transport can do is declared here, least capable by default; what it promises stands in its module's
docstring, the data sheet. An adapter is imported when it is used, so that an absent library costs only its own wire.
"""

import importlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.transports.ports import Broker, Rpc, Wiring


class Port(StrEnum):
    """What a style can ask of a transport."""

    RPC = "rpc"
    BROKER = "broker"
    QUEUE = "broker with queues"
    FAN_OUT = "broker with fan-out"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Transport:
    """One wire. ``rpc`` and ``broker`` name its adapters, ``module:class``; ``lacks`` says why it cannot be more.

    ``queue``: consumers of a group share its messages, which wait for them; without it delivery is at most once.
    ``fan_out``: each group of a channel gets a copy. ``log``: what was published can be read again.
    """

    name: str
    rpc: str | None = None
    broker: str | None = None
    queue: bool = False
    fan_out: bool = False
    log: bool = False
    lacks: str = ""

    @property
    def ports(self) -> frozenset[Port]:
        able = {
            Port.RPC: self.rpc,
            Port.BROKER: self.broker,
            Port.QUEUE: self.queue,
            Port.FAN_OUT: self.fan_out,
            Port.LOG: self.log,
        }
        return frozenset(port for port, can in able.items() if can)

    @property
    def delivery(self) -> str:
        """What becomes of a message, in the usual words; of a call, nobody can promise more than this either."""
        return "at least once" if self.queue else "at most once"

    def connect_rpc(self, wiring: Wiring) -> Rpc:
        """Its ``Rpc`` for one process; opens nothing yet."""
        rpc: Rpc = _load(self.rpc)(wiring)
        return rpc

    def connect_broker(self, wiring: Wiring) -> Broker:
        """Its ``Broker`` for one process; opens nothing yet."""
        broker: Broker = _load(self.broker)(wiring)
        return broker


def _load(adapter: str | None) -> Any:
    if adapter is None:
        raise ValueError("this transport has no such port")
    module, _, name = adapter.partition(":")
    return getattr(importlib.import_module(module), name)


_RPC = "services.transports.rpc"
_MESSAGING = "services.transports.messaging"

TRANSPORTS: dict[str, Transport] = {
    t.name: t
    for t in (
        Transport("rest", rpc=f"{_RPC}.rest:Rest"),
        Transport("grpc", rpc=f"{_RPC}.grpc:Grpc"),
        Transport("json_rpc", rpc=f"{_RPC}.json_rpc:JsonRpc"),
        Transport("thrift", rpc=f"{_RPC}.thrift:Thrift"),
        Transport("avro_rpc", rpc=f"{_RPC}.avro_rpc:AvroRpc"),
        Transport("ice", rpc=f"{_RPC}.ice:Ice"),
        Transport("rabbitmq", broker=f"{_MESSAGING}.rabbitmq:RabbitMQ", queue=True, fan_out=True),
        Transport("kafka", broker=f"{_MESSAGING}.kafka:Kafka", queue=True, fan_out=True, log=True),
        Transport(
            "sqs",
            broker=f"{_MESSAGING}.sqs:Sqs",
            queue=True,
            lacks="SQS delivers each message to one consumer",
        ),
        Transport(
            "redis_streams",
            broker=f"{_MESSAGING}.redis_streams:RedisStreams",
            queue=True,
            fan_out=True,
            log=True,
        ),
        Transport(
            "redis_pubsub",
            broker=f"{_MESSAGING}.redis_pubsub:RedisPubSub",
            fan_out=True,
            lacks="Redis pub/sub gives each subscriber a copy and keeps none",
        ),
    )
}

MEMORY = Transport(
    "memory", rpc=f"{_RPC}.memory:Memory", broker=f"{_MESSAGING}.memory:Memory", queue=True, fan_out=True, log=True
)
"""The reference implementations, for ``services.all`` and the tests: one process, no wire."""

__all__ = ["MEMORY", "TRANSPORTS", "Broker", "Port", "Rpc", "Transport", "Wiring"]
