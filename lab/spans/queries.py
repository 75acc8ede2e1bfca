"""The questions about orders, traces, messages and single spans. Reads only; each call sees one committed state."""

import contextlib
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as OtlpStatus

from lab.spans import answers, forward, otlp, schema
from lab.spans.critical_path import Kind, accept_span, critical_path, final_span
from lab.spans.graph import CausalGraph, Key, Node, SpanType
from services.telemetry import conventions as names

MAX_SPANS = 5_000
"""Most spans of one answer, and of one trace that is looked at for it."""
_ROUNDS = 6
"""How often the search for an order's traces follows links further."""
_TYPES_KEPT = 20_000

_COLUMNS = "row_no, trace_no, span_id, parent_id, type_no, start_ns, end_ns, order_no, flow_no, flags"
_KINDS: dict[int, answers.SpanKind] = {
    OtlpSpan.SPAN_KIND_INTERNAL: "INTERNAL",
    OtlpSpan.SPAN_KIND_SERVER: "SERVER",
    OtlpSpan.SPAN_KIND_CLIENT: "CLIENT",
    OtlpSpan.SPAN_KIND_PRODUCER: "PRODUCER",
    OtlpSpan.SPAN_KIND_CONSUMER: "CONSUMER",
}
_STATUSES: dict[int, answers.SpanStatus] = {
    OtlpStatus.STATUS_CODE_OK: "OK",
    OtlpStatus.STATUS_CODE_ERROR: "ERROR",
}


class NotFoundError(Exception):
    """The store has nothing under that name; the message says what was asked for."""


