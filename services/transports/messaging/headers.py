"""Headers that adapters add to a message, the same on every broker."""

from collections.abc import Mapping

REASON = "lab-dead-letter-reason"
ATTEMPTS = "lab-dead-letter-attempts"
PARTITION_KEY = "ce-partitionkey"
"""CloudEvents extension Partitioning: a message's key, where that is not its subject."""
_LONGEST_REASON = 1000


def notes(reason: str, attempts: int) -> dict[str, str]:
    """What is written on a dead letter."""
    return {REASON: reason[:_LONGEST_REASON], ATTEMPTS: str(attempts)}


def with_key(headers: Mapping[str, str], key: str) -> dict[str, str]:
    """A copy of ``headers`` that carries ``key``: as the subject if it is that, else as CloudEvents' partitionkey
    (CloudEvents extension Partitioning). For wires that have no place of their own for a key."""
    return dict(headers) if key == headers.get("ce-subject", "") else {**headers, PARTITION_KEY: key}


def take_key(headers: dict[str, str]) -> str:
    """The key that ``with_key`` put into ``headers``, which lose it; empty if they carry none."""
    key = key_of(headers)
    headers.pop(PARTITION_KEY, None)
    return key


def key_of(headers: Mapping[str, str]) -> str:
    """The key that ``with_key`` put into ``headers``; empty if they carry none."""
    return headers.get(PARTITION_KEY, "") or headers.get("ce-subject", "")
