"""The audit trail: a line for each thing done or refused, whole, by one process or several, and never a secret."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import Limits, Penalties, ServerConfig, exposed_by, load_server_config
from ftpy.errors import (
    AlreadyExists,
    ConfigError,
    ConnectionFailed,
    Denied,
    DigestMismatch,
    FtpyError,
    InvalidPath,
    NotFound,
    PermissionDenied,
    ProtocolError,
    Stalled,
)
from ftpy.server.audit import EVENTS, MOST_CHARACTERS, MOST_LINES, OK, Act, Audit, Trail, check_audit, outcome_of
from ftpy.server.verbs import VERBS
from ftpy.storage.base import KnownDigest
from ftpy.wire.bases import Request, UnknownRequest
from ftpy.wire.fields import digest_of
from ftpy.wire.framing import frame
from ftpy.wire.messages import CommitRequest, GetReply, GetRequest, MkdirRequest, PutRequest, StoredReply, UploadReply
from tests.descriptors import links
from tests.rig import FAST, Daemon, Host, eventually, running
from tests.server.test_connection import alive, answer, connected, put_small, raw, replies, send_part

MIB = 1024 * 1024
FIELDS = {"time", "event", "user", "source", "session", "outcome", "seconds"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A server without TLS that keeps a trail."""
    with running(tmp_path / "host", tls=False, audit=True) as made:
        yield made


def ended(host: Host) -> None:
    """All connections have ended, and so have their lines."""
    eventually(lambda: host.service is not None and not host.service._handlers)


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data).hexdigest()}"


def told(line: dict[str, Any], *names: str) -> dict[str, Any]:
    """What a line says but for what differs each time."""
    return {name: line[name] for name in ("event", "outcome", *names) if name in line}


# ------------------------------------------------------------------ a line for each event


def test_session_is_told_from_login_to_end(host: Host) -> None:
    with host.client() as client:
        client.ls("")
    ended(host)
    first, last = host.audited()
    assert told(first, "user") == {"event": "login", "outcome": "ok", "user": "alice"}
    assert told(last, "user") == {"event": "session-end", "outcome": "ok", "user": "alice"}
    for line in (first, last):
        assert set(line) == FIELDS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["source"].startswith("127.0.0.1:") and 0 < line["seconds"] < 60
    assert first["session"] == last["session"] and first["seconds"] < last["seconds"]


def test_what_is_done_is_told_with_path_bytes_and_digest(host: Host, tmp_path: Path) -> None:
    large = os.urandom(2 * MIB)
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(large)
    with host.client() as client:
        client.put(tmp_path / "small", "a/small")
        client.put(tmp_path / "large", "a/large")
        client.get("a/small", tmp_path / "back")
    with connected(host) as live:
        live.channel.send(MkdirRequest(id=live.next_id(), path="b"))
        replies(live, 1)
    ended(host)
    found = [told(line, "path", "bytes", "digest") for line in host.audited("put", "get", "mkdir")]
    assert found == [
        {"event": "put", "outcome": "ok", "path": "a/small", "bytes": 5, "digest": md5(b"small")},
        {"event": "put", "outcome": "ok", "path": "a/large", "bytes": 2 * MIB, "digest": md5(large)},
        {"event": "get", "outcome": "ok", "path": "a/small", "bytes": 5, "digest": md5(b"small")},
        {"event": "mkdir", "outcome": "ok", "path": "b"},
    ]
    assert all(set(line) >= FIELDS for line in host.audited())


def test_put_of_a_large_file_took_from_its_put_to_its_commit(host: Host) -> None:
    with connected(host) as live:
        opened = live.call(PutRequest(id=live.next_id(), path="f", file_size=2 * MIB, mtime_ns=0), UploadReply)
        assert not threading.Event().wait(0.3)
        send_part(live, opened.upload, 0, bytes(2 * MIB))
        replies(live, 1)
        commit(live, opened.upload, hashlib.md5(bytes(2 * MIB)).hexdigest())
    ended(host)
    [put] = host.audited("put")
    assert put["outcome"] == "ok" and 0.3 <= put["seconds"] < 30


def commit(live: Connection, upload: str, digest: str) -> None:
    live.call(CommitRequest(id=live.next_id(), upload=upload, digest=digest_of("md5", digest)), StoredReply)


