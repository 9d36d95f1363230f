"""``ftpy ping`` and ``ftpy doctor`` as a user types them."""

from __future__ import annotations

import re
from pathlib import Path

from ftpy.cli.diagnosing import MOST_SIZE
from ftpy.client.doctor import CHECKS
from ftpy.wire.ping import PING_BYTES
from tests.cli.desk import Desk
from tests.rig import Host


def test_ping_tells_round_trips_and_throughput_both_ways(desk: Desk) -> None:
    ended = desk("ping", "-c", "3", "--seconds", "0.1")
    first, up, down = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"ftpy \S+: round trip min/avg/max [\d.]+/[\d.]+/[\d.]+ ms \(3 of them\)", first)
    for line, way in ((up, "up"), (down, "down")):
        assert re.fullmatch(rf"{way} +[\d.]+ \w+/s \([\d.]+ \w+ in \d+\.\d s\)", line)


def test_ping_in_json_is_in_seconds_and_bytes(desk: Desk) -> None:
    trips, up, down = desk("ping", "--json", "-c", "2", "--seconds", "0.1", "--size", "1000").objects
    assert 0 < trips["round_trip"]["min"] <= trips["round_trip"]["avg"] <= trips["round_trip"]["max"]
    assert [one["throughput"]["way"] for one in (up, down)] == ["up", "down"]
    assert up["throughput"]["bytes"] % 1000 == 0 < up["throughput"]["seconds"]
    assert len(desk("ping", "--json", "--seconds", "0").objects) == 1


def test_ping_is_used_wrongly_or_goes_nowhere(desk: Desk, tmp_path: Path, host: Host) -> None:
    desk("ping", "-c", "0").failed(2, "-c")
    assert MOST_SIZE == PING_BYTES
    desk("ping", "--size", "2M").failed(2, "--size: at most 1M")
    desk("ping", "--seconds", "61").failed(2, "--seconds")
    away = Desk(tmp_path / "away", host)
    away.pair(addresses=["127.0.0.1:9"])
    away("ping").failed(3, "no connection: 127.0.0.1:9")


def test_doctor_exits_with_0_where_nothing_failed(desk: Desk) -> None:
    ended = desk("doctor")
    lines = [line for line in ended.out.splitlines() if not line.startswith(" ")]
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[0] for line in lines] == list(CHECKS)
    found = desk("doctor", "home", "--json").objects
    assert [one["check"] for one in found] == list(CHECKS) and set(found[0]) == {"check", "verdict", "said", "advice"}


def test_doctor_exits_with_1_and_says_what_to_do_where_something_failed(desk: Desk, host: Host, tmp_path: Path) -> None:
    away = Desk(tmp_path / "away", host)
    ended = away("doctor")
    assert ended.code == 1 and "-> `ftpy pair NAME` makes it\n" in ended.out and ended.err == ""
    away.pair(addresses=["127.0.0.1:9"])
    ended = away("doctor", "-q")
    assert ended.code == 1 and [line.split()[:2] for line in ended.out.splitlines()] == [
        ["port", "failed"],
        ["->", "does"],
    ]
    desk("doctor", "a", "b").failed(2, "unexpected extra argument")
