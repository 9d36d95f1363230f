"""One connection as a client by hand meets it: order, rights, refusals that go on, faults that end it, progress."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.errors import (
    AlreadyExists,
    AuthenticationFailed,
    Busy,
    Changed,
    ConnectionFailed,
    Denied,
    DigestMismatch,
    FtpyError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    Stalled,
    UnknownUpload,
    Unsupported,
)
from ftpy.files import RemotePath
from ftpy.server.accounts import LOOK_SECONDS
from ftpy.server.context import GROUP_FILES, PATIENT_FILES, UPLOAD, Commits
from ftpy.server.server import WATCH_SECONDS, Service
from ftpy.server.shares import Shares
from ftpy.storage.local import LocalStorage
from ftpy.storage.partwriting import LocalPartWriter
from ftpy.storage.uploads import LocalUpload
from ftpy.transport.channel import Channel
from ftpy.transport.stream import TICK_SECONDS, Stream
from ftpy.wire.bases import FailureReply, ProgressReply, Reply
from ftpy.wire.fields import Trailer, digest_of
from ftpy.wire.framing import frame
from ftpy.wire.messages import (
    AbortRequest,
    CommitRequest,
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
    LsReply,
    LsRequest,
    MkdirReply,
    MkdirRequest,
    MvReply,
    MvRequest,
    PartReply,
    PartRequest,
    PutRequest,
    RmReply,
    RmRequest,
    StatReply,
    StatRequest,
    StoredReply,
    UploadReply,
)
from ftpy.wire.operations import BeginRequest
from ftpy.wire.session import Side
from tests.rig import FAST, Fault, Host, Proxy, eventually, running

MIB = 1024 * 1024
ETAG = "0" * 32


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A server without TLS for all tests of this file that need nothing of their own."""
    with running(tmp_path_factory.mktemp("shared") / "host", tls=False) as made:
        yield made


@pytest.fixture
def host(shared: Host, request: pytest.FixtureRequest) -> Host:
    """The shared server."""
    return shared


