"""Asking beacons over a line that loses, doubles, reorders and forges: what is believed, and when it is given up."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.client import beacon
from ftpy.client.beacon import SAMPLES, ask_time, discover
from ftpy.client.clock import Clock, offset_and_delay, written
from ftpy.config.server import Beacon
from ftpy.errors import ConnectionFailed, NoBeacon
from ftpy.transport.datagrams import targets_around, targets_of
from ftpy.wire.beacon import GROUP, NONCE_BYTES, QUESTION_BYTES, read_answer, tell
from ftpy.wire.spelling import b64encode
from tests.rig import Host, running
from tests.udp import UdpProxy

GENEROUS = Beacon(listen=["127.0.0.1:0"], name="attic", answers_per_second=100_000, most_answers_per_second=100_000)
PATIENT = 20.0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running(tmp_path_factory.mktemp("beacon") / "host", beacon=GENEROUS) as made:
        yield made


def address(host: Host) -> str:
    assert host.service is not None
    (row,) = host.service.beacon_rows()
    return row.listening[0]


def pin(host: Host) -> str | None:
    return host.profile().certificate_sha256


NS = st.integers(-(2**62), 2**62)


@given(t1=NS, ahead=NS, up=st.integers(0, 2**40), work=st.integers(0, 2**40), down=st.integers(0, 2**40))
def test_offset_is_wrong_by_at_most_half_of_the_delay(t1: int, ahead: int, up: int, work: int, down: int) -> None:
    t2 = t1 + up + ahead
    t3 = t2 + work
    t4 = t3 - ahead + down
    offset, delay = offset_and_delay(t1, t2, t3, t4)
    assert delay == up + down
    assert abs(offset - ahead) <= delay / 2 + 1


def test_time_is_that_of_the_host(host: Host) -> None:
    reading = ask_time([address(host)], pin(host))
    assert abs(reading.clock.offset_ns) <= reading.clock.delay_ns
    assert (reading.clock.source, reading.name, reading.answers, reading.dropped) == ("beacon", "attic", SAMPLES, 0)
    assert abs(reading.clock.now() - datetime.now(UTC)) < timedelta(seconds=PATIENT)


@pytest.mark.slow
def test_time_is_told_when_two_of_three_datagrams_are_lost_each_way(host: Host) -> None:
    chance = random.Random(1)
    plan = [[[0.0] if chance.random() < 1 / 3 else [] for _ in range(1000)] for _ in range(2)]
    with UdpProxy(address(host), plan[0].__getitem__, plan[1].__getitem__) as proxy:
        reading = ask_time([proxy.address], pin(host), seconds=PATIENT)
    assert 1 <= reading.answers <= SAMPLES < reading.asked


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked again."""
    monkeypatch.setattr(beacon, "AGAIN_SECONDS", PATIENT)


@pytest.mark.usefixtures("patient")
def test_doubled_answers_count_once(host: Host) -> None:
    with UdpProxy(address(host), down=lambda _: [0.0, 0.0, 0.0]) as proxy:
        reading = ask_time([proxy.address], pin(host), seconds=PATIENT)
    assert (reading.answers, reading.asked) == (SAMPLES, SAMPLES)
    assert reading.dropped >= 1


@pytest.mark.usefixtures("patient")
def test_doubled_questions_count_once(host: Host) -> None:
    with UdpProxy(address(host), up=lambda _: [0.0, 0.0]) as proxy:
        assert ask_time([proxy.address], pin(host), seconds=PATIENT).asked == SAMPLES


def test_answers_out_of_order_belong_to_their_questions_and_the_fastest_counts(host: Host) -> None:
    # The first takes longer than it takes to be asked again: it arrives among later ones.
    delays = [0.6, 0.4, 0.0, 0.05, 0.05, 0.05]
    with UdpProxy(address(host), down=lambda n: [delays[min(n, 5)]]) as proxy:
        reading = ask_time([proxy.address], pin(host), seconds=PATIENT)
    assert reading.answers == SAMPLES
    assert reading.clock.delay_ns < 300_000_000
    assert abs(reading.clock.offset_ns) <= reading.clock.delay_ns


def test_forged_and_senseless_datagrams_are_dropped_and_counted(host: Host) -> None:
    def forge(data: bytes) -> list[bytes]:
        true = read_answer(data)
        other = msgspec.structs.replace(true, nonce=b64encode(bytes(NONCE_BYTES)), name="evil")
        backwards = data.replace(b'"sent_ns":', b'"sent_ns":-')
        return [b"", bytes(5000), b"{}", tell(other), backwards, data + b" " * QUESTION_BYTES]

    with UdpProxy(address(host), forge=forge) as proxy:
        reading = ask_time([proxy.address], pin(host), seconds=PATIENT)
    assert (reading.name, reading.answers) == ("attic", SAMPLES)
    assert reading.dropped >= 5 * (SAMPLES - 1)


def test_an_answer_that_took_less_than_no_time_is_dropped(host: Host) -> None:
    def forge(data: bytes) -> list[bytes]:
        true = read_answer(data)
        return [tell(msgspec.structs.replace(true, sent_ns=true.sent_ns + 10**15, name="evil"))]

    with UdpProxy(address(host), forge=forge) as proxy:
        assert ask_time([proxy.address], pin(host), seconds=PATIENT).name == "attic"


