"""What an order really waited for, from accept to complete: through parents, links and queues.

The walk goes backwards. Inside a span, the time since its last blocking child ended is its own; then the child is
walked; at a span's start the walk goes on to its cause: a consumer's is the wait in the queue, the wait's is the send
(a redelivery's: the attempt before), anything else's is its parent, or its link's target. Where no span accounts for
the time it is called unexplained. The segments adjoin, so they add up to the whole exactly, whatever the clocks did.

Kinds of time: ``work`` (SERVER, CONSUMER, INTERNAL spans), ``wire`` (CLIENT and PRODUCER spans: the part of a call or
a send that the other side's spans do not account for), ``waiting`` (``queue`` and ``outbox``), ``unexplained``.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from lab.spans import schema
from lab.spans.graph import CLIENT, CONSUMER, PRODUCER, SERVER, CausalGraph, Node
from services.telemetry.conventions import Operation

_REPLY_SEARCH = 500
"""How many spans below a request are looked at for the one that brought its reply."""


class Kind(StrEnum):
    """What a part of the time was spent on."""

    WORK = "work"
    WIRE = "wire"
    WAITING = "waiting"
    UNEXPLAINED = "unexplained"


class Segment(NamedTuple):
    """A part of the path, in ns since 1970-01-01 UTC. For unexplained time, ``span`` is the last one before it."""

    kind: Kind
    span: Node
    start: int
    end: int


def accept_span(spans: Iterable[Node]) -> Node | None:
    """The front door's span of the order; of several (a repeated request) the first."""
    return min((span for span in spans if span.flags & schema.FRONT_DOOR), key=lambda span: span.start, default=None)


def final_span(spans: Iterable[Node]) -> Node | None:
    """The span within which the order reached its end; of several the first."""
    ends = schema.COMPLETED | schema.REJECTED
    return min((span for span in spans if span.flags & ends), key=lambda span: span.end, default=None)


def critical_path(graph: CausalGraph, first: Node, last: Node) -> list[Segment]:
    """Segments from the start of ``first`` to the end of ``last``, in time order; empty if that is no time at all."""
    return _Walk(graph, first, last).run()


class _Walk:
    def __init__(self, graph: CausalGraph, first: Node, last: Node) -> None:
        self._graph = graph
        self._begin = first.start
        self._now = last.end
        self._last = last
        self._entered = {last.key}
        self._segments: list[Segment] = []

    def run(self) -> list[Segment]:
        span = self._last
        came_from: Node | None = None
        been: set[tuple[object, int]] = set()
        while self._now > self._begin:
            child = self._last_blocking(span)
            covered_until = span.end if child is None else max(span.end, child.end)
            self._emit(Kind.UNEXPLAINED, span, covered_until)
            if child is not None:
                self._emit(_own_kind(span), span, child.end)
                self._entered.add(child.key)
                span, came_from = child, None
                continue
            self._emit(_own_kind(span), span, span.start)
            cause = self._cause(span, came_from)
            if cause is None or (cause.key, self._now) in been:
                self._emit(Kind.UNEXPLAINED, span, self._begin)
                break
            been.add((cause.key, self._now))
            span, came_from = cause, span
        self._segments.reverse()
        return self._segments

    def _emit(self, kind: Kind, span: Node, until: int) -> None:
        """Account for the time from ``until`` to now; what came before now (a skewed clock) accounts for nothing."""
        until = max(until, self._begin)
        if until >= self._now:
            return
        before = self._segments[-1] if self._segments else None
        if before is not None and before.kind == kind and before.span is span:
            self._segments[-1] = Segment(kind, span, until, before.end)
        else:
            self._segments.append(Segment(kind, span, until, self._now))
        self._now = until

    def _last_blocking(self, span: Node) -> Node | None:
        """The child, not walked yet, that ended last before now; what runs on beside its parent does not block it."""
        best: Node | None = None
        best_end = span.start
        sends = False
        for child in self._graph.children.get(span.key, ()):
            kind = child.type.kind
            sends = sends or kind == PRODUCER
            if kind == CONSUMER or child.type.wait == Operation.QUEUE or child.key in self._entered:
                continue
            end = child.end
            if end > self._now:
                # the server's clock may be ahead of its client's, and a client may stop waiting before the
                # server ends
                if not (span.type.kind == CLIENT and kind == SERVER and child.start < self._now):
                    continue
                end = self._now
            if end > best_end:
                best, best_end = child, end
        if sends and span.type.kind == CLIENT:
            reply = self._reply(span)
            if reply is not None and min(reply.end, self._now) > best_end:
                return reply
        return best

    def _reply(self, request: Node) -> Node | None:
        """For a request over queues: the span, in the requester's service, that took the reply while it waited."""
        best: Node | None = None
        seen = {request.key}
        below = [request]
        while below and len(seen) < _REPLY_SEARCH:
            for effect in self._graph.effects(below.pop()):
                if effect.key in seen:
                    continue
                seen.add(effect.key)
                below.append(effect)
                if (
                    effect.type.kind == CONSUMER
                    and effect.type.service == request.type.service
                    and effect.key not in self._entered
                    and request.start < effect.start < self._now
                    and (best is None or effect.start > best.start)
                ):
                    best = effect
        return best

    def _cause(self, span: Node, came_from: Node | None) -> Node | None:
        if span.type.wait == Operation.QUEUE:
            return self._cause_of_wait(span, came_from)
        if span.type.kind == CONSUMER:
            wait = self._graph.wait_before(span)
            if wait is not None and wait.key not in self._entered:
                self._entered.add(wait.key)
                return wait
            return self._graph.creation(span)
        parent = self._graph.parent(span)
        if parent is not None:
            return parent
        return max(
            (target for target in self._graph.link_targets(span) if target.start <= self._now),
            key=lambda target: target.start,
            default=None,
        )

    def _cause_of_wait(self, wait: Node, consumer: Node | None) -> Node | None:
        creation = self._graph.creation(wait)
        if (creation is None or creation.type.kind != PRODUCER) and consumer is not None:
            creation = self._graph.creation(consumer) or creation
        if creation is None or consumer is None:
            return creation
        attempts = [
            attempt
            for attempt in self._graph.effects(creation)
            if attempt.type.kind == CONSUMER
            and attempt.type.service == consumer.type.service
            and attempt.key not in self._entered
            and attempt.start < wait.start
        ]
        if not attempts:
            return creation
        before = max(attempts, key=lambda attempt: attempt.start)
        self._entered.add(before.key)
        return before


def _own_kind(span: Node) -> Kind:
    if span.type.wait:
        return Kind.WAITING
    return Kind.WIRE if span.type.kind in (CLIENT, PRODUCER) else Kind.WORK
