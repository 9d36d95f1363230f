"""TLS between two ends of a socket pair: what is agreed on, whom the client believes, what a stranger learns."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftpy.errors import ConnectionLost, ProtocolError, ServerNotTrusted, Stalled
from ftpy.server.identity import certificate_sha256, make_identity
from ftpy.transport import tls
from ftpy.transport.stream import Stream
from ftpy.wire.framing import frame


def break_off(stream: Stream) -> None:
    """What the server does from another thread."""
    socket.socket.shutdown(stream._sock, socket.SHUT_RDWR)


@dataclass
class Identity:
    context: ssl.SSLContext
    pin: bytes


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    folder = tmp_path_factory.mktemp("identity")
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    make_identity(certificate, key)
    return Identity(tls.server_context(certificate, key), certificate_sha256(certificate))


class Accepting:
    """The server's half of the handshake in a thread of its own; ``result`` is its socket or its error."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, timeout: float = 10) -> None:
        self.result: ssl.SSLSocket | BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(sock, context, timeout))
        self._thread.start()

    def _run(self, sock: socket.socket, context: ssl.SSLContext, timeout: float) -> None:
        try:
            wrapped = tls.wrap(sock, context, server_side=True)
            try:
                tls.shake_hands(wrapped, timeout)
            except BaseException:
                wrapped.close()
                raise
            self.result = wrapped
        except BaseException as error:
            self.result = error

    def wait(self) -> ssl.SSLSocket | BaseException | None:
        self._thread.join(10)
        return self.result


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    yield near, far
    near.close()
    far.close()


Ends = tuple[socket.socket, socket.socket]


def test_tls_is_1_3_and_speaks_ftpy_when_the_pin_is_right(identity: Identity, ends: Ends) -> None:
    server = Accepting(ends[0], identity.context)
    client = tls.connect(ends[1], identity.pin, 10)
    other = server.wait()
    assert isinstance(other, ssl.SSLSocket)
    assert client.version() == other.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == other.selected_alpn_protocol() == tls.ALPN
    near, far = Stream(other, silence_seconds=5), Stream(client, silence_seconds=5)
    near.expect_tls(tls.ALPN)
    far.send(frame(b"hello"))
    assert near.encrypted and near.receive_header(100) == b"hello"
    near.close()
    assert far.receive_header(100) is None
    far.close()


def test_connect_trusts_no_other_certificate_than_the_pinned_one(identity: Identity, ends: Ends) -> None:
    server = Accepting(ends[0], identity.context)
    pin = bytes([identity.pin[0] ^ 1]) + identity.pin[1:]
    with pytest.raises(ServerNotTrusted, match="another certificate"):
        tls.connect(ends[1], pin, 10)
    other = server.wait()
    if isinstance(other, ssl.SSLSocket):
        with other:
            assert other.recv(1) == b""  # not one byte was said to it


