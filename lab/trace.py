"""``lab trace``: one order in the terminal, over all its traces, on one clock.

A line is a span: how long after the accept it began, how long it took, where that lies on the order's time line, and
what it was, nested below its parent. Waits stand out from work, links are written out with their targets, and what is
missing is said: a parent that never came, a link that leads nowhere.

Nothing depends on colour: the bars of work, wire and waiting are of different characters.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from lab.sequence import diagram
from services.telemetry import conventions as names

_TIMEOUT_S = 30.0
_NS_PER_MS = 1e6
_WIDE = 130
"""Columns from which the last line has room for milliseconds beside the shares."""
_SHOWN_ID = 8
"""Hex digits of an id that a line shows; ``--json`` has them whole."""

Key = tuple[str, str]
SpanJson = Mapping[str, Any]


@dataclass(frozen=True)
class _Glyphs:
    """The characters of a drawing; a terminal without UTF-8 gets the plain ones."""

    work: str = "█"
    wire: str = "▒"
    waiting: str = "░"
    ground: str = "·"
    branch: str = "├╴"
    last: str = "└╴"
    down: str = "│ "
    link: str = "⇠"
    linked: str = "⇢"
    cut: str = "…"


_UNICODE = _Glyphs()
_PLAIN = _Glyphs("#", "=", "-", ".", "|-", "`-", "| ", "<-", "->", "...")

_KINDS = {
    "SERVER": "server",
    "CLIENT": "client",
    "PRODUCER": "producer",
    "CONSUMER": "consumer",
    "INTERNAL": "internal",
    "UNSPECIFIED": "",
}
_STYLES = {"work": "green", "wire": "cyan", "waiting": "yellow", "unexplained": "magenta"}


def render_trace(order: Mapping[str, Any], critical_path: Mapping[str, Any] | None = None) -> RenderableType:
    """A drawing of what ``GET /orders/{id}`` (and ``/critical-path``) answered; fits any width from 80 columns."""
    return _Drawing(order, critical_path)


def trace_command(
    order_id: str,
    store_url: str,
    *,
    as_mermaid: bool = False,
    as_json: bool = False,
    console: Console | None = None,
) -> int:
    """Print an order's trace; returns the exit code: 0, or 1 after one line on stderr that says what is wrong."""
    out = console or Console()
    try:
        with httpx.Client(base_url=store_url, timeout=_TIMEOUT_S, trust_env=False) as client:
            found = client.get(f"/orders/{_quoted(order_id)}")
            if found.status_code == httpx.codes.NOT_FOUND:
                return _failed(f"no span of order {order_id!r} is in the span store; ids are printed by 'lab order'")
            found.raise_for_status()
            path = client.get(f"/orders/{_quoted(order_id)}/critical-path")
            path.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return _failed(f"the span store at {store_url} does not answer ({error}); is the lab up?")
    if as_json:
        out.print_json(json.dumps({"order": found.json(), "critical_path": path.json()}))
    elif as_mermaid:
        print(diagram(found.json()), end="")
    else:
        out.print(render_trace(found.json(), path.json()))
    return 0


def _quoted(order_id: str) -> str:
    return httpx.URL("http://x").copy_with(path=f"/{order_id}").raw_path.decode()[1:].replace("/", "%2F")


