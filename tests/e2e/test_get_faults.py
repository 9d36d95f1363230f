"""A get against what goes wrong on this side: the disk, other gets, partials of earlier ones."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from msgspec import structs

from ftpy.client.getting import FileGet, Get
from ftpy.client.partial import Partial, Partials
from ftpy.client.results import Progress, ignore
from ftpy.errors import Changed, LocalFileError
from ftpy.files import RemotePath
from ftpy.server import reading, verbs
from ftpy.server.context import Context
from ftpy.storage.beneath import Directory
from ftpy.wire.messages import GetRequest
from tests.e2e.test_streams import interrupted
from tests.e2e.test_transfer import cut_off, make, partials
from tests.rig import FAST, Host, Proxy

MIB = 1024 * 1024


def cut_get(host: Host, folder: Path) -> Path:
    """The partial of a get that was cut off in the middle."""
    folder.mkdir()
    with cut_off(host, down=10 * MIB) as client:
        client.get("x", folder / "x")
    (name,) = partials(folder)
    return folder / name


def test_a_partial_that_was_given_a_read_only_mode_goes_on(host: Host, tmp_path: Path) -> None:
    data = make(host.root / "x", 20 * MIB)
    partial = cut_get(host, tmp_path / "here")
    partial.chmod(0o444)
    with host.client() as client:
        assert client.get("x", tmp_path / "here" / "x").resumed > 0
    assert (tmp_path / "here" / "x").read_bytes() == data and partials(tmp_path / "here") == []


def test_a_partial_that_another_get_holds_is_left_alone(host: Host, tmp_path: Path) -> None:
    make(host.root / "x", 20 * MIB)
    partial = cut_get(host, tmp_path / "here")
    with open(partial, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with host.client() as client, pytest.raises(LocalFileError, match="another ftpy"):
            client.get("x", tmp_path / "here" / "x")
    assert partial.exists()


@pytest.mark.parametrize("streams", [1, 4])
def test_a_get_that_opens_a_partial_which_another_publishes_writes_nothing_into_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    data = make(host.root / "x", 40 * MIB)
    left = cut_get(host, tmp_path / "here") if streams == 1 else interrupted(host, tmp_path / "here", 6 * MIB)
    target, transfer = tmp_path / "here" / "x", structs.replace(FAST, streams=streams)
    real, published = Directory.open_for_write, list[BinaryIO]()

    def late(directory: Directory, leaf: str) -> int:
        descriptor = real(directory, leaf)
        monkeypatch.setattr(Directory, "open_for_write", real)
        with host.client(transfer=transfer) as other:
            assert other.get("x", target, force=True).resumed > 0
        os.utime(target, ns=(1, 1))
        published.append(open(target, "rb"))  # noqa: SIM115
        return descriptor

    monkeypatch.setattr(Directory, "open_for_write", late)
    with host.client(transfer=transfer) as client:
        client.get("x", target, force=True)
    with published[0] as file:
        status = os.fstat(file.fileno())
    assert not left.exists() and (status.st_nlink, status.st_mtime_ns) == (0, 1)
    assert target.read_bytes() == data and partials(tmp_path / "here") == []


def test_partials_of_older_versions_go_when_the_file_is_in_place(host: Host, tmp_path: Path) -> None:
    make(host.root / "x", 20 * MIB, 1)
    cut_get(host, tmp_path / "here")
    data = make(host.root / "x", 20 * MIB, 2)
    with host.client() as client:
        client.get("x", tmp_path / "here" / "x")
    assert (tmp_path / "here" / "x").read_bytes() == data and partials(tmp_path / "here") == []


def test_a_file_that_changes_all_the_time_is_given_up(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(host.root / "x", 10)
    asked: list[str | None] = []

    def always_changed(request: GetRequest, context: Context) -> None:
        asked.append(request.etag)
        raise Changed

    monkeypatch.setitem(verbs.VERBS, GetRequest, verbs.Verb(always_changed))
    with host.client() as client, pytest.raises(Changed):
        client.get("x", tmp_path / "t")
    assert len(asked) == 3 and reading.handle_get is not always_changed
    assert partials(tmp_path) == []


def test_a_journal_of_a_get_that_was_killed_at_the_very_end_goes_when_the_file_is_found(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(host.root / "x", 5 * MIB)
    with host.client(transfer=structs.replace(FAST, streams=3)) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Partial, "_drop_journal", lambda _: None)
            patched.setattr(Partials, "drop", lambda *_, **__: None)
            client.get("x", tmp_path / "x")
        (left,) = partials(tmp_path)
        assert left.endswith(".ranges") and client.get("x", tmp_path / "x").identical
    assert partials(tmp_path) == []


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no space on any disk for what this side receives."""
    status = os.statvfs_result((4096, 4096, 100, 1, 1, 10, 10, 10, 0, 255))
    monkeypatch.setattr("ftpy.client.partial.os.fstatvfs", lambda _: status)


@pytest.mark.parametrize("streams", [1, 3])
def test_no_space_here_is_one_error_and_nothing_is_left(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    make(host.root / "x", 3 * MIB)
    with host.client(transfer=structs.replace(FAST, streams=streams)) as client:
        with monkeypatch.context() as patched:
            fill(patched)
            with pytest.raises(LocalFileError, match="no space"):
                client.get("x", tmp_path / "t")
            assert partials(tmp_path) == []
        assert client.get("x", tmp_path / "t").size == 3 * MIB  # the connection is in step again


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("resumed", [False, True])
def test_where_the_size_is_known_no_space_costs_no_connection(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, resumed: bool, streams: int
) -> None:
    make(host.root / "x", 20 * MIB)
    if resumed:
        cut_get(host, tmp_path / "here")
    else:
        (tmp_path / "here").mkdir()
    fill(monkeypatch)
    transfer = structs.replace(FAST, streams=streams)
    wanted = Get(RemotePath.parse("x"), "md5", ignore, size=20 * MIB)
    with (
        Proxy(host.address) as proxy,
        host.client(address=proxy.address, transfer=transfer) as client,
        FileGet(wanted, str(tmp_path / "here" / "x"), force=False, notify=print) as get,
    ):
        with pytest.raises(LocalFileError, match="no space"):
            get.fetch(client._streams)
        assert client.stat("x").size == 20 * MIB
        assert proxy.connections == 1 and proxy.passed[1] < MIB // 4
    assert bool(partials(tmp_path / "here")) == resumed


def test_a_get_that_fails_before_anything_came_leaves_nothing(host: Host, tmp_path: Path) -> None:
    make(host.root / "x", 20 * MIB)

    def fail(progress: Progress) -> None:
        if progress.phase == "receiving":
            raise ZeroDivisionError

    with host.client() as client, pytest.raises(ZeroDivisionError):
        client.get("x", tmp_path / "t", on_progress=fail)
    assert partials(tmp_path) == []


def test_a_path_and_a_target_name_their_own_partials(tmp_path: Path) -> None:
    from ftpy.storage.beneath import Beneath

    with Beneath(tmp_path) as beneath:
        etag = "0" * 32
        for path, leaf in (("a", "x"), ("b", "x"), ("a", "y")):
            with Partials(beneath.root, RemotePath.parse(path), leaf).begin(etag) as partial:
                os.write(partial.descriptor, b"1")
        assert len(partials(tmp_path)) == 3
        Partials(beneath.root, RemotePath.parse("a"), "x").drop()
        assert len(partials(tmp_path)) == 2