class View:
    """One committed state of the store, and how its rows become nodes and answers. For one thread, and not for long."""

    def __init__(self, connection: sqlite3.Connection, types: dict[int, SpanType]) -> None:
        self.connection = connection
        self._types = types

    def one(self, statement: str, *values: Any) -> Any:
        """The first column of the first row, None without rows."""
        row = self.connection.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def trace_no(self, trace_id: str) -> int:
        """Raises NotFoundError for an id that is no hex of 16 bytes, or that no span has."""
        with contextlib.suppress(ValueError):
            number = self.one("SELECT trace_no FROM traces WHERE trace_id = ?", bytes.fromhex(trace_id))
            if number is not None and self.one("SELECT 1 FROM spans WHERE trace_no = ? LIMIT 1", number):
                return int(number)
        raise NotFoundError(f"no span of trace {trace_id!r} has come")

    def trace_ids(self, numbers: Iterable[int]) -> dict[int, str]:
        """Hex ids of traces by their numbers."""
        found: dict[int, str] = {}
        for part in _parts(list(numbers)):
            rows = self.connection.execute(
                f"SELECT trace_no, trace_id FROM traces WHERE trace_no IN ({_marks(part)})",  # noqa: S608
                part,
            )
            found.update((number, trace_id.hex()) for number, trace_id in rows)
        return found

    def order_ids(self, numbers: Iterable[int]) -> dict[int, str]:
        """Ids of orders by their numbers."""
        found: dict[int, str] = {}
        for part in _parts(list(numbers)):
            found.update(
                self.connection.execute(
                    f"SELECT order_no, order_id FROM orders WHERE order_no IN ({_marks(part)})",  # noqa: S608
                    part,
                )
            )
        return found

    def nodes(self, traces: Collection[int], *, limit: int | None = None) -> tuple[list[Node], bool]:
        """All spans of the traces with their links; ``limit`` is per trace, and the flag says whether it cut."""
        found: list[Node] = []
        cut = False
        # with a limit one trace at a time, else many: a run has thousands of traces
        for part in _parts(list(traces), 500 if limit is None else 1):
            rows = self.connection.execute(
                f"SELECT {_COLUMNS} FROM spans WHERE trace_no IN ({_marks(part)}) LIMIT ?",  # noqa: S608
                (*part, -1 if limit is None else limit + 1),
            ).fetchall()
            if limit is not None and len(rows) > limit:
                cut = True
                rows.pop()
            nodes = self.to_nodes(rows)
            found += nodes
            by_key = {node.key: node for node in nodes}
            for trace_no, span_id, to_trace_no, to_span_id in self.connection.execute(
                f"SELECT trace_no, span_id, to_trace_no, to_span_id FROM links WHERE trace_no IN ({_marks(part)})",  # noqa: S608
                part,
            ):
                node = by_key.get((trace_no, span_id))
                if node is not None:
                    node.links.append((to_trace_no, to_span_id))
        return found, cut

    def to_nodes(self, rows: Iterable[Sequence[Any]]) -> list[Node]:
        """Rows of ``_COLUMNS`` as nodes without links."""
        types = self._types
        return [
            Node(
                row,
                (trace, span_id),
                None if parent is None else (trace, parent),
                types.get(type_no) or self._type(type_no),
                start,
                end,
                order,
                flow,
                flags,
            )
            for row, trace, span_id, parent, type_no, start, end, order, flow, flags in rows
        ]

    def _type(self, type_no: int) -> SpanType:
        row = self.connection.execute(
            "SELECT o.service, t.name, t.kind, t.operation, t.destination, t.system, t.wait "
            "FROM span_types t JOIN origins o USING (origin_no) WHERE t.type_no = ?",
            (type_no,),
        ).fetchone()
        if len(self._types) > _TYPES_KEPT:
            self._types.clear()
        found = self._types[type_no] = SpanType(*row)
        return found

    def linkers(self, traces: Collection[int]) -> set[int]:
        """Numbers of the traces with spans that link into these traces."""
        found: set[int] = set()
        for part in _parts(list(traces)):
            found.update(
                number
                for (number,) in self.connection.execute(
                    f"SELECT DISTINCT trace_no FROM links WHERE to_trace_no IN ({_marks(part)})",  # noqa: S608
                    part,
                )
            )
        return found

    def around(self, trace_no: int) -> tuple[CausalGraph, bool]:
        """A trace, and the traces that its spans link to or are linked from."""
        nodes, cut = self.nodes([trace_no], limit=MAX_SPANS)
        near = {key[0] for node in nodes for key in node.links} | self.linkers([trace_no])
        more, _ = self.nodes(sorted(near - {trace_no})[:MAX_SPANS], limit=MAX_SPANS)
        return CausalGraph([*nodes, *more]), cut

    def order_graph(self, order_no: int) -> tuple[CausalGraph, bool]:
        """Every trace that the order's join reaches, each whole; the flag says whether a limit cut it."""
        fresh = {
            number
            for (number,) in self.connection.execute(
                "SELECT trace_no FROM order_traces WHERE order_no = ?", (order_no,)
            )
        }
        loaded: set[int] = set()
        nodes: list[Node] = []
        cut = False
        graph = CausalGraph(())
        for _ in range(_ROUNDS):
            more, was_cut = self.nodes(sorted(fresh), limit=MAX_SPANS)
            nodes += more
            cut = cut or was_cut
            loaded |= fresh
            graph = CausalGraph(nodes)
            members = graph.join(order_no)
            joined = {node.key[0] for node in members if not node.is_batch}
            fresh = ({key[0] for key in graph.loose_ends(order_no)} | self.linkers(joined & fresh)) - loaded
            if not fresh or len(nodes) > 4 * MAX_SPANS:
                return graph, cut or bool(fresh)
        return graph, True

    def look_for(self, keys: Iterable[Key], graph: CausalGraph) -> None:
        """Tell the graph which of these spans are in the store, though it does not hold them."""
        for key in keys:
            if key not in graph.nodes and self.one("SELECT 1 FROM spans WHERE trace_no = ? AND span_id = ?", *key):
                graph.elsewhere.add(key)

    def spans(self, nodes: Sequence[Node], graph: CausalGraph) -> list[answers.Span]:
        """Nodes as answers, in the same order."""
        self.look_for({key for node in nodes for key in node.links}, graph)
        self.look_for({node.parent for node in nodes if node.parent is not None}, graph)
        linked_from = {
            node.key: self.connection.execute(
                "SELECT trace_no, span_id FROM links WHERE to_trace_no = ? AND to_span_id = ?", node.key
            ).fetchall()
            for node in nodes
        }
        traces = {key[0] for node in nodes for key in node.links}
        traces.update(trace_no for linkers in linked_from.values() for trace_no, _ in linkers)
        ids = self.trace_ids(traces)
        data: dict[int, bytes] = {}
        for part in _parts([node.row for node in nodes]):
            data.update(
                self.connection.execute(
                    f"SELECT row_no, data FROM spans WHERE row_no IN ({_marks(part)})",  # noqa: S608
                    part,
                )
            )
        return [
            _span(
                node,
                data[node.row],
                came={(ids[key[0]], key[1].hex()) for key in node.links if graph.came(key)},
                linked_from=[
                    answers.SpanRef(trace_id=ids[trace_no], span_id=span_id.hex())
                    for trace_no, span_id in linked_from[node.key]
                ],
                orphan=graph.fault(node) is not None,
            )
            for node in nodes
        ]


