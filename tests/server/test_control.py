"""The control socket: who may ask, what is told, and that it answers whatever the server is busy with."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.errors import ConnectionFailed, NotRunning, UnknownSession
from ftpy.server import control as module
from ftpy.server.audit import MOST_CHARACTERS
from ftpy.server.control import MOST_PEERS, NAME, SPARES, Control
from ftpy.server.desk import Polls
from ftpy.server.listening import bind_private
from ftpy.server.rows import (
    EndRow,
    KickQuestion,
    PenaltyRow,
    RootRow,
    Row,
    ServerRow,
    SessionRow,
    StatusQuestion,
    UploadRow,
    encode,
)
from ftpy.server.status import ask, kick, status
from ftpy.wire.framing import frame
from ftpy.wire.messages import (
    GetReply,
    GetRequest,
    PartReply,
    PartRequest,
    PutRequest,
    StatReply,
    StatRequest,
    UploadReply,
)
from tests.descriptors import descriptors_left
from tests.rig import Daemon, Host, eventually

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
ONCE = Transfer(stall_seconds=10.0, connect_seconds=10.0, retries=0, streams=1)
MIB = 1 << 20
either = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "workers"])


@contextlib.contextmanager
def connected(host: Host, user: str = "alice") -> Iterator[Connection]:
    connection = Connection.open(host.profile(user), ONCE)
    try:
        yield connection
    finally:
        connection.close()


def state(host: Host) -> str:
    return host.config.state


def rows(host: Host, kind: type[Row]) -> list[Row]:
    return [row for row in status(state(host)) if isinstance(row, kind)]


def server(host: Host) -> ServerRow:
    (row,) = rows(host, ServerRow)
    assert isinstance(row, ServerRow)
    return row


def roots(host: Host) -> list[str]:
    return [row.root for row in status(state(host)) if isinstance(row, RootRow)]


def sessions(host: Host) -> list[SessionRow]:
    return [row for row in status(state(host)) if isinstance(row, SessionRow)]


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if NAME in entry.name)


# ------------------------------------------------------------------ what is told


@either
def test_status_tells_of_the_server_and_of_every_session(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("bob", root=str(tmp_path))
    with Daemon(host, f"workers = {workers}\n[limits]\nconnections = 7\n") as daemon, connected(host) as first:
        whole = server(host)
        assert (whole.workers, whole.silent, whole.connections, whole.limit) == (workers, 0, 1, 7)
        assert daemon.process is not None and whole.pid == daemon.process.pid
        assert whole.listening == [host.address] and not whole.draining
        assert roots(host) == [str(host.root), str(tmp_path)]
        assert 0 <= time.time_ns() - whole.since_ns < 120e9
        with connected(host):
            both = eventually(lambda: len(found := sessions(host)) == 2 and found)
            assert len({row.session for row in both}) == 2
            assert [row.user for row in both] == ["alice", "alice"]
            assert both[0].source == "{}:{}".format(*first.channel.stream._sock.getsockname())
            eventually(lambda: {row.state for row in sessions(host)} == {"idle"})


@either
def test_a_session_shows_what_it_moves_and_how_much_of_it(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with open(host.root / "file", "wb") as file:
        file.truncate(64 * MIB)
    with Daemon(host, f"workers = {workers}\n"), connected(host) as put, connected(host) as get:
        upload = put.call(PutRequest(id=put.next_id(), path="new", file_size=20 * MIB, mtime_ns=0), UploadReply)
        put.channel.send(PartRequest(id=put.next_id(), upload=upload.upload, part=0, length=8 * MIB))
        put.channel.send_body(memoryview(bytes(3 * MIB)))
        get.channel.send(GetRequest(id=get.next_id(), path="file"))
        get.wait(GetReply)  # and not a byte of the body is read

        def shown() -> bool:
            put.channel.send_body(b"x")  # it moves all the time
            put.channel.flush()
            found = {row.state: row for row in sessions(host)}
            if set(found) != {"part", "get"}:
                return False
            part, got = found["part"], found["get"]
            # What is asked for counts before all of it has come, by a buffer.
            return (
                (part.path, part.size, got.path, got.size) == ("new", 20 * MIB, "file", 64 * MIB)
                and 3 * MIB <= part.bytes <= 5 * MIB
                and 0 < got.bytes < 64 * MIB
                and got.rate + part.rate > 0
            )

        eventually(shown)


@either
@pytest.mark.parametrize(
    ("request_of", "shown"),
    [
        (b'{"cmd":"%s","id":1,"length":10}' % (b"x" * 65_480), {"state": "x" * MOST_CHARACTERS}),
        (
            b'{"cmd":"put","id":1,"mtime_ns":0,"length":10,"path":"%s"}' % (b"/" * 65_400),
            {"path": "/" * MOST_CHARACTERS},
        ),
        (b'{"cmd":"put","id":1,"mtime_ns":0,"length":10,"path_b64":"_w"}', {"path": "\\udcff"}),
    ],
    ids=["verb", "path", "not-utf-8"],
)
def test_what_a_peer_words_fits_a_row_and_ends_nobody(
    tmp_path: Path, workers: int, request_of: bytes, shown: dict[str, str]
) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n") as daemon, connected(host) as peer:
        peer.channel.stream.send(frame(request_of) + b"12345")  # and the rest of the body does not come

        def told() -> bool:
            return any(shown.items() <= {"state": row.state, "path": row.path}.items() for row in sessions(host))

        eventually(told)
        assert server(host).connections == 1 and "row-left-out" not in daemon.log


def test_a_thousand_roots_are_told(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    many = [str(tmp_path / f"{number:0100}") for number in range(1000)]
    with host.accounts._edited() as users:
        (alice,) = users.values()
        users |= {f"u{n}": msgspec.structs.replace(alice, name=f"u{n}", root=root) for n, root in enumerate(many)}
    with Daemon(host):
        assert roots(host) == [str(host.root), *many]


@either
def test_unfinished_uploads_are_told_whether_anybody_has_them_open_or_not(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    (tmp_path / "own").mkdir()
    host.add_user("bob", root=str(tmp_path / "own"))
    with Daemon(host, f"workers = {workers}\n"):
        for user, path, size in (("alice", "left", 20 * MIB), ("bob", "his", None)):
            with connected(host, user) as live:
                live.call(PutRequest(id=live.next_id(), path=path, file_size=size, mtime_ns=0), UploadReply)
        with connected(host) as live:
            opened = live.call(PutRequest(id=live.next_id(), path="d/open", file_size=9 * MIB, mtime_ns=0), UploadReply)
            part = bytes(8 * MIB)
            live.channel.send(PartRequest(id=live.next_id(), upload=opened.upload, part=0, length=8 * MIB))
            live.channel.send_body(memoryview(part))
            from blake3 import blake3

            live.channel.send_trailer("blake3", blake3(part).hexdigest())
            live.wait(PartReply)
            found = [row for row in rows(host, UploadRow) if isinstance(row, UploadRow)]
        told = {(row.owner, row.path, row.size, row.stored, row.root) for row in found}
        own = str(tmp_path / "own")
        assert told == {
            ("alice", "left", 20 * MIB, 0, str(host.root)),
            ("alice", "d/open", 9 * MIB, 8 * MIB, str(host.root)),
            ("bob", "his", None, 0, own),
        }
        assert all(0 <= row.age_seconds < 60 for row in found)


@either
def test_penalties_are_told(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n[penalties]\nexempt = []\n"):
        name, _, port = host.address.rpartition(":")
        with socket.create_connection((name, int(port)), timeout=10) as stranger:
            stranger.sendall(frame(b"garbage"))
            while stranger.recv(4096):
                pass
        (row,) = eventually(lambda: rows(host, PenaltyRow))
        assert isinstance(row, PenaltyRow) and row.source == "127.0.0.1" and row.seconds > 0


# ------------------------------------------------------------------ kick


@either
def test_kick_ends_a_session_at_once_whatever_it_does_and_no_other(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with open(host.root / "file", "wb") as file:
        file.truncate(64 * MIB)
    with Daemon(host, f"workers = {workers}\n") as daemon, connected(host) as other, connected(host) as live:
        live.channel.send(GetRequest(id=live.next_id(), path="file"))
        live.wait(GetReply)
        (row,) = eventually(lambda: [row for row in sessions(host) if row.state == "get"])
        kick(state(host), row.session)
        eventually(lambda: [one.session for one in sessions(host)] != [] and len(sessions(host)) == 1)
        assert other.call(StatRequest(id=other.next_id()), StatReply).entry.type == "directory"
        line = next(line for line in daemon.log.splitlines() if " session-ended " in line)
        assert f"session={row.session} " in line and 'reason="kicked by the operator"' in line
        with pytest.raises(UnknownSession, match="there is no session"):
            kick(state(host), row.session)


@either
@pytest.mark.parametrize("name", ["0", "1-99", "9-1", "", "x\x1b[1m", "\udcff", "1" * 70_000])
def test_a_session_that_is_not_there_is_told(tmp_path: Path, workers: int, name: str) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n"), pytest.raises(UnknownSession):
        kick(state(host), name)


# ------------------------------------------------------------------ at all times


@either
def test_it_answers_when_the_server_is_full(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n[limits]\nconnections = 1\n") as daemon, connected(host):
        with pytest.raises(ConnectionFailed), connected(host):
            pass
        assert "refused-at-limit" in daemon.log and server(host).connections == 1


@pytest.mark.slow
def test_it_answers_when_there_is_no_descriptor_left(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    before = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))"
    with Daemon(host, "[limits]\nhandshake_seconds = 60\n", before) as daemon, contextlib.ExitStack() as stack:
        name, _, port = host.address.rpartition(":")
        for _ in range(60):
            stack.enter_context(socket.create_connection((name, int(port)), timeout=10))
        eventually(lambda: "accept-failed" in daemon.log)
        for _ in range(20):  # each of them gives back what was spared for it
            found = sessions(host)
            assert found and all(row.state == "login" for row in found)
        kick(state(host), found[0].session)


@either
def test_it_answers_while_the_server_drains(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n[limits]\ndrain_seconds = 60\n") as daemon, connected(host) as live:
        live.call(PutRequest(id=live.next_id(), path="f", file_size=9 * MIB, mtime_ns=0), UploadReply)
        daemon.signal()
        eventually(lambda: server(host).draining)
        (row,) = sessions(host)
        kick(state(host), row.session)
        assert daemon.wait() == 0
        assert names(Path(state(host))) == []
        with pytest.raises(NotRunning, match="no server is running"):
            server(host)


def test_who_is_answered_at_the_last_moment_hears_it(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    before = """
import time
from ftpy.server import desk
answer = desk._answer
def late(*arguments):
    answer(*arguments)
    time.sleep(1)  # by then the server has ended
