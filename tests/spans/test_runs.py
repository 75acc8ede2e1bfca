"""A run in figures: what each column of the comparison means, on stories whose answers are known."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.spans.queries import NotFoundError
from lab.spans.runs import RunQuestions, percentile
from services.telemetry import conventions as names
from tests.spans.stories import COMPLETED, EPOCH_NS, Story, choreography, ns, request_response
from tests.spans.support import stored
from tests.spans.test_causality import batch_stories


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.95, 7.0),
        ([1.0, 3.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        (list(map(float, range(101))), 0.95, 95.0),
        ([0.0, 10.0], 0.95, 9.5),
    ],
)
def test_percentiles_interpolate(values, share, expected):
    assert percentile(values, share) == expected


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=200))
def test_percentiles_are_those_of_the_standard_library(values):
    values.sort()
    theirs = statistics.quantiles(values, n=20, method="inclusive")
    assert percentile(values, 0.95) == pytest.approx(theirs[18])
    assert percentile(values, 0.5) == pytest.approx(statistics.median(values))


def test_a_summary_by_hand(tmp_path):
    """Three orders of one flow (one rejected, one that never ends) and one of another, in one run."""
    slow = Story(seed="slow", order_id="o-slow", style="request_response", transport="rest")
    slow.front_door(1000, 1200, attributes=COMPLETED)
    rejected = Story(seed="rejected", order_id="o-rejected", style="request_response", transport="rest")
    door = rejected.front_door(500, 540, attributes={names.LAB_ORDER_STATE: "rejected"}, error=True)
    rejected.span("orders", "POST", "client", 501, 502, parent=door, order_id=None, error=True)
    stuck = Story(seed="stuck", order_id="o-stuck", style="request_response", transport="rest")
    stuck.front_door(600, 620)
    questions = stored(
        tmp_path,
        request_response(seed="quick", order_id="o-quick"),
        slow,
        rejected,
        stuck,
        choreography("link", seed="c", order_id="o-c"),
        choreography("link", seed="elsewhere", order_id="o-e", run_id="run-2"),
    )
    summary = RunQuestions(questions).summary("run-1")
    rest, rabbitmq = summary.flows
    assert (rest.style, rest.transport) == ("request_response", "rest")
    assert (rest.orders, rest.completed, rest.rejected, rest.unfinished) == (4, 2, 1, 1)
    assert rest.accept_p50_ms == 50.0  # 20, 40, 60, 200
    assert rest.accept_p95_ms == 179.0
    assert rest.complete_p50_ms == 60.0  # 40, 60, 200: the stuck one has no end
    assert rest.complete_p95_ms == 186.0
    assert (rest.first_accept_ns, rest.last_complete_ns) == (ns(0), ns(1200))
    assert rest.orders_per_s == 2.5  # three ends in 1.2 s
    assert (rest.traces_per_order, rest.spans_per_order, rest.links_per_order) == (1.0, 2.25, 0.0)
    assert (rest.spans, rest.errors, rest.orphan_spans, rest.redeliveries, rest.duplicates) == (9, 2, 0, 0, 0)
    assert rest.example_order_id == "o-quick"
    assert rest.waiting_share == 0.0
    assert rest.work_share + rest.wire_share == pytest.approx(1)
    assert (rabbitmq.style, rabbitmq.orders, rabbitmq.completed) == ("choreography", 1, 1)
    assert (rabbitmq.traces_per_order, rabbitmq.spans_per_order, rabbitmq.links_per_order) == (4.0, 11.0, 6.0)
    assert (rabbitmq.waiting_share, rabbitmq.work_share, rabbitmq.wire_share) == (0.25, 0.69, 0.06)
    assert (rabbitmq.accept_p50_ms, rabbitmq.complete_p50_ms) == (10.0, 100.0)


def test_batches_count_once_in_a_run_and_once_for_each_order(tmp_path):
    first, second, shared, _, _ = batch_stories("both")
    flow = RunQuestions(stored(tmp_path, first, second, shared)).summary("run-1").flows[0]
    assert (flow.orders, flow.spans) == (2, 10)
    assert flow.spans_per_order == 6.0
    assert flow.links_per_order == 4.0  # queue, process, and one each of poll's two and commit's two


def test_redeliveries_duplicates_and_orphans_are_counted(tmp_path):
    told = Story()
    sent = told.send(told.front_door(0, 10), "orders.events", "m-1", 5, 8)
    for attempt, attributes in ((1, {}), (2, COMPLETED), (3, {names.LAB_DUPLICATE: True})):
        told.consume("payment", sent, "orders.events", "m-1", shape="both", sent_ms=6, received_ms=attempt * 10,
                     end_ms=attempt * 10 + 5, attempt=attempt, attributes=attributes)  # fmt: skip
    told.span("shipping", "process orders.events", "consumer", 40, 50)
    questions = stored(tmp_path, told)
    flow = RunQuestions(questions).summary("run-1").flows[0]
    assert (flow.redeliveries, flow.duplicates, flow.orphan_spans) == (2, 1, 1)
    orphans = RunQuestions(questions).orphans("run-1", 10)
    assert (orphans.total, [(orphan.reason, orphan.order_id) for orphan in orphans.orphans]) == (
        1,
        [("no_cause", "o-1")],
    )


def test_orphans_name_what_is_missing(tmp_path):
    story = choreography("link")
    lost = next(told for told in story.told if told.span.name == "send inventory.events")
    story.lose(lost)
    door = story.front_door(0, 1)
    story.span("x", "child", "internal", 0, 1, parent=door)
    story.lose(door)
    orphans = RunQuestions(stored(tmp_path, story)).orphans("run-1", 10)
    assert {(orphan.reason, orphan.span.name) for orphan in orphans.orphans} == {
        ("link_target_missing", "queue inventory.events"),
        ("link_target_missing", "process inventory.events"),
        ("parent_missing", "child"),
    }
    assert {(ref.trace_id, ref.span_id) for orphan in orphans.orphans for ref in orphan.missing} == {
        lost.ref,
        door.ref,
    }


def test_orphans_shown_are_limited_and_counted(tmp_path):
    told = Story()
    for number in range(5):
        told.span("payment", "process x", "consumer", number, number + 1)
    orphans = RunQuestions(stored(tmp_path, told)).orphans("run-1", 2)
    assert (orphans.total, len(orphans.orphans)) == (5, 2)
    assert RunQuestions(stored(tmp_path, told, name="again.db")).orphans("run-1", 0).orphans == []


@pytest.mark.parametrize(("shape", "by_parent", "by_link"), [("both", 1, 0), ("parent", 1, 0), ("link", 0, 1)])
def test_the_graph_of_a_run_is_the_same_in_every_trace_shape(tmp_path, shape, by_parent, by_link):
    """Links make edges as parents do: the channel between two services is there even where no trace joins them."""
    graph = RunQuestions(stored(tmp_path, choreography(shape), request_response(seed="rr"))).graph("run-1")
    assert [(edge.source, edge.kind, edge.target, edge.count) for edge in graph.edges] == [
        ("channel:rabbitmq:inventory.events", "receive", "service:payment", 1),
        ("channel:rabbitmq:orders.events", "receive", "service:inventory", 1),
        ("channel:rabbitmq:payment.events", "receive", "service:orders", 1),
        ("service:inventory", "send", "channel:rabbitmq:inventory.events", 1),
        ("service:orders", "send", "channel:rabbitmq:orders.events", 1),
        ("service:orders", "call", "service:inventory", 1),
        ("service:orders", "call", "service:payment", 1),
        ("service:payment", "send", "channel:rabbitmq:payment.events", 1),
    ]
    assert [
        (route.source, route.channel, route.target, route.by_parent, route.by_link, route.waited_p50_ms)
        for route in graph.routes
    ] == [
        ("service:inventory", "channel:rabbitmq:inventory.events", "service:payment", by_parent, by_link, 5.0),
        ("service:orders", "channel:rabbitmq:orders.events", "service:inventory", by_parent, by_link, 5.0),
        ("service:payment", "channel:rabbitmq:payment.events", "service:orders", by_parent, by_link, 5.0),
    ]
    assert {node.id for node in graph.nodes} == {edge.source for edge in graph.edges} | {
        edge.target for edge in graph.edges
    }


def test_a_consumer_s_own_name_for_a_channel_is_the_sender_s_channel(tmp_path):
    """RabbitMQ: the consumer's destination has its queue in it; the graph must not fall apart there."""
    told = Story()
    sent = told.send(told.front_door(0, 10), "antiphon:order.placed", "m-1", 5, 8)
    told.consume("payment", sent, "antiphon:order.placed:payment.orders", "m-1", shape="link", sent_ms=6,
                 received_ms=10, end_ms=20)  # fmt: skip
    graph = RunQuestions(stored(tmp_path, told)).graph("run-1")
    assert [(edge.source, edge.target) for edge in graph.edges] == [
        ("channel:rabbitmq:antiphon:order.placed", "service:payment"),
        ("service:orders", "channel:rabbitmq:antiphon:order.placed"),
    ]


