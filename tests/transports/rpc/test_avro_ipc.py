"""Avro's IPC without a wire: framing, handshake, calls, resolution; and all the bytes that are none of it."""

import json
from collections.abc import Callable
from typing import Any

import avro.protocol
import pytest

from services.contracts.avro import encode
from services.transports.rpc import avro_ipc as ipc
from tests.transports.fuzz import hammer
from tests.transports.rpc.avro_strangers import (
    AVPR,
    BOTH,
    CHARGED,
    NO_METADATA,
    OTHER_WORDS,
    PARAMETERS,
    SAME,
    calling,
    changed,
    opening,
    order,
    parted,
    redone,
    told,
)

GIFT = changed(gift=["null", "string"])
OTHER = {**BOTH, "serverProtocol": str(OTHER_WORDS), "serverHash": OTHER_WORDS.md5}
UNKNOWN = b"?" * 16


def meet(clients: ipc.Clients, client: bytes, text: str | None = None, server: bytes = ipc.OURS.hash) -> Any:
    """The handshake that such a caller is answered with."""
    return parted(ipc.frame(clients.open(ipc.frame(opening(client, text, server))).handshake))[0]


# --- framing


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 60_000])
def test_a_message_survives_its_frames(size: int) -> None:
    """Buffers of at most 8 KiB behind their length, and one of length 0."""
    message = bytes(n % 251 for n in range(size))
    framed = ipc.frame(message)
    assert ipc.unframe(framed) == message
    assert len(framed) == size + 4 * (-(-size // 8192) + 1)


def test_frames_may_be_cut_anywhere() -> None:
    assert ipc.unframe(b"\0\0\0\1a\0\0\0\2bc\0\0\0\0") == b"abc"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "break off"),
        (b"\0\0", "break off"),
        (b"\0\0\0\1", "break off"),
        (b"\0\0\0\1a", "break off"),
        (b"\xff\xff\xff\xffa", "break off"),
        (b"\0\0\0\0a", "follows"),
    ],
)
def test_frames_that_are_not_whole_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ipc.unframe(data)


# --- the handshake


def test_our_fingerprint_is_the_library_s() -> None:
    """So that those who use it with the same .avpr need not exchange protocols."""
    assert ipc.OURS.hash == SAME.md5


@pytest.mark.parametrize("introduce", [False, True])
def test_a_request_is_read_as_it_was_written(introduce: bool) -> None:
    framed = ipc.request(ipc.OURS, "charge", {"traceparent": "00-ü"}, PARAMETERS, introduce=introduce)
    assert (ipc.OURS.text.encode() in ipc.unframe(framed)) is introduce
    opened = ipc.Clients().open(framed)
    name, metadata, parameters = ipc.called(opened.call)
    assert (opened.client, name, metadata) == (ipc.OURS, "charge", {"traceparent": "00-ü"})
    assert ipc.OURS.read(name, "request", parameters) == PARAMETERS


@pytest.mark.parametrize(
    ("client", "text", "server", "match"),
    [
        (ipc.OURS.hash, None, ipc.OURS.hash, "BOTH"),
        (ipc.OURS.hash, None, UNKNOWN, "CLIENT"),
        (UNKNOWN, None, ipc.OURS.hash, "NONE"),
        (UNKNOWN, None, UNKNOWN, "NONE"),
        (GIFT.md5, str(GIFT), ipc.OURS.hash, "BOTH"),
        (GIFT.md5, str(GIFT), UNKNOWN, "CLIENT"),
    ],
)
def test_the_handshake_says_what_each_side_knows(client: bytes, text: str | None, server: bytes, match: str) -> None:
    """Whoever does not match is told our protocol: the library's client needs it after NONE, too."""
    handshake = meet(ipc.Clients(), client, text, server)
    assert handshake["match"] == match
    assert handshake["serverProtocol"] == (None if match == "BOTH" else ipc.OURS.text)
    assert handshake["serverHash"] == (None if match == "BOTH" else ipc.OURS.hash)


def test_a_protocol_that_was_seen_once_is_known() -> None:
    clients = ipc.Clients()
    assert [meet(clients, GIFT.md5, text)["match"] for text in (None, str(GIFT), None)] == ["NONE", "BOTH", "BOTH"]


def test_a_fingerprint_is_that_of_its_text() -> None:
    """Else a caller could pass its protocol off as another's, whose calls would then be read by it."""
    clients = ipc.Clients()
    with pytest.raises(ValueError, match="MD5"):
        meet(clients, GIFT.md5, str(OTHER_WORDS))
    assert meet(clients, GIFT.md5)["match"] == "NONE"


def test_nobody_can_replace_our_protocol() -> None:
    clients = ipc.Clients()
    meet(clients, ipc.OURS.hash, str(GIFT))
    assert clients.open(ipc.frame(opening())).client is ipc.OURS