@pytest.mark.parametrize("offered", [["http/1.1"], []])
def test_server_refuses_who_does_not_speak_ftpy_in_tls(identity: Identity, ends: Ends, offered: list[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if offered:
        context.set_alpn_protocols(offered)
    server = Accepting(ends[0], identity.context)
    with context.wrap_socket(ends[1]):
        other = server.wait()
        assert isinstance(other, ssl.SSLSocket)
        stream = Stream(other, silence_seconds=5)
        with pytest.raises(ProtocolError, match="does not speak ftpy"):
            stream.expect_tls(tls.ALPN)
        stream.close()


def test_server_refuses_tls_1_2(identity: Identity, ends: Ends) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = Accepting(ends[0], identity.context)
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(ends[1])
    assert isinstance(server.wait(), ConnectionLost)


def test_server_is_lost_when_the_peer_speaks_no_tls_or_leaves(identity: Identity, ends: Ends) -> None:
    server = Accepting(ends[0], identity.context)
    ends[1].sendall(frame(b'{"cmd":"hello"}') + bytes(100))
    assert isinstance(server.wait(), ConnectionLost)
    near, far = socket.socketpair()
    server = Accepting(near, identity.context)
    far.close()
    assert isinstance(server.wait(), ConnectionLost)


def test_a_connection_that_was_reset_before_the_handshake_leaves_no_socket_open(identity: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stranger = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stranger.close()
        number = accepted.fileno()
        with pytest.raises(ConnectionLost):
            tls.wrap(accepted, identity.context, server_side=True)
        assert accepted.fileno() == -1  # taken over, and closed: an open one would be warned of
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_the_handshake_is_stalled_in_time_though_bytes_trickle(identity: Identity, ends: Ends) -> None:
    """The limit is on the whole handshake: a byte now and then does not buy more time."""
    begin = time.monotonic()
    server = Accepting(ends[0], identity.context, timeout=0.5)
    ends[1].sendall(b"\x16\x03\x01\x02\x00")  # a record of 512 bytes begins
    stop = threading.Event()

    def feed() -> None:
        while not stop.wait(0.1):
            try:
                ends[1].sendall(b"\x01")
            except OSError:
                return

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert isinstance(server.wait(), Stalled)
    assert 0.5 <= time.monotonic() - begin < 2
    stop.set()
    feeder.join()


def test_a_tls_stream_tells_silence_and_a_cut_apart(identity: Identity, ends: Ends) -> None:
    server = Accepting(ends[0], identity.context)
    client = tls.connect(ends[1], identity.pin, 10)
    other = server.wait()
    assert isinstance(other, ssl.SSLSocket)
    near, far = Stream(other, silence_seconds=0.1), Stream(client, silence_seconds=5)
    with pytest.raises(Stalled):
        near.receive_header(100)
    far.send(frame(b"hello")[:-1])
    break_off(far)
    with pytest.raises(ConnectionLost):
        near.receive_header(100)
    near.close()
    far.close()


def test_a_tls_stream_holds_records_that_the_socket_no_longer_shows(identity: Identity, ends: Ends) -> None:
    server = Accepting(ends[0], identity.context)
    client = tls.connect(ends[1], identity.pin, 10)
    other = server.wait()
    assert isinstance(other, ssl.SSLSocket)
    near, far = Stream(other, silence_seconds=5), Stream(client, silence_seconds=5)
    assert not near.readable()
    far.send(bytes(10_000))
    view = memoryview(bytearray(10))
    assert near.receive_some(view) == 10 and near.readable()
    left = 10_000 - 10
    while left:
        left -= near.receive_some(memoryview(bytearray(left)))
    assert not near.readable()
    near.close()
    far.close()


def test_a_tls_stream_that_listens_takes_in_what_the_peer_says_while_its_own_send_is_blocked(
    identity: Identity, ends: Ends
) -> None:
    near, far = ends
    data, said = bytes(range(256)) * (32 * 1024), frame(b"x" * 60_000) * 100
    got = bytearray()

    def peer() -> None:
        sock = tls.wrap(far, identity.context, server_side=True)
        tls.shake_hands(sock, 5)
        sock.settimeout(10)  # too short where the 370 TLS records are taken in one at a time
        sock.sendall(said)  # reads on only when all that was taken
        while len(got) < len(data):
            got.extend(sock.recv(1 << 16))
        sock.close()

    thread = threading.Thread(target=peer, daemon=True)
    thread.start()
    stream = Stream(tls.connect(near, identity.pin, 5), silence_seconds=5, listens=True)
    stream.send(data)
    for _ in range(100):
        assert stream.receive_header(65_536) == b"x" * 60_000
    thread.join(10)
    assert bytes(got) == data
    stream.close()


def test_a_flipped_bit_ends_a_tls_stream(identity: Identity, ends: Ends) -> None:
    middle_near, middle_far = socket.socketpair()
    server = Accepting(ends[0], identity.context)
    flip = threading.Event()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                if flip.is_set():
                    data[-1] ^= 1
                sink.sendall(data)

    pumps = [
        threading.Thread(target=pump, args=pair, daemon=True) for pair in ((middle_far, ends[1]), (ends[1], middle_far))
    ]
    for thread in pumps:
        thread.start()
    client = Stream(tls.connect(middle_near, identity.pin, 10), silence_seconds=5)
    other = server.wait()
    assert isinstance(other, ssl.SSLSocket)
    near = Stream(other, silence_seconds=5)
    flip.set()
    client.send(frame(b"hello"))
    with pytest.raises(ConnectionLost, match="encrypted connection failed"):
        near.receive_header(100)
    near.close()
    client.close()
    for thread in pumps:
        thread.join(10)
    middle_far.close()


def test_server_context_cannot_be_made_of_what_is_not_a_key(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing")
    with pytest.raises(OSError):
        tls.server_context(str(tmp_path / "x"), str(tmp_path / "x"))
    with pytest.raises(OSError):
        tls.server_context(str(tmp_path / "missing"), str(tmp_path / "missing"))
