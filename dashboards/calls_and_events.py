"""The lab's front page: the same order as a call and as events, side by side."""

from functools import partial

from dashboards.panels import RUNS, STYLE, TRACES_OF_FLOW, TRANSPORT, Board, Panel, Query, Row, graph, stat
from dashboards.promql import BY_FLOW, FLOW, FLOW_LEGEND, age, count, missed, quantile, total
from dashboards.rules import ACCEPT_WITHIN_S, COMPLETE_WITHIN_S, OBJECTIVE
from services.telemetry import conventions as c

ACCEPT, COMPLETE = c.METRIC_ORDER_ACCEPT_DURATION, c.METRIC_ORDER_COMPLETE_DURATION
ANSWERED = f'{FLOW},{c.LABEL_ERROR}=""'
FAILED = f'{FLOW},{c.LABEL_ERROR}!=""'
PLACED = f'{FLOW},{c.LABEL_STATE}="accepted"'
ENDED = f'{FLOW},{c.LABEL_STATE}!="accepted"'
flow = partial(graph, links=(TRACES_OF_FLOW, RUNS))


def side_by_side(q: float, question: str) -> Panel:
    return flow(
        f"Accept beside complete, p{q * 100:.0f}",
        question,
        "s",
        Query(quantile(q, ACCEPT, ANSWERED, BY_FLOW), f"accept {FLOW_LEGEND}", exemplars=True),
        Query(quantile(q, COMPLETE, FLOW, BY_FLOW), f"complete {FLOW_LEGEND}", exemplars=True),
    )


GLANCE = Row(
    "At a glance",
    stat(
        "Orders accepted",
        "How many orders come in. Everything else on this board is read against this figure.",
        "suffix: /s",
        Query(total(c.METRIC_ORDERS, PLACED), "orders"),
    ),
    stat(
        "Accept, p95",
        "How long a customer waits for the first answer; one in twenty waits longer. Red: over the objective.",
        "s",
        Query(quantile(0.95, ACCEPT, ANSWERED), "accept", exemplars=True),
        warn=ACCEPT_WITHIN_S,
    ),
    stat(
        "Complete, p95",
        "How long the whole order takes; one in twenty takes longer. Red: over the objective.",
        "s",
        Query(quantile(0.95, COMPLETE, FLOW), "complete", exemplars=True),
        warn=COMPLETE_WITHIN_S,
    ),
    stat(
        "In flight",
        "Orders accepted and not ended. With calls never more than the customers who wait; with events no bound.",
        "short",
        Query(f"sum(max by ({BY_FLOW}) ({c.METRIC_ORDERS_OPEN}{{{FLOW}}}))", "open"),
    ),
    stat(
        f"Open for over {c.STUCK_AFTER_S:g} s",
        "In flight for longer than an order should take. More than none: see the alert OrdersStuck.",
        "short",
        Query(f"sum(max by ({BY_FLOW}) ({c.METRIC_ORDERS_STUCK}{{{FLOW}}}))", "stuck"),
        warn=1,
    ),
    stat(
        "Answers that failed",
        "Orders that were answered 503 or 504. What was done for them is taken back.",
        "suffix: /s",
        Query(f"{count(ACCEPT, FAILED)} or vector(0)", "failed"),
        warn=0.001,
    ),
)
ANSWER_AND_END = Row(
    "The answer and the end",
    side_by_side(
        0.5,
        "The first answer and the end of an order, for each style and transport. Of a call the two lines lie on each "
        "other; of events the first is short, whatever the second does. A point is an order: it opens its trace.",
    ),
    side_by_side(0.95, "The same for the slow ones. Where this runs away from p50, something queues."),
    flow(
        "The distance: complete less accept, p50",
        "What the customer does not wait for: about nothing of calls; of events all the work and all the queues.",
        "s",
        Query(f"{quantile(0.5, COMPLETE, FLOW, BY_FLOW)} - {quantile(0.5, ACCEPT, ANSWERED, BY_FLOW)}", FLOW_LEGEND),
    ),
    flow(
        "Slower than the objective",
        f"Which part was not accepted within {ACCEPT_WITHIN_S:g} s (or not at all), or did not end within "
        f"{COMPLETE_WITHIN_S:g} s. The objective allows {1 - OBJECTIVE:.0%}; the alerts on burn rates watch it.",
        "percentunit",
        Query(missed(ACCEPT, ACCEPT_WITHIN_S, ANSWERED, FLOW, BY_FLOW), f"accept {FLOW_LEGEND}"),
        Query(missed(COMPLETE, COMPLETE_WITHIN_S, FLOW, FLOW, BY_FLOW), f"complete {FLOW_LEGEND}"),
        warn=1 - OBJECTIVE,
    ),
)
BALANCE = Row(
    "Does it keep up?",
    flow(
        "Accepted and ended",
        "Both lines of a flow lie on each other while it keeps up. Where fewer end than are accepted, work piles up.",
        "suffix: /s",
        Query(total(c.METRIC_ORDERS, PLACED, BY_FLOW), f"accepted {FLOW_LEGEND}"),
        Query(total(c.METRIC_ORDERS, ENDED, BY_FLOW), f"ended {FLOW_LEGEND}"),
    ),
    flow(
        "In flight, by flow",
        "The orders of each flow that have not ended. Steady is work; rising is a queue, and the board Queues has it.",
        "short",
        Query(f"max by ({BY_FLOW}) ({c.METRIC_ORDERS_OPEN}{{{FLOW}}})", FLOW_LEGEND),
        width=6,
    ),
    flow(
        "Age of the oldest order in flight",
        "Small and restless is work. A line that rises by a second each second is an order that nobody works on.",
        "s",
        Query(age(c.METRIC_ORDERS_OLDEST, FLOW, BY_FLOW), FLOW_LEGEND),
        width=6,
        warn=c.STUCK_AFTER_S,
    ),
)
WRONG = Row(
    "What went wrong",
    graph(
        "How orders end",
        "Rejected is an answer and not a failure: no stock, no money, no way. The load profiles ask for some of each.",
        "suffix: /s",
        Query(total(c.METRIC_ORDERS, ENDED, c.LABEL_STATE), "{{state}}"),
        width=8,
        stacked=True,
    ),
    flow(
        "Answers that failed, and what recovery took back",
        "Unavailable: a service is away. DeadlineExceeded: it is slow. What was done is taken back a little later.",
        "suffix: /s",
        Query(
            count(ACCEPT, FAILED, f"{BY_FLOW}, {c.LABEL_ERROR}"),
            f"{{{{error_type}}}} {FLOW_LEGEND}",
            zero="none has failed",
        ),
        Query(total(c.METRIC_RECOVERED, FLOW, BY_FLOW), f"taken back {FLOW_LEGEND}", zero="none has failed"),
        width=16,
    ),
)
BOARD = Board(
    "calls-and-events",
    "Calls and events",
    "What does an order gain, and what does it lose, when it is carried by events instead of calls?",
    (GLANCE, ANSWER_AND_END, BALANCE, WRONG),
    (STYLE, TRANSPORT),
)
