"""Streams over real sockets: silence and slowness told apart, whole buffers out, a last word that arrives."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpy.errors import ConnectionLost, ProtocolError, Stalled
from ftpy.transport.deadline import Deadline
from ftpy.transport.stream import TLS_SEND_BYTES, Stream
from ftpy.wire.framing import frame

LIMIT = 65_536
SILENCE = 2.0
"""Seconds of silence that these streams bear."""

Pair = tuple[Stream, socket.socket]


def break_off(stream: Stream) -> None:
    """What the server does from another thread."""
    socket.socket.shutdown(stream._sock, socket.SHUT_RDWR)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A stream and the bare socket at its other end."""
    near, far = socket.socketpair()
    stream = Stream(near, silence_seconds=SILENCE)
    far.settimeout(10)
    yield stream, far
    stream.close()
    far.close()


def beside(run: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)


def trickle(sock: socket.socket, data: bytes, pause: float) -> None:
    for byte in data:
        time.sleep(pause)
        sock.sendall(bytes([byte]))


# ------------------------------------------------------------------ deadline


def test_deadline_counts_down_and_stalls_when_it_has_passed() -> None:
    assert 59 < Deadline(60, "the test").remaining() <= 60
    deadline = Deadline(0.05, "the test")
    with pytest.raises(Stalled, match="the test took too long"):
        while True:
            deadline.remaining()


# ------------------------------------------------------------------ in


def test_headers_come_out_whole_however_they_were_cut(pair: Pair) -> None:
    stream, far = pair
    writer = beside(lambda: trickle(far, frame(b"first") + frame(b"second"), 0.001))
    assert [stream.receive_header(LIMIT), stream.receive_header(LIMIT)] == [b"first", b"second"]
    writer.join()


def test_header_is_none_where_the_stream_ends_between_frames(pair: Pair) -> None:
    stream, far = pair
    far.sendall(frame(b"last"))
    far.shutdown(socket.SHUT_WR)
    assert stream.receive_header(LIMIT) == b"last"
    assert stream.receive_header(LIMIT) is None


def test_header_is_lost_where_the_stream_ends_inside_a_frame(pair: Pair) -> None:
    stream, far = pair
    far.sendall(frame(b"first")[:-1])
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLost, match="inside a frame"):
        stream.receive_header(LIMIT)


@pytest.mark.parametrize("length", [0, LIMIT + 1, 2**32 - 1])
def test_header_is_refused_before_its_bytes_come_when_its_length_is_illegal(pair: Pair, length: int) -> None:
    stream, far = pair
    far.sendall(length.to_bytes(4, "little"))
    with pytest.raises(ProtocolError):
        stream.receive_header(LIMIT)


def test_silence_before_a_header_has_a_limit_of_its_own(pair: Pair) -> None:
    stream, far = pair
    begin = time.monotonic()
    with pytest.raises(Stalled):
        stream.receive_header(LIMIT, silence_seconds=0.05)
    assert time.monotonic() - begin < SILENCE
    far.sendall(frame(b"late"))
    assert stream.receive_header(LIMIT) == b"late"


def test_a_header_that_trickles_is_given_up_though_it_is_never_silent(pair: Pair) -> None:
    """A byte now and then must not hold a connection for as long as a header is."""
    stream, far = pair
    begin = time.monotonic()
    stop = threading.Event()

    def feed() -> None:
        far.sendall((1000).to_bytes(4, "little"))
        while not stop.wait(0.05):
            far.sendall(b"x")

    writer = beside(feed)
    try:
        with pytest.raises(Stalled):
            stream.receive_header(LIMIT)
    finally:
        stop.set()
        writer.join()
    assert SILENCE <= time.monotonic() - begin < 3 * SILENCE


def test_a_body_that_trickles_is_slow_but_not_silent(pair: Pair) -> None:
    stream, far = pair
    data = bytes(range(12))
    writer = beside(lambda: trickle(far, data, SILENCE / 10))
    view = memoryview(bytearray(len(data)))
    begin, done = time.monotonic(), 0
    while done < len(data):
        done += stream.receive_some(view[done:])
    writer.join()
    assert bytes(view) == data and time.monotonic() - begin > SILENCE


def test_a_body_that_stops_is_stalled_after_the_limit(pair: Pair) -> None:
    stream, far = pair
    far.sendall(b"some")
    assert stream.receive_some(memoryview(bytearray(100))) == 4
    begin = time.monotonic()
    with pytest.raises(Stalled):
        stream.receive_some(memoryview(bytearray(100)))
    assert SILENCE * 0.9 <= time.monotonic() - begin < 3 * SILENCE


