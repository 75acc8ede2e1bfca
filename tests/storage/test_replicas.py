"""Several processes of a participant on one database: whatever one of them is doing, the others see or wait for."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services.storage.database import Database
from services.storage.participant import ParticipantStore
from tests.storage.replica import OWN

ROOT = Path(__file__).parents[2]
PROCESSES = 3
ORDERS = 150


def race(url: str) -> list[dict[str, Any]]:
    """All processes handle the same messages at once; what each of them says in the end."""
    with ExitStack() as stack:
        replicas = []
        for number in range(PROCESSES):
            command = [sys.executable, "-m", "tests.storage.replica", url, str(number), str(ORDERS)]
            replica = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(replica)
            stack.callback(replica.kill)
            replicas.append(replica)
        for replica in replicas:
            assert replica.stdout is not None
            assert replica.stdout.readline() == "ready\n"
        for replica in replicas:
            assert replica.stdin is not None
            replica.stdin.write("go\n")
            replica.stdin.flush()
        return [json.loads(replica.communicate(timeout=60)[0]) for replica in replicas]


async def test_three_processes_that_hear_the_same_messages_do_each_thing_once(url: str) -> None:
    """Whoever is overtaken gives the other's answer; none hears that the database is busy."""
    said = race(url)
    answers: dict[str, set[str]] = {}
    for each in said:
        for number, answer in each["answers"].items():
            answers.setdefault(number, set()).add(answer)
    assert len(answers) == ORDERS + PROCESSES * OWN
    assert answers == {number: {"PaymentCharged" if int(number) % 5 else "PaymentDeclined"} for number in answers}
    charged = [number for number in answers if int(number) % 5]
    assert all(each["done"] >= OWN * 4 // 5 for each in said)
    assert sum(each["done"] for each in said) == len(charged)
    database = Database(url)
    try:
        assert await ParticipantStore(database).effects() == {"charge.payment": (len(charged), len(charged))}
    finally:
        await database.close()
