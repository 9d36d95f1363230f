"""The server process: where it listens, whom it lets in, how it stops; in this process and as a real one."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from ftpy import transport
from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.errors import Busy, ConfigError, ConnectionFailed, Denied, NotFound
from ftpy.server.accepting import Server
from ftpy.server.accounts import Accounts
from ftpy.server.connection import RequestHandler
from ftpy.server.server import Service
from ftpy.storage.positional import read_at
from ftpy.wire.bases import FailureReply
from ftpy.wire.fields import Trailer, digest_of
from ftpy.wire.messages import CommitRequest, PartReply, PartRequest, PutRequest, StatReply, StatRequest, UploadReply
from tests.rig import AS_ROOT, ENVIRONMENT, FAST, Daemon, Fault, Host, Proxy, eventually, held_port, running

MIB = 1024 * 1024
ONCE = Transfer(stall_seconds=5, connect_seconds=5, retries=0)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def dial(host: Host) -> socket.socket:
    name, _, port = host.address.rpartition(":")
    return socket.create_connection((name.strip("[]"), int(port)), timeout=10)


@contextlib.contextmanager
def connected(host: Host, user: str = "alice", transfer: Transfer = ONCE) -> Iterator[Connection]:
    connection = Connection.open(host.profile(user), transfer)
    try:
        yield connection
    finally:
        connection.close()


def served(host: Host) -> bool:
    """Whether a fresh client is served now."""
    with host.client(transfer=ONCE) as client:
        return client.stat("").type == "directory"


def refused(host: Host) -> bool:
    """Whether a fresh connection is closed unheard."""
    try:
        with connected(host):
            return False
    except ConnectionFailed:
        return True


def connections(host: Host) -> int:
    assert host.service is not None
    return host.service.admission.connections


# ------------------------------------------------------------------ who waits and who does not


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_silent_strangers_delay_nobody_and_are_gone_in_time(tmp_path: Path, tls: bool) -> None:
    with running(tmp_path / "host", tls=tls, limits=Limits(handshake_seconds=3)) as host:
        begin = time.monotonic()
        silent = [dial(host) for _ in range(20)]
        assert served(host) and served(host)
        assert time.monotonic() - begin < 3
        for sock in silent:
            assert sock.recv(1) == b""
            sock.close()
        assert 2.9 < time.monotonic() - begin < 10
        eventually(lambda: connections(host) == 0)


def reset(live: Connection) -> None:
    live.channel.stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    live.channel.stream._sock.close()


def reset_in_a_body(live: Connection) -> None:
    live.channel.send(PutRequest(id=live.next_id(), path="f", file_size=9, length=9, mtime_ns=0))
    live.channel.send_body(b"half")
    live.channel.flush()
    reset(live)


def ask_for_nothing(live: Connection) -> None:
    with pytest.raises(NotFound):
        live.call(StatRequest(id=live.next_id(), path="nothing"), StatReply)


def send_noise(live: Connection) -> None:
    live.channel.stream.send(bytes(100))
    assert isinstance(live.channel.receive(), FailureReply)


def handlers() -> list[weakref.ref[RequestHandler]]:
    """All that there are in memory."""
    return [weakref.ref(found) for found in gc.get_objects() if isinstance(found, RequestHandler)]


ENDINGS = [Connection.close, reset, reset_in_a_body, ask_for_nothing, send_noise]


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
def test_an_ended_session_is_freed_without_the_collector(
    tmp_path: Path, tls: bool, end: Callable[[Connection], None]
) -> None:
    with running(tmp_path / "host", tls=tls) as host:
        assert served(host)
        eventually(lambda: connections(host) == 0)
        gc.collect()
        gc.disable()
        try:
            with connected(host) as live:
                live.call(StatRequest(id=live.next_id(), path=""), StatReply)
                (session,) = eventually(lambda: len(found := handlers()) == 1 and found)
                end(live)
            eventually(lambda: session() is None)
        finally:
            gc.enable()


@pytest.mark.parametrize(
    "limits", [Limits(connections=3), Limits(connections_per_address=3)], ids=["in all", "per address"]
)
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_no_more_than_the_limit_are_let_in_and_places_are_given_back(tmp_path: Path, limits: Limits, tls: bool) -> None:
    with running(tmp_path / "host", tls=tls, limits=limits) as host, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(host)).channel.stream._sock for _ in range(3)]
        eventually(lambda: connections(host) == 3)
        for _ in range(3):
            assert refused(host)
        held[0].close()
        eventually(lambda: connections(host) == 2)
        assert served(host)


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_silent_strangers_lock_nobody_out(tmp_path: Path, tls: bool) -> None:
    limits = Limits(connections_unauthenticated=3, handshake_seconds=60)
    with running(tmp_path / "host", tls=tls, limits=limits) as host, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(dial(host)) for _ in range(10)]
        assert served(host) and served(host)
        eventually(lambda: len(select.select(silent, [], [], 0)[0]) >= 7)
        eventually(lambda: connections(host) <= 3)


def test_who_had_to_make_room_while_its_socket_changed_hands_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is broken off then is a socket that TLS has already taken over."""
    wrap, break_off, ended = transport.tls.wrap, Service.break_off, threading.Event()

    def breaking_off(service: Service, stranger: int) -> None:
        break_off(service, stranger)
        ended.set()

    def crowded(*arguments: Any, **options: Any) -> Any:
        wrapped = wrap(*arguments, **options)
        if not ended.is_set():
            second.append(dial(host))
            assert ended.wait(10)
        return wrapped

    second: list[socket.socket] = []
    limits = Limits(connections_unauthenticated=1, handshake_seconds=60)
    monkeypatch.setattr(Service, "break_off", breaking_off)
    monkeypatch.setattr(transport.tls, "wrap", crowded)
    with running(tmp_path / "host", limits=limits) as host:
        with dial(host) as first:
            assert first.recv(1) == b""
        second[0].close()


