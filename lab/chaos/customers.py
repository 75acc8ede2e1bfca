"""Customers of a bad day: each wants one order, and asks again, with the same Idempotency-Key, until it is told."""

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from load.plan import Flow
from services.telemetry.conventions import LAB_RUN_ID

AGAIN_S = 0.5
ANSWER_S = 15.0
AT_ONCE = 128


@dataclass
class Request:
    """One order as its customer sees it, who comes ``due_s`` after ``begun``. ``status`` is that of the answer that
    named the order, ``state`` what it said of it; ``tries`` counts the requests, ``complaint`` is the last answer that
    was none."""

    body: Mapping[str, Any]
    begun: threading.Event
    due_s: float
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    tries: int = 0
    status: int = 0
    order_id: str = ""
    state: str = ""
    complaint: str = ""


@contextmanager
def placing(front_door: str, flow: Flow, run_id: str, requests: Sequence[Request]) -> Iterator[None]:
    """The requests are on their way within the block, each from when it is due; behind it nobody asks any more."""
    stop = threading.Event()
    limits = httpx.Limits(max_connections=AT_ONCE)
    with httpx.Client(base_url=front_door, trust_env=False, timeout=ANSWER_S, limits=limits) as client:

        def customer(request: Request) -> None:
            request.begun.wait()
            if stop.wait(request.due_s):
                return
            while not _answered(client, flow, run_id, request) and not stop.wait(AGAIN_S):
                continue

        with ThreadPoolExecutor(len(requests), "customer") as customers:
            several = [customers.submit(customer, request) for request in requests]
            try:
                yield
            finally:
                stop.set()
                for request in requests:
                    request.begun.set()
        for each in several:
            each.result()


def _answered(client: httpx.Client, flow: Flow, run_id: str, request: Request) -> bool:
    """Ask once. True when the answer says which order it became: also that of a conversation that broke off."""
    request.tries += 1
    try:
        answer = client.post(
            "/orders",
            params={"style": flow.style, "transport": flow.transport},
            json=request.body,
            headers={"idempotency-key": request.key, "baggage": f"{LAB_RUN_ID}={run_id}"},
        )
        document = answer.json()
    except (httpx.TransportError, ValueError) as error:
        request.complaint = repr(error)
        return False
    order_id = document.get("id") or document.get("order_id")
    if not order_id:
        request.complaint = f"{answer.status_code} {document.get('detail', '')}".strip()
        return False
    request.order_id, request.status, request.state = order_id, answer.status_code, document.get("state", "")
    return True
