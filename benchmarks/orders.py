"""Orders per second through each flow, with tracing on and off: a whole lab each time, on this machine.

    python -m benchmarks.orders [--seconds 15] [--clients 16]

Closed workload: each client places an order, waits for its end and places the next; the participants' work times are
set to zero, so that what is measured is the conversation. ``off`` is ``OTEL_SDK_DISABLED=true`` for every process.
CPU is that of all processes of the lab, servers included, per order.
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from lab.ask import put_settings
from lab.targets.local.ports import free_block
from lab.targets.local.target import LocalTarget

FLOWS = (
    ("request_response", "rest"),
    ("request_response", "grpc"),
    ("choreography", "rabbitmq"),
    ("choreography", "kafka"),
)
ORDER = {"customer": "c-1", "card": "4242424242424242", "ship_to": "Lisbon", "lines": [{"sku": "tea", "quantity": 1}]}


async def _client(client: httpx.AsyncClient, flow: tuple[str, str], until: float) -> int:
    ended = 0
    while time.monotonic() < until:
        placed = await client.post("/orders", params={"style": flow[0], "transport": flow[1]}, json=ORDER)
        placed.raise_for_status()
        if placed.status_code == 202:
            (await client.get(placed.headers["location"], params={"wait_s": 30})).raise_for_status()
        ended += 1
    return ended


async def _rate(front_door: str, flow: tuple[str, str], clients: int, seconds: float) -> tuple[int, float]:
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=front_door, timeout=60, trust_env=False, limits=limits) as client:
        await asyncio.gather(*(_client(client, flow, time.monotonic() + 2) for _ in range(clients)))  # warm
        began = time.monotonic()
        counts = await asyncio.gather(*(_client(client, flow, began + seconds) for _ in range(clients)))
        return sum(counts), time.monotonic() - began


def _cpu_s(target: LocalTarget) -> float:
    pids = [process.pid for process in target.status().processes if process.pid]
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def measure(*, tracing: bool, seconds: float, clients: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Per flow: orders/s, and CPU milliseconds per order over all processes."""
    os.environ["OTEL_SDK_DISABLED"] = "false" if tracing else "true"
    figures = {}
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, free_block() as ports:
        target = LocalTarget(Path(folder) / "lab", tied=True)
        try:
            target.up(port_base=ports.base, jaeger="off")
            no_work = {f"{service}.work_ms": "0" for service in ("inventory", "payment", "shipping", "notifications")}
            put_settings(target.addresses["orders_admin"], target.settings_token, no_work)
            time.sleep(2)  # within two seconds a setting is in force everywhere, by contract
            for flow in FLOWS:
                before = _cpu_s(target)
                orders, took_s = asyncio.run(_rate(target.addresses["front_door"], flow, clients, seconds))
                figures[flow] = (orders / took_s, (_cpu_s(target) - before) * 1000 / orders)
        finally:
            target.down()
            del os.environ["OTEL_SDK_DISABLED"]
    return figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args(arguments)
    on = measure(tracing=True, seconds=options.seconds, clients=options.clients)
    off = measure(tracing=False, seconds=options.seconds, clients=options.clients)
    table = Table(title=f"Orders/s, {options.clients} clients in a closed loop, no work times")
    for heading in ("flow", "tracing on", "tracing off", "on / off", "CPU ms/order on", "CPU ms/order off"):
        table.add_column(heading, justify="left" if heading == "flow" else "right")
    for flow in FLOWS:
        (rate_on, cpu_on), (rate_off, cpu_off) = on[flow], off[flow]
        table.add_row(
            "/".join(flow),
            f"{rate_on:.1f}",
            f"{rate_off:.1f}",
            f"{rate_on / rate_off:.2f}",
            f"{cpu_on:.1f}",
            f"{cpu_off:.1f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
