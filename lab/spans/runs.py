"""The questions about a run: its flows side by side, its graph, its orphans."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lab.spans import answers, schema
from lab.spans.critical_path import Kind, accept_span, critical_path, final_span
from lab.spans.graph import CLIENT, CONSUMER, PRODUCER, SERVER, CausalGraph, Fault, Key, Node
from lab.spans.queries import NotFoundError, Questions, View

_NS_PER_MS = 1e6
_NS_PER_S = 1e9


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` (0 to 1) of the sorted values lie, interpolated linearly; None without values."""
    if not values:
        return None
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


@dataclass(slots=True)
class _FlowGraph:
    """A flow's spans as a graph, with what its traces link to and are linked from."""

    flow_no: int
    ref: answers.FlowRef
    graph: CausalGraph
    orders: list[int]

    def members(self) -> dict[int, list[Node]]:
        """The spans of each order of the flow."""
        return {order: self.graph.join(order) for order in self.orders}


class RunQuestions:
    """Questions about runs. A flow at a time is in memory; a summary is kept until more spans come."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._lock = threading.Lock()
        self._summaries: dict[str, tuple[int, answers.Summary]] = {}

    def runs(self) -> list[answers.Run]:
        """All runs, the latest first; spans that name no run are not among them."""
        with self._questions.view() as view:
            rows = view.connection.execute(
                "SELECT flow_no, run_id, style, transport, spans, first_ns, last_ns FROM flows "
                "WHERE run_id <> '' ORDER BY first_ns, flow_no"
            ).fetchall()
            runs: dict[str, answers.Run] = {}
            for flow_no, run_id, style, transport, spans, first_ns, last_ns in rows:
                orders = view.one("SELECT count(*) FROM flow_orders WHERE flow_no = ?", flow_no)
                run = runs.get(run_id)
                if run is None:
                    run = runs[run_id] = answers.Run(
                        run_id=run_id, flows=[], orders=0, spans=0, first_ns=first_ns, last_ns=last_ns
                    )
                run.flows.append(answers.FlowRef(style=style, transport=transport))
                run.orders += orders
                run.spans += spans
                run.last_ns = max(filter(None, (run.last_ns, last_ns)), default=None)
        return sorted(runs.values(), key=lambda run: run.first_ns or 0, reverse=True)

    def summary(self, run_id: str) -> answers.Summary:
        """The run's flows in figures. Raises NotFoundError."""
        with self._lock, self._questions.view() as view:
            newest = view.one("SELECT coalesce(max(row_no), 0) FROM spans")
            kept = self._summaries.get(run_id)
            if kept is not None and kept[0] == newest:
                return kept[1]
            summary = answers.Summary(
                run_id=run_id,
                flows=[_flow(view, part) for part in _flow_graphs(view, run_id) if part.orders or part.ref.style],
            )
            if len(self._summaries) >= 16:
                self._summaries.clear()
            self._summaries[run_id] = (newest, summary)
            return summary

    def orphans(self, run_id: str, limit: int) -> answers.Orphans:
        """The run's spans without a cause. Raises NotFoundError."""
        with self._lock, self._questions.view() as view:
            found: list[answers.Orphan] = []
            total = 0
            for part in _flow_graphs(view, run_id):
                faults = _faults(part, _spans_of(part, part.members().values()))
                total += len(faults)
                nodes = sorted(faults, key=lambda node: (node.start, node.key))[: limit - len(found)]
                orders = view.order_ids({node.order for node in nodes if node.order is not None})
                found += [
                    answers.Orphan(
                        reason=faults[node].value,
                        order_id=None if node.order is None else orders[node.order],
                        missing=_missing(span, faults[node]),
                        span=span,
                    )
                    for node, span in zip(nodes, view.spans(nodes, part.graph), strict=True)
                ]
        return answers.Orphans(run_id=run_id, total=total, orphans=found)

    def graph(self, run_id: str) -> answers.RunGraph:
        """Who speaks to whom, over parents and links. Raises NotFoundError."""
        drawing = _Drawing()
        with self._lock, self._questions.view() as view:
            for part in _flow_graphs(view, run_id):
                for node in _spans_of(part, part.members().values()):
                    drawing.add(part.graph, node)
        return drawing.answer(run_id)


