"""What the client does when this side fails, when answers are lost, and when the server does not keep to the rules."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from ftpy.client.client import Client
from ftpy.client.putting import _numbers
from ftpy.client.results import Progress
from ftpy.errors import (
    AlreadyExists,
    Changed,
    ConnectionFailed,
    IsADirectory,
    LocalFileError,
    ProtocolError,
    QuotaExceeded,
    RequestError,
)
from ftpy.server import context
from ftpy.storage.base import Condition, KnownDigest
from ftpy.wire.fields import digest_of
from ftpy.wire.messages import StoredReply, UploadReply
from tests.rig import FAST, Fault, Host, Proxy, running

MIB = 1024 * 1024


class FullDisk(io.RawIOBase):
    """A stream that cannot be written."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise OSError(28, "No space left on device")


def test_the_next_file_is_fetched_when_one_could_not_be_written_here(host: Host) -> None:
    (host.root / "big").write_bytes(bytes(3 * MIB))
    (host.root / "small").write_bytes(b"x")
    after = io.BytesIO()
    with host.client() as client:
        with pytest.raises(LocalFileError):
            client.get("big", FullDisk())
        client.get("small", after)
    assert after.getvalue() == b"x"


def altered_replies(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """Let the server say something else than what it did."""
    right = context.stored

    def wrong(*arguments: object) -> StoredReply:
        return structs.replace(right(*arguments), **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(context, "stored", wrong)


def test_a_put_is_durable_only_when_the_server_says_so(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered_replies(monkeypatch, durable=False)
    (tmp_path / "source").write_bytes(b"abc")
    with plain_host.client() as client:
        assert not client.put(tmp_path / "source", "x").durable


@pytest.mark.parametrize("wrong", [{"file_size": 7}, {"digest": digest_of("md5", "0" * 32)}])
def test_a_put_fails_when_the_server_says_it_stored_something_else(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object]
) -> None:
    altered_replies(monkeypatch, **wrong)
    (tmp_path / "source").write_bytes(b"abc")
    with plain_host.client() as client, pytest.raises(ProtocolError):
        client.put(tmp_path / "source", "x")


def answered(host: Host, data: bytes, *, condition: object = None) -> int:
    """Bytes that come down when a put of ``data`` goes well."""
    with Proxy(host.address) as measure, host.client(address=measure.address) as client:
        client.put(io.BytesIO(data), "measured", condition=condition)  # type: ignore[arg-type]
    return measure.passed[1]


def test_a_put_of_standard_input_succeeds_when_only_the_answer_to_its_commit_is_lost(host: Host) -> None:
    down = answered(host, b"abc")
    with (
        Proxy(host.address, (Fault(), Fault("cut", down - 40)), (Fault(), Fault())) as proxy,
        host.client(address=proxy.address) as client,
    ):
        stored = client.put(io.BytesIO(b"abc"), "s", condition="absent")
    assert proxy.connections == 2 and stored.size == 3 and not stored.durable


def test_put_if_absent_refuses_when_another_made_the_same_file_while_the_connection_was_lost(
    plain_host: Host, tmp_path: Path
) -> None:
    (tmp_path / "lock").write_bytes(b"")

    def other_wins(_: str) -> None:
        (plain_host.root / "lock").write_bytes(b"")
        os.utime(plain_host.root / "lock", (1, 1))

    with Proxy(plain_host.address) as measure, plain_host.client(address=measure.address):
        pass
    with (
        Proxy(plain_host.address, (Fault("cut", measure.passed[0] + 10), Fault()), (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address, notify=other_wins) as client,
        pytest.raises(AlreadyExists),
    ):
        client.put(tmp_path / "lock", "lock", condition="absent")


@pytest.mark.parametrize("size", [100, 3 * MIB], ids=["small", "parts"])
@pytest.mark.parametrize("touched", [False, True], ids=["same time", "other time"])
def test_a_put_over_the_same_content_is_done_when_its_commit_is_lost(
    plain_host: Host, tmp_path: Path, size: int, touched: bool
) -> None:
    """What is there already must not pass for what the lost commit would have done, nor hide what it left."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    with Proxy(plain_host.address) as measure, plain_host.client(address=measure.address) as client:
        client.put(source, "x")
    if touched:
        os.utime(source, ns=(1, 10**18))
    with (
        Proxy(plain_host.address, (Fault("cut", measure.passed[0] - 10), Fault()), (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address) as client,
    ):
        client.put(source, "x")
    assert proxy.connections == 2 and plain_host.uploads == []
    there = plain_host.root / "x"
    assert there.read_bytes() == source.read_bytes() and there.stat().st_mtime_ns == source.stat().st_mtime_ns


@pytest.mark.parametrize(
    ("condition", "meddle", "refusal"),
    [
        ("absent", lambda path: path.write_bytes(b"theirs"), AlreadyExists),
        (KnownDigest("md5", hashlib.md5(b"before").hexdigest()), lambda path: path.write_bytes(b"theirs"), Changed),
        (None, lambda path: (path.unlink(), path.mkdir()), IsADirectory),
    ],
    ids=["absent", "known", "folder"],
)
@pytest.mark.parametrize("opened", [False, True], ids=["file", "stream"])
def test_put_leaves_no_upload_when_its_commit_is_refused_for_good(
    plain_host: Host,
    tmp_path: Path,
    opened: bool,
    condition: Condition,
    meddle: Callable[[Path], object],
    refusal: type[RequestError],
) -> None:
    target = plain_host.root / "x"
    if condition != "absent":
        target.write_bytes(b"before")
    (tmp_path / "source").write_bytes(bytes(9 * MIB))
    held: list[list[str]] = []

    def on_progress(progress: Progress) -> None:
        if (progress.phase == "verifying" or progress.done == 9 * MIB) and not held:
            held.append(plain_host.uploads)
            meddle(target)

    said: list[str] = []
    with plain_host.client(notify=said.append) as client, open(tmp_path / "source", "rb") as stream:
        with pytest.raises(refusal):
            source = stream if opened else tmp_path / "source"
            client.put(source, "x", condition=condition, on_progress=on_progress)
        assert len(held[0]) == 1 and plain_host.uploads == [] and said == []
        assert target.is_dir() or target.read_bytes() == b"theirs"


def test_put_of_a_stream_leaves_no_upload_when_there_is_no_room_for_it(plain_host: Host) -> None:
    """Nobody could go on with it, and it would count until it expires."""
    plain_host.accounts.change("alice", quota_bytes=20 * MIB)
    said: list[str] = []
    with plain_host.client(notify=said.append) as client:
        with pytest.raises(QuotaExceeded):
            client.put(io.BytesIO(bytes(40 * MIB)), "s")
        assert plain_host.uploads == [] and said == []
        client.put(io.BytesIO(bytes(20 * MIB)), "s")


def test_standard_input_is_read_to_its_end_when_it_is_non_blocking(plain_host: Host) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, b"first ")

    def late() -> None:
        os.write(writer, b"second")
        os.close(writer)

    timer = threading.Timer(0.2, late)
    timer.start()
    with open(reader, "rb") as stream, plain_host.client() as client:
        client.put(stream, "s")
    timer.join()
    assert (plain_host.root / "s").read_bytes() == b"first second"


def test_parts_beyond_the_most_are_refused_when_none_is_missing() -> None:
    with pytest.raises(ProtocolError):
        _numbers(UploadReply(id=1, upload="0" * 32, part_size=1, missing=[]), 2**36)


def test_the_next_address_is_tried_when_one_belongs_to_another_server(tls_host: Host, tmp_path: Path) -> None:
    with running(tmp_path / "other") as other:
        profile = tls_host.profile()
        both = structs.replace(profile, addresses=[other.address, tls_host.address])
        with Client(both, FAST) as client:
            assert "write" in client.rights


def test_an_address_that_is_no_host_name_is_a_failed_connection(plain_host: Host) -> None:
    with pytest.raises(ConnectionFailed), plain_host.client(address="a..b:1"):
        pass
