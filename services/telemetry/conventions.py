"""Every name that Antiphon's telemetry uses, and the only place that spells one.

Rule: an attribute, metric or unit is a constant of this file or it does not exist. OpenTelemetry's semantic
conventions 1.44.0 come first (messaging: Development; RPC: Release Candidate; HTTP: stable); what they have no
word for is ours and begins with ``lab.``. Dashboards, the span store and the tests import these constants; a test
walks every exported span and metric and compares.

Instants are UTC; durations are seconds (``s``); a histogram's buckets are those that the conventions advise.
"""

from enum import StrEnum

from opentelemetry.semconv._incubating.attributes import aws_attributes as _aws
from opentelemetry.semconv._incubating.attributes import cloudevents_attributes as _cloudevents
from opentelemetry.semconv._incubating.attributes import jsonrpc_attributes as _jsonrpc
from opentelemetry.semconv._incubating.attributes import messaging_attributes as _messaging
from opentelemetry.semconv._incubating.attributes import rpc_attributes as _rpc
from opentelemetry.semconv.attributes import error_attributes, server_attributes

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# --- semantic conventions: messaging -------------------------------------------------------------------------
MESSAGING_SYSTEM = _messaging.MESSAGING_SYSTEM
OPERATION_NAME = _messaging.MESSAGING_OPERATION_NAME
OPERATION_TYPE = _messaging.MESSAGING_OPERATION_TYPE
DESTINATION_NAME = _messaging.MESSAGING_DESTINATION_NAME
DESTINATION_PARTITION_ID = _messaging.MESSAGING_DESTINATION_PARTITION_ID
CONSUMER_GROUP = _messaging.MESSAGING_CONSUMER_GROUP_NAME
MESSAGE_ID = _messaging.MESSAGING_MESSAGE_ID
CONVERSATION_ID = _messaging.MESSAGING_MESSAGE_CONVERSATION_ID
EVENT_TYPE = _cloudevents.CLOUDEVENTS_EVENT_TYPE
BATCH_MESSAGE_COUNT = _messaging.MESSAGING_BATCH_MESSAGE_COUNT
KAFKA_OFFSET = _messaging.MESSAGING_KAFKA_OFFSET
KAFKA_MESSAGE_KEY = _messaging.MESSAGING_KAFKA_MESSAGE_KEY
RABBITMQ_ROUTING_KEY = _messaging.MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY
SQS_SYSTEM = _messaging.MessagingSystemValues.AWS_SQS.value
SQS_QUEUE_URL = _aws.AWS_SQS_QUEUE_URL
REDIS_SYSTEM = "redis"
REDIS_PUBSUB_SYSTEM = "redis_pubsub"
"""Custom values of ``messaging.system``: the conventions have none for Redis. Its streams and its pub/sub are two, as
they share channel names and nothing else: one label for both would add up what waits and what is lost."""
RABBITMQ_DELIVERY_TAG = _messaging.MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG

# --- semantic conventions: RPC, server, error ------------------------------------------------------------------
RPC_SYSTEM_NAME = _rpc.RPC_SYSTEM_NAME
RPC_METHOD = _rpc.RPC_METHOD
RPC_METHOD_ORIGINAL = _rpc.RPC_METHOD_ORIGINAL
RPC_METHOD_OTHER = "_OTHER"
"""``rpc.method`` of a call to a method that is not served: the span has the name of the system, and the name that was
asked for is ``rpc.method_original``."""
RPC_RESPONSE_STATUS_CODE = _rpc.RPC_RESPONSE_STATUS_CODE
JSONRPC_REQUEST_ID = _jsonrpc.JSONRPC_REQUEST_ID
JSONRPC_PROTOCOL_VERSION = _jsonrpc.JSONRPC_PROTOCOL_VERSION
SERVER_ADDRESS = server_attributes.SERVER_ADDRESS
SERVER_PORT = server_attributes.SERVER_PORT
ERROR_TYPE = error_attributes.ERROR_TYPE


class RpcSystem(StrEnum):
    """``rpc.system.name`` of the wires that we instrument ourselves. The conventions name ``jsonrpc`` (Development);
    the others are custom values, which they allow."""

    JSONRPC = "jsonrpc"
    APACHE_THRIFT = "apache_thrift"
    AVRO_IPC = "avro_ipc"
    ZEROC_ICE = "zeroc_ice"
    MEMORY = "memory"


