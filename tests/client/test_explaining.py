"""--explain names what limits: from made-up times, and from real transfers that are limited by one thing on purpose."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ftpy import timing
from ftpy.client import looks
from ftpy.client.explaining import LIMITS, End
from ftpy.client.listing import Listing
from ftpy.errors import Unsupported
from ftpy.server import verbs
from ftpy.storage import following, syscalls
from ftpy.wire.messages import TimesRequest
from tests.e2e.test_transfer import make
from tests.rig import FAST, Fault, Host, Proxy, running

MIB = 1024 * 1024


@pytest.fixture(params=[True, False], ids=["tls", "plain"])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    with running(tmp_path / "host", tls=request.param) as host:
        yield host
    assert timing.measuring() is None


@pytest.fixture
def plain_host(tmp_path: Path) -> Iterator[Host]:
    with running(tmp_path / "host", tls=False) as host:
        yield host


def end(**seconds: float) -> End:
    one = End()
    one.add(seconds, {})
    return one


@pytest.mark.parametrize(
    ("sender", "receiver", "limit"),
    [
        ({"disk": 5, "sending": 1}, {"receiving": 6}, "the disk that is read"),
        ({"sending": 5, "disk": 1}, {"disk": 5, "receiving": 1}, "the disk that is written"),
        ({"sending": 5, "disk": 1}, {"sync": 5, "receiving": 1}, "making it durable (fsync)"),
        ({"hashing": 5, "disk": 1}, {"receiving": 6}, "hashing"),
        ({"sending": 4, "other": 2}, {"hashing": 5, "receiving": 1}, "hashing"),
        ({"encryption": 4, "disk": 2}, {"encryption": 3, "receiving": 3}, "encryption"),
        ({"sending": 5, "other": 1}, {"receiving": 5, "disk": 1}, "the line"),
        ({"receiving": 5, "other": 1}, {"receiving": 5, "disk": 1}, "the line"),
        ({"sending": 1, "other": 5}, {"receiving": 6}, "work for every file and request"),
        ({"pacing": 5, "other": 1}, {"receiving": 6}, "--limit"),
        ({"idle": 50, "disk": 5, "sending": 1}, {"receiving": 6}, "the disk that is read"),
    ],
)
def test_the_largest_share_of_one_end_limits_and_the_line_where_both_wait(
    sender: dict[str, float], receiver: dict[str, float], limit: str
) -> None:
    ends = end(**sender), end(**receiver)
    assert max(LIMITS, key=lambda one: one.share(*ends)).name == limit


def placed(host: Host, source: Path, size: int) -> None:
    """A file on both sides."""
    make(source, size)
    with host.client() as client:
        client.put(source, "x")


def explained(host: Host, source: Path, way: str, **options: Any) -> Any:
    return timed(host, source, way, **options)[0]


def timed(host: Host, source: Path, way: str, **options: Any) -> tuple[Any, float]:
    """What it says of a put or get, and how many seconds that took."""
    with host.client(explains=True, **options) as client:
        began = time.monotonic()
        if way == "put":
            client.put(source, "x")
        else:
            client.get("x", source, force=True)
        explanation = client.explain(way)  # type: ignore[arg-type]
        taken = time.monotonic() - began
    assert explanation is not None
    return explanation, taken


@pytest.mark.parametrize("way", ["put", "get"])
def test_both_ends_account_for_the_whole_time(host: Host, tmp_path: Path, way: str) -> None:
    placed(host, tmp_path / "source", 40 * MIB)
    explanation, taken = timed(host, tmp_path / ("source" if way == "put" else "target"), way)
    for side in (explanation.here, explanation.there):
        assert 0.3 * taken < side.total + side.seconds["idle"] and 0 < side.total < taken + 0.05
        assert side.seconds["encryption" if host.tls else "copying"] > 0
    assert explanation.there.seconds["disk"] > 0 and 0 < explanation.share <= 1


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_slow_line_is_told(plain_host: Host, tmp_path: Path, way: str) -> None:
    placed(plain_host, tmp_path / "source", 8 * MIB)
    slow = Fault(pause_seconds=0.005)
    with Proxy(plain_host.address, (slow, slow)) as proxy:
        explanation = explained(plain_host, tmp_path / "source", way, address=proxy.address)
    assert explanation.limit.startswith("the line") and explanation.share > 0.5


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_limit_is_kept_and_told(host: Host, tmp_path: Path, way: str) -> None:
    placed(host, tmp_path / "source", 2 * MIB)
    began = time.monotonic()
    explanation = explained(host, tmp_path / "source", way, limit=2 * MIB)
    assert time.monotonic() - began > 0.8 and explanation.limit == "--limit"


def test_a_disk_that_syncs_slowly_is_told(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "source", 1000)
    fsync = syscalls.os.fsync

    def slow(fd: int) -> None:
        time.sleep(0.2)
        fsync(fd)

    monkeypatch.setattr(syscalls.os, "fsync", slow)
    assert explained(host, tmp_path / "source", "put").limit == "making it durable (fsync)"


def test_slow_hashing_there_is_told(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(host, tmp_path / "source", 40 * MIB)
    update = following.Follower._hash

    def slow(self: Any, view: memoryview) -> None:
        time.sleep(0.06)  # all that hashes takes 2.4 s, far more than the rest on a busy machine
        update(self, view)

    monkeypatch.setattr(following.Follower, "_hash", slow)
    with host.client(explains=True) as client:
        client.get("x", tmp_path / "target", digest="blake3")
        explanation = client.explain("get")
    assert explanation is not None and explanation.limit == "hashing"


def test_every_connection_of_several_counts(plain_host: Host, tmp_path: Path) -> None:
    make(tmp_path / "source", 96 * MIB)
    slow = Fault(pause_seconds=0.001)
    with Proxy(plain_host.address, (slow, slow)) as proxy:
        four = structs.replace(FAST, streams=4)
        explanation, taken = timed(plain_host, tmp_path / "source", "put", address=proxy.address, transfer=four)
    for side in (explanation.here, explanation.there):
        assert side.total + side.seconds["idle"] > 2 * taken


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_connection_that_went_to_a_long_listing_does_not_count(
    host: Host, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "LISTING_SECONDS", 0.0)
    monkeypatch.setattr(looks, "LISTING_ROUND_TRIPS", 0)
    (tmp_path / "tree").mkdir()
    make(tmp_path / "tree" / "large", 40 * MIB)
    with host.client() as client:
        client.put_tree(tmp_path / "tree", "tree")
    listed = Listing.wait
    monkeypatch.setattr(Listing, "wait", lambda self, seconds: bool(seconds) and listed(self, seconds))
    with host.client(explains=True) as client:
        began = time.monotonic()
        if way == "put":
            os.utime(tmp_path / "tree" / "large", (1, 1))
            client.put_tree(tmp_path / "tree", "tree")
        else:
            client.get_tree("tree", tmp_path / "back")
        explanation = client.explain(way)  # type: ignore[arg-type]
        taken = time.monotonic() - began
    assert explanation is not None
    for side in (explanation.here, explanation.there):
        assert 0.3 * taken < side.total + side.seconds["idle"] and 0 < side.total < taken + 0.05


def test_the_end_of_an_old_server_stays_unknown(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise Unsupported("this server does not know the verb 'times'")

    monkeypatch.setitem(verbs.VERBS, TimesRequest, verbs.Verb(unsupported))
    make(tmp_path / "source", 3 * MIB)
    explanation = explained(host, tmp_path / "source", "put")
    assert explanation.there.total == 0 and explanation.here.total > 0


def test_who_does_not_explain_measures_nothing(host: Host, tmp_path: Path) -> None:
    make(tmp_path / "source", 1000)
    with host.client() as client:
        client.put(tmp_path / "source", "x")
        assert client.explain("put") is None and timing.measuring() is None