@pytest.fixture
def folder(request: pytest.FixtureRequest, host: Host) -> str:
    """A folder on the server for this test alone."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:100]
    (host.root / name).mkdir()
    return name


@contextlib.contextmanager
def connected(host: Host, user: str = "alice", transfer: Transfer = FAST, **kw: Any) -> Iterator[Connection]:
    connection = Connection.open(host.profile(user, **kw), transfer)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def live(host: Host) -> Iterator[Connection]:
    """An authenticated connection."""
    with connected(host) as made:
        yield made


@contextlib.contextmanager
def raw(host: Host) -> Iterator[socket.socket]:
    name, _, port = host.address.rpartition(":")
    with socket.create_connection((name, int(port)), timeout=10) as sock:
        yield sock


def put_small(live: Connection, path: str, body: bytes, digest: str | None = None, **fields: Any) -> int:
    """Queue a small put: its id."""
    number = live.next_id()
    size = fields.pop("file_size", len(body))
    live.channel.send(PutRequest(id=number, path=path, file_size=size, mtime_ns=5, length=len(body), **fields))
    live.channel.send_body(body)
    live.channel.send(Trailer(md5=digest or hashlib.md5(body).hexdigest()))
    return number


def open_upload(live: Connection, path: str, size: int) -> UploadReply:
    return live.call(PutRequest(id=live.next_id(), path=path, file_size=size, mtime_ns=5), UploadReply)


def send_part(live: Connection, upload: str, number: int, body: bytes, digest: str | None = None) -> None:
    live.channel.send(PartRequest(id=live.next_id(), upload=upload, part=number, length=len(body)))
    live.channel.send_body(body)
    live.channel.send(Trailer(blake3=digest or blake3(body).hexdigest()))


def answer(live: Connection) -> Any:
    """The next message that is no progress: a server whose disk is slow may say some before any."""
    while isinstance(message := live.channel.receive(), ProgressReply):
        pass
    return message


def replies(live: Connection, count: int) -> list[Any]:
    return [answer(live) for _ in range(count)]


def alive(live: Connection) -> bool:
    """Whether the session goes on: a request is answered."""
    return live.call(StatRequest(id=live.next_id()), StatReply).entry.type == "directory"


# ------------------------------------------------------------------ verbs that nobody knows, and garbage


@pytest.mark.parametrize("body", [None, b"", b"abc", bytes(3 * MIB)], ids=["none", "empty", "small", "large"])
def test_unknown_verb_is_answered_and_the_session_goes_on(live: Connection, body: bytes | None) -> None:
    from ftpy.wire.bases import UnknownRequest

    if body is None:
        live.channel.send(UnknownRequest(cmd="frobnicate", id=live.next_id()))
    else:
        live.channel.send(UnknownRequest(cmd="frobnicate", id=live.next_id(), length=len(body)))
        live.channel.send_body(body)
        live.channel.send(Trailer(md5="0" * 32))
    with pytest.raises(Unsupported, match="does not know the verb 'frobnicate'"):
        live.wait(Reply)
    assert alive(live)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        frame(b"not json"),
        frame(b'{"cmd":"stat"}'),
        frame(b'{"cmd":"stat","id":1,"id":2}'),
        frame(b'{"cmd":"stat","id":1,"surprise":true}'),
        frame(b'{"cmd":"hello","id":"x"}'),
        frame(b'{"md5":"' + b"0" * 32 + b'"}'),
        b"GET / HTTP/1.1\r\n\r\n" + bytes(10_000),
    ],
    ids=["length 0", "length huge", "no json", "no id", "id twice", "unknown field", "id text", "trailer", "http"],
)
def test_garbage_is_told_once_and_the_connection_closed(host: Host, live: Connection, garbage: bytes) -> None:
    live.channel.stream.send(garbage)
    told = live.channel.receive()
    assert isinstance(told, FailureReply) and (told.id, told.error) == (0, "protocol-error")
    assert "Traceback" not in told.message
    assert live.channel.stream.receive_header(65536) is None


def test_garbage_of_a_stranger_is_told_once_and_the_connection_closed(host: Host) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", frame(b'{"cmd":"stat","id":1}'), frame(b"x" * 2048), b"\x01\x08\0\0"):
        with raw(host) as sock:
            stream = Stream(sock, silence_seconds=10)
            stream.send(garbage)
            told = json.loads(stream.receive_header(2048) or b"{}")
            assert (told["id"], told["ok"], told["error"]) == (0, False, "protocol-error")
            assert stream.receive_header(2048) is None


def test_another_protocol_or_binding_is_refused_with_a_reason(host: Host) -> None:
    good = {"cmd": "hello", "protocol": 1, "user": "alice", "client_nonce": "A" * 43, "binding": "none"}
    for wrong in ({"protocol": 2}, {"binding": "tls-cert-sha256"}):
        with raw(host) as sock:
            stream = Stream(sock, silence_seconds=10)
            stream.send(frame(json.dumps(good | wrong).encode()))
            assert json.loads(stream.receive_header(2048) or b"{}")["error"] == "protocol-error"


def test_nothing_is_served_before_authentication(host: Host) -> None:
    """Requests glued behind the hello are not looked at as requests."""
    hello = b'{"cmd":"hello","protocol":1,"user":"alice","client_nonce":"' + b"A" * 43 + b'","binding":"none"}'
    with raw(host) as sock:
        stream = Stream(sock, silence_seconds=10)
        stream.send(frame(hello) + frame(b'{"cmd":"ls","id":1}'))
        assert b"challenge" in (stream.receive_header(2048) or b"")
        assert json.loads(stream.receive_header(2048) or b"{}")["error"] == "protocol-error"
        assert stream.receive_header(2048) is None


# ------------------------------------------------------------------ order


def test_pipelined_requests_are_answered_in_their_order(live: Connection, folder: str) -> None:
    channel = live.channel
    channel.send(StatRequest(id=10, path=folder))
    put_first = put_small(live, f"{folder}/a", b"one")
    channel.send(DigestRequest(id=20, path=f"{folder}/a"))
    channel.send(StatRequest(id=30, path=f"{folder}/nothing"))
    put_second = put_small(live, f"{folder}/a", b"three")
    channel.send(LsRequest(id=40, path=folder))
    channel.send(GetRequest(id=50, path=f"{folder}/a"))
    got = replies(live, 1)
    assert isinstance(got[0], StatReply)
    got += replies(live, 6)
    assert [message.id for message in got] == [10, put_first, 20, 30, put_second, 40, 50]
    kinds = [StatReply, StoredReply, DigestReply, FailureReply, StoredReply, LsReply, GetReply]
    assert [type(message) for message in got] == kinds
    assert got[2].digest.md5 == hashlib.md5(b"one").hexdigest()  # each sees what was put before it, no more
    assert [entry.size for entry in got[5].entries] == [5]
    assert channel.receive_body() == b"three"
    assert channel.receive_trailer().md5 == hashlib.md5(b"three").hexdigest()


def test_a_train_of_small_puts_keeps_its_order_when_some_fail(host: Host, live: Connection, folder: str) -> None:
    (host.root / folder / "there").write_bytes(b"old")
    (host.root / folder / "rot").write_bytes(b"old")
    before = host.uploads
    sent = [
        (put_small(live, f"{folder}/1", b"first"), None),
        (put_small(live, f"{folder}/rot", b"new", digest="0" * 32), DigestMismatch),
        (put_small(live, f"{folder}/2", b""), None),
        (put_small(live, f"{folder}/there", b"new", condition="absent"), AlreadyExists),
        (put_small(live, f"{folder}/../x", b"new"), FtpyError),
        (put_small(live, f"{folder}/size", b"new", file_size=4), InvalidRequest),
        (put_small(live, folder, b"new"), FtpyError),
        (put_small(live, f"{folder}/1", b"again"), None),
    ]
    for number, expected in sent:
        reply = answer(live)
        assert reply.id == number
        if expected is None:
            assert isinstance(reply, StoredReply) and reply.durable
        else:
            assert isinstance(reply, FailureReply) and isinstance(reply.exception(), expected)
    there = {path.name: path.read_bytes() for path in (host.root / folder).iterdir()}
    assert there == {"1": b"again", "2": b"", "there": b"old", "rot": b"old"}
    assert alive(live) and host.uploads == before


def test_three_hundred_small_puts_in_one_train_are_made_durable_in_groups(
    host: Host, live: Connection, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    publish = LocalStorage.publish

    def counting(self: LocalStorage, group: Any) -> Any:
        groups.append(len(group))
        return publish(self, group)

    monkeypatch.setattr(LocalStorage, "publish", counting)
    bodies = {f"{folder}/{number:03}": bytes([number % 256]) * number for number in range(300)}
    waiting: list[int] = []
    for path, body in bodies.items():
        if len(waiting) == live.welcome.limits.requests:
            waiting = waiting[len(replies_in_order(live, waiting)) :]
        waiting.append(put_small(live, path, body))
    while waiting:
        waiting = waiting[len(replies_in_order(live, waiting)) :]
    assert sum(groups) == 300 and len(groups) <= 40 and max(groups) <= GROUP_FILES
    assert {f"{folder}/{p.name}": p.read_bytes() for p in (host.root / folder).iterdir()} == bodies


def replies_in_order(live: Connection, waiting: list[int]) -> list[int]:
    """At least one reply, and all that are here already."""
    got: list[int] = []
    while not got or (len(got) < len(waiting) and live.readable()):
        reply = answer(live)
        assert isinstance(reply, StoredReply) and reply.id == waiting[len(got)]
        got.append(reply.id)
    return got


def test_puts_of_a_client_that_ends_its_half_are_stored_and_answered(host: Host, folder: str) -> None:
    with connected(host) as live:
        numbers = [put_small(live, f"{folder}/{n}", b"x") for n in range(3)]
        live.channel.flush()
        live.channel.stream._sock.shutdown(socket.SHUT_WR)
        assert [reply.id for reply in replies(live, 3)] == numbers
        assert live.channel.receive() is None
    assert len(list((host.root / folder).iterdir())) == 3


def test_more_requests_than_agreed_on_end_the_connection(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False, limits=Limits(pipelined_requests=2)) as host, connected(host) as live:
        body = b'"file_size":1,"length":1,"mtime_ns":0}'
        trailer = frame(b'{"md5":"' + b"0" * 32 + b'"}')
        train = b""
        for number in range(1, 4):
            train += frame(b'{"cmd":"put","id":%d,"path":"a%d",' % (number, number) + body) + b"x" + trailer
        live.channel.stream.send(train)  # wrong digests: each is answered at once, so none is over the limit
        for number in range(1, 4):
            live.channel.session._pending.append((number, StoredReply))
        assert [reply.id for reply in replies(live, 3)] == [1, 2, 3]


# ------------------------------------------------------------------ get


def test_get_gives_any_range_of_one_version(host: Host, live: Connection, folder: str) -> None:
    data = hashlib.shake_128(b"get").digest(3 * MIB)
    (host.root / folder / "f").write_bytes(data)
    whole = fetch(live, f"{folder}/f")
    assert whole.body == data and whole.trailer.md5 == hashlib.md5(data).hexdigest()
    etag = whole.reply.etag
    for offset, count, want in [
        (0, 10, data[:10]),
        (MIB - 1, 2, data[MIB - 1 : MIB + 1]),
        (3 * MIB - 5, None, data[-5:]),
        (3 * MIB - 5, 100, data[-5:]),
        (3 * MIB, None, b""),
        (0, 0, b""),
        (7, 2**62, data[7:]),
    ]:
        part = fetch(live, f"{folder}/f", offset=offset, count=count, etag=etag)
        assert part.body == want and part.trailer.blake3 == blake3(want).hexdigest()
        assert (part.reply.offset, part.reply.length, part.reply.file_size) == (offset, len(want), len(data))
        assert part.reply.etag == etag and part.reply.md5 in (None, hashlib.md5(data).hexdigest())
    again = fetch(live, f"{folder}/f", digest="blake3")
    assert again.trailer.blake3 == blake3(data).hexdigest()


def test_get_of_another_version_or_beyond_the_end_is_refused(host: Host, live: Connection, folder: str) -> None:
    file = host.root / folder / "f"
    file.write_bytes(b"old content")
    etag = fetch(live, f"{folder}/f").reply.etag
    with pytest.raises(InvalidRequest, match="ends at 11"):
        fetch(live, f"{folder}/f", offset=12)
    file.write_bytes(b"new content")
    for wrong in (etag, ETAG):
        with pytest.raises(Changed):
            fetch(live, f"{folder}/f", offset=4, etag=wrong)
    assert fetch(live, f"{folder}/f").body == b"new content"


def test_get_of_pipelined_ranges_comes_in_order(host: Host, live: Connection, folder: str) -> None:
    data = hashlib.shake_128(b"ranges").digest(MIB)
    (host.root / folder / "f").write_bytes(data)
    ranges = [(at, 100_000) for at in range(0, MIB, 100_000)][::-1]
    for number, (offset, count) in enumerate(ranges, 1):
        live.channel.send(GetRequest(id=number, path=f"{folder}/f", offset=offset, count=count))
    for number, (offset, count) in enumerate(ranges, 1):
        got = receive_get(live)
        assert got.reply.id == number and got.body == data[offset : offset + count]


class Got:
    def __init__(self, reply: GetReply, body: bytes, trailer: Trailer) -> None:
        self.reply, self.body, self.trailer = reply, body, trailer


def receive_get(live: Connection) -> Got:
    reply = live.wait(GetReply)
    return Got(reply, bytes(live.channel.receive_body()), live.channel.receive_trailer())


def fetch(live: Connection, path: str, **fields: Any) -> Got:
    live.channel.send(GetRequest(id=live.next_id(), path=path, **fields))
    return receive_get(live)


# ------------------------------------------------------------------ uploads


def test_a_broken_part_is_asked_for_again_alone(host: Host, live: Connection, folder: str) -> None:
    size = 2 * 8 * MIB
    upload = open_upload(live, f"{folder}/f", size)
    assert upload.missing == [(0, size // upload.part_size - 1)]
    body = bytes(upload.part_size)
    send_part(live, upload.upload, 0, body, digest="0" * 64)
    send_part(live, upload.upload, 1, body)
    with pytest.raises(DigestMismatch):
        live.wait(PartReply)
    live.wait(PartReply)
    assert open_upload(live, f"{folder}/f", size).missing[0] == (0, 0)
    send_part(live, upload.upload, 0, body)
    live.wait(PartReply)
    for number in range(2, size // upload.part_size):
        send_part(live, upload.upload, number, body)
        live.wait(PartReply)
    md5 = hashlib.md5(bytes(size)).hexdigest()
    live.call(CommitRequest(id=live.next_id(), upload=upload.upload, digest=digest_of("md5", md5)), StoredReply)
    assert (host.root / folder / "f").stat().st_size == size and upload.upload not in host.uploads


def test_parts_of_nothing_or_of_a_wrong_length_are_refused_and_the_session_goes_on(
    live: Connection, folder: str
) -> None:
    upload = open_upload(live, f"{folder}/f", 9 * MIB)
    for upload_id, number, length, error in [
        ("1" * 32, 0, 10, UnknownUpload),
        (upload.upload, 0, 10, InvalidRequest),
        (upload.upload, 9999, 10, InvalidRequest),
        (upload.upload, 0, upload.part_size + 1, InvalidRequest),
    ]:
        send_part(live, upload_id, number, bytes(length))
        with pytest.raises(error):
            live.wait(PartReply)
    assert alive(live)
    live.call(AbortRequest(id=live.next_id(), upload=upload.upload), Reply)


def test_abort_drops_the_upload_that_another_connection_has_begun_anew(tmp_path: Path) -> None:
    """An upload has the same id again; a connection that once opened it still holds the one that has ended."""
    with running(tmp_path / "host", tls=False) as host, connected(host) as one, connected(host) as other:
        upload = open_upload(one, "f", 9 * MIB).upload
        other.call(AbortRequest(id=other.next_id(), upload=upload), Reply)
        assert open_upload(other, "f", 9 * MIB).upload == upload
        one.call(AbortRequest(id=one.next_id(), upload=upload), Reply)
        assert host.uploads == []
        with pytest.raises(UnknownUpload):
            one.call(AbortRequest(id=one.next_id(), upload=upload), Reply)


def test_an_inline_put_over_the_limit_is_refused_and_the_session_goes_on(live: Connection, folder: str) -> None:
    put_small(live, f"{folder}/f", bytes(live.inline_bytes + 1))
    with pytest.raises(InvalidRequest, match="at most"):
        live.wait(StoredReply)
    assert alive(live)


def test_uploads_of_other_connections_are_held_only_up_to_the_limit_and_found_again(
    host: Host, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpy.server.context.MOST_UPLOADS", 3)
    eventually(lambda: host.service is not None and not host.service._handlers)  # of the tests before
    assert host.service is not None
    body = bytes(8 * MIB)
    with connected(host) as one, connected(host) as two:
        before = set(host.service._handlers)
        with connected(host) as worker:
            assert alive(worker)
            (key,) = set(host.service._handlers) - before
            context = host.service._handlers[key].context
            assert context is not None
            own = open_upload(worker, f"{folder}/own", 9 * MIB).upload
            opened = [open_upload(live, f"{folder}/{n}", 16 * MIB).upload for n, live in enumerate([one, two] * 2)]
            for number in (0, 1):
                for upload in opened:
                    send_part(worker, upload, number, body)
                    worker.wait(PartReply)
                    assert len(context.uploads) <= 3 and own in context.uploads
            digest = digest_of("md5", hashlib.md5(body * 2).hexdigest())
            for upload in opened:
                worker.call(CommitRequest(id=worker.next_id(), upload=upload, digest=digest), StoredReply)
            for n in range(2):
                open_upload(worker, f"{folder}/more{n}", 9 * MIB)
            with pytest.raises(Busy):
                open_upload(worker, f"{folder}/more2", 9 * MIB)
    assert {path.name for path in (host.root / folder).iterdir()} == {"0", "1", "2", "3"}


def test_no_user_holds_more_descriptors_with_unfinished_work_than_are_left_for_others(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False) as host:
        assert host.service is not None
        host.service.shares = shares = Shares(4 * UPLOAD)
        host.add_user("bob")
        host.service.accounts.look()
        with connected(host) as one, connected(host) as two, connected(host, "bob") as other:
            for live, name in ((one, "1"), (two, "2")):
                open_upload(live, name, 9 * MIB)
            with pytest.raises(Busy, match="1 uploads are under way"):
                open_upload(one, "3", 9 * MIB)
            open_upload(other, "4", 9 * MIB)
            numbers = [put_small(two, f"small{n}", b"x") for n in range(20)]  # they wait for no group
            assert [two.wait(StoredReply).id for _ in numbers] == numbers
        eventually(lambda: shares.take("carol", 2 * UPLOAD))
        assert not shares.take("carol", 1)


def test_folders_that_a_listing_has_open_are_of_its_users_share(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False) as host:
        assert host.service is not None
        host.service.shares = shares = Shares(6)
        (host.root / "a/b/c/d/e").mkdir(parents=True)
        (host.root / "a/b/c/d/e/f").touch()
        (host.root / "a/b/x/y").mkdir(parents=True)
        with connected(host) as live:
            ask = LsRequest(id=live.next_id(), recursive=True)
            with pytest.raises(Busy, match="too many folders"):
                while not live.call(ask, LsReply).complete:
                    pass
            for path, names in (("a/b", 6), ("a/b/c", 3)):
                ask = LsRequest(id=live.next_id(), path=path, recursive=True)
                assert len(live.call(ask, LsReply).entries) == names
            assert alive(live)
        eventually(lambda: shares.take("carol", 3))
        assert not shares.take("carol", 1)


# ------------------------------------------------------------------ what takes long


def held_up(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, which: Callable[..., bool] = lambda *_: True
) -> threading.Event:
    """Make calls of a method wait for the event, as on a slow disk; progress is due at once."""
    goes_on, real = threading.Event(), getattr(owner, name)

    def slow(*args: Any, **kw: Any) -> Any:
        if which(*args):
            assert goes_on.wait(10)
        return real(*args, **kw)

    monkeypatch.setattr(owner, name, slow)
    monkeypatch.setattr("ftpy.transport.channel.PROGRESS_SECONDS", 0.05)
    monkeypatch.setattr("ftpy.transport.channel.LATE_SECONDS", 0.05)
    return goes_on


def missed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a server could not say progress: its client has left."""
    noticed, progress = threading.Event(), Channel.say_progress

    def noticing(channel: Channel, count: int) -> None:
        try:
            progress(channel, count)
        except FtpyError:
            noticed.set()
            raise

    monkeypatch.setattr(Channel, "say_progress", noticing)
    return noticed