def _failed(message: str) -> int:
    print(f"lab trace: {message}", file=sys.stderr)
    return 1


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the drawing: a span, or a remark below one. Where room is short, ``kind`` goes first."""

    span: SpanJson | None
    prefix: str
    text: Text
    kind: str = ""
    marks: str = ""


class _Drawing:
    def __init__(self, order: Mapping[str, Any], critical_path: Mapping[str, Any] | None) -> None:
        self._order = order
        self._path = critical_path
        self._spans: dict[Key, SpanJson] = {_key(span): span for span in order["spans"]}
        self._begin = min((span["start_ns"] for span in order["spans"]), default=0)
        self._end = max((span["end_ns"] for span in order["spans"]), default=0)
        self._accept = order.get("accept_start_ns") or self._begin
        self._on_path = {
            _key(part) for part in (critical_path or {}).get("segments", ()) if part["kind"] != "unexplained"
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = _PLAIN if options.ascii_only else _UNICODE
        width = options.max_width
        yield from self._head(glyphs)
        bar_width = max(10, min(40, width // 6))
        several = False
        for trace_id, spans in self._traces():
            if several or len(spans) > 1:
                yield Text()
            several = len(spans) > 1
            yield self._trace_head(trace_id, spans)
            for line in self._lines(spans, glyphs):
                row = Text(no_wrap=True)
                if line.span is None:
                    row.append(" " * (22 + bar_width))
                else:
                    start, end = line.span["start_ns"], line.span["end_ns"]
                    row.append("*" if _key(line.span) in self._on_path else " ")
                    row.append(f"{(start - self._accept) / _NS_PER_MS:>9.1f} {(end - start) / _NS_PER_MS:>9.1f} ")
                    row.append_text(self._bar(line.span, bar_width, glyphs))
                    row.append(" ")
                prefix = line.prefix
                if len(prefix) > (width - row.cell_len) // 2:  # nested deeper than the terminal is wide
                    prefix = f"{glyphs.cut}{len(prefix) // 2} "
                row.append(prefix, "dim")
                row.append_text(_fitted(line, width - row.cell_len, glyphs))
                yield row
        yield from self._foot(width, glyphs)

    def _head(self, glyphs: _Glyphs) -> Iterator[Text]:
        order = self._order
        head = Text.assemble(("order ", "bold"), (order["order_id"], "bold"), "  ", order["state"])
        if order["style"]:
            head.append(f"  {order['style']} over {order['transport'] or '?'}")
        yield head
        facts = [f"{_many(len(order['spans']), 'span')} in {_many(len(order['traces']), 'trace')}"]
        if order.get("accept_start_ns") and order.get("complete_end_ns"):
            whole = (order["complete_end_ns"] - order["accept_start_ns"]) / _NS_PER_MS
            facts.insert(0, f"{whole:.1f} ms from accept to complete")
        else:
            facts.insert(0, "not finished")
        if order["run_id"]:
            facts.append(f"run {order['run_id']}")
        if order.get("truncated"):
            facts.append("it has more spans than are shown")
        yield Text(", ".join(facts))
        yield Text(
            f"* critical path, at ms, took ms, {glyphs.work} work {glyphs.wire} wire {glyphs.waiting} waiting, "
            f"{glyphs.link} link to parent",
            "dim",
        )

    def _traces(self) -> Iterator[tuple[str, list[SpanJson]]]:
        for trace_id in self._order["traces"]:
            yield trace_id, [span for span in self._order["spans"] if span["trace_id"] == trace_id]

    def _trace_head(self, trace_id: str, spans: Sequence[SpanJson]) -> Text:
        start = (min(span["start_ns"] for span in spans) - self._accept) / _NS_PER_MS
        return Text.assemble(
            ("trace ", "bold"), (trace_id, "bold"), (f"  {_many(len(spans), 'span')}, from {start:+.1f} ms", "dim")
        )

    def _lines(self, spans: Sequence[SpanJson], glyphs: _Glyphs) -> Iterator[_Line]:
        present = {span["span_id"] for span in spans}
        below: dict[str, list[SpanJson]] = defaultdict(list)
        roots = []
        for span in sorted(spans, key=lambda span: (span["start_ns"], -span["end_ns"])):
            parent = span["parent_span_id"]
            if parent in present and parent != span["span_id"]:
                below[parent].append(span)
            else:
                roots.append(span)
        shown: set[str] = set()
        for root in roots:
            yield from self._branch(root, "", "", below, shown, glyphs)
        # parents that go round in a circle: shown flat, since nothing is left out
        for span in spans:
            if span["span_id"] not in shown:
                yield from self._branch(span, "", "", {}, shown, glyphs)

    def _branch(
        self,
        span: SpanJson,
        first: str,
        rest: str,
        below: Mapping[str, list[SpanJson]],
        shown: set[str],
        glyphs: _Glyphs,
    ) -> Iterator[_Line]:
        """A span, its remarks and its children, without recursion: a broken trace may nest a thousand deep."""
        stack = [(span, first, rest)]
        while stack:
            current, first, rest = stack.pop()
            if current["span_id"] in shown:
                continue
            shown.add(current["span_id"])
            children = below.get(current["span_id"], [])
            yield self._line(current, first, glyphs)
            for remark, where in self._remarks(current, glyphs):
                yield _Line(None, rest + (glyphs.down if children else "  "), remark, marks=where)
            for number, child in reversed(list(enumerate(children))):
                last = number == len(children) - 1
                stack.append(
                    (child, rest + (glyphs.last if last else glyphs.branch), rest + ("  " if last else glyphs.down))
                )

    def _line(self, span: SpanJson, prefix: str, glyphs: _Glyphs) -> _Line:
        attributes = span["attributes"]
        marks = []
        attempt = attributes.get(names.LAB_DELIVERY_ATTEMPT)
        if isinstance(attempt, int) and attempt > 1:
            marks.append(f"attempt {attempt}")
        if attributes.get(names.LAB_DUPLICATE):
            marks.append("duplicate")
        if names.LAB_CLOCK_SKEW in attributes:
            marks.append("clock skew")
        if attributes.get(names.LAB_ORDER_STATE):
            marks.append(f"order {attributes[names.LAB_ORDER_STATE]}")
        if any(_key(link) == (span["trace_id"], span["parent_span_id"]) for link in span["links"]):
            marks.append(glyphs.link)
        waiting = attributes.get(names.LAB_WAIT)
        if waiting:
            marks.insert(0, "waiting")
        return _Line(
            span,
            prefix,
            Text.assemble((span["service"], "bold"), " ", (span["name"], _STYLES[_kind_of_time(span)])),
            "" if waiting else _KINDS[span["kind"]],
            " ".join(marks),
        )

    def _remarks(self, span: SpanJson, glyphs: _Glyphs) -> Iterator[tuple[Text, str]]:
        """What the tree cannot show: faults, causes that never came, links to and from elsewhere; and where that is."""
        if span["status"] == "ERROR":
            about = span["status_message"] or span["attributes"].get(names.ERROR_TYPE, "")
            yield Text(f"! error {about}".rstrip(), "bold red"), ""
        parent = span["parent_span_id"]
        if parent and (span["trace_id"], parent) not in self._spans:
            if span["orphan"]:
                yield Text(f"! orphan: its parent {_short(parent, glyphs)} never came", "bold red"), ""
        elif span["orphan"] and not span["links"]:
            yield Text("! orphan: it names no cause at all, its context was lost", "bold red"), ""
        elsewhere = 0
        for link in span["links"]:
            target = self._spans.get(_key(link))
            if target is not None:
                if _key(link) != (span["trace_id"], parent):
                    remark = Text(f"{glyphs.link} link to {_named(target)}", "blue")
                    yield remark, self._where(target, span, glyphs)
            elif _key(link) == (span["trace_id"], parent):
                continue
            elif link["missing"]:
                yield (
                    Text(
                        f"! {glyphs.link} link to span {_short(link['span_id'], glyphs)}, which never came", "bold red"
                    ),
                    self._where(link, span, glyphs),
                )
            else:
                elsewhere += 1
        if elsewhere:
            yield Text(f"{glyphs.link} and {_many(elsewhere, 'link')} to spans of other orders", "dim"), ""
        for linker in span["linked_from"]:
            consumer = self._spans.get(_key(linker))
            if (
                consumer is not None
                and consumer["kind"] == "CONSUMER"
                and consumer["parent_span_id"] != span["span_id"]
            ):
                yield (
                    Text(f"{glyphs.linked} consumed by {_named(consumer)}", "blue"),
                    self._where(consumer, span, glyphs),
                )

    def _where(self, target: Mapping[str, Any], source: SpanJson, glyphs: _Glyphs) -> str:
        if target["trace_id"] == source["trace_id"]:
            return "in this trace"
        return f"in trace {_short(target['trace_id'], glyphs)}"

    def _bar(self, span: SpanJson, width: int, glyphs: _Glyphs) -> Text:
        whole = max(1, self._end - self._begin)
        first = min(width - 1, int((span["start_ns"] - self._begin) * width / whole))
        # a span that took no time still leaves a mark
        last = max(first + 1, min(width, round((span["end_ns"] - self._begin) * width / whole)))
        kind = _kind_of_time(span)
        fill = {"work": glyphs.work, "wire": glyphs.wire, "waiting": glyphs.waiting}[kind]
        return Text.assemble(
            (glyphs.ground * first, "dim"),
            (fill * (last - first), _STYLES[kind]),
            (glyphs.ground * (width - last), "dim"),
        )

    def _foot(self, width: int, glyphs: _Glyphs) -> Iterator[Text]:
        if self._path is None:
            return
        yield Text()
        totals: Mapping[str, int] = self._path["totals"]
        whole = sum(totals.values())
        if not whole:
            yield Text(f"no critical path: {self._path.get('reason') or 'no time passed'}")
            return
        fills = {"work": glyphs.work, "wire": glyphs.wire, "waiting": glyphs.waiting}
        parts = []
        for kind, spent in totals.items():
            part = Text(f"{fills.get(kind, '?')} {kind} {spent / whole:.1%}", _STYLES[kind])
            if width >= _WIDE:
                part.append(f" {spent / _NS_PER_MS:.1f} ms", "dim")
            parts.append(part)
        yield Text.assemble((f"critical path {whole / _NS_PER_MS:.1f} ms: ", "bold"), Text(", ").join(parts))


def _fitted(line: _Line, width: int, glyphs: _Glyphs) -> Text:
    """As much as fits: the kind goes first; then a long name gives way in its middle and keeps both ends."""
    name = line.text
    notes = " ".join(filter(None, (line.kind, line.marks)))
    if name.cell_len + 2 + len(notes) > width:
        notes = line.marks
    marks = Text(f"  {notes}" if notes else "", "dim")
    room = max(width - marks.cell_len, 12)
    if name.cell_len > room:
        head = (room - len(glyphs.cut)) * 2 // 3
        name = Text.assemble(name[:head], glyphs.cut, name[-(room - len(glyphs.cut) - head) :])
    whole = name + marks
    whole.truncate(max(width, 1))
    return whole


def _key(span: Mapping[str, Any]) -> Key:
    return span["trace_id"], span["span_id"]


def _named(span: SpanJson) -> str:
    return f"{span['name']} ({span['service']})"


def _short(identity: str, glyphs: _Glyphs) -> str:
    return identity[:_SHOWN_ID] + glyphs.cut


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _kind_of_time(span: SpanJson) -> str:
    if span["attributes"].get(names.LAB_WAIT):
        return "waiting"
    return "wire" if span["kind"] in ("CLIENT", "PRODUCER") else "work"
