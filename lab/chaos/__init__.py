"""``lab chaos``: bad days, one for each flow, and proof that nothing was lost by them.

Orders are placed while a seeded sequence of faults runs (``sequence``); then all is healed, every order ends, and the
audit of the run says whether something was lost or done twice. A message that its handler failed at is replayed from
the dead letters, as an operator would. What nobody can decode are strangers' messages, put beside the good ones: an
order's own message made unreadable would be lost by us, and by no transport. They end in the dead letters, and are
dropped from there when the run is over.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lab import dlq
from lab.ask import ask, bearer
from lab.audit import audit
from lab.audit.stock import pages
from lab.chaos.customers import Request, placing
from lab.chaos.hands import Hands
from lab.chaos.report import TERMINAL_S, Run
from lab.chaos.sequence import SLOT_S, Act, at_most_once, sequence
from lab.load import new_run_id
from lab.targets import LabError, Target
from load.flows import FrontDoor, FrontDoorError
from load.orders import OrderBook
from load.plan import Flow
from services.styles import STYLES

__all__ = ["TERMINAL_S", "Act", "Run", "at_most_once", "chosen_flows", "perform", "run_all", "run_one", "sequence"]

LOOK_EVERY_S = 1.0
LETTERS_EVERY_S = 5.0
QUIET_S = 10.0
"""Where messages may be lost, some orders never end: nothing has changed for so long, then."""
Say = Callable[[str], None]


def chosen_flows(target: Target, wanted: Sequence[Flow] = ()) -> list[Flow]:
    """The wanted flows, or all that run. Raises LabError."""
    door = FrontDoor(target.addresses["front_door"])
    try:
        if wanted:
            door.check(wanted)
        flows = list(wanted) or door.flows()
        for flow in flows:
            sequence(0, flow)
    except (FrontDoorError, ValueError) as error:
        raise LabError(str(error)) from error
    return flows


def run_all(
    target: Target, flows: Sequence[Flow], *, seed: int, orders: int, minutes: float, say: Say
) -> tuple[list[Run], list[Flow]]:
    """A run for each flow, in a seeded order, and the flows for which no time was left. Raises LabError."""
    waiting = list(flows)
    if minutes:
        random.Random(seed).shuffle(waiting)
    deadline = time.monotonic() + minutes * 60 if minutes else float("inf")
    Hands(target).check()
    runs: list[Run] = []
    longest_s = 0.0
    while waiting and time.monotonic() + longest_s < deadline:
        began = time.monotonic()
        runs.append(run_one(target, waiting.pop(0), seed=seed, orders=orders, say=say))
        longest_s = max(longest_s, time.monotonic() - began)
    return runs, waiting


def run_one(target: Target, flow: Flow, *, seed: int, orders: int, say: Say) -> Run:
    """One bad day. Whatever happens, all is mended behind it. Raises LabError."""
    acts = sequence(seed, flow)
    run = Run(flow, seed, new_run_id(), [str(act) for act in acts], at_most_once(flow), orders)
    say(f"{flow}, run {run.run_id}: {'; '.join(run.acts)}")
    begins = [threading.Event() for _ in acts]
    requests = _requests(target, seed, orders, begins)
    hands = Hands(target)
    with placing(target.addresses["front_door"], flow, run.run_id, requests):
        try:
            perform(acts, hands, begins)
        finally:
            broken_s = time.monotonic()
            hands.heal()
            run.heal_s = round(time.monotonic() - broken_s, 1)
        healed_ns = time.time_ns()
        with target.admin_ports() as ports:
            letters = Letters(ports, target.settings_token, run)
            rows = _until_ended(ports["orders"], requests, run, letters)
            run.tries = sum(request.tries for request in requests)
            run.orders = len({request.order_id for request in requests} - {""})
            run.take(audit(ports, run_id=run.run_id, scope=f"run {run.run_id}"))
            letters.tidy_up()
    ends = [row["completed_at_ns"] for row in rows]
    if ends and None not in ends:
        run.end_s = round(max(0.0, (max(ends) - healed_ns) / 1e9), 1)
    run.problems += contradictions(requests, rows)
    run.judge()
    for problem in run.problems:
        say(f"  {problem}")
    for command in run.look if run.problems else ():
        say(f"  {command}")
    return run


def perform(
    acts: Sequence[Act], hands: Any, begins: Sequence[threading.Event], clock: Callable[[], float] = time.monotonic
) -> None:
    """Begin each act in turn, and end it when its time is over, or as soon after as another lets go; with each, those
    who order while it lasts are told to."""
    under_way: list[tuple[float, Act]] = []
    for act, begun in zip(acts, begins, strict=True):
        _let_pass(under_way, hands, clock() + act.wait_s, clock)
        begun.set()
        hands.begin(act)
        under_way.append((clock() + act.for_s, act))
    _let_pass(under_way, hands, max((until for until, _ in under_way), default=0.0), clock)


def _let_pass(under_way: list[tuple[float, Act]], hands: Any, until: float, clock: Callable[[], float]) -> None:
    """Wait, and end what is over by then."""
    while due := sorted((each for each in under_way if each[0] <= until), key=lambda each: each[0]):
        time.sleep(max(0.0, due[0][0] - clock()))
        hands.end(due[0][1])
        under_way.remove(due[0])
    time.sleep(max(0.0, until - clock()))


def contradictions(requests: Sequence[Request], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What customers were told and is not so: an end is an end."""
    states = {row["id"]: row["state"] for row in rows}
    return [
        f"order {request.order_id} was {request.state} for its customer, and is {states[request.order_id]}"
        for request in requests
        if request.state in {"completed", "rejected"} and states.get(request.order_id, request.state) != request.state
    ]