desk._answer = late
"""
    with Daemon(host, "[limits]\ndrain_seconds = 60\n", before) as daemon, connected(host) as live:
        live.call(PutRequest(id=live.next_id(), path="f", file_size=9 * MIB, mtime_ns=0), UploadReply)
        daemon.signal()
        eventually(lambda: "draining" in daemon.log)
        kick(state(host), "1")
        assert daemon.wait() == 0


def test_a_worker_that_hangs_hides_only_its_own_sessions(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, "workers = 2\n") as daemon, connected(host):
        (row,) = eventually(lambda: sessions(host))
        (pids,) = [line.partition("pids=")[2] for line in daemon.log.splitlines() if " workers pids=" in line]
        hung = [int(pid) for pid in pids.split(",")][int(row.session[0]) % 2]  # the one without the session
        os.kill(hung, signal.SIGSTOP)
        try:
            eventually(lambda: server(host).silent == 1)
            assert [one.session for one in eventually(lambda: sessions(host))] == [row.session]
        finally:
            os.kill(hung, signal.SIGCONT)
        eventually(lambda: server(host).silent == 0)


def test_who_died_is_waited_for_no_longer() -> None:
    polls: Polls[str] = Polls()
    answers: list[tuple[list[Row], int]] = []
    number = polls.begin(["a", "b"], lambda found, silent: answers.append((found, silent)))
    polls.heard("a", number, [EndRow()], last=False)
    polls.heard("a", number, [EndRow(found=False)], last=True)
    polls.heard("a", number, [EndRow()], last=True)  # it has had its last word
    assert answers == []
    polls.left("b")
    polls.heard("b", number, [EndRow()], last=True)
    assert answers == [([EndRow(), EndRow(found=False)], 0)]


# ------------------------------------------------------------------ the socket


def test_the_socket_is_private_from_its_first_moment_on(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            bind_private(made, str(tmp_path / "socket"))
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_socket_that_a_kill_left_is_replaced(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    for _ in range(2):
        with Daemon(host) as daemon:
            assert names(Path(state(host))) == [NAME] and server(host)
            daemon.signal(signal.SIGKILL)
            daemon.wait()
        with pytest.raises(NotRunning):
            server(host)
    assert names(Path(state(host))) == [NAME]


@pytest.mark.parametrize("depth", [1, 6])
def test_a_state_folder_with_a_long_path_has_one_too(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["x" * 60] * depth)
    host = Host(folder / "host", tls=False)
    assert len(state(host)) > 103
    with Daemon(host):
        assert roots(host) == [str(host.root)]


class Served:
    """A control socket served by a thread, for as long as the ``with`` lasts; what is asked has these rows."""

    def __init__(self, folder: Path, rows: Sequence[Row] = ()) -> None:
        self._stop = threading.Event()
        self.selector = selectors.DefaultSelector()
        self.control = Control(
            str(folder),
            self.selector,
            lambda question, reply: reply([*rows, EndRow(found=question == StatusQuestion())]),
        )
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.control.tick()
            for key, events in self.selector.select(0.05):
                key.data(events)
        self.control.close()

    def __enter__(self) -> Served:
        self.thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self.thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert list(self.selector.get_map().values()) == []
        self.selector.close()


def answered(folder: Path) -> bool:
    try:
        return list(ask(str(folder), StatusQuestion())) == [EndRow()]
    except NotRunning:
        return False


def dial(folder: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(10)
    end.connect(str(folder / NAME))
    return end


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")
def test_it_answers_where_another_thread_takes_the_descriptor_that_was_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, taken = os.close, list[int]()
    with Served(tmp_path) as served, socket.socket(socket.AF_UNIX) as end:

        def close_and_lose(fd: int) -> None:
            close(fd)
            if threading.current_thread() is served.thread and len(taken) < SPARES - 1:
                taken.append(os.dup(0))

        eventually(lambda: answered(tmp_path))
        with dial(tmp_path) as first:  # until its end is closed there as well, so that no number becomes free later
            first.sendall(frame(encode(StatusQuestion())))
            while first.recv(1000):
                pass
        end.settimeout(10)
        try:
            with descriptors_left(0), monkeypatch.context() as patched:
                patched.setattr(os, "close", close_and_lose)
                end.connect(str(tmp_path / NAME))
                end.sendall(frame(encode(StatusQuestion())))
                assert end.recv(1000)
        finally:
            assert len(taken) == SPARES - 1
            for fd in taken:
                os.close(fd)
        eventually(lambda: answered(tmp_path))


def test_one_that_is_answered_is_not_taken_until_it_is_free(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[str]:
        return [record.fields["reason"] for record in caplog.records if hasattr(record, "fields")]

    with Served(tmp_path) as first:
        eventually(lambda: answered(tmp_path))
        inode = (tmp_path / NAME).stat().st_ino
        with Served(tmp_path):
            eventually(lambda: said() == ["another server answers there"])
            assert answered(tmp_path) and (tmp_path / NAME).stat().st_ino == inode
            first.stop()
            eventually(lambda: answered(tmp_path))
            assert len(said()) == 1
    assert names(tmp_path) == []


def test_a_row_that_cannot_be_told_is_left_out_and_the_others_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Row] = [RootRow("x" * 70_000), RootRow("\udcff"), RootRow("/srv")]
    with Served(tmp_path, rows):
        eventually(lambda: (tmp_path / NAME).exists())
        assert list(ask(str(tmp_path), StatusQuestion())) == [RootRow("/srv"), EndRow()]
        assert [record.message for record in caplog.records] == ["row-left-out"] * 2
        assert list(ask(str(tmp_path), StatusQuestion())) == [RootRow("/srv"), EndRow()]


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("mine")
    with Served(tmp_path), pytest.raises(NotRunning):
        time.sleep(0.2)
        list(ask(str(tmp_path), StatusQuestion()))
    assert (tmp_path / NAME).read_text() == "mine"


def test_one_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with Served(tmp_path):
        eventually(lambda: answered(tmp_path))
        (tmp_path / NAME).unlink()
        eventually(lambda: answered(tmp_path))


def test_silent_and_slow_peers_hold_nobody_up_and_are_bounded(tmp_path: Path) -> None:
    with Served(tmp_path) as served, contextlib.ExitStack() as stack:
        eventually(lambda: answered(tmp_path))
        silent = [stack.enter_context(dial(tmp_path)) for _ in range(MOST_PEERS)]
        slow = stack.enter_context(dial(tmp_path))
        slow.sendall(frame(encode(KickQuestion("x")))[:3])
        assert answered(tmp_path)
        assert silent[0].recv(1) == b""  # it made room
        assert len(served.control._peers) <= MOST_PEERS


def test_who_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEER_SECONDS", 0.2)
    with Served(tmp_path):
        eventually(lambda: (tmp_path / NAME).exists())
        with dial(tmp_path) as silent:
            assert silent.recv(1) == b""


@pytest.mark.parametrize("said", [b"GET / HTTP/1.0\r\n\r\n", frame(b"{}"), frame(b"\xff" * 9), frame(b"[" * 2000), b""])
def test_who_says_something_else_is_ended(tmp_path: Path, said: bytes) -> None:
    with Served(tmp_path):
        eventually(lambda: (tmp_path / NAME).exists())
        with dial(tmp_path) as odd:
            odd.sendall(said)
            odd.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert odd.recv(1) == b""
        assert answered(tmp_path)


@pytest.mark.skipif(
    not hasattr(socket, "SO_PEERCRED") or os.geteuid() != 0, reason="only root can ask as somebody else"
)
def test_another_user_is_not_answered_even_where_the_mode_would_let_them(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"\0ftpy-test-{os.getpid()}"  # in no folder: nobody's mode keeps anybody out
        listener.bind(name)
        listener.listen()
        for user, allowed in ((0, True), (65534, False)):
            code = f"import os, socket; os.setuid({user}); socket.socket(socket.AF_UNIX).connect({name!r})"
            subprocess.run([sys.executable, "-S", "-c", code], check=True, timeout=30)
            end, _ = listener.accept()
            with end:
                assert module._is_allowed(end) == allowed


def test_who_may_not_open_it_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(ConnectionFailed, match="only the server's own user and root may ask"):
        list(ask(str(tmp_path), StatusQuestion()))
