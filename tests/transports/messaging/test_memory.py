"""The reference broker keeps every promise of the port."""

from typing import Any

import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat

from services.telemetry.setup import Telemetry
from services.transports.messaging.memory import Memory, Network, _Stored
from services.transports.ports import Broker, Delivery, Wiring
from tests.transports.messaging.suite import Dead, LogBehaviour


class TestMemory(LogBehaviour):
    @pytest.fixture(autouse=True)
    def network(self) -> None:
        self.wire = Network()

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        return Memory(Wiring(service, telemetry, network=self.wire))

    async def dead_letters(self, channel: str, group: str) -> list[Dead]:
        return [
            Dead(dict(letter.headers), letter.body, letter.reason, letter.attempts)
            for letter in self.wire.dead_letters
            if (letter.channel, letter.group) == (channel, group)
        ]

    def garbage(self) -> dict[str, Any]:
        return {"ce-id": "", "traceparent": "not one", "\N{SNOWMAN}": "\udcff"}

    async def publish_raw(self, channel: str, headers: dict[str, Any], body: bytes) -> None:
        for group in self.wire.groups[channel]:
            self.wire.queues[channel, group].append(_Stored("", headers, body))

    def official(self, delivery: Delivery) -> Any:
        return http.from_http(http.HTTPMessage(dict(delivery.headers), delivery.body), JSONFormat())
