"""put and get over several connections: equal files, nothing lost, and no more moved than is missing."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ftpy.client import streams as policy
from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.client.lines import Line, endless, nothing
from ftpy.client.results import Progress
from ftpy.client.streams import _Team
from ftpy.client.trees import Tally
from ftpy.client.work import Job
from ftpy.config.server import Limits
from ftpy.errors import Changed, ConnectionLost, DigestMismatch, ProtocolError, SourceChanged
from ftpy.server import reading
from ftpy.storage.base import KnownDigest, Reader
from ftpy.storage.partwriting import LocalPartWriter
from tests.e2e.test_transfer import cut_off, make, partials
from tests.rig import FAST, Fault, Host, Proxy, eventually, running

MIB = 1024 * 1024
FOUR = structs.replace(FAST, streams=4)
PASS = (Fault(), Fault())


def over(host: Host, count: int | str, proxy: Proxy | None = None, **options: object) -> Client:
    """A client that uses so many connections."""
    transfer = structs.replace(FAST, streams=count)
    address = proxy.address if proxy else None
    return host.client(address=address, transfer=transfer, **options)


def slow(after: int = 0) -> tuple[Fault, Fault]:
    """A line of some 12 MB/s at most, so that none is through before another has begun; cut behind ``after``."""
    one = Fault("cut" if after else "none", after, pause_seconds=0.005)
    return one, one


def only_threads_of(before: set[threading.Thread]) -> None:
    """None of a transfer's are left; who was only about to connect leaves by itself, and is not waited for."""
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("ftpy-stream")])


@pytest.mark.parametrize("digest", ["md5", "blake3"])
@pytest.mark.parametrize("size", [0, 5, 2 * MIB, 2 * MIB + 1, 9 * MIB, 60 * MIB + 12_345])
def test_a_file_arrives_equal_over_four_connections(host: Host, tmp_path: Path, size: int, digest: str) -> None:
    data = make(tmp_path / "source", size)
    with over(host, 4) as client:
        stored = client.put(tmp_path / "source", "x", digest=digest)  # type: ignore[arg-type]
        fetched = client.get("x", tmp_path / "target", digest=digest)  # type: ignore[arg-type]
    assert (host.root / "x").read_bytes() == (tmp_path / "target").read_bytes() == data
    assert stored.digest == fetched.digest and stored.size == fetched.size == size
    assert stored.resumed == fetched.resumed == 0
    assert host.uploads == [] and partials(tmp_path) == []


def test_every_connection_does_something(host: Host, tmp_path: Path) -> None:
    data = make(tmp_path / "source", 96 * MIB)
    for way in (0, 1):
        with Proxy(host.address, slow()) as proxy, over(host, 4, proxy) as client:
            if way == 0:
                client.put(tmp_path / "source", "x")
            else:
                client.get("x", tmp_path / "target")
        assert proxy.connections == 4 and all(passed[way] > 8 * MIB for passed in proxy.by_connection)
        assert proxy.passed[way] < 97 * MIB
    assert (tmp_path / "target").read_bytes() == data


def test_a_get_whose_progress_raises_as_it_begins_leaves_no_thread(host: Host, tmp_path: Path) -> None:
    make(host.root / "x", 20 * MIB)
    before = set(threading.enumerate())

    told: list[Progress] = []

    def broken(progress: Progress) -> None:
        if progress in told:  # how far it was before, where what is left is shared out
            raise ZeroDivisionError
        told.append(progress)

    with over(host, 4) as client, pytest.raises(ZeroDivisionError):
        client.get("x", tmp_path / "target", on_progress=broken)
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.name == "ftpy-digest"])


