"""Several worker processes behind one address: what they share, what one's death costs, how they end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import pytest
from blake3 import blake3

from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import ServerConfig, find_fault, worker_count
from ftpy.digests import hexdigest
from ftpy.errors import Busy, ConnectionFailed
from ftpy.server import crew
from ftpy.server.crew import Slot, Worker
from ftpy.server.server import Service
from ftpy.server.worker import Parent
from ftpy.server.workers import Workers
from ftpy.storage.sharing import Link
from ftpy.wire.codec import encode
from ftpy.wire.fields import Trailer, digest_of
from ftpy.wire.framing import frame
from ftpy.wire.handshake import Hello
from ftpy.wire.messages import (
    CommitRequest,
    PartReply,
    PartRequest,
    PutRequest,
    StatReply,
    StatRequest,
    StoredReply,
    UploadReply,
)
from ftpy.wire.spelling import b64encode
from tests.descriptors import descriptors_left
from tests.rig import Daemon, Host, eventually

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")

MIB = 1024 * 1024
ONCE = Transfer(stall_seconds=10, connect_seconds=10, retries=0)
PART = 8 * MIB
MTIME = 1_700_000_000_000_000_000
HELLO = Hello(protocol=1, user="alice", client_nonce=b64encode(bytes(32)), binding="none")


def states(pid: int) -> set[str]:
    """What the threads of a process do, a letter each (proc_pid_stat(5)); none when it is gone."""
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found.add(Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def alive(pid: int) -> bool:
    """Whether it runs; one that is dead and that nobody has waited for does not."""
    return bool(states(pid) - {"Z", "X"})


class Crew(Daemon):
    """A daemon with workers."""

    def __init__(self, host: Host, settings: str = "", *, workers: int = 3, before: str = "") -> None:
        super().__init__(host, f"workers = {workers}\n{settings}", before)
        self.workers: list[int] = []
        """The process ids of the first generation."""

    def start(self, code: str = "from ftpy.cli.server import main; main()") -> None:
        super().start(code)
        assert "worker-died" not in self.log, self.log
        (line,) = [line for line in self.log.splitlines() if " workers pids=" in line]
        self.workers = [int(pid) for pid in line.partition("pids=")[2].split(",")]

    def newest(self) -> list[int]:
        """The process ids of now, the youngest first."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children), reverse=True)

    def connect(self, stack: ExitStack, worker: int, user: str = "alice") -> Connection:
        """A connection that this worker serves, by its number: the others are stopped meanwhile."""
        return stack.enter_context(self.served_by(worker, user))

    @contextlib.contextmanager
    def served_by(self, worker: int, user: str = "alice") -> Iterator[Connection]:
        with self.only(worker):
            connection = Connection.open(self.host.profile(user), ONCE)
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def only(self, worker: int) -> Iterator[None]:
        """Only this worker runs."""
        others = [pid for pid in self.workers if pid != self.workers[worker]]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        for pid in others:
            eventually(lambda pid=pid: states(pid) == {"T"})
        try:
            yield
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    def all_gone(self) -> bool:
        return not any(alive(pid) and self._is_ours(pid) for pid in self.workers)

    def _is_ours(self, pid: int) -> bool:
        """Not a newcomer, of another test, that was given its number."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            return not line or os.fsencode(self._config) in line  # none: it is about to go
        return False

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        print(self.log)  # shown with a test that fails
        eventually(self.all_gone)


def served(connection: Connection) -> bool:
    return connection.call(StatRequest(id=connection.next_id(), path=""), StatReply).entry.type == "directory"


def refused(daemon: Crew, worker: int) -> bool:
    try:
        with daemon.served_by(worker):
            return False
    except ConnectionFailed:
        return True


def open_upload(connection: Connection, size: int) -> UploadReply:
    request = PutRequest(id=connection.next_id(), path="d/large", file_size=size, mtime_ns=MTIME)
    return connection.call(request, UploadReply)


def send_part(connection: Connection, upload: str, number: int, data: bytes) -> None:
    piece = data[number * PART : (number + 1) * PART]
    connection.channel.send(PartRequest(id=connection.next_id(), upload=upload, part=number, length=len(piece)))
    connection.channel.send_body(memoryview(piece))
    connection.channel.send(Trailer(blake3=blake3(piece).hexdigest()))
    connection.wait(PartReply)


def commit(connection: Connection, upload: str, data: bytes) -> StoredReply:
    digest = digest_of("md5", hexdigest("md5", data))
    return connection.call(CommitRequest(id=connection.next_id(), upload=upload, digest=digest), StoredReply)


@pytest.fixture(scope="module")
def data() -> bytes:
    return b"".join(number.to_bytes(8, "big") * (MIB // 8) for number in range(34)) + b"end"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host", tls=False)


# ------------------------------------------------------------------ what they share


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_every_worker_serves_on_the_one_address(tmp_path: Path, tls: bool) -> None:
    with Crew(Host(tmp_path / "host", tls=tls)) as daemon, ExitStack() as stack:
        assert len(set(daemon.workers)) == 3
        connections = [daemon.connect(stack, worker) for worker in (0, 1, 2)]
        assert all(map(served, connections))
        crowd = [stack.enter_context(daemon.host.client(transfer=ONCE)) for _ in range(20)]
        assert {client.stat("").type for client in crowd} == {"directory"}


def test_connections_of_all_workers_count_together(host: Host) -> None:
    with Crew(host, "[limits]\nconnections_per_address = 3\n", workers=2) as daemon, ExitStack() as stack:
        first = daemon.connect(stack, 0)
        for worker in (1, 1):
            daemon.connect(stack, worker)
        assert refused(daemon, 0) and refused(daemon, 1)
        first.close()
        eventually(lambda: not refused(daemon, 1))


def test_a_stranger_makes_room_for_a_newcomer_at_another_worker(host: Host) -> None:
    with Crew(host, "[limits]\nconnections_unauthenticated = 1\n", workers=2) as daemon, ExitStack() as stack:
        name, _, port = host.address.rpartition(":")
        with daemon.only(0):
            stranger = stack.enter_context(socket.create_connection((name, int(port)), timeout=10))
            stranger.sendall(frame(encode(HELLO)))
            assert stranger.recv(4096)  # the challenge: it is at work on this one
        assert served(daemon.connect(stack, 1))
        assert stranger.recv(1) == b""
        eventually(lambda: "stranger-ended" in daemon.log)


def test_what_a_dead_worker_held_of_the_limits_is_free_again(host: Host) -> None:
    with Crew(host, "[limits]\nconnections = 2\n", workers=2) as daemon, ExitStack() as stack:
        for _ in (0, 1):
            daemon.connect(stack, 0)
        assert refused(daemon, 1)
        os.kill(daemon.workers[0], signal.SIGKILL)
        eventually(lambda: "worker-died" in daemon.log)
        with host.client(transfer=ONCE) as client:
            assert client.stat("").type == "directory"


def sessions(daemon: Crew, event: str) -> list[str]:
    return re.findall(rf" {event} .*session=(\S+)", daemon.log)


def test_sessions_of_all_workers_have_names_of_their_own_and_so_have_those_of_a_replaced_one(host: Host) -> None:
    with Crew(host, workers=2) as daemon, ExitStack() as stack:
        for worker in (0, 0, 1):
            assert served(daemon.connect(stack, worker))
        assert sessions(daemon, "login") == ["1-1", "1-2", "2-1"]
        os.kill(daemon.workers[0], signal.SIGKILL)
        eventually(lambda: "worker-died" in daemon.log)
        os.kill(daemon.workers[1], signal.SIGSTOP)
        eventually(lambda: states(daemon.workers[1]) == {"T"})
        with host.client(transfer=ONCE) as client:
            assert client.stat("").type == "directory"
        os.kill(daemon.workers[1], signal.SIGCONT)
        assert sessions(daemon, "login")[-1] == "3-1"


def test_a_removed_users_sessions_end_within_a_second_at_every_worker(host: Host) -> None:
    took = []
    with Crew(host, workers=2) as daemon:
        for name in ("bob", "carol", "dave"):
            host.add_user(name)
            with ExitStack() as stack:
                lives = [daemon.connect(stack, worker, name) for worker in (0, 1)]
                host.accounts.remove(name)
                begin = time.monotonic()
                assert [live.channel.receive(silence_seconds=10) for live in lives] == [None, None]
                took.append(time.monotonic() - begin)
        assert daemon.log.count(" session-ended ") == 6
    assert min(took) < 1, took  # the others may have had to wait for a processor


def test_parts_of_one_upload_over_several_workers_make_one_file(host: Host, data: bytes) -> None:
    with Crew(host) as daemon, ExitStack() as stack:
        connections = [daemon.connect(stack, worker) for worker in (0, 1, 2, 1)]
        upload = open_upload(connections[0], len(data)).upload
        for number in (4, 1, 0, 3, 2):
            send_part(connections[number % 4], upload, number, data)
        stored = commit(connections[3], upload, data)
        assert (stored.file_size, stored.digest.hex) == (len(data), hexdigest("md5", data))
        assert commit(connections[0], upload, data).etag == stored.etag
    assert (host.root / "d" / "large").read_bytes() == data and host.uploads == []
    assert "Traceback" not in daemon.log and "internal" not in daemon.log


def test_only_one_worker_sweeps_a_root(host: Host) -> None:
    before = """
