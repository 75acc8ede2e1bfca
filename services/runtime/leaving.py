"""How messages leave a service: where the knobs of services/runtime/faults.py act on what is published.

A broker is wrapped as a whole (``Faulty``), and its spans are, as one of them stands around the moment in which a
message leaves (``_Leaving``): what is lost there has been sent as far as anybody can see. As long as no knob is set,
publishing is the adapter's own, without a frame of ours.
"""

import asyncio
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from opentelemetry.trace import Span

from services.runtime.conditions import Conditions
from services.runtime.live import Live
from services.telemetry.messaging import MessagingSpans, Words
from services.transports.errors import TransportError
from services.transports.ports import Broker


@dataclass(frozen=True, slots=True)
class _Way:
    """What becomes of a message when it leaves."""

    lost: bool
    without_context: bool


_WAY: ContextVar[_Way | None] = ContextVar("way", default=None)


class _Lost(BaseException):
    """Leads out of an adapter that believes to have sent."""


class Faulty:
    """Any broker, and the way of its messages under ``conditions``. All but ``publish`` is the adapter's own."""

    def __init__(self, broker: Any, conditions: Conditions) -> None:
        self._broker = broker
        self._conditions = conditions
        self.name = broker.name
        self.words = broker.words
        broker.spans = _Leaving(broker.spans)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> Coroutine[Any, Any, None]:
        """The adapter's own, as long as no knob is set."""
        where = {"channel": channel, "key": key, "reply_to": reply_to}
        if not self._conditions.live.faults:
            own: Coroutine[Any, Any, None] = self._broker.publish(headers, body, **where)
            return own
        return self._publish(headers, body, where)

    async def _publish(self, headers: Mapping[str, str], body: bytes, where: Mapping[str, Any]) -> None:
        style = headers.get("ce-labstyle", "")
        what = f"{headers.get('ce-id', '')}/{where['channel']}"
        hits = self._conditions.hits
        if wait_ms := self._conditions.wait_ms("reorder_ms", style, what):
            await asyncio.sleep(wait_ms / 1000)
        if hits("poison_rate", style, what):
            body = _unreadable(body)
        await self._send(headers, body, where, style, what)
        if hits("duplicate_rate", style, what):
            with suppress(TransportError):  # the first one was confirmed
                await self._send(headers, body, where, style, what)
        if hits("stranger_rate", style, what):
            another = {**headers, "ce-id": str(uuid.uuid5(uuid.NAMESPACE_OID, what))}
            with suppress(TransportError):
                await self._send(another, _unreadable(body), where, style, what)

    async def _send(
        self, headers: Mapping[str, str], body: bytes, where: Mapping[str, Any], style: str, what: str
    ) -> None:
        hits = self._conditions.hits
        way = _Way(hits("drop_rate", style, what), hits("lost_context_rate", style, what))
        token = _WAY.set(way)
        try:
            await self._broker.publish(headers, body, **where)
        except _Lost:
            return
        finally:
            _WAY.reset(token)


def _unreadable(body: bytes) -> bytes:
    """Of about that length, and in no format anything."""
    return b"\xff" * max(16, len(body))


class _Leaving(MessagingSpans):
    """An adapter's spans; ``send`` asks what becomes of the message."""

    def __init__(self, spans: MessagingSpans) -> None:
        self.__dict__.update(vars(spans))

    def send(  # type: ignore[override]
        self, headers: dict[str, str], words: Words, destination: str, attributes: Mapping[str, Any]
    ) -> AbstractContextManager[Span]:
        way = _WAY.get()
        sent = super().send(headers, words, destination, attributes)
        return sent if way is None else _sent(sent, headers, way)


@contextmanager
def _sent(span: AbstractContextManager[Span], headers: dict[str, str], way: _Way) -> Iterator[Span]:
    with span as current:
        if way.without_context:
            for name in ("traceparent", "tracestate", "baggage"):
                headers.pop(name, None)
        if not way.lost:
            yield current
            return
    raise _Lost


def faulty(broker: Broker, service: str, live: Live) -> Broker:
    """``broker`` under the conditions of ``service``."""
    return cast(Broker, Faulty(broker, Conditions(service, live)))
