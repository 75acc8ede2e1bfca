"""A running lab as an operator has it, wherever it runs: its front door, its admin ports, its span store, Jaeger."""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lab.targets import Target
from services.telemetry.conventions import BATCH_MESSAGE_COUNT

ORDER = {
    "customer": "c-1",
    "card": "4242424242424242",
    "ship_to": "Lisbon",
    "lines": [{"sku": "tea", "quantity": 2}],
}
SERVICES = ("orders", "inventory", "payment", "shipping", "notifications")
PARTICIPANTS = SERVICES[1:]
CARRIERS = ("carrier-swift", "carrier-steady", "carrier-frugal")
EVERYBODY = (*SERVICES, *CARRIERS, "ledger")
"""With those who are reached by brokers alone."""
CALLS = ("rest", "grpc", "json_rpc", "thrift", "avro_rpc", "ice")
SYNCHRONOUS = [("request_response", transport) for transport in CALLS]
CHOREOGRAPHIES = [("choreography", transport) for transport in ("rabbitmq", "kafka", "redis_streams")]
QUEUES = [("message_queue", transport) for transport in ("rabbitmq", "kafka", "sqs", "redis_streams")]
CHAINS = [*CHOREOGRAPHIES, *QUEUES]
CONVERSATIONS = [
    ("async_request_response", "rabbitmq"),
    ("publish_subscribe", "rabbitmq"),
    ("publish_async_responses", "kafka"),
    ("orchestration", "rabbitmq"),
    ("event_sourcing", "kafka"),
]
ASYNCHRONOUS = [*CHAINS, *CONVERSATIONS]
"""Those that lose nothing of what was accepted."""
BOTH = [("notification", "rest,rabbitmq"), ("hybrid", "grpc,rabbitmq,kafka")]
"""Those that begin with calls and go on by messages."""
IMPATIENT = {"publish_async_responses", "orchestration"}
"""Styles with a deadline: an order may be rejected because somebody was away for too long."""
AT_MOST_ONCE = [("choreography", "redis_pubsub")]
ENDS = {"completed", "rejected"}
PATIENT = {"rpc.timeout_s": "30", "order.deadline_s": "60", "quotes.deadline_s": "8", "saga.timeout_s": "60"}
"""Settings with which nobody gives an order up because the machine is busy."""
FIGURES = {
    **dict.fromkeys(SYNCHRONOUS, (1, 9, 0)),
    ("request_response", "json_rpc"): (1, 17, 0),
    ("choreography", "rabbitmq"): (1, 40, 11),
    ("choreography", "kafka"): (1, 51, 22),
    ("choreography", "redis_streams"): (1, 51, 22),
    ("choreography", "redis_pubsub"): (1, 29, 11),
    ("message_queue", "rabbitmq"): (1, 34, 8),
    ("message_queue", "kafka"): (1, 42, 16),
    ("message_queue", "sqs"): (1, 42, 16),
    ("message_queue", "redis_streams"): (1, 42, 16),
    ("async_request_response", "rabbitmq"): (1, 37, 8),
    ("notification", "rest,rabbitmq"): (1, 12, 1),
    ("publish_subscribe", "rabbitmq"): (1, 31, 8),
    ("publish_async_responses", "kafka"): (1, 80, 34),
    ("orchestration", "rabbitmq"): (1, 37, 8),
    ("event_sourcing", "kafka"): (1, 76, 43),
    ("hybrid", "grpc,rabbitmq,kafka"): (1, 62, 30),
}
"""Traces, spans and links of an order that goes well and has the lab to itself."""
T = TypeVar("T")
AnyTarget = TypeVar("AnyTarget", bound=Target)