def test_progress_over_several_connections_comes_one_at_a_time_and_only_grows(host: Host, tmp_path: Path) -> None:
    make(tmp_path / "source", 64 * MIB)
    seen: list[Progress] = []
    at_once, most = [0], [0]

    def on_progress(progress: Progress) -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        seen.append(progress)
        at_once[0] -= 1

    with over(host, 4) as client:
        client.put(tmp_path / "source", "x", on_progress=on_progress)
        sent, seen[:] = list(seen), []
        client.get("x", tmp_path / "target", on_progress=on_progress)
    for phase, found in (("sending", sent), ("receiving", seen)):
        done = [progress.done for progress in found if progress.phase == phase]
        assert done == sorted(done) and done[-1] == 64 * MIB and len(done) >= 8
    assert most[0] == 1


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_nothing_is_lost_when_one_of_four_connections_is_cut(host: Host, tmp_path: Path, lost: int) -> None:
    data = make(tmp_path / "source", 96 * MIB)
    for way in (0, 1):
        faults = [slow(13 * MIB) if number == lost else slow() for number in range(4)]
        with Proxy(host.address, *faults, PASS) as proxy, over(host, 4, proxy) as client:
            if way == 0:
                client.put(tmp_path / "source", "x")
            else:
                client.get("x", tmp_path / "target")
        assert proxy.connections >= 4 and proxy.passed[way] < (96 + 13 + 2) * MIB  # all that the lost one passed
    assert (tmp_path / "target").read_bytes() == (host.root / "x").read_bytes() == data
    assert host.uploads == [] and partials(tmp_path) == []


