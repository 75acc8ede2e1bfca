"""The three ports. Styles speak to these and to nothing below; no more than this is shared between transports.

``Rpc``     the caller waits.
``Broker``  it does not.
``Log``     it can ask again.

There is deliberately no common retry, timeout or acknowledgement layer: an adapter keeps its protocol's own
(``native``), and its module's docstring, the data sheet, says what that gives.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry.trace import SpanContext

from services.domain.messages import Command, Event
from services.telemetry.messaging import Words
from services.telemetry.setup import Telemetry
from services.transports.tls import Tls

Handler = Callable[[Command], Awaitable[Event]]
"""What an ``Rpc`` serves: any command of its service in, the event out."""

Topology = Mapping[str, frozenset[str]]
"""Every channel of the running system and the groups that read it: ``{"orders.events": {"inventory", …}}``."""


class Rpc(Protocol):
    """Request and response: the caller waits for the event that its command leads to."""

    name: str

    async def call(self, peer: str, command: Command, *, timeout_s: float) -> Event:
        """Ask ``peer`` and wait. A refusal is an event.

        Raises a ``TransportError``: ``Unavailable`` if it certainly was not done; ``DeadlineExceeded``,
        ``ConnectionBroken`` or ``PeerFailed`` if that is unknown.
        """

    async def serve(self, service: str, handler: Handler) -> None:
        """Listen for ``service``'s commands; returns once calls can arrive."""

    async def drain(self) -> None:
        """Take no new call; return when those in hand are answered."""

    async def close(self) -> None:
        """Let go of sockets and connections. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class Message:
    """A CloudEvent 1.0 with our payload, as it stands before it is put on a wire and after it was taken off.

    ``subject`` is the order id; ``style`` and ``transport`` are CloudEvents extension attributes, by which a
    consumer knows whose conversation this is. ``time`` is RFC 3339 UTC. An answer is wanted on the channel
    ``reply_to``, and has the id of its request as ``correlation_id`` (CloudEvents correlation extension).
    """

    id: str
    source: str
    type: str
    subject: str
    time: str
    style: str
    transport: str
    payload: Command | Event
    reply_to: str = ""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that ``group`` gave up on, as the broker keeps it: headers (without the broker's own about its death)
    and body as they were, so with its creation context.

    ``id`` is the message's CloudEvents id, or what ``dead_letter_id`` makes of bytes that have none. ``reason`` is
    empty and ``attempts`` 0 where nobody said. ``died_at_ns`` is since 1970-01-01 UTC, where the broker can tell.
    """

    id: str
    channel: str
    group: str
    reason: str
    attempts: int
    headers: Mapping[str, str]
    body: bytes
    died_at_ns: int | None = None


def dead_letter_id(headers: Mapping[str, str], body: bytes) -> str:
    """By what a dead letter is asked for."""
    return headers.get("ce-id") or f"sha256-{hashlib.sha256(body).hexdigest()[:16]}"


def is_journal(channel: str) -> bool:
    """Whether what is published there is kept for good: a broker that forgets must not forget it."""
    return channel.endswith(".journal")


@dataclass(slots=True)
class Delivery(ABC):
    """One message as a broker handed it over: not yet decoded, not yet settled.

    ``headers`` are the message's, with text keys and values (W3C, ``sent-at``, CloudEvents attributes as
    ``ce-<name>``, ``content-type``), whatever form the wire gives them. ``attempt`` counts from 1 as far as the
    broker knows. ``attributes`` are the broker's own facts under their conventional span-attribute names.
    ``released_at_ns`` is when a redelivered message was last given back, where known.
    ``received_with`` is the span of the pull that brought this message alone; None for push and for batches.
    ``destination`` is the span's ``messaging.destination.name``, where it is not the channel.
    """

    channel: str
    group: str
    key: str
    headers: Mapping[str, str]
    body: bytes
    attempt: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    released_at_ns: int | None = None
    received_with: SpanContext | None = None
    destination: str = ""
    native: Any = None

    @abstractmethod
    async def ack(self) -> None:
        """Settle: it is done and must not come again. Exactly one of ``ack`` and ``reject``, once."""

    @abstractmethod
    async def reject(self, reason: str, *, retry_after_s: float | None = None) -> None:
        """Settle: it is not done. With ``retry_after_s`` it comes again after about that long, with ``attempt`` + 1
        (the call may last as long); without, it goes to the dead letters with ``reason``, the attempt count and its
        original headers."""


