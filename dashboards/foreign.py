"""Metrics that others name: the brokers' exporters, the SDK and contrib, prometheus-client, the Collector, Prometheus.

A board uses one of these or a constant of ``services.telemetry.conventions``; a test reads every query.
"""

# --- prometheus-client, of every process of ours ---------------------------------------------------------------------
CPU = "process_cpu_seconds"
RSS = "process_resident_memory_bytes"
OPEN_FDS = "process_open_fds"
STARTED_AT = "process_start_time_seconds"

# --- OpenTelemetry: contrib's HTTP and the SDK's own figures ------------------------------------------------------
HTTP_SERVER_DURATION = "http_server_request_duration_seconds"
HTTP_CLIENT_DURATION = "http_client_request_duration_seconds"
SDK_PROCESSED = "otel_sdk_processor_span_processed"
SDK_QUEUE_SIZE = "otel_sdk_processor_span_queue_size"
SDK_EXPORT_DURATION = "otel_sdk_exporter_operation_duration_seconds"

# --- a Collector's, and so Jaeger's; whether a counter ends with _total depends on the version ------------------
COLLECTOR_ACCEPTED = "otelcol_receiver_accepted_spans"
COLLECTOR_REFUSED = "otelcol_receiver_refused_spans"
COLLECTOR_FAILED = "otelcol_exporter_send_failed_spans"

# --- RabbitMQ: /metrics, and /metrics/detailed for each queue ---------------------------------------------------
QUEUE_READY = "rabbitmq_detailed_queue_messages_ready"
QUEUE_UNACKED = "rabbitmq_detailed_queue_messages_unacked"
QUEUE_MESSAGES = "rabbitmq_detailed_queue_messages"
QUEUE_CONSUMERS = "rabbitmq_detailed_queue_consumers"
RABBITMQ_REDELIVERED = "rabbitmq_global_messages_redelivered"
RABBITMQ_LIMIT_REACHED = "rabbitmq_global_messages_dead_lettered_delivery_limit"

# --- Prometheus ------------------------------------------------------------------------------------------------------
UP = "up"
SAMPLES_SCRAPED = "scrape_samples_scraped"

# --- the span store (lab/spans/metrics.py) ---------------------------------------------------------------------------
STORE_RECEIVED = "lab_spans_received"
STORE_STORED = "lab_spans_stored"
STORE_DUPLICATE = "lab_spans_duplicate"
STORE_REJECTED = "lab_spans_rejected"
STORE_REFUSED_REQUESTS = "lab_spans_refused_requests"
STORE_FORWARDED = "lab_spans_forwarded"
STORE_FORWARD_REFUSED = "lab_spans_forward_refused"
STORE_FORWARD_QUEUED = "lab_spans_forward_queued_payloads"
STORE_FORWARD_LAG = "lab_spans_forward_lag_seconds"
STORE_DISK = "lab_spans_disk_bytes"