def test_nothing_is_lost_when_all_connections_are_cut_again_and_again(plain_host: Host, tmp_path: Path) -> None:
    """A cut comes before any range is through: what came of each counts all the same."""
    data = make(plain_host.root / "x", 64 * MIB)
    faults = [(Fault(), Fault("cut", 5 * MIB, pause_seconds=0.001))] * 12
    with Proxy(plain_host.address, *faults, PASS) as proxy, over(plain_host, 4, proxy) as client:
        client.get("x", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data and proxy.passed[1] < (64 + 13) * MIB


def test_one_part_that_arrives_broken_is_sent_again_alone(plain_host: Host, tmp_path: Path) -> None:
    data = make(tmp_path / "source", 64 * MIB)
    for way in (0, 1):
        flip = Fault("flip", 6 * MIB, pause_seconds=0.005)
        fault = (flip, slow()[1]) if way == 0 else (slow()[0], flip)
        with Proxy(plain_host.address, slow(), fault, slow()) as proxy, over(plain_host, 4, proxy) as client:
            if way == 0:
                client.put(tmp_path / "source", "x")
            else:
                client.get("x", tmp_path / "target")
        assert proxy.connections == 4
        assert 72 * MIB <= proxy.passed[way] < 73 * MIB
    assert (tmp_path / "target").read_bytes() == (plain_host.root / "x").read_bytes() == data


def test_what_arrives_broken_every_time_is_tried_three_times(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "source", 40 * MIB)
    make(plain_host.root / "there", 40 * MIB)
    tried: list[int] = []
    finish, send_range = LocalPartWriter.finish, reading._send_range

    def finish_wrongly(part: LocalPartWriter, digest: str) -> None:
        if part._number == 1:
            tried.append(1)
            digest = "0" * 32
        finish(part, digest)

    def send_wrongly(reader: Reader, offset: int, *arguments: Any) -> KnownDigest:
        digest = send_range(reader, offset, *arguments)
        if offset != 8 * MIB:
            return digest
        tried.append(2)
        return KnownDigest("blake3", "0" * 64)

    monkeypatch.setattr(LocalPartWriter, "finish", finish_wrongly)
    monkeypatch.setattr(reading, "_send_range", send_wrongly)
    with over(plain_host, 3) as client:
        with pytest.raises(DigestMismatch):
            client.put(tmp_path / "source", "x")
        with pytest.raises(DigestMismatch):
            client.get("there", tmp_path / "target")
    assert tried == [1] * 3 + [2] * 3 and not (plain_host.root / "x").exists() and not (tmp_path / "target").exists()


def test_a_whole_that_is_not_what_the_server_knows_of_is_told_and_dropped(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(plain_host.root / "there", 40 * MIB)
    monkeypatch.setattr(reading, "_compute", lambda *_: "0" * 32)
    with over(plain_host, 3) as client, pytest.raises(DigestMismatch):
        client.get("there", tmp_path / "target")
    assert list(tmp_path.glob(".ftpy*")) == [] and not (tmp_path / "target").exists()


def interrupted(host: Host, folder: Path, after: int) -> Path:
    """What is left of a get over four connections that were all cut, and could not be made anew."""
    folder.mkdir()
    once = structs.replace(FOUR, retries=0)
    with (
        Proxy(host.address, (Fault(), Fault("cut", after)), together=4) as proxy,
        pytest.raises(ConnectionLost),
        host.client(address=proxy.address, transfer=once) as client,
    ):
        client.get("x", folder / "x")
    data, journal = partials(folder)
    assert journal.endswith(".ranges") and data.endswith(".ranged")
    return folder / journal


@pytest.mark.parametrize("count", [1, 4, "auto"])
def test_a_get_with_holes_goes_on_with_what_is_missing_over_any_number(
    host: Host, tmp_path: Path, count: int | str
) -> None:
    data = make(host.root / "x", 96 * MIB)
    interrupted(host, tmp_path / "here", 11 * MIB)
    with Proxy(host.address) as proxy, over(host, count, proxy) as client:
        fetched = client.get("x", tmp_path / "here" / "x")
    assert fetched.resumed > 30 * MIB and proxy.passed[1] < 96 * MIB - fetched.resumed + MIB
    assert (tmp_path / "here" / "x").read_bytes() == data and partials(tmp_path / "here") == []


def test_a_file_with_holes_is_not_believed_without_its_journal(plain_host: Host, tmp_path: Path) -> None:
    data = make(plain_host.root / "x", 96 * MIB)
    interrupted(plain_host, tmp_path / "here", 11 * MIB).unlink()
    with plain_host.client() as client:
        assert client.get("x", tmp_path / "here" / "x").resumed == 0
    assert (tmp_path / "here" / "x").read_bytes() == data and partials(tmp_path / "here") == []


@pytest.mark.parametrize("count", [1, 4])
def test_only_what_a_power_cut_took_is_fetched_again(plain_host: Host, tmp_path: Path, count: int) -> None:
    """The journal names a range whose bytes never reached the disk."""
    data = make(plain_host.root / "x", 96 * MIB)
    journal = interrupted(plain_host, tmp_path / "here", 20 * MIB)
    verified = [line.split() for line in journal.read_text().splitlines()]
    offset, length = next((int(line[0]), int(line[1])) for line in verified if line[2] != "-")
    unverified = sum(int(line[1]) for line in verified if line[2] == "-")
    with open(journal.with_suffix(".ranged"), "r+b") as file:
        file.seek(offset)
        file.write(bytes(4096))
    said: list[str] = []
    with Proxy(plain_host.address) as proxy, over(plain_host, count, proxy, notify=said.append) as client:
        fetched = client.get("x", tmp_path / "here" / "x")
    assert (tmp_path / "here" / "x").read_bytes() == data and partials(tmp_path / "here") == []
    assert [line for line in said if "fetching them again" in line]
    assert proxy.passed[1] < 96 * MIB - fetched.resumed + length + unverified + MIB


def test_a_get_begun_over_one_connection_goes_on_over_four(host: Host, tmp_path: Path) -> None:
    data = make(host.root / "x", 96 * MIB)
    (tmp_path / "here").mkdir()
    with cut_off(host, down=30 * MIB) as client:
        client.get("x", tmp_path / "here" / "x")
    with Proxy(host.address) as proxy, over(host, 4, proxy) as client:
        fetched = client.get("x", tmp_path / "here" / "x")
    assert fetched.resumed > 25 * MIB and proxy.passed[1] < 96 * MIB - fetched.resumed + MIB
    assert (tmp_path / "here" / "x").read_bytes() == data and partials(tmp_path / "here") == []


def test_a_put_goes_on_over_another_number_of_connections(host: Host, tmp_path: Path) -> None:
    data = make(tmp_path / "source", 96 * MIB)
    once = structs.replace(FOUR, retries=0)
    with (
        Proxy(host.address, (Fault("cut", 13 * MIB, pause_seconds=0.001), Fault())) as proxy,
        pytest.raises(ConnectionLost),
        host.client(address=proxy.address, transfer=once) as client,
    ):
        client.put(tmp_path / "source", "x")
    with over(host, 1) as client:
        assert client.put(tmp_path / "source", "x").resumed >= 8 * MIB
    assert (host.root / "x").read_bytes() == data and host.uploads == []


def test_four_connections_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    data = make(tmp_path / "source", 96 * MIB)
    with running(tmp_path / "host", tls=False, limits=Limits(drain_seconds=0.1)) as plain_host:
        survive_a_restart(plain_host, tmp_path, data)


def survive_a_restart(plain_host: Host, tmp_path: Path, data: bytes) -> None:
    restarted = threading.Event()

    def restart_at(progress: Progress) -> None:
        if progress.done >= 40 * MIB and not restarted.is_set():
            restarted.set()
            plain_host.stop()
            plain_host.start()

    with over(plain_host, 4) as client:
        client.put(tmp_path / "source", "x", on_progress=restart_at)
        assert restarted.is_set()
        restarted.clear()
        client.get("x", tmp_path / "target", on_progress=restart_at)
    assert restarted.is_set()
    assert (tmp_path / "target").read_bytes() == (plain_host.root / "x").read_bytes() == data


def test_a_get_over_several_connections_starts_over_when_the_file_changes(host: Host, tmp_path: Path) -> None:
    make(host.root / "x", 64 * MIB, 1)
    new: list[bytes] = []

    def on_progress(progress: Progress) -> None:
        if progress.done >= 20 * MIB and not new:
            new.append(make(host.root / "new", 48 * MIB, 2))
            os.rename(host.root / "new", host.root / "x")

    said: list[str] = []
    with Proxy(host.address, slow()) as proxy, over(host, 4, proxy, notify=said.append) as client:
        client.get("x", tmp_path / "target", on_progress=on_progress)
    assert (tmp_path / "target").read_bytes() == new[0] and partials(tmp_path) == []
    assert [line for line in said if "changed on the server" in line]


def test_a_get_over_several_connections_gives_up_when_the_file_changes_all_the_time(
    plain_host: Host, tmp_path: Path
) -> None:
    make(plain_host.root / "x", 40 * MIB)
    at = [0]

    def on_progress(progress: Progress) -> None:
        if progress.phase == "receiving" and progress.done > 4 * MIB:
            at[0] += 1
            os.utime(plain_host.root / "x", (at[0], at[0]))

    with over(plain_host, 4) as client, pytest.raises(Changed):
        client.get("x", tmp_path / "target", on_progress=on_progress)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, MIB), lambda path: os.utime(path, (1, 1))])
