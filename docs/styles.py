"""docs/styles/: a page for each style, with the conversation as a diagram and the traces to expect.

Both come from orders that were really placed: every service in one process, over memory, with the lab's own span store
and the lab's own drawing.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lab.sequence import diagram
from lab.spans.ingest import Export, SpanWriter
from lab.spans.queries import Questions
from lab.styles import matrix
from services.all import everything
from services.domain import catalog
from services.runtime.config import Config
from services.styles import STYLES, runnable
from services.styles.roles import Style
from services.telemetry.messaging import Shape
from services.transports import MEMORY

ORDER = {"customer": "c-1", "card": "4242424242424242", "ship_to": "Lisbon", "lines": [{"sku": "tea", "quantity": 2}]}
REFUSED = {**ORDER, "ship_to": min(catalog.NOT_SERVED)}
_ENDS = {"completed": ORDER, "refused": REFUSED}
_QUICK = {"work.jitter": "0", "carrier-frugal.work_ms": "100", "carrier-frugal.silent_share": "0"}


@dataclass(frozen=True, slots=True)
class Choice:
    """When to take a style, and when not."""

    take: str
    leave: str


CHOICES = {
    "request_response": Choice(
        "the caller cannot go on without the answer, there are few hops, and each is quick and seldom away",
        "a hop is slow or often away: its latency and its outages are the caller's, and those of all hops add up",
    ),
    "async_request_response": Choice(
        "an answer is needed, but not now: work that takes seconds, participants that may be away for a while",
        "a person waits for it, or nobody will look after answers that come late, twice or for nobody",
    ),
    "notification": Choice(
        "something should happen on the side, and whoever asks for it needs no word of whether it did",
        "its failure changes the outcome: the order is complete here although the customer could not be told",
    ),
    "message_queue": Choice(
        "work has to be levelled and shared: peaks wait in the queue, and more workers drain it quicker",
        "several parties have to know of one thing: a message in a queue has one reader",
    ),
    "publish_subscribe": Choice(
        "several reactions are independent of one another and quick answers count: the longest decides, not the sum",
        "the reactions depend on each other: what was done before somebody refused has to be taken back, if it can be",
    ),
    "publish_async_responses": Choice(
        "several may answer, their answers differ, and part of them will do: offers, quotes, votes",
        "every answer is needed, or a late answer must not be lost: then a deadline is an error",
    ),
    "choreography": Choice(
        "the chain is short and stable, its services belong to different people, and nobody should be in charge",
        "somebody has to say where an order is, or the chain often changes: it is written down nowhere",
    ),
    "orchestration": Choice(
        "many steps with ways back and deadlines, and somebody is asked how far each order is",
        "the steps are few: the one in charge costs twice the messages and knows everybody",
    ),
    "event_sourcing": Choice(
        "the past counts: audits, new questions about old events, state as it was at any moment",
        "events must be deleted or changed, or whoever reads cannot bear to be a little behind",
    ),
    "hybrid": Choice(
        "the customer needs one answer now (is the money there?) and can wait for the rest",
        "two ways of failing are one too many for the team that runs it: it has both kinds",
    ),
}


def same(one: str, other: str) -> bool:
    """Whether two texts of a page say the same: what happens at once is drawn in one order or another."""
    return sorted(one.splitlines()) == sorted(other.splitlines())


@dataclass(frozen=True, slots=True)
class Seen:
    """One order's spans as the span store joins them."""

    order: dict[str, Any]

    @property
    def figures(self) -> str:
        spans = self.order["spans"]
        links = sum(len(span["links"]) for span in spans)
        return f"{len(self.order['traces'])} | {len(spans)} | {links}"


@cache
def seen() -> dict[tuple[str, str, str], Seen]:
    """An order for each style, shape and end (completed or refused), placed and observed."""
    structlog.configure(processors=[structlog.dev.ConsoleRenderer()], logger_factory=structlog.ReturnLoggerFactory())
    return asyncio.run(_look())


async def _look() -> dict[tuple[str, str, str], Seen]:
    found: dict[tuple[str, str, str], Seen] = {}
    with tempfile.TemporaryDirectory(prefix="antiphon-") as folder:
        async with _lab(Path(folder)) as (client, place, spans):
            for shape in Shape:
                await client(shape)
                for style in STYLES.values():
                    for end, body in _ENDS.items() if shape is Shape.BOTH else [("completed", ORDER)]:
                        order_id = await place(style.name, body)
                        found[style.name, shape.value, end] = Seen(_joined(Path(folder), await spans(), order_id))
    return found


