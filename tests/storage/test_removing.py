"""rm on a local disk: what is out of sight before it is destroyed, what is swept, links, modes, mounts, depth."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpy.errors import IoError, NotADirectory, NotEmpty, NotFound, PermissionDenied, Unsupported
from ftpy.storage.base import Removed
from ftpy.storage.local import LocalStorage
from ftpy.storage.usage import Usage
from tests.descriptors import open_files, settled_files
from tests.rigs.trees import facts_of
from tests.storage.contract import names, path, put
from tests.storage.contract_changes import rm

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting, and being another user, needs root")
NOBODY = 65534
DEPTH = 1500
"""Deeper than any path, than Python's stack, than the usual limit of descriptors."""


def out_of_sight(root: Path) -> list[str]:
    return sorted(os.listdir(root / ".ftpy" / "removed"))


def put_many(storage: LocalStorage, count: int = 30) -> None:
    for number in range(count):
        put(storage, f"d/{number % 3}/{number}", b"x")


# -------------------------------------------------------------------- links and what else is no folder


def test_rm_removes_links_themselves_and_nothing_that_they_lead_to(
    local: LocalStorage, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_bytes(b"kept")
    before = facts_of(outside)
    put(local, "d/a", b"x")
    targets = {"file": outside / "file", "folder": outside / "folder", "up": "..", "self": "self", "none": "none"}
    for where in (root, root / "d"):
        for name, target in targets.items():
            (where / name).symlink_to(target)
        os.mkfifo(where / "fifo")
    for name in [*targets, "fifo"]:
        assert rm(local, name, recursive=name == "folder") == Removed(files=1, folders=0, size=0)
    with pytest.raises(NotADirectory):
        rm(local, "d/folder/x")
    assert rm(local, "d", recursive=True) == Removed(files=7, folders=1, size=1)
    assert names(local) == [] and out_of_sight(root) == []
    assert facts_of(outside) == before


def test_rm_removes_names_that_no_path_could_hold(local: LocalStorage, root: Path) -> None:
    for name in ("d/a\nb", "d/\x1b[2J", "d/.ftpy-hidden", "d/e/.ftpy/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(root) + b"/d/\xff\xfe")).write_bytes(b"x")
    assert rm(local, "d", recursive=True) == Removed(files=5, folders=3, size=5)
    assert os.listdir(root) == [".ftpy"] and out_of_sight(root) == []


def test_rm_takes_a_folder_for_full_when_only_hidden_names_are_in_it(local: LocalStorage, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / ".ftpy-1.partial").write_bytes(b"x")
    assert names(local) == ["d"]
    with pytest.raises(NotEmpty):
        rm(local, "d")


def test_rm_clears_a_tree_that_is_deeper_than_any_path(local: LocalStorage, root: Path) -> None:
    put(local, "d/a", b"x")
    at = os.open(root / "d", os.O_RDONLY)
    for number in range(DEPTH):
        os.mkdir("e", dir_fd=at)
        below = os.open("e", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
        if number % 100 == 0:
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    before = settled_files()
    assert rm(local, "d", recursive=True) == Removed(files=1 + DEPTH // 100, folders=1 + DEPTH, size=1)
    assert out_of_sight(root) == [] and open_files() == before


# -------------------------------------------------------------------- out of sight first, and for good


def test_rm_makes_it_durable_that_a_folder_is_gone_before_anything_in_it_is_destroyed(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "p/d/a", b"x")
    put(local, "p/b", b"x")
    steps: list[str] = []
    fsync, unlink = os.fsync, os.unlink

    def seen_fsync(fd: int) -> None:
        steps.append(f"fsync {os.path.relpath(os.readlink(f'/proc/self/fd/{fd}'), root)}")
        assert "p/d" not in names(local)
        fsync(fd)

    def seen_unlink(name: str, **options: int) -> None:
        steps.append(f"unlink {name}")
        unlink(name, **options)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "unlink", seen_unlink)
    rm(local, "p/d", recursive=True)
    assert steps == ["fsync p", "unlink a"]
    steps.clear()
    rm(local, "p/b")
    assert steps == ["unlink b", "fsync p"]


def test_rm_of_a_folder_is_done_once_it_is_out_of_sight_though_nothing_of_it_can_be_looked_at(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many(local)
    look = os.stat

    def failing(name: str | int, **options: Any) -> os.stat_result:
        if not os.path.lexists(root / "d"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return look(name, **options)

    with monkeypatch.context() as broken:
        broken.setattr(os, "stat", failing)
        assert rm(local, "d", recursive=True) == Removed(0, 0, 0)
    assert names(local) == [] and len(out_of_sight(root)) == 1
    local.sweep(expire_seconds=1000)
    assert out_of_sight(root) == []


@pytest.mark.parametrize("recursive", [False, True])
def test_rm_that_cannot_be_made_durable_destroys_nothing_of_a_folder(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch, recursive: bool
) -> None:
    put_many(local)
    before = names(local)

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(IoError):
            rm(local, "d" if recursive else "d/1/1", recursive=recursive)
    assert out_of_sight(root) == []
    assert names(local) == (before if recursive else [name for name in before if name != "d/1/1"])


def test_rm_that_is_interrupted_is_gone_and_the_rest_is_swept_at_the_next_start(
    local: LocalStorage, root: Path, tmp_path: Path
) -> None:
    put_many(local)

    def stop_soon(count: int) -> None:
        assert names(local) == []
        if count == 5:
            local.interrupt()

    removed = local.rm(path("d"), recursive=True, on_removed=stop_soon)
    assert removed.files + removed.folders == 5
    assert names(local) == [] and len(out_of_sight(root)) == 1
    assert local.sweep(expire_seconds=3600) == 0
    local.close()
    with LocalStorage(root, tmp_path / "state") as again:
        assert again.sweep(expire_seconds=3600) == 34 - 5
    assert out_of_sight(root) == []


def test_what_could_not_be_measured_is_gone_and_the_next_sweep_destroys_it(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many(local)

    def broken(*_: object) -> tuple[int, int]:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch, pytest.raises(IoError):
        patch.setattr(Usage, "measure", broken)
        local.rm(path("d"), recursive=True)
    assert names(local) == [] and len(out_of_sight(root)) == 1
    assert local.sweep(expire_seconds=3600) == 34
    assert out_of_sight(root) == []


def test_sweep_clears_what_dead_processes_removed_and_spares_what_others_are_at(
    local: LocalStorage, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    removed = root / ".ftpy" / "removed"
    assert stat.S_IMODE(removed.stat().st_mode) == 0o700
    for name in ("deadbeef-0/a/b", "deadbeef-1", "nolock-7/a"):
        (removed / name).mkdir(parents=True)
    swept: list[int] = []
    with LocalStorage(root, tmp_path / "state") as other:
        put_many(local)
        # While it is under way neither its own process takes it for a leftover, nor another one.
        local.rm(
            path("d"),
            recursive=True,
            on_removed=lambda _: swept.extend(one.sweep(expire_seconds=3600) for one in (local, other)),
        )
    assert sum(swept) == 6 and out_of_sight(root) == []
    caplog.clear()
    with caplog.at_level(logging.INFO, "ftpy.storage"):
        assert local.sweep(expire_seconds=3600) == 0
    assert not caplog.records
    assert len(os.listdir(root / ".ftpy" / "staged")) == 1  # the lock of the storage that lives


# -------------------------------------------------------------------- what stands in the way


def as_nobody(root: Path, work: Callable[[], object]) -> None:
    """``work`` done with the rights of a user alone, on files of theirs: in a thread of its own (setfsuid(2))."""
    for at, folders, files in os.walk(root):
        for name in [".", *folders, *files]:
            os.chown(os.path.join(at, name), NOBODY, NOBODY)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            ctypes.CDLL(None).setfsuid(NOBODY)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@needs_root
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o500, 0o555, 0o700])
def test_rm_removes_folders_whose_modes_keep_out_their_owner(local: LocalStorage, root: Path, mode: int) -> None:
    put(local, "d/e/f/a", b"x")
    for name in ("d/e/f", "d/e", "d"):
        (root / name).chmod(mode)
    as_nobody(root, lambda: rm(local, "d", recursive=True))
    assert names(local) == [] and out_of_sight(root) == []


@needs_root
def test_rm_leaves_the_mode_of_a_folder_that_it_may_not_take_away(local: LocalStorage, root: Path) -> None:
    put(local, "p/d/a", b"x")
    (root / "p/d").chmod(0o555)
    (root / "p").chmod(0o555)

    def refused() -> None:
        for recursive, name in ((True, "p/d"), (False, "p/d/a")):
            with pytest.raises(PermissionDenied):
                rm(local, name, recursive=recursive)

    as_nobody(root, refused)
    assert stat.S_IMODE((root / "p/d").stat().st_mode) == 0o555
    assert names(local) == ["p", "p/d", "p/d/a"] and out_of_sight(root) == []


@pytest.fixture
def mounted(root: Path) -> Iterator[Path]:
    """Another file system in the root."""
    where = root / "d" / "mounted"
    where.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], check=True)
    (where / "e").mkdir()
    (where / "e" / "theirs").write_bytes(b"kept")
    held = os.open(where, os.O_RDONLY)
    yield Path(f"/proc/self/fd/{held}")
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(root) in line]
    os.close(held)
    for place in places:
        subprocess.run(["umount", place], check=True)


@needs_root
def test_rm_refuses_another_file_system_and_what_is_in_it(local: LocalStorage, root: Path, mounted: Path) -> None:
    for name in ("d/mounted", "d/mounted/e", "d/mounted/e/theirs"):
        for recursive in (False, True):
            with pytest.raises(Unsupported, match="another file system is mounted there"):
                rm(local, name, recursive=recursive)
    assert names(local) == ["d", "d/mounted", "d/mounted/e", "d/mounted/e/theirs"]


@needs_root
def test_rm_never_enters_what_is_mounted_deeper_and_says_what_it_left(
    local: LocalStorage, root: Path, mounted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(local, "d/a", b"x")
    with caplog.at_level(logging.ERROR, "ftpy.storage"):
        assert rm(local, "d", recursive=True) == Removed(files=1, folders=0, size=1)
    (record,) = caplog.records
    assert record.event == "removed-left"  # type: ignore[attr-defined]
    assert record.fields["path"] == "d" and record.fields["names"] == 1  # type: ignore[attr-defined]
    with pytest.raises(NotFound):
        local.stat(path("d"))
    assert (mounted / "e" / "theirs").read_bytes() == b"kept"