import sys
from ftpy.server.worker import Parent
may_sweep = Parent.may_sweep
def said(parent, root):
    may = may_sweep(parent, root)
    sys.stderr.write(f"MAY {may} {root}\\n")
    return may
Parent.may_sweep = said
"""
    with Crew(host, before=before) as daemon:
        eventually(lambda: len(re.findall(f"MAY (?:True|False) {host.root}\n", daemon.log)) == 3)
        assert daemon.log.count(f"MAY True {host.root}\n") == 1, daemon.log


# ------------------------------------------------------------------ deaths


def test_upload_goes_on_from_where_it_was_when_its_owner_is_killed(host: Host, data: bytes) -> None:
    source = host.folder / "source"
    source.write_bytes(data)
    os.utime(source, ns=(MTIME, MTIME))
    with Crew(host) as daemon, ExitStack() as stack:
        owner, other, third = (daemon.connect(stack, worker) for worker in (0, 1, 2))
        upload = open_upload(owner, len(data)).upload
        send_part(owner, upload, 0, data)
        send_part(other, upload, 3, data)
        os.kill(daemon.workers[0], signal.SIGKILL)
        with pytest.raises((ConnectionFailed, Busy)):
            served(owner)
        eventually(lambda: "worker-died" in daemon.log)
        assert served(third)

        def is_taken_over() -> bool:
            try:
                send_part(other, upload, 1, data)
            except Busy:  # its worker has not heard yet who is dead
                return False
            return True

        eventually(is_taken_over)  # its own worker has the upload open now
        with host.client() as client:
            assert client.put(source, "d/large").resumed == 3 * PART
        assert (host.root / "d" / "large").read_bytes() == data and host.uploads == []
        line = next(line for line in daemon.log.splitlines() if "worker-died" in line)
        assert f"pid={daemon.workers[0]}" in line and "how=SIGKILL" in line


def test_upload_goes_on_when_a_worker_that_only_brought_parts_is_killed(host: Host, data: bytes) -> None:
    with Crew(host) as daemon, ExitStack() as stack:
        owner, other = (daemon.connect(stack, worker) for worker in (0, 1))
        upload = open_upload(owner, len(data)).upload
        send_part(other, upload, 0, data)
        other.channel.send(PartRequest(id=other.next_id(), upload=upload, part=1, length=PART))
        other.channel.send_body(memoryview(b"x" * MIB))
        other.channel.flush()
        with open(host.root / ".ftpy" / "uploads" / f"{upload}.data", "rb", buffering=0) as staged:
            eventually(lambda: os.pread(staged.fileno(), 1, PART) == b"x")
        with pytest.raises(Busy):
            send_part(owner, upload, 1, data)
        os.kill(daemon.workers[1], signal.SIGKILL)

        def is_free() -> bool:
            try:
                send_part(owner, upload, 1, data)
            except Busy:
                return False
            return True

        eventually(is_free)
        for number in (2, 3, 4):
            send_part(owner, upload, number, data)
        commit(owner, upload, data)
    assert (host.root / "d" / "large").read_bytes() == data


def test_an_owner_that_dies_in_the_middle_of_a_part_elsewhere_is_busy_for_once(host: Host, data: bytes) -> None:
    with Crew(host) as daemon, ExitStack() as stack:
        owner, other = (daemon.connect(stack, worker) for worker in (0, 1))
        upload = open_upload(owner, len(data)).upload
        other.channel.send(PartRequest(id=other.next_id(), upload=upload, part=1, length=PART))
        other.channel.send_body(memoryview(data[PART : PART + MIB]))
        other.channel.flush()
        with open(host.root / ".ftpy" / "uploads" / f"{upload}.data", "rb", buffering=0) as staged:
            eventually(lambda: os.pread(staged.fileno(), MIB // 2, PART) == data[PART : PART + MIB // 2])
        os.kill(daemon.workers[0], signal.SIGKILL)
        eventually(lambda: "worker-died" in daemon.log)
        other.channel.send_body(memoryview(data[PART + MIB : 2 * PART]))
        other.channel.send(Trailer(blake3=blake3(data[PART : 2 * PART]).hexdigest()))
        with pytest.raises(Busy):
            other.wait(PartReply)
        for number in range(5):
            send_part(other, upload, number, data)
        commit(other, upload, data)
    assert (host.root / "d" / "large").read_bytes() == data and host.uploads == []


def test_a_dead_worker_is_replaced(host: Host) -> None:
    with Crew(host, workers=2) as daemon:
        for pid in daemon.workers:
            os.kill(pid, signal.SIGKILL)
        with host.client() as client:  # whoever listens: these two are dead
            assert client.stat("").type == "directory"
        assert eventually(lambda: daemon.log.count("worker-died") == 2)


def test_a_worker_that_served_is_replaced_however_often_it_is_killed(host: Host) -> None:
    """Whoever kills it, the kernel that is short of memory say, must not end the server by doing it often."""
    with Crew(host, workers=2, before="from ftpy.server import workers\nworkers.MOST_DEATHS = 2\n") as daemon:
        for killed in range(1, 5):
            victim = daemon.workers[0]
            with daemon.served_by(0):
                os.kill(victim, signal.SIGKILL)
            eventually(lambda killed=killed: daemon.log.count("worker-died") == killed)
            eventually(lambda victim=victim: len(daemon.newest()) == 2 and victim not in daemon.newest())
            daemon.workers = daemon.newest()
        with host.client() as client:
            assert client.stat("").type == "directory"


def test_the_server_ends_with_a_clear_error_when_its_workers_do_not_live(host: Host) -> None:
    flag = host.folder / "die"
    before = f"""
