"""Golden cases of cause and effect, told by hand: which spans belong to an order, and what it waited for."""

import pytest

from lab.spans.queries import NotFoundError
from services.telemetry import conventions as names
from tests.spans.stories import COMPLETED, Story, choreography, ns, request_response
from tests.spans.support import stored


def path_of(questions, order_id="o-1"):
    """The critical path as (kind, service, name, from ms, to ms); its parts adjoin and make up the whole."""
    path = questions.critical_path(order_id)
    assert path.segments, path.reason
    assert path.segments[0].start_ns == path.start_ns
    assert path.segments[-1].end_ns == path.end_ns
    for before, after in zip(path.segments, path.segments[1:], strict=False):
        assert before.end_ns == after.start_ns
    assert sum(path.totals.values()) == path.end_ns - path.start_ns
    return [
        (part.kind, part.service, part.name, (part.start_ns - ns(0)) / 1e6, (part.end_ns - ns(0)) / 1e6)
        for part in path.segments
    ]


CHOREOGRAPHY_PATH = [
    ("work", "orders", "POST /orders", 0, 8),
    ("waiting", "orders", "outbox orders.events", 8, 18),
    ("wire", "orders", "send orders.events", 18, 20),
    ("waiting", "inventory", "queue orders.events", 20, 25),
    ("work", "inventory", "process orders.events", 25, 40),
    ("wire", "inventory", "send inventory.events", 40, 42),
    ("waiting", "payment", "queue inventory.events", 42, 47),
    ("work", "payment", "process inventory.events", 47, 70),
    ("wire", "payment", "send payment.events", 70, 72),
    ("waiting", "orders", "queue payment.events", 72, 77),
    ("work", "orders", "process payment.events", 77, 100),
]


@pytest.mark.parametrize(("shape", "traces"), [("both", 1), ("parent", 1), ("link", 4)])
def test_choreography_is_one_order_in_every_trace_shape(tmp_path, shape, traces):
    """The same conversation in one trace or in four joins to the same spans and the same critical path."""
    story = choreography(shape)
    questions = stored(tmp_path, story, choreography(shape, seed="other", order_id="o-2"))
    order = questions.order("o-1")
    assert len(order.traces) == traces
    assert {(span.trace_id, span.span_id) for span in order.spans} == {told.ref for told in story.told}
    flow = (order.run_id, order.style, order.transport, order.state)
    assert flow == ("run-1", "choreography", "rabbitmq", "completed")
    assert (order.accept_start_ns, order.complete_end_ns) == (ns(0), ns(100))
    assert not [span.name for span in order.spans if span.orphan]
    assert [span.start_ns for span in order.spans] == sorted(span.start_ns for span in order.spans)
    assert path_of(questions) == CHOREOGRAPHY_PATH


@pytest.mark.parametrize("place", ["child of process", "root without a link"])
def test_a_queue_span_of_shape_link_wherever_it_sits(tmp_path, place):
    """Our layer writes it below process, in the consumer's trace; a root in that trace does as well."""
    told = Story()
    sent = told.send(told.front_door(0, 5), "orders.events", "m-1", 1, 4)
    process = told.span("payment", "process orders.events", "consumer", 30, 50, trace="t", links=[sent],
                        attributes=told.message("orders.events", "process", "m-1") | COMPLETED)  # fmt: skip
    told.span("payment", "queue orders.events", "internal", 2, 30, trace="t",
              parent=process if place == "child of process" else None,
              attributes={names.LAB_WAIT: "queue"})  # fmt: skip
    questions = stored(tmp_path, told)
    assert path_of(questions) == [
        ("work", "orders", "POST /orders", 0, 1),
        ("wire", "orders", "send orders.events", 1, 2),
        ("waiting", "payment", "queue orders.events", 2, 30),
        ("work", "payment", "process orders.events", 30, 50),
    ]


def test_request_response_is_one_trace_whose_calls_block(tmp_path):
    questions = stored(tmp_path, request_response())
    order = questions.order("o-1")
    assert (len(order.traces), len(order.spans)) == (1, 5)
    assert path_of(questions) == [
        ("work", "orders", "POST /orders", 0, 5),
        ("wire", "orders", "POST", 5, 8),
        ("work", "inventory", "POST /commands", 8, 22),
        ("wire", "orders", "POST", 22, 25),
        ("work", "orders", "POST /orders", 25, 30),
        ("wire", "orders", "POST", 30, 32),
        ("work", "payment", "POST /commands", 32, 52),
        ("wire", "orders", "POST", 52, 55),
        ("work", "orders", "POST /orders", 55, 60),
    ]


