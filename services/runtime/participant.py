"""A participant at work: a command comes in (by call or by message), its effect happens once, an event goes out."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opentelemetry.trace import get_current_span

from services.domain.messages import Command, Event, QuoteRequested, Refusal, type_name
from services.domain.order import STEP_OF
from services.domain.participants import known_answer, settle
from services.runtime.conditions import Conditions
from services.runtime.deadline import remaining_s
from services.runtime.ledger import note_known, note_said
from services.runtime.live import Live
from services.runtime.serial import Serial
from services.storage.participant import Overtaken, ParticipantStore
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.transports import cloudevents
from services.transports.errors import DeadlineExceeded
from services.transports.formats import JSON, Format
from services.transports.ports import Broker, Message

Decision = Callable[[Any], Awaitable[Event]]
Handlers = Mapping[type[Command], Decision]
Quote = Callable[[QuoteRequested], Awaitable[Event | None]]
"""How a carrier answers; None where it keeps silent."""


class CommandRefused(ValueError):
    """A command that is none of this service's."""


class Worker:
    """The decisions of one service, and its memory of what it has done."""

    def __init__(
        self,
        service: str,
        handlers: Handlers,
        store: ParticipantStore,
        max_in_flight: int,
        live: Live | None = None,
    ) -> None:
        self.service = service
        self.conditions = Conditions(service, live or Live())
        self._handlers = handlers
        self._store = store
        self._serial = Serial()
        self._max_in_flight = max_in_flight

    def calls(self) -> Callable[[Command], Awaitable[Event]]:
        """The handler of one RPC transport: as many at once, and as serial per order, as a broker's consumer. Raises
        ``DeadlineExceeded`` where the caller's deadline has passed."""
        slots = asyncio.Semaphore(self._max_in_flight)

        async def answer(command: Command) -> Event:
            async with self._serial.lane(command.order.order_id), slots:
                self._in_time(command)
                if error := await self.conditions.before_call(command):
                    raise error
                return await self.do(command)

        return answer

    def _in_time(self, command: Command) -> None:
        """Raises ``DeadlineExceeded`` where nobody waits for the answer any more, perhaps since the call had to wait
        here. What is to be taken back always is."""
        left_s = remaining_s()
        if left_s is not None and left_s <= 0 and type(command) is STEP_OF[type(command)].do:
            raise DeadlineExceeded(f"the deadline passed {abs(left_s):.3g} s ago; {self.service} did nothing")

    async def do(self, command: Command, *, cause: str | None = None) -> Event:
        """Carry ``command`` out, once per order and step, and remember the answer for ``cause``.

        Raises ``CommandRefused`` for a command of somebody else.
        """
        handler = self._handlers.get(type(command))
        if handler is None:
            raise CommandRefused(f"{self.service} does not {type(command).__name__}")
        while True:
            try:
                return await self._once(handler, command, cause)
            except Overtaken:  # another replica, or a compensation, was quicker: its outcome counts
                continue

    async def _once(self, handler: Decision, command: Command, cause: str | None) -> Event:
        order_id = command.order.order_id
        memory = await self._store.recall(cause, order_id)
        if memory.answer is not None:
            self._duplicate()
            note_known()
            answer = cloudevents.loads(*memory.answer)
            assert isinstance(answer, Event)
            return answer
        event = known_answer(memory.slot, command, memory.reason)
        effect = None
        if event is None:
            event = self.conditions.refusal(command) or await handler(command)
            effect = None if isinstance(event, Refusal) else type_name(type(command))
        elif settle(memory.slot, event) is memory.slot:
            self._duplicate()  # else it takes back what was never done: a tombstone, and news
        await self._store.settle(
            cause,
            order_id,
            was=memory.slot,
            slot=settle(memory.slot, event),
            reason=event.reason if isinstance(event, Refusal) else memory.reason,
            answer=(type_name(type(event)), cloudevents.dumps(event)),
            effect=effect,
        )
        if effect is not None:
            metrics.EFFECTS.labels(self.service, effect).inc()
        self.conditions.stored()
        return event

    def _duplicate(self) -> None:
        get_current_span().set_attribute(c.LAB_DUPLICATE, True)  # noqa: FBT003
        metrics.DUPLICATES.labels(self.service).inc()


class Speaking:
    """A worker while it handles messages of one broker, and says its own in the format ``written``: a
    ``styles.roles.Participant``. A carrier has a ``quote``."""

    def __init__(self, worker: Worker, broker: Broker, written: Format = JSON, quote: Quote | None = None) -> None:
        self.service = worker.service
        self._quote = quote
        self._worker = worker
        self._broker = broker
        self._written = written

    async def do(self, command: Command, *, cause: str) -> Event:
        return await self._worker.do(command, cause=cause)

    async def quote(self, request: QuoteRequested) -> Event | None:
        if self._quote is None:
            raise CommandRefused(f"{self.service} is no carrier")
        return self._worker.conditions.declined(request) or await self._quote(request)

    async def say(self, payload: Command | Event, *, channel: str, to: Message) -> None:
        message = cloudevents.compose(
            payload,
            source=self.service,
            cause=to.id,
            style=to.style,
            transport=to.transport,
            correlation_id=to.id if to.reply_to else "",
        )
        headers, body = cloudevents.encode(message, self._written)
        await self._broker.publish(headers, body, channel=channel, key=message.subject)
        note_said(headers, broker=self._broker.name, channel=channel)
