"""Avro's RPC without its I/O: what stands in the bytes of a request and of its answer.

By the Avro specification 1.12, "Protocol Wire Format". Over HTTP, which keeps no state, every request opens with the
handshake: the MD5 of the caller's protocol, and of the one that it believes the server to have. Only a server that has
not met that protocol before asks for its text (match ``NONE``), and the request comes again with it. After that each
side resolves what the other wrote by the other's protocol to its own. The library ``avro`` has the protocol, the
framing and the rules of resolution; its ``Requestor`` and ``Responder`` keep the state of one call in themselves, so
that calls side by side would disturb each other.
"""

import io
import json
import warnings
from collections.abc import Mapping
from hashlib import md5
from typing import Any, NamedTuple

import fastavro
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.ipc import HANDSHAKE_REQUEST_SCHEMA_JSON, HANDSHAKE_RESPONSE_SCHEMA_JSON, FramedReader, FramedWriter
from avro.protocol import parse
from avro.schema import ArraySchema, FixedSchema, MapSchema, RecordSchema, Schema, UnionSchema

from services.contracts.avro import PROTOCOL, decode, decode_next, encode

MOST_PARTS = 100
"""How many types what a stranger writes may be made of, each counted wherever it occurs. Ours has 14."""
MOST_STRANGERS = 64
"""So many other protocols a server remembers; a caller whose protocol it has forgotten sends it again."""

_HANDSHAKE_REQUEST = fastavro.parse_schema(json.loads(HANDSHAKE_REQUEST_SCHEMA_JSON))
_HANDSHAKE_RESPONSE = fastavro.parse_schema(json.loads(HANDSHAKE_RESPONSE_SCHEMA_JSON))
_METADATA = fastavro.parse_schema({"type": "map", "values": "bytes"})
_SYSTEM_ERROR = fastavro.parse_schema(["string"])


class IncompatibleError(ValueError):
    """What one side writes the other cannot read, whatever the bytes."""


class Protocol:
    """The protocol of one side, by which the other reads it. Raises ``ValueError`` for a ``text`` that is none."""

    def __init__(self, text: str, known_as: bytes | None = None) -> None:
        self.text = text
        self.hash = known_as or md5(text.encode(), usedforsecurity=False).digest()
        try:
            with warnings.catch_warnings(action="ignore"):  # of logical types that it does not know, and nor do we
                self._messages = parse(text).messages or {}
        except Exception as error:  # a stranger's JSON: KeyError, TypeError, RecursionError and avro's own
            raise ValueError(f"this is no protocol: {str(error)[:200] or type(error).__name__}") from error
        self._schemas: dict[tuple[str, str], Any] = {}

    def schema(self, message: str, part: str) -> Any:
        """What ``message`` has as its ``part``: ``request``, ``response`` or ``errors``. Raises
        ``IncompatibleError``."""
        key = message, part
        if key not in self._schemas:
            if message not in self._messages:
                raise IncompatibleError(f"the protocol has no message {message!r}")
            schema = getattr(self._messages[message], part)
            if self is not OURS:
                _bounded(schema)
                _compatible(schema, getattr(OURS._messages[message], part), part)
            self._schemas[key] = fastavro.parse_schema(_plain(schema, part))
        return self._schemas[key]

    def read(self, message: str, part: str, data: bytes) -> Any:
        """What this side wrote, as ours has it. Raises ``ValueError``: bytes that are not that, or
        ``IncompatibleError``."""
        written = self.schema(message, part)
        return decode(written, data, None if self is OURS else OURS.schema(message, part))


OURS = Protocol(str(PROTOCOL))


def _plain(schema: Any, part: str) -> Any:
    """As JSON. A request's parameters are the fields of a record that has no name; errors, a union that begins with
    ``string``, which goes without saying. Logical types are left out: we have none, and fastavro takes the writer's, so
    that a stranger could make a date of our integer."""
    plain = json.loads(json.dumps(schema.to_json()), object_hook=_physical)
    return {"request": {"type": "record", "name": part, "fields": plain}, "errors": ["string", *plain]}.get(part, plain)


def _physical(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "logicalType"}


def _bounded(schema: Schema) -> None:
    """A caller brings the plan by which its bytes are read: it must not make much work of few bytes, by types that
    hold themselves, or double with each level, or by arrays of what takes no bytes. Raises ``IncompatibleError``."""
    parts = 0

    def least_bytes(schema: Schema) -> int:
        nonlocal parts
        parts += 1
        if parts > MOST_PARTS:
            raise IncompatibleError(f"a type is recursive or has more than {MOST_PARTS} parts")
        if isinstance(schema, RecordSchema):
            return sum(least_bytes(field.type) for field in schema.fields)
        if isinstance(schema, UnionSchema):
            return 1 + min((least_bytes(branch) for branch in schema.schemas), default=0)
        if isinstance(schema, MapSchema):
            least_bytes(schema.values)
        if isinstance(schema, ArraySchema) and least_bytes(schema.items) == 0:
            raise IncompatibleError("an array's items take no bytes")
        if isinstance(schema, FixedSchema):
            return int(schema.size)
        return 0 if schema.type == "null" else 1

    least_bytes(schema)