def test_a_server_whose_clock_is_ahead_still_accounts_for_the_call(tmp_path):
    told = Story(style="request_response")
    door = told.front_door(0, 20, attributes=COMPLETED)
    call = told.span("orders", "POST", "client", 2, 12, parent=door)
    told.span("payment", "POST /commands", "server", 5, 15, parent=call)
    assert path_of(stored(tmp_path, told)) == [
        ("work", "orders", "POST /orders", 0, 2),
        ("wire", "orders", "POST", 2, 5),
        ("work", "payment", "POST /commands", 5, 12),
        ("work", "orders", "POST /orders", 12, 20),
    ]


def test_a_call_that_runs_on_beside_does_not_block(tmp_path):
    """Of two calls at once, the one that ended last before the answer is what was waited for."""
    told = Story(style="request_response")
    door = told.front_door(0, 30, attributes=COMPLETED)
    told.span("orders", "quick", "client", 5, 10, parent=door)
    told.span("orders", "slow", "client", 5, 25, parent=door)
    told.span("orders", "BackgroundTask audit", "internal", 6, 90, parent=door)
    assert path_of(stored(tmp_path, told)) == [
        ("work", "orders", "POST /orders", 0, 5),
        ("wire", "orders", "slow", 5, 25),
        ("work", "orders", "POST /orders", 25, 30),
    ]


def test_a_request_over_queues_is_explained_by_the_other_side(tmp_path):
    """A CLIENT span around the whole wait: inside it lies the way there and back, not one long wire."""
    told = Story(style="async_request_response")
    door = told.front_door(0, 100, attributes=COMPLETED)
    call = told.span("orders", "request payment", "client", 10, 90, parent=door)
    sent = told.send(call, "payment.commands", "m-1", 11, 14)
    work = told.consume("payment", sent, "payment.commands", "m-1", shape="both", sent_ms=12, received_ms=30, end_ms=60)
    back = told.send(work, "replies", "m-2", 55, 58)
    told.consume("orders", back, "replies", "m-2", shape="both", sent_ms=56, received_ms=80, end_ms=88)
    assert path_of(stored(tmp_path, told)) == [
        ("work", "orders", "POST /orders", 0, 10),
        ("wire", "orders", "request payment", 10, 11),
        ("wire", "orders", "send payment.commands", 11, 12),
        ("waiting", "payment", "queue payment.commands", 12, 30),
        ("work", "payment", "process payment.commands", 30, 55),
        ("wire", "payment", "send replies", 55, 56),
        ("waiting", "orders", "queue replies", 56, 80),
        ("work", "orders", "process replies", 80, 88),
        ("wire", "orders", "request payment", 88, 90),
        ("work", "orders", "POST /orders", 90, 100),
    ]


def test_a_join_waits_for_the_last_of_those_who_reacted(tmp_path):
    told = Story(style="publish_subscribe")
    sent = told.send(told.front_door(0, 10), "orders.events", "m-1", 5, 8)
    for service, end in (("inventory", 20), ("payment", 60), ("shipping", 30)):
        process = told.consume(
            service, sent, "orders.events", "m-1", shape="link", sent_ms=6, received_ms=10, end_ms=end
        )
        answer = told.send(process, f"{service}.events", f"m-{service}", end - 4, end - 2)
        told.consume("orders", answer, f"{service}.events", f"m-{service}", shape="link", sent_ms=end - 3,
                     received_ms=end, end_ms=end + 5, attributes=COMPLETED if service == "payment" else {})  # fmt: skip
    assert [part[1:3] for part in path_of(stored(tmp_path, told))] == [
        ("orders", "POST /orders"),
        ("orders", "send orders.events"),
        ("payment", "queue orders.events"),
        ("payment", "process orders.events"),
        ("payment", "send payment.events"),
        ("orders", "queue payment.events"),
        ("orders", "process payment.events"),
    ]


