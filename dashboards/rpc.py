"""Calls: who asks whom, how long they wait, what fails."""

from dashboards import foreign
from dashboards.panels import SERVICE, Board, Query, Row, graph
from dashboards.promql import count, quantile, total
from services.telemetry import conventions as c

GRPC = f'{c.LABEL_SERVICE}=~"$service"'
CALLER = GRPC
HTTP = 'job=~"$service"'
BY_METHOD = f"{c.LABEL_RPC_SYSTEM}, {c.LABEL_RPC_METHOD}"
METHOD_LEGEND = "{{rpc_system_name}} {{rpc_method}}"
PEER_LEGEND = f"{{{{{c.LABEL_SERVICE}}}}} calls {{{{{c.LABEL_PEER}}}}}"
ROUTE_LEGEND = "{{job}} {{http_request_method}} {{http_route}}"
ONLY_CALLS = ("orders|carrier-.*|ledger", "only a participant is called over a wire for calls")
BY_BROKER = ("carrier-.*|ledger", "it is reached by brokers alone")
ONLY_ANSWERS = ("(?!orders$).*", "a participant is called and does not call")
OK = "no call has failed"
NOT_2XX = 'http_response_status_code!~"2.."'
SERVER, CLIENT = c.METRIC_RPC_SERVER_DURATION, c.METRIC_RPC_CLIENT_DURATION

GRPC_ROW = Row(
    "gRPC",
    graph(
        "Calls per second",
        "By method, as the called service counts them.",
        "suffix: /s",
        Query(count(SERVER, GRPC, BY_METHOD), METHOD_LEGEND, some=ONLY_CALLS),
        width=8,
    ),
    graph(
        "The caller waits, p95",
        "From orders' side: the network and both stacks included. A point opens the trace of a call.",
        "s",
        Query(quantile(0.95, CLIENT, GRPC, BY_METHOD), METHOD_LEGEND, exemplars=True, some=ONLY_ANSWERS),
        width=8,
    ),
    graph(
        "The called service works, p95",
        "From the participant's side. What the caller waits for beyond this is the wire and the wait to be served.",
        "s",
        Query(quantile(0.95, SERVER, GRPC, BY_METHOD), METHOD_LEGEND, exemplars=True, some=ONLY_CALLS),
        width=8,
    ),
    graph(
        "On the wire and in both stacks, p50",
        "What the caller waits for less what the called service works. Where it grows with the load, the processors "
        "are busy, not the network. A negative value is the coarseness of the buckets.",
        "s",
        Query(
            f"{quantile(0.5, CLIENT, by=BY_METHOD)} - {quantile(0.5, SERVER, by=BY_METHOD)}",
            METHOD_LEGEND,
        ),
    ),
    graph(
        "Calls that failed",
        "By gRPC's status code: UNAVAILABLE is a service that is away, DEADLINE_EXCEEDED one that is slow. A refusal "
        "is an answer and does not count.",
        "suffix: /s",
        Query(
            count(CLIENT, f'{GRPC},{c.LABEL_ERROR}!=""', f"{c.LABEL_RPC_METHOD}, {c.LABEL_ERROR}"),
            "{{error_type}} {{rpc_method}}",
            zero=OK,
        ),
    ),
)
HTTP_ROW = Row(
    "HTTP: the front door and REST",
    graph(
        "Requests per second",
        "By the service that was asked, and its route. POST /orders is the front door: one for each order.",
        "suffix: /s",
        Query(
            count(foreign.HTTP_SERVER_DURATION, HTTP, "job, http_request_method, http_route"),
            ROUTE_LEGEND,
            some=BY_BROKER,
        ),
        width=8,
    ),
    graph(
        "Answered after, p95",
        "By route, as the asked service sees it. GET /orders with wait_s waits because it was asked to.",
        "s",
        Query(
            quantile(0.95, foreign.HTTP_SERVER_DURATION, HTTP, "job, http_request_method, http_route"),
            ROUTE_LEGEND,
            exemplars=True,
            some=BY_BROKER,
        ),
        width=8,
    ),
    graph(
        "Answers by status",
        "2xx are orders and effects, 4xx are requests that made no sense, 503 and 504 a service that is away or slow.",
        "suffix: /s",
        Query(
            count(foreign.HTTP_SERVER_DURATION, HTTP, "job, http_response_status_code"),
            "{{job}} {{http_response_status_code}}",
            some=BY_BROKER,
        ),
        width=8,
        stacked=True,
    ),
    graph(
        "The caller waits for REST, p95",
        "From orders' side, over all participants: PUT does, POST takes back. Compare with what they say above.",
        "s",
        Query(
            quantile(0.95, foreign.HTTP_CLIENT_DURATION, HTTP, "job, http_request_method"),
            "{{job}} {{http_request_method}}",
            exemplars=True,
            some=ONLY_ANSWERS,
        ),
    ),
    graph(
        "Answers other than 2xx",
        "By route and status. Each 4xx of a participant is a contract that somebody broke.",
        "suffix: /s",
        Query(
            count(foreign.HTTP_SERVER_DURATION, f"{HTTP},{NOT_2XX}", "job, http_route, http_response_status_code"),
            "{{http_response_status_code}} {{job}} {{http_route}}",
            zero=OK,
        ),
    ),
)

GUARD_ROW = Row(
    "When the other side is away: retries, budget, breaker",
    graph(
        "Calls made again",
        "A second attempt is harmless, as participants remember. All attempts together are what the other side has to "
        "bear: retries of many callers keep down who was about to stand up.",
        "suffix: /s",
        Query(total(c.METRIC_RPC_RETRIES, CALLER, f"{c.LABEL_SERVICE}, {c.LABEL_PEER}"), PEER_LEGEND, zero=OK),
        width=8,
    ),
    graph(
        "Calls not made",
        "Circuit open: the breaker spares the other side and the caller the wait. Retry budget: too many of the calls "
        "were second attempts. Deadline: nobody would wait for the answer any more.",
        "suffix: /s",
        Query(
            total(c.METRIC_RPC_REJECTED, CALLER, f"{c.LABEL_SERVICE}, {c.LABEL_PEER}, {c.LABEL_REASON}"),
            f"{{{{{c.LABEL_REASON}}}}}: {PEER_LEGEND}",
            zero=OK,
        ),
        width=8,
    ),
    graph(
        "Circuit breakers",
        "0 is closed: calls are made. 2 is open: they fail at once. 1 is half open: one call tries. Each process has "
        "its own; shown is the worst.",
        "short",
        Query(
            f"max by ({c.LABEL_SERVICE}, {c.LABEL_PEER}, {c.LABEL_TRANSPORT}) "
            f"({c.METRIC_RPC_BREAKER_STATE}{{{CALLER}}})",
            f"{PEER_LEGEND} over {{{{{c.LABEL_TRANSPORT}}}}}",
            zero="off, or nothing was called yet",
        ),
        width=8,
        warn=1,
    ),
)
BOARD = Board(
    "rpc",
    "RPC",
    "Who calls whom, how long do callers wait, and how much of that is work?",
    (GRPC_ROW, HTTP_ROW, GUARD_ROW),
    (SERVICE,),
)
