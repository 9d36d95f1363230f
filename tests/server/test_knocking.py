"""Who knocks is let in or not: penalties and limits per user as clients meet them, over real sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import Limits, Penalties
from ftpy.errors import ConnectionFailed, Denied, TurnedAway
from ftpy.server.penalties import Offenders
from ftpy.transport import tls
from tests.rig import Daemon, Host, eventually, running

ONCE = Transfer(stall_seconds=10, connect_seconds=10, retries=0)
STRICT = Penalties(exempt=())
"""Loopback is not spared."""
STRICT_TOML = "[penalties]\nexempt = []\n"


def dial(host: Host) -> socket.socket:
    name, _, port = host.address.rpartition(":")
    return socket.create_connection((name, int(port)), timeout=20)


def denied(host: Host, user: str = "alice") -> None:
    """A login with a wrong key."""
    profile = structs.replace(host.profile("alice"), user=user, key="A" * 43)
    with pytest.raises(Denied):
        Connection.open(profile, ONCE)


def served(host: Host, user: str = "alice", transfer: Transfer = ONCE) -> bool:
    with host.client(user, transfer=transfer) as client:
        return client.stat("").type == "directory"


def assert_owes(host: Host, seconds: float, since: float) -> None:
    """This address owed so many seconds at some moment since then; a debt melts by itself."""
    owing = owed(host)
    assert seconds - (time.monotonic() - since) <= owing <= seconds


def owed(host: Host) -> float:
    """Seconds that this address owes now."""
    assert host.service is not None
    return sum(penalty.seconds for penalty in host.service.admission.penalties())  # type: ignore[union-attr]


def left(host: Host) -> None:
    assert host.service is not None
    admission = host.service.admission
    eventually(lambda: admission.connections == 0)


@pytest.fixture(params=[True, False], ids=["tls", "plain"])
def strict(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """A server that spares nobody."""
    with running(tmp_path / "host", tls=request.param, penalties=STRICT) as host:
        yield host


# ------------------------------------------------------------------ penalties


@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_a_wrong_key_and_an_unknown_user_cost_the_same(strict: Host, user: str) -> None:
    began = time.monotonic()
    denied(strict, user)
    assert_owes(strict, 5, began)


def test_who_is_denied_often_is_refused_before_tls(strict: Host) -> None:
    for _ in range(5):
        denied(strict)
    with dial(strict) as sock:
        assert sock.recv(1) == b""
    with pytest.raises(TurnedAway, match="closed the connection at once"):
        Connection.open(strict.profile(), ONCE)


def talk(host: Host, said: bytes) -> None:
    """Say something, in TLS if that is spoken, until the server has enough of it."""
    with dial(host) as sock, contextlib.suppress(OSError):
        pin = host.profile().certificate_sha256
        with tls.connect(sock, bytes.fromhex(pin), 20) if pin else sock as peer:
            peer.sendall(said)
            while peer.recv(4096):
                pass


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0", b"\5\0\0\0hello", b'\x0c\0\0\0{"cmd":"ls"}\0\0\0\0'],
    ids=["http", "no frame", "no json", "no hello"],
)
def test_what_is_not_the_protocol_costs_its_source(strict: Host, said: bytes) -> None:
    began = time.monotonic()
    talk(strict, said)
    left(strict)
    assert_owes(strict, 10, began)


def test_what_is_not_tls_costs_its_source(tmp_path: Path) -> None:
    with running(tmp_path / "host", penalties=STRICT) as host:
        began = time.monotonic()
        with dial(host) as sock, contextlib.suppress(ConnectionResetError):
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv(100):
                pass
        left(host)
        assert_owes(host, 10, began)


@pytest.mark.parametrize("tls_on", [True, False], ids=["tls", "plain"])
def test_an_overrun_handshake_costs_its_source(tmp_path: Path, tls_on: bool) -> None:
    limits = Limits(handshake_seconds=0.2)
    with running(tmp_path / "host", tls=tls_on, penalties=STRICT, limits=limits) as host:
        began = time.monotonic()
        with dial(host) as sock:
            assert sock.recv(1) == b""
        left(host)
        assert_owes(host, 10, began)


def leave(host: Host) -> None:
    dial(host).close()


def leave_within_tls(host: Host) -> None:
    with dial(host) as sock:
        sock.sendall(b"\x16\x03\x01\x02\0\1\0")


def mistrust(host: Host) -> None:
    profile = host.profile()
    if host.tls:
        profile = structs.replace(profile, certificate_sha256="0" * 64)
        with pytest.raises(Exception, match="another certificate"):
            Connection.open(profile, ONCE)


@pytest.mark.parametrize("leaving", [leave, leave_within_tls, mistrust])
def test_who_only_leaves_owes_nothing(strict: Host, leaving: Callable[[Host], None]) -> None:
    if leaving is leave_within_tls and not strict.tls:
        pytest.skip("that is no TLS")
    for _ in range(3):
        leaving(strict)
    left(strict)
    assert owed(strict) == 0
    assert served(strict)


def test_who_has_to_make_room_owes_nothing(tmp_path: Path) -> None:
    limits = Limits(connections_unauthenticated=1)
    with running(tmp_path / "host", penalties=STRICT, limits=limits) as host:
        with dial(host) as first, dial(host):
            assert first.recv(1) == b""
        left(host)
        assert owed(host) == 0


def test_a_success_forgives(strict: Host) -> None:
    for _ in range(4):
        denied(strict)
    assert served(strict)
    assert owed(strict) == 0


def test_loopback_is_exempt_unless_told_otherwise(tmp_path: Path) -> None:
    with running(tmp_path / "host") as host:
        for _ in range(8):
            denied(host)
        assert served(host) and owed(host) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_penalty_holds_for_all_workers_and_is_logged_once(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n{STRICT_TOML}") as daemon:
        for _ in range(5):
            denied(host)
        for _ in range(30):
            with dial(host) as sock:
                assert sock.recv(1) == b""
        assert daemon.log.count("source-refused") == 1
        assert re.search(r"WARNING +source-refused .*source=127\.0\.0\.1 seconds=", daemon.log)
        assert "refused-at-limit" not in daemon.log


class Hammer:
    """Wrong keys from this address, over several connections at a time, until the ``with`` ends."""

    def __init__(self, host: Host, threads: int = 4) -> None:
        self._profile = structs.replace(host.profile(), key="A" * 43)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._strike) for _ in range(threads)]
        self.denied = self.refused = 0

    def _strike(self) -> None:
        while not self._stop.is_set():
            try:
                Connection.open(self._profile, ONCE).close()
            except Denied:
                self.denied += 1
            except ConnectionFailed:
                self.refused += 1
                self._stop.wait(0.005)

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_good_client_gets_in_beside_a_hammer_at_the_same_address(strict: Host) -> None:
    """Within three tries, as it has been there before: the waits between are the client's own (docs/operations.md)."""
    assert served(strict)
    said: list[str] = []
    with Hammer(strict) as hammer:
        eventually(lambda: hammer.refused and hammer.denied)
        for _ in range(6):
            said.clear()
            with strict.client(transfer=structs.replace(ONCE, retries=8), notify=said.append) as client:
                assert client.stat("").type == "directory"
            assert len(said) <= 3  # one more than promised, for a machine that is busy
    said.clear()
    assert served(strict, transfer=structs.replace(ONCE, retries=2)) and len(said) <= 2