def test_what_is_refused_is_told_with_path_and_code(host: Host) -> None:
    host.add_user("bob", rights=("list",))
    (host.root / "there").write_bytes(b"x")
    with connected(host) as live:
        put_small(live, "f", b"content", digest="0" * 32)
        put_small(live, "a:b", b"content")
        put_small(live, "there", b"content", condition="absent")
        live.channel.send(GetRequest(id=live.next_id(), path="gone"))
        live.channel.send(MkdirRequest(id=live.next_id(), path="there"))
        live.channel.send(UnknownRequest(cmd="frobnicate", id=live.next_id()))
        replies(live, 6)
        opened = live.call(PutRequest(id=live.next_id(), path="l", file_size=2 * MIB, mtime_ns=0), UploadReply)
        with pytest.raises(FtpyError, match="missing"):
            commit(live, opened.upload, "0" * 32)
    with connected(host, "bob") as live:
        put_small(live, "mine", b"content")
        replies(live, 1)
    ended(host)
    lines = host.audited("put", "get", "mkdir", "refused")
    assert [told(line, "path", "verb") for line in lines] == [
        {"event": "put", "verb": "put", "outcome": DigestMismatch.code, "path": "f"},
        {"event": "put", "verb": "put", "outcome": InvalidPath.code, "path": "a:b"},
        {"event": "put", "verb": "put", "outcome": AlreadyExists.code, "path": "there"},
        {"event": "get", "verb": "get", "outcome": NotFound.code, "path": "gone"},
        {"event": "mkdir", "verb": "mkdir", "outcome": AlreadyExists.code, "path": "there"},
        {"event": "refused", "verb": "frobnicate", "outcome": "unsupported"},
        {"event": "put", "verb": "commit", "outcome": "incomplete", "path": "l"},
        {"event": "put", "verb": "put", "outcome": PermissionDenied.code, "path": "mine"},
    ]
    assert all(line["reason"] for line in lines)
    assert [line["user"] for line in lines[-2:]] == ["alice", "bob"]


def test_what_was_broken_off_is_told_with_the_bytes_that_had_left(host: Host) -> None:
    (host.root / "f").write_bytes(bytes(64 * MIB))
    with connected(host) as live:
        live.channel.send(GetRequest(id=live.next_id(), path="f"))
        assert isinstance(answer(live), GetReply)
    with connected(host) as live:
        live.channel.send(PutRequest(id=live.next_id(), path="g", file_size=100, mtime_ns=0, length=100))
        live.channel.send_body(b"half")
        live.channel.flush()
    ended(host)
    get, put = sorted(host.audited("get", "put"), key=lambda line: line["event"])  # either may have ended first
    assert told(get, "path") == {"event": "get", "outcome": "connection-lost", "path": "f"}
    assert 0 <= get["bytes"] < 64 * MIB
    assert told(put, "path", "bytes") == {"event": "put", "outcome": "connection-lost", "path": "g"}
    assert [line["outcome"] for line in host.audited("session-end")] == ["connection-lost"] * 2


def test_logins_that_fail_are_told_and_so_is_garbage(tmp_path: Path) -> None:
    limits = Limits(handshake_seconds=1.0)
    with running(tmp_path / "host", tls=False, audit=True, limits=limits) as host:
        host.keys["alice"] = bytes(32)
        with pytest.raises(Denied):
            Connection.open(host.profile(), FAST)
        with raw(host) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(1000)
        with raw(host) as sock:
            assert not sock.recv(1000)  # it says nothing
        ended(host)
        lines = host.audited()
    assert [(line["event"], line["user"], line["outcome"]) for line in lines] == [
        ("login", "alice", "denied"),
        ("login", "-", ProtocolError.code),
        ("login", "-", "stalled"),
    ]
    assert lines[2]["seconds"] >= 0.9  # the kernel may wake up a tick early


def test_session_that_ends_in_garbage_is_told_to_end_once(host: Host) -> None:
    with connected(host) as live:
        live.channel.stream.send(b"GET / HTTP/1.1\r\n\r\n")
        live.channel.stream.receive_header(65536)
    ended(host)
    [end] = host.audited("session-end")
    assert (end["user"], end["outcome"]) == ("alice", ProtocolError.code) and "frame" in end["reason"]


