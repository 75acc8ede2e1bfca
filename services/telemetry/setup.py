"""The OpenTelemetry SDK, set up for one service. The only module that imports it.

Spans leave by OTLP over HTTP in batches from a queue of 20,000. What the SDK would drop silently is counted
(``otel_sdk_processor_span_processed_total{error_type="queue_full"}``, from its internal metrics), and so is every
span started and ended (``otel_sdk_span_started_total``, ``lab_spans_ended_total``, by ourselves: the SDK's own
counting of these costs as much as the span).
"""

import os

os.environ.setdefault("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.processor.baggage import BaggageSpanProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Tracer
from prometheus_client import REGISTRY, Counter

from services.telemetry import conventions as c
from services.telemetry.messaging import MessagingSpans, Shape

MAX_QUEUE_SIZE = 20_000
SCHEDULE_DELAY_MS = 500
EXPORT_TIMEOUT_S = 30
"""How long the exporter tries again while its address is away: longer than a restart of the span store."""

GIVEN_UP = "given_up"

SPANS_STARTED = Counter(c.METRIC_SPANS_STARTED, "Spans started", (c.LABEL_SERVICE,))
SPANS_ENDED = Counter(c.METRIC_SPANS_ENDED, "Spans ended and handed to the exporter's queue", (c.LABEL_SERVICE,))
SPANS_EXPORTED = Counter(c.METRIC_SPANS_EXPORTED, "Spans sent, or given up", (c.LABEL_SERVICE, c.LABEL_ERROR))

_meter_provider: list[MeterProvider] = []


class _Counting(SpanProcessor):
    def __init__(self, service: str) -> None:
        self._started = SPANS_STARTED.labels(service)
        self._ended = SPANS_ENDED.labels(service)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._started.inc()

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.inc()


class _Exporter(OTLPSpanExporter):
    """OTLP over HTTP, counting what was acknowledged and what was given up."""

    def __init__(self, service: str, endpoint: str) -> None:
        super().__init__(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S, meter_provider=meter_provider())
        self._service = service
        for error in ("", GIVEN_UP):  # there from the start: a counter that begins with its first loss hides it
            SPANS_EXPORTED.labels(service, error)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        error = "" if result is SpanExportResult.SUCCESS else GIVEN_UP
        SPANS_EXPORTED.labels(self._service, error).inc(len(spans))
        return result


@dataclass(slots=True)
class Telemetry:
    """The telemetry of one service in this process. ``shape`` may be changed at any time."""

    service: str
    provider: TracerProvider
    shape: Shape = Shape.BOTH
    tracer: Tracer = field(init=False)
    messaging: MessagingSpans = field(init=False)

    def __post_init__(self) -> None:
        self.tracer = self.provider.get_tracer("antiphon", schema_url=c.SCHEMA_URL)
        self.messaging = MessagingSpans(self.service, self.tracer, lambda: self.shape)

    def flush(self) -> dict[str, int]:
        """Send what is queued and end; blocks until done or given up. Call it last, off the event loop.

        Gives the number of spans that were started, ended, exported and given up: none was lost if all but the last
        are equal.
        """
        self.provider.force_flush(5000)
        self.provider.shutdown()
        return {
            "started": self._count("otel_sdk_span_started_total"),
            "ended": self._count("lab_spans_ended_total"),
            "exported": self._count("lab_spans_exported_total", error_type=""),
            "given_up": self._count("lab_spans_exported_total", error_type=GIVEN_UP),
        }

    def _count(self, name: str, **labels: str) -> int:
        return int(REGISTRY.get_sample_value(name, {c.LABEL_SERVICE: self.service, **labels}) or 0)


def set_up(
    service: str,
    *,
    otlp_endpoint: str | None = None,
    exporter: SpanExporter | None = None,
    id_generator: IdGenerator | None = None,
) -> Telemetry:
    """Telemetry for ``service``: spans go to ``otlp_endpoint`` (a base address), or each at once to ``exporter``
    (tests), or nowhere."""
    resource = Resource.create(
        {"service.name": service, "service.namespace": "antiphon", "service.instance.id": str(uuid.uuid4())}
    )
    meters = meter_provider(resource)
    provider = TracerProvider(
        resource=resource,
        id_generator=id_generator,
        shutdown_on_exit=False,
        meter_provider=NoOpMeterProvider(),
    )
    provider.add_span_processor(BaggageSpanProcessor(c.BAGGAGE_KEYS.__contains__))
    provider.add_span_processor(_Counting(service))
    if otlp_endpoint:
        provider.add_span_processor(
            BatchSpanProcessor(
                _Exporter(service, otlp_endpoint),
                max_queue_size=MAX_QUEUE_SIZE,
                schedule_delay_millis=SCHEDULE_DELAY_MS,
                meter_provider=meters,
            )
        )
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Telemetry(service, provider)


def meter_provider(resource: Resource | None = None) -> MeterProvider:
    """The process's one MeterProvider: what the SDK and contrib measure joins the prometheus-client registry.
    ``resource`` is who measures; in ``services.all`` the first service stands for all."""
    if not _meter_provider:
        reader = PrometheusMetricReader()
        _meter_provider.append(MeterProvider(metric_readers=[reader], resource=resource or Resource.get_empty()))
    return _meter_provider[0]
