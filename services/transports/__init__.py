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
    FAN_OUT = "broker with fan-out"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Transport:
    """One wire. ``rpc`` and ``broker`` name its adapters, ``module:class``; ``lacks`` says why it cannot be more."""

    name: str
    rpc: str | None = None
    broker: str | None = None
    fan_out: bool = False
    log: bool = False
    lacks: str = ""

    @property
    def ports(self) -> frozenset[Port]:
        able = {Port.RPC: self.rpc, Port.BROKER: self.broker, Port.FAN_OUT: self.fan_out, Port.LOG: self.log}
        return frozenset(port for port, can in able.items() if can)

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
        Transport("rabbitmq", broker=f"{_MESSAGING}.rabbitmq:RabbitMQ", fan_out=True),
        Transport("kafka", broker=f"{_MESSAGING}.kafka:Kafka", fan_out=True),
    )
}

MEMORY = Transport("memory", rpc=f"{_RPC}.memory:Memory", broker=f"{_MESSAGING}.memory:Memory", fan_out=True)
"""The reference implementations, for ``services.all`` and the tests: one process, no wire."""

__all__ = ["MEMORY", "TRANSPORTS", "Broker", "Port", "Rpc", "Transport", "Wiring"]