def test_source_that_is_penalised_is_told(tmp_path: Path) -> None:
    penalties = Penalties(denied_seconds=30.0, exempt=())
    with running(tmp_path / "host", tls=False, audit=True, penalties=penalties) as host:
        host.keys["alice"] = bytes(32)
        with pytest.raises(Denied):
            Connection.open(host.profile(), FAST)
        with raw(host) as sock, contextlib.suppress(ConnectionResetError):
            assert not sock.recv(1000)
        [line] = eventually(lambda: host.audited("refused"))
    assert (line["source"], line["outcome"]) == ("127.0.0.1", "penalised")


def test_connection_that_is_refused_at_a_limit_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False, audit=True, limits=Limits(connections=1)) as host, connected(host):
        with pytest.raises(ConnectionFailed), connected(host):
            pass
        [line] = eventually(lambda: host.audited("refused"))
        assert (line["source"], line["outcome"], line["limit"]) == ("127.0.0.1", "refused-at-limit", "connections")


def test_user_who_is_removed_is_told_to_have_been_dismissed(host: Host) -> None:
    host.add_user("bob")
    with connected(host, "bob") as live:
        host.accounts.remove("bob")
        assert live.channel.receive(silence_seconds=10) is None
    ended(host)
    assert [line["outcome"] for line in host.audited("session-end")] == ["dismissed"]


def test_every_verb_that_changes_or_reads_a_file_has_an_event() -> None:
    quiet = {
        "part",
        "abort",
        "ls",
        "stat",
        "digest",
        "times",
        "df",
        "commands",
        "ping",
        "begin",
        "operations",
        "events",
        "receipt",
    }
    named = {str(kind.__struct_config__.tag) for kind in EVENTS}
    assert {str(kind.__struct_config__.tag) for kind in VERBS} - named == quiet


# ------------------------------------------------------------------ what was acknowledged has its line


def test_put_that_is_acknowledged_has_its_line_already(host: Host) -> None:
    with connected(host) as live:
        for number in range(3):
            put_small(live, f"f{number}", b"x")
            replies(live, 1)
            assert len(host.audited("put")) == number + 1
        assert alive(live)


@pytest.mark.slow
def test_lines_of_several_workers_do_not_mix(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False, audit=True)
    settings = '[log]\naudit = "audit.jsonl"\n'
    (tmp_path / "source").mkdir()
    names = [f"{number:03}-" + "n" * 200 for number in range(400)]
    for name in names:
        (tmp_path / "source" / name).write_bytes(name.encode())
    with Daemon(host, "workers = 3\n" + settings) as daemon:

        def put(number: int) -> None:
            patient = Transfer(stall_seconds=100, connect_seconds=100, streams=1)  # what is sent again has a line again
            with host.client(transfer=patient) as client:
                assert client.put_tree(tmp_path / "source", f"t{number}").files == len(names)

        threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        daemon.signal()
        assert daemon.wait() == 0
    puts = sorted((line["path"], line["bytes"], line["digest"]) for line in host.audited("put"))
    assert puts == sorted((f"t{n}/{name}", 204, md5(name.encode())) for n in range(4) for name in names)
    assert stat.S_IMODE((host.folder / "audit.jsonl").stat().st_mode) == 0o600


# ------------------------------------------------------------------ nothing forged, nothing secret


@pytest.mark.parametrize("name", ['a","outcome":"ok', "a\\", "a b=c", "é", "\u202egpj.exe"])
def test_name_cannot_forge_a_line(host: Host, name: str) -> None:
    with connected(host) as live:
        live.channel.send(GetRequest(id=live.next_id(), path=name))
        replies(live, 1)
    ended(host)
    [line] = host.audited("get")
    assert line["outcome"] in (NotFound.code, InvalidPath.code) and line["user"] == "alice"
    assert line["path"] == ("\\u202egpj.exe" if name.startswith("\u202e") else name)


@pytest.mark.parametrize("name", ["a\nb", "../" * 20_000, "a\x1b[2J", "\x9b31m"])
def test_illegal_name_is_told_as_one_short_printable_line(host: Host, name: str) -> None:
    with connected(host) as live:
        live.channel.stream.send(framed({"cmd": "get", "id": 1, "path": name}))
        assert live.channel.stream.receive_header(65536)
    ended(host)
    [line] = [line for line in host.audited() if line["outcome"] not in ("ok", "connection-lost")]
    assert all(len(text) <= 6 * MOST_CHARACTERS and text.isprintable() for text in line.values() if type(text) is str)


def framed(header: dict[str, Any]) -> bytes:
    return frame(json.dumps(header).encode())