def eventually(ask: Callable[[], T | None], what: str, timeout_s: float = 30) -> T:
    """The first answer that is neither None nor empty. Fails with ``what`` did not happen."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what} (last answer: {answer!r})")
        time.sleep(0.1)


class Lab(ABC, Generic[AnyTarget]):
    def __init__(self, target: AnyTarget) -> None:
        self.target = target
        self.addresses = target.addresses
        self.http = httpx.Client(trust_env=False, timeout=30)

    @abstractmethod
    def admin(self, service: str) -> Sequence[str]:
        """The address of the admin port of each process of a service, by HTTP."""

    @property
    @abstractmethod
    def jaeger_metrics(self) -> str:
        """The address below which /metrics has what Jaeger counts."""

    # --- the front door ------------------------------------------------------------------------------------------
    def place(self, style: str, transport: str, body: Mapping[str, Any] = ORDER, **headers: str) -> httpx.Response:
        return self.http.post(
            f"{self.addresses['front_door']}/orders",
            params={"style": style, "transport": transport},
            json=body,
            headers=headers,
        )

    def finished(self, style: str, transport: str, body: Mapping[str, Any] = ORDER) -> dict[str, Any]:
        answer = self.place(style, transport, body)
        assert answer.status_code in {201, 202}, answer.text
        return self.ended(answer.json()["id"])

    def ended(self, order_id: str, timeout_s: float = 30) -> dict[str, Any]:
        """The order, once it has ended."""

        def look() -> dict[str, Any] | None:
            order: dict[str, Any] = self.http.get(
                f"{self.addresses['front_door']}/orders/{order_id}", params={"wait_s": 5}
            ).json()
            return order if order["state"] in ENDS else None

        return eventually(look, f"order {order_id} ends", timeout_s)

    # --- settings ------------------------------------------------------------------------------------
    def settings(self) -> dict[str, str]:
        values: dict[str, str] = self._settings("GET")["values"]
        return values

    def put_settings(self, values: Mapping[str, str | None]) -> None:
        """Change settings and wait until every process has them (they ask each second)."""
        before = {service: self.applied(service) for service in EVERYBODY}
        wanted = self._settings("PUT", {"values": dict(values)})["values"]
        for service in EVERYBODY:
            eventually(
                lambda service=service: all(each == wanted for each in self.applied(service)) or None,  # type: ignore[misc]
                f"{service} has the settings {values} (had {before[service]})",
                10,
            )

    def applied(self, service: str) -> list[dict[str, str]]:
        """The settings in force in each process of a service."""
        return [self.http.get(f"{admin}/settings/applied").json() for admin in self.admin(service)]

    def _settings(self, method: str, body: Any = None) -> dict[str, Any]:
        answer = self.http.request(
            method,
            self.addresses["orders_admin"] + "/settings",
            json=body,
            headers={"authorization": f"Bearer {self.target.settings_token}"},
        )
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    # --- what was seen ------------------------------------------------------------------------------
    def metric(self, address: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry ``labels``."""
        text = self.http.get(f"{address}/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def service_metric(self, service: str, name: str, **labels: str) -> float:
        return sum(self.metric(admin, name, **labels) for admin in self.admin(service))

    def effects(self) -> dict[str, tuple[int, int]]:
        """Per action: how often it was carried out, for how many orders. Processes of one service share its rows."""
        return {
            action: (times, orders)
            for service in PARTICIPANTS
            for action, (times, orders) in self.http.get(f"{self.admin(service)[0]}/effects").json().items()
        }

    def assert_nothing_twice(self) -> None:
        twice = {action: counts for action, counts in self.effects().items() if counts[0] != counts[1]}
        assert not twice, f"done more often than there are orders: {twice}"

    def store(self, path: str, **params: Any) -> Any:
        """An answer of the span store; None where it does not know the order or run (yet)."""
        answer = self.http.get(self.addresses["span_store"] + path, params=params)
        assert answer.status_code in {200, 404}, f"{path}: {answer.text}"
        return answer.json() if answer.status_code == 200 else None

    def jaeger(self, path: str, **params: Any) -> Any:
        """``data`` of an answer of Jaeger's API; nothing where it does not know the trace (yet)."""
        answer = self.http.get(self.addresses["jaeger"] + path, params=params)
        assert answer.status_code in {200, 404}, f"{path}: {answer.text}"
        return answer.json()["data"] or []


def assert_figures(lab: Lab[Any], style: str, transport: str) -> None:
    """An order of this flow leaves what FIGURES says, and nothing more."""
    # who keeps silent leaves no spans
    lab.put_settings({**PATIENT, "carrier-frugal.silent_share": "0"})
    wanted = FIGURES[style, transport]
    for _ in range(5):
        left = _left_behind(lab, lab.finished(style, transport)["id"], wanted)
        if left is not None:
            assert left == wanted
            return
    raise AssertionError("of five orders none had the lab to itself: each time a poll brought several messages")


def _left_behind(lab: Lab[Any], order_id: str, wanted: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """The order's traces, spans and links, as soon as they are what is ``wanted`` and stay so, or after 15 s.

    None where messages came in batches, as of a journal several may: then spans are shared, and their number is chance.
    """
    seen: list[tuple[int, int, int]] = []
    batches: set[str] = set()

    def look() -> bool:
        joined = lab.store(f"/orders/{order_id}")
        if joined is None:
            return False
        spans = joined["spans"]
        seen.append((len(joined["traces"]), len(spans), sum(len(span["links"]) for span in spans)))
        batches.update(span["name"] for span in spans if span["attributes"].get(BATCH_MESSAGE_COUNT, 1) > 1)
        # the last spans of a message come after the order's end; a second look sees what should not come
        return bool(batches) or seen[-2:] == [wanted] * 2

    with suppress(AssertionError):
        eventually(look, "the order has its traces, spans and links", 15)
    return None if batches else seen[-1]


def assert_as_promised(orders: Sequence[Mapping[str, Any]], may_reject: Collection[str] = ()) -> None:
    """Each has ended, and whole: with all that it needs, or with nothing of it left. Only a deadline may reject one, or
    a call that failed (``may_reject``: the orders of those)."""
    for order in orders:
        assert order["state"] in ENDS
        standing = {slot for slot in ("stock", "payment", "shipment") if order["slots"][slot] == "done"}
        assert len(standing) == (3 if order["state"] == "completed" else 0), f"half an order: {order}"
    rejected = [order for order in orders if order["state"] == "rejected" and order["style"] not in IMPATIENT]
    assert {order["id"] for order in rejected} <= set(may_reject), f"rejected without a reason: {rejected}"


async def place_again(lab: Lab[Any], unanswered: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a client does that got no answer: the same request with the same Idempotency-Key. Gives the order ids."""
    async with httpx.AsyncClient(base_url=lab.addresses["front_door"], trust_env=False, timeout=30) as client:
        ids = []
        for order in unanswered:
            answer = await _place(client, order["flow"], order["key"])
            document = answer.json()
            ids.append(document.get("id") or document["order_id"])
        return ids


async def burst(
    lab: Lab[Any],
    flows: Sequence[tuple[str, str]],
    count: int,
    *,
    halfway: Callable[[], Awaitable[None]],
    rate_per_s: float = 25,
) -> list[dict[str, Any]]:
    """Place ``count`` orders at a rate, through ``flows`` by turns, and run ``halfway`` beside them after half of them.

    Gives each order's flow and Idempotency-Key, and ``order_id`` and ``status`` as far as an answer came: ``status`` 0
    is a connection that ended without one.
    """

    async def one(client: httpx.AsyncClient, flow: tuple[str, str]) -> dict[str, Any]:
        order = {"flow": flow, "key": str(uuid.uuid4()), "status": 0, "order_id": None}
        try:
            answer = await _place(client, flow, order["key"])
        except httpx.TransportError as error:
            return {**order, "error": repr(error)}
        document = answer.json()
        return {**order, "status": answer.status_code, "order_id": document.get("id") or document.get("order_id")}

    async with httpx.AsyncClient(
        base_url=lab.addresses["front_door"], trust_env=False, timeout=15, limits=httpx.Limits(max_connections=200)
    ) as client:
        tasks = []
        disturbance = None
        for number in range(count):
            if number == count // 2:
                disturbance = asyncio.create_task(halfway())
            tasks.append(asyncio.create_task(one(client, flows[number % len(flows)])))
            await asyncio.sleep(1 / rate_per_s)
        placed = await asyncio.gather(*tasks)
        if disturbance is not None:
            await disturbance
        return list(placed)


async def _place(client: httpx.AsyncClient, flow: tuple[str, str], key: str) -> httpx.Response:
    style, transport = flow
    return await client.post(
        "/orders", params={"style": style, "transport": transport}, json=ORDER, headers={"idempotency-key": key}
    )


def walk(spans: list[dict[str, Any]], span: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The spans below ``span``."""
    for child in spans:
        if child["parent_span_id"] == span["span_id"]:
            yield child
            yield from walk(spans, child)