class Questions:
    """All questions to one store file. Safe to use from several threads."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._types: dict[int, SpanType] = {}

    @contextlib.contextmanager
    def view(self) -> Iterator[View]:
        """One committed state, for the length of the block."""
        connection = schema.open_reader(self._database)
        try:
            connection.execute("BEGIN")
            yield View(connection, self._types)
        finally:
            connection.close()

    def order(self, order_id: str) -> answers.Order:
        """All traces of an order, joined. Raises NotFoundError."""
        with self.view() as view:
            order_no, graph, truncated = self._order(view, order_id)
            nodes = graph.join(order_no)
            first, last = accept_span(nodes), final_span(nodes)
            run_id, style, transport = flow_of_order(view, nodes, order_no, first)
            spans = view.spans(nodes[:MAX_SPANS], graph)
            return answers.Order(
                order_id=order_id,
                run_id=run_id,
                style=style,
                transport=transport,
                state=state_of(last),
                accept_start_ns=None if first is None else first.start,
                complete_end_ns=None if last is None else last.end,
                traces=list(dict.fromkeys(span.trace_id for span in spans)),
                spans=spans,
                truncated=truncated or len(nodes) > MAX_SPANS,
            )

    def critical_path(self, order_id: str) -> answers.CriticalPath:
        """What the order waited for. Raises NotFoundError."""
        with self.view() as view:
            order_no, graph, _ = self._order(view, order_id)
            nodes = graph.join(order_no)
            first, last = accept_span(nodes), final_span(nodes)
            path = [] if first is None or last is None else critical_path(graph, first, last)
            reason = (
                f"the front door's span {otlp.FRONT_DOOR_NAME} has not come"
                if first is None
                else f"no span with {names.LAB_ORDER_STATE} has come: the order has not finished"
                if last is None
                else None
            )
            ids = view.trace_ids({segment.span.key[0] for segment in path})
            totals: dict[answers.SegmentKind, int] = {kind.value: 0 for kind in Kind}
            for segment in path:
                totals[segment.kind.value] += segment.end - segment.start
            return answers.CriticalPath(
                order_id=order_id,
                start_ns=None if first is None else first.start,
                end_ns=None if last is None else last.end,
                segments=[
                    answers.Segment(
                        kind=segment.kind.value,
                        service=segment.span.type.service,
                        name=segment.span.type.name,
                        trace_id=ids[segment.span.key[0]],
                        span_id=segment.span.key[1].hex(),
                        start_ns=segment.start,
                        end_ns=segment.end,
                    )
                    for segment in path
                ],
                totals=totals,
                reason=reason,
            )

    def _order(self, view: View, order_id: str) -> tuple[int, CausalGraph, bool]:
        order_no = view.one("SELECT order_no FROM orders WHERE order_id = ?", order_id)
        if order_no is None:
            raise NotFoundError(f"no span of order {order_id!r} has come")
        return order_no, *view.order_graph(order_no)

    def trace(self, trace_id: str) -> answers.Trace:
        """One trace. Raises NotFoundError."""
        with self.view() as view:
            trace_no = view.trace_no(trace_id)
            nodes, truncated = view.nodes([trace_no], limit=MAX_SPANS)
            nodes.sort(key=lambda node: (node.start, node.key))
            orders = view.order_ids({node.order for node in nodes if node.order is not None})
            return answers.Trace(
                trace_id=trace_id.lower(),
                order_ids=sorted(orders.values()),
                spans=view.spans(nodes, CausalGraph(nodes)),
                truncated=truncated,
            )

    def message(self, message_id: str) -> answers.Message:
        """Who sent a message and who consumed it. Raises NotFoundError."""
        with self.view() as view:
            traces = [
                trace_no
                for (trace_no,) in view.connection.execute(
                    "SELECT trace_no FROM message_traces WHERE message_id = ?", (message_id,)
                )
            ]
            if not traces:
                raise NotFoundError(f"no span of message {message_id!r} has come")
            near = view.linkers(traces) - set(traces)
            nodes, _ = view.nodes([*traces, *sorted(near)], limit=MAX_SPANS)
            graph = CausalGraph(nodes)
            mine = [node for node in nodes if node.type.operation or node.type.wait]
            spans = {
                node.key: span
                for node, span in zip(mine, view.spans(mine, graph), strict=True)
                if span.attributes.get(names.MESSAGE_ID) == message_id
            }
            # a batch's receive and settle spans carry no message id, only links to what they handled
            linkers = [
                linker
                for key in spans
                for linker in graph.linked_from.get(key, ())
                if linker.key not in spans and linker.type.operation in (_RECEIVE, _SETTLE)
            ]
            linkers = list({linker.key: linker for linker in linkers}.values())
            spans.update((node.key, span) for node, span in zip(linkers, view.spans(linkers, graph), strict=True))

            def having(*operations: str) -> list[answers.Span]:
                return sorted(
                    (span for key, span in spans.items() if _operation(graph.nodes[key]) in operations),
                    key=lambda span: span.start_ns,
                )

            orders = view.order_ids({order for key in spans if (order := graph.nodes[key].order) is not None})
            return answers.Message(
                message_id=message_id,
                order_ids=sorted(orders.values()),
                sent=having(names.Operation.CREATE, names.Operation.SEND),
                waited=having(names.Operation.QUEUE, names.Operation.OUTBOX),
                received=having(_RECEIVE),
                processed=having(names.Operation.PROCESS),
                settled=having(_SETTLE),
            )

    def causes(self, trace_id: str, span_id: str) -> answers.Causes:
        """What a span names as its causes, whether they came or not. Raises NotFoundError."""
        with self.view() as view:
            node, graph = self._span(view, trace_id, span_id)
            found = [graph.nodes[key] for key in _named(node) if key in graph.nodes]
            me, *others = view.spans([node, *found], graph)
            by_ref = {(span.trace_id, span.span_id): span for span in others}
            named: list[tuple[str, str, str]] = []
            if me.parent_span_id is not None:
                named.append(("parent", me.trace_id, me.parent_span_id))
            named += [("link", link.trace_id, link.span_id) for link in me.links]
            return answers.Causes(
                span=me,
                causes=[
                    answers.Cause(
                        relation="parent" if relation == "parent" else "link",
                        trace_id=to_trace,
                        span_id=to_span,
                        span=by_ref.get((to_trace, to_span)),
                    )
                    for relation, to_trace, to_span in named
                ],
            )

    def effects(self, trace_id: str, span_id: str) -> answers.Effects:
        """The spans that name a span as their cause. Raises NotFoundError."""
        with self.view() as view:
            node, graph = self._span(view, trace_id, span_id)
            below = sorted(graph.effects(node), key=lambda effect: (effect.start, effect.key))[:MAX_SPANS]
            me, *others = view.spans([node, *below], graph)
            return answers.Effects(
                span=me,
                effects=[
                    answers.Effect(relation="child" if effect.parent == node.key else "link", span=span)
                    for effect, span in zip(below, others, strict=True)
                ],
            )

    def _span(self, view: View, trace_id: str, span_id: str) -> tuple[Node, CausalGraph]:
        trace_no = view.trace_no(trace_id)
        graph, _ = view.around(trace_no)
        with contextlib.suppress(ValueError):
            node = graph.nodes.get((trace_no, bytes.fromhex(span_id)))
            if node is not None:
                return node, graph
        raise NotFoundError(f"no span {span_id!r} of trace {trace_id!r} has come")

    def stats(self) -> answers.Stats:
        """Totals of the file."""
        with self.view() as view:
            totals = dict(view.connection.execute("SELECT name, value FROM totals").fetchall())
            services = view.connection.execute("SELECT service, spans FROM service_spans ORDER BY service").fetchall()
            queued = forward.backlog(view.connection)
        files = (self._database, self._database.with_name(self._database.name + "-wal"))
        return answers.Stats(
            payloads=totals.get("payloads", 0),
            received=totals.get("received", 0),
            stored=totals.get("stored", 0),
            duplicates=totals.get("duplicates", 0),
            rejected=totals.get("rejected", 0),
            by_service=dict(services),
            forward=[
                answers.Backlog(
                    address=address,
                    queued_payloads=payloads,
                    lag_s=0.0 if oldest_ns is None else max(0.0, (time.time_ns() - oldest_ns) / 1e9),
                )
                for address, (payloads, oldest_ns) in queued.items()
            ],
            disk_bytes=sum(file.stat().st_size for file in files if file.exists()),
        )


_RECEIVE, _SETTLE = names.Operation.RECEIVE.value, names.Operation.SETTLE.value


def _operation(node: Node) -> str:
    return node.type.wait or node.type.operation


def _named(node: Node) -> list[Key]:
    return list(dict.fromkeys([*([] if node.parent is None else [node.parent]), *node.links]))


def state_of(last: Node | None) -> Any:
    """The order's state as its final span says it."""
    if last is None:
        return "unfinished"
    return "completed" if last.flags & schema.COMPLETED else "rejected"


