"""What only Prometheus knows of a run: counters of all processes, by how much they rose meanwhile.

They carry no run id: whatever else ran at the time is in them too.
"""

from datetime import datetime

import httpx

from lab.compare.figures import TelemetryFigure
from services.telemetry import conventions as c

STARTED = "otel_sdk_span_started_total"
COUNTERS = (
    ("spans_started", STARTED, "spans started", False),
    (
        "spans_dropped",
        'otel_sdk_processor_span_processed_total{error_type="queue_full"}',
        "spans dropped by the SDK, its queue being full",
        True,
    ),
    (
        "spans_not_exported",
        'otel_sdk_exporter_span_exported_total{error_type!=""}',
        "spans that could not be exported",
        True,
    ),
    ("retries", f"{c.METRIC_RETRIES}_total", "deliveries given back to come again", False),
    ("dead_letters", f"{c.METRIC_DEAD_LETTERS}_total", "deliveries given up (dead letters)", True),
    ("duplicates", f"{c.METRIC_DUPLICATES}_total", "messages or calls whose effect was not repeated", False),
    ("bad_trace_context", f"{c.METRIC_BAD_CONTEXT}_total", "messages with an unreadable trace context", True),
)


class PrometheusError(Exception):
    """It cannot say; the text is part of one line for a person."""


class Prometheus:
    """Blocking; each question takes at most ``timeout_s``."""

    def __init__(self, address: str | None, *, timeout_s: float = 5.0) -> None:
        self.address = address.rstrip("/") if address else None
        self.timeout_s = timeout_s

    def increases(self, started_at: str, ended_at: str) -> list[TelemetryFigure]:
        """By how much each counter rose between the two instants. Raises PrometheusError."""
        start = datetime.fromisoformat(started_at).timestamp()
        # the last scrape comes after the end; a later run's figures must not be counted, so not "now"
        end = datetime.fromisoformat(ended_at).timestamp() + 15
        with httpx.Client(timeout=self.timeout_s, trust_env=False) as client:
            if self._sum(client, STARTED, end) is None:
                raise PrometheusError("Prometheus has no figures of the services")
            return [
                TelemetryFigure(name, sentence, self._increase(client, query, start, end), bad=bad)
                for name, query, sentence, bad in COUNTERS
            ]

    def _increase(self, client: httpx.Client, query: str, start: float, end: float) -> float:
        """A series that is not there (yet) counted nothing; one that began anew counts as nothing."""
        before, after = self._sum(client, query, start) or 0.0, self._sum(client, query, end) or 0.0
        return max(0.0, after - before)

    def _sum(self, client: httpx.Client, query: str, at: float) -> float | None:
        """Over all processes at an instant (unix seconds); None where there is no such series."""
        if self.address is None:
            raise PrometheusError("no Prometheus runs")
        try:
            answer = client.get(
                f"{self.address}/api/v1/query",
                params={"query": f"sum({query})", "time": f"{at:.3f}"},
            )
            answer.raise_for_status()
            result = answer.json()["data"]["result"]
            return float(result[0]["value"][1]) if result else None
        except httpx.HTTPError as error:
            raise PrometheusError(f"no Prometheus at {self.address} ({error or type(error).__name__})") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise PrometheusError(f"{self.address} does not answer like Prometheus") from error
