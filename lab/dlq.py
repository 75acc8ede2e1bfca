"""``lab dlq``: what the services gave up on, on all brokers: list it, look at it, have it tried again, or drop it.

A dead letter is known by its message's id; where several services gave the same message up, each has one of it, and
``replay`` and ``drop`` settle all of these.
"""

import base64
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from lab.targets import LabError, Target, current

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter that there is.")]
MessageId = Annotated[str | None, typer.Argument(metavar="ID", help="As lab dlq list shows it.")]
Letter = Mapping[str, Any]
LAB = ".venv/bin/lab"
MOST = 1_000
BYTES_SHOWN = 64

app = typer.Typer(help="List, show, replay or drop what the services gave up on.", no_args_is_help=True)


class UsageError(LabError):
    exit_code = 2


@app.command("list")
def list_letters(
    service: Annotated[str | None, typer.Argument(help="Only this one's.")] = None, as_json: AsJson = False
) -> None:
    """List the dead letters of all services and brokers. Exits with 1 when a broker could not be asked."""
    with _target().admin_ports() as ports:
        letters, away = found(ports, service)
    if as_json:
        print(json.dumps({"dead_letters": letters, "unavailable": away}, indent=1))
    elif letters:
        _print(letters)
    elif not away:
        print("no dead letters")
    for each in away if not as_json else ():
        print(f"{each['broker']} could not be asked by {each['service']}: {each['reason']}", file=sys.stderr)
    if away:
        raise typer.Exit(1)


