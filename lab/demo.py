"""The end of ``lab demo``: the load of its five flows, what it says, and where to go on from here."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lab.compare import Comparison, compare, print_comparison, write_report
from lab.compare.rows import TRACE_COMMAND
from lab.load import LoadError, run_load
from load.flows import FrontDoor, FrontDoorError
from load.plan import Flow

DEMO_FLOWS = (
    Flow("request_response", "rest"),
    Flow("message_queue", "sqs"),
    Flow("publish_subscribe", "rabbitmq"),
    Flow("choreography", "kafka"),
    Flow("hybrid", "grpc,rabbitmq,kafka"),
)
"""The caller waits; one queue after the other; everybody at once; each after the one before; and what most systems end
up with, a call for what the customer waits for and messages for the rest. Calls, a pull, a push, a log, and both."""


def demo_flows(front_door: str) -> tuple[list[Flow], list[str]]:
    """Those of the demo's flows that can run now, and a line on each that cannot.

    Raises LoadError where none can, or where there is no front door.
    """
    door = FrontDoor(front_door)
    ready: list[Flow] = []
    absent: list[str] = []
    try:
        door.catalog()
        for flow in DEMO_FLOWS:
            try:
                door.check([flow])
                ready.append(flow)
            except FrontDoorError as error:
                absent.append(str(error))
    except FrontDoorError as error:
        raise LoadError(str(error)) from error
    if not ready:
        raise LoadError(f"none of the demo's flows can run: {'; '.join(absent)}")
    return ready, absent


def load_and_compare(
    *, addresses: Mapping[str, str], runs_dir: Path, console: Console, seed: int = 1, profile: str = "demo"
) -> Comparison:
    """Loads the demo's flows, prints the table and all that ``finish_demo`` prints.

    ``addresses`` are those of ``lab status``; ``front_door`` must be among them. Raises LoadError,
    CompareError.
    """
    flows, absent = demo_flows(addresses["front_door"])
    for line in absent:
        console.print(Text(f"left out: {line}", style="yellow"))
    result = run_load(
        front_door=addresses["front_door"],
        runs_dir=runs_dir,
        flows=flows,
        profile=profile,
        seed=seed,
        console=console,
    )
    with console.status("waiting for the last spans"):
        comparison = compare(
            result.run_id,
            span_store=addresses.get("span_store"),
            prometheus=addresses.get("prometheus"),
            jaeger=addresses.get("jaeger"),
            runs_dir=runs_dir,
        )
    written = write_report(comparison, runs_dir)
    finish_demo(comparison, report=written.html, addresses=addresses, console=console)
    return comparison


def finish_demo(comparison: Comparison, *, report: Path, addresses: Mapping[str, str], console: Console) -> None:
    """Prints the table, the report's path, an example order per flow with its command, and what runs where.

    Paths and commands are never broken by the terminal's width, so that they can be copied.
    """
    print_comparison(comparison, console)
    _line(console, "")
    _line(console, "The report, with plots:", bold=True)
    _line(console, f"  {report}")
    examples = [flow for flow in comparison.flows if flow.example_order_id]
    if examples:
        _line(console, "One order of each, and the command that shows its trace:", bold=True)
        width = max(len(flow.name) for flow in examples)
        for flow in examples:
            _line(console, f"  {flow.name:<{width}}  {TRACE_COMMAND.format(flow.example_order_id)}")
    if addresses:
        _line(console, "What runs:", bold=True)
        width = max(map(len, addresses))
        for name, address in addresses.items():
            _line(console, f"  {name:<{width}}  {address}")


def _line(console: Console, text: str, *, bold: bool = False) -> None:
    console.print(Text(text, style="bold" if bold else ""), soft_wrap=True)
