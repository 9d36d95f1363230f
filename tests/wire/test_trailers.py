"""A trailer compared at one glance is judged as one that is read; how deep headers nest; what requests tell."""

from __future__ import annotations

from typing import Any

import pytest

from ftpy.errors import ProtocolError
from ftpy.wire import codec
from ftpy.wire.bases import UnknownRequest
from ftpy.wire.codec import MOST_DEPTH, encode, trailer_header
from ftpy.wire.fields import DigestOf, Trailer
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES
from ftpy.wire.handshake import Challenge, Hello, Limits, Proof, Welcome
from ftpy.wire.messages import (
    CommitRequest,
    GetRequest,
    LsRequest,
    MkdirRequest,
    MvRequest,
    PartRequest,
    PutRequest,
    RmRequest,
    StatRequest,
)
from ftpy.wire.session import Session, Side
from ftpy.wire.spelling import b64encode, spelt

ID = "0123456789abcdef" * 2
OTHER = "f" * 32
SECRET = "A" * 43


def open_server() -> Session:
    """A server's session behind its welcome."""
    server, client = Session(Side.SERVER), Session(Side.CLIENT)
    hello = Hello(protocol=1, user="a", client_nonce=SECRET, binding="none")
    limits = Limits(inline_bytes=100, requests=4)
    welcome = Welcome(server_proof=SECRET, server="s", time_ns=0, limits=limits, digests=[], rights=[])
    for speaker, hearer, message in (
        (client, server, hello),
        (server, client, Challenge(server_nonce=SECRET)),
        (client, server, Proof(client_proof=SECRET)),
        (server, client, welcome),
    ):
        hearer.receive(speaker.send(message)[4:])
    return server


def after_a_body(length: int = 3) -> Session:
    server = open_server()
    server.receive(encode(PutRequest(id=1, path="x", file_size=length, mtime_ns=0, length=length)))
    if length:
        server.incoming.body(length)
    return server


def test_trailer_as_expected_is_nothing_to_look_at():
    server = after_a_body()
    assert server.receive_trailer(trailer_header("md5", ID), "md5", ID) is None
    assert server.incoming.between_frames


def test_trailer_spelt_otherwise_is_the_same_trailer():
    server = after_a_body()
    assert server.receive_trailer(b'{ "md5" : "%s" }' % ID.encode(), "md5", ID) is None
    assert server.incoming.between_frames


@pytest.mark.parametrize(("name", "value"), [("md5", OTHER), ("xxh128", ID)])
def test_trailer_with_another_digest_or_name_is_given_back(name, value):
    server = after_a_body()
    assert server.receive_trailer(trailer_header(name, value), "md5", ID) == Trailer(**{name: value})
    assert server.incoming.between_frames


@pytest.mark.parametrize("header", [trailer_header("md5", ID), b'{"md5": "%s"}' % ID.encode()])
def test_trailer_is_refused_where_none_is_due_however_it_is_spelt(header):
    server = open_server()
    with pytest.raises(ProtocolError):
        server.receive_trailer(header, "md5", ID)


@pytest.mark.parametrize("header", [trailer_header("md5", ID), b'{"md5": "%s"}' % ID.encode()])
def test_trailer_is_refused_before_the_body_has_ended_however_it_is_spelt(header):
    server = open_server()
    server.receive(encode(PutRequest(id=1, path="x", file_size=3, mtime_ns=0, length=3)))
    server.incoming.body(2)
    with pytest.raises(ProtocolError):
        server.receive_trailer(header, "md5", ID)


def test_request_is_refused_where_a_trailer_is_due_and_again_as_a_trailer():
    with pytest.raises(ProtocolError):
        after_a_body().receive_trailer(encode(StatRequest(id=2, path="x")), "md5", ID)
    with pytest.raises(ProtocolError, match="a trailer is due"):
        open_server().receive_trailer(encode(StatRequest(id=2, path="x")), "md5", ID)


def test_trailer_that_is_sent_is_what_the_other_end_expects():
    client = Session(Side.CLIENT)
    client.outgoing.header(1)
    client.outgoing.body(1)
    assert client.send_trailer("md5", ID)[4:] == encode(Trailer(md5=ID))
    with pytest.raises(ProtocolError):
        client.send_trailer("md5", ID)


# ---------------------------------------------------------------- nesting


def nested(depth: int, inner: str = "") -> bytes:
    """A request that nobody knows, so many brackets deep with its own."""
    return f'{{"cmd":"new","id":1,"x":{"[" * (depth - 1)}{inner}{"]" * (depth - 1)}}}'.encode()