def test_a_message_without_a_known_sender_has_a_route_from_nowhere(tmp_path):
    told = Story()
    told.span("payment", "process x", "consumer", 0, 1, attributes=told.message("x", "process", "m-1"))
    (route,) = RunQuestions(stored(tmp_path, told)).graph("run-1").routes
    assert (route.source, route.by_parent, route.by_link, route.waited_p50_ms) == (None, 0, 0, None)


def test_runs_are_listed_the_latest_first(tmp_path):
    late = Story(seed="late", run_id="run-2", order_id="o-9")
    late.front_door(5000, 5010)
    nameless = Story(seed="nameless", run_id="", order_id="o-10")
    nameless.front_door(9000, 9001)
    questions = stored(tmp_path, choreography("both"), request_response(seed="rr", order_id="o-2"), late, nameless)
    runs = RunQuestions(questions).runs()
    assert [(run.run_id, run.orders, run.spans, len(run.flows)) for run in runs] == [
        ("run-2", 1, 1, 1),
        ("run-1", 2, 16, 2),
    ]
    assert (runs[1].first_ns, runs[1].last_ns) == (EPOCH_NS, ns(100))


def test_a_summary_follows_what_comes_later(tmp_path):
    """It is kept only as long as no span has come since."""
    questions = stored(tmp_path, choreography("both"))
    runs = RunQuestions(questions)
    first = runs.summary("run-1")
    assert runs.summary("run-1") is first
    stored(tmp_path, choreography("both", seed="2", order_id="o-2"))
    assert runs.summary("run-1").flows[0].orders == 2


@pytest.mark.parametrize("ask", ["summary", "graph"])
def test_an_unknown_run(tmp_path, ask):
    runs = RunQuestions(stored(tmp_path, choreography("both")))
    with pytest.raises(NotFoundError, match="run-9"):
        getattr(runs, ask)("run-9")
    with pytest.raises(NotFoundError, match="run-9"):
        runs.orphans("run-9", 1)