def batch_stories(shape):
    """Two orders whose messages one Kafka poll brought and one commit settled."""
    first, second = Story(seed="1", transport="kafka"), Story(seed="2", order_id="o-2", transport="kafka")
    sends = [
        story.send(story.front_door(start, start + 10), "orders.events", f"m-{start}", start + 5, start + 8)
        for story, start in ((first, 0), (second, 1))
    ]
    shared = Story(seed="batch", order_id=None, transport="kafka")
    poll = shared.span(
        "inventory",
        "poll orders.events",
        "client",
        6,
        20,
        links=sends,
        attributes=shared.message("orders.events", "receive", None, **{names.BATCH_MESSAGE_COUNT: 2}),
    )
    done = [
        story.consume(
            "inventory",
            sent,
            "orders.events",
            f"m-{start}",
            shape=shape,
            sent_ms=start + 6,
            received_ms=20,
            end_ms=40 + start,
            polls=[poll] if shape == "link" else [],
            attributes=COMPLETED,
        )
        for story, sent, start in ((first, sends[0], 0), (second, sends[1], 1))
    ]
    commit = shared.span(
        "inventory",
        "commit orders.events",
        "client",
        45,
        46,
        links=done,
        attributes=shared.message("orders.events", "settle", None),
    )
    return first, second, shared, poll, commit


@pytest.mark.parametrize("shape", ["both", "link"])
def test_a_batch_belongs_to_every_order_it_carried_and_joins_none_of_them(tmp_path, shape):
    first, second, shared, poll, commit = batch_stories(shape)
    questions = stored(tmp_path, first, second, shared)
    for story, order_id in ((first, "o-1"), (second, "o-2")):
        order = questions.order(order_id)
        mine = {told.ref for told in story.told}
        assert {(span.trace_id, span.span_id) for span in order.spans} == mine | {poll.ref, commit.ref}
        assert not [span.name for span in order.spans if span.orphan]
        (polled,) = [span for span in order.spans if span.name.startswith("poll")]
        assert [link.missing for link in polled.links] == [False, False]
    assert path_of(questions) == [
        ("work", "orders", "POST /orders", 0, 5),
        ("wire", "orders", "send orders.events", 5, 6),
        ("waiting", "inventory", "queue orders.events", 6, 20),
        ("work", "inventory", "process orders.events", 20, 40),
    ]


def test_who_sent_a_message_and_who_consumed_it(tmp_path):
    first, second, shared, poll, commit = batch_stories("link")
    message = stored(tmp_path, first, second, shared).message("m-0")
    assert message.order_ids == ["o-1"]
    assert [(span.service, span.name) for span in message.sent] == [("orders", "send orders.events")]
    assert [(span.service, span.name) for span in message.waited] == [("inventory", "queue orders.events")]
    assert [(span.trace_id, span.span_id) for span in message.received] == [poll.ref]
    assert [(span.service, span.name) for span in message.processed] == [("inventory", "process orders.events")]
    assert [(span.trace_id, span.span_id) for span in message.settled] == [commit.ref]


@pytest.mark.parametrize("shape", ["both", "link", "parent"])
def test_a_redelivery_waits_from_its_release_and_follows_the_attempt_before(tmp_path, shape):
    told = Story()
    sent = told.send(told.front_door(0, 10), "orders.events", "m-1", 5, 8)
    told.consume("payment", sent, "orders.events", "m-1", shape=shape, sent_ms=6, received_ms=10, end_ms=20, error=True)
    told.consume("payment", sent, "orders.events", "m-1", shape=shape, sent_ms=20, received_ms=50, end_ms=60,
                 attempt=2, attributes=COMPLETED)  # fmt: skip
    questions = stored(tmp_path, told)
    assert len(questions.order("o-1").spans) == 6
    assert path_of(questions) == [
        ("work", "orders", "POST /orders", 0, 5),
        ("wire", "orders", "send orders.events", 5, 6),
        ("waiting", "payment", "queue orders.events", 6, 10),
        ("work", "payment", "process orders.events", 10, 20),
        ("waiting", "payment", "queue orders.events", 20, 50),
        ("work", "payment", "process orders.events", 50, 60),
    ]


def test_a_consumer_that_lost_its_context_is_an_orphan_and_its_wait_unexplained(tmp_path):
    """Shape parent without headers: a new trace that only the order id joins."""
    told = Story()
    told.send(told.front_door(0, 10), "orders.events", "m-1", 5, 8)
    told.span("payment", "process orders.events", "consumer", 40, 60, attributes=COMPLETED)
    questions = stored(tmp_path, told)
    order = questions.order("o-1")
    assert len(order.traces) == 2
    assert [span.name for span in order.spans if span.orphan] == ["process orders.events"]
    assert path_of(questions) == [
        ("unexplained", "payment", "process orders.events", 0, 40),
        ("work", "payment", "process orders.events", 40, 60),
    ]