def flow_of_order(view: View, nodes: Sequence[Node], order_no: int, first: Node | None) -> tuple[str, str, str]:
    """Run, style and transport of an order: the front door's word, else the most frequent among its spans."""
    flow = None if first is None else first.flow
    if flow is None:
        flows = [node.flow for node in nodes if node.order == order_no and node.flow is not None]
        flow = max(flows, key=flows.count, default=None)
    row = view.connection.execute("SELECT run_id, style, transport FROM flows WHERE flow_no = ?", (flow,)).fetchone()
    return ("", "", "") if row is None else tuple(row)


def _span(
    node: Node, data: bytes, *, came: set[tuple[str, str]], linked_from: list[answers.SpanRef], orphan: bool
) -> answers.Span:
    span = OtlpSpan.FromString(data)
    links = []
    for link in span.links:
        ref = (link.trace_id.hex(), link.span_id.hex())
        links.append(
            answers.Link(
                trace_id=ref[0],
                span_id=ref[1],
                attributes=_attributes(link.attributes),
                missing=ref not in came,
            )
        )
    return answers.Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=None if node.parent is None else node.parent[1].hex(),
        name=span.name,
        kind=_KINDS.get(span.kind, "UNSPECIFIED"),
        service=node.type.service,
        start_ns=node.start,
        end_ns=node.end,
        status=_STATUSES.get(span.status.code, "UNSET"),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        events=[
            {"name": event.name, "time_ns": event.time_unix_nano, "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        links=links,
        linked_from=linked_from,
        orphan=orphan,
    )


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: otlp.plain_value(pair.value) for pair in pairs}


def _parts(values: list[Any], size: int = 500) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))
