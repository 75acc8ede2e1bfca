"""How RabbitMQ has our messages, and how it fails."""

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from pamqp.commands import Basic

T = TypeVar("T")
PERSISTENT = 2
LOST = (*CONNECTION_EXCEPTIONS, TimeoutError)
BY_THE_BROKER = ("x-delivery-count", "x-acquired-count", "x-death", "x-first-death-", "x-last-death-")


def properties_of(headers: Mapping[str, str], key: str) -> Basic.Properties:
    """AMQP has places of its own for some of what we call headers."""
    return Basic.Properties(
        headers={wire(name): value for name, value in headers.items() if name not in ("content-type", "reply-to")},
        content_type=headers.get("content-type"),
        reply_to=headers.get("reply-to"),
        correlation_id=key,
        message_id=headers.get("ce-id"),
        message_type=headers.get("ce-type"),
        app_id=headers.get("ce-source"),
        delivery_mode=PERSISTENT,
        timestamp=datetime.now(UTC),
    )


def headers_of(properties: Basic.Properties) -> dict[str, str]:
    """Ours; what the broker added, and what is no text, is left out."""
    headers = {}
    for name, value in (properties.headers or {}).items():
        canonical, text = _canonical(name), text_of(value)
        if canonical and text is not None:
            headers[canonical] = text
    if properties.content_type:
        headers["content-type"] = properties.content_type
    if properties.reply_to:
        headers["reply-to"] = properties.reply_to
    return headers


def carried_over(properties: Basic.Properties) -> dict[str, Any]:
    """The headers as they are on the wire, to be written again without the broker's own."""
    # pamqp reads a string that is no UTF-8 as bytes, which it would not write
    return {
        name: bytearray(value) if isinstance(value, bytes) else value
        for name, value in (properties.headers or {}).items()
        if _canonical(name)
    }


@lru_cache(1000)
def wire(name: str) -> str:
    return "cloudEvents:" + name[3:] if name.startswith("ce-") else name


@lru_cache(1000)
def _canonical(name: str) -> str:
    """Our name for a header; none for what the broker added."""
    if name.startswith(BY_THE_BROKER):
        return ""
    return "ce-" + name.removeprefix("cloudEvents:") if name.startswith("cloudEvents:") else name


def text_of(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return str(value) if isinstance(value, int | float | datetime) else None


async def ours(work: Awaitable[T]) -> T:
    """``work``, failing with a connection error where aiormq ends what waits on a dying channel with CancelledError,
    which would pass for a cancellation of ours, or with a bare Exception."""
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    except Exception as error:
        if type(error) is not Exception:
            raise
    raise ConnectionError("the channel is closed")
