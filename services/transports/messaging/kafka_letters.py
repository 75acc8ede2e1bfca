"""Dead letters as records: a topic cannot lose one of its records, so one that is settled is marked, by a tombstone.

A dead letter's key is the place from which it comes, which no other has: the same record that dies again, since nobody
heard that it was dead, takes its place, and compaction removes what was settled together with its mark. All of them are
in the topic's first partition, which keeps their order. An earlier version kept the message's own key, in three
partitions: those letters are marked by where they lie themselves.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka import ConsumerRecord

from services.telemetry import conventions as c
from services.transports.messaging.headers import ATTEMPTS, REASON, notes
from services.transports.messaging.kafka_wire import from_wire, to_wire
from services.transports.ports import DeadLetter, dead_letter_id

KEY = "lab-dead-letter-key"
"""The message's own key; nothing where it had none."""
NOTES = (REASON, ATTEMPTS, KEY)
CONFIGS = {"cleanup.policy": "compact", "segment.ms": "3600000"}
PARTITION = 0

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Letter:
    """One that is not settled. ``mark`` is the key of its tombstone, in its own partition."""

    mark: bytes
    key: bytes | None
    headers: Headers
    notes: dict[str, bytes | None]
    record: ConsumerRecord

    def told(self, channel: str, group: str) -> DeadLetter:
        headers, body = from_wire(self.headers), self.record.value or b""
        attempts = self.notes.get(ATTEMPTS) or b""
        return DeadLetter(
            id=dead_letter_id(headers, body),
            channel=channel,
            group=group,
            reason=(self.notes.get(REASON) or b"").decode(errors="replace"),
            attempts=int(attempts) if attempts.isdigit() else 0,
            headers=headers,
            body=body,
            died_at_ns=self.record.timestamp * 1_000_000,
        )

    def headers_of_replay(self, group: str) -> Headers:
        """Its own, and that it was put back: all groups read the topic, so they must know for whom."""
        added = to_wire({c.HEADER_REPLAYED: str(time.time_ns()), c.HEADER_ONLY_GROUP: group})
        names = {name for name, _ in added}
        return [*(header for header in self.headers if header[0] not in names), *added]


def noted(record: ConsumerRecord, reason: str, attempts: int) -> tuple[bytes, Headers]:
    """Key and headers of the dead letter that ``record`` becomes."""
    key = f"{record.partition}:{record.offset}@{record.timestamp}".encode()
    ours = ((name, value.encode()) for name, value in notes(reason, attempts).items())
    return key, [*record.headers, *ours, (KEY, record.key)]


def unsettled(records: Iterable[ConsumerRecord]) -> list[Letter]:
    """Those of ``records`` (a topic's, per partition in order) that are still dead letters, oldest first."""
    letters: dict[tuple[int, bytes], Letter] = {}
    for record in records:
        letter = _letter(record)
        place = record.partition, letter.mark
        letters.pop(place, None)
        if record.value is not None:
            letters[place] = letter
    if len({partition for partition, _ in letters}) > 1:
        return sorted(letters.values(), key=lambda letter: letter.record.timestamp)
    return list(letters.values())


def _letter(record: ConsumerRecord) -> Letter:
    headers, names = list(record.headers), tuple(name for name, _ in record.headers)
    for ours in (NOTES, NOTES[:2]):
        if names[-len(ours) :] == ours:
            headers, noted = headers[: -len(ours)], dict(headers[-len(ours) :])
            break
    else:
        noted = {}
    if KEY in noted or record.value is None:
        return Letter(record.key or b"", noted.get(KEY), headers, noted, record)
    return Letter(f"at {record.offset}".encode(), record.key, headers, noted, record)
