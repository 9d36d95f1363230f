"""What is legal in a field and what is just beyond, as docs/protocol.md says it, not as the code does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ftpy.errors import ProtocolError
from ftpy.wire import codec, fields
from ftpy.wire.bases import FailureReply
from ftpy.wire.handshake import Challenge, Denied, Hello, Limits, Proof, Welcome
from ftpy.wire.messages import (
    GetRequest,
    LsReply,
    LsRequest,
    MkdirRequest,
    MvRequest,
    PartRequest,
    PutRequest,
    RmRequest,
    UploadReply,
)
from ftpy.wire.spelling import b64decode, b64encode

ID = "0123456789abcdef" * 2
SECRET = "A" * 43

NUMBERS = [
    (fields.Size, 0, 2**63 - 1),
    (fields.RequestId, 1, 2**53 - 1),
    (fields.ConnectionId, 0, 2**53 - 1),
    (fields.Time, -(2**63), 2**63 - 1),
    (fields.Mode, 0, 0o777),
    (fields.PartNumber, 0, 9_999),
]


@pytest.mark.parametrize(("kind", "least", "most"), NUMBERS)
def test_number_is_legal_at_its_ends_and_nowhere_beyond(kind, least, most):
    decoder = msgspec.json.Decoder(kind)
    for value in (least, most):
        assert decoder.decode(str(value)) == value
    for value in (least - 1, most + 1):
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(str(value))


HEX = "0123456789abcdef"
TEXTS = [
    (
        fields.Hex32,
        [HEX * 2],
        [HEX * 2 + "0", HEX + HEX[1:], HEX.upper() * 2, HEX + HEX[:-1] + "g", HEX * 2 + "\n", ""],
    ),
    (fields.Hex64, [HEX * 4], [HEX * 4 + "0", HEX * 3 + HEX[1:], HEX.upper() * 4, HEX * 4 + "\n", ""]),
    (fields.Base64, ["", "AZaz09_-"], ["+", "/", "=", "A\n", "Ä"]),
    (fields.Secret32, [SECRET, "_-" * 21 + "8"], ["A" * 42, "A" * 44, "A" * 42 + "B", "A" * 42 + "+", SECRET + "\n"]),
    (fields.Text, ["", "ä" * 1024], ["a" * 1025]),
    (fields.ActivityName, ["a", "a-b", "a" * 32], ["", "-", "A", "a1", "a" * 33, "a\n"]),
    (fields.UserName, ["a", "0", "a._-9", "a" * 64], ["", ".", "-a", "A", "aB", "a" * 65, "a\n"]),
]


@pytest.mark.parametrize(("kind", "legal", "illegal"), TEXTS)
def test_text_is_legal_as_its_pattern_says_and_not_otherwise(kind, legal, illegal):
    decoder, encode = msgspec.json.Decoder(kind), msgspec.json.encode
    for text in legal:
        assert decoder.decode(encode(text)) == text
    for text in illegal:
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(encode(text))


def hello(**fields: Any) -> dict[str, Any]:
    return {"cmd": "hello", "protocol": 1, "user": "a", "client_nonce": SECRET, "binding": "none", **fields}


def limits(**fields: Any) -> dict[str, Any]:
    return {"inline_bytes": 1, "requests": 1, **fields}


def upload(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "ok": True, "upload": ID, "part_size": 1, "missing": [], **fields}


def failure(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "ok": False, "error": "busy", **fields}


@pytest.mark.parametrize(
    ("kind", "message", "field", "legal", "illegal"),
    [
        (Hello, hello, "protocol", [1, 65_535], [0, 65_536]),
        (Hello, hello, "binding", ["none", "tls-cert-sha256"], ["", "None", "tls"]),
        (Limits, limits, "requests", [1, 1_000_000], [0, 1_000_001]),
        (Limits, limits, "least_bytes_per_second", [0], [-1]),
        (UploadReply, upload, "part_size", [1, 2**63 - 1], [0, 2**63]),
        (UploadReply, upload, "missing", [[[0, 0]], [[0, 1], [2, 2], [9_999, 9_999]]], [[[1, 0]], [[0, 1], [1, 2]]]),
        (FailureReply, failure, "error", ["a", "a-b", "a" * 64], ["", "-", "A", "a1", "a" * 65, "a\n"]),
    ],
)
def test_field_of_a_message_is_legal_at_its_ends_and_nowhere_beyond(kind, message, field, legal, illegal):
    for value in legal:
        said = getattr(codec.decode(msgspec.json.encode(message(**{field: value})), kind), field)
        assert msgspec.json.encode(said) == msgspec.json.encode(value)
    for value in illegal:
        with pytest.raises(ProtocolError):
            codec.decode(msgspec.json.encode(message(**{field: value})), kind)


def test_page_of_a_listing_has_at_most_a_thousand_entries():
    entry = {"name": "a", "type": "file", "size": 0, "mtime_ns": 0, "mode": 0}

    def page(count: int) -> bytes:
        return msgspec.json.encode({"id": 1, "ok": True, "entries": [entry] * count, "complete": True})

    assert len(codec.decode(page(1_000), LsReply).entries) == 1_000
    with pytest.raises(ProtocolError):
        codec.decode(page(1_001), LsReply)


def test_message_of_the_handshake_is_known_by_its_word():
    for kind, word in ((Hello, "hello"), (Challenge, "challenge"), (Proof, "proof"), (Welcome, "welcome")):
        assert kind.__struct_config__.tag == word
    assert codec.encode(Denied()) == b'{"cmd":"denied"}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"cmd":"put","id":1,"path":"x","mtime_ns":0}', PutRequest(id=1, path="x", mtime_ns=0, digest="md5")),
        (b'{"cmd":"get","id":1}', GetRequest(id=1, path="", offset=0, count=None, digest="md5")),
        (b'{"cmd":"mkdir","id":1}', MkdirRequest(id=1, path="", parents=False)),
        (b'{"cmd":"ls","id":1}', LsRequest(id=1, path="", recursive=False)),
        (b'{"cmd":"rm","id":1}', RmRequest(id=1, path="", recursive=False)),
        (b'{"cmd":"mv","id":1}', MvRequest(id=1, path="", to="", condition=None)),
        (
            b'{"cmd":"part","id":1,"upload":"%s","part":0,"length":1}' % ID.encode(),
            PartRequest(id=1, upload=ID, part=0, length=1, digest="blake3"),
        ),
    ],
)
def test_what_is_left_out_means_what_the_document_says(header, message):
    assert codec.decode_request(header) == message
    assert codec.encode(message) == header


def test_what_a_server_leaves_out_of_its_limits_is_no_limit():
    assert codec.decode(msgspec.json.encode(limits()), Limits).least_bytes_per_second == 0


def test_bytes_are_spelt_with_their_last_digit_whatever_it_is():
    for end in range(256):
        for before in (b"", b"a", b"ab"):
            data = before + bytes([end])
            text = b64encode(data)
            assert len(text) == (4 * len(data) + 2) // 3
            assert b64decode(text) == data
