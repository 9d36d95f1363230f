"""A get against what goes wrong on this side: the disk, other gets, partials of earlier ones."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from msgspec import structs

from ftpy.errors import Changed, LocalFileError
from ftpy.files import RemotePath
from ftpy.server import reading, verbs
from ftpy.server.context import Context
from ftpy.storage.beneath import Directory
from ftpy.wire.messages import GetRequest
from tests.e2e.test_streams import interrupted
from tests.e2e.test_transfer import cut_off, make, partials
from tests.rig import FAST, Host

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


def test_no_space_here_is_one_error_and_nothing_is_left(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(host.root / "x", 2 * MIB)

    def full(_: int) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 100, 1, 1, 10, 10, 10, 0, 255))

    with monkeypatch.context() as patched, host.client() as client:
        patched.setattr("ftpy.client.partial.os.fstatvfs", full)
        with pytest.raises(LocalFileError, match="no space"):
            client.get("x", tmp_path / "t")
        patched.undo()
        assert client.get("x", tmp_path / "t").size == 2 * MIB  # the connection is in step again


def test_a_path_and_a_target_name_their_own_partials(tmp_path: Path) -> None:
    from ftpy.client.partial import Partials
    from ftpy.storage.beneath import Beneath

    with Beneath(tmp_path) as beneath:
        etag = "0" * 32
        for path, leaf in (("a", "x"), ("b", "x"), ("a", "y")):
            Partials(beneath.root, RemotePath.parse(path), leaf).begin(etag).close()
        assert len(partials(tmp_path)) == 3
        Partials(beneath.root, RemotePath.parse("a"), "x").drop()
        assert len(partials(tmp_path)) == 2
