"""`lab`: the tool that people hold. Each command is a thin layer over `lab.targets`.

Errors are one line that says what and what to do. Exit codes: 0 done, 1 failed, 2 misused, 3 the lab is not
running, 130 interrupted. Heavy imports stay inside the commands, so that the tool answers at once.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.commands import COMMANDS
from lab.targets import LabError, Status

app = typer.Typer(
    help="Antiphon: one order, carried by synchronous and asynchronous services, seen side by side.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(
    names: Annotated[list[str] | None, typer.Argument(help="Start only these, beside what runs.")] = None,
    port_base: Annotated[int | None, typer.Option(help="First of the lab's ports (default 21000).")] = None,
    jaeger: Annotated[str, typer.Option(help="auto, build, defer (build later) or off.")] = "auto",
    database: Annotated[str, typer.Option(help="sqlite or postgres.")] = "sqlite",
    yes: Annotated[bool, typer.Option(help="Install packages in the system where nothing else works.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the servers and services, getting what is missing, and wait until they are ready."""
    from lab.targets.local.progress import display

    def start() -> Status:
        with display() as progress:
            started: Status = target.up(
                names or (), port_base=port_base, jaeger=jaeger, database=database, progress=progress
            )
            return started

    target = _target()
    status = start()
    if target.installable and _install(target.installable, yes=yes):
        status = start()
    _show(status, as_json=as_json)


@app.command()
def down(
    purge: Annotated[bool, typer.Option(help="Also remove data, logs and credentials.")] = False,
    as_json: AsJson = False,
) -> None:
    """End every process of the lab; data stays."""
    from lab.targets.local.progress import display

    with display() as progress:
        _target().down(purge=purge, progress=progress)
    print(json.dumps({"target": "local", "processes": []}) if as_json else "the lab is down")


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
def logs(
    name: str,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a process has printed."""
    path = _target().log_path(name)
    last = path.read_text(errors="replace").splitlines()[-lines or None :] if lines else []
    if as_json:
        print(json.dumps({"name": name, "path": str(path), "lines": last}))
        return
    print("\n".join(last))
    if follow:
        _follow(path)


for command in COMMANDS:
    app.command()(command)


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


def _target() -> Any:
    from lab.targets import current

    return current()


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


def _follow(path: Path) -> None:
    with path.open(errors="replace") as log:
        log.seek(0, 2)
        while True:
            text = log.read()
            if text:
                print(text, end="", flush=True)
            elif not path.exists() or path.stat().st_ino != os.fstat(log.fileno()).st_ino:
                return  # a new run began a new log
            else:
                time.sleep(0.2)


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
