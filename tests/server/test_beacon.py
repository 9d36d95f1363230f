"""The beacon of a server that runs: what it answers, what it drops and counts, and that it cannot be used on others."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpy.client.beacon import Inquiry
from ftpy.config.server import Beacon
from ftpy.server.beacon import MOST_LOOKS, MOST_THREADS
from ftpy.server.ration import BURST_SECONDS, MOST_THINGS, Ration
from ftpy.server.rows import BeaconRow
from ftpy.server.seldom import SECONDS as SAID_SECONDS
from ftpy.server.status import status
from ftpy.transport.datagrams import Datagrams, targets_around
from ftpy.wire.beacon import GROUP, NONCE_BYTES, QUESTION_BYTES, Answer, ask, read_answer
from ftpy.wire.spelling import b64encode
from tests.descriptors import links
from tests.rig import Daemon, Host, eventually, running

ANY = "127.0.0.1:0"
GENEROUS = Beacon(listen=[ANY], name="attic", answers_per_second=1_000_000, most_answers_per_second=1_000_000)
SECONDS = 10.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running(tmp_path / "host", beacon=GENEROUS) as made:
        yield made


def row(host: Host) -> BeaconRow:
    assert host.service is not None
    (found,) = host.service.beacon_rows()
    return found


class Asker:
    """A socket that talks to a beacon."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(SECONDS)
        self.socket.connect(("127.0.0.1", int(address.rpartition(":")[2])))

    def ask(self, nonce: bytes = bytes(NONCE_BYTES)) -> Answer:
        """Ask once, and wait for the answer."""
        self.socket.send(ask(nonce))
        return read_answer(self.socket.recv(65536))

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_beacon_tells_the_time_and_where_the_server_is(host: Host) -> None:
    nonce = os.urandom(NONCE_BYTES)
    before = time.time_ns()
    with Asker(row(host).listening[0]) as asker:
        answer = asker.ask(nonce)
    assert before <= answer.received_ns <= answer.sent_ns <= time.time_ns()
    assert (answer.nonce, answer.name, answer.utc_offset_seconds) == (
        b64encode(nonce),
        "attic",
        time.localtime().tm_gmtoff,
    )
    assert answer.certificate_sha256 == host.profile().certificate_sha256
    assert str(answer.port) == host.address.rpartition(":")[2]


def test_beacon_calls_itself_after_the_host_and_names_no_certificate_on_plain_tcp(tmp_path: Path) -> None:
    with (
        running(tmp_path / "host", tls=False, beacon=Beacon(listen=[ANY])) as host,
        Asker(row(host).listening[0]) as asker,
    ):
        answer = asker.ask()
    assert (answer.name, answer.certificate_sha256) == (socket.gethostname()[:64], None)


@pytest.mark.skipif(not os.path.exists("/proc/net/igmp6"), reason="Linux tells in which groups a machine is")
def test_beacon_over_ipv6_is_in_the_group_on_every_interface_and_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpy.server.server.setup_logging", lambda _: None)  # this process's logging is the tests'
    everywhere = Beacon(listen=["[::]:0"], name="six", answers_per_second=1000)
    with running(tmp_path / "host", beacon=everywhere) as host:
        for _ in range(2):  # once more when it is told to look at its settings again
            joined = [line.split()[1:3] for line in Path("/proc/net/igmp6").read_text().splitlines()]
            there = [name for name, group in joined if group == "ff120000000000000000000066747079"]
            assert set(there) == {line[0] for line in joined}
            assert host.service is not None
            host.service.take_over(host.config)
        port = int(row(host).listening[0].rpartition(":")[2])
        with Datagrams() as datagrams:
            inquiry = Inquiry(datagrams, everybody=True)
            for target in targets_around(port, GROUP):
                if target[0] == socket.AF_INET6:
                    inquiry.ask(target)
            if len(inquiry.unreachable) == inquiry.asked:
                pytest.skip("no interface of this machine carries multicast")
            assert eventually(lambda: (heard := inquiry.hear(0.1)) and heard.answer.name == "six")