@asynccontextmanager
async def _lab(folder: Path) -> AsyncIterator[tuple[Any, Any, Any]]:
    exporter = InMemorySpanExporter()
    async with everything(Config(listen={"http": 0}), folder) as (orders, others):
        processes = [orders.process, *others.values()]
        for process in processes:
            process.telemetry.provider.add_span_processor(SimpleSpanProcessor(exporter))
        async with asyncio.timeout(20):
            for process in processes:
                while await process.ready():  # noqa: ASYNC110  (nobody tells)
                    await asyncio.sleep(0.01)

        async def shaped(shape: Shape) -> None:
            await orders.store.put_settings({**_QUICK, "trace.shape": shape.value})
            orders.process.live.update(await orders.store.settings())

        async def place(style: str, body: dict[str, Any]) -> str:
            exporter.clear()
            url = f"http://127.0.0.1:{orders.door.port}"
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
                placed = (await client.post("/orders", params={"style": style}, json=body)).json()
                ended = (await client.get(f"/orders/{placed['id']}", params={"wait_s": 20})).json()
                assert ended["state"] != "accepted", ended
            return str(placed["id"])

        async def quiet() -> Sequence[ReadableSpan]:
            network = orders.process.network
            async with asyncio.timeout(20):
                consumers = [consumer for process in processes for consumer in process.consumers]
                while any(network.queues.values()) or any(each.busy for each in consumers):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            return exporter.get_finished_spans()

        yield shaped, place, quiet


def _joined(folder: Path, spans: Iterable[ReadableSpan], order_id: str) -> dict[str, Any]:
    """The order as ``GET /orders/{id}`` of the span store has it."""
    wanted = [span for span in spans if span.name != "GET /orders/{order_id}"]
    store = folder / f"{order_id}.db"
    writer = SpanWriter(store, forwarded=False)
    body = encode_spans(wanted).SerializeToString()
    writer.store([Export(body, body, "")])
    writer.close()
    joined: dict[str, Any] = Questions(store).order(order_id).model_dump()
    return joined


def page(style: Style) -> str:
    """docs/styles/<name>.md."""
    choice = CHOICES[style.name]
    figures = "\n".join(
        f"| {shape.value} | {seen()[style.name, shape.value, 'completed'].figures} |" for shape in Shape
    )
    carriers = "\n".join(
        f"| {port.value} | {wire} | {', '.join(runnable(style, port))} |"
        for port, wire in style.wires(style.default).items()
    )
    orphans = {
        span["name"]
        for shape in Shape
        for span in seen()[style.name, shape.value, "completed"].order["spans"]
        if span["orphan"]
    }
    assert not orphans, f"{style.name}: {orphans}"
    return f"""# {style.name}

<!-- Written by `make docs` from services/styles/{style.name}.py and from orders placed over memory. Do not edit. -->

{_capital(style.summary)}. Its cell of the interaction matrix: **{style.cell}**.

Try it: `lab order --style {style.name}`, then `lab trace ID`, or `lab trace ID --mermaid` for a diagram like these.

## When

Take it where {choice.take}.

Leave it where {choice.leave}.

## What carries it

| port | default | can be |
| --- | --- | --- |
{carriers}

## An order that is completed

```mermaid
{diagram(seen()[style.name, Shape.BOTH.value, "completed"].order)}```

## An order to a place that nobody goes to

```mermaid
{diagram(seen()[style.name, Shape.BOTH.value, "refused"].order)}```

## The traces to expect

Of the completed order, over {MEMORY.name} (a broker that is polled adds a span for each poll):

| trace shape | traces | spans | links |
| --- | --- | --- | --- |
{figures}
"""


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def index() -> str:
    """docs/styles/README.md: the interaction matrix."""
    columns, rows = matrix()
    head = ["| | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    body = [
        f"| **{name}** | " + " | ".join("<br>".join(f"[{s}]({s}.md)" for s in cell) for cell in cells) + " |"
        for name, cells in rows.items()
    ]
    summaries = "\n".join(f"- [{style.name}]({style.name}.md): {style.summary}" for style in STYLES.values())
    return f"""# The ten styles

<!-- Written by `make docs` from the table STYLES. Do not edit. -->

{chr(10).join([*head, *body])}

{summaries}
"""


def pages() -> dict[str, Any]:
    """Each page's name below docs/, and what makes it."""
    return {
        "styles/README.md": index,
        **{f"styles/{style.name}.md": lambda style=style: page(style) for style in STYLES.values()},
    }
