"""What was said against what was heard, and what was done against how the orders ended."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lab.audit.report import LAB, Finding, Flow, Problem, Report
from lab.audit.stock import LETTERS, Place, Row, Stock
from services.styles import STYLES
from services.transports import TRANSPORTS

_NS = 1_000_000_000
_DROPPED = ", and was dropped since"


class Due(NamedTuple):
    """A message and one group that was to hear it."""

    message_id: str
    broker: str
    channel: str
    group: str


@dataclass
class _Heard:
    """What became of the deliveries of one message to one group."""

    order_id: str = ""
    deliveries: int = 0
    known: int = 0
    dead: bool = False

    def add(self, outcome: str) -> None:
        self.dead = outcome == "dead"
        if not self.dead:
            self.deliveries += 1
            self.known += outcome == "known"

    @property
    def delivered(self) -> int:
        """All of them known means that one more came before, and was not noted: its handler died."""
        return self.deliveries + (self.deliveries > 0 and self.deliveries == self.known)


@dataclass
class _Message:
    """Something that was said; ``published`` is False while it waits in the outbox."""

    row: Row
    speaker: str
    published: bool = True


def settled(stock: Stock) -> bool:
    """Whether all that was said was heard, so that no broker need be asked what it holds."""
    return not _unheard(stock, _said(stock), _heard(stock))


def reconcile(stock: Stock, scope: str = "", suspects: Iterable[str] | None = None) -> Report:
    """Compare. Open orders that nothing explains are a finding, but with ``suspects`` (those of a look before) only if
    they are among them: the others have moved meanwhile."""
    messages = _said(stock)
    heard = _heard(stock)
    problems = _unheard(stock, messages, heard)
    flows: dict[tuple[str, str], Flow] = {}
    in_scope = {order["id"]: order for order in stock.orders}
    for order in stock.orders:
        _count_order(_flow(flows, order), order)
    for message in messages.values():
        if message.row["order_id"] in in_scope:
            _flow(flows, in_scope[message.row["order_id"]]).produced += 1
    for each in heard.values():
        if each.order_id in in_scope:
            flow = _flow(flows, in_scope[each.order_id])
            flow.delivered += each.delivered
            flow.duplicated += max(0, each.delivered - 1)
            flow.suppressed += each.known
    _count_effects(stock, in_scope, flows, problems)
    known = None if suspects is None else set(suspects)
    findings = []
    for order in stock.orders:
        own = problems.get(order["id"], [])
        flow = _flow(flows, order)
        for problem in own:
            flow.lost += problem.kind == "lost"
            flow.lost_declared += problem.kind == "lost" and problem.declared
            flow.dead_lettered += problem.kind == "dead"
            flow.pending += problem.kind in {"pending", "outbox", "unknown"}
        if finding := _finding(order, own, known):
            findings.append(finding)
    strangers = sum(
        letter["order_id"] not in in_scope for letters in stock.letters.values() for letter in letters.values()
    )
    notes = [f"{strangers} dead letters are of none of these orders: {LAB} dlq list"] if strangers else []
    notes += [f"{broker} could not be asked by {group}: {reason}" for (broker, group), reason in stock.away.items()]
    return Report(scope, [flows[key] for key in sorted(flows)], findings, notes)


def _flow(flows: dict[tuple[str, str], Flow], order: Row) -> Flow:
    key = (order["style"], order["transport"])
    return flows.setdefault(key, Flow(*key))


def _count_order(flow: Flow, order: Row) -> None:
    flow.orders += 1
    flow.completed += order["state"] == "completed"
    flow.rejected += order["state"] == "rejected"
    flow.open += order["state"] == "accepted"


def _said(stock: Stock) -> dict[tuple[str, str, str], _Message]:
    """All messages by id, broker and channel, oldest first: one that was said again is one message."""
    found: dict[tuple[str, str, str], _Message] = {}
    for parcel in stock.outbox:
        published = parcel["published_at_ns"] is not None
        message = _Message({**parcel, "at_ns": parcel["written_at_ns"]}, "orders", published)
        found[parcel["message_id"], parcel["broker"], parcel["channel"]] = message
    for service, rows in stock.ledgers.items():
        for row in rows:
            if row["said"]:
                found.setdefault((row["message_id"], row["broker"], row["channel"]), _Message(row, service))
    return dict(sorted(found.items(), key=lambda item: item[1].row["at_ns"]))


def _heard(stock: Stock) -> dict[Due, _Heard]:
    found: dict[Due, _Heard] = {}
    for service, rows in stock.ledgers.items():
        for row in rows:
            if not row["said"]:
                due = Due(row["message_id"], row["broker"], row["channel"], service)
                found.setdefault(due, _Heard(row["order_id"])).add(row["outcome"])
    return found


def due_groups(row: Row, speaker: str) -> frozenset[str]:
    """The groups that are to hear a message."""
    style = STYLES.get(row["style"])
    if style is None:
        return frozenset()
    try:
        wires = style.wires(row["transport"])
    except ValueError:
        return frozenset()
    groups = frozenset[str]().union(
        *(
            style.topology.get(port, {}).get(row["channel"], frozenset())
            for port, wire in wires.items()
            if wire == row["broker"]
        )
    )
    return frozenset(group for group in groups if group != speaker and style.wants(group, row["type"]))


def _unheard(
    stock: Stock, messages: Mapping[tuple[str, str, str], _Message], heard: Mapping[Due, _Heard]
) -> dict[str, list[Problem]]:
    """By order: what was due and not heard, and where it is."""
    problems: dict[str, list[Problem]] = defaultdict(list)
    missing: dict[Place, list[_Message]] = defaultdict(list)
    asked_for: set[Due] = set()
    for (message_id, broker, channel), message in messages.items():
        for group in due_groups(message.row, message.speaker):
            place = Place(broker, channel, group)
            due = Due(message_id, *place)
            asked_for.add(due)
            each = heard.get(due, _Heard())
            if each.deliveries:
                continue
            order_id = message.row["order_id"]
            if letter := stock.letters.get(place, {}).get(message_id):
                problems[order_id].append(_problem("dead", message, place, f": {letter['reason']}"))
            elif not message.published and not each.dead:
                problems[order_id].append(_problem("outbox", message, place))
            elif each.dead and not stock.held.get(place, 0):
                dropped = "" if _may_be_there(stock, place) else _DROPPED
                problems[order_id].append(_problem("dead", message, place, dropped))
            else:
                missing[place].append(message)
    # what died at a group that has no use for it, or was said by nobody who noted it
    for due, each in heard.items():
        known = messages.get((due.message_id, due.broker, due.channel))
        if each.dead and not each.deliveries and due not in asked_for:
            stranger: Row = {"type": "a message", "message_id": due.message_id, "order_id": each.order_id}
            place = Place(due.broker, due.channel, due.group)
            letter = stock.letters.get(place, {}).get(due.message_id)
            more = f": {letter['reason']}" if letter else "" if _may_be_there(stock, place) else _DROPPED
            problem = _problem("dead", known or _Message(stranger, "nobody who noted it"), place, more)
            problems[each.order_id].append(problem)
    for place, unheard in missing.items():
        held = stock.held.get(place)
        for number, message in enumerate(unheard):
            # what is held is the newest of them, as far as a broker keeps them in order
            if held is None:
                reason = stock.away.get((place.broker, place.group), f"{place.group} does not run here")
                kind, more = ("unknown" if (place.broker, place.group) in stock.away else "pending"), f" ({reason})"
            else:
                kind, more = ("lost" if number < len(unheard) - held else "pending"), ""
            problems[message.row["order_id"]].append(_problem(kind, message, place, more))
    return problems


def _may_be_there(stock: Stock, place: Place) -> bool:
    """Whether a dead letter that was not listed may be there all the same."""
    return (place.broker, place.group) in stock.away or len(stock.letters.get(place, ())) >= LETTERS


def _problem(kind: str, message: _Message, place: Place, more: str = "") -> Problem:
    row = message.row
    transport = TRANSPORTS.get(place.broker)
    declared = kind == "lost" and transport is not None and transport.delivery == "at most once"
    said = f"{row['type']} ({row['message_id']}), said by {message.speaker},"
    where = f"{place.channel} on {place.broker}"
    texts = {
        "lost": f"{said} was lost on its way to {place.group}: {where} has it no more"
        + (f"; {place.broker} delivers at most once" if declared else ""),
        "dead": f"{said} is a dead letter of {place.group} in {where}{more}",
        "pending": f"{said} waits for {place.group} in {where}{more}",
        "outbox": f"{said} waits in the outbox for {place.broker}, to reach {place.group} by {place.channel}",
        "unknown": f"{said} was not heard by {place.group}, and whether {where} holds it nobody can tell{more}",
    }
    is_there = kind == "dead" and more != _DROPPED
    look = f"{LAB} dlq show {row['message_id']}" if is_there else _trace(row["order_id"])
    return Problem(kind, texts[kind], look, row["message_id"], row["type"], *place, declared)


def _trace(order_id: str) -> str:
    return f"{LAB} trace {order_id}"


def _count_effects(
    stock: Stock,
    in_scope: Mapping[str, Row],
    flows: dict[tuple[str, str], Flow],
    problems: dict[str, list[Problem]],
) -> None:
    """Count what was done, and hold it against how the orders ended."""
    times = Counter(
        (effect["order_id"], service, effect["action"]) for service, rows in stock.effects.items() for effect in rows
    )
    compensated = set()
    undo = {step["undo"] for order in in_scope.values() for step in order["steps"] if step["undo"]}
    for (order_id, service, action), count in times.items():
        if order_id not in in_scope:
            continue
        flow = _flow(flows, in_scope[order_id])
        flow.effects += count
        if action in undo:
            flow.compensated_effects += count
            compensated.add(order_id)
        if count > 1:
            flow.effects_twice += count - 1
            text = f"{service} did {action} {count} times"
            problems.setdefault(order_id, []).append(Problem("twice", text, _trace(order_id), group=service))
    for order_id in compensated:
        _flow(flows, in_scope[order_id]).compensated_orders += 1
    for order in in_scope.values():
        for step in order["steps"]:
            done, undone = (times[order["id"], step["service"], step[what]] for what in ("do", "undo"))
            if wrong := _wrong_end(order, step, done, undone):
                problem = Problem(*wrong, _trace(order["id"]), group=step["service"])
                problems.setdefault(order["id"], []).append(problem)


def _wrong_end(order: Row, step: Row, done: int, undone: int) -> tuple[str, str] | None:
    """Kind and text, where what was done for a step does not fit how its order ended."""
    if step["do"] is None or order["state"] == "accepted":
        return None
    if order["state"] == "rejected" and step["undo"] and done and not undone:
        return "kept", f"it was rejected, and {step['service']} did {step['do']} and never {step['undo']}"
    dispatched = order["style"] == "notification" and step["name"] == "notification"
    if order["state"] == "completed" and step["slot"] == "done" and not done and not dispatched:
        return "missing", f"it was completed, and {step['service']} never did {step['do']}"
    return None


def _finding(order: Row, problems: list[Problem], suspects: set[str] | None) -> Finding | None:
    """Nothing where the order is fine: it has ended, and what is still on its way changes nothing."""
    is_open = order["state"] == "accepted"
    bad = [problem for problem in problems if problem.kind not in {"pending", "outbox"}]
    if not is_open and not bad:
        return None
    shown = problems if is_open else bad
    waits = next((step for step in order["steps"] if step["slot"] == "pending"), None)
    stuck = f"{waits['name']} of {waits['service']}" if is_open and waits else ""
    explained, text = True, "; ".join(problem.text for problem in shown)
    if is_open and not shown:
        explained, text = _carried_on(order, suspects)
    return Finding(order["id"], order["style"], order["transport"], order["state"], stuck, explained, shown, text)


def _carried_on(order: Row, suspects: set[str] | None) -> tuple[bool, str]:
    """Whether, and why, an order may be open of which no message is under way."""
    if order["alarm_at_ns"] is not None:
        left_s = (order["alarm_at_ns"] - time.time_ns()) / _NS
        return True, f"orders goes on with it by itself in {max(0.0, left_s):.0f} s"
    if order["held_until_ns"] is not None:
        return True, "orders carries it on: it asks again until it is answered"
    if suspects is not None and order["id"] not in suspects:
        return True, "it has moved while it was looked at"
    return False, "no message of it is under way, and nobody carries it on"
