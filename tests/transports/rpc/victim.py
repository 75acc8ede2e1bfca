"""A payment service in a process of its own, to be killed: ``python -m tests.transports.rpc.victim rest 21058``."""

import asyncio
import sys

from services.domain.messages import Command, Event
from services.telemetry.setup import set_up
from services.transports import TRANSPORTS, Wiring


async def main(transport: str, port: int) -> None:
    async def handler(_: Command) -> Event:
        print("begun", flush=True)
        await asyncio.Event().wait()
        raise AssertionError

    rpc = TRANSPORTS[transport].connect_rpc(Wiring("payment", set_up("payment"), listen={transport: port}))
    await rpc.serve("payment", handler)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
