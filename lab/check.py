"""Does everything work? One order for each style and transport that runs, until it has ended and Jaeger has its trace.

`lab check` asks the target that runs; `python -m lab.check --front-door URL --jaeger URL` any addresses, as `helm test`
does in a pod. A line per flow; exit code 1 when one of them failed.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import httpx

from lab.ask import place_order
from lab.targets import LabError
from load.flows import FrontDoor, FrontDoorError
from load.plan import Flow
from services.telemetry.conventions import LAB_ORDER_ID

ORDER = {
    "customer": "c-1",
    "card": "4242424242424242",
    "ship_to": "Lisbon",
    "lines": [{"sku": "tea", "quantity": 1}],
}
FIRST_S = 2.0
"""How long the POST waits for the end of an order; the rest of the time is for all orders together."""
POLL_S = 0.3


@dataclass
class _Placed:
    """An order on its way: `fault` is what went wrong, `spans` what Jaeger has of it."""

    flow: Flow
    id: str = ""
    state: str = ""
    fault: str = ""
    spans: int = 0
    began: float = 0.0
    took_s: float = 0.0


def run_check(front_door: str, jaeger: str | None, *, wait_s: float = 60) -> bool:
    """Print a line for each flow; True when all are well. Raises LabError when there is nothing to place orders at."""
    try:
        flows = FrontDoor(front_door).flows()
    except FrontDoorError as error:
        raise LabError(str(error)) from error
    width = max(len(flow.style) + len(flow.transport) + 1 for flow in flows)
    placed = [_place(front_door, flow) for flow in flows]
    waiting = list(placed)
    deadline = time.monotonic() + wait_s
    while waiting:
        late = time.monotonic() > deadline
        for each in list(waiting):
            _look(each, front_door, jaeger)
            if late and not each.fault and not _is_done(each, jaeger):
                where = f"has no trace in {jaeger}" if each.state == "completed" else f"is still {each.state}"
                each.fault = f"order {each.id} {where} after {wait_s:g} s"
            if each.fault or _is_done(each, jaeger):
                waiting.remove(each)
                name = f"{each.flow.style}/{each.flow.transport}"
                print(f"{name:<{width}}  {_verdict(each)}", flush=True)
        time.sleep(POLL_S if waiting else 0)
    if jaeger is None:
        print("no Jaeger runs here: traces were not looked for")
    return not any(each.fault for each in placed)


def _place(front_door: str, flow: Flow) -> _Placed:
    began = time.monotonic()
    try:
        order = place_order(front_door, style=flow.style, transport=flow.transport, body=ORDER, wait_s=FIRST_S)
    except LabError as error:
        return _Placed(flow, fault=str(error))
    return _Placed(flow, order["id"], order["state"], began=began, took_s=time.monotonic() - began)


def _look(placed: _Placed, front_door: str, jaeger: str | None) -> None:
    """Ask once how far it is."""
    if placed.fault:
        return
    try:
        if placed.state == "accepted":
            answer = httpx.get(f"{front_door}/orders/{placed.id}", timeout=10, trust_env=False)
            placed.state, placed.took_s = answer.json()["state"], time.monotonic() - placed.began
        if placed.state == "rejected":
            placed.fault = f"order {placed.id} was rejected"
        elif placed.state == "completed" and jaeger is not None:
            placed.spans = _spans(jaeger, placed.id)
    except (httpx.TransportError, ValueError, KeyError):
        pass  # it may come back before the time is over


def _is_done(placed: _Placed, jaeger: str | None) -> bool:
    return placed.state == "completed" and (jaeger is None or placed.spans > 0)


def _verdict(placed: _Placed) -> str:
    if placed.fault:
        return f"FAILED: {placed.fault}"
    traced = f", {placed.spans} spans in Jaeger" if placed.spans else ""
    return f"ok: completed after {placed.took_s * 1000:.0f} ms{traced}"


def _spans(jaeger: str, order_id: str) -> int:
    """How many spans Jaeger has in traces in which orders names the order."""
    now_us = time.time_ns() // 1000
    params: dict[str, Any] = {
        "service": "orders",
        "tags": json.dumps({LAB_ORDER_ID: order_id}),
        "start": now_us - 3600 * 1_000_000,
        "end": now_us,
        "limit": 20,
    }
    answer = httpx.get(f"{jaeger}/api/traces", params=params, timeout=10, trust_env=False)
    traces = answer.json().get("data") or [] if answer.is_success else []
    return sum(len(trace["spans"]) for trace in traces)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.check", description=__doc__.partition("\n")[0])
    parser.add_argument("--front-door", required=True, metavar="URL")
    parser.add_argument("--jaeger", required=True, metavar="URL")
    parser.add_argument("--wait-s", type=float, default=60, help="how long the orders and their traces may take")
    options = parser.parse_args()
    try:
        is_well = run_check(options.front_door, options.jaeger, wait_s=options.wait_s)
    except LabError as error:
        sys.exit(f"lab: {error}")
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