def said(live: Connection) -> Any:
    """The next message, progress too."""
    live.channel.flush()
    return live.channel.session.receive(live.channel.stream.receive_header(65536) or b"")


def test_what_is_staged_goes_where_the_connection_is_lost_before_it_is_published(
    host: Host, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = Commits.flush
    lost = threading.Event()

    def after_a_reset(commits: Commits) -> None:
        if len(commits) > PATIENT_FILES and not lost.is_set():
            sock = live.channel.stream._sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            lost.set()
        flush(commits)

    def staged() -> list[str]:
        return [name for name in os.listdir(host.root / ".ftpy" / "staged") if not name.endswith(".lock")]

    monkeypatch.setattr(Commits, "flush", after_a_reset)
    with connected(host) as live:
        live.channel.send(StatRequest(id=live.next_id(), path=folder))  # its reply is what cannot be sent
        for number in range(PATIENT_FILES + 1):
            put_small(live, f"{folder}/{number}", b"x")
        live.channel.send(StatRequest(id=live.next_id(), path=folder))
        live.channel.flush()
        assert lost.wait(10)
    eventually(lambda: not staged())
    assert os.listdir(host.root / folder) == []


def test_progress_is_said_while_a_group_is_made_durable(
    live: Connection, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = held_up(monkeypatch, LocalStorage, "publish", lambda _, group: len(group) > PATIENT_FILES)
    numbers = [put_small(live, f"{folder}/{n}", b"x") for n in range(100)]
    while not (isinstance(message := said(live), ProgressReply) and message.progress > PATIENT_FILES):
        if isinstance(message, StoredReply):
            assert message.id == numbers.pop(0)
    goes_on.set()
    assert message.id == numbers[0]
    for number in numbers:
        assert answer(live).id == number


LONG: dict[str, tuple[type, str, Callable[[Connection, Connection, str], Any]]] = {
    "small put": (LocalStorage, "publish", lambda live, _, folder: put_small(live, f"{folder}/new", b"x")),
    "small put before it is published": (
        LocalStorage,
        "stage",
        lambda live, _, folder: put_small(live, f"{folder}/new", b"x"),
    ),
    "begin": (
        LocalStorage,
        "begin",
        lambda live, *_: live.channel.send(BeginRequest(id=live.next_id(), operation="0" * 32, what="a test")),
    ),
    "small put that compares": (
        LocalStorage,
        "publish",
        lambda live, _, folder: put_small(live, f"{folder}/new", b"x", condition=digest_of("md5", "0" * 32)),
    ),
    "open": (
        LocalStorage,
        "open_upload",
        lambda live, _, folder: live.channel.send(
            PutRequest(id=live.next_id(), path=f"{folder}/f", file_size=9 * MIB, mtime_ns=5)
        ),
    ),
    "find": (
        LocalStorage,
        "find_upload",
        lambda live, other, folder: send_part(live, open_upload(other, f"{folder}/f", 9 * MIB).upload, 0, bytes(MIB)),
    ),
    "part": (
        LocalPartWriter,
        "finish",
        lambda live, _, folder: send_part(live, open_upload(live, f"{folder}/f", 9 * MIB).upload, 0, bytes(8 * MIB)),
    ),
    "abort": (
        LocalUpload,
        "abort",
        lambda live, _, folder: live.channel.send(
            AbortRequest(id=live.next_id(), upload=open_upload(live, f"{folder}/f", 9 * MIB).upload)
        ),
    ),
    "rm": (
        LocalStorage,
        "rm",
        lambda live, _, folder: live.channel.send(RmRequest(id=live.next_id(), path=folder, recursive=True)),
    ),
    "mv": (
        LocalStorage,
        "mv",
        lambda live, _, folder: live.channel.send(MvRequest(id=live.next_id(), path=folder, to=f"{folder}-moved")),
    ),
}
"""Where the server may have to wait for a disk, and how it comes there."""


@pytest.mark.parametrize("where", LONG)
def test_progress_is_said_wherever_the_server_waits_for_a_disk(
    host: Host, live: Connection, folder: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, ask = LONG[where]
    goes_on = held_up(monkeypatch, owner, name)
    with connected(host) as other:
        ask(live, other, folder)
        message = said(live)
        goes_on.set()
        assert isinstance(message, ProgressReply) and message.id == live.channel.session.oldest
        assert answer(live).id == message.id and alive(live)


def test_progress_is_said_again_and_again_and_no_more_once_it_is_done(
    live: Connection, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = held_up(monkeypatch, LocalStorage, "publish")
    number = put_small(live, f"{folder}/new", b"xyz")
    for _ in range(3):
        message = said(live)
        assert isinstance(message, ProgressReply) and (message.id, message.progress) == (number, 3)
    goes_on.set()
    assert answer(live).id == number
    time.sleep(0.2)  # four signs, were any to come
    assert not live.channel.readable() and alive(live)


@pytest.mark.parametrize("doing", ["stage", "publish"])
def test_a_connection_ends_whose_peer_left_while_it_was_told_of_a_small_put(
    host: Host, folder: str, monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    goes_on, noticed = held_up(monkeypatch, LocalStorage, doing), missed(monkeypatch)
    with connected(host) as live:
        put_small(live, f"{folder}/new", b"x")
        live.channel.flush()
    assert noticed.wait(30)
    goes_on.set()
    eventually(lambda: host.service is not None and not host.service._handlers)
    assert (host.root / folder / "new").exists() == (doing == "publish")
    assert [name for name in os.listdir(host.root / ".ftpy" / "staged") if not name.endswith(".lock")] == []


def test_who_finds_no_thread_to_say_progress_looks_again(
    live: Connection, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, list[str]()

    def scarce(thread: threading.Thread) -> None:
        if thread.name == "ftpy-progress" and len(refused) < 2:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    goes_on = held_up(monkeypatch, LocalStorage, "publish")
    monkeypatch.setattr(threading.Thread, "start", scarce)
    number = put_small(live, f"{folder}/new", b"x")
    assert isinstance(said(live), ProgressReply) and len(refused) == 2
    goes_on.set()
    assert answer(live).id == number


def test_a_commit_is_in_the_log_when_its_client_has_left_meanwhile(
    host: Host, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("ftpy").propagate = True
    caplog.set_level(logging.INFO, "ftpy")
    goes_on, noticed = held_up(monkeypatch, LocalUpload, "commit"), missed(monkeypatch)
    with connected(host) as live:
        upload = open_upload(live, f"{folder}/f", 2 * MIB).upload
        send_part(live, upload, 0, bytes(2 * MIB))
        live.wait(PartReply)
        digest = digest_of("md5", hashlib.md5(bytes(2 * MIB)).hexdigest())
        live.channel.send(CommitRequest(id=live.next_id(), upload=upload, digest=digest))
        live.channel.flush()
    assert noticed.wait(30)
    goes_on.set()
    eventually((host.root / folder / "f").exists)
    eventually(lambda: host.service is not None and not host.service._handlers)
    puts = [record.fields for record in caplog.records if record.event == "put"]  # type: ignore[attr-defined]
    assert [fields["path"] for fields in puts] == [f"{folder}/f"]


# ------------------------------------------------------------------ rights and roots

ASK: dict[str, tuple[str, Callable[[Connection, str], Any]]] = {
    "put inline": ("write", lambda live, _: (put_small(live, "new", b"x"), live.wait(StoredReply))),
    "put upload": ("write", lambda live, _: open_upload(live, "new", 9 * MIB)),
    "part": ("write", lambda live, upload: (send_part(live, upload, 0, bytes(8 * MIB)), live.wait(PartReply))),
    "commit": (
        "write",
        lambda live, upload: live.call(
            CommitRequest(id=live.next_id(), upload=upload, digest=digest_of("md5", "0" * 32)), StoredReply
        ),
    ),
    "abort": ("write", lambda live, upload: live.call(AbortRequest(id=live.next_id(), upload=upload), Reply)),
    "mkdir": ("write", lambda live, _: live.call(MkdirRequest(id=live.next_id(), path="new"), MkdirReply)),
    "rm": ("delete", lambda live, _: live.call(RmRequest(id=live.next_id(), path="old"), RmReply)),
    "mv": ("list", lambda live, _: live.call(MvRequest(id=live.next_id(), path="old", to="new"), MvReply)),
    "get": ("read", lambda live, _: fetch(live, "old")),
    "digest": ("read", lambda live, _: live.call(DigestRequest(id=live.next_id(), path="old"), DigestReply)),
    "ls": ("list", lambda live, _: live.call(LsRequest(id=live.next_id()), LsReply)),
    "stat": ("list", lambda live, _: live.call(StatRequest(id=live.next_id(), path="old"), StatReply)),
}
"""How each verb is asked for, with the right that it takes, or of several the first."""


def snapshot(host: Host) -> dict[str, bytes]:
    """Every file below the root, the staging area included."""
    return {str(path): path.read_bytes() for path in sorted(host.root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("right", ["read", "write", "list", "replace", "delete", None])
def test_every_verb_is_refused_to_who_has_no_right_to_it_and_changes_nothing(tmp_path: Path, right: str | None) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("only", rights=(right,) if right else ())
    (host.root / "old").write_bytes(b"old")
    host.start()
    try:
        host.swept()
        with connected(host) as owner:
            upload = open_upload(owner, "other", 9 * MIB).upload
            before = snapshot(host)
            with connected(host, "only") as live:
                assert live.welcome.rights == ([right] if right else [])
                for name, (needed, ask) in ASK.items():
                    if needed != right:
                        with pytest.raises(PermissionDenied, match=f"no right to {needed}"):
                            ask(live, upload)
                        assert snapshot(host) == before, name
                assert live.in_step
                if right != "write":
                    return
                for name in ("part", "commit", "abort"):  # an upload belongs to its user
                    with pytest.raises(UnknownUpload):
                        ASK[name][1](live, upload)
                assert snapshot(host) == before
    finally:
        host.stop()


def test_users_with_roots_of_their_own_see_neither_files_nor_uploads_of_each_other(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    roots = {name: tmp_path / f"root-{name}" for name in ("ann", "bob")}
    for name, root in roots.items():
        root.mkdir()
        host.add_user(name, root=str(root))
    host.start()
    try:
        with connected(host, "ann") as ann, connected(host, "bob") as bob, connected(host) as alice:
            put_small(ann, "secret", b"of ann")
            ann.wait(StoredReply)
            upload = open_upload(ann, "large", 9 * MIB)
            for other in (bob, alice):
                for path in ("secret", "root-ann/secret"):
                    with pytest.raises(NotFound):
                        fetch(other, path)
                assert other.call(LsRequest(id=other.next_id(), recursive=True), LsReply).entries == []
                assert open_upload(other, "large", 9 * MIB).upload != upload.upload
                for verb in ("part", "commit", "abort"):
                    with pytest.raises(UnknownUpload):
                        ASK[verb][1](other, upload.upload)
            put_small(bob, "secret", b"of bob")
            bob.wait(StoredReply)
            assert fetch(ann, "secret").body == b"of ann" and fetch(bob, "secret").body == b"of bob"
            assert [e.name for e in ann.call(LsRequest(id=ann.next_id()), LsReply).entries] == ["secret"]
        assert (roots["ann"] / "secret").read_bytes() == b"of ann"
        assert not (host.root / "secret").exists()
    finally:
        host.stop()


def test_a_user_whose_root_is_missing_is_told_so_and_others_are_served(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    (tmp_path / "gone").mkdir()
    host.add_user("ann", root=str(tmp_path / "gone"))
    (tmp_path / "gone").rmdir()
    host.start()
    try:
        with connected(host, "ann") as ann, pytest.raises(FtpyError) as told:
            ann.call(StatRequest(id=ann.next_id()), StatReply)
        assert "lost" not in str(told.value) and "closed" not in str(told.value)
        assert str(tmp_path) not in str(told.value)
        with connected(host) as alice:
            assert alive(alice)
    finally:
        host.stop()


@pytest.mark.parametrize("exposing", [".", "files/../..", "link"])
def test_a_user_whose_root_holds_the_servers_own_files_is_refused_by_a_server_that_runs(
    tmp_path: Path, exposing: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("ftpy").propagate = True
    with running(tmp_path / "host", tls=False) as host:
        (host.folder / "link").symlink_to(host.folder)
        host.add_user("ann", root=str(host.folder / exposing))
        with pytest.raises(FtpyError, match="cannot open your folder"), connected(host, "ann") as ann:
            ann.call(StatRequest(id=ann.next_id(), path="users.json"), StatReply)
    assert any("own `certificate` lies below it" in str(getattr(record, "fields", "")) for record in caplog.records)


def test_a_user_whose_root_holds_the_settings_is_refused(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    (tmp_path / "data").mkdir()
    host.add_user("ann", root=str(tmp_path / "data"))
    ann = host.accounts.lookup("ann")[1]
    assert ann is not None
    storage = Service(host.config, str(tmp_path / "server.toml")).roots.storage_for(ann)
    assert storage.stat(RemotePath()).type == "directory"
    with pytest.raises(FtpyError, match="cannot open your folder"):
        Service(host.config, str(tmp_path / "data" / "server.toml")).roots.storage_for(ann)


def test_a_root_that_hangs_keeps_only_its_own_users_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    build = LocalStorage.__init__

    def slow(self: LocalStorage, root: str, *args: Any, **kw: Any) -> None:
        if root.endswith("dead"):
            hangs.set()
            assert goes_on.wait(10)
        build(self, root, *args, **kw)

    monkeypatch.setattr(LocalStorage, "__init__", slow)
    (tmp_path / "dead").mkdir()
    with running(tmp_path / "host", tls=False) as host:
        host.add_user("ann", root=str(tmp_path / "dead"))
        try:
            with connected(host, "ann") as ann:
                assert hangs.wait(5)
                with connected(host) as alice:
                    assert alive(alice)
                goes_on.set()
                assert alive(ann)
        finally:
            goes_on.set()


# ------------------------------------------------------------------ users who change while the server runs


def test_a_removed_user_gets_nothing_more(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False) as host:
        host.add_user("bob")
        (host.root / "f").write_bytes(b"secret")
        with connected(host, "bob") as bob, connected(host) as alice:
            assert fetch(bob, "f").body == b"secret"
            host.accounts.remove("bob")
            with pytest.raises(Denied):
                Connection.open(host.profile("bob"), FAST)  # a new login is refused at once
            # the session that waits ends by itself
            assert bob.channel.receive(silence_seconds=5) is None
            assert alive(alice)


BUSY_SECONDS = 5.0
"""What a busy machine may add to the one second in which a removed user's sessions end."""


def in_a_get(bob: Connection) -> None:
    """Not a byte of the body is read here until the server has let go: the transfer cannot end by itself."""
    bob.channel.send(GetRequest(id=bob.next_id(), path="f"))
    bob.wait(GetReply)


def in_a_put(bob: Connection) -> None:
    """The rest of the body never comes."""
    request = PutRequest(id=bob.next_id(), path="new", file_size=MIB, mtime_ns=0, length=MIB)
    bob.channel.send(request)
    bob.channel.send_body(bytes(MIB // 2))
    bob.channel.flush()


def at_rest(_: Connection) -> None:
    """It only waits."""


@pytest.mark.slow
@pytest.mark.parametrize("busy_with", [in_a_get, in_a_put, at_rest])
def test_a_removed_users_session_ends_within_a_second_whatever_it_does(
    tmp_path: Path, busy_with: Callable[[Connection], None]
) -> None:
    took = []
    with running(tmp_path / "host", tls=False) as host:
        with open(host.root / "f", "wb") as file:
            file.truncate(64 * MIB)
        for name in ("bob", "carol", "dave"):
            host.add_user(name)
            with connected(host, name) as live:
                busy_with(live)
                host.accounts.remove(name)
                begin = time.monotonic()
                eventually(lambda: connections(host) == 0, BUSY_SECONDS)
                took.append(time.monotonic() - begin)
    assert WATCH_SECONDS + LOOK_SECONDS < 1
    assert min(took) < 1, took  # the others may have had to wait for a processor


def test_a_rotated_key_ends_the_session_and_only_the_new_one_opens_another(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False) as host, connected(host) as live:
        assert alive(live)
        old = host.profile()
        host.keys["alice"] = host.accounts.rotate("alice")
        with pytest.raises(Denied):
            Connection.open(old, FAST)
        with connected(host) as again:
            assert alive(again)
        with pytest.raises(ConnectionFailed):
            eventually(lambda: not alive(live), 5)


# ------------------------------------------------------------------ who may come in


def test_refusals_are_the_same_for_an_unknown_user_and_a_wrong_key(host: Host) -> None:
    host.keys["ghost"] = bytes(32)
    wrong = host.profile("ghost")
    import msgspec

    for profile in (wrong, msgspec.structs.replace(wrong, user="alice")):
        with pytest.raises(Denied, match="refused user"):
            Connection.open(profile, FAST)


def test_a_plain_client_and_a_tls_server_fail_fast_and_so_do_the_others(tmp_path: Path, host: Host) -> None:
    import msgspec

    patient = Transfer(stall_seconds=5, connect_seconds=5, retries=0)
    with running(tmp_path / "tls") as tls_host:
        plain = msgspec.structs.replace(tls_host.profile(), certificate_sha256=None)
        begin = time.monotonic()
        with pytest.raises((ConnectionFailed, AuthenticationFailed)):
            Connection.open(plain, patient)
        pinned = msgspec.structs.replace(host.profile(), certificate_sha256="0" * 64)
        with pytest.raises(ConnectionFailed):
            Connection.open(pinned, patient)
        assert time.monotonic() - begin < 4


# ------------------------------------------------------------------ slow and dead lines


def slow_line(mib_per_second: float) -> Fault:
    return Fault(slice_bytes=16 * 1024, pause_seconds=16 / 1024 / mib_per_second)


IMPATIENT = Transfer(stall_seconds=3.0, connect_seconds=5, retries=0)


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_slow_put_is_not_given_up_while_it_moves(tmp_path: Path, tls: bool) -> None:
    """A part takes longer than the limit of silence; that the server hears it is said meanwhile."""
    data = bytes(4 * MIB)
    with (
        running(tmp_path / "host", tls=tls) as host,
        Proxy(host.address, (slow_line(0.6), Fault())) as proxy,
        host.client(address=proxy.address, transfer=IMPATIENT) as client,
    ):
        begin = time.monotonic()
        assert client.put(io.BytesIO(data), "f").size == len(data)
        assert time.monotonic() - begin > 2 * IMPATIENT.stall_seconds
        assert proxy.connections == 1


@pytest.mark.slow
def test_progress_of_a_slow_part_is_said_about_every_second(host: Host, live: Connection, folder: str) -> None:
    size = 9 * MIB
    upload = open_upload(live, f"{folder}/f", size)
    live.channel.send(PartRequest(id=live.next_id(), upload=upload.upload, part=0, length=upload.part_size))
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.1):
            live.channel.send_body(bytes(1000))
            live.channel.flush()

    sender = threading.Thread(target=trickle)
    sender.start()
    try:
        moments = [time.monotonic()]
        counts = []
        for _ in range(3):
            message = live.channel.session.receive(live.channel.stream.receive_header(65536) or b"")
            assert isinstance(message, ProgressReply)
            moments.append(time.monotonic())
            counts.append(message.progress)
    finally:
        stop.set()
        sender.join()
    assert 0 < counts[0] < counts[1] < counts[2] <= 60_000
    gaps = sorted(after - before for before, after in pairwise(moments))
    assert gaps[1] < 2, gaps  # one of the three may have had to wait for a processor


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("way", ["put", "get"])
def test_a_dead_line_is_given_up_within_the_limit(tmp_path: Path, way: str, tls: bool) -> None:
    (tmp_path / "source").write_bytes(bytes(40 * MIB))
    index, stall = ["put", "get"].index(way), Fault("stall", 10 * MIB)
    impatient = Transfer(stall_seconds=3, connect_seconds=5, retries=0)
    failures: list[type[BaseException]] = []

    def transfer(client: Client) -> None:
        try:
            if way == "put":
                client.put(tmp_path / "source", "new")
            else:
                client.get("f", tmp_path / "target")
        except FtpyError as error:
            failures.append(type(error))

    with (
        running(tmp_path / "host", tls=tls) as host,
        Proxy(host.address, (stall, Fault()) if way == "put" else (Fault(), stall)) as proxy,
    ):
        (host.root / "f").write_bytes(bytes(40 * MIB))
        with host.client(address=proxy.address, transfer=impatient) as client:
            thread = threading.Thread(target=transfer, args=(client,))
            thread.start()
            eventually(lambda: proxy.passed[index] == 10 * MIB)
            begin = time.monotonic()
            thread.join(20)
            assert time.monotonic() - begin < 3 + 3 * TICK_SECONDS + 2.5  # silence, ticks that moved a little, slack
        assert failures == [Stalled]


@pytest.mark.slow
def test_the_server_gives_up_who_does_not_read(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False, limits=Limits(stall_seconds=2.0)) as host, connected(host) as live:
        with open(host.root / "f", "wb") as file:
            file.truncate(64 * MIB)
        live.channel.send(GetRequest(id=live.next_id(), path="f"))
        live.channel.flush()
        eventually(lambda: connections(host) == 0)


@pytest.mark.slow
def test_the_server_gives_up_a_dead_line_and_keeps_what_came(tmp_path: Path) -> None:
    with (
        running(tmp_path / "host", tls=False, limits=Limits(stall_seconds=2.0)) as host,
        Proxy(host.address, (Fault("stall", 20 * MIB), Fault())) as proxy,
    ):
        with connected(host, address=proxy.address) as live:
            upload = open_upload(live, "new", 40 * MIB)
            sender = threading.Thread(target=send_until_cut, args=(live, upload))
            sender.start()
            eventually(lambda: proxy.passed[0] == 20 * MIB)
            eventually(lambda: connections(host) == 0)
        proxy.close()
        sender.join(10)
        with connected(host) as again:
            assert open_upload(again, "new", 40 * MIB).missing == [(2, 4)]


def connections(host: Host) -> int:
    """How many the server has."""
    assert host.service is not None
    return host.service.admission.connections


def send_until_cut(live: Connection, upload: UploadReply) -> None:
    with contextlib.suppress(FtpyError):
        for number in range(5):
            send_part(live, upload.upload, number, bytes(upload.part_size))
        live.channel.flush()


@pytest.mark.slow
def test_a_stranger_that_trickles_is_gone_in_time(tmp_path: Path) -> None:
    """Bytes that come do not prolong the time to authenticate, in TLS or plain."""
    for tls in (False, True):
        limits = Limits(handshake_seconds=0.5)
        with running(tmp_path / f"host{tls}", tls=tls, limits=limits) as host, contextlib.ExitStack() as stack:
            begin, stop = time.monotonic(), threading.Event()
            sock = stack.enter_context(raw(host))

            def trickle(sock: socket.socket = sock, tls: bool = tls, stop: threading.Event = stop) -> None:
                with contextlib.suppress(OSError):
                    sock.sendall(b"\x16\x03\x01\x02\x00" if tls else b"\0\x08\0\0")
                    while not stop.wait(0.05):
                        sock.sendall(b"{")

            feeder = threading.Thread(target=trickle)
            feeder.start()
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1000):
                    pass
            assert 0.4 < time.monotonic() - begin < 3
            stop.set()
            feeder.join()


@pytest.mark.slow
def test_an_idle_session_is_ended_in_time_and_a_busy_one_is_not(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False, limits=Limits(idle_seconds=2.0)) as host, connected(host) as live:
        begin = time.monotonic()
        while time.monotonic() - begin < 3:
            last = time.monotonic()
            assert alive(live)
            assert not live.channel.stream._buffer and not threading.Event().wait(0.1)
        assert live.channel.receive(silence_seconds=20) is None
        assert 1.9 < time.monotonic() - last < 10


# ------------------------------------------------------------------ what the log says


def test_log_tells_who_did_what_and_no_secret(host: Host, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    eventually(lambda: host.service is not None and not host.service._handlers)  # of the tests before
    caplog.set_level(logging.DEBUG, "ftpy")
    logging.getLogger("ftpy").propagate = True
    caplog.clear()
    with connected(host) as live:
        put_small(live, f"{folder}/f", b"content of the file")
        live.wait(StoredReply)
        fetch(live, f"{folder}/f")
        with pytest.raises(NotFound):
            fetch(live, f"{folder}/no")
    eventually(lambda: host.service is not None and not host.service._handlers)
    events = [(record.event, record.fields) for record in caplog.records]  # type: ignore[attr-defined]
    assert [event for event, _ in events] == ["login", "put", "get", "refused"]
    assert all(fields["user"] == "alice" and fields["source"].startswith("127.0.0.1:") for _, fields in events)
    (session,) = {fields["session"] for _, fields in events}
    assert session.isdigit()
    assert events[1][1]["path"] == f"{folder}/f" and events[1][1]["bytes"] == 19
    assert events[3][1]["verb"] == "get" and events[3][1]["error"] == "not-found"
    text = repr(events)
    key = host.keys["alice"]
    assert host.profile().key not in text and key.hex() not in text and repr(key) not in text
    assert "content of the file" not in text


def test_a_handler_that_fails_is_internal_without_detail_and_the_session_goes_on(
    host: Host, live: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a secret detail")

    logging.getLogger("ftpy").propagate = True
    monkeypatch.setattr(LocalStorage, "stat", broken)
    live.channel.send(StatRequest(id=live.next_id()))
    reply = answer(live)
    assert isinstance(reply, FailureReply) and reply.error == "internal" and "secret" not in reply.message
    assert "secret detail" in caplog.text
    monkeypatch.undo()
    assert alive(live)


def test_channel_of_the_wrong_side_is_refused(host: Host) -> None:
    """Frames of a server are nothing that a server hears."""
    with raw(host) as sock:
        channel = Channel(Stream(sock, silence_seconds=10), Side.CLIENT)
        channel.stream.send(frame(b'{"cmd":"denied"}'))
        with pytest.raises(ProtocolError):
            told = channel.receive()
            assert isinstance(told, FailureReply)
            raise told.exception()
