"""Where contrib's instrumentations (0.66b1) leave the semantic conventions (1.44.0), and what we make of it.

``DEVIATIONS`` is the one table. ``corrected`` gives contrib a tracer provider that applies it: names and attributes
are put right as contrib sets them, a span ends when its work does, an exception is recorded once. What is marked
``fixed=False`` stays as it is, and nothing else may deviate: a test walks every span.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv._incubating.attributes import net_attributes as net
from opentelemetry.semconv._incubating.attributes import rpc_attributes as rpc
from opentelemetry.semconv.attributes import network_attributes as network
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from services.telemetry import conventions as c
from services.telemetry import metrics
from services.telemetry.messaging import fail
from services.telemetry.setup import Telemetry

_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""gRPC's status codes by number, spelt out so that a process without gRPC need not load it."""


def _host(value: str) -> str:
    """``127.0.0.1:80`` and ``[::1]:80`` without the port, and without brackets."""
    host, colon, port = value.rpartition(":")
    return (host if colon and port.isdecimal() and (value[0] == "[" or ":" not in host) else value).strip("[]")


@dataclass(frozen=True, slots=True)
class Deviation:
    """``library`` (``opentelemetry.instrumentation.*``) gives ``emits``, which becomes ``becomes``.

    Where ``attribute``, both are attribute names (``becomes`` empty: left out) and ``convert`` makes the value;
    else they are sentences. ``issue`` is contrib's number, empty where we found none.
    """

    library: str
    emits: str
    becomes: str
    issue: str = ""
    attribute: bool = True
    convert: Callable[[Any], Any] = lambda value: value
    fixed: bool = True


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation("grpc", rpc.RPC_SYSTEM, c.RPC_SYSTEM_NAME, "#4279"),
    Deviation("grpc", rpc.RPC_SERVICE, "", "#4279"),
    Deviation("grpc", rpc.RPC_METHOD, "", "#4279"),  # the short name; the full one comes from the span's
    Deviation(*("grpc", rpc.RPC_GRPC_STATUS_CODE, c.RPC_RESPONSE_STATUS_CODE, "#4279"), convert=_CODES.__getitem__),
    Deviation("grpc", "rpc.user_agent", "", "#4279"),
    Deviation("grpc", net.NET_PEER_IP, network.NETWORK_PEER_ADDRESS, "#4279", convert=_host),
    Deviation("grpc", net.NET_PEER_PORT, network.NETWORK_PEER_PORT, "#4279", convert=int),
    Deviation("grpc", net.NET_PEER_NAME, "", "#4279"),
    Deviation("grpc", "span name begins with a slash", "without", "#4279", attribute=False),
    Deviation("grpc", "status code 0 from the start", "the code, at the end", attribute=False),
    Deviation("grpc", "no server.address on CLIENT", "the peer's", "#4279", attribute=False),
    Deviation("grpc", "no error.type", "the status code's name", "#4279", attribute=False),
    Deviation("grpc", "no rpc.*.call.duration", "observed when the span ends", "#4279", attribute=False),
    Deviation("grpc", "a cancelled call's CLIENT span never ends", "CANCELLED", "#3271", attribute=False),
    Deviation("grpc", "an exception is recorded twice", "once", "#5068", attribute=False),
    Deviation("grpc", "abort() is recorded as an exception", "it is an answer", "#5068", attribute=False),
    Deviation("grpc", "SERVER after a crash or a deadline: UNSET, code 0", "ERROR and its code", attribute=False),
    Deviation("asgi", c.SERVER_ADDRESS, c.SERVER_ADDRESS, convert=_host),  # has the port in it
    Deviation("asgi", "a cancelled request's SERVER span is UNSET", "ERROR", attribute=False),
    Deviation("httpx", network.NETWORK_PEER_ADDRESS, ""),  # is a host name
    Deviation("httpx", network.NETWORK_PEER_PORT, ""),
    Deviation("httpx", "span name has no url.template", "it has", attribute=False),
    Deviation("httpx", "a cancelled call's CLIENT span is UNSET", "ERROR", attribute=False),
    Deviation("httpx", "no http.client.request.duration where a call raises", "", attribute=False, fixed=False),
    Deviation("httpx, asgi", "http.*.duration has no exemplars", "", attribute=False, fixed=False),
)
"""#4279 is the pull request that prepares gRPC's move to the conventions of 1.44.0."""


def corrected(
    telemetry: Telemetry, library: str, attributes: Mapping[str, AttributeValue] | None = None
) -> trace.TracerProvider:
    """A provider for contrib's ``library``; every span gets ``attributes`` as well."""
    return _Provider(telemetry, library, attributes or {})


