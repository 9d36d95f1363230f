"""Every vector of tests/vectors/, fed whole, byte by byte, and cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_vectors import Conversation, cut, from_hex, header_of, load, pour

from ftpy.digests import HEX_LENGTH, hexdigest, new_hasher
from ftpy.errors import InvalidPath, ProtocolError
from ftpy.wire import codec, messages
from ftpy.wire.bases import PathRequest
from ftpy.wire.fields import Trailer
from ftpy.wire.framing import HEADER_BYTES, FrameBuffer, frame
from ftpy.wire.messages import MvRequest
from ftpy.wire.session import Side

FRAMES, HEADERS, SESSIONS, DIGESTS = load("frames"), load("headers"), load("sessions"), load("digests")
CUTS = st.lists(st.integers(1, 400), max_size=12)
Pieces = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data]


def each_byte(data: bytes) -> list[bytes]:
    return cut(data, range(len(data)))


FEEDS = pytest.mark.parametrize("pieces", [whole, each_byte])


def test_vectors_are_all_here():
    assert len(FRAMES) >= 15
    assert len(HEADERS) >= 200
    assert len(SESSIONS) >= 100
    assert len(DIGESTS) >= 8
    assert all(case["why"] for cases in (FRAMES, HEADERS, SESSIONS, DIGESTS) for case in cases.values())


# ---------------------------------------------------------------- frames


def check_frames(case: dict[str, Any], pieces: Pieces) -> None:
    buffer, found, refused = FrameBuffer(), [], False
    for piece in pieces(from_hex(case["bytes"])):
        for _ in pour(buffer, piece):
            try:
                while (header := buffer.next_header(case["limit"])) is not None:
                    found.append(header)
            except ProtocolError:
                refused = True
    assert found == [from_hex(header) for header in case["headers"]]
    assert refused == (case["then"] == "refused")
    if not refused:
        assert bool(len(buffer)) == (case["then"] == "more" and bool(case["bytes"]))


@FEEDS
@pytest.mark.parametrize("name", FRAMES)
def test_frame_vector(name, pieces):
    check_frames(FRAMES[name], pieces)


@given(st.sampled_from(sorted(FRAMES)), CUTS)
def test_frame_vector_when_cut_anywhere(name, cuts):
    check_frames(FRAMES[name], lambda data: cut(data, cuts))


# ---------------------------------------------------------------- headers

REPLIES = {str(kind.__struct_config__.tag): reply for kind, reply in messages.REPLIES.items()}
REPLIES["inline put"] = messages.StoredReply


def read(reads_as: str, header: bytes) -> Any:
    if reads_as == "handshake":
        return codec.decode_handshake(header)
    if reads_as == "request":
        request = codec.decode_request(header)
        if isinstance(request, PathRequest):
            request.remote_path()
        if isinstance(request, MvRequest):
            request.remote_target()
        return request
    if reads_as == "trailer":
        return codec.decode(header, Trailer)
    return codec.decode_reply(header, REPLIES[reads_as.removeprefix("reply to ")])


def check_header(case: dict[str, Any], pieces: Pieces) -> None:
    buffer = FrameBuffer()
    header = None
    for piece in pieces(frame(header_of(case))):
        assert header is None
        buffer.feed(piece)
        header = buffer.next_header(HEADER_BYTES)
    assert header == header_of(case)
    if case["verdict"] == "legal":
        message = read(case["reads_as"], header)
        assert json.loads(codec.encode(message)) == case["means"]
        if "path_hex" in case:
            parts = message.remote_path().parts
            assert [part.encode("utf-8", "surrogateescape").hex() for part in parts] == case["path_hex"]
    else:
        error = {"protocol-error": ProtocolError, "invalid-path": InvalidPath}[case["verdict"]]
        with pytest.raises(error):
            read(case["reads_as"], header)


@FEEDS
@pytest.mark.parametrize("name", HEADERS)
def test_header_vector(name, pieces):
    check_header(HEADERS[name], pieces)


@given(st.sampled_from(sorted(HEADERS)), CUTS)
def test_header_vector_when_cut_anywhere(name, cuts):
    check_header(HEADERS[name], lambda data: cut(data, cuts))


def test_every_verb_has_a_legal_vector():
    legal = [case for case in HEADERS.values() if case["verdict"] == "legal"]
    assert {case["means"]["cmd"] for case in legal if case["reads_as"] == "request"} > messages.VERBS
    assert {case["reads_as"] for case in legal} == {
        "handshake",
        "request",
        "trailer",
        *("reply to " + v for v in REPLIES),
    }


# ---------------------------------------------------------------- sessions


def speak(talk: Conversation, step: dict[str, str], pieces: Pieces) -> None:
    ((who, said),) = step.items()
    side = Side(who.removesuffix("_bytes"))
    data = bytes.fromhex(said) if who.endswith("_bytes") else frame(said.encode())
    talk.say(side, pieces(data))


def check_session(case: dict[str, Any], pieces: Pieces) -> None:
    talk = Conversation().open() if case["begin"] == "open" else Conversation()
    *before, last = case["steps"]
    for step in before:
        speak(talk, step, pieces)
    if case["verdict"] == "legal":
        speak(talk, last, pieces)
    else:
        with pytest.raises(ProtocolError):
            speak(talk, last, pieces)


@FEEDS
@pytest.mark.parametrize("name", SESSIONS)
def test_session_vector(name, pieces):
    check_session(SESSIONS[name], pieces)


@settings(max_examples=200)
@given(st.sampled_from(sorted(SESSIONS)), CUTS)
def test_session_vector_when_cut_anywhere(name, cuts):
    check_session(SESSIONS[name], lambda data: cut(data, cuts))


# ---------------------------------------------------------------- digests


@pytest.mark.parametrize("digest", HEX_LENGTH)
@pytest.mark.parametrize("name", DIGESTS)
def test_digest_vector(name, digest):
    data = from_hex(DIGESTS[name]["bytes"])
    assert hexdigest(digest, data) == DIGESTS[name][digest]
    assert len(DIGESTS[name][digest]) == HEX_LENGTH[digest]


@given(st.sampled_from(sorted(DIGESTS)), st.sampled_from(sorted(HEX_LENGTH)), CUTS)
def test_digest_vector_when_cut_anywhere(name, digest, cuts):
    hasher = new_hasher(digest)
    for piece in cut(from_hex(DIGESTS[name]["bytes"]), cuts):
        hasher.update(piece)
    assert hasher.hexdigest() == DIGESTS[name][digest]
