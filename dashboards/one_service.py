"""One service: is it well, what does it do, what does it hear and say?"""

from dataclasses import replace
from functools import partial

from dashboards import foreign
from dashboards.panels import SERVICE, TRACES_OF_THE_SERVICE, Board, Query, Row, graph, stat
from dashboards.promql import age, count, quantile, quantiles, total
from services.telemetry import conventions as c

JOB = 'job="$service"'
OWN = f'{c.LABEL_SERVICE}="$service"'
NO_EFFECTS = ("orders|carrier-.*|ledger", "only a participant has effects of its own")
NOT_CALLED = ("orders|carrier-.*|ledger", "only a participant answers gRPC")
BY_BROKER = ("carrier-.*|ledger", "it is reached by brokers alone")
LISTENS = ("ledger", "it only listens")
NOTHING_WRONG = "nothing came that made no sense"
HEARD = f"{c.LABEL_SYSTEM}, {c.LABEL_DESTINATION}"
BY_SENDER = f"{c.LABEL_SYSTEM}, {c.LABEL_SOURCE}"
HEARD_LEGEND = "{{messaging_system}} {{messaging_destination_name}}"
talk = partial(graph, links=(TRACES_OF_THE_SERVICE,))
third = partial(graph, width=8)

WELL = Row(
    "Is it well?",
    stat(
        "Processes up",
        "Replicas that answer Prometheus. Fewer than there should be: see the alert TargetDown.",
        "short",
        Query(f"sum({foreign.UP}{{{JOB}}})", "up"),
    ),
    stat(
        "Youngest process",
        "How long ago the youngest replica started. Young without a reason: it died and was started again.",
        "s",
        Query(f"time() - max({foreign.STARTED_AT}{{{JOB}}})", "age"),
    ),
    stat(
        "Processor",
        "Of all replicas; 100 % is one core. A Python process cannot use more than one.",
        "percentunit",
        Query(f"sum(rate({foreign.CPU}_total{{{JOB}}}[$__rate_interval]))", "cores"),
    ),
    stat(
        "Memory",
        "Resident, of the largest replica. It should level out under a steady load.",
        "bytes",
        Query(f"max({foreign.RSS}{{{JOB}}})", "resident"),
    ),
    stat(
        "Open files and sockets",
        "Of the replica with the most. A steady rise is a leak.",
        "short",
        Query(f"max({foreign.OPEN_FDS}{{{JOB}}})", "open"),
    ),
    stat(
        "Spans",
        "How many spans it starts. By the orders that come in, this is the price of being watched.",
        "suffix: /s",
        Query(total(c.METRIC_SPANS_STARTED, OWN), "spans"),
    ),
)
WORK = Row(
    "What does it do?",
    third(
        "Effects, and what was not repeated",
        "Effects are what a participant has really done, each once per order. Not repeated is what came again and was "
        "answered from memory: after a crash, a redelivery or a retry.",
        "suffix: /s",
        Query(total(c.METRIC_EFFECTS, OWN, c.LABEL_ACTION), "{{action}}", some=NO_EFFECTS),
        Query(total(c.METRIC_DUPLICATES, OWN), "not repeated", zero="nothing came twice"),
    ),
    third(
        "It is called: gRPC",
        "How long it takes to answer a call, by method.",
        "s",
        Query(
            quantile(0.95, c.METRIC_RPC_SERVER_DURATION, OWN, c.LABEL_RPC_METHOD),
            "{{rpc_method}}",
            exemplars=True,
            some=NOT_CALLED,
        ),
    ),
    third(
        "It is called: HTTP",
        "How long it takes to answer a request, by route; for orders this is the front door.",
        "s",
        Query(
            quantile(0.95, foreign.HTTP_SERVER_DURATION, JOB, "http_request_method, http_route"),
            "{{http_request_method}} {{http_route}}",
            exemplars=True,
            some=BY_BROKER,
        ),
    ),
)
TALK = Row(
    "What does it hear and say?",
    talk(
        "Messages handled",
        "By where they came from. Redeliveries count each time.",
        "suffix: /s",
        Query(count(c.METRIC_PROCESS_DURATION, OWN, HEARD), HEARD_LEGEND),
    ),
    talk(
        "Handling a message",
        "How long the handler works, its own sends included. A point opens the trace of a message.",
        "s",
        *quantiles(c.METRIC_PROCESS_DURATION, "{{messaging_system}}", OWN, c.LABEL_SYSTEM),
    ),
    talk(
        "They had waited",
        "How long messages lay in the queue before this service took them, by who had sent them.",
        "s",
        *quantiles(c.METRIC_QUEUE_DURATION, "{{messaging_system}} from {{source}}", OWN, BY_SENDER),
    ),
    graph(
        "Age of the oldest message in hand",
        "0 while it holds none. A line that rises by a second each second is a handler that hangs.",
        "s",
        Query(age(c.METRIC_OLDEST_MESSAGE, OWN, HEARD), HEARD_LEGEND),
    ),
    talk(
        "Messages sent",
        "By where they went. Nothing is sent that its broker has not confirmed.",
        "suffix: /s",
        Query(total(c.METRIC_SENT_MESSAGES, OWN, HEARD), HEARD_LEGEND, some=LISTENS),
    ),
    talk(
        "What failed",
        "Handlings that failed by error, and input that made no sense by reason.",
        "suffix: /s",
        Query(
            count(c.METRIC_PROCESS_DURATION, f'{OWN},{c.LABEL_ERROR}!=""', c.LABEL_ERROR),
            "{{error_type}}",
            zero="no handling has failed",
        ),
        Query(total(c.METRIC_REFUSED_INPUT, OWN, c.LABEL_REASON), "refused: {{reason}}", zero=NOTHING_WRONG),
        Query(total(c.METRIC_BAD_CONTEXT, OWN), "unreadable trace context", zero=NOTHING_WRONG),
    ),
)

BOARD = Board(
    "one-service",
    "One service",
    "Is this service well, what does it do, and what does it hear and say?",
    (WELL, WORK, TALK),
    (replace(SERVICE, single=True),),
)
