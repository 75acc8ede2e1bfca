"""A consumer in a process of its own, to be killed: it says what it was handed, and settles nothing.

``python -m tests.transports.messaging.holder TRANSPORT CHANNEL GROUP WIRING``, the wiring as JSON.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.telemetry.setup import set_up
from services.transports import TRANSPORTS
from services.transports.ports import Wiring
from tests.transports.messaging.suite import PATIENCE_S

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def holding(transport: str, channel: str, group: str, count: int, **wiring: Any) -> AsyncIterator[list[str]]:
    """The ids of ``count`` messages that another process holds within the block; killed behind it."""
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, transport, channel, group, json.dumps(wiring)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            held = [(await holder.stdout.readline()).decode().strip() for _ in range(count)]
        yield held
    finally:
        holder.kill()
        await holder.communicate()


async def main(transport: str, channel: str, group: str, wiring: str) -> None:
    wired = Wiring(group, set_up(group), **json.loads(wiring))
    broker = TRANSPORTS[transport].connect_broker(wired)
    async for delivery in broker.subscribe(channel, group, max_in_flight=wired.max_in_flight):
        print(delivery.headers["ce-id"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