def _flow_graphs(view: View, run_id: str) -> Iterator[_FlowGraph]:
    flows = view.connection.execute(
        "SELECT flow_no, style, transport FROM flows WHERE run_id = ? ORDER BY first_ns, flow_no", (run_id,)
    ).fetchall()
    if not flows:
        raise NotFoundError(f"no span of run {run_id!r} has come")
    for flow_no, style, transport in flows:
        traces = {
            number
            for (number,) in view.connection.execute("SELECT trace_no FROM flow_traces WHERE flow_no = ?", (flow_no,))
        }
        nodes, _ = view.nodes(sorted(traces))
        near = ({key[0] for node in nodes for key in node.links} | view.linkers(traces)) - traces
        more, _ = view.nodes(sorted(near))
        graph = CausalGraph([*nodes, *more])
        orders = [order for order, spans in graph.by_order.items() if _main_flow(spans) == flow_no]
        yield _FlowGraph(flow_no, answers.FlowRef(style=style, transport=transport), graph, orders)


def _main_flow(spans: Sequence[Node]) -> int | None:
    """The flow of an order: its front door's, else the most frequent one."""
    first = accept_span(spans)
    if first is not None and first.flow is not None:
        return first.flow
    flows = Counter(span.flow for span in spans if span.flow is not None)
    return max(flows, key=flows.__getitem__, default=None)


def _spans_of(part: _FlowGraph, members: Iterable[list[Node]]) -> list[Node]:
    """Each span once: those that name the flow, and those that belong to its orders."""
    found = {node.key: node for node in part.graph.nodes.values() if node.flow == part.flow_no}
    for nodes in members:
        found.update((node.key, node) for node in nodes)
    return list(found.values())


def _faults(part: _FlowGraph, spans: Iterable[Node]) -> dict[Node, Fault]:
    return {node: fault for node in spans if (fault := part.graph.fault(node)) is not None}


def _missing(span: answers.Span, fault: Fault) -> list[answers.SpanRef]:
    if fault is Fault.PARENT_MISSING and span.parent_span_id is not None:
        return [answers.SpanRef(trace_id=span.trace_id, span_id=span.parent_span_id)]
    return [answers.SpanRef(trace_id=link.trace_id, span_id=link.span_id) for link in span.links if link.missing]


def _flow(view: View, part: _FlowGraph) -> answers.Flow:
    members = part.members()
    accepts: list[float] = []
    completes: list[tuple[float, int, bool]] = []
    shares: dict[Kind, list[float]] = defaultdict(list)
    states: Counter[str] = Counter()
    first_accept: int | None = None
    last_complete: int | None = None
    links = 0
    traces = 0
    for order, nodes in members.items():
        first, last = accept_span(nodes), final_span(nodes)
        traces += len({node.key[0] for node in nodes})
        links += _own_links(nodes)
        if first is not None:
            accepts.append((first.end - first.start) / _NS_PER_MS)
            first_accept = first.start if first_accept is None else min(first_accept, first.start)
        if last is None:
            continue
        completed = bool(last.flags & schema.COMPLETED)
        states["completed" if completed else "rejected"] += 1
        last_complete = last.end if last_complete is None else max(last_complete, last.end)
        if first is None:
            continue
        whole = last.end - first.start
        completes.append((whole / _NS_PER_MS, order, completed))
        if whole > 0:
            spent: Counter[Kind] = Counter()
            for segment in critical_path(part.graph, first, last):
                spent[segment.kind] += segment.end - segment.start
            for kind in Kind:
                shares[kind].append(spent[kind] / whole)
    spans = _spans_of(part, members.values())
    flags = [node.flags for node in spans if node.flags]
    accepts.sort()
    durations = sorted(whole for whole, _, _ in completes)
    median = percentile(durations, 0.5)
    finished = states.total()
    period_ns = (last_complete or 0) - (first_accept or 0)
    example = min(
        (entry for entry in completes if entry[2]),
        key=lambda entry: (abs(entry[0] - (median or 0)), entry[1]),
        default=None,
    )
    count = len(members)
    return answers.Flow(
        style=part.ref.style,
        transport=part.ref.transport,
        orders=count,
        completed=states["completed"],
        rejected=states["rejected"],
        unfinished=count - finished,
        accept_p50_ms=_rounded(percentile(accepts, 0.5)),
        accept_p95_ms=_rounded(percentile(accepts, 0.95)),
        complete_p50_ms=_rounded(median),
        complete_p95_ms=_rounded(percentile(durations, 0.95)),
        first_accept_ns=first_accept,
        last_complete_ns=last_complete,
        orders_per_s=_rounded(finished / (period_ns / _NS_PER_S)) if first_accept and period_ns > 0 else None,
        traces_per_order=_mean(traces, count),
        spans_per_order=_mean(sum(map(len, members.values())), count),
        links_per_order=_mean(links, count),
        spans=len(spans),
        waiting_share=_share(shares[Kind.WAITING]),
        work_share=_share(shares[Kind.WORK]),
        wire_share=_share(shares[Kind.WIRE]),
        unexplained_share=_share(shares[Kind.UNEXPLAINED]),
        orphan_spans=len(_faults(part, spans)),
        redeliveries=sum(1 for bits in flags if bits & schema.REDELIVERY),
        duplicates=sum(1 for bits in flags if bits & schema.DUPLICATE),
        errors=sum(1 for bits in flags if bits & schema.ERROR),
        example_order_id=None if example is None else view.order_ids([example[1]])[example[1]],
    )


