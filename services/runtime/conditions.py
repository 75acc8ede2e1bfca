"""Under which conditions a service works: where the knobs of services/runtime/faults.py act on what is handled.

The consumer, the worker and orders ask here before and after each handling; what becomes of messages on their way out
is decided in services/runtime/leaving.py. Whether any knob is set at all is looked at first, so that nothing costs
anything as long as none is.

What goes wrong looks as if it had gone wrong by itself. Errors are handed back to be raised by whoever asked, so that
no traceback leads here.
"""

import asyncio
import os
import random
import signal
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from opentelemetry import baggage

from services.domain.messages import Command, Event, QuoteDeclined, QuoteRequested, type_name
from services.domain.order import STEP_OF
from services.runtime.faults import PARTICIPANTS
from services.runtime.live import Live
from services.telemetry import conventions as c
from services.transports.ports import Delivery, Message

REMEMBERED = 10_000

_REASONS = {
    "stock": "{lines} cannot be counted",
    "payment": "the bank did not agree",
    "shipment": "there is no room left for {ship_to}",
    "notification": "customer {customer} takes no messages",
}
"""What a participant says that refuses, by its step."""

_STYLE: ContextVar[str] = ContextVar("style", default="")
"""Whose conversation the message in hand belongs to. Each is handled in a context of its own, so nobody resets it."""


def die() -> None:
    """End this process at once: nothing is drained, settled or flushed. Tests put something gentler in its place."""
    os.kill(os.getpid(), signal.SIGKILL)


def style_in_hand() -> str:
    """Of the message in hand, or of the call by its baggage; empty where neither says."""
    return _STYLE.get() or str(baggage.get_baggage(c.LAB_STYLE) or "")


class Conditions:
    """Those of one service. What is called ``what`` is an id, of a message, a call or an order."""

    def __init__(self, service: str, live: Live) -> None:
        self.service = service
        self.live = live
        self._times: dict[tuple[str, str], int] = {}

    def value(self, knob: str, style: str) -> Any:
        return self.live.fault(self.service, knob, style)

    # --- around a handling -----------------------------------------------------------------------------------------
    async def before(self, message: Message) -> Exception | None:
        """To be called before a message is handled; gives the error that this is to fail with."""
        if not self.live.faults:
            return None
        _STYLE.set(message.style)
        return await self.begin(message.style, message.id)

    async def before_call(self, command: Command) -> Exception | None:
        """The same, of a call."""
        if not self.live.faults:
            return None
        return await self.begin(style_in_hand(), f"{type_name(type(command))}/{command.order.order_id}")

    async def before_order(self, style: str, order_id: str) -> Exception | None:
        """The same, of an order at the front door. Nobody dies of one: its client alone would know."""
        return await self._late_or_failing(style, order_id) if self.live.faults else None

    async def begin(self, style: str, what: str) -> Exception | None:
        """The same, of anything that is handled; ``what`` is its id."""
        if error := await self._late_or_failing(style, what):
            return error
        self._crash("crash_before_effect_rate", style)
        return None

    async def _late_or_failing(self, style: str, what: str) -> Exception | None:
        if delay_ms := self.value("delay_ms", style):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._off("delay_ms", style), delay_ms / 1000)
        if self.hits("error_rate", style, what):
            return RuntimeError("no connection in the pool was free in time")
        return None

    def stored(self) -> None:
        """To be called when a handling's effect is stored, and nothing said of it yet."""
        if self.live.faults:
            self._crash("crash_after_effect_rate", style_in_hand())

    def handled(self) -> None:
        """To be called when a message is handled and not yet acknowledged. A participant's effect was stored before
        that: it has said so."""
        if self.live.faults and self.service not in PARTICIPANTS:
            self._crash("crash_after_effect_rate", style_in_hand())

    def acknowledged(self) -> None:
        """To be called when a message is acknowledged."""
        if self.live.faults:
            self._crash("crash_after_ack_rate", style_in_hand())

    async def free(self, delivery: Delivery) -> None:
        """To be called before a delivery is taken in hand; returns when it may be."""
        style = delivery.headers.get("ce-labstyle", "")
        await self._off("pause", style)
        if slow_ms := self.value("slow_consumer_ms", style):
            await asyncio.sleep(slow_ms / 1000)

    async def _off(self, knob: str, style: str) -> None:
        """Return when a knob is off: who waits for it is free as soon as it is cleared."""
        while self.value(knob, style):
            await self.live.news()

    # --- instead of a decision -------------------------------------------------------------------------------------
    def refuses(self, style: str, order_id: str) -> bool:
        """Whether this order is to be refused; the same whenever it is asked."""
        rate: float = self.value("refuse_rate", style)
        return bool(rate) and self._chance("refuse_rate", order_id).random() < rate

    def refusal(self, command: Command) -> Event | None:
        """The refusal of a command that is to be refused. Nothing that takes something back ever is."""
        step = STEP_OF[type(command)]
        if not self.live.faults or type(command) is not step.do:
            return None
        order = command.order
        if not self.refuses(style_in_hand(), order.order_id):
            return None
        lines = ", ".join(line.sku for line in order.lines)
        reason = _REASONS[step.name].format(lines=lines, ship_to=order.ship_to, customer=order.customer)
        return step.refused(order, reason)

    def declined(self, request: QuoteRequested) -> Event | None:
        """A carrier's no to an order that is to be refused."""
        if not self.live.faults or not self.refuses(style_in_hand(), request.order.order_id):
            return None
        carrier = self.service.partition("-")[2]
        return QuoteDeclined(request.order, f"{carrier} has no van left", carrier)

    # --- chance ----------------------------------------------------------------------------------------------------
    def hits(self, knob: str, style: str, what: str) -> bool:
        """Whether a share meets ``what`` this time: it may meet it the first time and not the second."""
        rate: float = self.value(knob, style)
        return bool(rate) and self._chance(knob, f"{what}/{self._time(knob, what)}").random() < rate

    def wait_ms(self, knob: str, style: str, what: str) -> float:
        """Some time up to the knob's."""
        most_ms: float = self.value(knob, style)
        return most_ms and self._chance(knob, f"{what}/{self._time(knob, what)}").uniform(0, most_ms)

    def _chance(self, knob: str, what: str) -> random.Random:
        return random.Random(f"{self.live['faults.seed']}/{self.service}/{knob}/{what}")

    def _time(self, knob: str, what: str) -> int:
        """Which time it is that this process decides this."""
        key = (knob, what)
        time = self._times.pop(key, 0) + 1
        self._times[key] = time
        if len(self._times) > REMEMBERED:
            del self._times[next(iter(self._times))]
        return time

    def _crash(self, knob: str, style: str) -> None:
        rate: float = self.value(knob, style)
        if rate and random.random() < rate:
            die()