def test_a_source_that_changes_under_several_connections_is_told_and_not_stored(
    host: Host, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    make(tmp_path / "source", 96 * MIB)
    changed = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.done >= 16 * MIB and not changed.is_set():
            changed.set()
            change(tmp_path / "source")

    before = set(threading.enumerate())
    with over(host, 4) as client, pytest.raises(SourceChanged):
        client.put(tmp_path / "source", "x", on_progress=on_progress)
    assert changed.is_set() and not (host.root / "x").exists() and host.uploads == []
    only_threads_of(before)


def test_what_a_server_refuses_is_done_without(tmp_path: Path) -> None:
    data = make(tmp_path / "source", 64 * MIB)
    with running(tmp_path / "host", tls=False, limits=Limits(connections_per_address=2)) as host:
        said: list[str] = []
        with over(host, 4, notify=said.append) as client:
            client.put(tmp_path / "source", "x")
            client.get("x", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == (host.root / "x").read_bytes() == data
    assert len(said) == 2 and all("not all of 4 connections could be had" in line for line in said)


@pytest.mark.parametrize("count", [1, "auto"])
def test_on_a_short_line_there_is_one_connection_and_no_thread_for_another(
    plain_host: Host, tmp_path: Path, count: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a handshake takes on a busy machine says nothing about its line.
    monkeypatch.setattr(policy, "NEAR_SECONDS", 1.0)
    make(tmp_path / "source", 64 * MIB)
    names: set[str] = set()

    def on_progress(_: Progress) -> None:
        names.update(thread.name for thread in threading.enumerate())

    with Proxy(plain_host.address) as proxy, over(plain_host, count, proxy) as client:
        client.put(tmp_path / "source", "x", on_progress=on_progress)
        client.get("x", tmp_path / "target", on_progress=on_progress)
    assert proxy.connections == 1
    assert not [name for name in names if name.startswith(("ftpy-stream", "ftpy-conductor"))]


def test_a_round_trip_is_what_the_line_takes(plain_host: Host) -> None:
    far = Fault(delay_seconds=0.05)
    with Proxy(plain_host.address, (far, far)) as proxy, plain_host.client(address=proxy.address) as client:
        assert 0.1 <= client._connected().round_trip_seconds < 3


LONG = Fault(delay_seconds=0.02, window_bytes=256 * 1024)
"""A line that gives one connection some 13 MB/s, however many there are."""


@pytest.mark.slow
@pytest.mark.parametrize("way", [0, 1])
def test_a_long_line_gets_more_connections_by_itself(
    plain_host: Host, tmp_path: Path, way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MEASURE_SECONDS", 0.3)
    monkeypatch.setattr(policy, "WORTH_SECONDS", 0.5)
    data = make(tmp_path / "source", 192 * MIB)
    (plain_host.root / "there").write_bytes(data)
    fault = (LONG, Fault()) if way == 0 else (Fault(), LONG)
    with Proxy(plain_host.address, fault) as proxy, over(plain_host, "auto", proxy) as client:
        if way == 0:
            client.put(tmp_path / "source", "x")
            assert (plain_host.root / "x").read_bytes() == data
        else:
            client.get("there", tmp_path / "x")
            assert (tmp_path / "x").read_bytes() == data
    assert proxy.connections >= 4 and all(passed[way] > 4 * MIB for passed in proxy.by_connection[:4])


class Interrupt(BaseException):
    """What Ctrl-C raises, without a signal."""


@pytest.mark.parametrize("way", ["put", "get"])
def test_an_interrupt_ends_all_connections(plain_host: Host, tmp_path: Path, way: str) -> None:
    make(tmp_path / "source", 96 * MIB)
    make(plain_host.root / "there", 96 * MIB)
    main, before = threading.current_thread(), set(threading.enumerate())

    def on_progress(progress: Progress) -> None:
        if progress.done > 20 * MIB and threading.current_thread() is main:
            raise Interrupt

    with (
        Proxy(plain_host.address, slow()) as proxy,
        over(plain_host, 4, proxy) as client,
        pytest.raises(Interrupt),
    ):
        if way == "put":
            client.put(tmp_path / "source", "x", on_progress=on_progress)
        else:
            client.get("there", tmp_path / "x", on_progress=on_progress)
    only_threads_of(before)
    assert proxy.passed[0 if way == "put" else 1] < 90 * MIB
    if way == "get":
        assert hashlib.md5((plain_host.root / "there").read_bytes()).hexdigest()
        assert len(partials(tmp_path)) == 2


# ------------------------------------------------------------------ a large file of a tree


def a_tree_with_one_large_file(folder: Path) -> bytes:
    (folder / "below").mkdir(parents=True)
    for number in range(20):
        (folder / "below" / f"{number}").write_bytes(bytes([number]) * 100)
    return make(folder / "large", 96 * MIB)


@pytest.mark.parametrize("way", [0, 1], ids=["put", "get"])
@pytest.mark.parametrize("lost", [None, 0, 2], ids=["whole", "first-lost", "third-lost"])
def test_connections_with_nothing_else_to_do_join_in_at_a_large_file(
    plain_host: Host, tmp_path: Path, way: int, lost: int | None
) -> None:
    source, target = (tmp_path, plain_host.root)[:: 1 if way == 0 else -1]
    data = a_tree_with_one_large_file(source / "tree")
    faults = [slow(13 * MIB) if number == lost else slow() for number in range(4)]
    with Proxy(plain_host.address, *faults, PASS) as proxy, over(plain_host, 4, proxy) as client:
        result = client.put_tree(source / "tree", "tree") if way == 0 else client.get_tree("tree", target / "tree")
    assert (result.files, result.failed) == (21, 0) and (target / "tree" / "large").read_bytes() == data
    assert all((target / "tree" / "below" / f"{n}").read_bytes() == bytes([n]) * 100 for n in range(20))
    moved = [passed[way] for passed in proxy.by_connection]
    assert sorted(moved)[-2] > 5 * MIB and sum(moved) < (96 + 13 + 2) * MIB
    assert plain_host.uploads == [] and partials(tmp_path / "tree") == []


def test_a_connection_that_fails_when_all_is_done_stops_nothing_that_comes_later(
    plain_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error was told too late to count, also for the next transfer over the first connection."""
    before, at_work, returned = set(threading.enumerate()), threading.Event(), threading.Event()
    failed = _Team._failed

    def late(team: _Team, error: BaseException) -> None:
        assert returned.wait(20)
        failed(team, error)

    def opened() -> Connection:
        return Connection.open(plain_host.profile(), FAST)

    def worker(connection: Connection) -> None:
        if connection is first.connection:
            assert at_work.wait(20)
        else:
            at_work.set()
            raise ProtocolError("it says something else")

    monkeypatch.setattr(_Team, "_failed", late)
    first = Line(opened, 0)
    team = _Team(worker, nothing, endless, lambda: Line(opened, 0), 2)
    team.grow(2)
    team.work(first)
    returned.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("ftpy-stream"):
            thread.join(20)
    assert not first.leaving.is_set()
    first.close()


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_large_file_that_fails_ends_for_those_who_joined_in_and_stops_no_other(
    plain_host: Host, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path if way == "put" else plain_host.root
    a_tree_with_one_large_file(source / "tree")
    before = set(threading.enumerate())
    broken = threading.Event()

    def spoil(progress: Progress) -> None:
        if progress.done > 40 * MIB and not broken.is_set():
            broken.set()
            large = source / "tree" / "large"
            os.truncate(large, 50 * MIB)
            if way == "get":
                large.unlink()

    watch = Tally.watch

    def watched(tally: Tally, job: Job) -> Callable[[Progress], None]:
        said = watch(tally, job)
        return lambda progress: (spoil(progress), said(progress))[1]

    monkeypatch.setattr(Tally, "watch", watched)
    with Proxy(plain_host.address, slow()) as proxy, over(plain_host, 4, proxy) as client:
        if way == "put":
            result = client.put_tree(source / "tree", "tree")
        else:
            result = client.get_tree("tree", tmp_path / "tree")
        assert client.stat("tree").type == "directory"
    assert result.files == 20 and result.failed == 1 and broken.is_set()
    assert not ((tmp_path if way == "get" else plain_host.root) / "tree" / "large").exists()
    only_threads_of(before)
