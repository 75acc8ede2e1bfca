"""Locust's users: they order at the front door, over HTTP, and watch each order to its end.

Two names are reported per flow: ``accept``, the first answer, and ``complete``, the order's end. The end is
watched by a long poll in the order's own greenlet and over connections of its own, so that it disturbs
neither the pacing nor the accepts.

An open profile is one user that keeps the clock and sends each order in a greenlet of its own; a closed one
is N users that wait for their order's end. ``lab.load`` starts this file, one process per flow, and reads
what it writes to stdout: a JSON object per line (``{"order": …}``, ``{"progress": …}``, ``{"end": …}``). Run
by hand it needs the same plan in ``LAB_LOAD_PLAN``.
"""

import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, urlencode

import gevent  # type: ignore[import-untyped]
from gevent.lock import Semaphore  # type: ignore[import-untyped]
from gevent.pool import Group  # type: ignore[import-untyped]
from locust import FastHttpUser, events, task
from locust.contrib.fasthttp import FastHttpSession, FastResponse
from locust.event import EventHook
from locust.exception import StopUser

from load.orders import Order, OrderBook
from load.plan import PLAN_VARIABLE, Flow, Plan
from load.records import TERMINAL_STATES, OrderRecord
from load.shapes import instants_s

PLAN = Plan.loads(os.environ[PLAN_VARIABLE])
BOOK = OrderBook(PLAN.seed, PLAN.catalog, PLAN.refused_share)
PROFILE = PLAN.profile

LOOK_S = 20
"""How long one long poll waits at the front door."""
PROGRESS_EVERY_S = 0.5
CONNECTIONS = 4000
"""More than will be needed, since an order that waits for a connection would be measured wrongly."""


def report(kind: str, content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({kind: content}) + "\n")
    sys.stdout.flush()


class Tally:
    """One flow's orders as they go. Locust may start a flow again from its web page: then it is a new
    tally."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.in_flight: dict[int, OrderRecord] = {}
        self.indices = itertools.count()
        self.counts = Counter[str]()
        self.poll_errors = Counter[str]()
        self.warmup_failed = 0
        self.warm = False
        self.warming = Semaphore()
        self.start = 0.0
        self.users = 0

    def sent(self, record: OrderRecord) -> None:
        self.in_flight[record.index] = record
        self.counts["sent"] += 1

    def done(self, record: OrderRecord) -> None:
        if self.in_flight.pop(record.index, None) is not None:
            self.counts[record.outcome] += 1
            report("order", {**asdict(self.flow), **asdict(record)})

    def progress(self) -> None:
        report("progress", {**asdict(self.flow), **self.counts, "in_flight": len(self.in_flight)})

    def end(self) -> None:
        """Whatever has not ended is reported as it stands: lost or interrupted."""
        for record in list(self.in_flight.values()):
            self.done(record)
        figures = {"warmup_failed": self.warmup_failed, "poll_errors": dict(self.poll_errors)}
        report("end", {**asdict(self.flow), **figures})


class Customer(FastHttpUser):  # type: ignore[misc]
    """Orders over one flow. Never dies of an error: each becomes a record and a count."""

    abstract = True
    host = PLAN.front_door
    flow: Flow
    tally: Tally

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        # our own names are fired instead of the sessions' one event per request
        self.client = _session(PROFILE.timeout_s)
        self.watcher = _session(LOOK_S + 10.0)
        self.greenlets = Group()

    def on_start(self) -> None:
        tally = self.tally
        tally.users += 1
        with tally.warming:
            if not tally.warm:
                for index in range(PROFILE.warmup_orders):
                    # counted down from -1, so that the measured orders are the same with and without
                    record = self.place(BOOK.order(-1 - index), f"{PLAN.run_id}-warmup")
                    self.watch(record, time.perf_counter(), time.perf_counter() + PROFILE.timeout_s)
                    tally.warmup_failed += record.outcome not in TERMINAL_STATES
                tally.warm = True
                tally.start = time.perf_counter()

    @task  # type: ignore[untyped-decorator]
    def shop(self) -> None:
        if PROFILE.workload == "open":
            self.by_the_clock()
        else:
            self.one_after_the_other()
        raise StopUser

    def on_stop(self) -> None:
        self.greenlets.kill(block=False)
        self.tally.users -= 1
        if self.tally.users == 0:
            self.tally.end()
            if self.environment.parsed_options.headless:
                # not from within a user's greenlet, which quitting would wait for
                gevent.spawn_later(0, self.environment.runner.quit)

    def by_the_clock(self) -> None:
        start = self.tally.start = time.perf_counter()
        deadline = start + PROFILE.duration_s + PROFILE.drain_s
        for due_s in instants_s(PROFILE.stages):
            gevent.sleep(max(0.0, start + due_s - time.perf_counter()))
            self.greenlets.spawn(self.order, next(self.tally.indices), due_s, deadline)
        self.greenlets.join(timeout=max(0.0, deadline - time.perf_counter()) + PROFILE.timeout_s)

    def one_after_the_other(self) -> None:
        while (due_s := time.perf_counter() - self.tally.start) < PROFILE.closed_s:
            self.order(next(self.tally.indices), due_s, None)
            gevent.sleep(PROFILE.think_s)

    def order(self, index: int, due_s: float, deadline: float | None) -> None:
        """From the POST to the order's end. ``deadline`` (on perf_counter) is the drain's; None counts from
        now."""
        sent = time.perf_counter()
        order = BOOK.order(index)
        record = OrderRecord(index, order.kind, due_s=due_s, late_ms=(sent - self.tally.start - due_s) * 1000)
        self.tally.sent(record)
        try:
            self.place(order, PLAN.run_id, record)
            self.fire("accept", record.accept_ms, record.error)
            if record.accepted:
                self.watch(record, sent, deadline or sent + PROFILE.drain_s)
                self.fire("complete", record.complete_ms, record.error)
        except Exception as error:
            record.outcome, record.error = "failed", f"load: {type(error).__name__}: {error}"
        self.tally.done(record)

    def place(self, order: Order, run_id: str, record: OrderRecord | None = None) -> OrderRecord:
        """The POST and its answer."""
        record = record or OrderRecord(order.index, order.kind)
        query = urlencode({"style": self.flow.style, "transport": self.flow.transport}, safe=",")
        sent = time.perf_counter()
        answer = self.client.post(f"/orders?{query}", json=order.body, headers={"baggage": f"lab.run_id={run_id}"})
        record.accept_ms = (time.perf_counter() - sent) * 1000
        record.status_code = answer.status_code
        stored = _json(answer)
        if answer.status_code not in (200, 201, 202):
            record.outcome, record.error = "failed", _complaint(answer, stored)
        elif not isinstance(stored.get("id"), str):
            record.outcome, record.error = "failed", f"HTTP {answer.status_code} without an order id"
        else:
            record.order_id = stored["id"]
            _note_end(record, stored, record.accept_ms)
        return record

    def watch(self, record: OrderRecord, sent: float, deadline: float) -> None:
        """Looks until the accepted order has ended, or calls it lost at the ``deadline``."""
        while record.order_id is not None and record.outcome not in TERMINAL_STATES:
            left_s = deadline - time.perf_counter()
            if left_s <= 0:
                record.outcome, record.error = "lost", "lost: accepted, and no end before the drain timeout"
                return
            path = f"/orders/{quote(record.order_id)}?wait_s={min(LOOK_S, max(1, round(left_s)))}"
            answer = self.watcher.get(path, headers={"traceparent": _unsampled()})
            looked = time.perf_counter()
            if answer.status_code == 200:
                _note_end(record, _json(answer), (looked - sent) * 1000)
            else:
                self.tally.poll_errors[_complaint(answer, _json(answer))] += 1
                gevent.sleep(0.25)

    def fire(self, name: str, took_ms: float | None, error: str | None) -> None:
        """Tells Locust's own statistics and web page."""
        self.environment.events.request.fire(
            request_type=str(self.flow),
            name=name,
            response_time=took_ms or 0.0,
            response_length=0,
            exception=RuntimeError(error) if error else None,
            context={},
        )