def test_who_had_to_make_room_while_it_authenticated_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it cannot be broken off: its thread may not have begun when its place goes."""
    monkeypatch.setattr(Service, "break_off", lambda *_: None)
    lookup = Accounts.lookup

    def crowded(accounts: Accounts, name: str) -> object:
        with dial(host):
            eventually(lambda: connections(host) == 2)
            return lookup(accounts, name)

    with running(tmp_path / "host", tls=False, limits=Limits(connections_unauthenticated=1)) as host:
        monkeypatch.setattr(Accounts, "lookup", crowded)
        with pytest.raises(ConnectionFailed):
            Connection.open(host.profile(), ONCE)
        monkeypatch.setattr(Accounts, "lookup", lookup)
        eventually(lambda: connections(host) == 0)
        assert served(host)


def test_who_has_authenticated_takes_no_place_of_a_stranger(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False, limits=Limits(connections_unauthenticated=1)) as host:
        with connected(host), connected(host):
            assert served(host)
        for _ in range(3):  # nor does one who was refused
            host.keys["ghost"] = bytes(32)
            with pytest.raises(Denied):
                Connection.open(host.profile("ghost"), ONCE)
            eventually(lambda: connections(host) == 0)
        assert served(host)


# ------------------------------------------------------------------ where it listens


def test_restart_takes_the_same_address_at_once(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False) as host:
        address = host.address
        for _ in range(3):
            with connected(host) as live:
                assert host.stop()  # the server closes first: its port has connections that linger
                assert live.channel.receive() is None
                host.start()
                assert host.address == address and served(host)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address ::1")
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_ipv6_is_served_and_logged_in_brackets(tmp_path: Path, tls: bool) -> None:
    with running(tmp_path / "host", tls=tls, listen="[::1]:0") as host:
        assert host.address.startswith("[::1]:") and served(host)


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_unix_socket_is_served_to_its_owner_alone_and_removed_at_the_end(tmp_path: Path, tls: bool) -> None:
    path = tmp_path / "socket"
    with running(tmp_path / "host", tls=tls, listen=f"unix:{path}") as host:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert served(host)
        with host.client() as client:
            (tmp_path / "f").write_bytes(bytes(3 * MIB))
            assert client.put(tmp_path / "f", "f").size == 3 * MIB
            assert client.get("f", tmp_path / "g").size == 3 * MIB
    assert not path.exists()


def test_a_unix_socket_is_a_settings_error_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")  # Python on Windows
    with pytest.raises(ConfigError, match=r"cannot listen on unix:.*no Unix sockets"):
        Host(tmp_path / "host", tls=False, listen=f"unix:{tmp_path / 'socket'}").start()


def test_an_address_that_is_taken_is_a_settings_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for listen in ("127.0.0.1:0", f"unix:{path}"):
        with running(tmp_path / f"first{len(listen)}", tls=False, listen=listen) as first:
            second = Host(tmp_path / f"second{len(listen)}", tls=False, listen=first.address)
            with pytest.raises(ConfigError, match=f"cannot listen on {first.address}: "):
                second.start()
            assert served(first)


def test_what_is_no_socket_is_not_removed_for_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="cannot listen"):
        Host(tmp_path / "host", tls=False, listen=f"unix:{tmp_path / 'file'}").start()
    assert (tmp_path / "file").read_text() == "precious"


def test_one_address_that_fails_leaves_none_open(tmp_path: Path) -> None:
    import msgspec

    with running(tmp_path / "first", tls=False) as first:
        host = Host(tmp_path / "second", tls=False)
        path = tmp_path / "socket"
        config = msgspec.structs.replace(host.config, listen=[f"unix:{path}", first.address])
        with pytest.raises(ConfigError):
            Service(config).start()
        assert not path.exists() and served(first)


def test_several_addresses_are_all_served_and_all_stopped(tmp_path: Path) -> None:
    import msgspec

    host = Host(tmp_path / "host", tls=False)
    listen = [*(f"127.0.0.1:{held_port(host)}" for _ in range(2)), f"unix:{tmp_path / 'socket'}"]
    service = Service(msgspec.structs.replace(host.config, listen=listen))
    addresses = [str(address) for address in service.start()]
    for address in addresses:
        with host.client(address=address, transfer=ONCE) as client:
            assert client.stat("").type == "directory"
    assert service.stop()
    for address in addresses:
        with pytest.raises(ConnectionFailed):
            Connection.open(host.profile(address=address), ONCE)


def test_a_root_or_certificate_that_cannot_be_used_is_a_settings_error(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    host.root.rmdir()
    with pytest.raises(ConfigError, match=r"root .* cannot be served"):
        host.start()
    host.root.mkdir()
    (host.folder / "private_key.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="cannot be used"):
        host.start()


# ------------------------------------------------------------------ how it stops


def test_a_server_that_is_stopped_before_it_accepts_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Server.serve

    def late(server: Server) -> None:
        assert server.service.draining.wait(30)
        accept(server)

    monkeypatch.setattr(Server, "serve", late)
    host = Host(tmp_path / "host", tls=False)
    host.start()
    assert host.stop()


def test_idle_sessions_and_strangers_end_at_once_when_it_stops(tmp_path: Path) -> None:
    for tls in (True, False):
        with running(tmp_path / f"host{tls}", tls=tls) as host, connected(host) as idle, dial(host) as silent:
            eventually(lambda host=host: connections(host) == 2)
            begin = time.monotonic()
            assert host.stop()
            assert time.monotonic() - begin < 6
            assert idle.channel.receive() is None
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""


def test_a_server_that_drains_begins_no_upload_and_finishes_the_one_that_runs(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.start()
    with connected(host) as live:
        put = PutRequest(id=live.next_id(), path="f", file_size=9 * MIB, mtime_ns=0)
        live.call(put, UploadReply)
        stopping = threading.Thread(target=host.stop)
        stopping.start()
        eventually(lambda: host.address and not _accepts(host))
        assert live.call(StatRequest(id=live.next_id()), StatReply).entry.type == "directory"
        with pytest.raises(Exception, match="shutting down"):
            live.call(PutRequest(id=live.next_id(), path="g", file_size=9 * MIB, mtime_ns=0), UploadReply)
    stopping.join(10)
    assert not stopping.is_alive() and len(host.uploads) == 1


def test_a_commit_that_hashes_is_interrupted_when_the_time_to_drain_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_read = threading.Event()

    def slowly(fd: int, offset: int, view: memoryview) -> int:
        slow_read.set()
        time.sleep(1)  # a slow disk: the second part would take eight seconds and more
        return read_at(fd, offset, view[:MIB])

    monkeypatch.setattr("ftpy.storage.upload.read_at", slowly)
    host = Host(tmp_path / "host", tls=False, limits=Limits(drain_seconds=0.2))
    host.start()
    body, size = bytes(8 * MIB), 16 * MIB
    with connected(host) as live:
        upload = live.call(PutRequest(id=live.next_id(), path="f", file_size=size, mtime_ns=0), UploadReply).upload
        for number in (1, 0):  # out of order: the first of them is read again to be hashed
            live.channel.send(PartRequest(id=live.next_id(), upload=upload, part=number, length=len(body)))
            live.channel.send_body(body)
            live.channel.send(Trailer(blake3=blake3(body).hexdigest()))
            live.wait(PartReply)
        digest = digest_of("md5", hashlib.md5(bytes(size)).hexdigest())
        live.channel.send(CommitRequest(id=live.next_id(), upload=upload, digest=digest))
        live.channel.flush()
        assert slow_read.wait(5)
        begin = time.monotonic()
        assert host.stop()
        assert time.monotonic() - begin < 4
    assert len(host.uploads) == 1 and not (host.root / "f").exists()


def test_what_is_left_hanging_at_the_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hangs.set()
        goes_on.wait(30)

    monkeypatch.setattr("ftpy.storage.local.LocalStorage.stat", hang)  # a dead disk
    monkeypatch.setattr("ftpy.server.server.LAST_SECONDS", 0.2)
    host = Host(tmp_path / "host", tls=False, limits=Limits(drain_seconds=0.2))
    host.start()
    with connected(host) as live:
        live.channel.send(StatRequest(id=live.next_id(), path="d/f"))
        live.channel.flush()
        assert hangs.wait(10) and host.service is not None
        service = host.service
        assert not host.stop()
        (line,) = [record.fields for record in caplog.records if getattr(record, "event", "") == "left-hanging"]
        assert line == {"session": "1", "user": "alice", "state": "stat", "path": "d/f"}
        goes_on.set()
        eventually(lambda: not service._handlers)
        service.close()


def _accepts(host: Host) -> bool:
    try:
        dial(host).close()
    except OSError:
        return False
    return True


# ------------------------------------------------------------------ as a process


class Put:
    """A client's put in a thread, over a line of some ``mib_per_second``."""

    def __init__(self, host: Host, source: Path, mib_per_second: float) -> None:
        self.error: BaseException | None = None
        slow = Fault(slice_bytes=256 * 1024, pause_seconds=0.25 / mib_per_second)
        self.proxy = Proxy(host.address, (slow, Fault()))
        self._host, self._source = host, source
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._host.client(address=self.proxy.address, transfer=ONCE) as client:
                client.put(self._source, "large")
        except BaseException as error:
            self.error = error

    def wait(self) -> BaseException | None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.proxy.close()
        return self.error