class _Provider(trace.TracerProvider):
    def __init__(self, telemetry: Telemetry, library: str, attributes: Mapping[str, AttributeValue]) -> None:
        self._telemetry, self._library, self._attributes = telemetry, library, attributes

    def get_tracer(self, instrumenting_module_name: str, *args: Any, **_: Any) -> trace.Tracer:
        version = args[0] if args else None
        tracer = self._telemetry.provider.get_tracer(instrumenting_module_name, version, schema_url=c.SCHEMA_URL)
        return _Tracer(tracer, self._telemetry.service, self._library, self._attributes)


class _Tracer(trace.Tracer):
    def __init__(
        self, tracer: trace.Tracer, service: str, library: str, attributes: Mapping[str, AttributeValue]
    ) -> None:
        self._tracer, self._service, self._library, self._extra = tracer, service, library, attributes
        self._rules = {d.emits: d for d in DEVIATIONS if d.library == library and d.attribute}

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> "_Span":
        right = dict(self._extra)
        for key, value in (attributes or {}).items():
            right.update(_corrected(self._rules, key, value))
        grpc = self._library == "grpc"
        if grpc:
            name = name.lstrip("/")
            right[c.RPC_METHOD] = name
            right.pop(c.RPC_RESPONSE_STATUS_CODE, None)
        span = self._tracer.start_span(name, context, kind, right, links, start_time)
        return _GrpcSpan(span, self._rules, self._service, name, kind) if grpc else _Span(span, self._rules)

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, *args: Any, end_on_exit: bool = True, record_exception: bool = True, **kwargs: Any
    ) -> Iterator["_Span"]:
        span = self.start_span(name, *args, **{k: v for k, v in kwargs.items() if k != "set_status_on_exception"})
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as error:
            if record_exception and isinstance(error, Exception):
                span.record_exception(error)
            span.fail(error)
            span.end()
            raise
        if end_on_exit:
            span.end()


class _Span(trace.Span):
    """A span that contrib holds: what it says is put right before the SDK's span hears it."""

    def __init__(self, span: trace.Span, rules: Mapping[str, Deviation]) -> None:
        self._span, self._rules = span, rules
        self._recorded: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._span, name)

    def get_span_context(self) -> SpanContext:
        return self._span.get_span_context()

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        for right, converted in _corrected(self._rules, key, value).items():
            self._span.set_attribute(right, converted)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._span.add_event(name, attributes, timestamp)

    def update_name(self, name: str) -> None:
        self._span.update_name(name)

    def is_recording(self) -> bool:
        return self._span.is_recording()

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._span.set_status(status, description)

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        if exception is not self._recorded and type(exception).__qualname__ != "AbortError":
            self._span.record_exception(exception, *args, **kwargs)
        self._recorded = exception

    def fail(self, error: BaseException) -> None:
        fail(self._span, error)

    def end(self, end_time: int | None = None) -> None:
        if self._span.is_recording():
            self._span.end(end_time)


class _GrpcSpan(_Span):
    """The status code decides what the span says, at its end."""

    def __init__(
        self, span: trace.Span, rules: Mapping[str, Deviation], service: str, method: str, kind: SpanKind
    ) -> None:
        super().__init__(span, rules)
        self._labels, self._kind = (service, "grpc", method), kind
        self._code = "OK"
        self._error = self._ended = False
        self._started = time.perf_counter()

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if key == rpc.RPC_GRPC_STATUS_CODE:
            self._code = _CODES[int(str(value))]
        else:
            super().set_attribute(key, value)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        super().set_status(status, description)
        self._error = (status.status_code if isinstance(status, Status) else status) is StatusCode.ERROR

    def fail(self, error: BaseException) -> None:
        """Where the call did not end with a code of its own: it was cancelled, or contrib failed."""
        if self._code == "OK":
            self._code = "UNKNOWN" if isinstance(error, Exception) else "CANCELLED"
            self.set_status(StatusCode.ERROR, type(error).__qualname__)

    def end(self, end_time: int | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        self._span.set_attribute(c.RPC_RESPONSE_STATUS_CODE, self._code)
        if self._error:
            self._span.set_attribute(c.ERROR_TYPE, self._code)
        self._span.end(end_time)
        duration = metrics.RPC_SERVER_DURATION if self._kind is SpanKind.SERVER else metrics.RPC_CLIENT_DURATION
        duration.labels(*self._labels, self._code if self._error else "").observe(
            time.perf_counter() - self._started, metrics.exemplar(self._span)
        )


def _corrected(rules: Mapping[str, Deviation], key: str, value: AttributeValue) -> dict[str, AttributeValue]:
    rule = rules.get(key)
    if rule is None:
        return {key: value}
    return {rule.becomes: rule.convert(value)} if rule.becomes else {}