import os
from ftpy.server import workers
run_worker = workers.run_worker
workers.FIRST_PAUSE_SECONDS = 0.001
workers.run_worker = lambda *given, **more: (
    os._exit(7) if os.path.exists({str(flag)!r}) else run_worker(*given, **more)
)
"""
    with Crew(host, workers=2, before=before) as daemon:
        flag.touch()
        os.kill(daemon.workers[0], signal.SIGKILL)
        assert daemon.wait() == 1
        assert daemon.log.splitlines()[-1] == (
            "ftpy-server: a worker died 10 times in a row, each time before it served; the log says how"
        )
        assert 'how="exit code 7"' in daemon.log


# ------------------------------------------------------------------ descriptors and processes run out


def no_fork_while(flag: Path) -> str:
    """Code: while this file exists the system has no process to give."""
    return f"""
import errno, os
fork = os.fork
def fork_or_fail():
    if os.path.exists({str(flag)!r}):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = fork_or_fail
"""


@pytest.mark.slow
def test_the_others_serve_on_and_a_dead_worker_is_replaced_later_when_the_system_gives_no_process(host: Host) -> None:
    flag = host.folder / "no-fork"
    with Crew(host, workers=2, before=no_fork_while(flag)) as daemon, daemon.served_by(1) as other:
        flag.touch()
        os.kill(daemon.workers[0], signal.SIGKILL)
        eventually(lambda: 'worker-not-started reason="Resource temporarily unavailable"' in daemon.log)
        assert served(other) and daemon.newest() == [daemon.workers[1]]
        flag.unlink()
        eventually(lambda: len(daemon.newest()) == 2)
        daemon.signal()
        assert daemon.wait() == 0  # signals are heard as before


@pytest.mark.slow
def test_a_dead_worker_is_replaced_later_when_there_is_no_descriptor_for_its_link(host: Host) -> None:
    with Crew(host, workers=2) as daemon, daemon.served_by(1) as other:
        assert daemon.process is not None
        with descriptors_left(0, daemon.process.pid):  # a dead one's link leaves one of the two that it takes
            os.kill(daemon.workers[0], signal.SIGKILL)
            eventually(lambda: 'worker-not-started reason="Too many open files"' in daemon.log)
            assert served(other)
        eventually(lambda: len(daemon.newest()) == 2)


def test_the_server_says_in_one_line_that_it_cannot_start_when_the_system_gives_no_process(host: Host) -> None:
    flag = host.folder / "no-fork"
    flag.touch()
    with pytest.raises(AssertionError) as caught:
        Crew(host, before=no_fork_while(flag)).start()
    assert "ftpy-server: a worker cannot be started: Resource temporarily unavailable" in str(caught.value)
    assert "Traceback" not in str(caught.value) and "internal" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("starved", "room"), [("parent", 0), ("owner", 0), ("other", 1)])
def test_an_upload_of_another_worker_is_busy_and_nothing_else_happens_when_a_process_has_no_descriptor(
    host: Host, data: bytes, starved: str, room: int
) -> None:
    with Crew(host, workers=2) as daemon, ExitStack() as stack:
        assert daemon.process is not None
        owner, other = (daemon.connect(stack, worker) for worker in (0, 1))
        upload = open_upload(owner, len(data)).upload
        pids = {"parent": daemon.process.pid, "owner": daemon.workers[0], "other": daemon.workers[1]}
        with descriptors_left(room, pids[starved]):
            with pytest.raises(Busy):
                open_upload(other, len(data))
            assert ("link-failed" in daemon.log) == (starved != "other")
            assert served(other) and served(owner)
        send_part(other, upload, 0, data)
        assert sorted(daemon.newest()) == sorted(daemon.workers)
        assert "Traceback" not in daemon.log and "worker-died" not in daemon.log


def test_a_defect_at_one_word_of_the_parents_is_logged_and_the_next_word_is_heard(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    mine, its = Link.pair()
    with mine, its, contextlib.closing(Service(host.config)) as service, ThreadPoolExecutor(1) as pool:
        parent = Parent(its, 1)
        parent.serve(service)
        answer = pool.submit(parent.ask, "link", ("root", "id"), otherwise="gone")
        (_, number, _), _ = mine.receive()
        mine.send(("kick", "no number", "1-1", "one too many"))
        mine.send(("answer", number, "heard"))
        assert answer.result(20) == "heard" and not parent.drain.is_set()
        assert [record.message for record in caplog.records] == ["word-failed"]
        mine.shutdown()
        assert parent.drain.wait(20)


# ------------------------------------------------------------------ a worker that does not listen


@contextlib.contextmanager
def slow_one(config: ServerConfig) -> Iterator[tuple[Workers, Worker, Link]]:
    """A parent, a worker of its, and that one's end of the link."""
    mine, its = Link.pair()
    with Workers(config, "", []) as parent, mine, its, subprocess.Popen(["sleep", "60"]) as process:
        worker = Worker(Slot(), process.pid, mine)
        parent._mail.begin(worker)
        try:
            yield parent, worker, its
        finally:
            process.kill()


