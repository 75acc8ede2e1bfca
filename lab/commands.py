"""The commands that use a running lab: load, compare, order, trace, settings, transports, check, demo.

Each is a thin layer over a module of its own; ``lab.cli`` registers them. What they ask is what any operator can
ask: the front door, orders' admin port, the span store, Prometheus.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.targets import LabError, Target, current

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(
    flow: Annotated[
        list[str] | None, typer.Option("--flow", help="STYLE/TRANSPORT, may be repeated; default: all that run.")
    ] = None,
    profile: Annotated[str, typer.Option(help="standard, demo, smoke, step, spike or soak.")] = "standard",
    seed: Annotated[int, typer.Option(help="The same seed sends the same orders.")] = 1,
    refused_share: Annotated[float, typer.Option(help="Share of orders that will be refused, 0 to 1.")] = 0.1,
    ui: Annotated[bool, typer.Option("--ui", help="Serve Locust's page instead of running headless.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drive load through whatever runs, one flow at a time, and compare."""
    from lab.load import run_load

    target = _target()
    result = run_load(
        front_door=target.addresses["front_door"],
        runs_dir=_runs(target),
        flows=[_flow(text) for text in flow] if flow else None,
        profile=profile,
        seed=seed,
        refused_share=refused_share,
        console=None if as_json else _console(),
        ui_port=_ui_port(target) if ui else None,
    )
    compare(result.run_id, as_json=as_json)