def test_an_address_that_nobody_came_in_from_is_shut_after_a_hammer(strict: Host) -> None:
    with Hammer(strict) as hammer:
        eventually(lambda: hammer.refused > 20)
    assert 5 <= hammer.denied <= 5 + 4 * (1 + owed(strict) / 5)
    with pytest.raises(TurnedAway):
        Connection.open(strict.profile(), ONCE)


def test_without_the_open_seconds_a_hammer_locks_a_good_client_out(
    strict: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: so the tests above prove something."""
    monkeypatch.setattr(Offenders, "_knows", lambda *_: False)
    assert served(strict)
    with Hammer(strict) as hammer:
        eventually(lambda: hammer.refused > 20)
        with pytest.raises(TurnedAway), strict.client(transfer=structs.replace(ONCE, retries=2)):
            pass


# ------------------------------------------------------------------ limits of one user


@pytest.mark.parametrize("workers", [1, 2])
def test_a_user_has_no_more_connections_than_it_may_over_all_workers(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("bob", connections=2)
    with Daemon(host, f"workers = {workers}\n") as daemon:
        with host.client("bob", transfer=ONCE), host.client("bob", transfer=ONCE):
            for _ in range(4):
                with pytest.raises(TurnedAway, match=r"user bob has 2 connections already; try again later"):
                    Connection.open(host.profile("bob"), ONCE)
            assert served(host)
        eventually(lambda: _comes_in(host, "bob"))
        assert "Traceback" not in daemon.log


def _comes_in(host: Host, user: str) -> bool:
    try:
        return served(host, user)
    except TurnedAway:
        return False


# ------------------------------------------------------------------ the client


def test_the_first_connection_is_tried_again_aloud_when_the_server_is_full(tmp_path: Path) -> None:
    said: list[str] = []
    with running(tmp_path / "host", limits=Limits(connections=1)) as host:
        first = host.client(transfer=ONCE)
        with first:

            def hear(line: str) -> None:
                said.append(line)
                first.close()  # there is room at the next try

            with host.client(transfer=structs.replace(ONCE, retries=8), notify=hear) as client:
                assert client.stat("").type == "directory"
    assert said and all(
        re.search(r"closed the connection at once; .*trying again in .* \(\d of 8\)", line) for line in said
    )


def test_a_server_that_stays_full_is_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    twice = structs.replace(ONCE, retries=2)
    with (
        running(tmp_path / "host", limits=Limits(connections=1)) as host,
        host.client(transfer=ONCE),
        pytest.raises(TurnedAway) as caught,
        host.client(transfer=twice, notify=said.append),
    ):
        pass
    assert caught.value.exit_code == 3 and len(said) == 2


def test_where_no_server_is_the_first_connection_is_not_tried_again(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.start()
    host.stop()
    said: list[str] = []
    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match="refused"), host.client(notify=said.append):
        pass
    assert said == [] and time.monotonic() - began < 5


def test_strangers_who_just_leave_are_told_of_once_in_a_while(tmp_path: Path) -> None:
    with running(tmp_path / "host", audit=True) as host:
        service = host.service
        assert service is not None
        ip, port = host.address.rsplit(":", 1)
        for _ in range(30):
            socket.create_connection((ip, int(port))).close()
        with host.client():
            pass  # who knocked before was accepted before
        eventually(lambda: not service.admission.connections)
        assert sorted(line["outcome"] for line in host.audited("login")) == ["connection-lost", "ok"]
        service.leavers._seconds = 0.0
        socket.create_connection((ip, int(port))).close()
        eventually(lambda: [line["times"] for line in host.audited("login") if "times" in line] == [30])