def test_a_body_is_lost_where_the_stream_ends(pair: Pair) -> None:
    stream, far = pair
    far.close()
    with pytest.raises(ConnectionLost, match="inside a body"):
        stream.receive_some(memoryview(bytearray(1)))


def test_readable_sees_what_is_held_what_is_waiting_and_the_end(pair: Pair) -> None:
    stream, far = pair
    assert not stream.readable()
    far.sendall(frame(b"a") + frame(b"b"))
    assert stream.readable()
    assert stream.receive_header(LIMIT) == b"a"
    assert stream.readable()
    assert stream.receive_header(LIMIT) == b"b"
    assert not stream.readable()
    far.close()
    assert stream.readable()


def test_readable_is_no_end_of_the_world_when_the_socket_is_closed(pair: Pair) -> None:
    stream, _ = pair
    stream.close()
    with pytest.raises(ConnectionLost):
        stream.readable()


# ------------------------------------------------------------------ limits


def test_until_ends_all_that_is_done_inside(pair: Pair) -> None:
    """Every byte that comes would start the limit of silence anew; the deadline does not care."""
    stream, far = pair
    stop = threading.Event()

    def feed() -> None:
        while not stop.wait(0.02):
            far.sendall(b"x")

    writer = beside(feed)
    begin = time.monotonic()
    try:
        with pytest.raises(Stalled), stream.until(Deadline(0.2)):
            while True:
                stream.receive_some(memoryview(bytearray(1)))
    finally:
        stop.set()
        writer.join()
    assert time.monotonic() - begin < SILENCE
    far.sendall(b"x")
    assert stream.receive_some(memoryview(bytearray(1))) == 1  # afterwards only silence counts again


# ------------------------------------------------------------------ out


def test_send_goes_on_while_the_peer_reads_slowly(pair: Pair) -> None:
    stream, far = pair
    data = os.urandom(8 * TLS_SEND_BYTES)
    got = bytearray()

    def drink() -> None:
        while len(got) < len(data):
            time.sleep(SILENCE / 20)
            got.extend(far.recv(64 * 1024))

    reader = beside(drink)
    begin = time.monotonic()
    stream.send(data)
    reader.join(10)
    assert bytes(got) == data and time.monotonic() - begin > SILENCE


def test_send_is_stalled_when_the_peer_reads_nothing(pair: Pair) -> None:
    stream, _ = pair
    begin = time.monotonic()
    with pytest.raises(Stalled):
        stream.send(bytes(64 * 1024 * 1024))
    assert time.monotonic() - begin < 3 * SILENCE


@pytest.mark.slow
def test_what_moved_before_the_silence_does_not_double_it() -> None:
    """A system call that moved some bytes and then waited in vain returns them: the silence is nearly over by then."""
    near, far = socket.socketpair()
    stream = Stream(near, silence_seconds=1.6)
    begin = time.monotonic()
    with pytest.raises(Stalled):
        stream.send(bytes(64 * 1024 * 1024))
    assert 1.6 <= time.monotonic() - begin < 2.9
    stream.close()
    far.close()


def talk_first_then_read(far: socket.socket, frames: int, got: bytearray) -> None:
    """A peer that reads on only when all that it has to say was taken."""
    with contextlib.suppress(OSError):  # who cannot wait for it is gone
        far.sendall(frame(b"x" * 60_000) * frames)
        while len(got) < 8 * 1024 * 1024:
            got += far.recv(1 << 20)


@pytest.mark.parametrize("listens", [True, False])
def test_send_waits_for_ever_for_a_peer_that_wants_to_be_read_first_unless_it_listens(listens: bool) -> None:
    near, far = socket.socketpair()
    far.settimeout(10)
    stream = Stream(near, silence_seconds=SILENCE, listens=listens)
    got = bytearray()
    data = os.urandom(8 * 1024 * 1024)
    peer = beside(lambda: talk_first_then_read(far, 50, got))
    try:
        if not listens:
            with pytest.raises(Stalled):
                stream.send(data)
            return
        stream.send(data)
        for _ in range(50):
            assert stream.receive_header(LIMIT) == b"x" * 60_000
        peer.join(10)
        assert bytes(got) == data
    finally:
        stream.close()
        peer.join(10)
        far.close()


