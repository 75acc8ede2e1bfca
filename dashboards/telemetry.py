"""What being watched costs, and whether anything was lost on the way: trust no trace before this board is calm."""

from functools import partial

from dashboards import foreign
from dashboards.panels import SERVICE, Board, Panel, Query, Row, graph, stat
from dashboards.promql import RATE, quantiles, total
from dashboards.rules import counter
from services.telemetry import conventions as c

OWN = f'{c.LABEL_SERVICE}=~"$service"'
JOB = 'job=~"$service"'
GIVEN_UP = f'{OWN},{c.LABEL_ERROR}!=""'
QUEUE_FULL = f'{JOB},{c.LABEL_ERROR}!=""'
ENDED = f'{c.LABEL_STATE}!="accepted"'
NOT_FORWARDED = "this target's span store passes nothing on: the collector sends to both"
third = partial(graph, width=8)
quarter = partial(graph, width=6)


def loss(title: str, question: str, expr: str) -> Panel:
    return stat(title, f"{question} Counted since the start.", "short", Query(expr, "spans"), warn=1)


LOSS = Row(
    "Was anything lost?",
    loss(
        "Given up by an exporter",
        "Spans that were sent in vain for half a minute. More than none: traces have holes.",
        f"sum({c.METRIC_SPANS_EXPORTED}_total{{{GIVEN_UP}}})",
    ),
    loss(
        "Queue full",
        "Spans for which an SDK had no room, because they come faster than they leave.",
        f"sum({foreign.SDK_PROCESSED}_total{{{QUEUE_FULL}}}) or vector(0)",
    ),
    loss(
        "Refused by the span store",
        "Spans with ids that are none. They stay away from every answer.",
        f"sum({foreign.STORE_REJECTED}_total)",
    ),
    loss(
        "Lost by a collector",
        "Spans that the Collector, or the one inside Jaeger, would not take or could not pass on.",
        f"sum({counter(f'({foreign.COLLECTOR_REFUSED}|{foreign.COLLECTOR_FAILED})')}) or vector(0)",
    ),
    stat(
        "On their way",
        "Spans that ended and are not exported yet. A moment's worth is right; after the load it must come to 0.",
        "short",
        Query(f"sum({c.METRIC_SPANS_ENDED}_total{{{OWN}}}) - sum({c.METRIC_SPANS_EXPORTED}_total{{{OWN}}})", "spans"),
    ),
)
WAY = Row(
    "Their way",
    graph(
        "Started, ended, exported",
        "The three lines of a service lie on each other, give or take half a second. A gap that stays is a loss.",
        "suffix: /s",
        Query(total(c.METRIC_SPANS_STARTED, OWN, c.LABEL_SERVICE), "started {{service}}"),
        Query(total(c.METRIC_SPANS_ENDED, OWN, c.LABEL_SERVICE), "ended {{service}}"),
        Query(total(c.METRIC_SPANS_EXPORTED, f'{OWN},{c.LABEL_ERROR}=""', c.LABEL_SERVICE), "exported {{service}}"),
    ),
    quarter(
        "The SDK's queue",
        "Spans that wait in each service to be exported. It holds 20,000; what comes then is lost.",
        "short",
        Query(f"sum by (job) ({foreign.SDK_QUEUE_SIZE}{{{JOB}}})", "queue {{job}}"),
    ),
    quarter(
        "One export",
        "How long sending a batch takes. When it nears the half second between two, the queue fills.",
        "s",
        *quantiles(foreign.SDK_EXPORT_DURATION, "{{job}}", JOB, "job"),
    ),
    graph(
        "The span store takes",
        "Received is what came, stored what was new, duplicate what was sent again; refused are whole requests.",
        "suffix: /s",
        Query(total(foreign.STORE_RECEIVED), "received"),
        Query(total(foreign.STORE_STORED), "stored"),
        Query(total(foreign.STORE_DUPLICATE), "duplicate"),
        Query(total(foreign.STORE_REFUSED_REQUESTS), "requests refused", zero="no request was refused"),
    ),
    quarter(
        "The span store passes on",
        "To Jaeger, on a target without a collector: what waits, and for how long. It waits while Jaeger is away.",
        "short",
        Query(total(foreign.STORE_FORWARDED), "spans per second", zero=NOT_FORWARDED),
        Query(f"sum({foreign.STORE_FORWARD_QUEUED})", "payloads that wait", zero=NOT_FORWARDED),
        Query(f"max({foreign.STORE_FORWARD_LAG})", "oldest, s", zero=NOT_FORWARDED),
    ),
    quarter(
        "Collectors take",
        "The Collector where there is one, and the one inside Jaeger.",
        "suffix: /s",
        Query(f"sum by (job) (rate({counter(foreign.COLLECTOR_ACCEPTED)}[{RATE}]))", "{{job}}"),
    ),
)
COST = Row(
    "What does it cost?",
    third(
        "Processor time per order",
        "Of all services together, for an order that ended. Compare flows one after the other, and with tracing off.",
        "s",
        Query(
            f"sum(rate({foreign.CPU}_total{{{JOB}}}[{RATE}])) / sum(rate({c.METRIC_ORDERS}_total{{{ENDED}}}[{RATE}]))",
            "per order",
        ),
    ),
    third(
        "Processor",
        "100 % is one core. The services, the span store and Prometheus: what watches costs, too.",
        "percentunit",
        Query(f"sum by (job) (rate({foreign.CPU}_total[{RATE}]))", "{{job}}"),
        stacked=True,
    ),
    third(
        "Memory",
        "Resident, of each program that says so.",
        "bytes",
        Query(f"sum by (job) ({foreign.RSS})", "{{job}}"),
    ),
    graph(
        "Spans per order",
        "How many spans tell an order; the same for each order of a flow. It jumps with the trace's shape.",
        "short",
        Query(f"{total(c.METRIC_SPANS_STARTED)} / {total(c.METRIC_ORDERS, ENDED)}", "spans per order"),
    ),
    quarter(
        "Samples in one scrape",
        "Of each job. A label that held an id would make it climb without end.",
        "short",
        Query(f"sum by (job) ({foreign.SAMPLES_SCRAPED})", "{{job}}"),
    ),
    quarter(
        "The span store's file",
        "What it has written. It keeps everything until its data folder is removed.",
        "bytes",
        Query(f"sum({foreign.STORE_DISK})", "on disk"),
    ),
)

BOARD = Board(
    "telemetry",
    "Telemetry: cost and loss",
    "What does it cost to be watched, and did anything get lost on the way?",
    (LOSS, WAY, COST),
    (SERVICE,),
)