class Broker(Protocol):
    """Messages: whoever publishes does not wait for those who subscribe."""

    name: str
    words: Words

    async def open(self, topology: Topology) -> None:
        """Connect (waiting for the broker as long as it takes) and make every channel and group's queue that is
        missing. Idempotent. After it returns nothing published to a channel can miss a group of ``topology``."""

    async def publish(
        self, headers: Mapping[str, str], body: bytes, *, channel: str, key: str, reply_to: str | None = None
    ) -> None:
        """Hand a message over; returns once the broker has confirmed that it keeps it (by its data sheet).

        Raises ``Unavailable`` or ``DeadlineExceeded`` when it has not, ``Unroutable`` when nobody would get it.
        """

    def subscribe(self, channel: str, group: str, *, max_in_flight: int) -> AsyncIterator[Delivery]:
        """Deliveries of ``channel`` to ``group``, one copy per group, shared by the group's members.

        At most ``max_in_flight`` are unsettled at once. It reconnects by itself and ends only by cancellation;
        what it delivered may be settled after that, until ``close``.
        """

    async def held(self, channel: str, group: str) -> int:
        """How many messages of ``channel`` the broker still holds for ``group``: those that wait and those that are
        in hand. Raises ``Unavailable`` where it cannot be asked."""

    async def dead_letters(self, channel: str, group: str, *, limit: int = 100) -> list[DeadLetter]:
        """The oldest of what ``group`` gave up on, oldest first. They stay where they are."""

    async def settle_dead_letter(self, channel: str, group: str, dead_letter_id: str, *, replay: bool) -> bool:
        """Take the oldest dead letter of that id away; with ``replay``, after it was put back for ``group`` (attempt
        1, ``ce-labreplayed`` the instant in ns; where all groups share a channel, ``ce-labonlygroup`` names the one).
        Whoever dies in between leaves it in both places, never in none. False if there is none."""

    async def ready(self) -> str | None:
        """None while connected, else the reason in one line."""

    async def close(self) -> None:
        """Settle what was acknowledged, then let go of the connection. Safe to call twice."""


class Log(Broker, Protocol):
    """A broker that remembers: what was published to a journal (``is_journal``) can be read again."""

    def read(self, channel: str) -> AsyncIterator[tuple[Mapping[str, str], bytes]]:
        """Headers and body of everything in ``channel``, oldest first per key, up to what was there when it was asked;
        then it ends. No group's place moves. Raises ``Unavailable``."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What an adapter is made from: who it speaks for, and where things are.

    ``listen`` has this process's port per transport, ``peers`` each peer's address per transport
    (``{"payment": {"rest": "http://127.0.0.1:21058"}}``), ``servers`` each broker's address. ``host`` is the address
    to listen on. ``tls`` is for the calls between services, where the wire has it.
    """

    service: str
    telemetry: Telemetry
    host: str = "127.0.0.1"
    listen: Mapping[str, int] = field(default_factory=dict)
    peers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    servers: Mapping[str, str] = field(default_factory=dict)
    network: Any = None
    max_in_flight: int = 16
    sqs_fifo: bool = False
    sqs_visibility_timeout_s: int = 30
    sqs_wait_s: int = 1
    redis_claim_idle_s: float = 30.0
    redis_stream_maxlen: int = 1_000
    tls: Tls | None = None
