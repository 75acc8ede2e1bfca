"""`lab fault`: switch faults on and off while the lab runs, and see which are on.

A change goes the way of every setting, through orders; then each process is asked until it says that it goes by it.
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from lab.targets import Ask, LabError, Target, current

WAIT_S = 10.0
LOOK_EVERY_S = 0.05
SHORT = "<service>.<knob> or <service>.<style>.<knob>"

app = typer.Typer(
    help="Switch faults on and off while the lab runs: late, failing, dying, lost, doubled.", no_args_is_help=True
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("set")
def set_faults(
    changes: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...")],
    as_json: AsJson = False,
) -> None:
    """Switch faults on: payment.delay_ms=800 orders.choreography.drop_rate=0.1. Returns when they are in force."""
    wanted = dict(_change(text) for text in changes)
    target = _target()
    _only_faults(target, wanted)
    _tell(_apply(target, wanted), as_json=as_json)


@app.command("list")
def list_faults(as_json: AsJson = False) -> None:
    """Show what is on, and all that could be."""
    settings = _settings(_target())
    on, knobs = _on(settings), settings["faults"]["knobs"]
    if as_json:
        print(json.dumps({"on": on, **settings["faults"]}, indent=1))
        return
    if on:
        width = max(map(len, on))
        for name, value in on.items():
            print(f"{name:<{width}}  {value}")
    else:
        print("no fault is on")
    print(f"\nThe knobs, as {SHORT}=VALUE:\n")
    everybody = max((knob["services"] for knob in knobs), key=len)
    width = max(len(knob["name"]) for knob in knobs)
    for knob in knobs:
        whose = "" if knob["services"] == everybody else f" ({', '.join(knob['services'])})"
        print(f"{knob['name']:<{width}}  {knob['sentence']}{whose}")
    print(f"\nservices: {', '.join(everybody)}\nstyles: {', '.join(settings['faults']['styles'])}")


@app.command("clear")
def clear_faults(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all that are on.")] = None,
    as_json: AsJson = False,
) -> None:
    """Switch faults off. Returns when they are off everywhere."""
    target = _target()
    if names:
        _only_faults(target, names)
    _tell(_apply(target, dict.fromkeys(names or _on(_settings(target)))), as_json=as_json)


def _change(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not value:
        raise LabError(f"a fault is NAME=VALUE (lab fault clear NAME switches it off), not {text!r}")
    return name, value


def _settings(target: Target) -> dict[str, Any]:
    from lab.ask import get_settings

    return get_settings(target.addresses["orders_admin"], target.settings_token)


def _on(settings: Mapping[str, Any]) -> dict[str, str]:
    """The faults that are set, by name."""
    return {name: value for name, value in settings["values"].items() if is_fault(name, settings)}


def is_fault(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether it is one of the faults, of the settings as orders gives them."""
    service, knob = name.partition(".")[0], name.rpartition(".")[2]
    return any(known["name"] == knob and service in known["services"] for known in settings["faults"]["knobs"])


def _only_faults(target: Target, names: Iterable[str]) -> None:
    settings = _settings(target)
    for name in names:
        if name in settings["values"] and not is_fault(name, settings):
            raise LabError(f"{name} is a setting and no fault: lab settings {name}=VALUE")


def _apply(target: Target, changes: Mapping[str, str | None]) -> dict[str, Any]:
    """Change faults, and wait until each process of the services that answers goes by it: which ones those are, which
    do not answer, and how long it took."""
    from lab.ask import put_settings

    values = put_settings(target.addresses["orders_admin"], target.settings_token, changes)["values"]
    began = time.monotonic()
    wanted = {name: values.get(name) for name in changes}
    with target.admins() as ask:
        away, behind, applied = _look(ask, wanted)
        while behind or not applied:
            if time.monotonic() - began > WAIT_S:
                raise LabError(f"{', '.join(behind) or 'no process'} did not follow within {WAIT_S:g} s: lab status")
            time.sleep(LOOK_EVERY_S)
            away, behind, applied = _look(ask, wanted)
    took_s = time.monotonic() - began
    return {"changed": wanted, "in_force_after_s": round(took_s, 2), "processes": applied, "not_running": away}


def _look(ask: Ask, wanted: Mapping[str, str | None]) -> tuple[list[str], list[str], list[str]]:
    """The processes that do not answer, those that do not go by ``wanted`` yet, and those that do."""
    answers = ask("/settings/applied")
    away = [name for name, values in answers.items() if values is None]
    behind = [n for n, v in answers.items() if v is not None and any(v.get(k) != wanted[k] for k in wanted)]
    return away, behind, [name for name in answers if name not in {*away, *behind}]


def _tell(outcome: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome, indent=1))
        return
    for name, value in outcome["changed"].items():
        print(f"{name} is {'off' if value is None else value}")
    if not outcome["changed"]:
        print("no fault was on")
    print(f"in force in {len(outcome['processes'])} processes after {outcome['in_force_after_s']:.1f} s")
    if outcome["not_running"]:
        print(f"not running, and to follow when they start: {', '.join(outcome['not_running'])}")


def _target() -> Target:
    return current()