@pytest.mark.slow
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_sigterm_lets_a_large_put_finish_and_exits_0(tmp_path: Path, tls: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MIB) * 24)
    host = Host(tmp_path / "host", tls=tls)
    with Daemon(host, "[limits]\ndrain_seconds = 15\n") as daemon, connected(host) as idle:
        put = Put(host, source, mib_per_second=6)
        eventually(lambda: put.proxy.passed[0] > 9 * MIB)
        daemon.signal()
        assert idle.channel.receive() is None  # who only waits is not waited for
        eventually(lambda: not _accepts(host))
        assert put.proxy.passed[0] < 24 * MIB
        assert put.wait() is None
        assert daemon.wait() == 0
    assert (host.root / "large").read_bytes() == source.read_bytes() and host.uploads == []
    assert "stopped all_ended=true" in daemon.log and "Traceback" not in daemon.log


@pytest.mark.slow
def test_sigterm_cuts_off_what_does_not_finish_in_time_and_it_can_be_resumed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MIB) * 40)
    host = Host(tmp_path / "host")
    with Daemon(host, "[limits]\ndrain_seconds = 0.5\n") as daemon:
        put = Put(host, source, mib_per_second=8)
        eventually(lambda: put.proxy.passed[0] > 18 * MIB)
        daemon.signal()
        begin = time.monotonic()
        assert daemon.wait() == 0
        assert time.monotonic() - begin < 5
        assert isinstance(put.wait(), ConnectionFailed)
        assert not (host.root / "large").exists() and len(host.uploads) == 1
        daemon.start()
        with host.client() as client:
            assert client.put(source, "large").resumed >= 8 * MIB
        assert (host.root / "large").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, first: signal.Signals) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, "[limits]\ndrain_seconds = 60\n") as daemon, connected(host) as live:
        live.call(PutRequest(id=live.next_id(), path="f", file_size=9 * MIB, mtime_ns=0), UploadReply)
        daemon.signal(first)
        eventually(lambda: "draining" in daemon.log)
        assert daemon.process is not None and daemon.process.poll() is None
        daemon.signal()
        begin = time.monotonic()
        assert daemon.wait() == -signal.SIGTERM
        assert time.monotonic() - begin < 10


