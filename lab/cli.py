"""`lab`: the tool that people hold. Each command is a thin layer over `lab.targets`.

Errors are one line that says what and what to do. Exit codes: 0 done, 1 failed, 2 misused, 3 the lab is not
running, 130 interrupted. Heavy imports stay inside the commands, so that the tool answers at once.
"""

import json
import signal
import sys
from typing import Annotated

import typer

from lab import dlq, faults
from lab.commands import COMMANDS
from lab.targets import TARGETS, LabError, Status, Target, chosen, current

app = typer.Typer(
    help="Antiphon: one order, carried by synchronous and asynchronous services, seen side by side.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def choose(
    target: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(TARGETS)} (or LAB_TARGET); default: the one brought up last.", show_default=False
        ),
    ] = None,
) -> None:
    """Say which target the command is about, before the command."""
    chosen.set(target or "")


@app.command()
def up(
    names: Annotated[list[str] | None, typer.Argument(help="Start only these, beside what runs (local).")] = None,
    port_base: Annotated[int | None, typer.Option(help="First of the lab's ports (local; default 21000).")] = None,
    jaeger: Annotated[str | None, typer.Option(help="auto, build, defer (build later) or off (local).")] = None,
    database: Annotated[str | None, typer.Option(help="sqlite or postgres (local).")] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls", help="Calls between services over TLS, where the wire has it (local).")
    ] = None,
    yes: Annotated[bool, typer.Option(help="Install packages in the system where nothing else works.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the servers and services, getting what is missing, and wait until they are ready.

    Without a target this means processes on this machine.
    """
    from lab.targets.local.progress import display

    given = {"port_base": port_base, "jaeger": jaeger, "database": database, "tls": tls}
    choices = {name: value for name, value in given.items() if value is not None}

    def start() -> Status:
        with display() as progress:
            return target.up(names or (), **choices, progress=progress)

    target = _target(remembered=False)
    status = start()
    if target.installable and _install(target.installable, yes=yes):
        status = start()
    _show(status, as_json=as_json)


@app.command()
def down(
    purge: Annotated[bool, typer.Option(help="Also remove data, logs and credentials.")] = False,
    as_json: AsJson = False,
) -> None:
    """End every process of the lab; data stays. On kind: delete the cluster."""
    from lab.targets.local.progress import display

    target = _target()
    with display() as progress:
        target.down(purge=purge, progress=progress)
    print(json.dumps({"target": target.name, "processes": []}) if as_json else "the lab is down")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what runs and how it is. Exits with 1 when something is not ready, 3 when nothing runs."""
    now = _target().status()
    _show(now, as_json=as_json)
    if not now.ready:
        raise typer.Exit(1)


@app.command()
def restart(names: list[str], as_json: AsJson = False) -> None:
    """Stop and start processes with the settings that they had; starts dead ones, too."""
    from lab.targets.local.progress import display

    with display() as progress:
        now = _target().restart(*names, progress=progress)
    _show(now, as_json=as_json)


@app.command()
def scale(
    name: str,
    replicas: Annotated[int, typer.Argument(min=0, help="How many.")],
    as_json: AsJson = False,
) -> None:
    """Run several of one participant: they share the messages of the asynchronous styles.

    On this machine calls go to the first alone, and `lab down` ends the others for good.
    """
    from lab.targets.local.progress import display

    with display() as progress:
        now = _target().scale(name, replicas, progress=progress)
    _show(now, as_json=as_json)


@app.command()
def logs(
    name: str,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a process has printed."""
    printed = _target().logs(name, lines=lines, follow=follow and not as_json)
    if as_json:
        print(json.dumps({"name": name, "lines": list(printed)}))
        return
    for line in printed:
        print(line, flush=follow)


@app.command()
def forward() -> None:
    """Bring a cluster's addresses to this machine where they are out of reach, until Ctrl-C."""
    _target().forward(print)


for command in COMMANDS:
    app.command()(command)
app.add_typer(faults.app, name="fault")
app.add_typer(dlq.app, name="dlq")


def main() -> None:
    """The entry point: runs a command, and turns what went wrong into one line and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C, without a word
            _fail("interrupted", 130)
        sys.exit(code)
    except LabError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(_system(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        # typer's own complaints, whose classes it keeps to itself
        if not hasattr(error, "format_message"):
            raise
        text = " ".join(error.format_message().split())
        _fail(f"{text} (lab --help)", getattr(error, "exit_code", 2))


def _target(*, remembered: bool = True) -> Target:
    return current(remembered=remembered)


def _install(packages: list[str], *, yes: bool) -> bool:
    """Install packages if the person agrees; True when that worked."""
    import subprocess

    from lab.targets.local.provision.debian import install_command

    command = install_command(packages)
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"run {' '.join(command)}?", err=True)):
        return False
    return subprocess.run([*command, "--yes"], check=False, stdout=sys.stderr).returncode == 0  # noqa: S603


def _show(status: Status, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(status.to_json(), indent=1))
        return
    from lab.targets.local.progress import print_status

    print_status(status)


def _system(error: OSError) -> str:
    import errno

    if error.errno == errno.ENOSPC:
        where = f" ({error.filename})" if error.filename else ""
        return f"no space left on the disk{where}: free some, or set LAB_STATE_DIR and XDG_CACHE_HOME"
    return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")


def _fail(text: str, code: int) -> None:
    print(f"lab: {text}", file=sys.stderr)
    sys.exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