def _requests(target: Target, seed: int, orders: int, begins: Sequence[threading.Event]) -> list[Request]:
    """As many with each act; a tenth of them will be refused."""
    book = OrderBook(seed, FrontDoor(target.addresses["front_door"]).catalog())
    parts = [[*range(n, orders, len(begins))] for n in range(len(begins))]
    return [
        Request(book.order(index).body, begun, due_s=SLOT_S * place / len(part))
        for begun, part in zip(begins, parts, strict=True)
        for place, index in enumerate(part)
    ]


def _until_ended(orders: str, requests: Sequence[Request], run: Run, letters: "Letters") -> list[Mapping[str, Any]]:
    """The orders of the run when all customers were answered and all orders have ended, or as they stand when that
    cannot be waited for any longer."""
    deadline = time.monotonic() + TERMINAL_S
    seen: tuple[Any, ...] = ()
    changed = time.monotonic()
    while True:
        rows = [*pages(orders, "/audit/orders", run_id=run.run_id)]
        letters.look()
        now = time.monotonic()
        waiting = tuple((row["id"], *(step["slot"] for step in row["steps"])) for row in rows if _is_open(row))
        if waiting != seen:
            seen, changed = waiting, now
        quiet = run.at_most_once and now > changed + QUIET_S
        if (all(request.order_id for request in requests) and (not waiting or quiet)) or now > deadline:
            return rows
        time.sleep(LOOK_EVERY_S)


def _is_open(row: Mapping[str, Any]) -> bool:
    return bool(row["state"] == "accepted")


class Letters:
    """The dead letters of a run: looked at now and then, and replayed where that helps."""

    def __init__(self, ports: Mapping[str, str], token: str, run: Run) -> None:
        hearers = {group for groups in STYLES[run.flow.style].channels.values() for group in groups}
        self._orders = ports["orders"]
        self._ports = {name: url for name, url in ports.items() if name in hearers}
        self._token = bearer(token)
        self._run = run
        self._strangers: set[tuple[str, ...]] = set()
        self._looked = 0.0

    def look(self) -> None:
        """Replay what can be decoded; remember the rest."""
        if time.monotonic() > self._looked + LETTERS_EVERY_S:
            for letter in self._found():
                self._replay(letter)
            self._looked = time.monotonic()

    def tidy_up(self) -> None:
        """Drop what nobody can decode, once it is counted."""
        for letter in self._found():
            if _place(letter) in self._strangers or not self._replay(letter):
                ask("DELETE", dlq.address(self._ports, letter), headers=self._token, timeout=60)

    def _found(self) -> list[Mapping[str, Any]]:
        """Those of the run's orders; each service is asked beside the others, as a broker may take its time."""
        if not self._ports:
            return []
        ids = {row["id"] for row in pages(self._orders, "/audit/orders", run_id=self._run.run_id)}
        with ThreadPoolExecutor(len(self._ports)) as several:
            answers = several.map(lambda item: dlq.found(dict([item]))[0], self._ports.items())
            return [letter for letters in answers for letter in letters if letter["order_id"] in ids]

    def _replay(self, letter: Mapping[str, Any]) -> bool:
        """Have it tried again. False for a stranger's, which would only die again."""
        if _place(letter) in self._strangers:
            return False
        address = dlq.address(self._ports, letter)
        if ask("GET", address, headers=self._token, timeout=60)["payload"] is None:
            if not letter["reason"]:
                self._run.problems.append(f"dead letter {letter['id']} of {letter['service']} has no reason")
            self._run.strangers += 1
            self._strangers.add(_place(letter))
            return False
        ask("POST", f"{address}/replay", headers=self._token, timeout=60)
        self._run.replayed += 1
        return True


def _place(letter: Mapping[str, Any]) -> tuple[str, ...]:
    return letter["service"], letter["broker"], letter["channel"], letter["id"]