def test_a_beacon_of_another_certificate_does_not_count(host: Host) -> None:
    with pytest.raises(NoBeacon, match=r"no answer within 2 s, [1-9]\d* datagrams that were no answers of its"):
        ask_time([address(host)], "0" * 64, seconds=2.0)


def test_silence_is_an_error_after_the_limit() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(NoBeacon, match=r"no beacon: no answer within 0\.5 s; it is off unless"):
            ask_time([where], seconds=0.5)
        with pytest.raises(NoBeacon, match=r"no answer within 0\.5 s"):
            discover([where], seconds=0.5)
        assert time.monotonic() - began >= 1.0


@pytest.mark.skipif(not hasattr(socket, "MSG_ERRQUEUE"), reason="only Linux tells a socket that is not connected")
@pytest.mark.parametrize("host_", ["127.0.0.1", "[::1]"])
def test_a_closed_port_is_an_error_at_once(host_: str) -> None:
    began = time.monotonic()
    with pytest.raises(NoBeacon, match="nobody listens there"):
        ask_time([f"{host_}:9"], seconds=60.0)
    assert time.monotonic() - began < 30.0


def test_a_name_that_leads_nowhere_is_one_line_and_another_address_is_asked(host: Host) -> None:
    with pytest.raises(ConnectionFailed, match=r"nowhere\.invalid"):
        ask_time(["nowhere.invalid:7421"])
    assert ask_time(["nowhere.invalid:7421", "unix:/nowhere", address(host)], pin(host)).answers == SAMPLES
    with pytest.raises(ConnectionFailed, match="no beacon behind a Unix socket"):
        ask_time(["unix:/nowhere"])


def test_discover_finds_a_server_once_over_a_line_that_loses_and_doubles(host: Host) -> None:
    with UdpProxy(address(host), up=lambda n: [0.0] if n else [], down=lambda _: [0.0, 0.0]) as proxy:
        (found,) = discover([proxy.address], seconds=PATIENT / 10)
    assert (found.name, found.certificate_sha256) == ("attic", pin(host))
    assert found.addresses == [host.address]


def test_discover_lists_one_server_at_several_addresses_once_and_others_by_name(host: Host, tmp_path: Path) -> None:
    other = Beacon(listen=["127.0.0.1:0"], name="cellar")
    with running(tmp_path / "other", tls=False, beacon=other) as second, UdpProxy(address(host)) as proxy:
        found = discover([address(second), address(host), proxy.address], seconds=2.0)
    assert [(one.name, one.addresses) for one in found] == [("attic", [host.address]), ("cellar", [second.address])]
    assert [one.certificate_sha256 for one in found] == [pin(host), None]


def test_everybody_is_asked_by_broadcast_and_on_every_interface() -> None:
    targets = list(targets_around(7421, GROUP))
    assert (socket.AF_INET, ("255.255.255.255", 7421)) in targets
    assert [target[1][0] for target in targets if target[0] == socket.AF_INET6] == [GROUP] * len(socket.if_nameindex())
    assert targets_of("127.0.0.1", 1) == [(socket.AF_INET, ("127.0.0.1", 1))]


def test_discover_finds_a_server_of_this_machine_without_knowing_its_address(tmp_path: Path) -> None:
    with running(tmp_path / "host", beacon=Beacon(listen=["0.0.0.0:0"], name="everywhere")) as made:
        port = int(address(made).rpartition(":")[2])
        (found,) = discover(port=port)
    assert found.name == "everywhere"
    assert {one.rpartition(":")[2] for one in found.addresses} == {made.address.rpartition(":")[2]}


def test_a_time_is_written_as_asked_in_the_zone_of_the_host() -> None:
    moment = datetime(2026, 11, 26, 15, 30, 5, tzinfo=timezone(timedelta(hours=8), "CST"))
    assert written(moment, "%Y-%m-%d %X %Z %z") == "2026-11-26 15:30:05 CST +0800"
    assert written(moment, "%s %%s") == f"{int(moment.timestamp())} %s"
    assert written(moment, "") == ""
    clock = Clock(3600 * 10**9, 0, "beacon", -18_000, "EST")
    assert abs(clock.now() - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=PATIENT)
    assert clock.now().strftime("%z %Z") == "-0500 EST"
    assert Clock(0, 0, "welcome").now().utcoffset() == timedelta(0)


@given(NS, st.integers(0, 10**9))
def test_clock_of_a_welcome_is_that_of_the_middle_of_its_round_trip(ahead: int, delay_ns: int) -> None:
    now = 10**18
    clock = Clock.of_welcome(now - delay_ns // 2 + ahead, now, delay_ns / 1e9)
    assert abs(clock.offset_ns - ahead) <= 1 and abs(clock.delay_ns - delay_ns) <= 1


def test_client_knows_the_clock_of_its_server(host: Host) -> None:
    with host.client() as client:
        assert client.clock.source == "welcome"
        assert abs(client.clock.offset_ns) <= client.clock.delay_ns + 1_000_000_000
