"""Dead letters in SQS: a queue of their own, which nobody can look into without taking.

Whoever looks takes all of them for a moment, ten at a time, and gives them back; another process waits for them a
moment, and sees fewer if they do not come.
SQS sorts nothing: they are put into order here, by when they were sent.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from services.telemetry import conventions as c
from services.transports.errors import DeadlineExceeded, TransportError, Unavailable, Unroutable
from services.transports.messaging.headers import ATTEMPTS, PARTITION_KEY, REASON, key_of
from services.transports.messaging.sqs_client import HELD, RECEIVES, REQUEST_S, Link
from services.transports.messaging.sqs_message import (
    AT_MOST,
    attribute,
    kept,
    taken_apart,
)
from services.transports.ports import DeadLetter, dead_letter_id

log = structlog.get_logger()

TAKEN_S = 30
"""How long a dead letter stays hidden if whoever looks at it dies."""
LOOK_S = 15.0
MANY = 1_000
"""Dead letters that one look takes."""


class DeadLetters:
    """What SQS keeps of ``channel`` for ``group``, which gave up on it. One looks at a time, in a process."""

    def __init__(self, link: Link, wait_s: int) -> None:
        self._link = link
        self._wait_s = wait_s
        self._looking = asyncio.Lock()

    async def oldest(self, channel: str, group: str, limit: int) -> list[DeadLetter]:
        try:
            async with self._taken(channel, max(limit, MANY)) as (messages, _):
                return [_letter(channel, group, message) for message in messages[:limit]]
        except DeadlineExceeded as error:
            raise Unavailable(str(error)) from None

    async def settle(self, channel: str, group: str, wanted: str, *, replay: bool) -> bool:
        async with self._taken(channel, MANY) as (messages, are_all):
            for message in messages:
                if _letter(channel, group, message).id == wanted:
                    if replay:
                        await self._put_back(channel, message)
                    url = await self._link.address(self._link.dead(channel))
                    await self._link.ask("delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    messages.remove(message)
                    return True
            if not are_all:
                raise Unavailable(
                    f"{wanted} is not among {len(messages)} dead letters of {channel}, and there may be more"
                )
        return False

    async def _put_back(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send it to its queue again, letter for letter; as another one, for a FIFO queue drops what it has seen."""
        headers, _ = taken_apart(message)
        replayed = {c.HEADER_REPLAYED: attribute(str(time.time_ns()))}
        attributes = {**kept(message, AT_MOST - len(replayed)), **replayed}
        queue, once = self._link.queue(channel), str(uuid.uuid4())
        await self._link.put(queue, message["Body"], attributes, group=key_of(headers), once=once)

    # --- looking -------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def _taken(self, channel: str, limit: int) -> AsyncIterator[tuple[list[dict[str, Any]], bool]]:
        """The dead letters, oldest first, while nobody else sees them, and whether these are all. Those that are still
        in the list at the end are given back."""
        taken: dict[str, dict[str, Any]] = {}
        left: list[dict[str, Any]] | None = None
        async with self._looking:
            try:
                are_all = await self._take(channel, limit, taken)
                left = sorted(taken.values(), key=_age)
                yield left, are_all
            finally:
                await self._give_back(channel, list(taken.values()) if left is None else left)

    async def _take(self, channel: str, limit: int, taken: dict[str, dict[str, Any]]) -> bool:
        """Take up to ``limit``, by their ids in SQS, and say whether these are all. A poll waits only for what should
        come by SQS' count, which is approximate: those that nobody has, and those that others look at just now."""
        queue = self._link.dead(channel)
        try:
            free, elsewhere = await self._link.counts(queue, *HELD[:2])
            url = await self._link.address(queue)
        except Unroutable:
            return True
        until = time.monotonic() + LOOK_S
        while len(taken) < limit and time.monotonic() < until:
            wait_s = self._wait_s if len(taken) < free + elsewhere else 0
            answer = await self._link.ask(
                "receive_message",
                within_s=wait_s + REQUEST_S,
                QueueUrl=url,
                MaxNumberOfMessages=min(AT_MOST, limit - len(taken)),
                WaitTimeSeconds=wait_s,
                VisibilityTimeout=TAKEN_S,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["SentTimestamp", "SequenceNumber", "DeadLetterQueueSourceArn"],
            )
            # one that comes twice is settled by its last receipt
            new = {message["MessageId"]: message for message in answer.get("Messages", [])}
            if new.keys() <= taken.keys():
                return not elsewhere or len(taken) >= free + elsewhere
            taken |= new
        return False

    async def _give_back(self, channel: str, messages: list[dict[str, Any]]) -> None:
        for start in range(0, len(messages), AT_MOST):
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
                for number, message in enumerate(messages[start : start + AT_MOST])
            ]
            try:
                url = await self._link.address(self._link.dead(channel))
                await self._link.ask("change_message_visibility_batch", QueueUrl=url, Entries=entries)
            except TransportError as error:
                log.info("dead_letters_hidden", transport="sqs", channel=channel, seconds=TAKEN_S, reason=str(error))
                return


def _age(message: Mapping[str, Any]) -> tuple[int, int]:
    """By what dead letters are sorted: milliseconds, and a FIFO queue's own count."""
    facts = message["Attributes"]
    return int(facts["SentTimestamp"]), int(facts.get("SequenceNumber", 0))


def _letter(channel: str, group: str, message: Mapping[str, Any]) -> DeadLetter:
    headers, body = taken_apart(message)
    headers.pop(PARTITION_KEY, None)
    facts, had = message["Attributes"], message.get("MessageAttributes", {})
    reason, attempts = (had.get(name, {}).get("StringValue", "") for name in (REASON, ATTEMPTS))
    if buried_by_sqs := "DeadLetterQueueSourceArn" in facts:
        attempts = str(RECEIVES)
    return DeadLetter(
        dead_letter_id(headers, body),
        channel,
        group,
        reason,
        int(attempts) if attempts.isdecimal() else 0,
        dict(headers),
        body,
        # SQS leaves what it moves itself as old as it was
        died_at_ns=None if buried_by_sqs else int(facts["SentTimestamp"]) * 1_000_000,
    )
