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


def trace(
    order_id: Annotated[str, typer.Argument(metavar="ORDER")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a sequence diagram in Mermaid's words.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw every trace of an order on one clock: times, links, waits."""
    from lab.trace import trace_command

    code = trace_command(order_id, _target().addresses["span_store"], as_mermaid=mermaid, as_json=as_json)
    if code:
        raise typer.Exit(code)


def settings(
    changes: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="NAME= resets it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the live settings, or change some: trace.shape=link payment.work_ms=200."""
    from lab.ask import get_settings, put_settings
    from lab.faults import is_fault

    target = _target()
    admin, token = target.addresses["orders_admin"], target.settings_token
    if changes:
        put_settings(admin, token, dict(_change(text) for text in changes))
    shown = get_settings(admin, token)
    values = {name: value for name, value in shown["values"].items() if not is_fault(name, shown)}
    if as_json:
        print(json.dumps(values, indent=1))
        return
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {value:<8}  {shown['about'][name]}")
    print("Faults are settings too: lab fault list shows them.")


def check(
    wait_s: Annotated[float, typer.Option(help="How long an order and its trace may take.")] = 60,
) -> None:
    """Place an order for every style and transport that runs, and wait for its end and its trace in Jaeger."""
    from lab.check import run_check

    addresses = _target().addresses
    if not run_check(addresses["front_door"], addresses.get("jaeger"), wait_s=wait_s):
        raise typer.Exit(1)


def styles(as_json: AsJson = False) -> None:
    """Show the ten styles in the interaction matrix: who waits, and how many are spoken to."""
    from lab.styles import print_matrix
    from services.styles import STYLES

    if as_json:
        print(json.dumps({style.name: {"cell": style.cell, "default": style.default} for style in STYLES.values()}))
    else:
        print_matrix()


def audit(
    run: Annotated[str | None, typer.Argument(help="Default: the last run, else all of the last hour.")] = None,
    since: Annotated[str | None, typer.Option(help="Instead of a run: all orders since 90s, 10m, 2h, 1d ago.")] = None,
    as_json: AsJson = False,
) -> None:
    """Account for every order of a run: what was said, heard, done, lost, given up, still on its way.

    Exits with 1 when something was lost that its transport promises to deliver, an effect was done twice or does not
    fit the order's end, or an order is open and nothing says why.
    """
    from lab.audit import UsageError, show, since_ns
    from lab.audit import audit as ask

    if run is not None and since is not None:
        raise UsageError("a run or --since, not both")
    target = _target()
    known = _known_runs(_runs(target))
    if run is None and since is None:
        run, since = (known[-1], None) if known else (None, "1h")
    begin = since_ns(since) if since is not None else 0
    with target.admin_ports() as ports:
        report = ask(ports, run_id=run or "", since=begin, scope=f"run {run}" if run else f"the last {since}")
    if run is not None and not report.flows:
        hint = f" (the runs are: {', '.join(known[-5:])})" if known and run not in known else ""
        raise LabError(f"orders has no order of run {run!r}{hint}: lab audit --since 1h takes all")
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        show(report, _console())
    if report.violations:
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


def replay(
    until: Annotated[str | None, typer.Option(help="What was known then: 2026-01-31T12:00Z, or 10m ago.")] = None,
    order: Annotated[str | None, typer.Option(help="What the journals say of one order.")] = None,
    fill: Annotated[str | None, typer.Option(metavar="NAME", help="Keep this read model, the past in it.")] = None,
    drop: Annotated[str | None, typer.Option(metavar="NAME", help="Keep this read model no longer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fold the journals again, and prove that the read models and the orders' states follow from them.

    Exits with 1 where anything is not equal.
    """
    from lab.replay import UsageError, run_replay

    if sum(choice is not None for choice in (until, order, fill, drop)) > 1:
        raise UsageError("one of --until, --order, --fill and --drop")
    target = _target()
    with target.admin_ports() as ports:
        console = None if as_json else _console()
        choices = {"until": until, "order_id": order, "fill": fill, "drop": drop}
        result, equal = run_replay(ports, target.settings_token, console, **choices)
    if as_json:
        print(json.dumps(result, indent=1))
    if not equal:
        raise typer.Exit(1)


def outage(
    service: Annotated[str, typer.Option(help="Who is away.")] = "payment",
    for_s: Annotated[float, typer.Option("--for", min=1, max=60, help="For how many seconds.")] = 10,
    rate: Annotated[float, typer.Option(min=0.5, max=200, help="Orders per second.")] = 10,
    how: Annotated[str, typer.Option(help="hang (it takes everything in and answers nothing) or kill.")] = "hang",
    as_json: AsJson = False,
) -> None:
    """Take one service away for a while under load: calls, calls with a breaker, events and hybrid, side by side."""
    from lab.outage import UsageError, kind_of, run_outage, show, to_json

    if for_s * rate > 20_000:
        raise UsageError("that are too many orders: a shorter outage, or a lower rate")
    target = _target()
    console = _console(quiet=as_json)
    seen = run_outage(target, console, service=service, how=kind_of(how), for_s=for_s, rate_per_s=rate)
    if as_json:
        print(json.dumps(to_json(seen), indent=1))
    else:
        show(seen, console)


def chaos(
    flow: Annotated[
        list[str] | None, typer.Option("--flow", help="STYLE/TRANSPORT, may be repeated; default: all that run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed does the same to the same flow.")] = 1,
    orders: Annotated[int, typer.Option(min=1, max=2_000, help="Orders per flow.")] = 100,
    minutes: Annotated[float, typer.Option(min=0, help="No new run begins that would go beyond it; 0: no bound.")] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give each flow a bad day: kill, pause, poison and double things while orders come in, heal, and audit.

    Exits with 1 when an accepted order was lost that its transport promises, an effect was done twice, or an order had
    not ended 60 s after healing.
    """
    from lab.chaos import chosen_flows, run_all
    from lab.chaos.report import show, to_markdown

    target = _target()
    say = _console(stderr=as_json or markdown).print
    chosen = chosen_flows(target, [_flow(text) for text in flow or ()])
    runs, left = run_all(target, chosen, seed=seed, orders=orders, minutes=minutes, say=say)
    if as_json:
        found = {"seed": seed, "runs": [run.to_json() for run in runs], "not_run": [str(each) for each in left]}
        print(json.dumps(found, indent=1))
    elif markdown:
        print(to_markdown(runs))
    else:
        show(runs, _console())
    if left:
        say(f"no time was left for {', '.join(map(str, left))}")
    if any(run.problems for run in runs):
        raise typer.Exit(1)


COMMANDS = (load, compare, order, trace, settings, styles, transports, check, audit, replay, outage, chaos, demo)


def _target(*, remembered: bool = True) -> Target:
    return current(remembered=remembered)


def _console(**how: Any) -> Any:
    from rich.console import Console

    return Console(**how)


def _runs(target: Target) -> Path:
    return target.state_dir / "runs"


def _known_runs(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir() if path.is_dir()) if runs.exists() else []


def _last_run(runs: Path) -> str:
    known = _known_runs(runs)
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
