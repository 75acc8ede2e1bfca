"""A consumer of a Redis stream in a process of its own, to be killed: it says what it was handed, and settles nothing.

``python -m tests.transports.messaging.holder CHANNEL GROUP CLAIM_IDLE_S``, with LAB_REDIS_URL set.
"""

import asyncio
import os
import sys

from services.telemetry.setup import set_up
from services.transports.messaging.redis_streams import RedisStreams
from services.transports.ports import Wiring


async def main(channel: str, group: str, claim_idle_s: float) -> None:
    servers = {"redis": os.environ["LAB_REDIS_URL"]}
    broker = RedisStreams(Wiring(group, set_up(group), servers=servers, redis_claim_idle_s=claim_idle_s))
    async for delivery in broker.subscribe(channel, group, max_in_flight=16):
        print(delivery.headers["ce-id"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
