"""``ftpy discover`` and ``ftpy time`` as a user types them."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.config.client import Profile, save_profile
from ftpy.config.server import Beacon
from tests.cli.desk import Desk
from tests.rig import Host, held_port, running

GENEROUS = {"answers_per_second": 10_000, "most_answers_per_second": 10_000}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Its beacon has the port of its server, as usual."""
    address = f"127.0.0.1:{held_port(tmp_path_factory)}"
    beacon = Beacon(listen=[address], name="attic", **GENEROUS)
    with running(tmp_path_factory.mktemp("beacon") / "host", listen=address, beacon=beacon) as made:
        yield made


def test_discover_lists_name_address_version_and_certificate(desk: Desk, host: Host) -> None:
    pin = host.profile().certificate_sha256
    ended = desk("discover", "--address", host.address)
    head, line = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, "")
    assert head.split() == ["NAME", "ADDRESS", "VERSION", "PAIRED", "CERTIFICATE", "(SHA-256)"]
    assert re.fullmatch(rf"attic +{host.address} +ftpy \S+ +home +{pin}", line)


def test_discover_in_json_tells_which_is_paired(desk: Desk, host: Host, tmp_path: Path) -> None:
    (one,) = desk("discover", "--json", "--address", host.address).objects
    assert (one["name"], one["addresses"], one["paired"]) == ("attic", [host.address], "home")
    assert one["certificate_sha256"] == host.profile().certificate_sha256 and abs(one["offset_seconds"]) < 5
    (other,) = Desk(tmp_path / "stranger", host)("discover", "--json", "--address", host.address).objects
    assert other["paired"] is None


def test_discover_fails_with_3_where_nobody_answers(desk: Desk) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        desk("discover", "--wait", "0.3", "--address", where).failed(
            3, r"no beacon: no answer within 0\.3 s; it is off"
        )
    desk("discover", "--address", "a b").failed(2, "not an address")
    desk("discover", "--port", "0").failed(2, "--port")


def test_time_shows_the_time_in_the_format_that_was_asked_for(desk: Desk) -> None:
    before = int(time.time())
    ended = desk("time", "--format", "%s")
    assert ended.code == 0 and before - 1 <= int(ended.out) <= time.time() + 1
    assert re.fullmatch(
        r"home: \S+ \w+ (ahead of|behind) this machine, to within \S+ \w+, by its beacon, unproven "
        r"\(5 of \d+ questions answered\)\n",
        ended.err,
    )
    ended = desk("time", "-q", "-s", "home")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", ended.out) and ended.err == ""
    assert desk("time", "-q", "--format", "a\x1b[2J%%").out == "a\\x1b[2J%\n"


def test_time_of_an_address_needs_no_pairing(host: Host, tmp_path: Path) -> None:
    (told,) = Desk(tmp_path / "stranger", host)("time", "--json", "--address", host.address).objects
    assert (told["source"], told["name"], told["answers"]) == ("beacon", "attic", 5)
    assert told["utc_offset_seconds"] == time.localtime().tm_gmtoff and told["delay_seconds"] >= 0


def test_time_is_that_of_an_authenticated_connection_where_there_is_no_beacon(tmp_path: Path) -> None:
    with running(tmp_path / "host") as host:
        desk = Desk(tmp_path / "desk", host)
        desk.pair()
        ended = desk("time", "--wait", "0.3")
        assert ended.code == 0 and re.fullmatch(r"[\d-]+ [\d:]+\n", ended.out)
        assert re.search(r"by its authenticated connection; zone not told, this is UTC \(no beacon: .*\)\n", ended.err)
        (told,) = desk("time", "--json", "--wait", "0.3").objects
        assert told["source"] == "welcome" and told["time"].endswith("+00:00") and "no beacon" in told["fallback"]
        assert abs(told["offset_seconds"]) <= told["delay_seconds"] + 1
    desk("time", "--wait", "0.3").failed(3, "no connection: ")


def test_time_that_is_proven_never_asks_the_beacon(desk: Desk) -> None:
    (told,) = desk("time", "--json", "--proven").objects
    assert told["source"] == "welcome" and "fallback" not in told


def test_time_over_a_unix_socket_is_that_of_the_connection(tmp_path: Path) -> None:
    folder = tmp_path / "host"
    with running(folder, listen=f"unix:{tmp_path}/s") as host:
        desk = Desk(tmp_path / "desk", host)
        profile = host.profile()
        save_profile(
            desk.config,
            "home",
            Profile(
                addresses=[f"unix:{tmp_path}/s"],
                user="alice",
                key=profile.key,
                certificate_sha256=profile.certificate_sha256,
            ),
        )
        (told,) = desk("time", "--json").objects
    assert told["source"] == "welcome" and "Unix socket" in told["fallback"]


def test_time_is_used_wrongly(desk: Desk, host: Host) -> None:
    desk("time", "--address", host.address, "-s", "home").failed(2, "--address goes with neither --proven nor -s")
    desk("time", "--wait", "0").failed(2, "--wait")
    desk("time", "-s", "hoem").failed(2, "did you mean home?")
    desk("time", "--address", "[::1").failed(2, "not an address")
