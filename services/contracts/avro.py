"""The domain's messages as Avro (antiphon.avpr) and back, field by field: explicit, and strict on the way in.

``avro`` reads the protocol, ``fastavro`` the bytes: it is the quick one of the two, and writes the same.
"""

import io
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
from avro.protocol import parse

from services.contracts.events import answer, made
from services.contracts.validity import check
from services.domain.messages import MESSAGES, Command, Event, Line, Order, type_name

PROTOCOL = parse(Path(__file__).with_name("antiphon.avpr").read_text("utf-8"))


@cache
def schema(name: str) -> Any:
    """The record ``name`` of the protocol (``Event``, ``Command``, ``Order``), whole in itself, parsed by fastavro."""
    types: Any = PROTOCOL.types_dict
    return fastavro.parse_schema(types[name].to_json())


def encode(written: Any, datum: Any) -> bytes:
    """``datum`` in Avro's binary encoding, by a schema that fastavro has parsed."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, written, datum)
    return stream.getvalue()


def decode(written: Any, data: bytes, read: Any = None) -> Any:
    """What ``encode`` was given; resolved to the schema ``read``, where that is another. Raises ``ValueError``, also
    where ``data`` goes on behind it: Avro's bytes do not say where they end."""
    stream = io.BytesIO(data)
    datum = decode_next(written, stream, read)
    if stream.tell() != len(data):
        raise ValueError(f"{len(data) - stream.tell()} bytes are too many")
    return datum


def decode_next(written: Any, stream: io.BytesIO, read: Any = None) -> Any:
    """As ``decode``, of what comes next in ``stream``."""
    try:
        return fastavro.schemaless_reader(stream, written, read)
    except Exception as error:  # whatever reading led to, EOFError, IndexError, MemoryError: fastavro has no one name
        raise ValueError(f"these bytes do not fit the schema: {str(error)[:200] or type(error).__name__}") from error


def order_to(order: Order) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "customer": order.customer,
        "card": order.card,
        "ship_to": order.ship_to,
        "lines": [{"sku": line.sku, "quantity": line.quantity} for line in order.lines],
        "amount_cents": order.amount_cents,
    }


def order_from(record: dict[str, Any]) -> Order:
    """Raises ``ValueError`` with the field that is wrong. That each is there, and of its type, is the schema's work."""
    lines = tuple(Line(line["sku"], line["quantity"]) for line in record["lines"])
    customer, card, ship_to = record["customer"], record["card"], record["ship_to"]
    order = Order(record["order_id"], customer, card, ship_to, lines, record["amount_cents"])
    check(order)
    return order


def command_to(command: Command) -> dict[str, Any]:
    """A record ``Command``; which one it is, the record does not say."""
    return {"order": order_to(command.order)}


def command_from(record: dict[str, Any], command: type[Command]) -> Command:
    """Raises ``ValueError``."""
    return command(order_from(record["order"]))


def event_to(event: Event) -> dict[str, Any]:
    """A record ``Event``."""
    return {
        "type": type_name(type(event)),
        "order": order_to(event.order),
        "reason": getattr(event, "reason", None),
        "carrier": getattr(event, "carrier", None),
        "price_cents": getattr(event, "price_cents", None),
        "days": getattr(event, "days", None),
    }


def event_from(record: dict[str, Any], command: Command | None = None) -> Event:
    """The event of a record ``Event``; in an answer to ``command`` it must be one that answers it. Raises
    ``ValueError``."""
    event_type = MESSAGES.get(record["type"])
    if event_type is None or not issubclass(event_type, Event):
        raise ValueError(f"type: {record['type'][:60]!r} is no event")
    if command is not None:
        event_type = answer(record["type"], command)
    return made(event_type, order_from(record["order"]), record.__getitem__)