def test_name_that_is_not_utf8_is_told_readably(host: Host) -> None:
    (host.root / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    with connected(host) as live:
        live.channel.stream.send(framed({"cmd": "get", "id": 1, "path_b64": "Y2Fm6Q"}))
        live.channel.stream.send(framed({"cmd": "get", "id": 2, "path_b64": "Y2Fm6R"}))
        assert live.channel.stream.receive_header(65536)
    ended(host)
    assert host.audited("get")[0]["path"] == "caf\\udce9"


def test_no_secret_is_in_the_trail_or_the_log(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", audit=True)
    with Daemon(host, '[log]\nlevel = "debug"\naudit = "audit.jsonl"\n') as daemon:
        (tmp_path / "f").write_bytes(b"what is in the file")
        with host.client() as client:
            client.put(tmp_path / "f", "f")
            with pytest.raises(FtpyError):
                client.stat(f"ftpy1.{'A' * 40}.{'0' * 8}")
        right, host.keys["alice"] = host.keys["alice"], bytes(range(32))
        with pytest.raises(Denied):
            Connection.open(host.profile(), FAST)
        wrong = host.profile().key
        host.keys["alice"] = right
        daemon.signal()
        assert daemon.wait() == 0
    written = (host.folder / "audit.jsonl").read_text() + daemon.log
    assert host.audited("refused") and host.audited("put")
    [user] = json.loads((host.folder / "users.json").read_text())["users"]
    for secret in (host.profile().key, right.hex(), wrong, user["stored_key"], user["server_key"]):
        assert secret not in written
    assert "A" * 40 not in written and "what is in the file" not in written and "PRIVATE KEY" not in written


# ------------------------------------------------------------------ the file


def test_reopen_goes_on_in_a_new_file_after_the_old_one_was_renamed(host: Host) -> None:
    file, old = host.folder / "audit.jsonl", host.folder / "audit.jsonl.1"
    with connected(host):
        eventually(lambda: host.audited("login"))
        file.rename(old)
        assert host.service is not None
        host.service.audit.reopen(str(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ended(host)
    assert [json.loads(line)["event"] for line in old.read_text().splitlines()] == ["login"]
    assert [line["event"] for line in host.audited()] == ["session-end"]


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_goes_on_in_a_new_file(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False, audit=True)
    file, old = host.folder / "audit.jsonl", host.folder / "old"
    with Daemon(host, f'workers = {workers}\n[log]\naudit = "audit.jsonl"\n') as daemon:
        with connected(host):
            eventually(lambda: host.audited("login"))
            file.rename(old)
            daemon.signal(signal.SIGHUP)
            eventually(file.exists)
            eventually(lambda: _nobody_writes_to(old, daemon))
        eventually(lambda: host.audited("session-end"))
    assert len(old.read_text().splitlines()) == 1


def _nobody_writes_to(file: Path, daemon: Daemon) -> bool:
    assert daemon.process is not None
    pid = daemon.process.pid
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return all(str(file) not in links(one).values() for one in pids)


def test_reopen_keeps_the_old_file_where_the_new_one_cannot_be(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    file = host.folder / "audit.jsonl"
    with connected(host):
        eventually(lambda: host.audited("login"))
        file.rename(host.folder / "old")
        file.mkdir()
        assert host.service is not None
        logging.getLogger("ftpy").propagate = True
        host.service.audit.reopen(str(file))
        assert [record.event for record in caplog.records] == ["audit-failed"]  # type: ignore[attr-defined]
    ended(host)
    assert len((host.folder / "old").read_text().splitlines()) == 2


def _readable(path: Path) -> None:
    path.touch()
    path.chmod(0o640)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_readable, "it holds who did what and others can read it"),
        (lambda path: os.mkfifo(path, 0o600), "No such device|not a regular file"),
        (lambda path: path.mkdir(), "cannot be written"),
        (lambda path: path.symlink_to("/dev/null"), "cannot be written"),
    ],
    ids=["readable", "fifo", "folder", "link"],
)
def test_file_is_refused_that_others_read_or_that_is_none(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / "audit"
    make(path)
    for opening in (Audit, check_audit):
        with pytest.raises(ConfigError, match=reason):
            opening(str(path))


def test_file_below_a_served_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('root = "files"\nlisten = ["127.0.0.1:1"]\n[log]\naudit = "files/audit"\n')
    with pytest.raises(ConfigError, match=r"`log.audit` lies below `root`"):
        load_server_config(tmp_path / "server.toml")
    (tmp_path / "server.toml").write_text('root = "files"\nlisten = ["127.0.0.1:1"]\n[log]\naudit = "own/audit"\n')
    config: ServerConfig = load_server_config(tmp_path / "server.toml")
    assert config.log.audit == str(tmp_path / "own" / "audit")
    assert exposed_by(config, str(tmp_path / "own"), None) == "log.audit"


def test_check_does_not_make_the_file(tmp_path: Path) -> None:
    check_audit(str(tmp_path / "audit"))
    assert not (tmp_path / "audit").exists()
    with pytest.raises(ConfigError, match="cannot be made there"):
        check_audit(str(tmp_path / "no" / "audit"))


def test_full_disk_loses_lines_but_no_service_and_the_log_counts_them(tmp_path: Path) -> None:
    """A file may not grow beyond 64 KiB there, and the trail has some bytes less to go."""
    host = Host(tmp_path / "host", tls=False, audit=True)
    file = host.folder / "audit.jsonl"
    file.touch(0o600)
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    with Daemon(host, '[log]\naudit = "audit.jsonl"\n', before=before) as daemon:
        with connected(host) as live:
            eventually(lambda: host.audited("login"))
            os.truncate(file, 65536 - 30)
            for number in range(3):
                put_small(live, f"f{number}", b"x")
                replies(live, 1)
            assert daemon.log.count("audit-failed") == 1
            os.truncate(file, 0)
            put_small(live, "last", b"x")
            replies(live, 1)
            assert alive(live)
        daemon.signal()
        assert daemon.wait() == 0
    assert "lost=1" in daemon.log and "audit-written-again" in daemon.log and "lost=3" in daemon.log
    assert file.read_text()[0] == "\n"  # half a line may stand before it
    [put] = [json.loads(line) for line in file.read_text().split("\n") if '"put"' in line]
    assert put["path"] == "last"


# ------------------------------------------------------------------ trails and acts


@contextlib.contextmanager
def trail(tmp_path: Path) -> Iterator[Trail]:
    audit = Audit(str(tmp_path / "audit"))
    try:
        yield Trail(audit, user="alice", source="s")
    finally:
        audit.close()


def lines_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]


def test_act_is_told_once_however_often_it_ends(tmp_path: Path) -> None:
    with trail(tmp_path) as kept:
        act = Act(kept, GetRequest(id=1, path="f"))
        act.done(3)
        act.failed(NotFound())
        act.done(4)
        kept.flush()
    assert [told(line, "bytes") for line in lines_of(tmp_path)] == [{"event": "get", "outcome": "ok", "bytes": 3}]


def test_lines_are_kept_back_but_not_too_many(tmp_path: Path) -> None:
    with trail(tmp_path) as kept:
        for number in range(MOST_LINES - 1):
            Act(kept, GetRequest(id=1, path=f"f{number}")).done(number)
        assert not lines_of(tmp_path)
        Act(kept, GetRequest(id=1, path="last")).done(0)
        assert len(lines_of(tmp_path)) == MOST_LINES


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (NotFound(), "not-found"),
        (Stalled(), "stalled"),
        (ConnectionFailed(), "connection-failed"),
        (Denied(), "denied"),
        (ProtocolError("x"), "protocol-error"),
        (MemoryError(), "memory-error"),
    ],
)
def test_outcome_is_the_code_or_the_name(error: BaseException, word: str) -> None:
    assert outcome_of(error) == word


def test_log_has_the_same_lines_without_digests_and_says_error_for_what_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("ftpy").propagate = True
    caplog.set_level(logging.INFO, "ftpy")
    request: Request = PutRequest(id=1, path="f", mtime_ns=0)
    with trail(tmp_path) as kept:
        Act(kept, request).done(3, KnownDigest("md5", "0" * 32))
        Act(kept, request).failed(NotFound("gone"))
        Act(kept, request).failed(ConnectionFailed("lost"))
        kept.flush()
    put, refused = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert put.pop("seconds") >= 0 and put == {"user": "alice", "source": "s", "path": "f", "bytes": 3}
    assert (refused["verb"], refused["error"], refused["reason"]) == ("put", "not-found", "gone")
    assert [line["outcome"] for line in lines_of(tmp_path)] == [OK, "not-found", "connection-failed"]
