"""Frames: cut anywhere, bounded always."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_vectors import cut, pour

from ftpy.errors import ProtocolError
from ftpy.wire.framing import BUFFER_BYTES, HANDSHAKE_HEADER_BYTES, HEADER_BYTES, FrameBuffer, frame


def test_frame_is_a_little_endian_length_and_the_header():
    assert frame(b"abc") == b"\x03\x00\x00\x00abc"


@pytest.mark.parametrize("size", [1, HEADER_BYTES])
def test_frame_is_made_at_the_limits(size):
    assert len(frame(b"x" * size)) == size + 4


@pytest.mark.parametrize("size", [0, HEADER_BYTES + 1])
def test_frame_is_refused_beyond_the_limits(size):
    with pytest.raises(ProtocolError):
        frame(b"x" * size)


@pytest.mark.parametrize("limit", [HANDSHAKE_HEADER_BYTES, HEADER_BYTES])
@pytest.mark.parametrize("beyond", [0, 1])
def test_next_header_is_refused_as_soon_as_the_length_is_known(limit, beyond):
    buffer = FrameBuffer()
    length = (limit + beyond).to_bytes(4, "little")
    buffer.feed(length[:3])
    assert buffer.next_header(limit) is None
    buffer.feed(length[3:])
    if beyond:
        with pytest.raises(ProtocolError):
            buffer.next_header(limit)
    else:
        assert buffer.next_header(limit) is None


def test_next_header_stays_refused_once_refused():
    buffer = FrameBuffer()
    buffer.feed(bytes(4) + frame(b"abc"))
    for _ in range(2):
        with pytest.raises(ProtocolError):
            buffer.next_header(HEADER_BYTES)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=30), st.lists(st.integers(1, 9000), max_size=30))
def test_headers_come_out_as_they_went_in_when_cut_anywhere(headers, cuts):
    buffer, found = FrameBuffer(2048), []
    for piece in cut(b"".join(map(frame, headers)), cuts):
        for _ in pour(buffer, piece):
            while (header := buffer.next_header(300)) is not None:
                found.append(header)
    assert found == headers
    assert len(buffer) == 0


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=200), st.binary(max_size=3000)), max_size=20),
    st.lists(st.integers(1, 60_000), max_size=30),
)
def test_bodies_come_out_between_headers_when_cut_anywhere(trains, cuts):
    """A header, then a body of a length that the reader knows, larger than the buffer or smaller."""
    buffer, found = FrameBuffer(1024), []
    lengths = iter([len(body) for _, body in trains])
    due = 0

    def drain() -> None:
        nonlocal due
        while True:
            if due:
                view = buffer.take(due)
                if not view:
                    return
                found[-1][1].extend(view)
                due -= len(view)
            elif (header := buffer.next_header(200)) is not None:
                found.append((header, bytearray()))
                due = next(lengths)
            else:
                return

    for piece in cut(b"".join(frame(header) + body for header, body in trains), cuts):
        for _ in pour(buffer, piece):
            drain()
    assert found == trains


def test_space_is_never_empty_while_the_longest_frame_is_incomplete():
    """Wherever in the buffer a frame begins, the whole of it finds room."""
    longest = frame(b"x" * HEADER_BYTES)
    for before in range(0, BUFFER_BYTES - 1, 4093):
        buffer = FrameBuffer()
        buffer.feed(b"b" * before + longest[: BUFFER_BYTES - before])
        assert len(buffer.take(before)) == before
        for _ in pour(buffer, longest[BUFFER_BYTES - before :]):
            pass
        assert buffer.next_header(HEADER_BYTES) == longest[4:]


def test_take_gives_what_is_there_and_no_more():
    buffer = FrameBuffer()
    buffer.feed(b"abcdef")
    assert bytes(buffer.take(2)) == b"ab"
    assert bytes(buffer.take(9)) == b"cdef"
    assert bytes(buffer.take(9)) == b""


def test_feed_refuses_more_than_there_is_space():
    buffer = FrameBuffer(8)
    with pytest.raises(ValueError, match="1 bytes more than can be held"):
        buffer.feed(b"123456789")


@pytest.mark.parametrize(
    ("held", "whole"),
    [
        (b"", False),
        (b"abc", False),
        (b"abc" + frame(b"t")[:3], False),
        (b"abc" + frame(b"t")[:4], False),
        (b"abc" + frame(b"t"), True),
        (b"abc" + frame(b"t") + b"more", True),
        (b"abc" + bytes(4), False),
        (b"abc" + frame(b"t" * 10), True),
        (b"abc" + frame(b"t" * 11), False),
    ],
)
def test_holds_says_whether_a_body_and_its_trailer_are_here(held, whole):
    buffer = FrameBuffer()
    buffer.feed(held)
    assert buffer.holds(3, 10) is whole
    assert len(buffer) == len(held)


def test_holds_looks_at_nothing_behind_the_end_of_its_memory():
    buffer = FrameBuffer(8)
    buffer.feed(b"12345abc")
    assert buffer.holds(5, 10) is False
    assert buffer.holds(8, 10) is False
