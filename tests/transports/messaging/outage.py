"""What every broker's adapter must do while its server is killed and started again, stated once."""

import asyncio
import time
import uuid
from collections.abc import Awaitable
from typing import Any

import pytest

from services.telemetry.setup import Telemetry, set_up
from services.transports.errors import TransportError, Unavailable
from services.transports.ports import Broker
from tests.servers import Server
from tests.transports.messaging.suite import Reader, ack, event


class OutageBehaviour:
    """``server`` is set by the transport's own fixture."""

    server: Server

    def broker(self, telemetry: Telemetry, service: str) -> Broker:
        """A process's broker, on ``server``."""
        raise NotImplementedError

    async def before_the_kill(self) -> None:
        """What only this server needs before it may be killed."""

    async def while_it_is_away(self, producer: Broker, channel: str) -> None:
        """What only this adapter promises meanwhile."""

    async def listening(self, channel: str) -> None:
        """Return when the reader is heard by the broker; where messages wait, it has not to be."""

    async def what_arrives(self, reader: Reader, channel: str, confirmed: dict[str, float]) -> None:
        """All that was acknowledged; ``confirmed`` has the ids, and when each was (``time.monotonic``)."""
        await reader.wait_for(lambda: set(confirmed) <= set(reader.ids), "all that was acknowledged")

    async def questions_are_refused(self, broker: Broker, channel: str) -> None:
        """Within six seconds, all at once."""

        async def refused(question: Awaitable[object]) -> None:
            with pytest.raises(Unavailable):
                await question

        began = time.monotonic()
        await asyncio.gather(
            refused(broker.held(channel, "payment")),
            refused(broker.dead_letters(channel, "payment")),
            refused(broker.settle_dead_letter(channel, "payment", "any", replay=True)),
        )
        assert time.monotonic() - began < 6

    async def test_while_the_broker_is_away(self) -> None:
        """kill -9: publishing fails within six seconds and never hangs; after the restart consumption goes on, and
        everything that was acknowledged arrives."""
        telemetry = set_up("orders")
        producer = self.broker(telemetry, "orders")
        consumer = self.broker(telemetry, "payment")
        channel = f"t{uuid.uuid4().hex[:8]}.events"
        await producer.open({channel: frozenset({"payment"})})
        reader = Reader(consumer, channel, "payment", ack)
        await self.listening(channel)
        confirmed, refused = {}, []
        stopping = asyncio.Event()

        async def publish(numbers: Any) -> None:
            for number in numbers:
                headers, body = event(number)
                began = time.monotonic()
                try:
                    await producer.publish(headers, body, channel=channel, key=f"o-{number}")
                    confirmed[headers["ce-id"]] = time.monotonic()
                except TransportError as error:
                    refused.append((error, time.monotonic() - began))
                if stopping.is_set():
                    return

        publishers = [asyncio.create_task(publish(range(start, 10**6, 4))) for start in range(4)]
        await reader.until(50)
        await self.before_the_kill()
        await asyncio.to_thread(self.server.kill)
        await reader.wait_for(lambda: len(refused) >= 8, "publishers to be refused")
        assert (await producer.ready()) is not None
        await self.while_it_is_away(producer, channel)
        await self.questions_are_refused(producer, channel)
        held = len(reader.deliveries)
        opening = self.broker(telemetry, "shipping")
        waiting = asyncio.create_task(opening.open({channel: frozenset({"payment"})}))
        await asyncio.to_thread(self.server.start)
        await reader.wait_for(
            lambda: len(reader.deliveries) >= held + 50 or any(each.done() for each in publishers),
            "consumption to go on",
        )
        await asyncio.wait_for(waiting, 20)
        stopping.set()
        await asyncio.gather(*publishers)
        assert max(seconds for _, seconds in refused) < 6
        await self.what_arrives(reader, channel, confirmed)
        await reader.stop()
        for broker in (producer, consumer, opening):
            await asyncio.wait_for(broker.close(), 3)

    async def test_close_while_the_broker_is_away(self) -> None:
        """Closing does not wait for a broker that is not there, nor does what is held back."""
        telemetry = set_up("payment")
        broker = self.broker(telemetry, "payment")
        channel = f"t{uuid.uuid4().hex[:8]}.events"
        await broker.open({channel: frozenset({"payment"})})
        reader = Reader(broker, channel, "payment")
        await self.listening(channel)
        await broker.publish(*event(1), channel=channel, key="o-1")
        await broker.publish(*event(2), channel=channel, key="o-2")
        await reader.until(2)
        held = asyncio.create_task(reader.deliveries[0].reject("later", retry_after_s=60))
        await asyncio.to_thread(self.server.kill)
        await reader.deliveries[1].ack()
        try:
            began = time.monotonic()
            await reader.stop()
            await broker.close()
            await asyncio.wait_for(held, 1)
            assert time.monotonic() - began < 3
        finally:
            await asyncio.to_thread(self.server.start)
