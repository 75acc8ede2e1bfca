"""Read models at work: fed by what is heard, filled from the past, and proved by folding the journals again.

A replay reads and folds; it handles no message, so no effect is ever repeated by it. Its span says ``lab.replay``.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from opentelemetry.trace import get_current_span

from services.domain.messages import Event
from services.domain.order import IN_TURN, Plan
from services.domain.projections import ALWAYS, PROJECTIONS, Projection, fold
from services.storage.projections import ProjectionStore
from services.styles import STYLES
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.setup import Telemetry
from services.transports import Port, cloudevents
from services.transports.errors import TransportError, Undecodable
from services.transports.ports import Broker, Log, Message, is_journal

log = structlog.get_logger()

SHOWN = 5
"""Differences that a replay names."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What folding the journals from nothing led to, for one read model: ``rows`` there are, ``differences`` names
    some that came out otherwise; ``behind`` events are in the journals and not yet in the read model, ``lost`` are in
    the read model and no longer in the journals."""

    name: str
    events: int
    rows: int
    behind: int
    lost: int
    differences: Mapping[str, Any] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return not self.differences and not self.lost


class ReadModels:
    """``journals`` are the brokers that keep one, each with the channels."""

    def __init__(
        self, store: ProjectionStore, journals: Mapping[str, tuple[Broker, Sequence[str]]], telemetry: Telemetry
    ) -> None:
        self.store = store
        self._journals = journals
        self._telemetry = telemetry
        self._kept: list[Projection] = []

    async def open(self) -> None:
        """Take up what was kept before. To be called before anything is heard."""
        self._kept = await self.store.kept()

    async def fill_up(self) -> None:
        """Fill what is always kept and is not there yet, and what was not filled to its end, however long the journals
        are away."""
        waiting = ALWAYS | {projection.name for projection in self._kept}
        for name in sorted(waiting - await self.store.filled()):
            while True:
                try:
                    await self.fill(PROJECTIONS[name])
                except TransportError as error:
                    log.info("fill_waits", projection=name, error=str(error))
                    await asyncio.sleep(1)
                else:
                    break

    async def hear(self, message: Message) -> None:
        """Fold an event of a journal into all read models."""
        if not isinstance(message.payload, Event):
            raise Undecodable(f"{message.type} is a command, and a journal has events only")
        await self.store.project(self._kept, [(message.id, message.payload, plan_of(message))])
        delay = datetime.now(UTC) - datetime.fromisoformat(message.time)
        metrics.PROJECTION_DELAY.labels("ledger", message.style).observe(
            max(0.0, delay.total_seconds()), metrics.exemplar(get_current_span())
        )

    async def fill(self, projection: Projection) -> int:
        """Keep ``projection`` from now on, with all of the past in it; gives how many events that was. What comes in
        meanwhile is folded by whoever is first. Raises ``Unavailable``."""
        await self.store.keep(projection)
        if projection not in self._kept:
            self._kept.append(projection)
        events = [(message.id, _event(message), plan_of(message)) async for message in self._past(projection.name)]
        news = await self.store.project([projection], events)
        await self.store.keep(projection, filled=True)
        return news

    async def drop(self, projection: Projection) -> None:
        self._kept = [kept for kept in self._kept if kept is not projection]
        await self.store.drop(projection)

    async def replay(self, until: str = "") -> dict[str, Any]:
        """Fold the journals from nothing. Up to now: with a proof for each read model. ``until`` an instant (RFC 3339)
        of the past: only what was known then."""
        views = {} if until else {p.name: await self.store.rows(p) for p in await self.store.kept()}
        past = {message.id: message async for message in self._past("")}
        chosen = {i: message for i, message in past.items() if not until or message.time <= until}
        orders = fold(PROJECTIONS["orders"], [(_event(message), plan_of(message)) for message in chosen.values()])
        proofs = [_prove(PROJECTIONS[name], past, rows, inside) for name, (rows, inside) in views.items()]
        return {
            "events": len(chosen),
            "orders": {key: row["state"] for key, row in orders.items()},
            "proofs": [{**{name: getattr(p, name) for name in Proof.__slots__}, "equal": p.equal} for p in proofs],
        }

    async def history(self, order_id: str) -> list[dict[str, str]]:
        """What the journals say of one order, oldest first."""
        said = [message async for message in self._past(order_id) if message.subject == order_id]
        return [{"at": message.time, "event": message.type, "by": message.source} for message in said]

    async def _past(self, purpose: str) -> AsyncIterator[Message]:
        """Every event of every journal, each once; the journals are read under one span."""
        seen: set[str] = set()
        about = {c.LAB_REPLAY_PURPOSE: purpose} if purpose else {}
        with self._telemetry.tracer.start_as_current_span("replay", attributes={c.LAB_REPLAY: True, **about}) as span:
            for broker, channels in self._journals.values():
                for channel in channels:
                    async for headers, body in _log(broker).read(channel):
                        with suppress(Undecodable):  # a stranger's; it was counted and buried when it was heard
                            message = cloudevents.decode(headers, body)
                            if message.id not in seen and isinstance(message.payload, Event):
                                seen.add(message.id)
                                yield message
            span.set_attribute(c.BATCH_MESSAGE_COUNT, len(seen))


def journals(brokers: Mapping[str, Broker], transports: Mapping[str, Any]) -> dict[str, tuple[Broker, Sequence[str]]]:
    """The brokers that keep a journal, and which."""
    channels = sorted({channel for style in STYLES.values() for channel in style.channels if is_journal(channel)})
    return {name: (b, channels) for name, b in brokers.items() if Port.LOG in transports[name].ports}


def plan_of(message: Message) -> Plan:
    return STYLES[message.style].plan if message.style in STYLES else IN_TURN


def _event(message: Message) -> Event:
    assert isinstance(message.payload, Event)
    return message.payload


def _log(broker: Broker) -> Log:
    return broker  # type: ignore[return-value]


def _prove(
    projection: Projection, past: Mapping[str, Message], rows: Mapping[str, Any], inside: frozenset[str]
) -> Proof:
    again = fold(projection, [(_event(message), plan_of(message)) for i, message in past.items() if i in inside])
    differing = sorted(key for key in again.keys() | rows.keys() if again.get(key) != rows.get(key))
    return Proof(
        projection.name,
        len(inside),
        len(rows),
        behind=len(past.keys() - inside),
        lost=len(inside - past.keys()),
        differences={key: {"kept": rows.get(key), "replayed": again.get(key)} for key in differing[:SHOWN]},
    )
