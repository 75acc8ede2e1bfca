"""Where messages wait: between send and receive, in the outbox, for another attempt, and for ever."""

from dashboards import foreign
from dashboards.panels import DESTINATION, SERVICE, SYSTEM, TRACES_OF_SERVICE, Board, Query, Row, graph
from dashboards.promql import BY_FLOW, BY_READER, FLOW_LEGEND, READER_LEGEND, age, count, quantile, quantiles, total
from dashboards.rules import PATIENCE_S
from services.telemetry import conventions as c

READS = f'{c.LABEL_SYSTEM}=~"$system",{c.LABEL_SERVICE}=~"$service"'
EXACT = f'{READS},{c.LABEL_DESTINATION}=~"$destination"'
# on RabbitMQ a consumer's destination is exchange:routing_key:queue, in which the channel stands
WITHIN = f'{READS},{c.LABEL_DESTINATION}=~".*$destination.*"'
QUEUE = 'queue=~"$service[.]$destination"'
BY_EDGE = f"{c.LABEL_SYSTEM}, {c.LABEL_SOURCE}, {c.LABEL_SERVICE}"
BY_SERVICE = f"{c.LABEL_SYSTEM}, {c.LABEL_SERVICE}"
EDGE_LEGEND = "{{messaging_system}}: {{source}} to {{service}}"
NO_JOURNAL = ("ledger|.*[.]journal", "a journal is a log, which RabbitMQ has none of")
A_LOG = ("rabbitmq|aws_sqs|redis|redis_pubsub", "only a log has a lag; the depth of its queues is RabbitMQ's")

WAITING = Row(
    "How long do messages wait?",
    graph(
        "Wait in the queue, p50",
        "From send to receive, by who sent and who received. This is the time that no parent and child shows. A "
        "point opens the trace of a message.",
        "s",
        Query(quantile(0.5, c.METRIC_QUEUE_DURATION, WITHIN, BY_EDGE), EDGE_LEGEND, exemplars=True),
        links=(TRACES_OF_SERVICE,),
    ),
    graph(
        "Wait in the queue, p95",
        "The same for those that wait long. It rises first where a consumer cannot follow; redeliveries count from "
        "when they were given back.",
        "s",
        Query(quantile(0.95, c.METRIC_QUEUE_DURATION, WITHIN, BY_EDGE), EDGE_LEGEND, exemplars=True),
        links=(TRACES_OF_SERVICE,),
    ),
    graph(
        "Age of the oldest message in hand",
        "How long ago the oldest message was sent that a consumer holds and has not settled; 0 if it holds none. "
        "Queues are read from the front, so nothing in them is older, while somebody reads.",
        "s",
        Query(age(c.METRIC_OLDEST_MESSAGE, EXACT, BY_READER), READER_LEGEND),
        warn=PATIENCE_S,
    ),
    graph(
        "Messages per second, by edge",
        "Who makes whom work: the service graph that links make as well as parents.",
        "suffix: /s",
        Query(count(c.METRIC_QUEUE_DURATION, WITHIN, BY_EDGE), EDGE_LEGEND),
        links=(TRACES_OF_SERVICE,),
    ),
)
HOW_MANY = Row(
    "How many wait?",
    graph(
        "RabbitMQ: depth",
        "Messages that no consumer has yet (ready) and that one has and did not settle (unacked, at most its "
        "prefetch). Steady unacked is work; rising ready is a queue.",
        "short",
        Query(f"sum by (queue) ({foreign.QUEUE_READY}{{{QUEUE}}})", "ready {{queue}}", some=NO_JOURNAL),
        Query(f"sum by (queue) ({foreign.QUEUE_UNACKED}{{{QUEUE}}})", "unacked {{queue}}", some=NO_JOURNAL),
    ),
    graph(
        "Kafka: lag",
        "Records that a group has not handled yet, of all its partitions: from the lowest that is not done to the end "
        "of the log. What was done behind one that is not done counts, too: it would come again.",
        "short",
        Query(f"sum by ({BY_READER}) ({c.METRIC_LAG}{{{EXACT}}})", READER_LEGEND, some=A_LOG),
    ),
    graph(
        "RabbitMQ: consumers",
        "Who reads each queue. At 0 its messages wait for somebody to come back: see the alert QueueNotRead.",
        "short",
        Query(f"sum by (queue) ({foreign.QUEUE_CONSUMERS}{{{QUEUE}}})", "{{queue}}", some=NO_JOURNAL),
    ),
    graph(
        "Outbox: waiting, and for how long",
        "Orders that were accepted and whose first message is not with the broker yet, and the age of the oldest in "
        "seconds. More than a moment: the broker is away or does not confirm.",
        "short",
        Query(f"max({c.METRIC_OUTBOX_PENDING})", "messages"),
        Query(age(c.METRIC_OUTBOX_OLDEST), "oldest, s"),
        width=6,
    ),
    graph(
        "Outbox: wait",
        "From accepting an order to sending its first message. Usually a few milliseconds.",
        "s",
        *quantiles(c.METRIC_OUTBOX_DURATION, FLOW_LEGEND, by=BY_FLOW),
        width=6,
    ),
)
HANDLING = Row(
    "What do consumers make of them?",
    graph(
        "Handling a message",
        "How long a handler works, its own sends included. The wait rises when this, times the rate, comes near to "
        "what max_in_flight allows.",
        "s",
        *quantiles(c.METRIC_PROCESS_DURATION, "{{messaging_system}} {{service}}", WITHIN, BY_SERVICE),
        links=(TRACES_OF_SERVICE,),
    ),
    graph(
        "What the broker takes, p95",
        "Sending, polling, settling as the client sees them. A slow send is a slow confirm, a slow poll idleness.",
        "s",
        Query(
            quantile(0.95, c.METRIC_CLIENT_OPERATION_DURATION, READS, f"{c.LABEL_SYSTEM}, {c.LABEL_OPERATION}"),
            "{{messaging_system}} {{messaging_operation_name}}",
            exemplars=True,
        ),
    ),
    graph(
        "Given back and come again",
        "Retries are what handlers gave back, redeliveries what came again, also after a crash. Kafka's client cannot "
        "tell the latter from a first delivery.",
        "suffix: /s",
        Query(total(c.METRIC_RETRIES, EXACT, BY_READER), f"retry {READER_LEGEND}"),
        Query(total(c.METRIC_REDELIVERIES, EXACT, BY_READER), f"redelivery {READER_LEGEND}"),
        Query(total(foreign.RABBITMQ_REDELIVERED), "RabbitMQ's own count"),
    ),
    graph(
        "Dead letters",
        "Messages given up since the services started, by reason, and those that lie in RabbitMQ's dead-letter queues "
        "(the broker puts some there itself, after 20 redeliveries). Each belongs to an order that is stuck.",
        "short",
        Query(
            f"sum by ({BY_READER}, {c.LABEL_REASON}) ({c.METRIC_DEAD_LETTERS}_total{{{EXACT}}})",
            f"{{{{{c.LABEL_REASON}}}}} {READER_LEGEND}",
        ),
        Query(f'sum by (queue) ({foreign.QUEUE_MESSAGES}{{queue=~".*[.]dead"}})', "in {{queue}}"),
        warn=1,
    ),
    graph(
        "Lost: what nobody will get",
        "Messages that a group will not get, since the services started: published over Redis pub/sub while it did not "
        "listen, or taken out of a stream before they were handled. At most once means this. Each belongs to an order "
        "that is stuck.",
        "short",
        Query(
            f"sum by ({BY_READER}) ({c.METRIC_UNDELIVERED}_total{{{EXACT}}})",
            READER_LEGEND,
            zero="only Redis can lose what was published",
        ),
        warn=1,
    ),
)