def _session(network_timeout_s: float) -> FastHttpSession:
    return FastHttpSession(
        base_url=PLAN.front_door,
        request_event=EventHook(),
        user=None,
        concurrency=CONNECTIONS,
        network_timeout=network_timeout_s,
        connection_timeout=5.0,
        max_retries=0,
    )


def _unsampled() -> str:
    """A parent that is not sampled: looking at an order leaves no spans, so it is not measured with it."""
    return f"00-{random.getrandbits(128) | 1:032x}-{random.getrandbits(64) | 1:016x}-00"


def _note_end(record: OrderRecord, stored: dict[str, Any], took_ms: float | None) -> None:
    if stored.get("state") in TERMINAL_STATES:
        record.outcome, record.reason, record.complete_ms = stored["state"], stored.get("reason"), took_ms


def _json(answer: FastResponse) -> dict[str, Any]:
    try:
        parsed = json.loads(answer.text or "")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _complaint(answer: FastResponse, problem: dict[str, Any]) -> str:
    """A short type of error, so that many of one kind count as one."""
    if answer.status_code == 0:
        return type(getattr(answer, "error", None)).__name__
    return " ".join(filter(None, (f"HTTP {answer.status_code}", str(problem.get("title") or ""))))


# One class per flow: Locust's web page lists them by name.
_CLASSES = {
    flow.slug: type(flow.slug, (Customer,), {"abstract": False, "flow": flow, "tally": Tally(flow)})
    for flow in PLAN.flows
}
globals().update(_CLASSES)


def _tallies() -> list[Tally]:
    return [user.tally for user in _CLASSES.values()]  # type: ignore[attr-defined]


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _begin(**_: Any) -> None:
    for user in _CLASSES.values():
        user.tally = Tally(user.flow)  # type: ignore[attr-defined]


@events.init.add_listener  # type: ignore[untyped-decorator]
def _show_progress(**_: Any) -> None:
    def loop() -> None:
        while True:
            gevent.sleep(PROGRESS_EVERY_S)
            try:
                for tally in _tallies():
                    tally.progress()
            except BrokenPipeError:
                os._exit(1)  # whoever listened is gone, and the load with it

    gevent.spawn(loop)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _say_what_was_in_flight(**_: Any) -> None:
    for tally in _tallies():
        if tally.in_flight:
            tally.end()
