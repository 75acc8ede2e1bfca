"""The store's own figures, for Prometheus; counters count since the process started."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from lab.spans.ingest import Outcome


class _AtScrape(Collector):
    def __init__(self, gauges: Callable[[], Iterable[Metric]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        return self._gauges()

    def describe(self) -> Iterable[Metric]:
        return ()


class Metrics:
    """All metrics of one store. ``backlog`` gives, per address, the payloads queued and the oldest one's time in ns."""

    def __init__(self, database: Path, backlog: Callable[[], dict[str, tuple[int, int | None]]]) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        self._received = counter("lab_spans_received", "Spans in requests that could be read")
        self._stored = counter("lab_spans_stored", "Spans written; each span once")
        self._duplicates = counter("lab_spans_duplicate", "Spans that the store had already (retried exports)")
        self._rejected = counter("lab_spans_rejected", "Spans refused one by one: ids of a wrong length, or zero")
        self.refused = counter("lab_spans_refused_requests", "Requests refused whole", "status")
        self.forwarded_spans = counter("lab_spans_forwarded", "Spans passed on", "address")
        self.forwarded_payloads = counter("lab_spans_forwarded_payloads", "Payloads passed on", "address")
        self.forward_refused = counter(
            "lab_spans_forward_refused",
            "Spans that the address refused for good and will not be sent again",
            "address",
        )
        self.forward_failures = counter("lab_spans_forward_failures", "Attempts that will be repeated", "address")
        self._database = database
        self._backlog = backlog
        self.registry.register(_AtScrape(self._gauges))

    def know(self, addresses: Iterable[str]) -> None:
        """Show these addresses from the start: a counter that is not there cannot be told from one that is 0."""
        for address in addresses:
            for each in (self.forwarded_spans, self.forwarded_payloads, self.forward_refused, self.forward_failures):
                each.labels(address)

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Add what a commit did."""
        for outcome in outcomes:
            self._received.inc(outcome.received)
            self._stored.inc(outcome.stored)
            self._duplicates.inc(outcome.duplicates)
            self._rejected.inc(outcome.rejected)

    def _gauges(self) -> Iterable[Metric]:
        size = GaugeMetricFamily("lab_spans_disk_bytes", "Size of the SQLite file with its WAL")
        files = (self._database, self._database.with_name(self._database.name + "-wal"))
        size.add_metric([], sum(file.stat().st_size for file in files if file.exists()))
        queued = GaugeMetricFamily(
            "lab_spans_forward_queued_payloads", "Payloads that an address lacks", labels=["address"]
        )
        lag = GaugeMetricFamily(
            "lab_spans_forward_lag_seconds",
            "Age of the oldest payload that an address lacks",
            labels=["address"],
        )
        for address, (payloads, oldest_ns) in self._backlog().items():
            queued.add_metric([address], payloads)
            lag.add_metric([address], 0 if oldest_ns is None else max(0.0, (time.time_ns() - oldest_ns) / 1e9))
        return size, queued, lag

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type: OpenMetrics when the Accept header asks for it, else Prometheus text."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
