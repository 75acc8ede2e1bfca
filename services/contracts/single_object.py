"""The domain's messages in Avro's single-object encoding (Avro 1.12, "Single-object encoding"): two bytes that say so,
the fingerprint of the schema that they were written with, the data.

Avro's bytes name no field and no type: without the very schema that wrote them they cannot be read, and with another
they may be read wrong. The fingerprint says which it was. A reader that knows it resolves it to its own schema; one
that does not refuses the message.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from services.contracts import avro, earlier
from services.domain.messages import Command, Event, type_name

MARKER = b"\xc3\x01"
HEADER_BYTES = len(MARKER) + 8


def header(schema: Any) -> bytes:
    """What stands before the data that ``schema``, whole in itself, has written. Its fingerprint is CRC-64-AVRO,
    little-endian, which is how fastavro spells it."""
    return MARKER + bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


@cache
def known() -> Mapping[bytes, Any]:
    """The schemas that messages may have been written with, by their headers. When antiphon.avpr changes, its
    records as they were belong here (``earlier``)."""
    schemas = (avro.schema("Event"), avro.schema("Command"), fastavro.parse_schema(earlier.EVENT_WITHOUT_QUOTES))
    return {header(schema): schema for schema in schemas}


def dumps(payload: Command | Event) -> bytes:
    """A message's payload: an Event, or a Command, whose name is the message's."""
    own, before = _own(_record(type(payload)))
    record = avro.event_to(payload) if isinstance(payload, Event) else avro.command_to(payload)
    return before + avro.encode(own, record)


def loads(
    message_type: type[Command | Event], body: bytes, writers: Mapping[bytes, Any] | None = None
) -> Command | Event:
    """The reverse of ``dumps``. ``writers`` are the known schemas. Raises ``ValueError``."""
    own, before = _own(_record(message_type))
    start = body[:HEADER_BYTES]
    if start == before:
        written = own
    elif not start.startswith(MARKER) or len(start) < HEADER_BYTES:
        raise ValueError("no Avro single object: it does not begin with C3 01 and a fingerprint")
    elif (found := (known() if writers is None else writers).get(start)) is not None:
        written = found
    else:
        raise ValueError(f"no schema with the fingerprint {start[len(MARKER) :].hex()} is known")
    record = avro.decode(written, body[HEADER_BYTES:], None if written is own else own)
    if issubclass(message_type, Command):
        return avro.command_from(record, message_type)
    if record["type"] != type_name(message_type):
        raise ValueError(f"type: {record['type'][:60]!r} is another")
    return avro.event_from(record)


@cache
def _own(name: str) -> tuple[Any, bytes]:
    """Our schema of a record, and what stands before its data."""
    return avro.schema(name), header(avro.schema(name))


def _record(message_type: type[Command | Event]) -> str:
    return "Command" if issubclass(message_type, Command) else "Event"
