"""The desk: orders' own side of every conversation. It accepts orders, folds what is heard of them and does what their
style makes of it, sends what they say (outbox), wakes those that wait for something (alarms), and brings to an end
those whose conversation broke off (recovery).
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import INVALID_SPAN, Link, Span, get_current_span, set_span_in_context

from services.domain.messages import Command, Event, Order
from services.domain.order import STEP_OF, OrderState, Verdict, place, recovery_command
from services.runtime.deadline import within, without_deadline
from services.runtime.faults import held
from services.runtime.ledger import Ledger, note_known
from services.runtime.live import Live
from services.runtime.process import style_of
from services.storage.ledger import entry
from services.storage.orders import Decide, OrderStore, Parcel, Recorded, StoredOrder, Turn
from services.styles import STYLES
from services.styles.roles import Heard, Outgoing, Style
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import PROPAGATOR, fail
from services.telemetry.setup import Telemetry
from services.transports import Port, cloudevents
from services.transports.errors import TransportError, Unavailable, Undecodable
from services.transports.formats import JSON, Format
from services.transports.ports import Broker, Message, Rpc

log = structlog.get_logger()

SELF = "orders"
LEASE_S = 10.0
"""How long one attempt to carry a conversation on, or to send a parcel, may take before others try."""
LOOK_EVERY_S = 1.0
MEASURE_EVERY_S = 5.0


class Desk:
    """Owner of orders. ``rpcs`` and ``brokers`` are this process's adapters by transport name, ``written``
    is the format of its messages."""

    def __init__(
        self,
        store: OrderStore,
        telemetry: Telemetry,
        live: Live,
        rpcs: Mapping[str, Rpc],
        brokers: Mapping[str, Broker],
        written: Format = JSON,
        ledger: Ledger | None = None,
    ) -> None:
        self.store = store
        self._telemetry = telemetry
        self._live = live
        self._rpcs = rpcs
        self._brokers = brokers
        self._written = written
        self._ledger = ledger
        self._news: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._pursuits: dict[str, asyncio.Task[None]] = {}
        self._given_up: list[str] = []
        self._waiting: dict[str, int] = defaultdict(int)
        self._sending: set[asyncio.Task[None]] = set()
        self._recover_now = asyncio.Event()
        self._stopping = False

    # --- accepting -------------------------------------------------------------------------------------------------
    async def accept(
        self,
        order: Order,
        style: Style,
        transport: str,
        *,
        idempotency_key: str | None,
        body_hash: str | None,
    ) -> StoredOrder:
        """Write the order down, with what it makes others hear; the context is the current one. The sending starts
        at once but is not waited for. Raises ``KeyTaken``."""
        state, placed = place(order, style.plan)
        carrier = _carrier()
        turn = Turn()
        if style.orders is not None and not style.synchronous:
            turn = self._decide(style, transport, placed, carrier)(state, state, {})
        accepted, parcels = await self.store.place(
            state,
            style=style.name,
            transport=transport,
            carrier=carrier,
            idempotency_key=idempotency_key,
            body_hash=body_hash,
            parcels=turn.parcels,
            lease_s=self._longest_s() if style.synchronous else LEASE_S,
            conversation=style.synchronous or style.pursue is not None,
            memory=turn.memory,
            alarm_s=turn.alarm_s,
        )
        metrics.ORDERS.labels("orders", style.name, transport, Verdict.ACCEPTED.value).inc()
        self._dispatch(parcels)
        if style.pursue is not None:
            self._pursue(accepted, style)
        return accepted

    def _decide(self, style: Style, transport: str, event: Event | None, carrier: Mapping[str, str]) -> Decide:
        """What ``style`` makes of ``event``, in the words of the store."""
        decide = style.orders
        if decide is None:
            return lambda *_: Turn()

        def turn(before: OrderState, state: OrderState, memory: Mapping[str, Any]) -> Turn:
            following = decide(Heard(event, before, state, memory, self._live.__getitem__))
            return Turn(
                self._parcels(state.order.order_id, style, transport, following.say, carrier),
                following.record,
                following.memory,
                following.alarm_s,
                following.late,
            )

        return turn

    def _parcels(
        self, order_id: str, style: Style, transport: str, say: Sequence[Outgoing], carrier: Mapping[str, str]
    ) -> list[Parcel]:
        parcels = []
        for outgoing in say:
            message = cloudevents.compose(
                outgoing.payload,
                source=SELF,
                cause=order_id,
                style=style.name,
                transport=transport,
                reply_to=outgoing.reply_to,
            )
            headers, body = cloudevents.encode(message, self._written)
            broker = style.broker(transport, outgoing.port)
            parcels.append(Parcel(order_id, broker, outgoing.channel, headers, body, carrier, time.time_ns()))
        return parcels

    async def converse(self, accepted: StoredOrder, style: Style) -> StoredOrder:
        """Carry a synchronous conversation to its end. When it breaks off (a ``TransportError``, raised on), the
        order is left to recovery."""
        assert style.converse is not None
        order_id = accepted.state.order.order_id
        rpc = self._rpcs[style.wires(accepted.transport)[Port.RPC]]
        desk = _Conversation(self, style, accepted.transport)
        try:
            with within(self._live["order.deadline_s"]):
                await style.converse(accepted.state, rpc, desk, self._live["rpc.timeout_s"])
        except TransportError:
            await self.store.hold([order_id], 0)
            self._recover_now.set()
            raise
        stored = await self.store.get(order_id)
        assert stored is not None
        return stored

    def _longest_s(self) -> float:
        """How long a conversation may take; some wires allow a tenth more than they were told."""
        longest_s: float = self._live["order.deadline_s"] * 1.1
        return max(longest_s, LEASE_S)

    # --- hearing -----------------------------------------------------------------------------------------------------
    async def hear(self, message: Message) -> None:
        """Fold what was heard into its order, and do what the order's style makes of it. Raises ``Undecodable`` for
        what is no event of an order that is known here: hearing it again would not help."""
        style = style_of(message)
        if not isinstance(message.payload, Event):
            raise Undecodable(f"{message.type} is a command, and orders takes none")
        carrier = _carrier()
        decide = self._decide(style, message.transport, message.payload, carrier)
        try:
            recorded = await self.record(
                message.subject, message.payload, cause=message.id, decide=decide, carrier=carrier
            )
        except KeyError:
            self._count_reply(style.name, message.transport, c.Reply.NOBODY)
            raise Undecodable(f"order {message.subject[:60]} is not known here") from None
        if recorded.again:
            note_known()
        if recorded.again or recorded.late:
            reply = c.Reply.TWICE if recorded.again else c.Reply.LATE
            self._count_reply(recorded.order.style, recorded.order.transport, reply)

    def _count_reply(self, style: str, transport: str, reply: c.Reply) -> None:
        get_current_span().set_attribute(c.LAB_REPLY, reply.value)
        metrics.UNEXPECTED_REPLIES.labels(SELF, style, transport, reply.value).inc()

    async def record(
        self,
        order_id: str,
        event: Event | None,
        *,
        cause: str | None = None,
        decide: Decide | None = None,
        carrier: Mapping[str, str] = MappingProxyType({}),
        handed_over: bool = False,
    ) -> Recorded:
        """Fold ``event`` into the order, durably, with all that follows from it; tell those who wait for it."""
        recorded = await self.store.record(
            order_id,
            event,
            cause=cause,
            reason="taken back by recovery",
            decide=decide,
            carrier=carrier,
            lease_s=LEASE_S,
            handed_over=handed_over,
        )
        self._dispatch(recorded.parcels)
        if recorded.ended:
            self._has_ended(recorded.order)
        if order_id in self._waiting:
            self._news[order_id].set()
        return recorded

    def _has_ended(self, stored: StoredOrder) -> None:
        span = get_current_span()
        span.set_attribute(c.LAB_ORDER_STATE, stored.verdict.value)
        assert stored.completed_at_ns is not None
        flow = ("orders", stored.style, stored.transport)
        metrics.ORDERS.labels(*flow, stored.verdict.value).inc()
        metrics.ORDER_COMPLETE_DURATION.labels(*flow, stored.verdict.value).observe(
            (stored.completed_at_ns - stored.accepted_at_ns) / 1e9, metrics.exemplar(span)
        )

    async def wait(
        self, order_id: str, wait_s: float, enough: Callable[[StoredOrder], bool] = lambda stored: stored.ended
    ) -> StoredOrder | None:
        """The order, once it is ``enough`` (by default: has ended) or ``wait_s`` have passed; None if there is no such
        order."""
        deadline = time.monotonic() + wait_s
        self._waiting[order_id] += 1
        try:
            while True:
                news = self._news[order_id]
                news.clear()
                stored = await self.store.get(order_id)
                left_s = deadline - time.monotonic()
                if stored is None or enough(stored) or left_s <= 0 or self._stopping:
                    return stored
                # another replica may be the one that hears of it: look again now and then
                try:
                    async with asyncio.timeout(min(left_s, LOOK_EVERY_S * 2)):
                        await news.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting[order_id] -= 1
            if not self._waiting[order_id]:
                del self._waiting[order_id]
                self._news.pop(order_id, None)

    def stop_waiting(self) -> None:
        """Answer those who wait now, and carry nothing on any more: the process is about to stop."""
        self._stopping = True
        self._given_up = list(self._pursuits)
        for task in list(self._pursuits.values()):
            task.cancel()
        for news in self._news.values():
            news.set()

    # --- outbox ------------------------------------------------------------------------------------------------------
    def _dispatch(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            task = asyncio.create_task(self._send(parcel))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, parcel: Parcel) -> None:
        context = PROPAGATOR.extract(parcel.carrier, Context())
        style, transport = parcel.headers["ce-labstyle"], parcel.headers["ce-labtransport"]
        if held(self._live, style):
            await self.store.put_back([parcel.id], LOOK_EVERY_S)
            return
        with self._telemetry.messaging.outbox(context, parcel.order_id, style, transport, parcel.written_at_ns):
            try:
                await self._brokers[parcel.broker].publish(
                    parcel.headers, parcel.body, channel=parcel.channel, key=parcel.order_id
                )
            except (TransportError, KeyError) as error:
                log.info("outbox_waits", order_id=parcel.order_id, error=str(error))
                return
        await self.store.sent([parcel.id])

    async def relay(self) -> None:
        """Send, for ever, what was accepted and is not being sent: after a restart, or once its broker is back."""
        while True:
            parcels = await self.store.unsent(LEASE_S)
            await asyncio.gather(*(self._send(parcel) for parcel in parcels))
            if not parcels:
                await asyncio.sleep(LOOK_EVERY_S)

    # --- measuring ---------------------------------------------------------------------------------------------------
    async def measure(self, flows: Sequence[tuple[str, str]]) -> None:
        """Say every few seconds, for ever, what waits. ``flows`` are the pairs of style and transport that run here:
        their figures are there from the start, and stay there at 0."""
        shown = dict.fromkeys(flows)
        for flow in shown:
            for verdict in Verdict:
                metrics.ORDERS.labels("orders", *flow, verdict.value)
        while True:
            waiting = await self.store.open_orders(c.STUCK_AFTER_S)
            shown |= dict.fromkeys(waiting)
            for flow in shown:
                count, stuck, oldest_ns = waiting.get(flow, (0, 0, 0))
                metrics.ORDERS_OPEN.labels("orders", *flow).set(count)
                metrics.ORDERS_STUCK.labels("orders", *flow).set(stuck)
                metrics.ORDERS_OLDEST.labels("orders", *flow).set(oldest_ns / 1e9)
            metrics.OUTBOX_PENDING.labels("orders").set(await self.store.pending())
            metrics.OUTBOX_OLDEST.labels("orders").set(await self.store.oldest_unsent_ns() / 1e9)
            await asyncio.sleep(MEASURE_EVERY_S)

    async def drained(self) -> None:
        """Leave what was carried on here to whoever looks next; return when nothing is being sent."""
        if self._given_up:
            await self.store.hold(self._given_up, 0)
        while self._sending:
            await asyncio.wait(self._sending)

    # --- recovery ----------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Bring conversations that broke off to their end, for ever."""
        while True:
            orders = await self.store.abandoned(LEASE_S)
            await asyncio.gather(*(self._recover_one(stored) for stored in orders))
            self._recover_now.clear()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._recover_now.wait()
            except TimeoutError:
                continue

    async def _recover_one(self, stored: StoredOrder) -> None:
        style = STYLES[stored.style]
        if style.pursue is not None:
            with self._anew("resume order", stored, stored.carrier):
                self._pursue(stored, style)
            return
        with self._anew("recover order", stored, stored.carrier, {c.LAB_RECOVERY: True}) as span:
            try:
                await self._take_back(stored, style)
            except TransportError as error:
                fail(span, error)
                log.info("recovery_waits", order_id=stored.state.order.order_id, error=str(error))
                await self.store.hold([stored.state.order.order_id], random.uniform(0.5, 1.5))

    @contextmanager
    def _anew(
        self, name: str, stored: StoredOrder, carrier: Mapping[str, str], attributes: Mapping[str, bool] | None = None
    ) -> Iterator[Span]:
        """A trace of its own, linked to the one in ``carrier``, which may be long over; its baggage says whose order it
        is."""
        before = PROPAGATOR.extract(carrier, Context())
        token = attach(set_span_in_context(INVALID_SPAN, before))
        try:
            with self._telemetry.tracer.start_as_current_span(
                name,
                attributes={c.LAB_ORDER_ID: stored.state.order.order_id, **(attributes or {})},
                links=_link_to(get_current_span(before)),
                record_exception=False,
            ) as span:
                yield span
        finally:
            detach(token)

    async def _take_back(self, stored: StoredOrder, style: Style) -> None:
        wire = style.wires(stored.transport)[Port.RPC]
        rpc = self._rpcs.get(wire)
        if rpc is None:
            raise Unavailable(f"{wire} does not run here any more")
        desk = _Conversation(self, style, stored.transport)
        state = stored.state
        while command := recovery_command(state):
            event = await rpc.call(STEP_OF[type(command)].service, command, timeout_s=self._live["rpc.timeout_s"])
            state = await desk.record(state.order.order_id, event)
        metrics.RECOVERED.labels("orders", stored.style, stored.transport, state.verdict.value).inc()

    # --- alarms ------------------------------------------------------------------------------------------------------
    async def alarms(self) -> None:
        """Wake, for ever, the conversations that waited for something long enough."""
        while True:
            due = await self.store.alarms(LEASE_S)
            await asyncio.gather(*(self._ring(stored, carrier) for stored, carrier in due))
            if not due:
                await asyncio.sleep(LOOK_EVERY_S / 4)

    async def _ring(self, stored: StoredOrder, before: Mapping[str, str]) -> None:
        with self._anew("resume order", stored, before):
            carrier = _carrier()
            decide = self._decide(STYLES[stored.style], stored.transport, None, carrier)
            await self.record(stored.state.order.order_id, None, decide=decide, carrier=carrier)

    # --- requests ----------------------------------------------------------------------------------------------------
    def _pursue(self, stored: StoredOrder, style: Style) -> None:
        """Carry the conversation on in the background, in the current context."""
        order_id = stored.state.order.order_id
        if order_id not in self._pursuits and not self._stopping:
            task = asyncio.create_task(self._carry_on(stored, style))
            self._pursuits[order_id] = task
            task.add_done_callback(lambda _: self._pursuits.pop(order_id, None))

    async def _carry_on(self, stored: StoredOrder, style: Style) -> None:
        assert style.pursue is not None
        try:
            await style.pursue(stored.state, _Conversation(self, style, stored.transport))
        except Exception as error:  # its lease runs out, and it is picked up again
            log.warning("pursuit_waits", order_id=stored.state.order.order_id, error=repr(error))

    async def hold_pursuits(self) -> None:
        """Keep, for ever, the leases of what is being carried on here."""
        while True:
            await asyncio.sleep(LEASE_S / 4)
            if self._pursuits:
                await self.store.hold(list(self._pursuits), LEASE_S)

    async def ask(
        self, style: Style, transport: str, state: OrderState, command: Command, *, channel: str, reply_to: str
    ) -> OrderState:
        """Request by message: a CLIENT span over the whole wait, whose conversation id is the request's, and the order
        once its answer was recorded (whoever heard it)."""
        broker = self._brokers[style.broker(transport)]
        order_id, step = state.order.order_id, STEP_OF[type(command)].name
        message = cloudevents.compose(
            command, source=SELF, cause=order_id, style=style.name, transport=transport, reply_to=reply_to
        )
        with self._telemetry.messaging.request(broker.words, channel, message.id, order_id):
            while True:
                headers, body = cloudevents.encode(message, self._written)
                try:
                    await broker.publish(headers, body, channel=channel, key=order_id)
                    if self._ledger is not None:
                        await self._ledger.note([entry(headers, broker=broker.name, channel=channel)])
                except TransportError as error:
                    log.info("request_waits", order_id=order_id, error=str(error))
                    await asyncio.sleep(random.uniform(0.5, 1) * LOOK_EVERY_S)
                    continue
                stored = await self.wait(
                    order_id,
                    self._live["reply.timeout_s"],
                    lambda stored: stored.state.slots[step] is not state.slots[step] or stored.ended,
                )
                assert stored is not None
                if stored.state.slots[step] is not state.slots[step] or stored.ended:
                    return stored.state
                metrics.REQUESTS_REPEATED.labels(SELF, broker.words.system, channel).inc()


@dataclass(frozen=True, slots=True)
class _Conversation:
    """One order's: a ``roles.Desk`` and a ``roles.Requests``."""

    desk: Desk
    style: Style
    transport: str

    async def record(self, order_id: str, event: Event, *, say: tuple[Outgoing, ...] = ()) -> OrderState:
        carrier = _carrier()
        parcels = self.desk._parcels(order_id, self.style, self.transport, say, carrier)  # noqa: SLF001
        recorded = await self.desk.record(
            order_id, event, decide=lambda *_: Turn(parcels), carrier=carrier, handed_over=bool(say)
        )
        return recorded.order.state

    async def ask(self, state: OrderState, command: Command, *, channel: str, reply_to: str) -> OrderState:
        return await self.desk.ask(self.style, self.transport, state, command, channel=channel, reply_to=reply_to)


def _carrier() -> dict[str, str]:
    """The current context and baggage, to be stored: without a deadline, as what is done later is not too late."""
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, without_deadline())
    return carrier


def _link_to(span: Span) -> Sequence[Link]:
    context = span.get_span_context()
    return [Link(context)] if context.is_valid else []
