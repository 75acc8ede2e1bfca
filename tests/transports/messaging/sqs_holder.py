"""A consumer of an SQS queue in a process of its own, to be killed: it says what it was handed, and settles nothing.

``python -m tests.transports.messaging.sqs_holder CHANNEL GROUP VISIBILITY_TIMEOUT_S``, with LAB_SQS_URL set.
"""

import asyncio
import os
import sys

from services.telemetry.setup import set_up
from services.transports.messaging.sqs import Sqs
from services.transports.ports import Wiring


async def main(channel: str, group: str, timeout_s: int) -> None:
    servers = {"sqs": os.environ["LAB_SQS_URL"]}
    broker = Sqs(Wiring(group, set_up(group), servers=servers, sqs_visibility_timeout_s=timeout_s))
    async for delivery in broker.subscribe(channel, group, max_in_flight=1):
        print(delivery.headers["ce-id"], flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
