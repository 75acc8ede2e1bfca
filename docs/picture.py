"""The picture of the README: two orders of a running lab side by side, on one scale.

    .venv/bin/python -m docs.picture CALLED SUNG      # ids of an order by request_response and one by choreography

Rows are the spans that the order's critical path goes through; ``█`` is work, ``░`` is waiting.
"""

import sys
from typing import Any

import httpx

from lab.targets import current

COLUMNS = 24
WAITS = ("queue", "outbox")


def rows(store: str, order_id: str) -> tuple[list[tuple[str, float, float, bool]], float]:
    """(label, from ms, to ms, whether it waits) per span, in time order, and how long the order took in ms."""
    order = httpx.get(f"{store}/orders/{order_id}", trust_env=False).raise_for_status().json()
    path = httpx.get(f"{store}/orders/{order_id}/critical-path", trust_env=False).raise_for_status().json()
    on_path = {segment["span_id"] for segment in path["segments"]}
    begin = path["start_ns"]
    found = []
    for span in sorted(order["spans"], key=lambda each: each["start_ns"]):
        shown = span["kind"] in {"SERVER", "CONSUMER"} or span["attributes"].get("lab.wait") in WAITS
        if span["span_id"] in on_path and shown:
            times = ((span["start_ns"] - begin) / 1e6, (span["end_ns"] - begin) / 1e6)
            found.append((_label(span), *times, "lab.wait" in span["attributes"]))
    return found, (path["end_ns"] - begin) / 1e6


def _label(span: dict[str, Any]) -> str:
    action = span["name"].split(" ")[0]
    if span["kind"] == "SERVER":
        action = span["name"].replace("/orders/{order_id}", "…")
    return f"{span['service']:<13} {action}"


def draw(of: list[tuple[str, float, float, bool]], whole_ms: float) -> list[str]:
    lines = []
    for label, begin, end, waits in of:
        first = min(int(begin / whole_ms * COLUMNS), COLUMNS - 1)
        length = max(1, round((end - begin) / whole_ms * COLUMNS))
        bar = " " * first + ("░" if waits else "█") * min(length, COLUMNS - first)
        lines.append(f"{label:<29.29}{end - begin:5.0f} ms {bar:<{COLUMNS}}")
    return lines


def main(called: str, sung: str) -> None:
    store = current().addresses["span_store"]
    (left, left_ms), (right, right_ms) = rows(store, called), rows(store, sung)
    whole_ms = max(left_ms, right_ms)
    columns = draw(left, whole_ms), draw(right, whole_ms)
    width = max(len(line) for line in columns[0])
    for number in range(max(map(len, columns))):
        one, other = (column[number] if number < len(column) else "" for column in columns)
        print(f"{one:<{width}}│ {other}".rstrip())


if __name__ == "__main__":
    main(*sys.argv[1:])