def _own_links(nodes: Sequence[Node]) -> int:
    """Links among an order's spans; of a batch's, those that are this order's."""
    count = 0
    mine: set[Key] = set()
    for node in nodes:
        if node.is_batch:
            mine = mine or {member.key for member in nodes}
            count += sum(1 for target in node.links if target in mine)
        else:
            count += len(node.links)
    return count


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _mean(total: int, count: int) -> float:
    return round(total / count, 3) if count else 0.0


def _share(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


@dataclass(slots=True)
class _Edge:
    count: int = 0
    errors: int = 0


@dataclass(slots=True)
class _Route:
    by_parent: int = 0
    by_link: int = 0
    waits_ms: list[float] = field(default_factory=list)


class _Drawing:
    """Nodes, edges and routes as they are found."""

    def __init__(self) -> None:
        self._nodes: dict[str, answers.GraphNode] = {}
        self._edges: dict[tuple[str, str, str], _Edge] = defaultdict(_Edge)
        self._routes: dict[tuple[str, str, str], _Route] = defaultdict(_Route)

    def add(self, graph: CausalGraph, node: Node) -> None:
        """Count a span as what it says about who speaks to whom."""
        kind, channel = node.type.kind, node.type.destination
        service = self._node("service", node.type.service)
        service.spans += 1
        if node.type.wait:
            return  # a queue's wait is told with the delivery that it came before
        if kind == PRODUCER and channel:
            self._edge(service, self._node("channel", channel, node.type.system), "send", node)
        elif kind == CONSUMER and channel:
            creation, wait = graph.creation(node), graph.wait_before(node)
            source, sent = "", node.type
            if creation is not None:
                source = self._node("service", creation.type.service).id
                if creation.type.kind == PRODUCER and creation.type.destination:
                    # the sender's name for the channel: a consumer's has its own queue in it (RabbitMQ)
                    sent = creation.type
            there = self._node("channel", sent.destination, sent.system)
            self._edge(there, service, "receive", node)
            route = self._routes[source, there.id, service.id]
            if wait is not None:
                route.waits_ms.append((wait.end - wait.start) / _NS_PER_MS)
            if creation is not None and creation.key != node.parent:
                route.by_link += 1
            else:
                route.by_parent += creation is not None
        elif kind == SERVER:
            caller = graph.parent(node)
            if caller is not None and caller.type.kind == CLIENT:
                self._edge(self._node("service", caller.type.service), service, "call", node)

    def _node(self, kind: str, name: str, system: str = "") -> answers.GraphNode:
        identity = ":".join(filter(None, (kind, system, name)))
        found = self._nodes.get(identity)
        if found is None:
            found = self._nodes[identity] = answers.GraphNode(
                id=identity,
                kind="channel" if kind == "channel" else "service",
                name=name,
                system=system,
                spans=0,
            )
        return found

    def _edge(self, source: answers.GraphNode, target: answers.GraphNode, kind: str, node: Node) -> None:
        edge = self._edges[source.id, target.id, kind]
        edge.count += 1
        edge.errors += bool(node.flags & schema.ERROR)
        for end in (source, target):
            if end.kind == "channel":
                end.spans += 1

    def answer(self, run_id: str) -> answers.RunGraph:
        """What was found, sorted by name."""
        return answers.RunGraph(
            run_id=run_id,
            nodes=sorted(self._nodes.values(), key=lambda node: node.id),
            edges=[
                answers.GraphEdge(
                    source=source,
                    target=target,
                    kind="call" if kind == "call" else "send" if kind == "send" else "receive",
                    count=edge.count,
                    errors=edge.errors,
                )
                for (source, target, kind), edge in sorted(self._edges.items())
            ],
            routes=[
                answers.GraphRoute(
                    source=source or None,
                    channel=channel,
                    target=target,
                    by_parent=route.by_parent,
                    by_link=route.by_link,
                    waited_p50_ms=_rounded(percentile(sorted(route.waits_ms), 0.5)),
                    waited_p95_ms=_rounded(percentile(sorted(route.waits_ms), 0.95)),
                )
                for (source, channel, target), route in sorted(self._routes.items())
            ],
        )
