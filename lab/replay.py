"""Event sourcing from outside: fold the journals again and prove that what is known follows from them.

``lab replay``            every read model rebuilt from nothing and compared with the one that is kept, and each order's
                          state compared with what orders says
``lab replay --until T``  what was known at an instant of the past
``lab replay --order ID`` what the journals say of one order
``lab replay --fill NAME``  a new read model, filled from the past; ``--drop NAME`` forgets it
"""

import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lab.ask import ask, bearer
from lab.audit import since_ns
from lab.audit.stock import pages
from lab.targets import LabError

LOOKS = 4
LOOK_AGAIN_S = 1.0
JOURNALLED = ("event_sourcing", "hybrid")


class UsageError(LabError):
    exit_code = 2


def run_replay(
    ports: Mapping[str, str],
    token: str,
    console: Console | None,
    *,
    until: str | None = None,
    order_id: str | None = None,
    fill: str | None = None,
    drop: str | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do what was chosen, by default the replay of everything; what came of it, and whether all is equal. Raises
    LabError."""
    ledger = ports.get("ledger")
    if ledger is None:
        raise LabError("the ledger does not run here: lab status")
    if fill is not None:
        result = fill_projection(ledger, token, fill)
        _say(console, f"{result['name']} is kept from now on; {result['events']:,} events of the past are in it")
        return result, True
    if drop is not None:
        result = drop_projection(ledger, token, drop)
        _say(console, f"{result['name']} is kept no longer")
        return result, True
    if order_id is not None:
        events = history(ledger, order_id)
        for event in events:
            _say(console, f"{event['at']}  {event['event']} by {event['by']}")
        return {"order": order_id, "events": events}, True
    if until is not None:
        result = replay(ledger, token, instant(until))
        if console is not None:
            show(result, {}, console)
        return result, True
    result, told = settled(ledger, ports["orders"], token)
    if console is not None:
        show(result, told, console)
    wrong = {"differing": differing(result["orders"], told), "missing": missing(result["orders"], told)}
    return {**result, **wrong}, proved(result, told)


def settled(ledger: str, orders: str, token: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The replay and what orders says. What does not agree is looked at again: orders may be on their way."""
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_AGAIN_S)
        told = states(orders)
        result = replay(ledger, token)
        if proved(result, told):
            break
    return result, told


def states(orders: str) -> dict[str, str]:
    """The state of every order that has a journal, by id, as orders tells it; an order of hybrid has one once it was
    paid for."""
    return {row["id"]: row["state"] for row in pages(orders, "/audit/orders") if row["style"] in JOURNALLED}


def instant(text: str) -> str:
    """An instant in the journals' own form, of one in RFC 3339 or so long ago. Raises UsageError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.fromtimestamp(since_ns(text) / 1e9, UTC)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _say(console: Console | None, line: str) -> None:
    if console is not None:
        console.print(line, highlight=False)


def replay(ledger: str, token: str, until: str = "") -> dict[str, Any]:
    """What the ledger finds when it folds the journals again. Raises LabError."""
    return ask("POST", f"{ledger}/replay", params={"until": until}, headers=bearer(token), timeout=300)


def history(ledger: str, order_id: str) -> list[dict[str, str]]:
    """An order's events in the journals, oldest first: ``at``, ``event``, ``by``. Raises LabError."""
    events: list[dict[str, str]] = ask("GET", f"{ledger}/history/{order_id}", timeout=300)["events"]
    return events


def fill_projection(ledger: str, token: str, name: str) -> dict[str, Any]:
    return ask("POST", f"{ledger}/projections/{name}", headers=bearer(token), timeout=300)


def drop_projection(ledger: str, token: str, name: str) -> dict[str, Any]:
    return ask("DELETE", f"{ledger}/projections/{name}", headers=bearer(token))


def differing(replayed: Mapping[str, str], told: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Orders whose state came out otherwise than orders tells it; of those only that both know."""
    return {
        order_id: (state, told[order_id])
        for order_id, state in replayed.items()
        if order_id in told and told[order_id] != state
    }


def missing(replayed: Mapping[str, str], told: Mapping[str, str]) -> list[str]:
    """Orders that have ended, and of which the journals say nothing: none may be."""
    return sorted(order_id for order_id, state in told.items() if state == "completed" and order_id not in replayed)


def proved(result: Mapping[str, Any], told: Mapping[str, str]) -> bool:
    """Whether everything that was folded again came out as it was known."""
    wrong = differing(result["orders"], told) or missing(result["orders"], told)
    return all(proof["equal"] for proof in result["proofs"]) and not wrong


def show(result: Mapping[str, Any], told: Mapping[str, str], console: Console) -> None:
    """Print a line for each read model, and one for the orders."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    console.print(f"{result['events']:,} events folded from nothing", highlight=False)
    for heading in ("read model", "rows", "events in it", "behind", "lost", "equal"):
        table.add_column(heading, justify="left" if heading == "read model" else "right")
    for proof in result["proofs"]:
        numbers = (proof[name] for name in ("rows", "events", "behind", "lost"))
        table.add_row(proof["name"], *(f"{number:,}" for number in numbers), "yes" if proof["equal"] else "[red]NO[/]")
    if result["proofs"]:
        console.print(table)
    counts = Counter(result["orders"].values())
    found = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))
    console.print(f"orders: {found or 'none'}", highlight=False)
    for proof in result["proofs"]:
        for key, both in proof["differences"].items():
            console.print(f"{proof['name']}: {key}: kept {both['kept']}, replayed {both['replayed']}", soft_wrap=True)
    for order_id, (replayed, said) in differing(result["orders"], told).items():
        console.print(f"order {order_id}: replayed {replayed}, orders says {said}", style="red", soft_wrap=True)
    for order_id in missing(result["orders"], told):
        console.print(f"order {order_id}: completed, and no journal knows it", style="red", soft_wrap=True)
    if told and proved(result, told):
        both = len(told.keys() & result["orders"].keys())
        console.print(
            f"equal: every read model, and {both:,} orders as orders tells them", style="green", highlight=False
        )
