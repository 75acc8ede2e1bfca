"""One of several processes of a participant, without wires: `python -m tests.storage.replica URL NUMBER COUNT`.

Starts, says `ready`, waits for a line, and charges COUNT orders as messages whose ids are the same in every such
process, and 20 that it alone hears of; in an order of its own, 16 at once. Then it says how many charges were its
doing, and every answer.
"""

import asyncio
import json
import random
import sys

from services import payment
from services.domain import messages as m
from services.runtime.live import SETTINGS, Live
from services.runtime.participant import Worker
from services.storage.database import Database
from services.storage.participant import ParticipantStore
from services.telemetry import metrics

AT_ONCE = 16
OWN = 20


def order(number: int) -> m.Order:
    """Every fifth has a card that is declined."""
    card = "4000000000000002" if number % 5 == 0 else "4242424242424242"
    return m.Order(f"o-{number}", "c-1", card, "Lisbon", (m.Line("tea", 2),), 900)


async def main(url: str, which: str, count: str) -> None:
    live = Live()
    live.update({name: "0" for name in SETTINGS if name.endswith(".work_ms")})
    database = Database(url)
    await database.open()
    worker = Worker("payment", payment.handlers(live), ParticipantStore(database), AT_ONCE)
    print("ready", flush=True)
    sys.stdin.readline()
    own = 10_000 * (1 + int(which))
    numbers = [*range(int(count)), *range(own, own + OWN)]
    random.Random(which).shuffle(numbers)
    slots = asyncio.Semaphore(AT_ONCE)

    async def charge(number: int) -> tuple[int, str]:
        async with slots:
            answer = await worker.do(m.ChargePayment(order(number)), cause=f"m-{number}")
            return number, type(answer).__name__

    answers = dict(await asyncio.gather(*map(charge, numbers)))
    done = metrics.EFFECTS.labels("payment", "charge.payment")._value.get()
    await database.close()
    print(json.dumps({"done": done, "answers": answers}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
