"""Spans as a graph of causes: parents within a trace, links across traces; in memory, no I/O.

Two definitions of the store live here, and every question uses them:

**Which spans belong to an order.** Those that carry its ``lab.order.id``; the rest of their traces (of a trace that
several orders share, only what hangs between this order's spans); and what links join to these, in both directions. A
span that stands for a batch (no order of its own, more than one link) belongs to every order that it links, but leads
no further: else one Kafka poll would join all orders that it carried.

**What an orphan is.** A span that should have a cause of which nothing is in the store: its parent never came; or it
has no parent and none of its links' targets came; or it consumes a message (CONSUMER) and names no cause at all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.telemetry.conventions import Operation

INTERNAL = Span.SPAN_KIND_INTERNAL
SERVER = Span.SPAN_KIND_SERVER
CLIENT = Span.SPAN_KIND_CLIENT
PRODUCER = Span.SPAN_KIND_PRODUCER
CONSUMER = Span.SPAN_KIND_CONSUMER

Key = tuple[int, bytes]
"""Trace number and span id."""


@dataclass(slots=True, frozen=True)
class SpanType:
    """What all spans of one place in the code share. ``kind`` is OTLP's number, ``wait`` is ``lab.wait`` or ''."""

    service: str
    name: str
    kind: int
    operation: str
    destination: str
    system: str
    wait: str


@dataclass(slots=True, eq=False)
class Node:
    """A span without its attributes. Times are ns since 1970-01-01 UTC, ``flags`` are those of ``schema``."""

    row: int
    key: Key
    parent: Key | None
    type: SpanType
    start: int
    end: int
    order: int | None
    flow: int | None
    flags: int
    links: list[Key] = field(default_factory=list)

    @property
    def is_batch(self) -> bool:
        """Whether it stands for several messages and no order of its own."""
        return self.order is None and len(self.links) > 1


class Fault(StrEnum):
    """Why a span is an orphan."""

    PARENT_MISSING = "parent_missing"
    LINK_TARGET_MISSING = "link_target_missing"
    NO_CAUSE = "no_cause"