def test_beacon_is_off_by_default(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with running(tmp_path / "host") as host:
        assert host.service is not None and host.service.beacon_rows() == []
        came = {thread.name for thread in set(threading.enumerate()) - before}
        assert [name for name in came if name.startswith("ftpy-accept")] == [f"ftpy-accept {host.address}"]


def settled(host: Host, count: int) -> BeaconRow:
    """The counts, once so many datagrams have been seen to their end."""
    return eventually(
        lambda: (now := row(host)) and now.answered + now.garbage + now.limited + now.failed >= count and now
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=1500)
    | st.binary(min_size=QUESTION_BYTES, max_size=QUESTION_BYTES)
    | st.tuples(st.integers(0, QUESTION_BYTES - 1), st.integers(0, 255)).map(
        lambda change: (
            ask(bytes(NONCE_BYTES))[: change[0]] + bytes([change[1]]) + ask(bytes(NONCE_BYTES))[change[0] + 1 :]
        )
    )
    | st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES).map(ask)
)
def test_no_reply_is_longer_than_its_request_whatever_that_is(host: Host, datagram: bytes) -> None:
    before = row(host)
    with Asker(before.listening[0]) as asker:
        asker.socket.send(datagram)
        after = settled(host, before.answered + before.garbage + 1)
        if after.answered > before.answered:
            assert len(asker.socket.recv(65536)) <= len(datagram)
        asker.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            asker.socket.recv(65536)


def test_garbage_is_dropped_counted_and_said_seldom(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host, f'[beacon]\nlisten = ["{ANY}"]\n') as daemon:
        address, began = beacon_address(daemon), time.monotonic()
        with Asker(address) as asker:
            for size in (0, 1, 100, QUESTION_BYTES, QUESTION_BYTES + 1, 5_000):
                for _ in range(5):
                    asker.socket.send(bytes(size))
            eventually(lambda: told(host).garbage + told(host).limited == 30)
            assert told(host).answered == 0
            assert asker.ask().nonce == b64encode(bytes(NONCE_BYTES))
        eventually(lambda: told(host).answered == 1)  # it is counted once it is sent
        dropped = [line for line in daemon.log.splitlines() if "beacon-dropped" in line]
        assert "reason=garbage source=127.0.0.1 times=1" in dropped[0]
        reasons = [line.partition(" reason=")[2].split()[0] for line in dropped]
        assert len(reasons) <= len(set(reasons)) * (1 + (time.monotonic() - began) / SAID_SECONDS), daemon.log


def beacon_address(daemon: Daemon) -> str:
    return str(eventually(lambda: re.search(r" beacon address=(\S+)", daemon.log))[1])


def told(host: Host) -> BeaconRow:
    (found,) = [one for one in status(str(host.folder / "state")) if isinstance(one, BeaconRow)]
    return found


def test_who_asks_too_often_is_not_answered_for_a_while(tmp_path: Path) -> None:
    slow = Beacon(listen=[ANY], answers_per_second=1)
    with running(tmp_path / "host", beacon=slow) as host, Asker(row(host).listening[0]) as asker:
        for _ in range(50):
            asker.socket.send(ask(bytes(NONCE_BYTES)))
        now = settled(host, 50)
        assert now.answered >= BURST_SECONDS and now.limited >= 30


def test_a_flood_is_no_flood_of_threads(host: Host) -> None:
    before = threading.active_count()
    most = 0
    with Asker(row(host).listening[0]) as asker:
        for number in range(3000):
            asker.socket.send(ask(number.to_bytes(NONCE_BYTES, "big")))
            most = max(most, threading.active_count())
        assert eventually(lambda: row(host).answered > 0)
        assert asker.ask() is not None
    assert most <= before + 10 * MOST_THREADS  # one that has answered may not have ended yet; of 3,000 it is no flood
    eventually(lambda: threading.active_count() <= before)


def test_ration_gives_so_many_a_second_to_each_and_forgets_who_asked_longest_ago() -> None:
    now = 0.0
    ration = Ration(lambda: now)
    assert [ration.admits("a", 2) for _ in range(6)] == [True] * 4 + [False] * 2
    assert ration.admits("b", 2)
    now = 0.5
    assert [ration.admits("a", 2) for _ in range(2)] == [True, False]
    now = 1000.0
    assert [ration.admits("a", 2) for _ in range(6)] == [True] * 4 + [False] * 2
    for number in range(MOST_THINGS):
        ration.admits(number, 2)
    assert len(ration._due) == MOST_THINGS and ration.admits("a", 2)
    assert [ration.admits("slow", 0.1) for _ in range(2)] == [True, False]


def test_beacon_goes_with_the_server(tmp_path: Path) -> None:
    # The asker has its own number before the server stops: it must be another.
    with running(tmp_path / "host", beacon=GENEROUS) as host, Asker(row(host).listening[0]) as asker:
        assert host.stop()
        with pytest.raises(ConnectionRefusedError):
            asker.ask()


