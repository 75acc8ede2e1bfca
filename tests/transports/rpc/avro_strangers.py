"""Avro of another make: protocols that differ from ours, the library's own client and server, and worse ones."""

import contextlib
import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import avro.ipc
import avro.protocol

from services.contracts import generate
from services.contracts.avro import command_to, decode_next, encode, event_to
from services.domain.messages import ChargePayment, PaymentCharged
from services.transports.rpc import avro_ipc as ipc
from tests.transports.rpc.suite import ORDER

AVPR = (generate.HERE / "antiphon.avpr").read_text()
SAME = avro.protocol.parse(AVPR)
PARAMETERS = {"command": command_to(ChargePayment(ORDER))}
CHARGED = event_to(PaymentCharged(ORDER))
BOTH = {"match": "BOTH", "serverProtocol": None, "serverHash": None, "meta": None}
NO_METADATA = b"\0"


def changed(record: str = "Order", **fields: Any) -> avro.protocol.Protocol:
    """Our protocol with other fields in ``record``: None takes one out; a type (or type and default) adds one at the
    end, or moves it there."""
    document = json.loads(AVPR)
    (of,) = (each for each in document["types"] if each["name"] == record)
    kept = [field for field in of["fields"] if field["name"] not in fields]
    added = {name: kind for name, kind in fields.items() if kind is not None}
    of["fields"] = kept + [
        {"name": name, **(kind if "default" in kind else {"type": kind})} for name, kind in added.items()
    ]
    return avro.protocol.parse(json.dumps(document))


def redone(before: str, after: str) -> avro.protocol.Protocol:
    """Our protocol with other words in its text."""
    assert before in str(SAME)
    return avro.protocol.parse(str(SAME).replace(before, after))


OTHER_WORDS = redone("So many pieces", "Pieces")
"""Says the same, and has another fingerprint."""
WITHOUT_QUOTES = changed("Event", carrier=None, price_cents=None, days=None)
"""As it was before carriers were asked."""


def order(**changes: Any) -> dict[str, Any]:
    """The parameters of a call, with another order; None leaves a field out."""
    fields = {**PARAMETERS["command"]["order"], **changes}
    return {"command": {"order": {name: value for name, value in fields.items() if value is not None}}}


def calling(name: str, parameters: Any = PARAMETERS) -> bytes:
    """A call without metadata, by our protocol."""
    return NO_METADATA + encode("string", name) + encode(ipc.OURS.schema("charge", "request"), parameters)


def opening(client: bytes = ipc.OURS.hash, text: str | None = None, server: bytes = ipc.OURS.hash) -> bytes:
    """The handshake of a request."""
    handshake = {"clientHash": client, "clientProtocol": text, "serverHash": server, "meta": None}
    return encode(ipc._HANDSHAKE_REQUEST, handshake)


def told(handshake: dict[str, Any]) -> bytes:
    """The handshake of an answer."""
    return encode(ipc._HANDSHAKE_RESPONSE, handshake)


def parted(framed: bytes) -> tuple[dict[str, Any], bytes]:
    """An answer's handshake, and what follows."""
    stream = io.BytesIO(ipc.unframe(framed))
    return decode_next(ipc._HANDSHAKE_RESPONSE, stream), stream.read()


def ask(port: int, theirs: avro.protocol.Protocol, name: str, parameters: Any) -> Any:
    """What the library's own client is answered."""
    transceiver = avro.ipc.HTTPTransceiver("127.0.0.1", port)
    avro.ipc.REMOTE_HASHES.clear()  # it knows servers by the address of its own socket, which may come again
    try:
        return avro.ipc.Requestor(theirs, transceiver).request(name, parameters)
    finally:
        transceiver.close()


class Foreign(avro.ipc.Responder):
    """The library's own server, which charges every order; or raises."""

    def __init__(self, protocol: avro.protocol.Protocol, raises: Exception | None = None) -> None:
        super().__init__(protocol)
        self._raises = raises

    def invoke(self, message: avro.protocol.Message, request: Any) -> Any:
        if self._raises:
            raise self._raises
        event = {"type": "payment.charged", "order": request["command"]["order"], "reason": None, "colour": "red"}
        return {field.name: event.get(field.name) for field in message.response.fields}


class Peer:
    """A server of another make, and what it got: each request without its frames, and its headers' names."""

    def __init__(self, respond: Callable[[bytes], bytes]) -> None:
        self.respond = respond
        self.requests: list[bytes] = []
        self.headers: list[set[str]] = []
        self.port = 0


@contextmanager
def peer(respond: Callable[[bytes], bytes], *, after_s: float = 0) -> Iterator[Peer]:
    """One that answers with what ``respond`` makes of a request, both without frames; ``after_s`` late."""
    it = Peer(respond)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ipc.unframe(self.rfile.read(int(self.headers["content-length"])))
            it.requests.append(message)
            it.headers.append({name.lower() for name in self.headers})
            time.sleep(after_s)
            body = io.BytesIO()
            avro.ipc.FramedWriter(body).write_framed_message(it.respond(message))
            with contextlib.suppress(ConnectionError):  # whoever asked has gone
                self.send_response(200)
                self.send_header("content-type", "avro/binary")
                self.end_headers()
                self.wfile.write(body.getvalue())

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        it.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield it
        finally:
            server.shutdown()
            thread.join()