ANSWERS = Row(
    "Questions and answers by message",
    graph(
        "Answers that nobody waits for",
        "Late: the conversation had gone on, as of a quote behind its deadline. Twice: it was heard before. Nobody: "
        "its order is unknown. None changes anything; many that are late mean a deadline that is too short.",
        "suffix: /s",
        Query(
            total(c.METRIC_UNEXPECTED_REPLIES, by=f"{BY_FLOW}, {c.LABEL_REPLY}"),
            f"{{{{{c.LABEL_REPLY}}}}} {FLOW_LEGEND}",
            zero="every answer was waited for",
        ),
        width=8,
    ),
    graph(
        "Requests sent again",
        "Requests by message whose answer was overdue. Asking again does nothing twice; it says that somebody is away "
        "or slow.",
        "suffix: /s",
        Query(
            total(c.METRIC_REQUESTS_REPEATED, by=BY_READER),
            f"{{{{{c.LABEL_SYSTEM}}}}}: {{{{{c.LABEL_SERVICE}}}}} asks {{{{{c.LABEL_DESTINATION}}}}}",
            zero="every answer came in time",
        ),
        width=8,
    ),
    graph(
        "Read models: how far behind",
        "From when an event was made until it is in the ledger's read models. Who reads one reads the past: this old.",
        "s",
        *quantiles(c.METRIC_PROJECTION_DELAY, f"{{{{{c.LABEL_STYLE}}}}}", by=c.LABEL_STYLE),
        width=8,
    ),
)
BOARD = Board(
    "queues",
    "Queues",
    "Where do messages wait, for how long, how many are they, and which of them will never be handled?",
    (WAITING, HOW_MANY, HANDLING, ANSWERS),
    (SYSTEM, SERVICE, DESTINATION),
)
