"""mkdir, touch, df, cat, tail and glob between a real client and a real server, also when connections break."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from ftpy.client import globbing
from ftpy.client.client import Client
from ftpy.errors import (
    AlreadyExists,
    Changed,
    DigestMismatch,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    TooManyMatches,
    Unsupported,
)
from ftpy.files import RemotePath
from ftpy.server import verbs
from ftpy.wire.upkeep import DfRequest
from tests.e2e.test_rm_mv import broken
from tests.rig import Fault, Host, Proxy

MIB = 1024 * 1024


def asked_once(client: Client) -> None:
    """The request before the one whose connection breaks."""
    with contextlib.suppress(NotFound, PermissionDenied):
        client.stat("a")


def test_touch_keeps_what_is_known_of_a_file(host: Host, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    with host.client() as client:
        stored = client.put(tmp_path / "source", "a")
        before = client.stat("a")
        touched = client.touch("a", 7)
        assert (touched.path, touched.mtime_ns, touched.created) == (RemotePath(("a",)), 7, False)
        after = client.stat("a")
        assert after.etag != before.etag and (after.mtime_ns, after.md5) == (7, stored.digest.hex)
        client.get("a", tmp_path / "target")
        assert client.touch("b/c").created and client.stat("b/c").size == 0


def test_mkdir_and_touch_are_told_in_the_audit_trail(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", audit=True)
    host.add_user("reader", rights=("list", "read"))
    host.start()
    try:
        with host.client() as client:
            client.mkdir("d")
            client.touch("d/a", 7)
        with host.client("reader") as client, pytest.raises(PermissionDenied):
            client.touch("d/a", 8)
    finally:
        host.stop()
    made, refused = host.audited("touch")
    assert (made["path"], made["created"], made["outcome"]) == ("d/a", True, "ok")
    assert (refused["path"], refused["outcome"], refused["user"]) == ("d/a", "permission-denied", "reader")
    assert (host.root / "d" / "a").stat().st_mtime_ns == 7


def test_who_makes_something_hears_that_nobody_can_tell_when_the_answer_was_lost(plain_host: Host) -> None:
    with broken(plain_host, "down") as client:
        asked_once(client)
        with pytest.raises(OutcomeUnknown):
            client.mkdir("new")
    assert (plain_host.root / "new").is_dir()


@pytest.mark.parametrize("way", ["up", "down"])
def test_what_can_be_asked_twice_is(plain_host: Host, way: str) -> None:
    with broken(plain_host, way) as client:
        asked_once(client)
        client.mkdir("deep/new", parents=True)
    with broken(plain_host, way) as client:
        asked_once(client)
        assert client.touch("deep/file", 9).mtime_ns == 9
    assert (plain_host.root / "deep/file").stat().st_mtime_ns == 9
    with broken(plain_host, "up") as client:
        asked_once(client)
        client.mkdir("new")
        with pytest.raises(AlreadyExists):
            client.mkdir("new")


def test_an_older_server_says_that_it_does_not_know_df(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise Unsupported("this server does not know the verb 'df'")

    monkeypatch.setitem(verbs.VERBS, DfRequest, verbs.Verb(unknown))
    with host.client() as client:
        with pytest.raises(Unsupported, match="does not know the verb 'df'"):
            client.df()
        assert list(client.ls()) == []


# ---------------------------------------------------------------- reading


def test_cat_hands_out_one_version_or_says_that_it_changed(host: Host) -> None:
    (host.root / "big").write_bytes(os.urandom(9 * MIB))
    with host.client() as client:
        pieces = client.cat("big")
        assert len(next(pieces)) == 8 * MIB
        (host.root / "other").write_bytes(os.urandom(9 * MIB))
        (host.root / "other").replace(host.root / "big")
        with pytest.raises(Changed):
            next(pieces)
        assert b"".join(client.cat("big", offset=3, count=9 * MIB)) == (host.root / "big").read_bytes()[3:]
        with pytest.raises(InvalidRequest):
            next(client.cat("big", offset=9 * MIB + 1))


def test_a_small_file_that_changes_while_it_is_read_costs_no_connection(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftpy.storage.reading import LocalReader

    (host.root / "log").write_bytes(b"old\n")
    read = LocalReader.read

    def growing(reader: LocalReader, offset: int, count: int) -> bytes:
        data = read(reader, offset, count)
        with (host.root / "log").open("ab") as file:
            file.write(b"more\n")
        return data

    with host.client() as client:
        connection = client._connected()
        monkeypatch.setattr(LocalReader, "read", growing)
        with pytest.raises(Changed):
            list(client.cat("log"))
        with pytest.raises(Changed):
            list(client.tail("log"))
        monkeypatch.undo()
        assert b"".join(client.tail("log", lines=1)) == b"more\n"
        assert client._connected() is connection


def test_tail_hands_out_nothing_that_came_after_it_was_asked(host: Host) -> None:
    (host.root / "log").write_bytes(b"x" * 100_000 + b"\n")
    with host.client() as client:
        pieces = client.tail("log", lines=1)
        first = next(pieces)
        with (host.root / "log").open("ab") as file:
            file.write(b"more\n")
        assert first + b"".join(pieces) == b"x" * 100_000 + b"\n"


def test_glob_means_what_is_there(host: Host) -> None:
    for name in ("logs/1.gz", "logs/2.gz", "logs/x/3.gz"):
        (host.root / name).parent.mkdir(parents=True, exist_ok=True)
        (host.root / name).write_bytes(b"")
    with host.client() as client:
        assert [str(info.path) for info in client.glob("/**/*.gz")] == ["logs/1.gz", "logs/2.gz", "logs/x/3.gz"]
        assert client.glob("logs/*.tar") == []


def test_a_pattern_that_means_too_much_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globbing, "MOST_MATCHES", 2)
    for name in ("1", "2", "3"):
        (host.root / name).write_bytes(b"")
    with host.client() as client:
        with pytest.raises(TooManyMatches):
            client.glob("*")
        assert len(client.glob("[12]")) == 2
        for name in ("a/x", "b/x", "c/x"):  # one in each of several listings
            (host.root / name).parent.mkdir()
            (host.root / name).write_bytes(b"")
        with pytest.raises(TooManyMatches):
            client.glob("[a-c]/*")
        assert len(client.glob("[ab]/*")) == 2


def test_a_range_that_arrives_damaged_is_not_handed_out(plain_host: Host) -> None:
    content = os.urandom(1000)
    (plain_host.root / "a").write_bytes(content)
    for command in ("cat", "tail"):
        read = {
            "cat": lambda client: list(client.cat("a", offset=1)),
            "tail": lambda client: list(client.tail("a", count=500)),
        }[command]
        with Proxy(plain_host.address) as counting, plain_host.client(address=counting.address) as client:
            read(client)
        _, down = counting.passed
        flipped = (Fault(), Fault("flip", after=down - 300))  # in the last body
        with (
            Proxy(plain_host.address, flipped) as proxy,
            plain_host.client(address=proxy.address) as client,
            pytest.raises(DigestMismatch),
        ):
            read(client)