def test_a_server_forgets_whom_it_met_first() -> None:
    """And asks anew; our own protocol it always knows."""
    clients = ipc.Clients()
    strangers = [changed(**{f"x{n}": "null"}) for n in range(ipc.MOST_STRANGERS + 1)]
    for each in strangers:
        meet(clients, each.md5, str(each))
    hashes = (strangers[0].md5, strangers[1].md5, strangers[-1].md5, ipc.OURS.hash)
    assert [meet(clients, each)["match"] for each in hashes] == ["NONE", "BOTH", "BOTH", "BOTH"]


@pytest.mark.parametrize(
    ("handshake", "speaks", "complete"),
    [
        (BOTH, ipc.OURS.hash, True),
        ({**OTHER, "match": "CLIENT"}, OTHER_WORDS.md5, True),
        ({**OTHER, "match": "NONE"}, OTHER_WORDS.md5, False),
        ({**BOTH, "match": "NONE"}, ipc.OURS.hash, False),
        ({**OTHER, "match": "CLIENT", "serverHash": UNKNOWN}, UNKNOWN, True),
    ],
    ids=["both", "client", "none", "none, says no more", "another fingerprint"],
)
def test_a_caller_learns_what_its_peer_speaks(handshake: dict[str, Any], speaks: bytes, complete: bool) -> None:
    """A server's fingerprint is what it says: it must be sent back to it as it is."""
    rest = ipc.response("charge", CHARGED) if complete else b""
    answer = ipc.answer(ipc.OURS, "charge", ipc.frame(told(handshake) + rest))
    assert (answer.server.hash, answer.complete) == (speaks, complete)
    assert answer.response == (CHARGED if complete else None)


# --- resolution


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (SAME, PARAMETERS),
        (OTHER_WORDS, PARAMETERS),
        (redone('"antiphon.v1"', '"other.v7"'), PARAMETERS),
        (GIFT, order(gift="ja")),
        (changed(notes={"type": "array", "items": "string"}), order(notes=["a", "b"])),
        (changed("Line", quantity="int"), PARAMETERS),
        (changed(order_id="string"), PARAMETERS),
        (changed("Event", reason=None), PARAMETERS),
    ],
    ids=["same", "words", "namespace", "one field more", "a list more", "promoted", "reordered", "another answer"],
)
def test_what_differs_and_resolves_is_read(theirs: avro.protocol.Protocol, said: dict[str, Any]) -> None:
    protocol = ipc.Protocol(str(theirs))
    assert protocol.read("charge", "request", encode(protocol.schema("charge", "request"), said)) == PARAMETERS


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ("Line", {"quantity": {"type": "int", "logicalType": "date"}}),
        ("Order", {"amount_cents": {"type": "long", "logicalType": "timestamp-millis"}}),
        ("Order", {"card": {"type": "string", "logicalType": "uuid"}}),
        ("Order", {"card": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}}),
    ],
    ids=["date", "instant", "uuid", "decimal"],
)
def test_a_writer_s_logical_type_does_not_change_ours(record: str, fields: dict[str, Any]) -> None:
    theirs, plain = changed(record, **fields), changed(record, **{n: t["type"] for n, t in fields.items()})
    said = order(card=b"4242") if fields.get("card", {}).get("type") == "bytes" else PARAMETERS
    sent = encode(ipc.Protocol(str(plain)).schema("charge", "request"), said)
    assert ipc.Protocol(str(theirs)).read("charge", "request", sent) == PARAMETERS


def test_a_logical_type_that_nobody_knows_is_none() -> None:
    """As the specification has it; the library warns."""
    text = str(changed(card={"type": "string", "logicalType": "uuid"})).replace('"uuid"', '"pin"')
    theirs = ipc.Protocol(text)
    assert theirs.read("charge", "request", encode(theirs.schema("charge", "request"), PARAMETERS)) == PARAMETERS


def test_a_field_that_an_answer_lacks_has_its_default() -> None:
    protocol = ipc.Protocol(str(changed("Event", reason=None)))
    assert protocol.read("charge", "response", encode(protocol.schema("charge", "response"), CHARGED)) == CHARGED


INCOMPATIBLE = [
    (
        changed(card=None),
        r"reader field missing default value: card \(in the request, at /fields/0/type/fields/0/type/fields/2\)",
    ),
    (changed(amount_cents="string"), "reader type: long not compatible with writer type: string"),
    (changed("Line", quantity="double"), "reader type: long not compatible with writer type: double"),
    (changed(card=["null", "string"]), "reader type: string not compatible with writer type: null"),
    (redone('"Line"', '"Row"'), "name mismatch"),
    (redone('"name": "command"', '"name": "ask"'), "reader field missing default value: command"),
    (redone('"charge"', '"debit"'), "the protocol has no message 'charge'"),
]


@pytest.mark.parametrize(("theirs", "says"), INCOMPATIBLE, ids=lambda value: value if isinstance(value, str) else None)
def test_what_does_not_resolve_is_refused_before_a_byte_is_read(theirs: avro.protocol.Protocol, says: str) -> None:
    with pytest.raises(ipc.IncompatibleError, match=says):
        ipc.Protocol(str(theirs)).read("charge", "request", b"")


