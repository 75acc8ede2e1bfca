"""The desk: orders' own side of every conversation. It accepts orders, folds what is heard of them, sends what they
make (outbox), and brings to an end those whose conversation broke off (recovery).
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import structlog
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import INVALID_SPAN, Link, Span, get_current_span, set_span_in_context

from services.domain.messages import Event, Order
from services.domain.order import STEP_OF, OrderState, Verdict, place, recovery_command
from services.runtime.live import Live
from services.storage.orders import OrderStore, Parcel, StoredOrder
from services.styles.roles import Style
from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import PROPAGATOR, fail
from services.telemetry.setup import Telemetry
from services.transports import cloudevents
from services.transports.errors import TransportError, Unavailable
from services.transports.formats import JSON, Format
from services.transports.ports import Broker, Rpc

log = structlog.get_logger()

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
    ) -> None:
        self.store = store
        self._telemetry = telemetry
        self._live = live
        self._rpcs = rpcs
        self._brokers = brokers
        self._written = written
        self._ended: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
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
        state, _ = place(order)
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, get_current())
        accepted, parcels = await self.store.place(
            state,
            style=style.name,
            transport=transport,
            carrier=carrier,
            idempotency_key=idempotency_key,
            body_hash=body_hash,
            parcels=self._opening(state, style, transport, carrier),
            lease_s=self._longest_s(state) if style.synchronous else LEASE_S,
            conversation=style.synchronous,
        )
        metrics.ORDERS.labels("orders", style.name, transport, Verdict.ACCEPTED.value).inc()
        for parcel in parcels:
            self._dispatch(parcel)
        return accepted

    def _opening(self, state: OrderState, style: Style, transport: str, carrier: Mapping[str, str]) -> list[Parcel]:
        parcels = []
        for outgoing in style.opening(state) if style.opening else []:
            message = cloudevents.compose(
                outgoing.payload,
                source="orders",
                cause=state.order.order_id,
                style=style.name,
                transport=transport,
            )
            headers, body = cloudevents.encode(message, self._written)
            now_ns = time.time_ns()
            parcels.append(Parcel(message.subject, transport, outgoing.channel, headers, body, carrier, now_ns))
        return parcels

    async def converse(self, accepted: StoredOrder, style: Style) -> StoredOrder:
        """Carry a synchronous conversation to its end. When it breaks off (a ``TransportError``, raised on), the
        order is left to recovery."""
        assert style.converse is not None
        order_id = accepted.state.order.order_id
        timeout_s = self._live["rpc.timeout_s"]
        try:
            await style.converse(accepted.state, self._rpcs[accepted.transport], self, timeout_s)
        except TransportError:
            await self.store.lease(order_id, 0)
            self._recover_now.set()
            raise
        ended = await self.store.get(order_id)
        assert ended is not None
        return ended

    def _longest_s(self, state: OrderState) -> float:
        """How long a conversation may take that asks for every step and takes each back."""
        longest_s: float = self._live["rpc.timeout_s"] * 2 * len(state.slots)
        return max(longest_s, LEASE_S)

    # --- hearing -----------------------------------------------------------------------------------------------------
    async def record(self, order_id: str, event: Event, *, cause: str | None = None) -> OrderState:
        """Fold ``event`` into the order, durably, and tell those who wait for its end."""
        stored, ended = await self.store.record(order_id, event, cause=cause, reason="taken back by recovery")
        if ended:
            self._has_ended(stored)
        return stored.state

    def _has_ended(self, stored: StoredOrder) -> None:
        span = get_current_span()
        span.set_attribute(c.LAB_ORDER_STATE, stored.verdict.value)
        assert stored.completed_at_ns is not None
        flow = ("orders", stored.style, stored.transport)
        metrics.ORDERS.labels(*flow, stored.verdict.value).inc()
        metrics.ORDER_COMPLETE_DURATION.labels(*flow, stored.verdict.value).observe(
            (stored.completed_at_ns - stored.accepted_at_ns) / 1e9, metrics.exemplar(span)
        )
        order_id = stored.state.order.order_id
        if order_id in self._waiting:
            self._ended[order_id].set()

    async def wait(self, order_id: str, wait_s: float) -> StoredOrder | None:
        """The order, once it has ended or ``wait_s`` have passed; None if there is no such order."""
        deadline = time.monotonic() + wait_s
        self._waiting[order_id] += 1
        try:
            while True:
                stored = await self.store.get(order_id)
                left_s = deadline - time.monotonic()
                if stored is None or stored.ended or left_s <= 0 or self._stopping:
                    return stored
                # another replica may be the one that hears of the end: look again now and then
                try:
                    async with asyncio.timeout(min(left_s, LOOK_EVERY_S * 2)):
                        await self._ended[order_id].wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting[order_id] -= 1
            if not self._waiting[order_id]:
                del self._waiting[order_id]
                self._ended.pop(order_id, None)

    def stop_waiting(self) -> None:
        """Answer those who wait now: the process is about to stop."""
        self._stopping = True
        for event in self._ended.values():
            event.set()

    # --- outbox ------------------------------------------------------------------------------------------------------
    def _dispatch(self, parcel: Parcel) -> None:
        task = asyncio.create_task(self._send(parcel))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, parcel: Parcel) -> None:
        context = PROPAGATOR.extract(parcel.carrier, Context())
        style = parcel.headers["ce-labstyle"]
        with self._telemetry.messaging.outbox(context, parcel.order_id, style, parcel.broker, parcel.written_at_ns):
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
        """Return when nothing is being sent."""
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
        order_id = stored.state.order.order_id
        before = PROPAGATOR.extract(stored.carrier, Context())
        # a trace of its own, as the one before may be long over; the baggage says whose order it is
        token = attach(set_span_in_context(INVALID_SPAN, before))
        try:
            with self._telemetry.tracer.start_as_current_span(
                "recover order",
                attributes={c.LAB_ORDER_ID: order_id, c.LAB_RECOVERY: True},
                links=_link_to(get_current_span(before)),
                record_exception=False,
            ) as span:
                try:
                    await self._take_back(stored)
                except TransportError as error:
                    fail(span, error)
                    log.info("recovery_waits", order_id=order_id, error=str(error))
                    await self.store.lease(order_id, random.uniform(0.5, 1.5))
        finally:
            detach(token)

    async def _take_back(self, stored: StoredOrder) -> None:
        rpc = self._rpcs.get(stored.transport)
        if rpc is None:
            raise Unavailable(f"{stored.transport} does not run here any more")
        state = stored.state
        while command := recovery_command(state):
            event = await rpc.call(STEP_OF[type(command)].service, command, timeout_s=self._live["rpc.timeout_s"])
            state = await self.record(state.order.order_id, event)
        metrics.RECOVERED.labels("orders", stored.style, stored.transport, state.verdict.value).inc()


def _link_to(span: Span) -> Sequence[Link]:
    context = span.get_span_context()
    return [Link(context)] if context.is_valid else []
