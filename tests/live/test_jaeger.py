"""What stock Jaeger knows of one order, asked through its own API, and what the span store adds."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest

from tests.lab import AT_MOST_ONCE, CHAINS, PARTICIPANTS, SERVICES, SYNCHRONOUS, eventually
from tests.live.lab import RealLab

pytestmark = pytest.mark.live

HOPS = {
    # the way of an order that goes well: who says it, on which channel, who hears it
    "choreography": [
        ("orders", "orders.events", "inventory"),
        ("inventory", "inventory.events", "payment"),
        ("payment", "payment.events", "shipping"),
        ("shipping", "shipping.events", "notifications"),
        ("notifications", "notifications.events", "orders"),
    ],
    "message_queue": [
        ("orders", "inventory.commands", "inventory"),
        ("inventory", "payment.commands", "payment"),
        ("payment", "shipping.commands", "shipping"),
        ("shipping", "notifications.commands", "notifications"),
    ],
}


class Trace:
    """A trace as Jaeger gives it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.id: str = document["traceID"]
        self.spans: list[dict[str, Any]] = document["spans"]
        self._services = {key: value["serviceName"] for key, value in document["processes"].items()}
        self._by_id = {span["spanID"]: span for span in self.spans}

    def service(self, span: dict[str, Any]) -> str:
        return self._services[span["processID"]]

    def kind(self, span: dict[str, Any]) -> str:
        return next((tag["value"] for tag in span["tags"] if tag["key"] == "span.kind"), "internal")

    def parent(self, span: dict[str, Any]) -> dict[str, Any] | None:
        """What the span hangs on. Where a span's parent is also its link's target, Jaeger's API gives one reference,
        FOLLOWS_FROM, for both; its page draws the first reference within the trace as the parent."""
        ids = [r["spanID"] for r in span["references"] if r["traceID"] == self.id]
        return self._by_id.get(ids[0]) if ids else None

    def above(self, span: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Its parent, that one's parent, and so on."""
        while (parent := self.parent(span)) is not None:
            yield parent
            span = parent

    def links(self, span: dict[str, Any]) -> list[tuple[str, str]]:
        return [(r["traceID"], r["spanID"]) for r in span["references"] if r["refType"] == "FOLLOWS_FROM"]

    def find(self, operation: str, channel: str, service: str) -> dict[str, Any]:
        """The one span of ``operation`` about ``channel`` in ``service``: destinations are the wires' own names."""
        found = [
            span
            for span in self.spans
            if self.service(span) == service
            and span["operationName"].startswith(f"{operation} ")
            and channel in span["operationName"]
        ]
        assert len(found) == 1, f"{operation} {channel} in {service}: {[s['operationName'] for s in found]}"
        return found[0]


def traces_of(lab: RealLab, order_id: str, kind: str, handled: Collection[tuple[str, str]]) -> list[Trace]:
    """Jaeger's traces with the order's id, once they have as many spans as the span store, and in these is a span of
    ``kind`` for all (part of a name, service) in ``handled``."""

    def look() -> list[Trace] | None:
        joined = lab.store(f"/orders/{order_id}")
        if joined is None or not all(_arrived(joined["spans"], kind, *each) for each in handled):
            return None
        documents = {
            trace_id: trace for trace_id in joined["traces"] for trace in lab.jaeger(f"/api/traces/{trace_id}")
        }
        spans = sum(len(trace["spans"]) for trace in documents.values())
        if spans != len(joined["spans"]):
            return None
        return [Trace(document) for document in documents.values()]

    return eventually(look, f"Jaeger has all spans of order {order_id}")


def _arrived(spans: list[dict[str, Any]], kind: str, name: str, service: str) -> bool:
    return any(s["service"] == service and s["kind"] == kind and name in s["name"] for s in spans)


@pytest.mark.parametrize(("style", "transport"), SYNCHRONOUS)
def test_a_call_is_one_trace_with_every_participant_under_orders(lab: RealLab, style: str, transport: str) -> None:
    order = lab.finished(style, transport)
    traces = traces_of(lab, order["id"], "SERVER", [("", service) for service in SERVICES])
    assert len(traces) == 1
    (trace,) = traces
    servers = [span for span in trace.spans if trace.kind(span) == "server"]
    assert {trace.service(span) for span in servers} == {"orders", *PARTICIPANTS}
    for server in servers:
        if trace.service(server) == "orders":
            assert server["operationName"] == "POST /orders"
        else:
            above = list(trace.above(server))
            caller = next(span for span in above if trace.service(span) != trace.service(server))
            assert (trace.service(caller), trace.kind(caller)) == ("orders", "client")
            assert above[-1]["operationName"] == "POST /orders"


@pytest.mark.parametrize(("style", "transport"), [*CHAINS, *AT_MOST_ONCE])
def test_in_shape_both_events_are_one_trace_with_a_link_on_each_process_span(
    lab: RealLab, style: str, transport: str
) -> None:
    order = lab.finished(style, transport)
    hops = hops_of(style, transport)
    traces = traces_of(lab, order["id"], "CONSUMER", [(channel, hearer) for _, channel, hearer in hops])
    assert len(traces) == 1, "one order at a time makes no batches, so everything hangs together"
    (trace,) = traces
    for speaker, channel, hearer in hops:
        sent = trace.find(SENDS[transport], channel, speaker)
        queue = trace.find("queue", channel, hearer)
        process = trace.find("process", channel, hearer)
        assert trace.parent(queue) == sent
        assert trace.parent(process) == sent
        assert (trace.id, sent["spanID"]) in trace.links(process)
    assert not [span for span in trace.spans if span["references"] and trace.parent(span) is None], "orphans"


@pytest.mark.parametrize(("style", "transport"), [*CHAINS, *AT_MOST_ONCE])
def test_in_shape_link_each_hop_is_a_trace_linked_to_the_one_before(lab: RealLab, style: str, transport: str) -> None:
    lab.put_settings({"trace.shape": "link"})
    order = lab.finished(style, transport)
    hops = hops_of(style, transport)
    traces = traces_of(lab, order["id"], "CONSUMER", [(channel, hearer) for _, channel, hearer in hops])
    by_hop = {
        hop: trace
        for trace in traces
        for span in trace.spans
        for hop in hops
        if span["operationName"].startswith("process ")
        and hop[1] in span["operationName"]
        and trace.service(span) == hop[2]
    }
    assert set(by_hop) == set(hops)
    assert len({trace.id for trace in by_hop.values()}) == len(hops), "each hop in its own trace"
    before = next(trace for trace in traces if any(s["operationName"] == "POST /orders" for s in trace.spans))
    for hop in hops:
        speaker, channel, hearer = hop
        sent = before.find(SENDS[transport], channel, speaker)
        process = by_hop[hop].find("process", channel, hearer)
        assert (before.id, sent["spanID"]) in by_hop[hop].links(process)
        before = by_hop[hop]
    joined = lab.store(f"/orders/{order['id']}")
    assert set(joined["traces"]) >= {trace.id for trace in by_hop.values()}, "the span store joins them by the order"


def hops_of(style: str, transport: str) -> list[tuple[str, str, str]]:
    """The style's hops, with channels as the transport's destinations are called."""
    return [(speaker, CALLED.get(transport, str)(channel), hearer) for speaker, channel, hearer in HOPS[style]]


SENDS = {"rabbitmq": "publish", "kafka": "send", "sqs": "send", "redis_streams": "XADD", "redis_pubsub": "PUBLISH"}
CALLED: dict[str, Callable[[str], str]] = {"sqs": lambda channel: channel.replace(".", "_")}