def test_errors_that_do_not_resolve_show_when_one_comes() -> None:
    """Avro's rules look at the branch that was written, and the string is everyone's."""
    protocol = ipc.Protocol(str(changed("Failed", message="long")))
    errors = protocol.schema("charge", "errors")
    assert protocol.read("charge", "errors", encode(errors, "broken")) == "broken"
    with pytest.raises(ValueError, match="do not fit"):
        protocol.read("charge", "errors", encode(errors, {"code": "INTERNAL", "message": 7}))


def doubling(levels: int) -> dict[str, Any]:
    """A type that holds another twice, which holds another twice, and nothing in the end."""
    held: dict[str, Any] = {"type": "record", "name": "D0", "fields": [{"name": "of", "type": "null"}]}
    for level in range(1, levels):
        fields = [{"name": "a", "type": held}, {"name": "b", "type": f"D{level - 1}"}]
        held = {"type": "record", "name": f"D{level}", "fields": fields}
    return held


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ({"type": "array", "items": "null"}, "no bytes"),
        ({"type": "array", "items": {"type": "fixed", "name": "Nothing", "size": 0}}, "no bytes"),
        ({"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}}, "no bytes"),
        ({"type": "record", "name": "Self", "fields": [{"name": "of", "type": ["null", "Self"]}]}, "recursive"),
        ({"type": "record", "name": "Wide", "fields": [{"name": f"f{n}", "type": "null"} for n in range(101)]}, "100"),
        (doubling(50), "100"),
    ],
    ids=["array of nulls", "array of fixed 0", "array of empty records", "recursive", "wide", "doubling"],
)
def test_a_protocol_that_makes_much_of_few_bytes_is_refused(kind: Any, says: str) -> None:
    """The caller brings the plan by which its bytes are read: with these, a request of some bytes could keep a server
    busy for years."""
    with pytest.raises(ipc.IncompatibleError, match=says):
        ipc.Protocol(str(changed(more=kind))).read("charge", "request", b"")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "1", '"Participants"', "{}", "[" * 60_000),
        *('{"protocol": ""}', '{"protocol": 1}', '{"protocol": "P", "types": 1}'),
        *('{"protocol": "P", "messages": {"charge": 1}}', '{"protocol": "P", "messages": {"charge": {}}}'),
        json.dumps({**json.loads(AVPR), "types": []}),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_protocol_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this is no protocol"):
        ipc.Protocol(text)


# --- answers


def test_an_answer_is_a_response_or_one_of_two_errors() -> None:
    """Metadata, a flag, and what it promises; the union of errors begins with string, which goes without saying."""
    failed = {"code": "INTERNAL", "message": "?"}
    assert ipc.response("charge", CHARGED).startswith(NO_METADATA + b"\0")
    assert ipc.system_error("?") == NO_METADATA + b"\1" + b"\0" + b"\2?"
    assert ipc.declared_error("charge", failed).startswith(NO_METADATA + b"\1" + b"\2")
    for written, read in ((ipc.system_error("?"), "?"), (ipc.declared_error("charge", failed), failed)):
        assert ipc.answer(ipc.OURS, "charge", ipc.frame(told(BOTH) + written)).error == read


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        told(BOTH)[:-1],
        told(BOTH),  # all that the library's server writes where it means a system error
        told(BOTH) + ipc.response("charge", CHARGED) + b"\0",
        told(BOTH) + ipc.response("charge", CHARGED)[:-1],
        told({**BOTH, "match": "CLIENT", "serverProtocol": "{}"}) + ipc.response("charge", CHARGED),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"do not fit|too many|no protocol"):
        ipc.answer(ipc.OURS, "charge", ipc.frame(answer))


# --- malformed bytes


def _of_protocol(data: bytes) -> Any:
    return ipc.Protocol(data.decode()).schema("charge", "request")


_GIFT = ipc.Protocol(str(GIFT))
DECODERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "frames": (ipc.unframe, ipc.frame(opening() + calling("charge"))),
    "handshake": (lambda data: ipc.Clients().open(ipc.frame(data)), opening(GIFT.md5, str(GIFT)) + calling("charge")),
    "protocol": (_of_protocol, str(GIFT).encode()),
    "call": (ipc.called, b"\2" + encode("string", "traceparent") + b"\2x\0" + encode("string", "charge") + b"x"),
    "our parameters": (lambda data: ipc.OURS.read("charge", "request", data), calling("charge")[8:]),
    "their parameters": (
        lambda data: _GIFT.read("charge", "request", data),
        encode(_GIFT.schema("charge", "request"), order(gift="ja")),
    ),
    "answer": (
        lambda data: ipc.answer(ipc.OURS, "charge", ipc.frame(data)),
        told({**OTHER, "match": "CLIENT"}) + ipc.response("charge", CHARGED),
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_no_bytes_can_hurt_a_decoder(name: str) -> None:
    decoder, good = DECODERS[name]
    hammer(decoder, ValueError, good)
