"""The standard load through each flow, and what was lost: orders, spans, effects done twice.

    python -m benchmarks.standard [--profile standard]

A whole lab of its own, Jaeger included where a program for it is there already. About two minutes per flow.
"""

import argparse
import tempfile
from pathlib import Path

import httpx
from rich.console import Console

from lab.compare import compare, print_comparison
from lab.load import run_load
from lab.targets.local.ports import Ports, free_block
from lab.targets.local.target import LocalTarget

PARTICIPANTS = ("inventory", "payment", "shipping", "notifications")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="standard")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, free_block() as ports:
        target = LocalTarget(Path(folder) / "lab", tied=True)
        try:
            target.up(port_base=ports.base, jaeger="defer")
            addresses, runs = target.addresses, Path(folder) / "runs"
            result = run_load(
                front_door=addresses["front_door"], runs_dir=runs, profile=options.profile, console=console
            )
            found = compare(
                result.run_id,
                span_store=addresses["span_store"],
                prometheus=addresses.get("prometheus"),
                runs_dir=runs,
            )
            print_comparison(found, console)
            twice = {action: counts for action, counts in _effects(ports).items() if counts[0] != counts[1]}
            console.print(f"effects carried out more often than there are orders: {twice or 'none'}")
        finally:
            target.down()


def _effects(ports: Ports) -> dict[str, tuple[int, int]]:
    """Per action: how often it was carried out, for how many orders."""
    answers = (httpx.get(ports.url(f"{name}.admin") + "/effects", trust_env=False).json() for name in PARTICIPANTS)
    return {action: tuple(counts) for answer in answers for action, counts in answer.items()}


if __name__ == "__main__":
    main()