def test_a_silent_stranger_does_not_hold_up_the_end(tmp_path: Path) -> None:
    for tls in (True, False):
        host = Host(tmp_path / f"host{tls}", tls=tls)
        with Daemon(host) as daemon, dial(host):
            assert served(host)  # so the stranger before it was accepted
            daemon.signal()
            begin = time.monotonic()
            assert daemon.wait() == 0
            assert time.monotonic() - begin < 8


def test_a_socket_file_left_by_a_kill_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    host = Host(tmp_path / "host", tls=False, listen=f"unix:{path}")
    with Daemon(host) as daemon:
        assert served(host)
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        assert path.exists()
        daemon.start()
        assert served(host) and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.slow
def test_each_log_line_is_one_json_object_and_none_holds_a_secret(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    host.add_user("bob")
    with Daemon(host, '[limits]\nconnections_per_address = 3\n[log]\nformat = "json"\nlevel = "debug"\n') as daemon:
        session(host, tmp_path)
        daemon.signal()
        assert daemon.wait() == 0
    lines = [json.loads(line) for line in daemon.log.splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] in ("sandbox", "listening") and "draining" in events and events[-1] == "stopped"
    assert {"login", "put", "get", "refused", "login-denied", "connection-ended", "refused-at-limit"} <= set(events)
    assert "users-read" in events and "session-ended" in events
    assert all({"time", "level", "event"} <= set(line) for line in lines)
    assert lines[events.index("put")]["path"] == "a name"
    check_no_secret(host, daemon)


@pytest.mark.slow
def test_text_log_lines_are_one_event_each_and_none_holds_a_secret(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("bob")
    with Daemon(host, "[limits]\nconnections_per_address = 3\n") as daemon:
        session(host, tmp_path)
        daemon.signal()
        assert daemon.wait() == 0
    for line in daemon.log.splitlines():
        moment, level, *_ = line.split()
        assert time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S") and level in ("INFO", "WARNING", "ERROR")
    assert "put user=alice source=127.0.0.1:" in daemon.log and 'path="a name"' in daemon.log
    check_no_secret(host, daemon)


def session(host: Host, folder: Path) -> None:
    """Something of everything that is logged."""
    (folder / "source").write_bytes(b"what is in the file")
    with host.client() as client:
        client.put(folder / "source", "a name")
        client.get("a name", folder / "target", force=True)
        with pytest.raises(Exception, match="no such"):
            client.stat("nothing")
    key = host.keys["alice"]
    host.keys["alice"] = bytes(32)
    with pytest.raises(Denied):
        Connection.open(host.profile(), ONCE)
    host.keys["alice"] = key
    with dial(host) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(OSError):  # it may be gone already
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1000):
                pass
    with contextlib.ExitStack() as stack:
        bob = eventually(lambda: _try(stack, host, "bob"))
        for _ in range(2):
            eventually(lambda: _try(stack, host, "alice"))
        assert refused(host)
        host.accounts.remove("bob")
        assert bob.channel.receive(silence_seconds=5) is None


def _try(stack: contextlib.ExitStack, host: Host, user: str) -> Connection | None:
    """A connection that lasts; None while those that just ended still count."""
    try:
        return stack.enter_context(connected(host, user))
    except ConnectionFailed:
        return None


def check_no_secret(host: Host, daemon: Daemon) -> None:
    users = json.loads((host.folder / "users.json").read_text())
    secrets = [users["decoy_key"], "what is in the file", "PRIVATE KEY"]
    secrets += [user[name] for user in users["users"] for name in ("stored_key", "server_key")]
    secrets += [text for key in host.keys.values() for text in (key.hex(), repr(key))]
    secrets += [host.profile(user).key for user in host.keys]
    for secret in secrets:
        assert secret not in daemon.log
    assert "Traceback" not in daemon.log


@pytest.mark.slow
def test_users_who_are_removed_rotated_or_added_by_the_command_count_at_once(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host) as daemon, connected(host) as live:
        old = host.profile()
        config = ["-c", str(host.folder / "server.toml")]
        token = command("user", "rotate", "alice", *config)
        assert token.startswith("ftpy1.")
        with pytest.raises(Denied):
            Connection.open(old, ONCE)
        assert live.channel.receive(silence_seconds=5) is None
        from ftpy.config.client import Profile
        from ftpy.wire.token import PairingToken

        parsed = PairingToken.from_text(command("user", "add", "carol", *config))
        carol = Profile(
            addresses=parsed.addresses, user="carol", key=parsed.key, certificate_sha256=parsed.certificate_sha256
        )
        connection = Connection.open(carol, ONCE)
        command("user", "remove", "carol", *config)
        with pytest.raises(Denied):
            Connection.open(carol, ONCE)
        assert connection.channel.receive(silence_seconds=5) is None
        connection.close()
        assert daemon.process is not None and daemon.process.poll() is None


def command(*arguments: str) -> str:
    """Run ``ftpy-server``: its standard output."""
    return subprocess.run(
        [sys.executable, "-c", "from ftpy.cli.server import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
        timeout=30,
    ).stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('listen = ["0.0.0.0:0"]\ntls = "off"\n', "allow_plaintext"),
        ('listen = ["[::]:0"]\ntls = "off"\n', "allow_plaintext"),
        ('listen = ["127.0.0.1:0", "example.org:7421"]\ntls = "off"\n', "allow_plaintext"),
        ('listen = ["127.0.0.1:0"]\n', "certificate"),
    ],
    ids=["ipv4", "ipv6", "name", "no certificate"],
)
def test_run_refuses_plaintext_that_others_reach_and_a_missing_certificate(
    tmp_path: Path, settings: str, said: str
) -> None:
    host = Host(tmp_path / "host", tls=False)
    (host.folder / "server.toml").write_text(f'root = "files"\nallow_root = {str(AS_ROOT).lower()}\n' + settings)
    ended = subprocess.run(
        [sys.executable, "-c", "from ftpy.cli.server import main; main()", "run", "-c", host.folder / "server.toml"],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=30,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert said in ended.stderr


def test_plaintext_that_others_reach_is_served_where_it_is_allowed(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False, listen="0.0.0.0:0")
    with Daemon(host, "allow_plaintext = true\n"):
        host.address = host.address.replace("0.0.0.0", "127.0.0.1")
        assert served(host)


def test_it_takes_as_many_descriptors_as_it_may_have(tmp_path: Path) -> None:
    before = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))"
    with Daemon(Host(tmp_path / "host", tls=False), before=before) as daemon:
        assert daemon.process is not None
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines()
        assert [line.split()[3:5] for line in limits if line.startswith("Max open files")] == [["512", "512"]]