def test_a_span_whose_parent_never_came_is_an_orphan(tmp_path):
    story = choreography("both")
    lost = next(told for told in story.told if told.span.name == "send inventory.events")
    story.lose(lost)
    questions = stored(tmp_path, story)
    orphans = [span for span in questions.order("o-1").spans if span.orphan]
    assert {span.name for span in orphans} == {"queue inventory.events", "process inventory.events"}
    (process,) = [span for span in orphans if span.kind == "CONSUMER"]
    assert [link.missing for link in process.links] == [True]
    causes = questions.causes(process.trace_id, process.span_id).causes
    assert [(cause.relation, cause.span_id, cause.span) for cause in causes] == [
        ("parent", lost.span_id.hex(), None),
        ("link", lost.span_id.hex(), None),
    ]


def test_a_link_to_a_span_that_never_came_leaves_an_orphan(tmp_path):
    """Shape link, the producer's trace lost (sampled away, or its process killed)."""
    elsewhere = Story(seed="lost")
    sent = elsewhere.send(elsewhere.front_door(0, 1), "orders.events", "m-1", 0, 1)
    told = Story()
    process = told.consume("payment", sent, "orders.events", "m-1", shape="link", sent_ms=1, received_ms=5, end_ms=9)
    questions = stored(tmp_path, told)
    order = questions.order("o-1")
    assert [(span.name, span.orphan, [link.missing for link in span.links]) for span in order.spans] == [
        ("queue orders.events", True, [True]),
        ("process orders.events", True, [True]),
    ]
    assert process.ref == (order.spans[1].trace_id, order.spans[1].span_id)
    stored_later = stored(tmp_path, elsewhere)
    assert not [span.name for span in stored_later.order("o-1").spans if span.orphan]


def test_causes_and_effects_cross_traces(tmp_path):
    story = choreography("link")
    questions = stored(tmp_path, story)
    send = next(told for told in story.told if told.span.name == "send orders.events")
    effects = questions.effects(*send.ref)
    assert [(effect.relation, effect.span.service, effect.span.name) for effect in effects.effects] == [
        ("link", "inventory", "queue orders.events"),
        ("link", "inventory", "process orders.events"),
    ]
    assert {(link.trace_id, link.span_id) for link in effects.span.linked_from} == {
        (effect.span.trace_id, effect.span.span_id) for effect in effects.effects
    }
    process = effects.effects[1].span
    (cause,) = questions.causes(process.trace_id, process.span_id).causes
    assert (cause.relation, cause.trace_id, cause.span_id) == ("link", *send.ref)
    assert cause.span is not None
    assert process.links[0].attributes == {"lab.relation": "creation"}


def test_spans_without_an_order_id_come_with_their_trace(tmp_path):
    story = request_response()
    assert sum(names.LAB_ORDER_ID not in str(told.span) for told in story.told) == 4
    assert len(stored(tmp_path, story).order("o-1").spans) == 5


def test_orders_that_share_a_trace_are_told_apart(tmp_path):
    """A caller that traces its own work puts several orders into one trace; each keeps what hangs below it."""
    caller = Story(order_id=None, style="request_response")
    root = caller.span("caller", "place orders", "internal", 0, 100)
    doors = {}
    for number in (1, 2):
        start = number * 10
        doors[number] = caller.span("orders", "POST /orders", "server", start, start + 8, parent=root,
                                    order_id=f"o-{number}", attributes=COMPLETED)  # fmt: skip
        caller.span("orders", f"step {number}", "internal", start + 1, start + 2, parent=doors[number])
    questions = stored(tmp_path, caller)
    assert [span.name for span in questions.order("o-1").spans] == ["place orders", "POST /orders", "step 1"]
    assert [span.name for span in questions.order("o-2").spans] == ["place orders", "POST /orders", "step 2"]
    assert path_of(questions, "o-2") == [
        ("work", "orders", "POST /orders", 20, 21),
        ("work", "orders", "step 2", 21, 22),
        ("work", "orders", "POST /orders", 22, 28),
    ]