def _compatible(theirs: Any, ours: Any, part: str) -> None:
    """Raises ``IncompatibleError``. The library does not judge errors: there, reading shows it."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    if part == "request":
        found = checker.check_reader_writer_record_fields(ours, theirs, ["/"])
    elif part == "response":
        found = checker.get_compatibility(ours, theirs)
    else:
        return
    if found.compatibility is SchemaCompatibilityType.incompatible:
        kinds = {kind.value.replace("_", " ") for kind in found.incompatibilities}
        why, which = ", ".join(sorted(kinds)), ", ".join(sorted(found.messages))
        where = max(found.locations, key=len)  # the root is always among them
        raise IncompatibleError(f"{why}: {which} (in the {part}, at {where})")


# --- framing: buffers behind their length, and one of length 0


def frame(message: bytes) -> bytes:
    """In buffers of at most 8 KiB."""
    stream = io.BytesIO()
    FramedWriter(stream).write_framed_message(message)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def unframe(data: bytes) -> bytes:
    """Raises ``ValueError``."""
    stream = io.BytesIO(data)
    try:
        message: bytes = FramedReader(stream).read_framed_message()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError("the frames break off") from error
    if stream.tell() != len(data):
        raise ValueError("something follows the last frame")
    return message


# --- the caller's side


class Answer(NamedTuple):
    """``server`` is what the peer has turned out to speak. It wants to be asked again, with our protocol's text, where
    it is not ``complete``. ``error`` is text for a system error, a record for a declared one."""

    server: Protocol
    complete: bool
    response: Any = None
    error: Any = None


def request(server: Protocol, message: str, metadata: Mapping[str, str], parameters: Any, *, introduce: bool) -> bytes:
    """A call to who is believed to speak ``server``; with ``introduce``, our protocol's text goes with it."""
    opening = {
        "clientHash": OURS.hash,
        "clientProtocol": OURS.text if introduce else None,
        "serverHash": server.hash,
        "meta": None,
    }
    return frame(
        encode(_HANDSHAKE_REQUEST, opening)
        + encode(_METADATA, {key: value.encode() for key, value in metadata.items()})
        + encode("string", message)
        + encode(OURS.schema(message, "request"), parameters)
    )


def answer(server: Protocol, message: str, framed: bytes) -> Answer:
    """What the peer answered to a ``request`` with the same ``server`` and ``message``. Raises ``ValueError``."""
    stream = io.BytesIO(unframe(framed))
    handshake = decode_next(_HANDSHAKE_RESPONSE, stream)
    if handshake["serverProtocol"] is not None:
        server = Protocol(handshake["serverProtocol"], handshake["serverHash"])
    if handshake["match"] == "NONE":
        return Answer(server, complete=False)
    decode_next(_METADATA, stream)
    if decode_next("boolean", stream):
        return Answer(server, complete=True, error=server.read(message, "errors", stream.read()))
    return Answer(server, complete=True, response=server.read(message, "response", stream.read()))


# --- the server's side


class Opened(NamedTuple):
    """A request whose handshake is read. ``handshake`` opens the answer, and is all of it where the ``client`` is not
    known; ``call`` is what follows in the request."""

    handshake: bytes
    client: Protocol | None
    call: bytes


class Clients:
    """The protocols that callers of a server speak."""

    def __init__(self) -> None:
        self._strangers: dict[bytes, Protocol] = {}

    def open(self, framed: bytes) -> Opened:
        """Raises ``ValueError``."""
        stream = io.BytesIO(unframe(framed))
        handshake = decode_next(_HANDSHAKE_REQUEST, stream)
        client = self._client(handshake["clientHash"], handshake["clientProtocol"])
        right = handshake["serverHash"] == OURS.hash
        match = "NONE" if client is None else "BOTH" if right else "CLIENT"
        response = {
            "match": match,
            "serverProtocol": None if match == "BOTH" else OURS.text,
            "serverHash": None if match == "BOTH" else OURS.hash,
            "meta": None,
        }
        return Opened(encode(_HANDSHAKE_RESPONSE, response), client, stream.read())

    def _client(self, known_as: bytes, text: str | None) -> Protocol | None:
        if known_as == OURS.hash:
            return OURS
        if text is not None:
            stranger = Protocol(text)
            if stranger.hash != known_as:  # else one caller could pass its protocol off as another's
                raise ValueError("clientHash is not the MD5 of clientProtocol")
            self._strangers.pop(known_as, None)
            self._strangers[known_as] = stranger
            if len(self._strangers) > MOST_STRANGERS:
                del self._strangers[next(iter(self._strangers))]
        return self._strangers.get(known_as)


def called(call: bytes) -> tuple[str, dict[str, str], bytes]:
    """The message's name, the metadata and the parameters' bytes. Raises ``ValueError``."""
    stream = io.BytesIO(call)
    metadata = {key: value.decode(errors="replace") for key, value in decode_next(_METADATA, stream).items()}
    return decode_next("string", stream), metadata, stream.read()


def response(message: str, datum: Any) -> bytes:
    return _NO_METADATA + encode("boolean", False) + encode(OURS.schema(message, "response"), datum)  # noqa: FBT003


def declared_error(message: str, error: Any) -> bytes:
    return _NO_METADATA + encode("boolean", True) + encode(OURS.schema(message, "errors"), error)  # noqa: FBT003


def system_error(detail: str) -> bytes:
    return _NO_METADATA + encode("boolean", True) + encode(_SYSTEM_ERROR, detail)  # noqa: FBT003


_NO_METADATA = encode(_METADATA, {})