def test_send_that_listens_is_stalled_when_the_peer_neither_reads_nor_speaks() -> None:
    near, far = socket.socketpair()
    stream = Stream(near, silence_seconds=SILENCE, listens=True)
    begin = time.monotonic()
    with pytest.raises(Stalled):
        stream.send(bytes(64 * 1024 * 1024))
    assert time.monotonic() - begin < 3 * SILENCE
    stream.close()
    far.close()


def test_send_is_not_stalled_while_the_peer_says_that_it_is_still_there() -> None:
    near, far = socket.socketpair()
    far.settimeout(10)
    stream = Stream(near, silence_seconds=SILENCE, listens=True)
    got = bytearray()

    def peer() -> None:
        for _ in range(12):
            time.sleep(SILENCE / 4)
            far.sendall(frame(b"{}"))
        while len(got) < 8 * 1024 * 1024:
            got.extend(far.recv(1 << 20))

    thread = beside(peer)
    stream.send(bytes(8 * 1024 * 1024))
    thread.join(10)
    assert len(got) == 8 * 1024 * 1024
    stream.close()
    far.close()


def test_send_is_lost_when_the_peer_is_gone(pair: Pair) -> None:
    stream, far = pair
    far.close()
    with pytest.raises(ConnectionLost):
        stream.send(bytes(1024))


def test_send_file_sends_the_range_and_nothing_else(pair: Pair, tmp_path: Path) -> None:
    stream, far = pair
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    got: list[bytes] = []
    reader = beside(lambda: got.append(read_all(far)))
    with open(tmp_path / "file", "rb") as file:
        stream.send_file(file.fileno(), 1000, 2_000_000)
        assert file.tell() == 0
    stream.close()
    reader.join(10)
    assert got == [data[1000:2_001_000]]


def test_send_file_is_lost_when_the_file_is_too_short(pair: Pair, tmp_path: Path) -> None:
    stream, far = pair
    (tmp_path / "file").write_bytes(b"short")
    with open(tmp_path / "file", "rb") as file, pytest.raises(ConnectionLost, match="shorter"):
        stream.send_file(file.fileno(), 0, 6)
    assert far.recv(100) == b"short"


def test_send_file_is_stalled_when_the_peer_reads_nothing(pair: Pair, tmp_path: Path) -> None:
    stream, _ = pair
    with open(tmp_path / "file", "w+b") as file:
        file.truncate(64 * 1024 * 1024)
        begin = time.monotonic()
        with pytest.raises(Stalled):
            stream.send_file(file.fileno(), 0, 64 * 1024 * 1024)
    assert time.monotonic() - begin < 3 * SILENCE


# ------------------------------------------------------------------ the end


def test_farewell_lets_the_last_word_arrive_though_bytes_are_unread() -> None:
    """Closing a TCP socket with unread bytes resets it, and the peer may lose what was said last."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    far.settimeout(10)
    stream = Stream(near, silence_seconds=5)
    far.sendall(bytes(200_000))
    stream.send(b"because")
    reader = beside(lambda: stream.farewell(5))
    assert read_all(far) == b"because"
    far.close()
    reader.join(10)
    assert not reader.is_alive()
    stream.close()


def test_farewell_waits_no_longer_than_it_is_told(pair: Pair) -> None:
    stream, far = pair
    begin = time.monotonic()
    stream.farewell(0.1)
    assert 0.1 <= time.monotonic() - begin < SILENCE
    assert far.recv(1) == b""


def test_farewell_ends_in_time_when_the_peer_talks_on(pair: Pair) -> None:
    stream, far = pair
    stop = threading.Event()

    def talk() -> None:
        while not stop.wait(0.01):
            far.send(b"x")

    writer = beside(talk)
    begin = time.monotonic()
    stream.farewell(0.2)
    assert time.monotonic() - begin < 2
    stop.set()
    writer.join()


def test_a_waiting_receive_is_woken_when_another_thread_abandons_the_stream() -> None:
    near, far = socket.socketpair()
    stream = Stream(near, silence_seconds=30)
    waker = threading.Timer(0.05, break_off, [stream])
    waker.start()
    begin = time.monotonic()
    assert stream.receive_header(LIMIT) is None
    assert time.monotonic() - begin < 5
    waker.join()
    stream.close()
    far.close()


def test_closing_twice_is_harmless(pair: Pair) -> None:
    stream, _ = pair
    stream.close()
    stream.close()