@pytest.fixture
def slow(host: Host) -> Iterator[tuple[Workers, Worker, Link]]:
    with slow_one(host.config) as made:
        yield made


def an_end() -> Link:
    one, other = Link.pair()
    other.close()
    return one


def test_words_wait_in_order_for_a_worker_that_has_no_time(slow: tuple[Workers, Worker, Link]) -> None:
    parent, worker, its = slow
    for number in range(3000):
        parent._send(worker, "answer", number, None, link=an_end() if number % 1000 == 0 else None)
    assert worker.unsent  # or this proves nothing
    for number in range(3000):
        for key, events in parent._selector.select(0):
            key.data(events)
        (word, got, result), descriptors = its.receive()
        assert (word, got, result, len(descriptors)) == ("answer", number, None, number % 1000 == 0)
        for descriptor in descriptors:
            os.close(descriptor)
    assert not worker.unsent and not worker.has_ended


def test_a_worker_that_takes_nothing_is_ended(
    slow: tuple[Workers, Worker, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, worker, _ = slow
    monkeypatch.setattr(crew, "MOST_UNSENT", 10)
    while not worker.has_ended:
        parent._send(worker, "died")
    assert worker.unsent == deque() and os.waitpid(worker.pid, 0)[1] == signal.SIGKILL


def start_one_while_a_link_waits(config: ServerConfig) -> None:
    one, other = Link.pair()
    with slow_one(config) as (parent, worker, _), one:
        while not worker.unsent:
            parent._send(worker, "died")
        parent._send(worker, "welcome", "root", link=other)
        parent._slots = [Slot(worker), started := Slot()]
        parent._start(started)
        assert started.worker is not None
        with started.worker.link as link:
            said = link.receive()[0]
            while said[0] != "ready":  # then it has closed what is not its own
                said = link.receive()[0]
            parent._mail.end(worker)
            assert one.has_ended()
        os.waitpid(started.worker.pid, 0)


def test_a_link_that_waits_for_a_slow_worker_is_not_kept_open_by_one_that_is_started_meanwhile(host: Host) -> None:
    process = get_context("spawn").Process(target=start_one_while_a_link_waits, args=(host.config,))
    process.start()  # whoever forks has one thread
    process.join(60)
    assert process.exitcode == 0


# ------------------------------------------------------------------ the end


def test_sigterm_drains_all_workers_and_a_put_over_two_of_them_finishes(host: Host, data: bytes) -> None:
    with Crew(host, "[limits]\ndrain_seconds = 20\n") as daemon, ExitStack() as stack:
        owner, other = (daemon.connect(stack, worker) for worker in (0, 1))
        idle = daemon.connect(stack, 2)
        upload = open_upload(owner, len(data)).upload
        send_part(other, upload, 0, data)
        for pid in daemon.workers:
            os.kill(pid, signal.SIGTERM)  # as systemd does: to every process of the service
        daemon.signal()
        assert idle.channel.receive() is None
        owner.close()
        for number in (1, 2, 3, 4):
            send_part(other, upload, number, data)
        commit(other, upload, data)
        other.close()
        assert daemon.wait() == 0
        assert daemon.all_gone()
    assert (host.root / "d" / "large").read_bytes() == data and host.uploads == []
    assert [daemon.log.count(event) for event in (" draining ", "stopped all_ended=true")] == [1, 1]
    assert "Traceback" not in daemon.log and "worker-died" not in daemon.log


def test_a_put_over_two_workers_that_does_not_finish_in_time_is_cut_off_and_resumed(host: Host, data: bytes) -> None:
    with Crew(host, "[limits]\ndrain_seconds = 0.3\n") as daemon, ExitStack() as stack:
        owner, other = (daemon.connect(stack, worker) for worker in (0, 1))
        upload = open_upload(owner, len(data)).upload
        send_part(other, upload, 0, data)
        daemon.signal()
        assert daemon.wait() == 0
        assert daemon.all_gone() and "stopped all_ended=true" in daemon.log
        daemon.start()
        again = daemon.connect(stack, 1)
        assert open_upload(again, len(data)).missing == [(1, 4)]


def test_a_second_signal_ends_all_of_them_at_once(host: Host) -> None:
    with Crew(host, "[limits]\ndrain_seconds = 60\n") as daemon, ExitStack() as stack:
        open_upload(daemon.connect(stack, 1), 9 * MIB)
        daemon.signal()
        eventually(lambda: " draining " in daemon.log)
        daemon.signal()
        assert daemon.wait() == -signal.SIGTERM
        eventually(daemon.all_gone)


def test_workers_end_when_their_parent_is_killed_and_the_address_is_free(host: Host) -> None:
    with Crew(host) as daemon:
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        eventually(daemon.all_gone)
        daemon.start()
        with host.client(transfer=ONCE) as client:
            assert client.stat("").type == "directory"


def test_a_unix_socket_is_served_by_all_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Crew(Host(tmp_path / "host", tls=False, listen=f"unix:{path}"), workers=2) as daemon, ExitStack() as stack:
        assert all(served(daemon.connect(stack, worker)) for worker in (0, 1))
        os.kill(daemon.workers[0], signal.SIGKILL)
        eventually(lambda: "worker-died" in daemon.log)
        assert path.exists()
        daemon.signal()
        assert daemon.wait() == 0
    assert not path.exists()


# ------------------------------------------------------------------ settings


def test_one_worker_is_the_server_itself(host: Host) -> None:
    with Daemon(host, "workers = 1\n") as daemon:
        assert daemon.process is not None
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
        if not children.exists():
            pytest.skip("this kernel does not tell who has children")
        assert children.read_text() == ""


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda host, taken: setattr(host, "listen", f"127.0.0.1:{taken.getsockname()[1]}"), "cannot listen on"),
        (lambda host, _: (host.folder / "users.json").chmod(0o644), "others can read it"),
        (lambda host, _: (host.root / ".ftpy").write_bytes(b""), "cannot be served"),
    ],
    ids=["address", "users", "root"],
)
def test_what_is_wrong_is_said_once_and_no_worker_is_started(host: Host, broken: object, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broken(host, taken)  # type: ignore[operator]
        with pytest.raises(AssertionError, match=said) as caught:
            Crew(host).start()
    assert str(caught.value).count("ftpy-server: ") == 1 and "pids=" not in str(caught.value)


def test_auto_is_one_worker_for_each_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig(root="files", listen=["127.0.0.1:0"], workers="auto")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert worker_count(config) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert worker_count(config) == 1
    assert worker_count(ServerConfig(root="files", listen=["127.0.0.1:0"])) == 1


def test_workers_are_a_settings_error_where_there_is_no_fork(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "fork")
    folder = str(tmp_path)
    config = ServerConfig(root=f"{folder}/files", listen=["127.0.0.1:0"], workers=2, state=f"{folder}/state")
    fault = find_fault(config, f"{folder}/server.toml")
    assert fault is not None and fault.key == "workers" and "fork" in str(fault)
    assert worker_count(ServerConfig(root="files", listen=["127.0.0.1:0"], workers="auto")) == 1
