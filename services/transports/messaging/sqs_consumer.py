"""One reader of a queue of SQS: it polls, keeps hidden what is in hand, and settles it."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from services.telemetry import conventions as c
from services.transports.errors import TransportError, Unroutable
from services.transports.messaging.headers import notes, take_key
from services.transports.messaging.sqs_client import MAX_PAUSE_S, PAUSE_S, REQUEST_S, WORDS, spawn
from services.transports.messaging.sqs_message import (
    AT_MOST,
    NOTES,
    attribute,
    kept,
    taken_apart,
)
from services.transports.ports import Delivery

if TYPE_CHECKING:
    from services.transports.messaging.sqs import Sqs

log = structlog.get_logger()

BEATS = 3
"""Heartbeats within a visibility timeout."""
LAST_POLL_S = 1.3
GIVE_BACK_S = 0.5


@dataclass(slots=True)
class SqsDelivery(Delivery):
    """``native`` is the message as SQS answered it."""

    subscription: "Subscription" = field(kw_only=True)

    @property
    def receipt(self) -> str:
        return str(self.native["ReceiptHandle"])

    async def ack(self) -> None:
        await self.subscription.settle(self, "delete", self.attributes, self.subscription.delete(self))

    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        subscription = self.subscription
        if retry_after_s is None:
            attributes = {**self.attributes, c.LAB_DEAD_LETTER_REASON: reason}
            await subscription.settle(self, "reject", attributes, subscription.bury(self, reason))
            return
        whole_s = int(retry_after_s)
        if not await subscription.link.closing_within(retry_after_s - whole_s):
            await subscription.settle(self, "release", self.attributes, subscription.release(self, whole_s))


class Subscription:
    def __init__(self, broker: "Sqs", channel: str, group: str, max_in_flight: int) -> None:
        self.link = broker.link
        self.arrived: asyncio.Queue[SqsDelivery] = asyncio.Queue()
        self._broker = broker
        self._channel = channel
        self._group = group
        self._queue = broker.link.queue(channel)
        self._max_in_flight = max_in_flight
        self._held: dict[str, SqsDelivery] = {}
        """By receipt: what others do not see because we have it."""
        self._room = asyncio.Event()
        self._beating = asyncio.Lock()
        self._leaving = False
        self._poller = spawn(self._poll())
        self._heart = spawn(self._beat())

    # --- receiving -----------------------------------------------------------------------------------------------
    async def _poll(self) -> None:
        """Poll until leaving, through every outage; then give back what nobody was handed."""
        pause_s = 0.0
        while not await self.link.closing_within(pause_s) and not self._leaving:
            room = self._max_in_flight - len(self._held)
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                await self._receive(min(room, AT_MOST))
                pause_s = 0.0
            except Exception as error:
                if not pause_s:
                    log.warning("not_received", transport="sqs", queue=self._queue, reason=repr(error))
                pause_s = min(max(pause_s * 2, PAUSE_S), MAX_PAUSE_S)
                if isinstance(error, Unroutable):
                    await self._declare()
        await self._give_back(self.arrived.get_nowait() for _ in range(self.arrived.qsize()))

    async def _declare(self) -> None:
        """Make the queues again: somebody has taken one away."""
        self.link.forget(self._channel)
        await self.link.declare({self._channel})

    async def _receive(self, room: int) -> None:
        started_ns = time.time_ns()
        answer = await self.link.ask(
            "receive_message",
            within_s=self._broker.wait_s + REQUEST_S,
            QueueUrl=await self.link.address(self._queue),
            MaxNumberOfMessages=room,
            WaitTimeSeconds=self._broker.wait_s,
            VisibilityTimeout=self._broker.visibility_timeout_s,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        deliveries = [self._delivery(message) for message in answer.get("Messages", [])]
        if not deliveries:
            return
        received = self._broker.spans.receive(
            WORDS, self._queue, self._group, [d.headers for d in deliveries], started_ns, self.link.known(self._queue)
        )
        if len(deliveries) == 1:
            deliveries[0].received_with = received
        for delivery in deliveries:
            self._held[delivery.receipt] = delivery
            self.arrived.put_nowait(delivery)

    def _delivery(self, message: dict[str, Any]) -> SqsDelivery:
        headers, body = taken_apart(message)
        count = int(message["Attributes"]["ApproximateReceiveCount"])
        return SqsDelivery(
            self._channel,
            self._group,
            take_key(headers),
            headers,
            body,
            count,
            attributes={
                **self.link.known(self._queue),
                c.SQS_MESSAGE_ID: message["MessageId"],
                # enough to tell one receive from another, too little to delete with
                c.SQS_RECEIPT: message["ReceiptHandle"][-12:],
                c.SQS_RECEIVE_COUNT: count,
            },
            released_at_ns=self._broker.released_at_ns.pop(message["MessageId"], None),
            destination=self._queue,
            native=message,
            subscription=self,
        )

    # --- keeping hidden ------------------------------------------------------------------------------------------
    async def _beat(self) -> None:
        """Prolong, several times in a visibility timeout, what is in hand."""
        timeout_s = self._broker.visibility_timeout_s
        while self._held or not self._poller.done():
            await asyncio.sleep(timeout_s / BEATS)
            async with self._beating:
                await self._hide(list(self._held), timeout_s)

    async def _hide(self, receipts: list[str], seconds: int) -> None:
        """These are to be hidden that long from now; 0: not at all any more."""
        for start in range(0, len(receipts), AT_MOST):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                for number, receipt in enumerate(receipts[start : start + AT_MOST])
            ]
            try:
                url = await self.link.address(self._queue)
                answer = await self.link.ask("change_message_visibility_batch", QueueUrl=url, Entries=entries)
            except TransportError as error:
                log.info("not_prolonged", transport="sqs", queue=self._queue, reason=str(error))
                return
            for failed in answer.get("Failed", []):
                if receipts[start + int(failed["Id"])] in self._held:
                    log.info("not_prolonged", transport="sqs", queue=self._queue, reason=failed.get("Code"))

    async def _give_back(self, deliveries: Iterable[SqsDelivery]) -> None:
        receipts = []
        async with self._beating:
            for delivery in deliveries:
                self._broker.release(delivery.native["MessageId"], 0)
                self._held.pop(delivery.receipt, None)
                receipts.append(delivery.receipt)
            await self._hide(receipts, 0)

    # --- settling ------------------------------------------------------------------------------------------------
    async def settle(
        self, delivery: SqsDelivery, word: str, attributes: Mapping[str, Any], work: Awaitable[None]
    ) -> None:
        try:
            with self._broker.spans.settle(WORDS, word, self._queue, delivery.headers, attributes):
                await work
        except TransportError as error:
            # SQS does not know of it, and makes it visible again
            log.info("comes_again", transport="sqs", queue=self._queue, error=str(error))
        finally:
            self._held.pop(delivery.receipt, None)
            self._room.set()

    async def delete(self, delivery: SqsDelivery) -> None:
        url = await self.link.address(self._queue)
        await self.link.ask("delete_message", QueueUrl=url, ReceiptHandle=delivery.receipt)

    async def release(self, delivery: SqsDelivery, seconds: int) -> None:
        url = await self.link.address(self._queue)
        # a heartbeat under way would hide it again
        async with self._beating:
            self._broker.release(delivery.native["MessageId"], seconds)
            await self.link.ask(
                "change_message_visibility", QueueUrl=url, ReceiptHandle=delivery.receipt, VisibilityTimeout=seconds
            )

    async def bury(self, delivery: SqsDelivery, reason: str) -> None:
        """SQS moves nothing: send it to the dead letters, as it was, and delete it here."""
        noted = {
            **{name: attribute(value) for name, value in notes(reason or "none given", delivery.attempt).items()},
            c.SQS_RECEIPT: attribute(delivery.attributes[c.SQS_RECEIPT]),
            c.SQS_RECEIVE_COUNT: attribute(str(delivery.attempt)),
        }
        for queue_is_there in (False, True):
            try:
                await self.link.put(
                    self.link.dead(self._channel),
                    delivery.native["Body"],
                    {**kept(delivery.native, AT_MOST - len(NOTES)), **noted},
                    # a group of its own: of one in hand a FIFO queue hands out no more, and nobody could see the rest
                    group=delivery.native["MessageId"],
                    once=delivery.native["MessageId"],
                )
                break
            except Unroutable:
                if queue_is_there:
                    raise
                await self._declare()
        await self.delete(delivery)

    # --- leaving -------------------------------------------------------------------------------------------------
    def leave(self) -> None:
        """Take nothing more; what is in hand may still be settled."""
        self._leaving = True
        self._room.set()

    async def close(self) -> None:
        """Wait for the last poll, and give back what is not settled."""
        self.leave()
        _, late = await asyncio.wait([self._poller], timeout=LAST_POLL_S)
        if late:
            log.info("poll_broken_off", transport="sqs", queue=self._queue)
        for task in (self._poller, self._heart):
            task.cancel()
        await asyncio.gather(self._poller, self._heart, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_BACK_S):
                await self._give_back(list(self._held.values()))
