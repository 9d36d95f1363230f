"""The local storage: the contract behind both doors, and what is its own: the staging area, links, digests, space."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.errors import (
    Changed,
    InvalidPath,
    IoError,
    NoSpace,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    RequestError,
    Unsupported,
)
from ftpy.files import FileInfo, RemotePath
from ftpy.storage import reading, remembered, syscalls
from ftpy.storage.base import MIB, NewDirectory, NewFile, Reader, Storage
from ftpy.storage.beneath import Door
from ftpy.storage.local import LocalStorage
from ftpy.storage.operations import OperationKey
from ftpy.storage.remembered import _LOOK, _LOOK_ALL, Remembered
from ftpy.storage.treebase import Trees
from ftpy.storage.uploadbase import MOST_PARTS, PART_BYTES, PartWriter, Upload, part_size_for
from ftpy.storage.versions import Digests, Version
from tests.descriptors import open_files, open_numbers, settled_files, settled_numbers
from tests.paths import NOT_PORTABLE
from tests.rig import eventually
from tests.storage.contract import (
    MTIME,
    OWNER,
    StorageContract,
    content,
    digest,
    names,
    new_file,
    path,
    put,
    read,
    send_missing,
    settled,
    stage,
)
from tests.storage.contract_changes import ChangesContract
from tests.storage.contract_trees import TreesContract

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")


@pytest.fixture(params=["openat2", "walk"])
def door(request: pytest.FixtureRequest) -> Door:
    chosen: Door = request.param
    return chosen


@pytest.fixture
def storage(root: Path, tmp_path: Path, door: Door) -> Iterator[Storage]:
    with LocalStorage(root, tmp_path / "state", door=door) as storage:
        yield storage


def everything(root: Path) -> list[str]:
    """All names below the root, ours too."""
    return sorted(os.path.relpath(os.path.join(at, name), root) for at, _, files in os.walk(root) for name in files)


def left_behind(root: Path) -> list[str]:
    """What lies in the staging area besides the locks."""
    return [name for name in everything(root / ".ftpy") if not name.endswith("lock")]


class TestContract(StorageContract, ChangesContract, TreesContract):
    """Every rule of the contract, by openat2 and by the walk."""


@pytest.mark.parametrize("kind", [Storage, Trees, Upload, PartWriter, Reader])
def test_who_keeps_the_contract_can_leave_nothing_of_it_out(kind: type) -> None:
    named = {name for name in vars(kind) if not name.startswith("_")}
    assert named - kind.__abstractmethods__ <= {"is_lost"}  # which has an answer that holds for most


# -------------------------------------------------------------------- names, links, specials


@pytest.mark.parametrize("text", [*NOT_PORTABLE.values()], ids=[*NOT_PORTABLE])
def test_put_keeps_a_name_literal_when_portable_names_are_not_asked_for(root: Path, tmp_path: Path, text: str) -> None:
    with LocalStorage(root, tmp_path / "state", portable_names=False) as storage:
        put(storage, text, b"x")
        assert os.fsencode(text) in [
            os.path.relpath(os.path.join(at, name), os.fsencode(root))
            for at, _, files in os.walk(os.fsencode(root))
            for name in files
        ]
        assert names(storage)[-1] == text


@pytest.mark.parametrize(
    "parts",
    [("..",), (".",), ("",), ("a\0",), ("d/f",), ("d", ".."), ("d", "..", "x"), ("..", "root", "x"), ("", "etc")],
)
def test_every_verb_refuses_parts_that_are_no_names_even_without_parse(
    storage: Storage, root: Path, parts: tuple[str, ...]
) -> None:
    put(storage, "d/f", b"x")
    before = everything(root)
    made = RemotePath(parts)
    verbs: list[Callable[[], object]] = [
        lambda: storage.stat(made),
        lambda: list(storage.ls(made, recursive=True)),
        lambda: storage.open(made),
        lambda: storage.open_upload(OWNER, NewFile(made, 1, MTIME)),
        lambda: storage.stage(NewFile(made, 1, MTIME), memoryview(b"x"), digest(b"x")),
    ]
    for verb in verbs:
        with pytest.raises(InvalidPath):
            verb()
    assert everything(root) == before


def test_symlinks_are_listed_and_never_followed(storage: Storage, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"secret")
    (root / "to_dir").symlink_to(outside)
    (root / "to_file").symlink_to(outside / "file")
    (root / "to_nothing").symlink_to("nothing")
    kinds = {str(info.path): info.type for info in storage.ls(path(""), recursive=True)}
    assert kinds == dict.fromkeys(["to_dir", "to_file", "to_nothing"], "symlink")
    assert storage.stat(path("to_file")).type == "symlink"
    for verb, error in (
        (lambda: storage.open(path("to_file")), NotAFile),
        (lambda: storage.open(path("to_dir/file")), NotADirectory),
        (lambda: storage.stat(path("to_dir/file")), NotADirectory),
        (lambda: storage.ls(path("to_dir"), recursive=True), NotADirectory),
        (lambda: put(storage, "to_dir/new", b"x"), NotADirectory),
        (lambda: put(storage, "to_dir/new/deep", b"x"), NotADirectory),
        (lambda: put(storage, "to_nothing/new", b"x"), NotADirectory),
    ):
        with pytest.raises(error):
            verb()
    assert os.listdir(outside) == ["file"]
    put(storage, "to_file", b"replaced")
    assert (outside / "file").read_bytes() == b"secret"
    assert read(storage, "to_file") == b"replaced"


def test_special_file_is_listed_and_refused(storage: Storage, root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert storage.stat(path("fifo")).type == "other"
    with pytest.raises(NotAFile):
        storage.open(path("fifo"))
    put(storage, "fifo", b"x")
    assert read(storage, "fifo") == b"x"


def test_names_that_are_not_utf8_are_listed_and_read(storage: Storage, root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_bytes(b"x")
    (info,) = storage.ls(path(""), recursive=True)
    assert str(info.path) == "\udcff\udcfe"
    with storage.open(info.path) as reader:
        assert reader.info.size == 1


def test_names_that_no_path_can_hold_are_skipped_and_counted(
    storage: Storage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a\nb", "\x1b[2J", "fine", ".ftpy-mine"):
        (root / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING, "ftpy.storage"):
        assert names(storage) == ["fine"]
    (record,) = caplog.records
    assert (record.event, record.fields["names"]) == ("names-skipped", 2)  # type: ignore[attr-defined]


@not_as_root
def test_listing_fails_when_a_directory_cannot_be_read(local: LocalStorage, root: Path) -> None:
    put(local, "a/b", b"x")
    (root / "a").chmod(0)
    try:
        with pytest.raises(PermissionDenied):
            names(local)
    finally:
        (root / "a").chmod(0o700)


def test_listing_goes_on_when_a_directory_vanishes_meanwhile(local: LocalStorage, root: Path) -> None:
    put(local, "a/b", b"x")
    put(local, "c", b"x")
    listed = local.ls(path(""), recursive=True)
    assert str(next(listed).path) == "a"
    (root / "a/b").unlink()
    (root / "a").rmdir()
    assert [str(info.path) for info in listed] == ["c"]


@pytest.mark.parametrize("below", ["", "site", "site/d", "site/d/0"])
@pytest.mark.parametrize("gone", ["site", "site/d"])
def test_listing_of_what_is_destroyed_meanwhile_never_looks_complete(
    local: LocalStorage, root: Path, below: str, gone: str
) -> None:
    for number in range(2):
        (root / f"site/d/{number}").mkdir(parents=True)
        for name in range(2 * reading.LISTED_TOGETHER):
            (root / f"site/d/{number}/{name}").touch()
    listed = local.ls(path(below), recursive=True)
    while not str(next(listed).path).startswith("site/d/0/"):
        pass
    local.rm(path(gone), recursive=True)
    put(local, "site/d/0/1", b"another")
    with pytest.raises(Changed, match="was removed while it was listed"):
        list(listed)


def test_listing_of_a_folder_that_is_half_destroyed_never_looks_complete(local: LocalStorage) -> None:
    for name in ("a/b/c", "a/d/e", "a/d/f"):
        put(local, name, b"")
    listed = local.ls(path("a"), recursive=True)
    assert str(next(listed).path) == "a/b"
    # Who stops there leaves what a slow disk has for a while: some of the names.
    local.rm(path("a"), recursive=True, on_removed=lambda _: local.interrupt())
    with pytest.raises(Changed):
        list(listed)


@pytest.mark.parametrize("way", ["mv", "trash"])
def test_listing_of_what_is_moved_meanwhile_is_complete(local: LocalStorage, way: str) -> None:
    for name in ("a/b/c", "a/b/d", "a/e"):
        put(local, name, b"x")
    listed = local.ls(path("a"), recursive=True)
    found = [str(next(listed).path)]
    if way == "mv":
        local.mv(path("a/b"), path("elsewhere"))
        local.mv(path("a"), path("there"))
    else:
        key = OperationKey(OWNER, "0" * 32)
        local.begin(key, "test")
        local.rm(path("a"), recursive=True, operation=key)
    found += [str(info.path) for info in listed]
    assert found == (["a/b", "a/e"] if way == "mv" else ["a/b", "a/b/c", "a/b/d", "a/e"])


def test_listing_yields_its_first_entries_before_all_names_are_looked_at(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3 * reading.LISTED_TOGETHER):
        (root / f"f{number:04}").touch()
    made: list[str] = []
    join = RemotePath.__truediv__

    def seen(above: RemotePath, name: str) -> RemotePath:
        made.append(name)
        return join(above, name)

    monkeypatch.setattr(RemotePath, "__truediv__", seen)
    listed = local.ls(path(""), recursive=True)
    assert str(next(listed).path) == "f0000"
    assert len(made) == 1 + reading.LISTED_TOGETHER  # and .ftpy
    assert len(list(listed)) == 3 * reading.LISTED_TOGETHER - 1


def test_listing_that_is_left_early_closes_what_it_opened(local: LocalStorage) -> None:
    put(local, "a/b/c/d", b"x")
    before = settled_files()
    for stop in range(4):
        listed = local.ls(path(""), recursive=True)
        for _ in range(stop):
            next(listed)
        listed.close()  # type: ignore[attr-defined]
    assert open_files() == before


# -------------------------------------------------------------------- the staging area, modes


def test_staging_area_is_private_and_its_names_tell_nothing(local: LocalStorage, root: Path) -> None:
    with stage(local, "telling-name", b"x"), local.open_upload(OWNER, new_file("telling-name", 5)):
        assert not [name for name in everything(root) if "telling" in name]
        assert names(local) == []
    for name in (".ftpy", ".ftpy/staged", ".ftpy/uploads"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o700


@pytest.mark.parametrize("name", [".ftpy", ".ftpy/staged", ".ftpy/uploads"])
@pytest.mark.parametrize("mode", [0o750, 0o707, 0o770])
def test_staging_area_that_others_can_enter_is_refused(root: Path, tmp_path: Path, name: str, mode: int) -> None:
    LocalStorage(root, tmp_path / "state").close()
    (root / name).chmod(mode)
    before = settled_files()
    with pytest.raises(PermissionDenied, match=f"{name} in the root is not the server's alone.*{mode:04o}"):
        LocalStorage(root, tmp_path / "state")
    assert open_files() == before


@needs_root
def test_staging_area_of_another_user_is_refused(root: Path, tmp_path: Path) -> None:
    (root / ".ftpy").mkdir(0o700)
    os.chown(root / ".ftpy", 65534, 65534)
    with pytest.raises(PermissionDenied, match="must belong to user 0 with mode 0700, not to 65534"):
        LocalStorage(root, tmp_path / "state")


def test_no_descriptor_stays_open_when_the_root_is_of_no_use(root: Path, tmp_path: Path) -> None:
    (root / ".ftpy").write_bytes(b"")
    before = settled_files()
    with pytest.raises(NotADirectory):
        LocalStorage(root, tmp_path / "state")
    assert open_files() == before


def test_staging_area_that_is_a_symlink_is_refused(root: Path, tmp_path: Path, door: Door) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / ".ftpy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectory):
        LocalStorage(root, tmp_path / "state", door=door)
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o777])
def test_mode_is_the_one_that_was_asked_for_whatever_the_umask(local: LocalStorage, root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for mode in (0o644, 0o644, 0o666, 0o666, 0o600, 0o444, 0o000):
            file = NewFile(path(f"{mode:o}"), 1, 0, mode)
            (stored,) = local.publish([local.stage(file, memoryview(b"x"), digest(b"x"))])
            assert isinstance(stored, FileInfo) and stored.mode == mode
            assert stat.S_IMODE((root / f"{mode:o}").stat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_default_mode_is_that_of_any_new_file(local: LocalStorage, root: Path, umask: int, mode: int) -> None:
    (root / "small").write_bytes(b"old")
    (root / "small").chmod(0o777)
    before = os.umask(umask)
    try:
        assert put(local, "small", b"x").mode == mode
        with local.open_upload(OWNER, new_file("large", 1)) as upload:
            send_missing(upload, b"x")
            assert upload.commit(digest(b"x"), None).mode == mode
    finally:
        os.umask(before)


def test_sweep_removes_what_a_dead_process_staged_and_spares_the_living(
    local: LocalStorage, root: Path, tmp_path: Path
) -> None:
    staged = root / ".ftpy" / "staged"
    for name in ("deadbeef-0", "deadbeef-1", "deadbeef.lock", "nolock-7"):
        (staged / name).write_bytes(b"x")
    with stage(local, "a", b"1") as mine, LocalStorage(root, tmp_path / "state") as other, stage(other, "b", b"2"):
        assert local.sweep(expire_seconds=3600) == 3
        assert other.sweep(expire_seconds=3600) == 0
        assert len(left_behind(root)) == 2
        assert isinstance(local.publish([mine])[0], object)
        assert read(local, "a") == b"1"
    assert left_behind(root) == []
    local.sweep(expire_seconds=3600)
    assert len(os.listdir(staged)) == 1  # the lock of the storage that lives


def test_descriptors_and_threads_return_to_base(root: Path, tmp_path: Path) -> None:
    def work() -> None:
        with LocalStorage(root, tmp_path / "state") as storage:
            put(storage, "a/b/c", b"x")
            storage.publish([stage(storage, f"d{n}/f", b"x") for n in range(30)])
            with pytest.raises(NotFound):
                storage.open(path("a/b/none"))
            data = content(2 * PART_BYTES + 1)
            with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
                with upload.part(1, PART_BYTES) as part:
                    next(iter(part))
                send_missing(upload, data)
                upload.commit(digest(data), None)
            with storage.open_upload(OWNER, new_file("left", len(data))) as upload:
                upload.part(0, PART_BYTES).close()
            read(storage, "big")
            names(storage)

    work()
    descriptors, threads = settled_files(), threading.active_count()
    work()
    eventually(lambda: open_files() <= descriptors and threading.active_count() <= threads)


# -------------------------------------------------------------------- remembered digests


def test_an_etag_outlives_the_number_of_the_device_and_nothing_else() -> None:
    version = Version(1, 2, 3, 4, 5)
    others = [version._replace(**{name: 9}) for name in ("ino", "size", "mtime_ns", "ctime_ns")]
    assert version._replace(dev=9).etag() == version.etag()
    assert len({one.etag() for one in [version, *others]}) == 5


def test_digest_that_is_remembered_after_a_listing_is_known(tmp_path: Path) -> None:
    version = Version(1, 2, 3, 4, 5)
    with Remembered(tmp_path / "digests.sqlite") as remembered:
        remembered.keep([(version, Digests(md5="a"))])
        assert remembered.look_all([version]) == {version: Digests(md5="a")}
        remembered.keep([(version, Digests(blake3="b"))])
        assert remembered.look(version) == Digests(md5="a", blake3="b")


def test_digests_of_many_files_are_looked_up_without_reading_all_that_is_remembered(tmp_path: Path) -> None:
    with Remembered(tmp_path / "digests.sqlite") as remembered:
        assert remembered.look(Version(1, 2, 3, 4, 5)) == (None, None)
        for query in (_LOOK, *(_LOOK_ALL.format(",".join(["(?,?)"] * count)) for count in (1, 10, 256))):
            names = [0] * query.count("?")
            plan = remembered._safely(
                lambda db, q=query, n=names: db.execute(f"EXPLAIN QUERY PLAN {q}", n).fetchall(), []
            )
            assert any("SEARCH digests USING PRIMARY KEY (dev=? AND ino=?)" in row[3] for row in plan), plan


def test_digest_is_remembered_across_a_restart(root: Path, tmp_path: Path) -> None:
    with LocalStorage(root, tmp_path / "state") as storage:
        put(storage, "a", b"x")
    with LocalStorage(root, tmp_path / "state") as storage:
        assert storage.stat(path("a")).md5 == digest(b"x").hex


def test_digest_that_was_computed_is_remembered_beside_the_other(local: LocalStorage, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    settled()
    for name in ("md5", "blake3"):
        with local.open(path("a")) as reader:
            reader.remember(digest(b"x", name))  # type: ignore[arg-type]
    info = local.stat(path("a"))
    assert (info.md5, info.blake3) == (digest(b"x").hex, digest(b"x", "blake3").hex)


def test_digests_that_cannot_be_written_down_are_at_hand_for_a_while(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_bytes(b"x")
    settled()
    with monkeypatch.context() as full:
        full.setattr(remembered, "_KEEP", "no statement")
        for name in ("md5", "blake3"):
            with local.open(path("a")) as reader:
                reader.remember(digest(b"x", name))  # type: ignore[arg-type]
    info = local.stat(path("a"))
    assert (info.md5, info.blake3) == (digest(b"x").hex, digest(b"x", "blake3").hex)
    monkeypatch.setattr(remembered, "MOST_LISTED", 0)
    put(local, "b", b"b")
    assert next(iter(local.ls(path(""), recursive=False))).md5 is None


def test_digest_is_not_remembered_for_a_file_written_in_the_same_tick(local: LocalStorage, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    with local.open(path("a")) as reader:
        fresh = time.time_ns() - os.stat(root / "a").st_ctime_ns < 5_000_000
        reader.remember(digest(b"x"))
    if not fresh:
        pytest.skip("this machine was too slow to open the file within a tick")
    assert local.stat(path("a")).md5 is None


@pytest.mark.parametrize("change", ["write", "truncate", "chmod", "replace", "same size and time"])
def test_digest_is_forgotten_when_the_file_changes(local: LocalStorage, root: Path, change: str) -> None:
    before = put(local, "a", b"12345")
    settled()
    target = root / "a"
    changes: dict[str, Callable[[], object]] = {
        "write": lambda: target.write_bytes(b"other"),
        "truncate": lambda: os.truncate(target, 3),
        "chmod": lambda: target.chmod(0o600),
        "replace": lambda: ((root / "b").write_bytes(b"12345"), (root / "b").rename(target)),
        "same size and time": lambda: (target.write_bytes(b"54321"), os.utime(target, ns=(MTIME, MTIME))),
    }
    with local.open(path("a")) as reader:
        changes[change]()
        if change != "replace":
            with pytest.raises(Changed):
                reader.check_unchanged()
        reader.remember(digest(b"12345", "blake3"))
    after = local.stat(path("a"))
    assert (after.md5, after.blake3) == (None, None)
    assert after.etag != before.etag


@pytest.mark.parametrize("rubbish", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_broken_digests_are_set_aside_and_made_anew(
    root: Path, tmp_path: Path, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "digests.sqlite").write_bytes(rubbish)
    with LocalStorage(root, state) as storage:
        put(storage, "a", b"x")
        assert storage.stat(path("a")).md5 == digest(b"x").hex
    assert [record.event for record in caplog.records if hasattr(record, "event")][-1] == "digests-set-aside"
    (aside,) = state.glob("digests.sqlite.broken-*")
    assert aside.read_bytes() == rubbish


@pytest.mark.parametrize("call", ["stat", "fstat"])
def test_a_listing_that_fails_anywhere_says_so_and_leaves_nothing_open(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for name in ("t/1", "t/a/2", "t/a/b/3"):
        put(local, name, b"x")
    real, left = getattr(os, call), [0]

    def failing(*what: Any, **how: Any) -> os.stat_result:
        left[0] -= 1
        if left[0] == 0 and "sqlite" not in str(what[0]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found: os.stat_result = real(*what, **how)
        return found

    before, number = settled_files(), 0
    while left[0] <= 0:  # the last time none was left to fail
        number += 1
        left[0] = number
        with monkeypatch.context() as broken, contextlib.suppress(IoError):
            broken.setattr(os, call, failing)
            assert len(list(local.ls(path("t"), recursive=True))) == 5
        assert open_files() == before, number
    assert number > 1


def test_digests_whose_file_cannot_be_looked_at_are_not_known_and_that_is_all(
    local: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(local, "a", b"x")
    look, file = os.stat, tmp_path / "state" / "digests.sqlite"

    def failing(name: Any, *more: Any, **how: Any) -> os.stat_result:
        if name == file:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return look(name, *more, **how)

    with monkeypatch.context() as broken:
        broken.setattr(os, "stat", failing)
        assert local.stat(path("a")).md5 is None
        assert [info.md5 for info in local.ls(path(""), recursive=False)] == [None]
        with local.open(path("a")) as reader:
            assert reader.info.md5 is None
        put(local, "b", b"y")
    assert {record.event for record in caplog.records if hasattr(record, "event")} == {"digests-failed"}
    assert local.stat(path("a")).md5 == digest(b"x").hex and read(local, "b") == b"y"


def test_broken_digests_under_a_running_server_lose_only_digests(local: LocalStorage, tmp_path: Path) -> None:
    put(local, "a", b"x")
    for suffix in ("", "-wal"):
        file = tmp_path / "state" / f"digests.sqlite{suffix}"
        with file.open("r+b") as broken:
            broken.write(b"\xff" * 8192)
    for number in range(3):
        put(local, f"b{number}", b"y")
        assert local.stat(path(f"b{number}")).size == 1
    assert names(local) == ["a", "b0", "b1", "b2"]


# -------------------------------------------------------------------- failing disks


class Failing:
    """An ``os`` function that fails with an errno, and counts."""

    def __init__(self, code: int) -> None:
        self.code, self.calls = code, 0

    def __call__(self, *_: object, **__: object) -> None:
        self.calls += 1
        raise OSError(self.code, os.strerror(self.code))


def test_put_keeps_the_old_file_and_asks_once_when_fsync_fails(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "a", b"old")
    failing = Failing(errno.EIO)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(IoError):
            put(local, "a", b"new")
    assert failing.calls == 1
    assert read(local, "a") == b"old"
    assert left_behind(root) == []


@pytest.mark.skipif(not syscalls.HAS_SYNCFS, reason="syncfs(2) reports errors since Linux 5.8")
def test_group_keeps_the_old_files_when_syncfs_fails(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "f0", b"old")
    failing = Failing(errno.EIO)
    with monkeypatch.context() as broken:
        broken.setattr(syscalls, "syncfs", failing)
        results = local.publish([stage(local, f"f{n}", b"new") for n in range(20)])
    assert [type(result) for result in results] == [IoError] * 20
    assert failing.calls == 1
    assert names(local) == ["f0"]
    assert read(local, "f0") == b"old"
    assert left_behind(root) == []


@pytest.mark.skipif(not syscalls.HAS_SYNCFS, reason="syncfs(2) reports errors since Linux 5.8")
def test_group_is_synced_one_by_one_where_syncfs_may_do_nothing(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = 0x65735546
    syncfs = Failing(errno.EIO)
    steps = Steps(root, monkeypatch)
    monkeypatch.setattr(syscalls, "syncfs", syncfs)
    monkeypatch.setattr(syscalls, "file_system_type", lambda fd: fuse)
    results = local.publish([stage(local, f"f{n}", b"new") for n in range(5)])
    assert [type(result) for result in results] == [FileInfo] * 5
    assert steps.done == [*["fsync staged"] * 5, *["rename"] * 5, "fsync ."]
    assert syncfs.calls == 0


@pytest.mark.skipif(sys.platform != "linux", reason="fstatfs(2) tells the type on Linux")
def test_type_of_a_file_system_is_known() -> None:
    with open("/proc/self/mounts", "rb") as file:
        assert syscalls.file_system_type(file.fileno()) == 0x9FA0


def test_put_is_not_acknowledged_when_the_directory_cannot_be_synced(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "good/a", b"old")
    put(local, "bad/a", b"old")
    fsync, bad = os.fsync, os.stat(root / "bad")

    def failing(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), bad):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    results = local.publish([stage(local, "good/b", b"x"), stage(local, "bad/b", b"x")])
    assert [type(result) for result in results] == [FileInfo, IoError]
    with local.open_upload(OWNER, new_file("bad/big", 1)) as upload:
        send_missing(upload, b"x")
        with pytest.raises(IoError):
            upload.commit(digest(b"x"), None)
    assert local.uploads() == []


def test_put_is_not_acknowledged_when_a_folder_above_the_one_that_was_made_cannot_be_synced(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, top = os.fsync, os.stat(root)

    def failing(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), top):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        assert isinstance(local.publish([stage(local, "made/anew/a", b"x")])[0], IoError)
    assert isinstance(local.publish([stage(local, "made/anew/a", b"x")])[0], FileInfo)


def test_name_of_a_folder_whose_sync_failed_is_synced_with_the_next_file_in_it(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, top, synced = os.fsync, os.stat(root), list[os.stat_result]()

    def failing(fd: int) -> None:
        synced.append(os.fstat(fd))
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    wanted = NewDirectory(path("made"), parents=False, mode=None, mtime_ns=None)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        assert isinstance(local.publish([local.stage_directory(wanted)])[0], IoError)
        failed_at = len(synced)
        assert isinstance(local.publish([stage(local, "made/a", b"x")])[0], FileInfo)
    assert any(os.path.samestat(found, top) for found in synced[failed_at:])


def test_close_is_never_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """close(2): the descriptor is free whatever it says."""
    close, made = os.close, os.open(os.devnull, os.O_RDONLY)

    def failing(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "close", failing)
        syscalls.close(made)
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.close(made)


def test_a_file_that_cannot_be_looked_at_leaves_no_descriptor(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "a", b"x")
    before = settled_numbers()
    with monkeypatch.context() as broken:
        broken.setattr(os, "fstat", Failing(errno.EIO))
        with pytest.raises(IoError):
            local.open(path("a"))
    assert open_numbers() == before


def test_a_staged_file_that_cannot_be_removed_is_no_failure_of_its_own(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", Failing(errno.EIO))
        broken.setattr(os, "unlink", Failing(errno.EROFS))
        assert isinstance(local.publish([stage(local, "a", b"x")])[0], IoError)


def test_commit_drops_the_upload_when_fsync_fails(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "big", b"old")
    with local.open_upload(OWNER, new_file("big", 3)) as upload:
        send_missing(upload, b"abc")
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", Failing(errno.EIO))
            with pytest.raises(IoError):
                upload.commit(digest(b"abc"), None)
    assert local.uploads() == []
    assert left_behind(root) == []
    assert read(local, "big") == b"old"


class Steps:
    """The order of syncs and renames, by what they were done to."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self.done: list[str] = []
        fsync, rename = os.fsync, os.rename

        def seen_fsync(fd: int) -> None:
            fsync(fd)
            self.done.append(f"fsync {self._name(fd)}")

        def seen_rename(*arguments: object, **options: object) -> None:
            rename(*arguments, **options)  # type: ignore[arg-type]
            self.done.append("rename")

        monkeypatch.setattr(os, "fsync", seen_fsync)
        monkeypatch.setattr(os, "rename", seen_rename)

    def _name(self, fd: int) -> str:
        where = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), self._root)
        return "staged" if where.startswith(".ftpy") else where


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are told apart by /proc")
def test_publication_syncs_the_file_before_its_name_and_every_new_directory_after(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "there/old", b"x")
    steps = Steps(root, monkeypatch)
    put(local, "there/new", b"x")
    assert steps.done == ["fsync staged", "rename", "fsync there"]
    steps.done.clear()
    put(local, "a/b/c", b"x")
    assert steps.done[:2] == ["fsync staged", "rename"]
    assert sorted(steps.done[2:]) == ["fsync .", "fsync a", "fsync a/b"]
    steps.done.clear()
    with local.open_upload(OWNER, new_file("a/d/big", 1)) as upload:
        send_missing(upload, b"x")
        upload.commit(digest(b"x"), None)
    assert steps.done[:2] == ["fsync staged", "rename"]
    assert sorted(steps.done[2:]) == ["fsync a", "fsync a/d"]