@pytest.mark.slow
def test_out_of_descriptors_it_does_not_spin_and_serves_again_afterwards(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    before = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))"
    with Daemon(host, "[limits]\nhandshake_seconds = 60\n", before) as daemon, contextlib.ExitStack() as stack:
        assert daemon.process is not None
        live = stack.enter_context(connected(host))
        held = contextlib.ExitStack()
        for _ in range(60):  # those beyond the limit wait in the kernel's queue
            held.enter_context(dial(host))
        eventually(lambda: "accept-failed" in daemon.log)
        before_seconds, begin = cpu_seconds(daemon.process.pid), time.monotonic()
        eventually(lambda: time.monotonic() - begin > 1)
        assert cpu_seconds(daemon.process.pid) - before_seconds < 0.4
        assert daemon.log.count("accept-failed") < 50
        with pytest.raises(Busy):  # who is in is told, and stays
            live.call(PutRequest(id=live.next_id(), path="f", file_size=9 * MIB, mtime_ns=0), UploadReply)
        assert live.call(StatRequest(id=live.next_id()), StatReply).entry.type == "directory"
        held.close()
        eventually(lambda: not refused(host))
        assert served(host)
        (tmp_path / "source").write_bytes(bytes(9 * MIB))
        with host.client() as client:
            assert client.put(tmp_path / "source", "f").size == 9 * MIB
        daemon.signal()
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_many_idle_sessions_delay_nobody(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 200
    if soft < 3 * count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3 * count), hard))
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host) as daemon, contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connected(host, transfer=FAST))
        begin = time.monotonic()
        assert served(host)
        assert time.monotonic() - begin < 3
        daemon.signal()
        assert daemon.wait() == 0
        assert time.monotonic() - begin < 8
