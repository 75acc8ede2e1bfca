"""How many messages are in hand: AMQP tells only of those that wait, so the processes that have them tell each other.

Each connection consumes from a queue of its own, to which an exchange copies every question, and from one that all
share, whose count of consumers is the number of answers to wait for.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from services.transports.errors import Unavailable
from services.transports.messaging.rabbitmq_wire import LOST, ours

ASKED = "antiphon.held"
PRESENT = "antiphon.present"
ANSWERS = "amq.rabbitmq.reply-to"
ANSWER_S = 2.5


async def answer_for(connection: AbstractConnection, in_hand: Callable[[str], int]) -> AbstractChannel:
    """Say to whoever asks what this process has in hand of a queue, as long as the channel lasts that it gives."""
    channel = await connection.channel(publisher_confirms=False)
    telling = await channel.get_underlay_channel()

    async def tell(question: DeliveredMessage) -> None:
        if asker := question.header.properties.reply_to:
            held = in_hand(question.body.decode(errors="replace"))
            with suppress(*LOST):
                await ours(telling.basic_publish(str(held).encode(), exchange="", routing_key=asker))

    async with asyncio.timeout(ANSWER_S):
        await telling.exchange_declare(exchange=ASKED, exchange_type="fanout", durable=True)
        mine = (await telling.queue_declare(exclusive=True)).queue or ""
        await telling.queue_bind(mine, ASKED)
        await telling.basic_consume(mine, tell, no_ack=True)
        # counted among those who answer only now that it would
        await telling.queue_declare(PRESENT, durable=True)
        await telling.basic_consume(PRESENT, _ignore, no_ack=True)
    return channel


async def held(connection: AbstractConnection, queue: str) -> int:
    """What waits in ``queue`` and what is in hand; exact while nothing moves.

    Raises one of ``LOST``, or ``Unavailable`` if a process is there that does not answer.
    """
    async with connection.channel(publisher_confirms=False) as channel:
        asking = await channel.get_underlay_channel()
        answers = asyncio.Queue[DeliveredMessage]()
        ready = (await ours(asking.queue_declare(queue, passive=True, timeout=ANSWER_S))).message_count or 0
        await ours(asking.basic_consume(ANSWERS, answers.put, no_ack=True, timeout=ANSWER_S))
        there = (await ours(asking.queue_declare(PRESENT, passive=True, timeout=ANSWER_S))).consumer_count or 0
        asked = Basic.Properties(reply_to=ANSWERS)
        await ours(asking.basic_publish(queue.encode(), exchange=ASKED, properties=asked))
        in_hand: list[int] = []
        try:
            async with asyncio.timeout(ANSWER_S):
                while len(in_hand) < there:
                    in_hand.append(int((await answers.get()).body))
        except TimeoutError:
            raise Unavailable(
                f"RabbitMQ: {there - len(in_hand)} of {there} processes do not say what they hold"
            ) from None
        return ready + sum(in_hand)


async def _ignore(_: DeliveredMessage) -> None:
    """Nothing is sent there."""
