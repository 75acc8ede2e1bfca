"""Orders told as spans, by hand: what our messaging layer writes, shape by shape, without running it.

Times are milliseconds of a story that begins at 0; ``EPOCH_NS`` is where that is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.telemetry import conventions as names

EPOCH_NS = 1_795_000_000_000_000_000
_KINDS = {
    "internal": Span.SPAN_KIND_INTERNAL,
    "server": Span.SPAN_KIND_SERVER,
    "client": Span.SPAN_KIND_CLIENT,
    "producer": Span.SPAN_KIND_PRODUCER,
    "consumer": Span.SPAN_KIND_CONSUMER,
}


def ns(ms: float) -> int:
    return EPOCH_NS + round(ms * 1_000_000)


@dataclass(frozen=True)
class Told:
    """A span of a story; ``parent`` and ``links`` are spans of it too."""

    trace_id: bytes
    span_id: bytes
    service: str
    span: Span

    @property
    def ref(self) -> tuple[str, str]:
        return self.trace_id.hex(), self.span_id.hex()


@dataclass
class Story:
    """Spans in the order in which they were told; ids follow from ``seed`` and are the same in every run."""

    seed: str = "story"
    run_id: str = "run-1"
    style: str = "choreography"
    transport: str = "rabbitmq"
    order_id: str | None = "o-1"
    told: list[Told] = field(default_factory=list)

    def ident(self, what: str, size: int) -> bytes:
        return hashlib.sha256(f"{self.seed}/{what}".encode()).digest()[:size]

    def span(
        self,
        service: str,
        name: str,
        kind: str,
        start_ms: float,
        end_ms: float,
        *,
        parent: Told | None = None,
        trace: str | None = None,
        links: Sequence[Told] = (),
        attributes: Mapping[str, Any] | None = None,
        order_id: str | None = "",
        flow: bool = True,
        error: bool = False,
    ) -> Told:
        number = len(self.told)
        trace_id = parent.trace_id if parent else self.ident(f"trace {trace or number}", 16)
        span_id = self.ident(f"span {number}", 8)
        span = Span(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent.span_id if parent else b"",
            name=name,
            kind=_KINDS[kind],
            start_time_unix_nano=ns(start_ms),
            end_time_unix_nano=ns(end_ms),
        )
        values: dict[str, Any] = {}
        if flow:
            values |= {
                names.LAB_RUN_ID: self.run_id,
                names.LAB_STYLE: self.style,
                names.LAB_TRANSPORT: self.transport,
            }
        owner = self.order_id if order_id == "" else order_id
        if owner is not None:
            values[names.LAB_ORDER_ID] = owner
        for key, value in (values | dict(attributes or {})).items():
            item = span.attributes.add(key=key)
            if isinstance(value, bool):
                item.value.bool_value = value
            elif isinstance(value, int):
                item.value.int_value = value
            else:
                item.value.string_value = value
        for target in links:
            link = span.links.add(trace_id=target.trace_id, span_id=target.span_id)
            link.attributes.add(key="lab.relation").value.string_value = "creation"
        if error:
            span.status.code = 2
            span.status.message = "boom"
        told = Told(trace_id, span_id, service, span)
        self.told.append(told)
        return told

    def lose(self, *spans: Told) -> None:
        """These spans never reach the store."""
        self.told = [told for told in self.told if told not in spans]

    def payload(self, *others: "Story") -> bytes:
        request = ExportTraceServiceRequest()
        by_service: dict[str, Any] = {}
        for told in [*self.told, *(told for other in others for told in other.told)]:
            scope = by_service.get(told.service)
            if scope is None:
                resource_spans = request.resource_spans.add()
                resource_spans.resource.attributes.add(key="service.name").value.string_value = told.service
                scope = by_service[told.service] = resource_spans.scope_spans.add()
                scope.scope.name = "antiphon"
            scope.spans.append(told.span)
        return request.SerializeToString()

    # --- the messaging layer's spans -------------------------------------------------------------------------

    def message(self, channel: str, operation: str, message_id: str | None, **more: Any) -> dict[str, Any]:
        values = {
            names.MESSAGING_SYSTEM: self.transport,
            names.DESTINATION_NAME: channel,
            names.OPERATION_TYPE: operation,
            names.OPERATION_NAME: operation,
        }
        if message_id:
            values[names.MESSAGE_ID] = message_id
        return values | more

    def front_door(self, start_ms: float, end_ms: float, **more: Any) -> Told:
        return self.span("orders", "POST /orders", "server", start_ms, end_ms, **more)

    def outbox(self, parent: Told, channel: str, start_ms: float, end_ms: float) -> Told:
        return self.span(
            parent.service,
            f"outbox {channel}",
            "internal",
            start_ms,
            end_ms,
            parent=parent,
            attributes=self.message(channel, "outbox", None, **{names.LAB_WAIT: "outbox"}),
        )

    def send(self, parent: Told, channel: str, message_id: str, start_ms: float, end_ms: float) -> Told:
        return self.span(
            parent.service,
            f"send {channel}",
            "producer",
            start_ms,
            end_ms,
            parent=parent,
            attributes=self.message(channel, "send", message_id),
        )

    def consume(
        self,
        service: str,
        sent: Told,
        channel: str,
        message_id: str,
        *,
        shape: str,
        sent_ms: float,
        received_ms: float,
        end_ms: float,
        attempt: int = 1,
        polls: Sequence[Told] = (),
        attributes: Mapping[str, Any] | None = None,
        error: bool = False,
        start_ms: float | None = None,
    ) -> Told:
        """``queue`` and ``process`` of one delivery, in trace shape both, link or parent; returns ``process``."""
        parent = None if shape == "link" else sent
        links = [] if shape == "parent" else [sent]
        trace = f"consumer {len(self.told)}"
        self.span(
            service,
            f"queue {channel}",
            "internal",
            sent_ms,
            received_ms,
            parent=parent,
            trace=trace,
            links=links,
            attributes=self.message(channel, "queue", message_id, **{names.LAB_WAIT: "queue"}),
        )
        return self.span(
            service,
            f"process {channel}",
            "consumer",
            received_ms if start_ms is None else start_ms,
            end_ms,
            parent=parent,
            trace=trace,
            links=[*links, *polls],
            attributes=self.message(channel, "process", message_id, **{names.LAB_DELIVERY_ATTEMPT: attempt})
            | dict(attributes or {}),
            error=error,
        )


COMPLETED = {names.LAB_ORDER_STATE: "completed"}


def choreography(shape: str, **story: Any) -> Story:
    """orders → inventory → payment → orders: 0 to 100 ms, of which 10 ms and three times 5 ms are waits."""
    told = Story(**story)
    door = told.front_door(0, 10)
    told.outbox(door, "orders.events", 8, 18)
    sent = told.send(door, "orders.events", "m-1", 18, 22)
    reserve = told.consume(
        "inventory", sent, "orders.events", "m-1", shape=shape, sent_ms=20, received_ms=25, end_ms=45
    )
    sent = told.send(reserve, "inventory.events", "m-2", 40, 44)
    charge = told.consume(
        "payment", sent, "inventory.events", "m-2", shape=shape, sent_ms=42, received_ms=47, end_ms=80
    )
    sent = told.send(charge, "payment.events", "m-3", 70, 74)
    told.consume(
        "orders",
        sent,
        "payment.events",
        "m-3",
        shape=shape,
        sent_ms=72,
        received_ms=77,
        end_ms=100,
        attributes=COMPLETED,
    )
    return told


def request_response(**story: Any) -> Story:
    """orders calls inventory, then payment, and answers: one trace, 0 to 60 ms."""
    told = Story(**({"style": "request_response", "transport": "rest"} | story))
    door = told.front_door(0, 60, attributes=COMPLETED)
    call = told.span("orders", "POST", "client", 5, 25, parent=door, order_id=None)
    told.span("inventory", "POST /commands", "server", 8, 22, parent=call, order_id=None)
    call = told.span("orders", "POST", "client", 30, 55, parent=door, order_id=None)
    told.span("payment", "POST /commands", "server", 32, 52, parent=call, order_id=None)
    return told
