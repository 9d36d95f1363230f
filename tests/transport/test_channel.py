"""Channels over socket pairs: what is queued leaves before a wait, bodies keep step, long work is never silent."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ftpy.errors import ConnectionLost, NotFound, ProtocolError, Stalled
from ftpy.transport.channel import JOIN_BYTES, PROGRESS_SECONDS, Channel
from ftpy.transport.stream import Stream
from ftpy.wire.auth import NONCE_BYTES, ClientHandshake, ServerHandshake, verifier
from ftpy.wire.auth import Channel as Binding
from ftpy.wire.bases import FailureReply, ProgressReply, UnknownRequest
from ftpy.wire.fields import Trailer, digest_of
from ftpy.wire.framing import frame
from ftpy.wire.handshake import Hello, Limits, Proof, Welcome
from ftpy.wire.messages import GetReply, GetRequest, PartReply, PartRequest, PutRequest, StatRequest, StoredReply
from ftpy.wire.session import Side

UPLOAD = "0" * 32


class Ends:
    """The two channels of one connection, authenticated unless ``fresh``, and the sockets below them."""

    def __init__(self, *, silence_seconds: float = 5, requests: int = 8) -> None:
        self.client_socket, self.server_socket = socket.socketpair()
        self.client = Channel(Stream(self.client_socket, silence_seconds=silence_seconds), Side.CLIENT)
        self.server = Channel(Stream(self.server_socket, silence_seconds=silence_seconds), Side.SERVER)
        self._shake_hands(requests)

    def _shake_hands(self, requests: int) -> None:
        nonce, key = bytes(NONCE_BYTES), bytes(32)
        asking = ClientHandshake("alice", key, nonce, Binding())
        self.client.send(asking.message)
        self.client.flush()
        hello_bytes = self.server.receive_raw()
        assert hello_bytes is not None
        hello = self.server.session.receive(hello_bytes)
        assert isinstance(hello, Hello)
        answering = ServerHandshake(hello_bytes, hello, nonce, Binding())
        self.server.send(answering.message)
        self.server.flush()
        challenge = self.client.receive_raw()
        assert challenge is not None
        self.client.session.receive(challenge)
        self.client.send(asking.prove(challenge))
        self.client.flush()
        proof = self.server.receive()
        assert isinstance(proof, Proof)
        limits = Limits(inline_bytes=1 << 20, requests=requests)
        self.server.send(
            Welcome(
                server_proof=answering.check(proof, verifier(key, "alice")),
                server="test",
                time_ns=0,
                limits=limits,
                digests=[],
                rights=[],
            )
        )
        self.server.flush()
        assert isinstance(self.client.receive(), Welcome)

    def close(self) -> None:
        self.client.stream.close()
        self.server.stream.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def inline_put(number: int, body: bytes) -> list[Any]:
    return [
        PutRequest(id=number, path=f"f{number}", file_size=len(body), mtime_ns=0, length=len(body)),
        body,
        Trailer(md5=hashlib.md5(body).hexdigest()),
    ]


def say(channel: Channel, *items: Any) -> None:
    for item in items:
        (channel.send_body if isinstance(item, bytes) else channel.send)(item)


def stored(number: int) -> StoredReply:
    return StoredReply(id=number, file_size=0, digest=digest_of("md5", "0" * 32), durable=True, etag="0" * 32)


def test_what_is_queued_leaves_before_the_wait_for_an_answer(ends: Ends) -> None:
    ends.client.send(StatRequest(id=1, path="a"))
    assert not ends.server.readable()
    waiting = threading.Thread(target=ends.client.receive)
    waiting.start()
    assert ends.server.receive() == StatRequest(id=1, path="a")
    ends.server.send(FailureReply(id=1, error=NotFound.code))
    ends.server.flush()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_train_of_small_puts_arrives_whole_and_in_order(ends: Ends) -> None:
    bodies = [bytes([n]) * size for n, size in enumerate([0, 1, 10_000, JOIN_BYTES + 1, 5])]
    sender = threading.Thread(
        target=lambda: (
            say(ends.client, *[item for n, body in enumerate(bodies, 1) for item in inline_put(n, body)]),
            ends.client.flush(),
        )
    )
    sender.start()
    for number, body in enumerate(bodies, 1):
        request = ends.server.receive()
        assert isinstance(request, PutRequest) and request.id == number
        assert ends.server.receive_body() == body
        assert ends.server.receive_trailer().md5 == hashlib.md5(body).hexdigest()
    sender.join(10)
    for number in range(1, len(bodies) + 1):
        ends.server.send(stored(number))
    ends.server.flush()
    assert [ends.client.receive().id for _ in bodies] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]


def test_skip_body_finds_the_next_request(ends: Ends) -> None:
    body = bytes(300_000)
    sender = threading.Thread(
        target=lambda: (say(ends.client, *inline_put(1, body), StatRequest(id=2, path="a")), ends.client.flush())
    )
    sender.start()
    assert isinstance(ends.server.receive(), PutRequest)
    half = memoryview(bytearray(1000))
    ends.server.receive_into(half)
    ends.server.skip_body()
    assert ends.server.receive() == StatRequest(id=2, path="a")
    ends.server.skip_body()  # nothing is due: nothing is read
    sender.join(10)


def test_skip_body_passes_over_the_body_of_an_unknown_verb(ends: Ends) -> None:
    ends.client_socket.sendall(frame(b'{"cmd":"frobnicate","id":1,"length":3,"new":true}') + b"abc")
    ends.client_socket.sendall(frame(b'{"md5":"' + b"0" * 32 + b'"}') + frame(b'{"cmd":"stat","id":2}'))
    assert ends.server.receive() == UnknownRequest(cmd="frobnicate", id=1, length=3)
    ends.server.skip_body()
    assert ends.server.receive() == StatRequest(id=2)


def test_a_header_inside_a_body_cannot_be_sent(ends: Ends) -> None:
    ends.client.send(PartRequest(id=1, upload=UPLOAD, part=0, length=4))
    with pytest.raises(ProtocolError):
        ends.client.send(StatRequest(id=2))
    with pytest.raises(ProtocolError):
        ends.client.send_body(b"five!")
    ends.client.send_body(b"four")
    with pytest.raises(ProtocolError):
        ends.client.send_body(b"!")


def test_more_requests_than_agreed_on_cannot_be_sent() -> None:
    made = Ends(requests=2)
    made.client.send(StatRequest(id=1))
    made.client.send(StatRequest(id=2))
    with pytest.raises(ProtocolError, match="more than 2 requests"):
        made.client.send(StatRequest(id=3))
    made.close()


def test_send_file_is_the_body(ends: Ends, tmp_path: Path) -> None:
    data = bytes(range(256)) * 2000
    (tmp_path / "file").write_bytes(data)
    ends.client.send(GetRequest(id=1, path="a"))
    ends.client.flush()
    ends.server.receive()
    reply = GetReply(
        id=1, file_size=len(data), offset=7, length=1000, mtime_ns=0, mode=0, etag="0" * 32, md5=None, blake3=None
    )
    with open(tmp_path / "file", "rb") as file:
        ends.server.send(reply)
        ends.server.send_file(file.fileno(), 7, 1000)
    ends.server.send(Trailer(md5="0" * 32))
    ends.server.flush()
    assert ends.client.receive() == reply
    assert ends.client.receive_body() == data[7:1007]
    assert ends.client.receive_trailer().md5 == "0" * 32


def test_receive_is_none_between_frames_and_lost_before_a_trailer(ends: Ends) -> None:
    say(ends.client, *inline_put(1, b"abc")[:2])
    ends.client.flush()
    ends.client.stream.close()
    assert isinstance(ends.server.receive(), PutRequest)
    assert ends.server.receive_body() == b"abc"
    with pytest.raises(ConnectionLost, match="before a trailer"):
        ends.server.receive_trailer()
    other = Ends()
    other.client.stream.close()
    assert other.server.receive() is None
    other.close()


@pytest.mark.parametrize("spelling", ['{{"md5":"{}"}}', '{{ "md5" : "{}" }}'])
def test_trailer_is_compared_however_it_is_spelt(ends: Ends, spelling: str) -> None:
    right, wrong = hashlib.md5(b"abc").hexdigest(), "0" * 32
    for number, (sent, other) in enumerate([(right, None), (wrong, Trailer(md5=wrong))], 1):
        say(ends.client, *inline_put(number, b"abc")[:2])
        ends.client.flush()
        ends.client_socket.sendall(frame(spelling.format(sent).encode()))
        ends.client.session.outgoing.trailer()
        ends.server.receive()
        ends.server.receive_body()
        assert ends.server.compare_trailer("md5", right) == other
        assert ends.server.session.incoming.between_frames


def test_another_name_in_the_trailer_is_no_match(ends: Ends) -> None:
    say(ends.client, *inline_put(1, b"abc"))
    ends.client.flush()
    ends.server.receive()
    ends.server.receive_body()
    assert ends.server.compare_trailer("blake3", "0" * 64) == Trailer(md5=hashlib.md5(b"abc").hexdigest())


def test_replies_wait_for_each_other_while_requests_are_at_hand(ends: Ends) -> None:
    for number in (1, 2):
        ends.client.send(StatRequest(id=number, path="a"))
    ends.client.flush()
    ends.server.receive()
    ends.server.send(FailureReply(id=1, error=NotFound.code))
    assert ends.server.receive() == StatRequest(id=2, path="a")
    assert not ends.client.readable()
    ends.server.send(FailureReply(id=2, error=NotFound.code))
    assert ends.server.receive_held() is None
    ends.server.flush()
    assert [ends.client.receive(), ends.client.receive()] == [
        FailureReply(id=number, error=NotFound.code) for number in (1, 2)
    ]


def test_another_message_than_the_trailer_is_refused(ends: Ends) -> None:
    say(ends.client, *inline_put(1, b"abc")[:2])
    ends.client.flush()
    ends.client_socket.sendall(frame(b'{"cmd":"stat","id":2}'))
    ends.server.receive()
    ends.server.receive_body()
    with pytest.raises(ProtocolError):
        ends.server.receive_trailer()


# ------------------------------------------------------------------ what takes its time


@pytest.mark.slow
def test_a_slow_part_is_answered_with_progress_every_second(ends: Ends) -> None:
    """The client's stall limit counts silence, and its part is still on the way."""
    length = 22
    ends.client.send(PartRequest(id=1, upload=UPLOAD, part=0, length=length))
    ends.client.flush()
    heard: list[tuple[float, Any]] = []
    begin = time.monotonic()

    def trickle() -> None:
        for _ in range(length):
            time.sleep(0.2)
            ends.client.send_body(b"x")
            ends.client.flush()
        ends.client.send(Trailer(blake3="0" * 64))
        ends.client.flush()

    def listen() -> None:
        while not heard or not isinstance(heard[-1][1], PartReply):
            heard.append((time.monotonic() - begin, ends.client.stream.receive_header(65536)))
            heard[-1] = (heard[-1][0], ends.client.session.receive(heard[-1][1]))

    sender, listener = threading.Thread(target=trickle), threading.Thread(target=listen)
    sender.start()
    listener.start()
    request = ends.server.receive()
    assert isinstance(request, PartRequest)
    ends.server.receive_into(memoryview(bytearray(length)))
    ends.server.receive_trailer()
    ends.server.send(PartReply(id=1))
    ends.server.flush()
    sender.join(10)
    listener.join(10)
    *progress, (_, reply) = heard
    assert reply == PartReply(id=1) and len(progress) >= 2
    counts = [message.progress for _, message in progress]
    assert counts == sorted(counts) and 0 < counts[0] < length
    times = [0.0, *(moment for moment, _ in progress)]
    assert max(b - a for a, b in pairwise(times)) < 3 * PROGRESS_SECONDS


