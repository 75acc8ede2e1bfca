"""Dead letters in Redis, of both transports: per channel and group a stream of its own, of which nothing is trimmed.

A dead letter's fields are the message's and, beside them, notes on its death; its id tells when it died.
"""

import time
from collections.abc import Awaitable, Callable, Mapping

from services.telemetry import conventions as c
from services.transports.messaging.headers import ATTEMPTS, PARTITION_KEY, REASON
from services.transports.messaging.redis_client import CUT, ENTRY_ID, Link, from_fields
from services.transports.ports import DeadLetter, dead_letter_id

Fields = Mapping[bytes, bytes]
PutBack = Callable[[bytes, Fields], Awaitable[bool]]
"""Given a dead letter's entry id and the message's fields: put the message back and remove the entry, both or neither.
False if the entry is gone."""

_NOTES = frozenset(note.encode() for note in (REASON, ATTEMPTS, ENTRY_ID, CUT))


class DeadLetters:
    """What ``group`` gave up on of ``channel``."""

    def __init__(self, link: Link, stream: str, channel: str, group: str) -> None:
        self._link = link
        self._stream = stream
        self._channel = channel
        self._group = group

    async def oldest(self, limit: int) -> list[DeadLetter]:
        entries = await self._link.answered(lambda: self._link.commands.xrange(self._stream, count=limit))
        return [self._letter(*entry) for entry in entries]

    async def settle(self, wanted: str, put_back: PutBack | None) -> bool:
        """Remove the oldest of the id ``wanted``; what another process removes meanwhile counts for that one."""
        async for entry_id, fields in self._link.entries(self._stream):
            if self._letter(entry_id, fields).id == wanted:
                settled = self._remove(entry_id) if put_back is None else put_back(entry_id, _message(fields))
                if await settled:
                    return True
        return False

    async def _remove(self, entry_id: bytes) -> bool:
        removed: int = await self._link.confirmed(lambda: self._link.commands.xdel(self._stream, entry_id))
        return removed == 1

    def _letter(self, entry_id: bytes, fields: Fields) -> DeadLetter:
        headers, body = from_fields(_message(fields))
        headers.pop(PARTITION_KEY, None)
        attempts = fields.get(ATTEMPTS.encode(), b"")
        return DeadLetter(
            dead_letter_id(headers, body),
            self._channel,
            self._group,
            fields.get(REASON.encode(), b"").decode(errors="replace"),
            int(attempts) if attempts.isdigit() else 0,
            headers,
            body,
            died_at_ns=int(entry_id.partition(b"-")[0]) * 1_000_000,
        )


def replayed(group: str) -> dict[str, str]:
    """The headers that a message has when it is put back now, for ``group`` alone."""
    return {c.HEADER_REPLAYED: str(time.time_ns()), c.HEADER_ONLY_GROUP: group}


def _message(fields: Fields) -> dict[bytes, bytes]:
    return {name: value for name, value in fields.items() if name not in _NOTES}
