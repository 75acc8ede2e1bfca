"""A payment service in a process of its own, to be killed: ``python -m tests.transports.rpc.victim rest 21058``."""

import asyncio
import sys

from services.domain.messages import Command, Event
from services.telemetry.setup import set_up
from services.transports.ports import Rpc, Wiring
from services.transports.rpc.grpc import Grpc
from services.transports.rpc.rest import Rest


async def main(transport: str, port: int) -> None:
    async def handler(_: Command) -> Event:
        print("begun", flush=True)
        await asyncio.Event().wait()
        raise AssertionError

    wiring = Wiring("payment", set_up("payment"), listen={transport: port})
    rpc: Rpc = {"rest": Rest, "grpc": Grpc}[transport](wiring)
    await rpc.serve("payment", handler)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