class CausalGraph:
    """Nodes with their effects indexed. What is neither here nor ``elsewhere`` counts as never come."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes: dict[Key, Node] = {node.key: node for node in nodes}
        self.elsewhere: set[Key] = set()
        """Spans that are in the store though not in this graph; whoever cuts a graph out says so here."""
        self.children: dict[Key, list[Node]] = defaultdict(list)
        self.linked_from: dict[Key, list[Node]] = defaultdict(list)
        self.by_trace: dict[int, list[Node]] = defaultdict(list)
        self.by_order: dict[int, list[Node]] = defaultdict(list)
        self._orders_of_trace: dict[int, set[int]] = defaultdict(set)
        for node in self.nodes.values():
            trace_no = node.key[0]
            self.by_trace[trace_no].append(node)
            if node.parent is not None:
                self.children[node.parent].append(node)
            for target in node.links:
                self.linked_from[target].append(node)
            if node.order is not None:
                self.by_order[node.order].append(node)
                self._orders_of_trace[trace_no].add(node.order)

    def parent(self, node: Node) -> Node | None:
        """The parent, when it came."""
        return None if node.parent is None else self.nodes.get(node.parent)

    def link_targets(self, node: Node) -> list[Node]:
        """The targets of its links that came."""
        return [self.nodes[key] for key in node.links if key in self.nodes]

    def causes(self, node: Node) -> list[Node]:
        """Parent and link targets, each once."""
        parent = self.parent(node)
        found = [] if parent is None else [parent]
        return found + [target for target in self.link_targets(node) if target is not parent]

    def effects(self, node: Node) -> list[Node]:
        """Children and spans that link to it, each once."""
        children = self.children.get(node.key, [])
        return children + [linker for linker in self.linked_from.get(node.key, ()) if linker.parent != node.key]

    def creation(self, span: Node) -> Node | None:
        """The context that a consumer's or a wait's message was created in: a PRODUCER before any other cause."""
        causes = [cause for cause in self.causes(span) if cause.type.wait != Operation.QUEUE]
        return next((cause for cause in causes if cause.type.kind == PRODUCER), causes[0] if causes else None)

    def wait_before(self, consumer: Node) -> Node | None:
        """The queue span of a delivery: of the same message and service, in the consumer's trace, nearest in time."""
        mine = set(consumer.links)
        waits = [
            wait
            for wait in self.by_trace.get(consumer.key[0], ())
            if wait.type.wait == Operation.QUEUE
            and wait.type.service == consumer.type.service
            and (
                wait.parent == consumer.key
                or (wait.parent is not None and wait.parent == consumer.parent)
                or consumer.parent == wait.key
                or wait.parent in mine
                or not mine.isdisjoint(wait.links)
                or (wait.parent is None and not wait.links)
            )
        ]
        return min(waits, key=lambda wait: abs(wait.end - consumer.start), default=None)

    def ancestors(self, node: Node) -> Iterator[Node]:
        """From the parent to the root; ends where a parent never came, and at a loop."""
        seen = {node.key}
        current = self.parent(node)
        while current is not None and current.key not in seen:
            seen.add(current.key)
            yield current
            current = self.parent(current)

    def came(self, key: Key) -> bool:
        """Whether the span is in the store."""
        return key in self.nodes or key in self.elsewhere

    def fault(self, node: Node) -> Fault | None:
        """Why the span is an orphan; None for one that is not."""
        if node.parent is not None:
            return None if self.came(node.parent) else Fault.PARENT_MISSING
        if node.links:
            return None if any(self.came(key) for key in node.links) else Fault.LINK_TARGET_MISSING
        return Fault.NO_CAUSE if node.type.kind == CONSUMER else None

    def owner(self, node: Node) -> int | None:
        """The order of the span itself, else of its nearest ancestor that has one, else of a trace with one order."""
        if node.order is not None:
            return node.order
        orders = self._orders_of_trace.get(node.key[0], ())
        if len(orders) == 1:
            return next(iter(orders))
        if orders:
            return next((above.order for above in self.ancestors(node) if above.order is not None), None)
        return None

    def join(self, order: int) -> list[Node]:
        """All spans of an order over all its traces, by start time."""
        members: dict[Key, Node] = {}
        for trace_no in {node.key[0] for node in self.by_order.get(order, ())}:
            if len(self._orders_of_trace[trace_no]) == 1:
                members.update((node.key, node) for node in self.by_trace[trace_no])
            else:
                for node in self.by_trace[trace_no]:
                    if self.owner(node) == order:
                        self._take(node, order, members)
        frontier = list(members.values())
        while frontier:
            node = frontier.pop()
            if node.is_batch:
                continue
            near = [key for key in node.links if key not in members]
            near += [linker.key for linker in self.linked_from.get(node.key, ()) if linker.key not in members]
            for key in near:
                other = self.nodes.get(key)
                if other is not None and key not in members and self.owner(other) in (None, order):
                    frontier.extend(self._take(other, order, members))
        return sorted(members.values(), key=lambda node: (node.start, node.key))

    def _take(self, node: Node, order: int, members: dict[Key, Node]) -> list[Node]:
        """Add a span with its way to the root, and what below it is of no other order; returns what was new."""
        new: list[Node] = []
        below = [node]
        while below:
            current = below.pop()
            if current.key not in members:
                members[current.key] = current
                new.append(current)
                below += [child for child in self.children.get(current.key, ()) if child.order in (None, order)]
        for above in self.ancestors(node):
            if above.key not in members and above.order in (None, order):
                members[above.key] = above
                new.append(above)
        return new

    def loose_ends(self, order: int) -> set[Key]:
        """Link targets of the order's spans that are not in this graph, as far as the join would follow them."""
        return {key for node in self.join(order) if not node.is_batch for key in node.links if key not in self.nodes}