@pytest.mark.slow
def test_exactly_one_of_several_workers_is_the_beacon_and_another_takes_its_place(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    text = f'[beacon]\nlisten = ["{ANY}"]\nanswers_per_second = 1000\n'
    with Daemon(host, "workers = 3\n" + text) as daemon, Asker(beacon_address(daemon)) as asker:
        for _ in range(30):
            asker.ask()
        assert eventually(lambda: told(host).answered == 30)
        owners = holders(daemon, beacon_address(daemon))
        (serving,) = owners
        os.kill(serving, signal.SIGKILL)
        asker.socket.settimeout(0.2)
        assert eventually(lambda: asked(asker), 20.0)
        eventually(lambda: len(holders(daemon, beacon_address(daemon))) == 1)
        assert holders(daemon, beacon_address(daemon)) != owners
        daemon.signal()
        assert daemon.wait() == 0


def asked(asker: Asker) -> bool:
    try:
        return bool(asker.ask())
    except TimeoutError:
        return False


def holders(daemon: Daemon, address: str) -> list[int]:
    """The workers that have the beacon's socket open (proc(5))."""
    assert daemon.process is not None
    port = int(address.rpartition(":")[2])
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    # A set: one is listed twice where another socket is opened between two reads of the list.
    (inode,) = {line.split()[9] for line in lines if line.split()[1].endswith(f":{port:04X}")}
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if f"socket:[{inode}]" in links(pid).values()]


def test_beacon_takes_other_settings_when_it_is_told(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host, f'[beacon]\nlisten = ["{ANY}"]\nname = "before"\nanswers_per_second = 1000\n') as daemon:
        with Asker(beacon_address(daemon)) as asker:
            assert asker.ask().name == "before"
            daemon.reload('[beacon]\nlisten = ["127.0.0.1:1"]\nname = "after"\nanswers_per_second = 1000\n')
            eventually(lambda: asker.ask().name == "after")
        assert "changed=beacon.name" in daemon.log and "keys=beacon.listen" in daemon.log


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ('listen = ["unix:/tmp/x"]', "UDP has no Unix sockets"),
        ('listen = ["a b"]', "not an address"),
        ('name = "a\\u001b[2J"', "a name has no control characters"),
        (f'name = "{"n" * 65}"', "`beacon.name`: expected a string of length <= 64"),
        ("answers_per_second = 0", "`beacon.answers_per_second`: expected a whole number >= 1"),
    ],
)
def test_settings_of_the_beacon_that_cannot_be_are_refused(tmp_path: Path, settings_: str, said: str) -> None:
    from ftpy.config.server import load_server_config
    from ftpy.errors import ConfigError

    path = tmp_path / "server.toml"
    path.write_text(f'root = "files"\nlisten = ["{ANY}"]\n[beacon]\n{settings_}\n')
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_server_config(path)


def test_an_address_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    from ftpy.errors import ConfigError

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        host = Host(tmp_path / "host", beacon=Beacon(listen=[f"127.0.0.1:{taken.getsockname()[1]}"]))
        with pytest.raises(ConfigError, match=r"the beacon cannot listen on 127.0.0.1:.*: Address already in use"):
            host.start()
        assert host.service is not None
        host.service.close()
        host.service = None


def test_status_tells_of_the_beacon_in_one_json_object(tmp_path: Path) -> None:
    from tests.cli.administering import run

    host = Host(tmp_path / "host")
    with Daemon(host, f'[beacon]\nlisten = ["{ANY}"]\nname = "attic"\n') as daemon:
        with Asker(beacon_address(daemon)) as asker:
            asker.ask()

        def told() -> dict[str, object]:
            code, out, _ = run("status", "--json", "-c", host.folder / "server.toml")
            (beacon,) = [one for one in map(json.loads, out.splitlines()) if one["row"] == "beacon"]
            assert code == 0
            return beacon

        assert eventually(lambda: (now := told())["answered"] and now) == {
            "row": "beacon",
            "listening": [beacon_address(daemon)],
            "name": "attic",
            "answered": 1,
            "garbage": 0,
            "limited": 0,
            "failed": 0,
        }


def test_of_a_flood_only_so_many_are_looked_at_and_it_answers_afterwards(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host, f'[beacon]\nlisten = ["{ANY}"]\n') as daemon, Asker(beacon_address(daemon)) as asker:
        began = time.monotonic()
        for number in range(50_000):
            asker.socket.send(bytes(number % 100))
        assert (row := told(host)).garbage <= MOST_LOOKS * (BURST_SECONDS + time.monotonic() - began) + 1000, row
        asker.socket.settimeout(0.2)
        assert eventually(lambda: asked(asker), 20.0)
