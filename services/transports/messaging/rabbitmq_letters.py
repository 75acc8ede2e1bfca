"""Dead letters in a queue: who wants to see them has to take them, and gives them back in their order.

A quorum queue hands out first what was given back, and that in the order in which it was; so they keep their places
if all of them are taken and given back together (one who dies while he looks may leave them in another order). While
one looks, they are nobody else's to see: whoever wants to waits until an exclusive queue, the key to the room, is his.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelLockedResource
from pamqp.commands import Basic

from services.telemetry import conventions as c
from services.transports.errors import Unavailable
from services.transports.messaging.headers import ATTEMPTS, REASON, notes
from services.transports.messaging.rabbitmq_wire import LOST, carried_over, headers_of, ours, text_of, wire
from services.transports.ports import DeadLetter, dead_letter_id

DIED_AT = "lab-dead-letter-died-at"
NOTES = (REASON, ATTEMPTS, DIED_AT)
LOOK_S = 30.0
ANSWER_S = 5.0
KEY_S = 5.0
MOST = 65_535
"""The largest prefetch, and so the most that can be looked through."""

Put = Callable[[Basic.Properties, bytes], Awaitable[None]]


def noted(properties: Basic.Properties, reason: str, attempts: int) -> Basic.Properties:
    """Those of the dead letter that a message of ``properties`` becomes."""
    dead = copy(properties)
    dead.headers = {**carried_over(properties), **notes(reason, attempts), DIED_AT: str(time.time_ns())}
    return dead


async def listed(
    connection: AbstractConnection, queue: str, channel: str, group: str, *, limit: int
) -> list[DeadLetter]:
    """The oldest of the dead letters in ``queue``. They are given back.

    Raises one of ``LOST``, or ``Unavailable`` while another process looks at them.
    """
    async with (
        asyncio.timeout(LOOK_S),
        _alone(connection, queue) as room,
        _taken(connection, room, queue) as taken,
    ):
        return [_told(message, channel, group) for message in taken.messages[:limit]]


async def settled(connection: AbstractConnection, queue: str, letter_id: str, put: Put | None) -> bool:
    """Acknowledge the oldest dead letter of that id in ``queue``, after ``put`` has put it back where it came from.

    Raises as ``listed`` does, or what ``put`` does: then it is a dead letter still.
    """
    async with (
        asyncio.timeout(LOOK_S),
        _alone(connection, queue) as room,
        _taken(connection, room, queue) as taken,
    ):
        for message in taken.messages:
            if _told(message, "", "").id == letter_id:
                if put is not None:
                    await put(_revived(message.header.properties), message.body)
                await taken.settle(message)
                return True
        return False


@dataclass(slots=True)
class _Taken:
    """All that was there when one began to look, oldest first."""

    messages: list[DeliveredMessage]
    looking: AbstractChannel
    settled: int = 0

    async def settle(self, message: DeliveredMessage) -> None:
        await ours(self.looking.basic_ack(message.delivery_tag or 0))
        self.settled += 1


@asynccontextmanager
async def _taken(connection: AbstractConnection, room: AbstractChannel, queue: str) -> AsyncIterator[_Taken]:
    """Take all from ``queue``, and give back what was not settled; return once the queue has it."""
    lay = min(await _ready(room, queue), MOST)
    channel = connection.channel(publisher_confirms=False)
    await ours(channel.initialize())
    try:
        looking = await channel.get_underlay_channel()
        arrived = asyncio.Queue[DeliveredMessage]()
        if lay:
            await ours(looking.basic_qos(prefetch_count=lay, timeout=ANSWER_S))
            await ours(looking.basic_consume(queue, arrived.put, timeout=ANSWER_S))
        taken = _Taken([await asyncio.wait_for(arrived.get(), ANSWER_S) for _ in range(lay)], looking)
        yield taken
    finally:
        # together they go back in their order; one by one, or taken with basic.get, they do not
        await ours(channel.close())
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            while await _ready(room, queue) < lay - taken.settled:  # noqa: ASYNC110 (another process's counter)
                await asyncio.sleep(0.01)


async def _ready(room: AbstractChannel, queue: str) -> int:
    return (await ours(room.queue_declare(queue, passive=True, timeout=ANSWER_S))).message_count or 0


@asynccontextmanager
async def _alone(connection: AbstractConnection, queue: str) -> AsyncIterator[AbstractChannel]:
    """A channel of one who looks into ``queue`` while no other connection does; of his own he is the only one."""
    key, until = f"{queue}.key", time.monotonic() + KEY_S
    while True:
        channel = connection.channel(publisher_confirms=False)
        try:
            await ours(channel.initialize())
            room = await channel.get_underlay_channel()
            await _ready(room, queue)
            await ours(room.queue_declare(key, exclusive=True, timeout=ANSWER_S))
            break
        except ChannelLockedResource:
            if time.monotonic() > until:
                raise Unavailable(f"RabbitMQ: another process looks at {queue}") from None
            await asyncio.sleep(0.05)
    try:
        yield room
    finally:
        with suppress(*LOST):
            await ours(channel.close())
        # on another channel: whatever has become of the first one, nobody may be locked out
        with suppress(*LOST):
            async with connection.channel(publisher_confirms=False) as leaving:
                await ours((await leaving.get_underlay_channel()).queue_delete(key, timeout=ANSWER_S))


def _told(message: DeliveredMessage, channel: str, group: str) -> DeadLetter:
    headers = headers_of(message.header.properties)
    noted = {name: headers.pop(name, "") for name in NOTES}
    death = _death(message)
    died_at, when = noted[DIED_AT], death.get("time")
    return DeadLetter(
        id=dead_letter_id(headers, message.body),
        channel=channel,
        group=group,
        reason=noted[REASON] or text_of(death.get("reason")) or "",
        attempts=int(noted[ATTEMPTS]) if noted[ATTEMPTS].isdecimal() else 0,
        headers=headers,
        body=message.body,
        died_at_ns=int(died_at)
        if died_at.isdecimal()
        else int(when.timestamp()) * 1_000_000_000
        if isinstance(when, datetime)
        else None,
    )


def _death(message: DeliveredMessage) -> dict[str, Any]:
    """What the broker says of a message that it buried itself."""
    deaths = (message.header.properties.headers or {}).get("x-death")
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


def _revived(properties: Basic.Properties) -> Basic.Properties:
    alive = copy(properties)
    headers = {name: value for name, value in carried_over(properties).items() if name not in NOTES}
    alive.headers = {**headers, wire(c.HEADER_REPLAYED): str(time.time_ns())}
    return alive
