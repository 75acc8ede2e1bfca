"""``make bench``: every figure of docs/performance.md and docs/formats.md, one after the other; ``python -m benchmarks
NAME`` for one."""

import os
import platform
import sys
from collections.abc import Callable

import psutil

from benchmarks import formats, messaging, orders, span_store, standard

BENCHMARKS: dict[str, Callable[[list[str]], None]] = {
    "formats": formats.main,
    "messaging": messaging.main,
    "orders": orders.main,
    "span_store": span_store.main,
    "standard": standard.main,
}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"benchmarks: {', '.join(unknown)} is none of {', '.join(BENCHMARKS)}")
    memory_gib = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.platform()}, Python {platform.python_version()}")
    print(f"load of the machine before: {load:.1f}")
    for name in names or BENCHMARKS:
        print(f"\n== {name}: python -m benchmarks.{name}", flush=True)
        BENCHMARKS[name]([])


if __name__ == "__main__":
    main(sys.argv[1:])