def test_patiently_says_how_far_it_is_and_returns_what_the_work_returns(ends: Ends) -> None:
    ends.client.send(StatRequest(id=1))
    ends.client.flush()
    ends.server.receive()
    done = iter(range(10, 1000, 10))
    finish = threading.Event()
    result: list[str] = []

    def work() -> str:
        assert finish.wait(10)
        return "done"

    server = threading.Thread(target=lambda: result.append(ends.server.patiently(work, lambda: next(done))))
    begin = time.monotonic()
    server.start()
    assert ends.client.receive() == ProgressReply(id=1, progress=10)
    assert time.monotonic() - begin < 4 * PROGRESS_SECONDS
    finish.set()
    server.join(10)
    assert result == ["done"]


def test_patiently_does_the_work_itself_when_there_are_no_more_threads(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert ends.server.patiently(threading.get_ident, lambda: 0) == threading.get_ident()


def test_patiently_raises_what_the_work_raises(ends: Ends) -> None:
    def work() -> None:
        raise NotFound("gone")

    with pytest.raises(NotFound, match="gone"):
        ends.server.patiently(work, lambda: 0)


@pytest.mark.slow
def test_patiently_waits_for_its_work_though_the_peer_is_gone(ends: Ends) -> None:
    """The work uses what belongs to the connection; it must not outlive it."""
    ends.client.send(StatRequest(id=1))
    ends.client.flush()
    ends.server.receive()
    ends.client.stream.close()
    ended = threading.Event()

    def work() -> None:
        time.sleep(PROGRESS_SECONDS * 1.5)
        ended.set()

    with pytest.raises(ConnectionLost):
        ends.server.patiently(work, lambda: 0)
    assert ended.is_set()


def test_a_peer_that_says_nothing_is_stalled() -> None:
    made = Ends(silence_seconds=0.2)
    made.client.send(StatRequest(id=1))
    begin = time.monotonic()
    with pytest.raises(Stalled):
        made.client.receive()
    assert time.monotonic() - begin < 5
    made.close()