# --- ours --------------------------------------------------------------------------------------------------------
LAB_ORDER_ID = "lab.order.id"
LAB_RUN_ID = "lab.run_id"
LAB_STYLE = "lab.style"
LAB_TRANSPORT = "lab.transport"
LAB_PRODUCER_TRACE_ID = "lab.producer.trace_id"
"""On a consumer's span: the trace that sent the message (hex), so that tag search and linkPatterns can follow it."""
LAB_PRODUCER_SPAN_ID = "lab.producer.span_id"
LAB_PRODUCER_SERVICE = "lab.producer.service"
LAB_DELIVERY_ATTEMPT = "lab.delivery.attempt"
"""On process: 1 for the first delivery of a message, 2 for the first redelivery, and so on."""
LAB_DUPLICATE = "lab.duplicate"
"""On process: true where the inbox knew the message and its effect was not repeated."""
LAB_CLOCK_SKEW = "lab.clock_skew"
"""On queue and outbox: seconds by which the wait came out negative; the span is drawn with zero length."""
LAB_DEAD_LETTER_REASON = "lab.dead_letter.reason"
SQS_MESSAGE_ID = "lab.sqs.message_id"
"""The id that SQS gave the message (``messaging.message.id`` is its CloudEvents id); every receive has the same."""
SQS_RECEIPT = "lab.sqs.receipt"
"""The end of the receipt handle, which is another for every receive; the whole of it would allow to delete."""
SQS_RECEIVE_COUNT = "lab.sqs.receive_count"
"""How often SQS has handed the message out (``ApproximateReceiveCount``)."""
REDIS_ENTRY_ID = "lab.redis.stream.entry_id"
"""What XADD answered, ``<milliseconds>-<sequence>``: the message's place in its stream."""
REDIS_RECEIVERS = "lab.redis.pubsub.receivers"
"""On send: to how many subscribers Redis passed the message, as PUBLISH answered."""
LAB_ORDER_STATE = "lab.order.state"
"""``completed`` or ``rejected``, on the span within which the order reached that end (and on no other)."""
LAB_RECOVERY = "lab.recovery"
"""On the root span of a recovery pass: true."""


LAB_REPLY = "lab.reply"
"""On process, where orders did not expect what it heard: a ``Reply``."""
LAB_REPLAY = "lab.replay"
"""On a span that reads a journal again: true. What is read is folded and never handled, so nothing happens twice."""
LAB_REPLAY_PURPOSE = "lab.replay.purpose"
"""The read model that is filled, or the order that is asked about; not there for a replay of everything."""
LAB_REPLAYED = "lab.replayed"
"""On process: true for a dead letter that was put back."""


class Reply(StrEnum):
    """An answer that nobody waits for: its conversation had gone on, it was heard before, or its order is unknown."""

    LATE = "late"
    TWICE = "twice"
    NOBODY = "nobody"


class GivenUp(StrEnum):
    """Why a delivery became a dead letter, as a metric's label says it (the span has the words of the error)."""

    UNDECODABLE = "undecodable"
    FAILED = "failed"


BAGGAGE_KEYS = (LAB_RUN_ID, LAB_STYLE, LAB_TRANSPORT)
"""Baggage members that every process copies to every span."""


class Baggage(StrEnum):
    """Members of the baggage that are for services and stand on no span."""

    DEADLINE = "lab.deadline"  # decimal text: when the conversation is of no more use, in Unix milliseconds


class NotCalled(StrEnum):
    """Why a call was not made: the ``error.type`` of its INTERNAL span ``call <peer>``, and a metric's label."""

    CIRCUIT_OPEN = "circuit_open"
    RETRY_BUDGET = "retry_budget"
    DEADLINE = "deadline"


class Operation(StrEnum):
    """``messaging.operation.type``, and the two waits that are ours (``queue``, ``outbox``)."""

    CREATE = "create"
    SEND = "send"
    RECEIVE = "receive"
    PROCESS = "process"
    SETTLE = "settle"
    QUEUE = "queue"
    OUTBOX = "outbox"


LAB_WAIT = "lab.wait"
"""On the two waiting spans, ``queue`` or ``outbox``: what the time passed in."""

# --- metrics (Prometheus names: the OTel name with dots as underscores, unit and suffix appended) -----------
DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

METRIC_CLIENT_OPERATION_DURATION = "messaging_client_operation_duration_seconds"
METRIC_PROCESS_DURATION = "messaging_process_duration_seconds"
METRIC_SENT_MESSAGES = "messaging_client_sent_messages"
METRIC_CONSUMED_MESSAGES = "messaging_client_consumed_messages"
METRIC_RPC_SERVER_DURATION = "rpc_server_call_duration_seconds"
METRIC_RPC_CLIENT_DURATION = "rpc_client_call_duration_seconds"
METRIC_RPC_BREAKER_STATE = "lab_rpc_breaker_state"
"""0 closed, 1 half open (the one call that tries is on its way), 2 open (for the next call to find out whether it still
is); of each process by itself."""
METRIC_RPC_REJECTED = "lab_rpc_calls_rejected"
"""Calls that were not made, and retries: see ``NotCalled``."""
METRIC_RPC_RETRIES = "lab_rpc_retries"
"""Calls that were made again. How many calls there were in all, the wire's own metrics tell."""