def compare(
    run: Annotated[str | None, typer.Argument(help="The run; default: the last one.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run's figures per style and transport, and write its report."""
    from lab.compare import compare as ask
    from lab.compare import print_comparison, to_markdown, write_report

    target = _target()
    addresses = target.addresses
    comparison = ask(
        run or _last_run(_runs(target)),
        span_store=addresses.get("span_store"),
        prometheus=addresses.get("prometheus"),
        jaeger=addresses.get("jaeger"),
        runs_dir=_runs(target),
    )
    written = write_report(comparison, _runs(target))
    if as_json:
        print(written.json.read_text())
    elif markdown:
        print(to_markdown(comparison))
    else:
        print_comparison(comparison, _console())
        print(f"The report, with plots: {written.html}")


def order(
    style: Annotated[str, typer.Option(help="See lab styles: /styles of the front door.")] = "request_response",
    transport: Annotated[str | None, typer.Option(help="Default: the style's.")] = None,
    sku: Annotated[str, typer.Option(help="What to order.")] = "tea",
    quantity: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    card: Annotated[str, typer.Option(help="The card; 4000000000000002 is always declined.")] = "4242424242424242",
    ship_to: Annotated[str, typer.Option(help="Where to; nobody goes to Atlantis.")] = "Lisbon",
    customer: Annotated[str, typer.Option(help="Who; c-unreachable cannot be told.")] = "c-1",
    as_json: AsJson = False,
) -> None:
    """Place one order and wait for its end."""
    from lab.ask import place_order, wait_for_trace

    addresses = _target().addresses
    placed = place_order(
        addresses["front_door"],
        style=style,
        transport=transport,
        body={
            "customer": customer,
            "card": card,
            "ship_to": ship_to,
            "lines": [{"sku": sku, "quantity": quantity}],
        },
    )
    if "span_store" in addresses:
        wait_for_trace(addresses["span_store"], placed["id"])
    if as_json:
        print(json.dumps(placed, indent=1))
        return
    why = f" ({placed['reason']})" if placed["reason"] else ""
    print(f"{placed['id']}  {placed['style']} over {placed['transport']}: {placed['state']}{why}")
    print(f".venv/bin/lab trace {placed['id']}")


def trace(order_id: Annotated[str, typer.Argument(metavar="ORDER")], as_json: AsJson = False) -> None:
    """Draw every trace of an order on one clock: times, links, waits."""
    from lab.trace import trace_command

    code = trace_command(order_id, _target().addresses["span_store"], as_json=as_json)
    if code:
        raise typer.Exit(code)


def settings(
    changes: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="NAME= resets it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the live settings, or change some: trace.shape=link payment.work_ms=200."""
    from lab.ask import get_settings, put_settings

    target = _target()
    admin, token = target.addresses["orders_admin"], target.settings_token
    if changes:
        put_settings(admin, token, dict(_change(text) for text in changes))
    shown = get_settings(admin, token)
    if as_json:
        print(json.dumps(shown["values"], indent=1))
        return
    width = max(map(len, shown["values"]))
    for name, value in shown["values"].items():
        print(f"{name:<{width}}  {value:<8}  {shown['about'][name]}")


def check(
    wait_s: Annotated[float, typer.Option(help="How long an order and its trace may take.")] = 60,
) -> None:
    """Place an order for every style and transport that runs, and wait for its end and its trace in Jaeger."""
    from lab.check import run_check

    addresses = _target().addresses
    if not run_check(addresses["front_door"], addresses.get("jaeger"), wait_s=wait_s):
        raise typer.Exit(1)


def transports(
    about: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|HEADING]", help="One transport's whole sheet, or one heading of all sheets."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the transports by their data sheets: what each wire promises, and whether it runs now."""
    from lab.sheets import sheets
    from lab.targets.local.target import unknown
    from lab.transports import SPOKEN, print_heading, print_overview, print_sheet, statuses
    from services.transports import TRANSPORTS

    if about in SPOKEN:
        heading = SPOKEN[about]
        if as_json:
            print(json.dumps({sheet.name: sheet.lines[heading] for sheet in sheets()}, indent=1))
        else:
            print_heading(heading, sheets())
        return
    if about is not None and about not in TRANSPORTS:
        raise LabError(unknown("transport or heading", about, [*TRANSPORTS, *SPOKEN]))
    found = sheets(TRANSPORTS if about is None else [about])
    status, unknown_because = statuses(_target())
    if as_json:
        told = [sheet.to_json(status.get(sheet.name, unknown_because)) for sheet in found]
        print(json.dumps(told if about is None else told[0], indent=1))
    elif about is None:
        print_overview(found, status, unknown_because)
    else:
        print_sheet(found[0], status.get(about, unknown_because))


def demo(
    seed: Annotated[int, typer.Option(help="The same seed sends the same orders.")] = 1,
    port_base: Annotated[int | None, typer.Option(help="First of the lab's ports (default 21000).")] = None,
) -> None:
    """Start the lab, drive load through five flows, print the comparison, leave the lab up."""
    from lab.demo import load_and_compare
    from lab.targets.local.progress import display
    from lab.targets.local.target import LocalTarget

    target = _target(remembered=False)
    choices: dict[str, Any] = {} if port_base is None else {"port_base": port_base}
    if isinstance(target, LocalTarget):
        choices["jaeger"] = "defer"  # building it would disturb the load
    with display() as progress:
        target.up(progress=progress, **choices)
    load_and_compare(addresses=target.addresses, runs_dir=_runs(target), console=_console(), seed=seed)
    if isinstance(target, LocalTarget):
        with display() as progress:
            target.start_jaeger(progress)
    print("The lab stays up: lab status shows it, lab down ends it.")


COMMANDS = (load, compare, order, trace, settings, transports, check, demo)


def _target(*, remembered: bool = True) -> Target:
    return current(remembered=remembered)


def _console() -> Any:
    from rich.console import Console

    return Console()


def _runs(target: Target) -> Path:
    return target.state_dir / "runs"


def _last_run(runs: Path) -> str:
    known = sorted(path.name for path in runs.iterdir() if path.is_dir()) if runs.exists() else []
    if not known:
        raise LabError("there is no run to compare: lab load makes one")
    return known[-1]


def _flow(text: str) -> Any:
    from load.plan import Flow

    try:
        return Flow.parse(text)
    except ValueError as error:
        raise LabError(str(error)) from None


def _change(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals:
        raise LabError(f"a change is NAME=VALUE (NAME= goes back to the default), not {text!r}")
    return name, value or None


def _ui_port(target: Target) -> int:
    """Where Locust's page is: in the local target's block, elsewhere on any free port."""
    import socket

    from lab.targets.local.ports import HOST, Ports
    from lab.targets.local.target import LocalTarget

    if isinstance(target, LocalTarget):
        return Ports(int(target.addresses["front_door"].rsplit(":", 1)[1]))["locust"]
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])
