"""An order's conversation as a Mermaid sequence diagram, drawn from its spans.

A solid arrow is a call, and the dashed one back its answer; an open arrow is a message, from the service that sent it
to each that handled it. What was heard twice, given up, or never heard is said where it happened. Times are not in it:
the arrows stand in the order in which they began.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.telemetry import conventions as names
from services.telemetry.conventions import Operation

SpanJson = Mapping[str, Any]
CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Arrow:
    """``at_ns`` is when it began. ``kind`` is Mermaid's; ``note`` is a remark beside the receiver."""

    at_ns: int
    sender: str
    kind: str
    receiver: str
    text: str
    note: str = ""


CALL, ANSWER, MESSAGE, LOST = "->>", "-->>", "-)", "-x"


def diagram(order: Mapping[str, Any]) -> str:
    """Mermaid's text for what ``GET /orders/{id}`` answered."""
    drawn = arrows(order)
    speakers = dict.fromkeys(name for arrow in drawn for name in (arrow.sender, arrow.receiver))
    lines = ["sequenceDiagram", *(_participant(name) for name in speakers)]
    for arrow in drawn:
        lines.append(f"{_id(arrow.sender)}{arrow.kind}{_id(arrow.receiver)}: {arrow.text}")
        if arrow.note:
            lines.append(f"Note over {_id(arrow.receiver)}: {arrow.note}")
    return "\n".join(lines) + "\n"


def arrows(order: Mapping[str, Any]) -> list[Arrow]:
    """Every call, answer and message of the order, in the order in which they began."""
    spans: Sequence[SpanJson] = order["spans"]
    found = [*_calls(spans), *_messages(spans)]
    return sorted(found, key=lambda arrow: (arrow.at_ns, arrow.kind == ANSWER, arrow.sender, arrow.receiver))


def _calls(spans: Sequence[SpanJson]) -> Iterator[Arrow]:
    by_id = {(span["trace_id"], span["span_id"]): span for span in spans}
    inner = {
        (span["trace_id"], span["parent_span_id"]): span for span in spans if span["kind"] == "SERVER"
    }  # JSON-RPC and Avro: a call within an HTTP request
    for span in spans:
        if span["kind"] != "SERVER":
            continue
        caller = by_id.get((span["trace_id"], span["parent_span_id"]))
        if caller is not None and caller["service"] == span["service"]:
            continue
        served = inner.get((span["trace_id"], span["span_id"]), span)
        who = CLIENT if caller is None or caller["service"] == "lab" else caller["service"]
        if served["name"].startswith("GET "):
            continue
        status = span["attributes"].get("http.response.status_code", "") if who == CLIENT else ""
        failed = served["attributes"].get(names.ERROR_TYPE, "")
        began = span if caller is None else caller
        answer = ", ".join(text for text in (str(failed or status or "answer"), _state(span)) if text)
        yield Arrow(began["start_ns"], who, CALL, span["service"], served["name"])
        yield Arrow(began["end_ns"], span["service"], ANSWER, who, answer)


def _messages(spans: Sequence[SpanJson]) -> Iterator[Arrow]:
    heard: dict[str, list[SpanJson]] = defaultdict(list)
    for span in spans:
        if span["attributes"].get(names.OPERATION_TYPE) == Operation.PROCESS:
            heard[span["attributes"].get(names.MESSAGE_ID, "")].append(span)
    for span in spans:
        if span["attributes"].get(names.OPERATION_TYPE) != Operation.SEND:
            continue
        attributes = span["attributes"]
        channel, message = attributes[names.DESTINATION_NAME], attributes.get(names.EVENT_TYPE, "")
        text = f"{message} ({channel})" if message else channel
        processed = heard.get(attributes.get(names.MESSAGE_ID, ""), [])
        if not processed:
            # an arrow needs an end
            yield Arrow(span["start_ns"], span["service"], LOST, span["service"], f"{text}: heard by nobody")
        for hearer in processed:
            yield Arrow(span["start_ns"], span["service"], MESSAGE, hearer["service"], text, _note(hearer))


def _note(span: SpanJson) -> str:
    attributes = span["attributes"]
    said = []
    if (attempt := attributes.get(names.LAB_DELIVERY_ATTEMPT, 1)) > 1:
        said.append(f"attempt {attempt}")
    if attributes.get(names.LAB_DUPLICATE):
        said.append("known already")
    if reply := attributes.get(names.LAB_REPLY):
        said.append(f"reply: {reply}")
    if reason := attributes.get(names.LAB_DEAD_LETTER_REASON):
        said.append(f"dead letter: {_plain(str(reason))}")
    return ", ".join([*said, *([state] if (state := _state(span)) else [])])


def _state(span: SpanJson) -> str:
    return str(span["attributes"].get(names.LAB_ORDER_STATE, ""))


def _plain(text: str) -> str:
    """Without what means something to Mermaid."""
    return "".join(character if character not in ";#:\n" else " " for character in text)[:80]


def _participant(name: str) -> str:
    return f"participant {name}" if _id(name) == name else f"participant {_id(name)} as {name}"


def _id(name: str) -> str:
    return name.replace("-", "_")