@pytest.mark.skipif(not syscalls.HAS_SYNCFS, reason="syncfs(2) reports errors since Linux 5.8")
def test_group_syncs_its_data_once_before_any_name_and_its_directories_once_after(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        put(local, f"d{number % 2}/old", b"x")
    steps = Steps(root, monkeypatch)
    syncfs = syscalls.syncfs

    def seen_syncfs(fd: int) -> None:
        syncfs(fd)
        steps.done.append("syncfs")

    monkeypatch.setattr(syscalls, "syncfs", seen_syncfs)
    local.publish([stage(local, f"d{number % 2}/f{number}", b"x") for number in range(10)])
    assert steps.done == ["syncfs", *["rename"] * 10, "fsync d0", "fsync d1"]
    steps.done.clear()
    local.publish([stage(local, f"n{number}/f", b"x") for number in range(10)])
    assert steps.done == ["syncfs", *["rename"] * 10, "syncfs"]


def test_upload_that_cannot_fit_is_refused_before_its_body(local: LocalStorage, root: Path) -> None:
    with pytest.raises(NoSpace):
        local.open_upload(OWNER, new_file("big", 2**62))
    assert local.uploads() == []
    assert left_behind(root) == []


def test_space_is_asked_for_where_it_cannot_be_reserved(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "_fallocate", None)
    with pytest.raises(NoSpace):
        local.open_upload(OWNER, new_file("big", 2**60))
    data = content(PART_BYTES + 1)
    with local.open_upload(OWNER, new_file("big", len(data))) as upload:
        send_missing(upload, data)
        upload.commit(digest(data), None)
    assert read(local, "big") == data


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """The root is a file system of 4 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(root)], check=True)
    yield root
    subprocess.run(["umount", str(root)], check=True)


@needs_root
def test_upload_that_is_refused_for_want_of_the_last_block_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    """Not even its journal, which could not be written either."""
    with LocalStorage(small_disk, tmp_path / "state") as storage:
        with open(small_disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(MIB)):
                pass
        for size in (5 * MIB, 1, None):
            with pytest.raises(NoSpace):
                storage.open_upload(OWNER, new_file("big", size))
        assert left_behind(small_disk) == []


@needs_root
def test_full_disk_refuses_and_keeps_what_is_there(small_disk: Path, tmp_path: Path) -> None:
    with LocalStorage(small_disk, tmp_path / "state") as storage:
        put(storage, "a", b"old")
        with pytest.raises(NoSpace):
            storage.open_upload(OWNER, new_file("big", 5 * MIB))
        with pytest.raises(NoSpace):
            put(storage, "a", content(5 * MIB))
        with storage.open_upload(OWNER, new_file("stream", None)) as upload, pytest.raises(NoSpace):
            upload.part(0, 5 * MIB)
        storage.sweep(expire_seconds=-1)
        assert left_behind(small_disk) == []
        assert read(storage, "a") == b"old"
        put(storage, "a", content(3 * MIB))
        assert read(storage, "a") == content(3 * MIB)


@needs_root
def test_put_into_another_file_system_below_the_root_is_unsupported(root: Path, tmp_path: Path) -> None:
    (root / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root / "mounted")], check=True)
    try:
        with LocalStorage(root, tmp_path / "state") as storage:
            for condition in (None, "absent"):
                with pytest.raises(Unsupported, match="another file system"):
                    put(storage, "mounted/a", b"x", condition)  # type: ignore[arg-type]
            with storage.open_upload(OWNER, new_file("mounted/a", 1)) as upload:
                send_missing(upload, b"x")
                with pytest.raises(Unsupported):
                    upload.commit(digest(b"x"), None)
            assert names(storage) == ["mounted"]
    finally:
        subprocess.run(["umount", str(root / "mounted")], check=True)


@needs_root
@pytest.mark.skipif(not syscalls.HAS_SYNCFS, reason="syncfs(2) reports errors since Linux 5.8")
def test_group_syncs_the_file_system_of_its_root_when_another_is_mounted_below(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root / "mounted")], check=True)
    try:
        with LocalStorage(root, tmp_path / "state") as storage:
            synced: list[int] = []
            syncfs = syscalls.syncfs

            def seen_syncfs(fd: int) -> None:
                synced.append(os.fstat(fd).st_dev)
                syncfs(fd)

            monkeypatch.setattr(syscalls, "syncfs", seen_syncfs)
            group = ["mounted/x", "mounted/new/x", *(f"d{number}/x" for number in range(5))]
            results = storage.publish([stage(storage, name, b"x") for name in group])
            assert [type(result) for result in results] == [Unsupported] * 2 + [FileInfo] * 5
            assert synced == [root.stat().st_dev] * 2
            assert os.listdir(root / "mounted") == []
    finally:
        subprocess.run(["umount", str(root / "mounted")], check=True)


# -------------------------------------------------------------------- sizes


@given(st.integers(0, 2**63 - 1))
def test_part_size_lets_every_file_have_at_most_the_most_parts(size: int) -> None:
    part_size = part_size_for(size)
    assert part_size % MIB == 0
    assert part_size >= PART_BYTES
    assert -(-size // part_size) <= MOST_PARTS


def test_part_size_of_a_terabyte_is_moderate() -> None:
    assert part_size_for(1_073_741_824_000) == 103 * MIB


def test_part_beyond_four_gibibytes_lands_in_its_place(disk_path: Path) -> None:
    size = 5 * 1024 * MIB + 5
    root = disk_path / "root"
    root.mkdir()
    if shutil.disk_usage(root).free < 2 * size:
        pytest.skip("less than 10 GiB are free here")
    with (
        LocalStorage(root, disk_path / "state") as storage,
        storage.open_upload(OWNER, new_file("huge", size)) as upload,
    ):
        last = size // upload.part_size
        with upload.part(last, 5) as part:
            for view in part:
                view[:] = b"there"
            part.finish(digest(b"there", "blake3").hex)
        assert upload.missing() == [(0, last - 1)]
        with (root / ".ftpy/uploads" / f"{upload.id}.data").open("rb") as data:
            data.seek(size - 5)
            assert data.read() == b"there"
        upload.abort()


def test_state_and_root_errors_are_refusals(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        LocalStorage(tmp_path / "none", tmp_path / "state")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectory):
        LocalStorage(tmp_path / "file", tmp_path / "state")
    with pytest.raises(RequestError):
        LocalStorage(tmp_path, tmp_path / "file")


def test_invalid_path_is_the_answer_when_the_disk_cannot_hold_the_name(local: LocalStorage) -> None:
    with pytest.raises(InvalidPath):
        local.stat(RemotePath(("a" * 300,)))
