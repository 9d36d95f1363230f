"""mv on a local disk: what is synced, links, hard links, digests that stay known or do not, other file systems."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.errors import AlreadyExists, InvalidPath, IoError, Unsupported
from ftpy.storage import syscalls
from ftpy.storage.beneath import Door
from ftpy.storage.local import LocalStorage
from tests.paths import NOT_PORTABLE
from tests.rigs.trees import facts_of
from tests.storage.contract import digest, names, path, put, read
from tests.storage.contract_changes import make_folder, mv

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


@pytest.fixture(params=["openat2", "walk"])
def door(request: pytest.FixtureRequest) -> Door:
    chosen: Door = request.param
    return chosen


@pytest.fixture
def local(root: Path, tmp_path: Path, door: Door) -> Iterator[LocalStorage]:
    with LocalStorage(root, tmp_path / "state", door=door) as storage:
        yield storage


def test_mv_moves_links_themselves_and_replaces_them_as_names(local: LocalStorage, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"kept")
    before = facts_of(outside)
    (root / "link").symlink_to(outside / "file")
    (root / "to-folder").symlink_to(outside)
    make_folder(local, "d")
    mv(local, "link", "d/link")
    mv(local, "d/link", "to-folder")
    assert os.readlink(root / "to-folder") == str(outside / "file")
    put(local, "a", b"1")
    mv(local, "a", "to-folder")
    assert read(local, "to-folder") == b"1" and not (root / "to-folder").is_symlink()
    assert facts_of(outside) == before


def test_mv_refuses_two_names_of_one_file(local: LocalStorage, root: Path) -> None:
    put(local, "a", b"1")
    os.link(root / "a", root / "b")
    for condition in (None, "absent"):
        with pytest.raises(AlreadyExists, match="b: one and the same file as a"):
            mv(local, "a", "b", condition)  # type: ignore[arg-type]
    assert names(local) == ["a", "b"]


@pytest.mark.parametrize("folder", [False, True])
def test_mv_works_where_the_system_cannot_rename_without_replacing(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    monkeypatch.setattr(syscalls, "_renameat2", None)
    put(local, "d/a", b"1")
    put(local, "there", b"2")
    source = "d" if folder else "d/a"
    with pytest.raises(AlreadyExists):
        mv(local, source, "there", "absent")
    mv(local, source, "new", "absent")
    assert names(local) == (["new", "new/a", "there"] if folder else ["d", "new", "there"])


def test_mv_keeps_a_digest_known_only_of_what_is_still_that_content(local: LocalStorage, root: Path) -> None:
    put(local, "a", b"123")
    assert mv(local, "a", "b").info.md5 == local.stat(path("b")).md5 == digest(b"123").hex
    (root / "b").write_bytes(b"456")
    assert mv(local, "b", "c").info.md5 is None
    assert local.stat(path("c")).md5 is None


def test_mv_forgets_the_digest_of_what_changes_at_that_moment(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "a", b"123")
    rename = os.rename

    def renamed_and_written(*arguments: str, **options: int) -> None:
        rename(*arguments, **options)
        (root / "b").write_bytes(b"456")

    monkeypatch.setattr(os, "rename", renamed_and_written)
    assert mv(local, "a", "b").info.md5 is None
    assert local.stat(path("b")).md5 is None


def test_mv_makes_both_folders_durable(local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local, "from/a", b"1")
    make_folder(local, "to/deep")
    synced: list[str] = []
    fsync = os.fsync

    def seen(fd: int) -> None:
        fsync(fd)
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), root))

    monkeypatch.setattr(os, "fsync", seen)
    mv(local, "from/a", "to/deep/a")
    assert sorted(synced) == ["from", "to/deep"]
    synced.clear()
    mv(local, "to", "from/to")
    assert sorted(synced) == [".", "from"]


def test_mv_that_cannot_be_made_durable_says_so(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    put(local, "a", b"1")

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(IoError):
            mv(local, "a", "b")
    assert names(local) == ["b"]


def test_mv_takes_any_name_from_its_place_but_gives_portable_ones_only(local: LocalStorage, root: Path) -> None:
    for number, text in enumerate(NOT_PORTABLE.values()):
        where = root / text
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(b"x")
        with pytest.raises(InvalidPath):
            mv(local, text, text + "x:")
        mv(local, text, f"n{number}")
        assert read(local, f"n{number}") == b"x"


@needs_root
def test_mv_refuses_another_file_system_in_either_place(local: LocalStorage, root: Path) -> None:
    where = root / "mounted"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], check=True)
    try:
        (where / "theirs").write_bytes(b"x")
        put(local, "a", b"1")
        for name, to in (
            ("a", "mounted/a"),
            ("mounted/theirs", "b"),
            ("mounted/theirs", "mounted/b"),
            ("mounted", "b"),
        ):
            with pytest.raises(Unsupported, match="another file system"):
                mv(local, name, to)
        assert names(local) == ["a", "mounted", "mounted/theirs"]
    finally:
        subprocess.run(["umount", str(where)], check=True)