@app.command()
def show(message_id: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Show a dead letter: headers, the trace that it was made in, and its body."""
    from lab.ask import ask, bearer

    target = _target()
    with target.admin_ports() as ports:
        letters = known(found(ports)[0], message_id)
        shown = [ask("GET", address(ports, letter), headers=bearer(target.settings_token)) for letter in letters]
    if as_json:
        print(json.dumps(shown, indent=1))
        return
    print("\n\n".join(text(letter) for letter in shown))


@app.command()
def replay(message_id: MessageId = None, everything: All = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Put dead letters back into their service's queue, to be tried again as if for the first time."""
    _settle("replay", message_id, everything=everything, yes=yes, as_json=as_json)


@app.command()
def drop(message_id: MessageId = None, everything: All = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Throw dead letters away, for good."""
    _settle("drop", message_id, everything=everything, yes=yes, as_json=as_json)


def found(ports: Mapping[str, str], service: str | None = None) -> tuple[list[Letter], list[Mapping[str, str]]]:
    """The dead letters, oldest first, and which brokers could not be asked by whom. Raises LabError for a service that
    is none."""
    from lab.ask import ask
    from lab.targets.local.target import unknown

    if service is not None and service not in ports:
        raise LabError(unknown("service", service, ports))
    letters: list[Letter] = []
    away: list[Mapping[str, str]] = []
    for name, url in ports.items():
        if service in (None, name):
            answer = ask("GET", f"{url}/dead-letters", params={"limit": MOST}, timeout=120)
            letters += answer["dead_letters"]
            away += [{**each, "service": name} for each in answer["unavailable"]]
    return sorted(letters, key=lambda letter: letter["died_at_ns"] or 0), away


def known(letters: Sequence[Letter], message_id: str) -> list[Letter]:
    """Those of that id. Raises LabError, with the near ones."""
    from lab.targets.local.target import unknown

    chosen = [letter for letter in letters if letter["id"] == message_id]
    if not chosen:
        ids = list(dict.fromkeys(letter["id"] for letter in letters))
        begins = [each for each in ids if message_id and each.startswith(message_id)]
        if begins:
            raise LabError(f"no dead letter is called {message_id!r}: did you mean {' or '.join(begins[:5])}?")
        raise LabError(
            unknown("dead letter", message_id, ids[:5]) if ids else "there are no dead letters: lab dlq list"
        )
    return chosen


def text(letter: Letter) -> str:
    """A dead letter for people."""
    lines = {
        "dead letter": letter["id"],
        "of": f"{letter['service']}, from {letter['channel']} on {letter['broker']}",
        "message": letter["type"] or "no type",
        "order": letter["order_id"] or "none",
        "reason": letter["reason"] or "nobody said",
        "attempts": str(letter["attempts"] or "not known"),
        "died": _when(letter),
        "trace": letter["trace_id"] or "none: its headers name no context",
    }
    if letter["order_id"]:
        lines["look"] = f"{LAB} trace {letter['order_id']}"
    printed = [f"{name:<12} {printable(value)}" for name, value in lines.items()]
    printed += [f"  {printable(name)}: {printable(value)}" for name, value in sorted(letter["headers"].items())]
    if letter["payload"] is not None:
        return "\n".join([*printed, json.dumps(letter["payload"], indent=1)])
    body = base64.b64decode(letter["body_base64"])
    more = f" … ({len(body)} bytes)" if len(body) > BYTES_SHOWN else f" ({len(body)} bytes)"
    begin = body[:BYTES_SHOWN].hex(" ")
    return "\n".join([*printed, f"cannot be read: {printable(letter['undecodable'])}", f"{begin}{more}"])


def printable(value: str) -> str:
    """Without what would move a terminal's cursor: a stranger may have written it."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in value)


def _settle(verb: str, message_id: str | None, *, everything: bool, yes: bool, as_json: bool) -> None:
    from lab.ask import ask, bearer

    if (message_id is None) == (not everything):
        raise UsageError(f"which one? lab dlq {verb} ID, or lab dlq {verb} --all")
    target = _target()
    with target.admin_ports() as ports:
        letters, away = found(ports)
        chosen = known(letters, message_id) if message_id is not None else letters
        if everything and chosen and not yes and not _agreed(f"{verb} {len(chosen)} dead letters?"):
            raise UsageError(f"nothing was done: lab dlq {verb} --all --yes")
        token = bearer(target.settings_token)
        done, gone = [], []
        for letter in chosen:
            where_it_is = address(ports, letter)
            how = ("POST", f"{where_it_is}/replay") if verb == "replay" else ("DELETE", where_it_is)
            try:
                done.append(ask(*how, headers=token, timeout=60))
            except LabError as error:
                gone.append(f"{letter['id']} of {letter['service']}: {error}")
    if as_json:
        print(json.dumps({"done": done, "failed": gone, "unavailable": away}, indent=1))
    else:
        where = "back into" if verb == "replay" else "from"
        for settled in done:
            place = f"{settled['channel']} on {settled['broker']}"
            print(f"{settled['done']} {printable(settled['id'])} {where} {place} for {settled['service']}")
        if not chosen:
            print("no dead letters")
    for line in gone:
        print(printable(line), file=sys.stderr)
    for each in away if everything else ():
        print(f"{each['broker']} could not be asked by {each['service']}: {each['reason']}", file=sys.stderr)
    if everything and max(Counter(letter["service"] for letter in letters).values(), default=0) >= MOST:
        print("there may be more: run it again", file=sys.stderr)
    if gone or (everything and away):
        raise typer.Exit(1)


def _agreed(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(question, err=True)


def address(ports: Mapping[str, str], letter: Letter) -> str:
    """The URL at which it can be looked at, replayed and dropped."""
    parts = (letter["broker"], letter["channel"], letter["id"])
    # a lone dot or two would be taken for a folder
    path = "/".join(quote(part, safe="") if part.strip(".") else part.replace(".", "%2E") for part in parts)
    return f"{ports[letter['service']]}/dead-letters/{path}"


def _print(letters: Sequence[Letter]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("id", "service", "broker, channel", "type", "order", "reason", "tries", "when"):
        table.add_column(heading, overflow="fold", min_width=36 if heading == "id" else None)
    for letter in letters:
        where = f"{letter['broker']}\n{letter['channel']}"
        cells = (letter["id"], letter["service"], where, letter["type"], letter["order_id"], letter["reason"])
        shown = (printable(cell) if cell is not where else cell for cell in cells)
        table.add_row(*(Text(cell) for cell in shown), str(letter["attempts"] or "?"), _when(letter))
    Console().print(table)


def _when(letter: Letter) -> str:
    if letter["died_at_ns"] is None:
        return "not known"
    at = datetime.fromtimestamp(letter["died_at_ns"] / 1e9, UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _target() -> Target:
    return current()