METRIC_QUEUE_DURATION = "lab_messaging_queue_duration_seconds"
"""The wait between send and receive; labels source service, destination, service, system. Its count is the edge of
a service graph that links make as well as parents."""
METRIC_OUTBOX_DURATION = "lab_outbox_duration_seconds"
METRIC_ORDER_ACCEPT_DURATION = "lab_order_accept_duration_seconds"
METRIC_ORDER_COMPLETE_DURATION = "lab_order_complete_duration_seconds"
METRIC_ORDERS = "lab_orders"
METRIC_EFFECTS = "lab_effects"
METRIC_DUPLICATES = "lab_duplicates_suppressed"
METRIC_RETRIES = "lab_messaging_retries"
METRIC_REDELIVERIES = "lab_messaging_redeliveries"
"""Deliveries whose message the broker had handed out before: those given back, and those of a consumer that died."""
METRIC_DEAD_LETTERS = "lab_messaging_dead_letters"
METRIC_UNDELIVERED = "lab_messaging_undelivered"
"""Messages that a group will not get, as far as anybody can tell: published where fewer listened than groups read the
channel, left in hand by a process that ended, or taken out of a stream before they were settled. Only where a broker
does not keep what was published."""
METRIC_SUBSCRIPTIONS_LOST = "lab_messaging_subscriptions_lost"
"""Subscriptions that ended unasked and were made again; what was published meanwhile is gone."""
METRIC_LAG = "lab_messaging_lag"
"""How many messages of a destination this consumer's group has yet to handle, of the partitions that it was given;
only where the broker's client can tell (a log)."""
METRIC_OLDEST_MESSAGE = "lab_messaging_oldest_timestamp_seconds"
"""When the oldest message was sent that this consumer was handed and has not settled; 0 where it holds none."""
METRIC_UNEXPECTED_REPLIES = "lab_unexpected_replies"
"""What orders heard and did not wait for (any more); see ``Reply``."""
METRIC_PROJECTION_DELAY = "lab_projection_delay_duration_seconds"
"""From when an event was made until it is in the read models."""
METRIC_REQUESTS_REPEATED = "lab_requests_repeated"
"""Requests by message that were sent again, as no answer had come in time."""
METRIC_REFUSED_INPUT = "lab_refused_input"
METRIC_BAD_CONTEXT = "lab_bad_trace_context"
METRIC_OUTBOX_PENDING = "lab_outbox_pending"
METRIC_OUTBOX_OLDEST = "lab_outbox_oldest_timestamp_seconds"
"""When the oldest message was written that is accepted and not yet sent; 0 where there is none."""
METRIC_ORDERS_OPEN = "lab_orders_open"
"""Orders accepted and not ended. Asked of the database, so that every replica of orders says the same: take the
maximum, not the sum, and so for the two below."""
METRIC_ORDERS_STUCK = "lab_orders_stuck"
"""Of the open orders those that were accepted more than ``STUCK_AFTER_S`` ago."""
METRIC_ORDERS_OLDEST = "lab_orders_oldest_timestamp_seconds"
"""When the oldest open order was accepted; 0 where none is open."""
METRIC_RECOVERED = "lab_orders_recovered"
METRIC_SPANS_STARTED = "otel_sdk_span_started"
"""The name is the SDK's; the counting is ours (``setup``)."""
METRIC_SPANS_ENDED = "lab_spans_ended"
METRIC_SPANS_EXPORTED = "lab_spans_exported"

STUCK_AFTER_S = 30.0

LABEL_SOURCE = "source"
LABEL_DESTINATION = "messaging_destination_name"
LABEL_SERVICE = "service"
LABEL_SYSTEM = "messaging_system"
LABEL_OPERATION = "messaging_operation_name"
LABEL_ERROR = "error_type"
LABEL_STYLE = "style"
LABEL_TRANSPORT = "transport"
LABEL_STATE = "state"
LABEL_ACTION = "action"
LABEL_REASON = "reason"
LABEL_REPLY = "reply"
LABEL_PEER = "peer"
LABEL_RPC_METHOD = "rpc_method"
LABEL_RPC_SYSTEM = "rpc_system_name"

# --- message headers beside the W3C ones ---------------------------------------------------------------------------
HEADER_SENT_AT = "sent-at"
"""When the message was handed to the broker's client: integer nanoseconds since 1970-01-01 UTC, as decimal text."""
HEADER_REPLAYED = "ce-labreplayed"
"""When a dead letter was put back: integer nanoseconds since 1970-01-01 UTC, as decimal text."""
HEADER_ONLY_GROUP = "ce-labonlygroup"
"""The one group of its channel that has to handle the message."""
