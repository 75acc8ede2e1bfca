"""Spans and metrics of calls, by the semantic conventions 1.44.0 for RPC (Release Candidate), written out.

For the wires that contrib does not instrument; ``rest`` and ``grpc`` use contrib's and take only the metrics here.
``rpc.system.name`` has well-known values for few systems; ours beyond those: ``memory``.
"""

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer, get_current_span, set_span_in_context

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import PROPAGATOR, fail


class RpcSpans:
    """The instrumentation of one service's calls."""

    def __init__(self, service: str, tracer: Tracer) -> None:
        self.service = service
        self._tracer = tracer

    @contextmanager
    def client(self, system: str, method: str, carrier: MutableMapping[str, str], peer: str) -> Iterator[Span]:
        """Around a call; ``carrier`` gets the context. ``method`` is fully qualified."""
        span = self._tracer.start_span(method, kind=SpanKind.CLIENT, attributes=_attributes(system, method, peer))
        context = set_span_in_context(span)
        PROPAGATOR.inject(carrier, context)
        with _measured(span, context, metrics.RPC_CLIENT_DURATION.labels, (self.service, system, method)):
            yield span

    @contextmanager
    def server(self, system: str, method: str, carrier: Mapping[str, str]) -> Iterator[Span]:
        """Around answering a call, in the context that ``carrier`` brought."""
        parent = PROPAGATOR.extract(carrier, Context())
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, _attributes(system, method))
        context = set_span_in_context(span, parent)
        with _measured(span, context, metrics.RPC_SERVER_DURATION.labels, (self.service, system, method)):
            yield span


def _attributes(system: str, method: str, peer: str | None = None) -> dict[str, str]:
    attributes = {c.RPC_SYSTEM_NAME: system, c.RPC_METHOD: method}
    return attributes if peer is None else {**attributes, c.SERVER_ADDRESS: peer}


@contextmanager
def _measured(span: Span, context: Context, labels, names: tuple[str, str, str]) -> Iterator[None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    started = time.perf_counter()
    token = otel_context.attach(context)
    error = ""
    try:
        yield
    except BaseException as raised:
        error = fail(span, raised)
        raise
    finally:
        otel_context.detach(token)
        span.end()
        labels(*names, error).observe(time.perf_counter() - started, metrics.exemplar(span))


def about_order(order_id: str) -> None:
    """Say on the current span whose order it is about."""
    get_current_span().set_attribute(c.LAB_ORDER_ID, order_id)
