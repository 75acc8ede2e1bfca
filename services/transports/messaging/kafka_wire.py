"""How Kafka has our messages, and how its client is begun and ended."""

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Iterable, Mapping
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from services.telemetry.messaging import Words

# it logs every failed request of every loop while a broker is away; what matters is said once, by its users
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

WORDS = Words("kafka", send="send")
REQUEST_MS = 5_000
CLOSE_S = 0.6
MAX_PAUSE_S = 2.0
AWAY = (KafkaError, OSError, TimeoutError)


def dead_topic(channel: str, group: str) -> str:
    return f"{channel}.{group}.dead"


def to_wire(headers: Mapping[str, str]) -> list[tuple[str, bytes | None]]:
    return [(_wire(name), value.encode()) for name, value in headers.items()]


def from_wire(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    return {_canonical(name): value.decode(errors="replace") for name, value in headers if value is not None}


@lru_cache(1000)
def _wire(name: str) -> str:
    return "ce_" + name[3:] if name.startswith("ce-") else name


@lru_cache(1000)
def _canonical(name: str) -> str:
    return "ce-" + name[3:] if name.startswith("ce_") else name


def spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(work, context=contextvars.Context())


async def stop(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop ``client``, by force if it waits for a broker that is away: its own ``stop`` would for ever."""
    stopping = spawn(client.stop())
    await asyncio.wait([stopping], timeout=CLOSE_S)
    if not stopping.done():
        for task in (getattr(client, "_sender", None), getattr(client, "_coordinator", None)):
            work = getattr(task, "sender_task", None) or getattr(task, "_coordination_task", None)
            if work is not None:
                work.cancel()
        await asyncio.wait([stopping], timeout=CLOSE_S)
    if stopping.done() and not stopping.cancelled():
        stopping.exception()
