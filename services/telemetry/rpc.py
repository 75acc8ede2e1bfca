"""Spans and metrics of calls, by the semantic conventions 1.44.0 for RPC (Release Candidate), written out.

For the wires that contrib does not instrument; ``rest`` and ``grpc`` use contrib's and take only the metrics here.
``rpc.system.name`` has well-known values for few systems: those of ours stand in ``conventions.RpcSystem``.
"""

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_current_span, set_span_in_context

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import PROPAGATOR, fail


class Call:
    """One call as its span sees it. ``error`` is its ``error.type``; empty while nothing has failed."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.error = ""

    def answered(self, code: str) -> None:
        """It got the answer that the protocol calls ``code`` (``rpc.response.status_code``)."""
        self.span.set_attribute(c.RPC_RESPONSE_STATUS_CODE, code)

    def failed(self, code: str, detail: str) -> None:
        """The answer ``code`` is an error: it is the ``error.type`` too, also of an exception that follows from it."""
        self.answered(code)
        self.error = code
        self.span.set_attribute(c.ERROR_TYPE, code)
        self.span.set_status(Status(StatusCode.ERROR, detail[:200]))

    def broke(self, error: BaseException) -> None:
        """``error`` ended it; what ``failed`` has said before stays."""
        self.error = self.error or fail(self.span, error)


class RpcSpans:
    """The instrumentation of one service's calls."""

    def __init__(self, service: str, tracer: Tracer) -> None:
        self.service = service
        self._tracer = tracer

    @contextmanager
    def client(self, system: str, method: str, carrier: MutableMapping[str, str], peer: str) -> Iterator[Call]:
        """Around a call; ``carrier`` gets the context. ``method`` is fully qualified, ``peer`` is ``host:port`` or,
        where there is no such thing, a name."""
        host, _, port = peer.rpartition(":")
        at: dict[str, str | int] = {c.SERVER_ADDRESS: host.strip("[]") or peer}
        if host:
            at[c.SERVER_PORT] = int(port)
        span = self._tracer.start_span(
            method, kind=SpanKind.CLIENT, attributes={c.RPC_SYSTEM_NAME: system, c.RPC_METHOD: method, **at}
        )
        context = set_span_in_context(span)
        PROPAGATOR.inject(carrier, context)
        with _measured(span, context, metrics.RPC_CLIENT_DURATION.labels, (self.service, system, method)) as call:
            yield call

    @contextmanager
    def server(self, system: str, method: str, carrier: Mapping[str, str] | None) -> Iterator[Call]:
        """Around answering a call, in the context that ``carrier`` brought; None: in the current one."""
        parent = get_current() if carrier is None else PROPAGATOR.extract(carrier, Context())
        attributes = {c.RPC_SYSTEM_NAME: system, c.RPC_METHOD: method}
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, attributes)
        context = set_span_in_context(span, parent)
        with _measured(span, context, metrics.RPC_SERVER_DURATION.labels, (self.service, system, method)) as call:
            yield call


@contextmanager
def _measured(span: Span, context: Context, labels, names: tuple[str, str, str]) -> Iterator[Call]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    started = time.perf_counter()
    token = otel_context.attach(context)
    call = Call(span)
    try:
        yield call
    except BaseException as raised:
        call.broke(raised)
        raise
    finally:
        otel_context.detach(token)
        span.end()
        labels(*names, call.error).observe(time.perf_counter() - started, metrics.exemplar(span))


def about_order(order_id: str) -> None:
    """Say on the current span whose order it is about."""
    get_current_span().set_attribute(c.LAB_ORDER_ID, order_id)