def test_a_span_below_two_orders_of_a_long_lived_trace_joins_neither_to_the_other(tmp_path):
    """A consumer loop that hangs on its start-up span: its trace holds every order, an order only its own."""
    loop = Story(order_id=None)
    root = loop.span("payment", "startup", "internal", 0, 1)
    for number in range(1, 4):
        loop.span("payment", "process x", "consumer", number * 10, number * 10 + 5, parent=root,
                  order_id=f"o-{number}")  # fmt: skip
    questions = stored(tmp_path, loop)
    assert [span.start_ns for span in questions.order("o-2").spans] == [ns(0), ns(20)]


def test_an_unfinished_order_has_no_critical_path_and_says_why(tmp_path):
    told = Story()
    told.send(told.front_door(0, 10), "orders.events", "m-1", 5, 8)
    questions = stored(tmp_path, told)
    path = questions.critical_path("o-1")
    assert (path.segments, path.end_ns, sum(path.totals.values())) == ([], None, 0)
    assert "not finished" in path.reason
    assert questions.order("o-1").state == "unfinished"


def test_an_order_whose_front_door_span_never_came_has_no_critical_path(tmp_path):
    told = choreography("both")
    told.told = told.told[1:]
    path = stored(tmp_path, told).critical_path("o-1")
    assert (path.segments, path.start_ns) == ([], None)
    assert "POST /orders" in path.reason


def test_clocks_that_disagree_still_add_up(tmp_path):
    """The consumer's clock is 30 ms behind: its spans begin before what caused them."""
    told = Story()
    sent = told.send(told.front_door(100, 110), "orders.events", "m-1", 105, 108)
    told.consume("payment", sent, "orders.events", "m-1", shape="both", sent_ms=80, received_ms=80, end_ms=120,
                 attributes=COMPLETED)  # fmt: skip
    assert path_of(stored(tmp_path, told)) == [("work", "payment", "process orders.events", 100, 120)]


def test_an_order_that_ended_before_it_began_takes_no_time(tmp_path):
    told = Story()
    sent = told.send(told.front_door(100, 110), "orders.events", "m-1", 105, 108)
    told.consume("payment", sent, "orders.events", "m-1", shape="both", sent_ms=10, received_ms=10, end_ms=20,
                 attributes=COMPLETED)  # fmt: skip
    path = stored(tmp_path, told).critical_path("o-1")
    assert (path.segments, sum(path.totals.values()), path.reason) == ([], 0, None)


def test_parents_and_links_in_a_circle_end(tmp_path):
    """No bytes that a sender makes up may hang the store."""
    told = Story()
    a = told.front_door(0, 10, trace="t", attributes=COMPLETED)
    b = told.span("x", "b", "internal", 5, 50, parent=a)
    c = told.span("x", "c", "consumer", 20, 80, parent=b, links=[a, b], attributes=COMPLETED)
    a.span.parent_span_id = c.span_id
    a.span.links.add(trace_id=c.trace_id, span_id=c.span_id)
    b.span.links.add(trace_id=b.trace_id, span_id=b.span_id)
    questions = stored(tmp_path, told)
    assert len(questions.order("o-1").spans) == 3
    path_of(questions)


def test_a_repeated_request_counts_from_the_first(tmp_path):
    told = choreography("both")
    told.front_door(500, 501)
    order = stored(tmp_path, told).order("o-1")
    assert order.accept_start_ns == ns(0)
    assert len(order.traces) == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda questions: questions.order("nobody"),
        lambda questions: questions.critical_path("nobody"),
        lambda questions: questions.trace("0" * 32),
        lambda questions: questions.trace("no hex"),
        lambda questions: questions.message("nobody"),
        lambda questions: questions.causes("0" * 32, "0" * 16),
        lambda questions: questions.effects("zz", "zz"),
    ],
)
def test_what_never_came_is_said_to_be_unknown(tmp_path, ask):
    questions = stored(tmp_path, choreography("both"))
    with pytest.raises(NotFoundError, match="has come"):
        ask(questions)


def test_a_span_of_a_known_trace_that_never_came(tmp_path):
    story = choreography("both")
    questions = stored(tmp_path, story)
    with pytest.raises(NotFoundError):
        questions.causes(story.told[0].trace_id.hex(), "1" * 16)


def test_a_trace_by_its_id(tmp_path):
    story = choreography("link")
    questions = stored(tmp_path, story)
    trace = questions.trace(story.told[-1].trace_id.hex().upper())
    assert [span.name for span in trace.spans] == ["queue payment.events", "process payment.events"]
    assert trace.order_ids == ["o-1"]
    assert not any(span.orphan for span in trace.spans)
