"""Thrift's messages in THeader frames, bytes in and bytes out: no socket, no clock, and no thread.

A frame holds its length, headers, and one message: name, kind, sequence id and a struct, in the compact or the binary
protocol (Apache Thrift, doc/specs/HeaderFormat.md and thrift-rpc.md). The library's own servers and clients read from a
socket and wait for it; what they do in between is done here, on a buffer.
"""

from collections.abc import Mapping
from typing import Any

from thrift.protocol.TBinaryProtocol import (  # type: ignore[import-untyped]
    TBinaryProtocol,
    TBinaryProtocolAccelerated,
)
from thrift.protocol.TCompactProtocol import (  # type: ignore[import-untyped]
    TCompactProtocol,
    TCompactProtocolAccelerated,
)
from thrift.Thrift import TApplicationException, TMessageType  # type: ignore[import-untyped]
from thrift.transport.THeaderTransport import (  # type: ignore[import-untyped]
    THeaderClientType,
    THeaderSubprotocolID,
    THeaderTransport,
)
from thrift.transport.TTransport import TMemoryBuffer  # type: ignore[import-untyped]

CALL, REPLY, EXCEPTION = TMessageType.CALL, TMessageType.REPLY, TMessageType.EXCEPTION
FRAMED = (THeaderClientType.HEADERS, THeaderClientType.FRAMED_BINARY, THeaderClientType.FRAMED_COMPACT)
"""What is understood: THeader, and the framed protocols that came before it, which have no headers."""

LIMIT_BYTES = 64 * 1024
NOTHING: Mapping[str, str] = {}

# The accelerated decoder puts U+FFFD where text is not UTF-8, and says nothing; this one raises.
_READ = {THeaderSubprotocolID.BINARY: TBinaryProtocol, THeaderSubprotocolID.COMPACT: TCompactProtocol}
_WRITE = {
    THeaderSubprotocolID.BINARY: TBinaryProtocolAccelerated,
    THeaderSubprotocolID.COMPACT: TCompactProtocolAccelerated,
}


class Malformed(ValueError):
    """These bytes are no message, or not the one that was waited for. ``type`` is TApplicationException's word for it;
    ``answer`` is what the sender must be told, where the specification wants that, else empty."""

    def __init__(self, detail: str, type_: int = TApplicationException.PROTOCOL_ERROR, answer: bytes = b"") -> None:
        super().__init__(detail)
        self.type = type_
        self.answer = answer


class Message:
    """The message in ``frame`` (its length included), up to the struct. Inflated it may have ``limit_bytes``. Raises
    ``Malformed``."""

    def __init__(self, frame: bytes, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._frame = frame
        self._buffer = TMemoryBuffer(frame)
        self._transport = THeaderTransport(self._buffer, FRAMED, THeaderSubprotocolID.COMPACT)
        self._transport.set_max_decompressed_size(limit_bytes)
        try:
            self._transport.readFrame(0)
            self._protocol = _READ[self._transport.protocol_id](self._transport, container_length_limit=limit_bytes)
            self.name, self.kind, self.seqid = self._protocol.readMessageBegin()
        except TApplicationException as error:  # an unknown transform: "an error MUST be returned" (HeaderFormat.md)
            self.name, self.seqid = "", self._transport.sequence_id
            raise Malformed(str(error), error.type, self.exception(error.type, str(error))) from None
        except Exception as error:  # whatever the bytes led the library to: EOFError, struct.error, zlib.error, …
            raise Malformed(_why(error)) from error

    @property
    def headers(self) -> dict[str, str]:
        return {
            name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for name, value in self._transport.get_headers().items()
        }

    def read(self, struct: Any) -> Any:
        """``struct``, filled. Raises ``Malformed``."""
        try:
            struct.read(self._protocol)
        except Exception as error:
            raise Malformed(_why(error)) from error
        return struct

    def answer(self, kind: int, struct: Any, headers: Mapping[str, str] = NOTHING) -> bytes:
        """The frame that answers this one, in the protocol that it came in (which may have no place for ``headers``);
        once for each message."""
        protocol = _WRITE.get(self._transport.protocol_id, TCompactProtocolAccelerated)
        _send(self._transport, _payload(protocol, self.name, kind, self.seqid, struct), headers)
        answer: bytes = self._buffer.getvalue()[len(self._frame) :]
        return answer

    def exception(self, type_: int, detail: str) -> bytes:
        """The answer that Thrift itself has for a call that did not come about."""
        return self.answer(EXCEPTION, TApplicationException(type_, detail))


def call(name: str, seqid: int, arguments: Any, headers: Mapping[str, str]) -> bytes:
    """The frame of a call, in the compact protocol."""
    buffer = TMemoryBuffer()
    transport = THeaderTransport(buffer, FRAMED, THeaderSubprotocolID.COMPACT)
    transport.sequence_id = seqid
    _send(transport, _payload(TCompactProtocolAccelerated, name, CALL, seqid, arguments), headers)
    frame: bytes = buffer.getvalue()
    return frame


def _send(transport: Any, payload: bytes, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        transport.set_header(name.encode(), value.encode())
    transport.write(payload)
    transport.flush()


def _payload(protocol_class: Any, name: str, kind: int, seqid: int, struct: Any) -> bytes:
    """In a buffer of its own: what cannot be written must not leave its first half in the frame."""
    buffer = TMemoryBuffer()
    protocol = protocol_class(buffer)
    protocol.writeMessageBegin(name, kind, seqid)
    struct.write(protocol)
    protocol.writeMessageEnd()
    payload: bytes = buffer.getvalue()
    return payload


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
