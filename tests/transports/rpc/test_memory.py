"""The reference passes what it is the reference for."""

from opentelemetry.trace import SpanKind

from services.domain.messages import Command, type_name
from services.domain.order import STEP_OF
from services.telemetry import conventions as c
from services.transports.rpc.memory import Memory
from tests.transports.rpc.suite import RpcSuite


class TestMemory(RpcSuite):
    adapter = Memory
    attributes = {  # noqa: RUF012
        SpanKind.CLIENT: {c.RPC_SYSTEM_NAME, c.RPC_METHOD, c.SERVER_ADDRESS},
        SpanKind.SERVER: {c.RPC_SYSTEM_NAME, c.RPC_METHOD},
    }

    def method(self, command: type[Command]) -> str:
        return f"{STEP_OF[command].service}/{type_name(command)}"