def test_request_of_a_newer_peer_may_be_nested_up_to_the_limit():
    assert codec.decode_request(nested(MOST_DEPTH)) == UnknownRequest(cmd="new", id=1)
    with pytest.raises(ProtocolError, match="nested deeper than 32"):
        codec.decode_request(nested(MOST_DEPTH + 1))


def test_what_is_in_a_string_or_side_by_side_is_not_nested():
    beside = ",".join(["[{}]"] * MOST_DEPTH)
    for inner in (f'"{"[" * 99}"', r'"\"[[["', beside):
        deep = nested(4, inner)
        assert codec.decode_request(deep) == UnknownRequest(cmd="new", id=1)


def test_what_has_closed_counts_no_more_and_no_less():
    before = "[]," * MOST_DEPTH
    deepest = "[" * (MOST_DEPTH - 2)
    assert codec.decode_request(nested(2, before + deepest + "]" * len(deepest))) == UnknownRequest(cmd="new", id=1)
    with pytest.raises(ProtocolError, match="nested deeper"):
        codec.decode_request(nested(2, before + "[" + deepest + "]" * len(deepest) + "]"))


# ---------------------------------------------------------------- what requests say of themselves


@pytest.mark.parametrize(
    ("text", "b64", "said"),
    [
        ("a/b", None, "a/b"),
        ("../..", None, "../.."),
        ("", b64encode(b"\xff/x"), "\udcff/x"),
        ("", b64encode(b"plain"), "plain"),
        ("", "A", "A"),
        ("", "AB", "AB"),
    ],
)
def test_path_is_told_to_people_as_it_was_sent_legal_or_not(text, b64, said):
    assert spelt(text, b64) == said
    assert GetRequest(id=1, path=text, path_b64=b64).spelt_path() == said
    assert MvRequest(id=1, path="p", to=text, to_b64=b64).spelt_target() == said


DIGEST = DigestOf(md5=ID)
GROUPED: list[tuple[Any, bool, int | None]] = [
    (PutRequest(id=1, path="x", file_size=3, mtime_ns=0, length=3), True, 3),
    (PutRequest(id=1, path="x", file_size=0, mtime_ns=0, length=0), True, 0),
    (PutRequest(id=1, path="x", file_size=3, mtime_ns=0), False, None),
    (MkdirRequest(id=1, path="x"), True, None),
    (RmRequest(id=1, path="x"), False, None),
    (MvRequest(id=1, path="x", to="y"), False, None),
    (LsRequest(id=1, path="x"), False, None),
    (PartRequest(id=1, upload=ID, part=0, length=5), False, 5),
    (CommitRequest(id=1, upload=ID, digest=DIGEST), False, None),
]


@pytest.mark.parametrize(("request_", "grouped", "body"), GROUPED, ids=lambda value: type(value).__name__)
def test_only_small_puts_and_folders_are_made_durable_in_groups(request_, grouped, body):
    assert request_.grouped is grouped
    assert request_.body_length == body


# ---------------------------------------------------------------- a CRC-32 of a header


def test_crc_comes_last_and_is_that_of_all_before_its_comma():
    plain, checked = b'{"cmd":"stat","id":1}', b'{"cmd":"stat","id":1,"crc32":"b304c021"}'
    assert codec.add_crc(plain) == checked
    assert (codec.has_crc(plain), codec.has_crc(checked)) == (False, True)
    assert codec.without_crc(checked) == plain
    with pytest.raises(ProtocolError):
        codec.without_crc(checked.replace(b'"id":1', b'"id":2'))


def test_header_too_short_to_hold_a_crc_has_none():
    for header in (b"", b"{}", b',"crc32":"01234567"}'[1:]):
        assert not codec.has_crc(header)


def test_no_bytes_of_a_body_have_passed_before_there_is_one():
    session = Session(Side.SERVER)
    assert (session.incoming.done, session.outgoing.done) == (0, 0)
    session = after_a_body(3)
    assert (session.incoming.done, session.incoming.due) == (3, 0)


@pytest.mark.parametrize(("beyond", "legal"), [(0, True), (1, False)])
def test_header_of_the_greatest_length_is_sent_and_none_longer(beyond, legal):
    short = Hello(protocol=1, user="", client_nonce=SECRET, binding="none")
    hello = Hello(
        protocol=1,
        user="a" * (HANDSHAKE_HEADER_BYTES - len(encode(short)) + beyond),
        client_nonce=SECRET,
        binding="none",
    )
    client = Session(Side.CLIENT)
    if legal:
        assert len(client.send(hello)) == 4 + HANDSHAKE_HEADER_BYTES
    else:
        with pytest.raises(ProtocolError):
            client.send(hello)
