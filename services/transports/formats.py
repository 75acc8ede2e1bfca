"""The formats of a message's payload, in one table for all brokers: JSON, Protobuf, Avro.

On the way out the process's setting decides (``LAB_MESSAGE_FORMAT``), on the way in the message's content-type: so
services that write different formats understand each other. Whichever it is, ``ce-type`` names the message.

json      ``application/json``
protobuf  ``application/protobuf`` (RFC 9996); Command or Event of antiphon.proto. The attribute dataschema is the type
          URL of the two (CloudEvents Protobuf format 1.0.2, section 3), and another one is refused: a package
          antiphon.v2 says by its name that readers of v1 would misunderstand it
avro      ``application/avro``, which nobody has registered but CloudEvents itself says (Kafka binding 1.0.2, section
          3.2.5); Command or Event of antiphon.avpr, behind the fingerprint of the schema that it was written with

What they can bear when a schema changes stands in docs/formats.md.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from services.domain.messages import MESSAGES, Command, Event
from services.transports.errors import Undecodable


@dataclass(frozen=True)
class Format:
    """``module`` has ``dumps(payload) -> bytes`` and ``loads(message_type, body) -> payload``, which raises
    ``ValueError``. It is imported when it is used. ``schemas`` is the prefix of its dataschema, if it says one."""

    name: str
    content_type: str
    module: str
    schemas: str = ""
    aliases: tuple[str, ...] = field(default=(), kw_only=True)

    @cached_property
    def dumps(self) -> Callable[[Command | Event], bytes]:
        """Bytes of a payload; its type is the message's, not theirs."""
        dumps: Callable[[Command | Event], bytes] = importlib.import_module(self.module).dumps
        return dumps

    @cached_property
    def _loads(self) -> Callable[[type[Command | Event], bytes], Command | Event]:
        loads: Callable[[type[Command | Event], bytes], Command | Event] = importlib.import_module(self.module).loads
        return loads

    def loads(self, name: str, body: bytes) -> Command | Event:
        """The message type called ``name`` from ``body``. Raises ``Undecodable``."""
        message_type = _known(name)
        try:
            return self._loads(message_type, body)
        except ValueError as error:
            raise Undecodable(f"{name}: {error}") from None

    def schema_of(self, message_type: type[Command | Event]) -> str:
        """The dataschema of such a message."""
        return self.schemas + ("Command" if issubclass(message_type, Command) else "Event")

    def check_schema(self, name: str, schema: str) -> None:
        """Raises ``Undecodable`` unless ``schema`` is the dataschema of the message type called ``name``."""
        if schema != (own := self.schema_of(_known(name))):
            raise Undecodable(f"{name}: dataschema {schema[:60]!r} is not {own}")


def _known(name: str) -> type[Command | Event]:
    message_type = MESSAGES.get(name)
    if message_type is None:
        raise Undecodable(f"unknown message type {name[:60]!r}")
    return message_type


_CONTRACTS = "services.contracts"

JSON = Format("json", "application/json", f"{_CONTRACTS}.plain_json")
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        JSON,
        Format(
            "protobuf",
            "application/protobuf",
            f"{_CONTRACTS}.protobuf",
            "type.googleapis.com/antiphon.v1.",
            aliases=("application/x-protobuf",),  # deprecated by RFC 9996, section 4, and still common
        ),
        Format(
            "avro",
            "application/avro",
            f"{_CONTRACTS}.single_object",
            aliases=("avro/binary",),  # the name in Avro's own specification, for its RPC over HTTP
        ),
    )
}
_OF = {content_type: f for f in FORMATS.values() for content_type in (f.content_type, *f.aliases)}


def of(content_type: str | None) -> Format:
    """The format that a message's ``content_type`` names; JSON where it names none. Raises ``Undecodable``."""
    said = content_type or JSON.content_type
    known = _OF.get(said) or _OF.get(said.partition(";")[0].strip().lower())
    if known is None:
        names = ", ".join(f.content_type for f in FORMATS.values())
        raise Undecodable(f"content-type {said[:60]!r} is none of {names}")
    return known
