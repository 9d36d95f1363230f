"""How fast and how slow one may be: a user's rate over all that is theirs, and the least that a peer must move."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from msgspec import structs

from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.errors import ConfigError, ConnectionFailed
from ftpy.server.admission import Admission
from ftpy.transport.pace import BURST_SECONDS, SLICE_SECONDS
from ftpy.wire.codec import encode
from ftpy.wire.framing import frame
from ftpy.wire.messages import GetReply, GetRequest, PutRequest, StatReply, StatRequest
from tests.rig import Host, eventually, running
from tests.server.test_workers import Crew

MIB = 1024 * 1024
RATE = 4 * MIB
ONCE = Transfer(stall_seconds=20, connect_seconds=20, retries=0)
TOLD = Transfer(stall_seconds=20, connect_seconds=20, retries=0, streams=4)


def fetch(connection: Connection, path: str) -> int:
    """Get a whole file and throw it away: its bytes."""
    reply = connection.call(GetRequest(id=connection.next_id(), path=path), GetReply)
    connection.channel.skip_body()
    return reply.length


def at_once(connections: list[Connection], path: str) -> tuple[int, float]:
    """Get a file over each at the same time: bytes of all, and seconds. One that breaks counts nothing."""
    got: list[int] = []

    def get(connection: Connection) -> None:
        with suppress(ConnectionFailed):
            got.append(fetch(connection, path))

    threads = [threading.Thread(target=get, args=(connection,)) for connection in connections]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(got), time.monotonic() - began


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path / "host", tls=False)
    host.accounts.change("alice", rate=RATE)
    (host.root / "x").write_bytes(os.urandom(2 * MIB))
    return host


FREE = BURST_SECONDS + 5 * SLICE_SECONDS
"""What may pass ahead of the rate, as time: the burst, and what four connections have not told yet."""


def test_a_rate_holds_over_all_connections_and_workers_of_a_user(host: Host) -> None:
    with Crew(host, workers=2) as daemon, ExitStack() as stack:
        moved, seconds = at_once([daemon.connect(stack, worker) for worker in (0, 1, 0, 1)], "x")
    assert moved == 8 * MIB
    assert moved / RATE - FREE <= seconds < 3 * moved / RATE


def test_a_rate_goes_on_when_a_worker_dies(host: Host) -> None:
    with Crew(host, workers=2) as daemon, ExitStack() as stack:
        connections = [daemon.connect(stack, worker) for worker in (0, 1, 0, 1)]
        timer = threading.Timer(0.3, os.kill, (daemon.workers[0], signal.SIGKILL))
        timer.start()
        moved, seconds = at_once(connections, "x")
        assert moved == 4 * MIB
        assert moved / RATE - FREE <= seconds < 6 * moved / RATE
        again = [Connection.open(host.profile(), ONCE) for _ in range(2)]
        moved, seconds = at_once(again, "x")
        for connection in again:
            connection.close()
        assert moved == 4 * MIB and moved / RATE - FREE <= seconds < 3 * moved / RATE


def test_a_rate_counts_both_ways_and_bounds_no_one_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * MIB))
    with running(tmp_path / "host") as host:
        host.add_user("bob", rate=RATE)
        with host.client("bob", transfer=ONCE) as client:
            began = time.monotonic()
            client.put(source, "y")
            client.get("y", tmp_path / "back")
            assert time.monotonic() - began >= 4 * MIB / RATE - FREE
        assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_many_connections_that_move_little_are_no_way_around_a_rate(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False) as host:
        host.add_user("bob", rate=RATE)
        (host.root / "x").write_bytes(bytes(int(RATE * SLICE_SECONDS) - 4096))  # not as much as is told of at once
        began, moved = time.monotonic(), 0
        for _ in range(40):
            connection = Connection.open(host.profile("bob"), ONCE)
            moved += fetch(connection, "x")
            connection.close()
        assert time.monotonic() - began >= moved / RATE - FREE


def test_users_do_not_share_their_rates_and_who_left_is_forgotten_once_nothing_is_owed() -> None:
    admission = Admission(Limits())
    for number, user in enumerate(("alice", "bob")):
        admission.admit(number, "a")
        admission.known(number, user, None)
    assert admission.passed("alice", 10_000, 100) > 90
    assert admission.passed("bob", 10, 100) < 1
    assert admission.passed("alice", 0, 100) > 90
    assert admission.passed("alice", 1000, 1000) < 1  # another rate: all begins anew

    def kept() -> set[str]:
        """After somebody else has left."""
        admission.admit(2, "a")
        admission.known(2, "carol", None)
        admission.leave(2, "a")
        return set(admission._schedules)

    admission.leave(0, "a")
    assert kept() == {"alice", "bob"}
    eventually(lambda: kept() == {"bob"})
    admission.leave(1, "a")
    eventually(lambda: kept() == set())


# ------------------------------------------------------------------ the least


SWIFT = Limits(least_bytes_per_second=10_000, stall_seconds=0.5)
SLOWLY = Limits(least_bytes_per_second=10_000, stall_seconds=2.0)


def ended_for_slowness(caplog: pytest.LogCaptureFixture) -> bool:
    return any("less than 10000 bytes a second" in str(getattr(record, "fields", "")) for record in caplog.records)


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_who_sends_a_body_too_slowly_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture, tls: bool) -> None:
    caplog.set_level("INFO")
    with running(tmp_path / "host", tls=tls, limits=SLOWLY) as host:
        connection = Connection.open(host.profile(), ONCE)
        request = PutRequest(id=1, path="slow", file_size=MIB, mtime_ns=1, length=MIB)
        connection.channel.stream.send(frame(encode(request)))
        deadline = time.monotonic() + 20
        with pytest.raises(ConnectionFailed):
            while time.monotonic() < deadline:
                connection.channel.stream.send(b"x" * 50)
                time.sleep(0.05)
        connection.close()
        assert host.service is not None
        admission = host.service.admission
        eventually(lambda: admission.connections == 0)
        assert not (host.root / "slow").exists() and host.uploads == []
    assert ended_for_slowness(caplog)


def test_who_reads_a_body_too_slowly_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with running(tmp_path / "host", tls=False, limits=SLOWLY) as host:
        (host.root / "large").write_bytes(bytes(64 * MIB))
        connection = Connection.open(host.profile(), ONCE)
        connection.channel.send(GetRequest(id=1, path="large"))
        connection.channel.flush()
        sock: socket.socket = connection.channel.stream._sock
        sock.settimeout(20)
        assert host.service is not None
        admission = host.service.admission
        deadline = time.monotonic() + 20
        while admission.connections and time.monotonic() < deadline:
            sock.recv(100)
            time.sleep(0.02)
        assert admission.connections == 0
        connection.close()
    assert ended_for_slowness(caplog) or any("Nothing moved" in str(vars(record)) for record in caplog.records)


def test_idle_and_rated_connections_are_not_slow(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False, limits=SWIFT) as host:
        host.add_user("bob", rate=5000)
        (host.root / "x").write_bytes(bytes(10_000))
        connection = Connection.open(host.profile(), ONCE)
        with host.client("bob", transfer=ONCE) as client:
            assert client.get("x", tmp_path / "x").size == 10_000  # two seconds, at half the least
            (tmp_path / "y").write_bytes(bytes(8_000))
            assert client.put(tmp_path / "y", "y").size == 8_000
        assert connection.call(StatRequest(id=1, path=""), StatReply).entry.type == "directory"
        connection.close()


# ------------------------------------------------------------------ a client that limits itself


def limited(host: Host, limit: int, said: list[str], transfer: Transfer = TOLD) -> Client:
    return Client(host.profile(), transfer, said.append, limit=limit)


def test_a_limit_under_what_the_server_takes_is_refused_aloud(tmp_path: Path) -> None:
    with (
        running(tmp_path / "host", tls=False, limits=SWIFT) as host,
        pytest.raises(ConfigError, match=r"--limit is too low: .* less than 10000 bytes a second"),
        limited(host, 19_999, []),
    ):
        pass


def test_a_limit_is_shared_by_no_more_connections_than_it_is_enough_for(tmp_path: Path) -> None:
    said: list[str] = []
    least = Limits(least_bytes_per_second=1024 * 1024)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(33 * MIB))
    with running(tmp_path / "host", tls=False, limits=least) as host:
        assert host.service is not None
        most = [0]
        admission = host.service.admission
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.005):
                most[0] = max(most[0], admission.connections)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            transfer = structs.replace(TOLD, streams=32)
            with limited(host, 40 * MIB, said, transfer) as client:
                client.put(source, "x")
        finally:
            stop.set()
            thread.join()
        assert most[0] <= 20
    assert said == ["--limit is enough for 20 of 32 connections at this server"]
