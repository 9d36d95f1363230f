"""The commit path where it seldom goes: what fails in the middle, comes twice, or changes at the last moment."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3
from msgspec import structs

from ftpy.digests import DigestName
from ftpy.errors import (
    AlreadyExists,
    Busy,
    Changed,
    Incomplete,
    IoError,
    NoSpace,
    NotADirectory,
    PermissionDenied,
    RequestError,
    ShuttingDown,
    UnknownUpload,
)
from ftpy.files import RemotePath
from ftpy.storage import journal, local, locking, publishing, syncing, syscalls, uploads
from ftpy.storage import upload as upload_module
from ftpy.storage.area import Area
from ftpy.storage.base import KnownVersion, NewDirectory, NewFile, Staged
from ftpy.storage.beneath import Beneath, Directory, best_door
from ftpy.storage.following import Follower, HashedRead
from ftpy.storage.journal import Journal, StoredPart
from ftpy.storage.local import LocalStorage
from ftpy.storage.locking import lock, lock_in_turn
from ftpy.storage.operations import OperationKey
from ftpy.storage.publishing import Publisher
from ftpy.storage.sharing import Link
from ftpy.storage.staging import SmallFiles
from ftpy.storage.treebase import Census
from ftpy.storage.uploadbase import PART_BYTES, Upload
from ftpy.storage.uploadfiles import UploadFiles
from ftpy.storage.uploads import LocalUpload
from ftpy.storage.versions import inode_of
from tests.capabilities import without_overriding
from tests.descriptors import open_files, settled_files
from tests.rig import eventually
from tests.storage.contract import (
    MTIME,
    OWNER,
    content,
    digest,
    names,
    new_file,
    part_of,
    path,
    put,
    read,
    send,
    send_missing,
    settled,
    stage,
)

DATA = content(2 * PART_BYTES + 5)
FILE = new_file("d/big", len(DATA))


def failing(code: int) -> Callable[..., None]:
    """A call of the system that fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


# -------------------------------------------------------------------- which door


def test_door_is_by_path_where_there_are_no_directory_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "supports_dir_fd", os.supports_dir_fd - {os.open})
    assert best_door() == "path"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG])
def test_door_is_the_walk_where_openat2_is_refused_as_such(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "open_directory_beneath", failing(code))
    assert best_door() == "walk"


def test_door_is_openat2_where_a_sandbox_refuses_only_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "open_directory_beneath", failing(errno.EACCES))
    assert best_door() == "openat2"


def test_door_is_not_guessed_when_the_system_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "open_directory_beneath", failing(errno.ENFILE))
    before = settled_files()
    with pytest.raises(OSError, match="Too many open files"):
        best_door()
    assert open_files() == before


def test_walk_takes_over_while_a_rename_is_under_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a" / "b").mkdir(parents=True)
    with Beneath(root, door="openat2") as beneath:
        monkeypatch.setattr(syscalls, "open_directory_beneath", failing(errno.EAGAIN))
        with beneath.open_dir(path("a/b")) as found:
            assert str(found.path) == "a/b"
            assert os.fstat(found.fd).st_ino == (root / "a" / "b").stat().st_ino


def test_error_of_a_rename_that_is_no_lack_of_it_is_not_worked_around(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_bytes(b"a")
    monkeypatch.setattr(syscalls, "rename_noreplace", failing(errno.EIO))
    with Beneath(root) as beneath, pytest.raises(OSError, match="Input/output error"):
        beneath.root.rename_noreplace("a", beneath.root, "b")
    monkeypatch.setattr(syscalls, "rename_noreplace", failing(errno.ENOSYS))
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with Beneath(root) as beneath, pytest.raises(OSError, match="Input/output error"):
        beneath.root.rename_noreplace("a", beneath.root, "b")
    assert sorted(os.listdir(root)) == ["a"]


def test_chmod_sets_the_bits_of_a_file(root: Path) -> None:
    (root / "a").write_bytes(b"a")
    with Beneath(root) as beneath:
        beneath.root.chmod("a", 0o640)
    assert (root / "a").stat().st_mode & 0o7777 == 0o640


# -------------------------------------------------------------------- the journal


@pytest.mark.parametrize("taken", [1, 3, 70])
def test_line_that_the_disk_takes_only_in_part_is_a_failure_and_swallows_nothing(tmp_path: Path, taken: int) -> None:
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    journal, part = Journal(fd), StoredPart(5, "ab" * 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (taken, hard))
        with pytest.raises(OSError, match="No space left"):
            journal.part(7, part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.size == os.fstat(fd).st_size == taken
    journal.part(1, part)
    journal.part(2, part)
    assert Journal(fd).read().parts == {1: part, 2: part}
    journal.void(1)
    assert Journal(fd).read().parts == {2: part}
    assert journal.size == os.fstat(fd).st_size
    os.close(fd)


# -------------------------------------------------------------------- small files and groups


def test_file_that_cannot_be_staged_leaves_nothing(storage: LocalStorage, root: Path) -> None:
    put(storage, "a", b"old")
    (root / ".ftpy" / "staged").rename(root / ".ftpy" / "elsewhere")
    for name in os.listdir(root / ".ftpy" / "elsewhere"):
        (root / ".ftpy" / "elsewhere" / name).unlink()
    (root / ".ftpy" / "elsewhere").rmdir()
    with pytest.raises(RequestError):
        put(storage, "a", b"new")
    assert read(storage, "a") == b"old"


def test_group_fails_as_a_whole_when_the_lock_cannot_be_had(storage: LocalStorage, root: Path) -> None:
    put(storage, "a", b"old")
    (root / ".ftpy" / "lock").unlink()
    (root / ".ftpy" / "lock").mkdir()
    results = storage.publish([stage(storage, name, b"new") for name in ("a", "b")])
    assert all(isinstance(result, RequestError) for result in results)
    assert names(storage) == ["a"]
    assert read(storage, "a") == b"old"
    assert [name for name in os.listdir(root / ".ftpy" / "staged") if "-" in name] == []


def test_group_with_what_another_storage_staged_is_refused_and_publishes_nothing(storage: LocalStorage) -> None:
    class Foreign(Staged):
        """What is of no storage here."""

        def close(self) -> None:
            """Nothing to do."""

    staged = stage(storage, "a", b"new")
    with pytest.raises(TypeError):
        storage.publish([staged, Foreign()])
    staged.close()
    assert names(storage) == []


def test_process_that_begins_while_another_sweeps_is_not_taken_for_dead(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = locking.lock
    with Beneath(root) as beneath, Area(beneath) as area:
        sweep = area.owned(area.staged)

        def lock_late(fd: int, **how: bool) -> bool:
            """The other has made its file; the sweep is the first to lock it."""
            monkeypatch.setattr(locking, "lock", real)
            assert [next(sweep), next(sweep)] == [(True, [f"{area._token}.lock"]), (False, [])]
            return real(fd, **how)

        monkeypatch.setattr(locking, "lock", lock_late)
        with Area(beneath) as other:
            assert list(sweep) == []
            assert set(os.listdir(root / ".ftpy/staged")) == {f"{each._token}.lock" for each in (area, other)}
            assert [ours for ours, _ in area.owned(area.staged)] == [True]


def test_area_whose_lock_cannot_be_taken_away_lets_go_of_its_descriptors_all_the_same(root: Path) -> None:
    with Beneath(root) as beneath:
        before = settled_files()
        area = Area(beneath)
        lock = root / ".ftpy" / "staged" / f"{area._token}.lock"
        lock.unlink()
        lock.mkdir()
        with pytest.raises(OSError):
            area.close()
        assert open_files() == before
        area.close()


def test_group_put_in_place_tells_only_what_failed(root: Path) -> None:
    with Beneath(root) as beneath, Area(beneath) as area:
        small = SmallFiles(area, Publisher(beneath, area, lambda *_: ""), None)

        def staged(name: str, condition: object = None) -> Staged:
            file = new_file(name, 3, condition)  # type: ignore[arg-type]
            return small.stage(file, memoryview(b"abc"), digest(b"abc"))

        first = small.put_in_place([staged("a"), staged("a", "absent"), staged("d/b")])
        assert [type(result) for result in first] == [type(None), AlreadyExists, type(None)]
        assert (root / "d" / "b").read_bytes() == b"abc"
        infos = small.publish([staged("c")])
        assert [getattr(info, "size", None) for info in infos] == [3]


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_small_file_has_the_mode_that_was_asked_for_whatever_the_umask(storage: LocalStorage, root: Path) -> None:
    before = os.umask(0o001)
    try:
        for mode in (0o750, 0o751, 0o640, 0o4711):
            (info,) = storage.publish([stage(storage, "a", b"x", mode=mode)])
            assert not isinstance(info, RequestError)
            assert (root / "a").stat().st_mode & 0o7777 == mode & 0o777
    finally:
        os.umask(before)


def test_folder_that_is_there_is_left_as_it_is_where_that_is_asked_for(storage: LocalStorage, root: Path) -> None:
    (root / "d").mkdir(mode=0o750)
    before = (root / "d").stat().st_mtime_ns
    wanted = NewDirectory(path("d"), parents=True, mode=0o700, mtime_ns=MTIME, untouched=True)
    made = NewDirectory(path("e"), parents=True, mode=0o700, mtime_ns=MTIME, untouched=True)
    results = storage.publish([storage.stage_directory(wanted), storage.stage_directory(made)])
    assert not any(isinstance(result, RequestError) for result in results)
    assert ((root / "d").stat().st_mode & 0o777, (root / "d").stat().st_mtime_ns) == (0o750, before)
    assert ((root / "e").stat().st_mode & 0o777, (root / "e").stat().st_mtime_ns) == (0o700, MTIME)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("untouched", [False, True])
def test_folder_that_was_there_is_durable_when_that_is_answered(
    storage: LocalStorage, root: Path, synced: list[str], untouched: bool
) -> None:
    (root / "d" / "new").mkdir(parents=True)  # by a server that was killed before it had synced that
    wanted = NewDirectory(path("d/new"), parents=True, mode=0o750, untouched=untouched)
    (info,) = storage.publish([storage.stage_directory(wanted)])
    assert not isinstance(info, RequestError)
    assert {f"{root}/d", f"{root}/d/new"} <= set(synced)  # its name, and the mode that it got


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_folder_that_was_made_for_a_file_that_failed_is_durable_when_it_is_answered(
    storage: LocalStorage, root: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Directory, "rename", failing(errno.ENOSPC))
    wanted = NewDirectory(path("d"), parents=True, untouched=True)
    results = storage.publish([stage(storage, "d/a", b"a"), storage.stage_directory(wanted)])
    assert [isinstance(result, RequestError) for result in results] == [True, False]
    assert str(root) in synced


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_folders_that_were_made_for_a_file_that_failed_are_durable_with_the_rest_of_its_group(
    storage: LocalStorage, root: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Directory.rename

    def unless_deep(directory: Directory, leaf: str, into: Directory, new: str) -> None:
        if into.path.parts == ("d", "e"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(directory, leaf, into, new)

    with monkeypatch.context() as full:
        full.setattr(Directory, "rename", unless_deep)
        results = storage.publish([stage(storage, name, b"a") for name in ("d/e/a", "a")])
    assert [isinstance(result, RequestError) for result in results] == [True, False]
    put(storage, "d/e/a", b"a")  # which has no reason to sync what is above it
    assert {str(root), f"{root}/d", f"{root}/d/e"} <= set(synced)
    assert storage._publisher.unsynced == set()


def commit_below(storage: LocalStorage) -> None:
    with storage.open_upload(OWNER, new_file("d/e/big", len(DATA))) as upload:
        send_missing(upload, DATA)
        upload.commit(digest(DATA), None)


def swap_below(storage: LocalStorage) -> None:
    tree, _ = storage.trees.stage(OWNER, path("d/e/site"))
    storage.trees.swap(tree, Census(0, 0, 0))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("what", [commit_below, swap_below])
@pytest.mark.parametrize("refused", ["the folder e", "all names in it"])
def test_folders_that_were_made_for_what_was_refused_are_durable_and_forgotten(
    storage: LocalStorage,
    root: Path,
    synced: list[str],
    monkeypatch: pytest.MonkeyPatch,
    what: Callable[[LocalStorage], None],
    refused: str,
) -> None:
    """What is remembered of each would take memory for ever, and make everybody's next put look for it."""
    last = {"the folder e": "d", "all names in it": "d/e"}[refused]

    def unless_there(call: Callable[..., None]) -> Callable[..., None]:
        def called(directory: Directory, leaf: str, *more: Any) -> None:
            if last in [str(one.path) for one in (directory, *more) if isinstance(one, Directory)]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            call(directory, leaf, *more)

        return called

    for name in ("mkdir", "rename", "rename_noreplace"):
        monkeypatch.setattr(Directory, name, unless_there(getattr(Directory, name)))
    with pytest.raises(NoSpace):
        what(storage)
    assert (root / last).is_dir() and os.listdir(root / last) == []
    assert {str(root), str((root / last).parent)} <= set(synced)
    assert storage._publisher.unsynced == set()


def test_a_folder_stays_doubtful_to_who_was_too_late_to_make_it_until_who_made_it_has_synced_it(root: Path) -> None:
    with Beneath(root) as beneath, Area(beneath) as area:
        publisher = Publisher(beneath, area, lambda *_: "")
        with publisher.publication(exclusive=False) as first:
            directory = first.making(path("d"))
            with publisher.publication(exclusive=False) as late, pytest.raises(AlreadyExists):
                late.make(NewDirectory(path("d")))
            assert publisher.doubtful_ways(path("d"), directory) == [path("d")]
            first.check_synced()
            assert publisher.doubtful_ways(path("d"), directory) == []


def test_a_folder_whose_name_could_not_be_synced_is_remembered_until_a_put_has_made_it_durable(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = NewDirectory(path("d"))
    with monkeypatch.context() as broken:
        broken.setattr(syscalls, "fsync", failing(errno.EIO))
        (result,) = storage.publish([storage.stage_directory(wanted)])
    assert isinstance(result, IoError) and storage._publisher.unsynced == {path("d")}
    put(storage, "d/a", b"a")
    assert storage._publisher.unsynced == set()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every folder does")
def test_folder_inherits_its_group_also_where_its_mode_is_asked_for(storage: LocalStorage, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d").chmod(0o2755)
    (info,) = storage.publish([storage.stage_directory(NewDirectory(path("d/new"), parents=True, mode=0o750))])
    assert not isinstance(info, RequestError)
    assert (root / "d" / "new").stat().st_mode & 0o7777 == 0o2750


def test_condition_that_cannot_be_looked_at_is_no_condition_that_holds(root: Path) -> None:
    with Beneath(root) as beneath, Area(beneath) as area:
        publisher = Publisher(beneath, area, lambda *_: "")
        publisher.check(path("a"), "absent")
        (root / "a").write_bytes(b"")
        publisher.check(path("a/b"), "absent")
        with pytest.raises(AlreadyExists):
            publisher.check(path("a"), "absent")
        for condition in ("absent", KnownVersion("0" * 32)):
            with pytest.raises(RequestError):
                publisher.check(RemotePath(("..",)), condition)
        with pytest.raises(Changed, match="no longer there"):
            publisher.check(path("b"), KnownVersion("0" * 32))


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_inode_is_the_same_whatever_other_names_it_gets_and_no_other(root: Path, kind: str) -> None:
    there, other = root / "a", root / "b"

    def make(at: Path) -> None:
        if kind == "file":
            at.write_bytes(b"1")
        else:
            at.symlink_to("nowhere")

    make(there)
    with Beneath(root) as beneath, Area(beneath) as area:
        publisher = Publisher(beneath, area, lambda *_: "")
        known = inode_of(there.lstat())
        os.link(there, other, follow_symlinks=False)
        publisher.check(path("a"), known)
        there.unlink()
        with pytest.raises(Changed, match="no longer there"):
            publisher.check(path("a"), known)
        make(there)
        with pytest.raises(Changed, match="another version"):
            publisher.check(path("a"), known)


def test_all_names_on_the_way_to_a_folder_that_another_process_made_are_doubtful(root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    with Beneath(root) as beneath, Area(beneath) as area, beneath.open_dir(path("a/b/c")) as directory:
        publisher = Publisher(beneath, area, lambda *_: "", shared=True)
        assert publisher.doubtful_ways(path("a/b/c"), directory) == [path("a/b/c"), path("a/b"), path("a")]


def test_way_is_synced_again_when_too_many_are_remembered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MOST_TRUSTED", 1)
    with Beneath(root) as beneath, Area(beneath) as area:
        publisher = Publisher(beneath, area, lambda *_: "", shared=True)
        opened = {}
        for name in ("a", "b", "c"):
            (root / name).mkdir()
            opened[path(name)] = beneath.open_dir(path(name))
        first, second, third = opened
        assert publisher.doubtful_ways(first, opened[first]) == [first]
        publisher.trust({first: opened[first], second: opened[second]})
        assert publisher.doubtful_ways(first, opened[first]) == []
        publisher.trust({third: opened[third]})
        assert publisher.doubtful_ways(third, opened[third]) == []
        assert publisher.doubtful_ways(first, opened[first]) == [first]
        for directory in opened.values():
            directory.close()


def waits_for_a_lock() -> bool:
    """Whether somebody in this process waits for one (the kernel's list marks who waits with an arrow)."""
    with open("/proc/locks", encoding="ascii") as locks:
        return any("->" in line and f" {os.getpid()} " in line for line in locks)


def test_folder_that_took_a_files_place_is_not_removed_for_it(root: Path) -> None:
    (root / "a").write_bytes(b"a")
    outcome: list[object] = []
    with Beneath(root) as beneath, Area(beneath) as area:
        publisher = Publisher(beneath, area, lambda *_: "")

        def stand() -> None:
            try:
                with publisher.standing(path("a")):
                    outcome.append("stands")
            except Changed as error:
                outcome.append(error)

        with publisher.publication(exclusive=True):
            thread = threading.Thread(target=stand)
            thread.start()
            eventually(waits_for_a_lock)
            (root / "a").unlink()
            (root / "a").mkdir()
        thread.join(20)
    assert [type(result) for result in outcome] == [Changed]
    assert (root / "a").is_dir()


# -------------------------------------------------------------------- uploads


def data_of(root: Path, upload_id: str) -> Path:
    return root / ".ftpy" / "uploads" / f"{upload_id}.data"


def test_upload_that_is_not_given_to_who_asks_stays_closed(storage: LocalStorage, root: Path) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
    before = settled_files()
    for owner, wanted in (("bob", upload.id), (OWNER, f"../uploads/{upload.id}")):
        with pytest.raises(UnknownUpload):
            storage.find_upload(owner, wanted)
    assert open_files() == before
    data_of(root, upload.id).unlink()
    assert storage.uploads() == []


def test_upload_whose_data_is_gone_believes_none_of_its_parts_ever_again(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
    data_of(root, upload.id).unlink()
    for _ in range(2):
        with storage.open_upload(OWNER, FILE) as upload:
            assert upload.missing() == [(0, 2)]


def test_upload_whose_files_somebody_has_removed_is_dropped_all_the_same(storage: LocalStorage, root: Path) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        for name in os.listdir(root / ".ftpy" / "uploads"):
            (root / ".ftpy" / "uploads" / name).unlink()
        upload.abort()
        assert upload.is_lost


def test_upload_whose_journal_somebody_has_removed_is_published_all_the_same(storage: LocalStorage, root: Path) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send_missing(upload, DATA)
        (root / ".ftpy" / "uploads" / f"{upload.id}.journal").unlink()
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA


def test_upload_is_found_again_by_the_server_that_comes_after_an_update() -> None:
    assert uploads.upload_id("alice", new_file("d/big", 20)) == "9294d19673e53dc608e83aeb3ab493c6"
    others = [new_file("d/big", 21), new_file("d/bif", 20), new_file("d/big", 20, mtime_ns=MTIME + 1)]
    found = {uploads.upload_id("alice", other) for other in others} | {uploads.upload_id("bob", new_file("d/big", 20))}
    assert len(found) == 4
    unknown = new_file("d/big", None)
    assert uploads.upload_id("alice", unknown) != uploads.upload_id("alice", unknown)


def test_part_that_is_closed_twice_is_let_go_once(storage: LocalStorage) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        part = upload.part(0, PART_BYTES)
        part.close()
        part.close()
        with pytest.raises(UnknownUpload):  # else a hand would be missing here, and it would be closed
            storage.find_upload(OWNER, "0" * 32)
        assert send_missing(upload, DATA) == [0, 1, 2]
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA


def test_commit_says_so_when_what_was_stored_is_no_longer_there(storage: LocalStorage, root: Path) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 1, part_of(upload, DATA, 1))
        send(upload, 2, part_of(upload, DATA, 2))
        with upload.part(0, PART_BYTES) as part:
            done = 0
            for view in part:
                view[:] = DATA[done : done + len(view)]
                done += len(view)
            os.truncate(data_of(root, upload.id), PART_BYTES)  # the others are read only once this one is there
            part.finish(blake3(DATA[:PART_BYTES]).hexdigest())
        with pytest.raises(IoError, match="no longer there"):
            upload.commit(digest(DATA), None)
    assert storage.uploads() == []
    assert names(storage) == []


def test_commit_drops_the_upload_when_what_was_stored_cannot_be_read(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 1, part_of(upload, DATA, 1))
        send(upload, 2, part_of(upload, DATA, 2))
        with monkeypatch.context() as broken:
            broken.setattr(os, "preadv", failing(errno.EIO))
            send(upload, 0, part_of(upload, DATA, 0))
            with pytest.raises(IoError):
                upload.commit(digest(DATA), None)
    assert storage.uploads() == []
    assert names(storage) == []


def test_commit_is_refused_when_the_last_sync_in_the_background_fails(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, "d/big", b"old")
    with storage.open_upload(OWNER, FILE) as upload:
        send_missing(upload, DATA)
        monkeypatch.setattr(syncing, "SYNC_BYTES", 4)
        monkeypatch.setattr(syncing, "sync_data", failing(errno.EIO))
        with pytest.raises(IoError):
            upload.commit(digest(DATA), None)
    assert storage.uploads() == []
    assert read(storage, "d/big") == b"old"


def test_commit_waits_for_the_sync_in_the_background_whose_failure_no_other_sync_would_tell(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishes = threading.Event()

    def fail_late(fd: int) -> None:
        publishes.wait(0.3)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with storage.open_upload(OWNER, FILE) as upload:
        send_missing(upload, DATA)
        monkeypatch.setattr(syncing, "SYNC_BYTES", 4)
        monkeypatch.setattr(syncing, "sync_data", fail_late)
        monkeypatch.setattr(Publisher, "publication", lambda *_, **__: publishes.set())
        with pytest.raises(IoError):
            upload.commit(digest(DATA), None)
    assert not publishes.is_set()


def test_upload_stays_failed_when_it_cannot_even_be_dropped(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        with monkeypatch.context() as broken:
            broken.setattr(syncing, "SYNC_BYTES", 1)
            broken.setattr(syncing, "MOST_UNSYNCED", 1)
            broken.setattr(syncing, "sync_data", failing(errno.EIO))
            broken.setattr(os, "unlink", failing(errno.EROFS))
            send(upload, 0, part_of(upload, DATA, 0))
        with pytest.raises(IoError):
            upload.part(1, PART_BYTES)
    assert "could not be dropped" in caplog.text


def test_a_sync_that_fails_after_its_upload_was_dropped_leaves_alone_the_one_that_came_after_it(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, syncs = threading.Event(), list[int]()

    def fail_late(fd: int) -> None:
        syncs.append(fd)
        go_on.wait(20)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    dropped = storage.open_upload(OWNER, FILE)
    assert isinstance(dropped, LocalUpload)
    with monkeypatch.context() as broken:
        broken.setattr(syncing, "SYNC_BYTES", 1)
        broken.setattr(syncing, "sync_data", fail_late)
        send(dropped, 0, part_of(dropped, DATA, 0))
        eventually(lambda: syncs)
    dropped.abort()
    with dropped, storage.open_upload(OWNER, FILE) as upload:
        assert upload.id == dropped.id
        send(upload, 1, part_of(upload, DATA, 1))
        go_on.set()
        dropped.live._syncing.wait()
        assert storage.uploads() == [upload.id]
        send_missing(upload, DATA)
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA


def test_data_and_name_are_durable_before_the_journal_says_so_and_the_name_once(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def seen(step: str, sync: Callable[[int], None]) -> Callable[[int], None]:
        return lambda fd: (sync(fd), steps.append(step))[0]

    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    monkeypatch.setattr(syncing, "sync_data", seen("data", syncing.sync_data))
    monkeypatch.setattr(journal, "sync_data", seen("journal", journal.sync_data))
    monkeypatch.setattr(os, "fsync", seen("name", os.fsync))
    with storage.open_upload(OWNER, FILE) as upload:
        for number in (0, 1):
            steps.clear()
            send(upload, number, part_of(upload, DATA, number))
            assert isinstance(upload, LocalUpload)
            upload.live._syncing.wait()
            assert steps == ["data", *["name"] * (number == 0), "journal"]


def test_what_an_earlier_hand_left_unsynced_counts_for_the_next_sync(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "SYNC_BYTES", 2 * PART_BYTES)
    for number in (0, 1):
        with storage.open_upload(OWNER, FILE) as upload:
            send(upload, number, part_of(upload, DATA, number))
    written = (root / ".ftpy" / "uploads" / f"{upload.id}.journal").read_bytes()
    assert re.search(rb"^S \d+$", written, re.MULTILINE)


def _put(storage: LocalStorage, **how: Any) -> Callable[[], object]:
    return partial(
        storage.publish, [storage.stage(NewFile(path("a"), 1, MTIME, **how), memoryview(b"x"), digest(b"x"))]
    )


def _commit(storage: LocalStorage, **how: Any) -> Callable[[], object]:
    upload = storage.open_upload(OWNER, NewFile(path("a"), len(DATA), MTIME, **how))
    send_missing(upload, DATA)

    def commit() -> None:
        with upload:
            upload.commit(digest(DATA), None)

    return commit


KEY = OperationKey(OWNER, "0" * 32)
ALONE: dict[str, Callable[[LocalStorage, KnownVersion], Callable[[], object]]] = {
    "put by digest": lambda storage, _: _put(storage, condition=digest(b"old")),
    "put by version": lambda storage, version: _put(storage, condition=version),
    "put by inode": lambda storage, _: _put(storage, condition=inode_of(storage._beneath.lstat(path("a")))),
    "put in an operation": lambda storage, _: _put(storage, operation=KEY),
    "commit by digest": lambda storage, _: _commit(storage, condition=digest(b"old")),
    "commit by version": lambda storage, version: _commit(storage, condition=version),
    "commit in an operation": lambda storage, _: _commit(storage, operation=KEY),
    "rm by version": lambda storage, version: partial(storage.rm, path("a"), recursive=False, version=version),
    "rm of a folder": lambda storage, _: partial(storage.rm, path("folder"), recursive=True),
}
TOGETHER: dict[str, Callable[[LocalStorage, KnownVersion], Callable[[], object]]] = {
    "put": lambda storage, _: _put(storage),
    "put if absent": lambda storage, _: partial(storage.publish, [stage(storage, "b", b"b", "absent")]),
    "commit": lambda storage, _: _commit(storage),
    "rm": lambda storage, _: partial(storage.rm, path("a"), recursive=False),
}


@pytest.mark.parametrize("act", [*ALONE, *TOGETHER])
def test_who_looks_before_it_changes_waits_for_those_who_publish(storage: LocalStorage, root: Path, act: str) -> None:
    etag = put(storage, "a", b"old").etag
    put(storage, "folder/b", b"b")
    storage.begin(KEY, "a test")
    assert etag is not None
    work = (ALONE | TOGETHER)[act](storage, KnownVersion(etag))
    publishing_now = os.open(root / ".ftpy" / "lock", os.O_RDWR)
    try:
        assert lock(publishing_now, shared=True)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.2 if act in ALONE else 20)
        assert thread.is_alive() == (act in ALONE)
    finally:
        os.close(publishing_now)
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("operation", [None, KEY])
@pytest.mark.parametrize("act", [_put, _commit])
def test_nothing_large_is_hashed_while_everybody_waits(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch, act: Any, operation: OperationKey | None
) -> None:
    """What has taken the place of what was hashed is hashed before the lock, too, for who asks again."""
    for name in ("a", "other"):
        (root / name).write_bytes(b"the same")
    settled()
    storage.begin(KEY, "a test")
    publication, hashed = Publisher.publication, list[str]()

    def replaced(publisher: Publisher, *, exclusive: bool) -> Any:
        if (root / "other").exists():
            (root / "other").rename(root / "a")
        hashed.clear()
        return publication(publisher, exclusive=exclusive)

    class Hashed(HashedRead):
        def __init__(self, name: DigestName, *rest: Any) -> None:
            hashed.append(name)
            super().__init__(name, *rest)

    monkeypatch.setattr(local, "AT_ONCE_BYTES", 7)
    monkeypatch.setattr(local, "HashedRead", Hashed)
    monkeypatch.setattr(Publisher, "publication", replaced)
    how = {"condition": digest(b"the same"), "operation": operation}
    with pytest.raises(Busy, match="replaced just now"):
        told(act(storage, **how)())
    assert hashed == []
    settled()
    told(act(storage, **how)())
    assert hashed == [] and (root / "a").read_bytes() != b"the same"


def told(results: Any) -> None:
    """Raise what a group was refused with."""
    for one in results or ():
        if isinstance(one, RequestError):
            raise one


def test_who_publishes_alone_is_waited_for_by_those_who_come_later(storage: LocalStorage, root: Path) -> None:
    """However many there are: without a turn they would keep it out for ever."""
    put(storage, "folder/b", b"b")
    found: list[bool] = []

    def removes() -> None:
        storage.rm(path("folder"), recursive=True)

    def puts() -> None:
        put(storage, "a", b"a")
        found.append((root / "folder").exists())

    publishing_now, turn = (os.open(root / ".ftpy" / name, os.O_RDWR) for name in ("lock", "turn.lock"))
    try:
        assert lock(publishing_now, shared=True)
        threads = [threading.Thread(target=removes), threading.Thread(target=puts)]
        threads[0].start()
        eventually(lambda: not lock(turn, wait=False) or fcntl.flock(turn, fcntl.LOCK_UN))
        threads[1].start()
        threads[1].join(0.2)
        assert found == []
    finally:
        os.close(publishing_now)
        os.close(turn)
    for thread in threads:
        thread.join(20)
    assert found == [False]


@pytest.mark.parametrize("held", ["lock", "turn.lock"])
def test_who_is_not_to_wait_for_a_lock_is_told_and_keeps_nothing_open(tmp_path: Path, held: str) -> None:
    def opened(name: str) -> int:
        return os.open(tmp_path / name, os.O_RDWR | os.O_CREAT, 0o600)

    other = opened(held)
    assert lock(other)
    before = open_files()
    with pytest.raises(BlockingIOError):
        lock_in_turn(opened, "lock", shared=True, wait=False)
    assert open_files() == before
    os.close(other)
    os.close(lock_in_turn(opened, "lock", shared=True, wait=False))


def test_a_staged_file_that_somebody_has_removed_is_gone_as_well(
    storage: LocalStorage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    staged = stage(storage, "a", b"a")
    (name,) = (name for name in os.listdir(root / ".ftpy" / "staged") if "-" in name)
    (root / ".ftpy" / "staged" / name).unlink()
    staged.close()
    assert caplog.text == ""


def test_a_staged_file_is_closed_once(storage: LocalStorage) -> None:
    staged = stage(storage, "a", b"a")
    storage.publish([staged])
    staged.close()
    staged.close()
    os.fstat(0)


@pytest.mark.parametrize("closed", ["storage", "upload"])
def test_no_file_is_closed_that_is_being_synced(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    go_on, syncs = threading.Event(), list[int]()

    def slow(fd: int) -> None:
        syncs.append(fd)
        go_on.wait(20)
        os.fsync(fd)

    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    monkeypatch.setattr(syncing, "sync_data", slow)
    upload = storage.open_upload(OWNER, FILE)
    send(upload, 0, part_of(upload, DATA, 0))
    eventually(lambda: syncs)
    closing = threading.Thread(target={"storage": storage, "upload": upload}[closed].close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go_on.set()
    closing.join(20)
    assert not closing.is_alive()


def test_commit_that_waits_for_its_digest_ends_when_the_storage_does(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    preadv = os.preadv

    def slow(fd: int, buffers: list[memoryview], offset: int) -> int:
        go_on.wait(20)
        return preadv(fd, buffers, offset)

    outcome: list[object] = []
    with storage.open_upload(OWNER, FILE) as upload:

        def commit() -> None:
            try:
                outcome.append(upload.commit(digest(DATA), None))
            except ShuttingDown as error:
                outcome.append(error)

        send(upload, 1, part_of(upload, DATA, 1))
        send(upload, 2, part_of(upload, DATA, 2))
        monkeypatch.setattr(os, "preadv", slow)
        send(upload, 0, part_of(upload, DATA, 0))
        committer = threading.Thread(target=commit)
        committer.start()
        live = storage._uploads._live[upload.id]
        eventually(lambda: live._closed_to_parts)
        interrupting = threading.Thread(target=storage.interrupt)  # which waits for what is being read
        interrupting.start()
        eventually(lambda: live._follower is not None and live._follower._error)
        go_on.set()
        interrupting.join(20)
        committer.join(20)
    assert [type(result) for result in outcome] == [ShuttingDown]
    assert storage.uploads() == [upload.id]


def test_upload_that_finds_no_room_when_it_is_resumed_lets_go_and_keeps_what_it_has(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
    before = settled_files()
    with monkeypatch.context() as full:
        full.setattr(syscalls, "reserve", failing(errno.ENOSPC))
        with pytest.raises(NoSpace):
            storage.open_upload(OWNER, FILE)
    assert open_files() == before
    with storage.open_upload(OWNER, FILE) as upload:
        assert send_missing(upload, DATA) == [1, 2]


def test_part_of_a_file_of_unknown_size_is_missing_when_the_data_is_shorter(storage: LocalStorage, root: Path) -> None:
    with storage.open_upload(OWNER, new_file("s", None)) as upload:
        found = upload.id
        send(upload, 0, b"all of it")
    os.truncate(data_of(root, found), 5)
    with storage.find_upload(OWNER, found) as upload:
        with pytest.raises(Incomplete, match="1 parts are missing"):
            upload.commit(digest(b"all of it"), 9)
        send(upload, 0, b"all of it")
        upload.commit(digest(b"all of it"), 9)
    assert read(storage, "s") == b"all of it"


def test_upload_that_somebody_went_on_with_at_the_last_moment_is_not_swept(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
    now = time.time()
    times = iter([now + 100, now])
    monkeypatch.setattr(uploads, "time", SimpleNamespace(time=lambda: next(times)))  # of this module, and no other
    assert storage.sweep(expire_seconds=50) == 0
    assert list(times) == []
    monkeypatch.undo()
    with storage.open_upload(OWNER, FILE) as upload:
        assert send_missing(upload, DATA) == [1, 2]


def test_commit_of_who_may_not_replace_takes_no_files_place(storage: LocalStorage) -> None:
    put(storage, "d/big", b"old")
    with storage.open_upload(OWNER, FILE) as upload:
        send_missing(upload, DATA)
        with pytest.raises(AlreadyExists):
            upload.commit(digest(DATA), None, replacing=False)
    assert read(storage, "d/big") == b"old"


def test_part_of_a_stream_that_is_stored_already_makes_no_room_again(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would change the times of a file that a commit may be publishing: such a part keeps none out."""
    with storage.open_upload(OWNER, new_file("stream", None)) as upload:
        send(upload, 0, b"stored")
        monkeypatch.setattr(UploadFiles, "extend", failing(errno.EIO))
        send(upload, 0, b"stored")


def test_what_comes_in_order_is_hashed_as_it_comes_and_not_read_again(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.open_upload(OWNER, FILE) as upload, monkeypatch.context() as unreadable:
        unreadable.setattr(upload_module, "read_at", failing(errno.EIO))
        send_missing(upload, DATA)
        assert upload.commit(digest(DATA), None).size == len(DATA)


def test_part_that_cannot_be_noted_is_refused(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        with monkeypatch.context() as full, pytest.raises(NoSpace):
            full.setattr(Journal, "part", failing(errno.ENOSPC))
            send(upload, 0, part_of(upload, DATA, 0))
        assert upload.missing() == [(0, 2)]


def test_who_asks_for_another_digest_in_vain_takes_none_away_and_leaves_no_thread(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashing() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "ftpy-digest"]

    before = len(hashing())
    with storage.open_upload(OWNER, FILE) as upload:
        send_missing(upload, DATA)
        with monkeypatch.context() as starved, pytest.raises(Busy):
            starved.setattr(threading.Thread, "start", refuse_to_start)
            upload.commit(digest(DATA, "blake3"), None)
        assert len(hashing()) == before
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA


def refuse_to_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_commit_tells_how_far_it_has_come(storage: LocalStorage) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        assert upload.verified == 0
        send_missing(upload, DATA)
        upload.commit(digest(DATA), None)
        assert upload.verified == len(DATA)


def test_file_is_not_assured_where_another_took_its_place(storage: LocalStorage) -> None:
    put(storage, "d/a", b"old")
    with storage.open(path("d/a")) as reader:
        storage.assure(reader)
        put(storage, "d/a", b"new")
        with pytest.raises(Changed, match="another file took its place"):
            storage.assure(reader)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_file_that_is_assured_is_synced_and_all_names_on_its_way(
    storage: LocalStorage, root: Path, synced: list[str]
) -> None:
    put(storage, "d/e/a", b"x")
    synced.clear()
    with storage.open(path("d/e/a")) as reader:
        storage.assure(reader)
    assert synced == [f"{root}/d/e/a", str(root), f"{root}/d", f"{root}/d/e"]


def test_what_cannot_be_looked_at_is_not_said_to_be_there(storage: LocalStorage, root: Path) -> None:
    put(storage, "d/a", b"x")
    (root / "d").chmod(0)
    with without_overriding(), pytest.raises(PermissionDenied):
        storage.open_upload(OWNER, new_file("d/new", 5, "absent"))
    (root / "d").chmod(0o700)


def test_interrupted_upload_takes_no_part_even_before_the_first(storage: LocalStorage) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        storage.interrupt()
        with pytest.raises(ShuttingDown):
            upload.part(0, PART_BYTES)


def test_every_look_at_an_upload_that_fails_in_its_commit_is_told_as_such(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.fstat
    for number in itertools.count(1):
        with storage.open_upload(OWNER, new_file(f"d/{number}", len(DATA))) as upload, monkeypatch.context() as patch:
            assert isinstance(upload, LocalUpload)
            send_missing(upload, DATA)
            data, looks = upload.live._files.data, itertools.count(1)

            def fails_once(
                fd: int, data: int = data, looks: Iterator[int] = looks, last: int = number
            ) -> os.stat_result:
                if fd == data and next(looks) == last:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return look(fd)

            patch.setattr(os, "fstat", fails_once)
            try:
                upload.commit(digest(DATA), None)
            except IoError:
                continue
        break
    assert number > 2


def test_upload_below_a_file_is_refused_at_its_commit_and_stays(storage: LocalStorage, root: Path) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send_missing(upload, DATA)
        (root / "d").write_bytes(b"a file")
        with pytest.raises(NotADirectory):
            upload.commit(digest(DATA), None)
        (root / "d").unlink()
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA


@pytest.mark.parametrize(("mode", "then"), [(0o444, 0o644), (0o555, 0o755)], ids=["r--", "r-x"])
def test_data_that_has_a_read_only_files_mode_already_is_gone_on_with(
    storage: LocalStorage, root: Path, mode: int, then: int
) -> None:
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
        data = data_of(root, upload.id)
    data.chmod(mode)

    with without_overriding(), storage.open_upload(OWNER, FILE) as upload:
        assert send_missing(upload, DATA) == [1, 2]
    assert data.stat().st_mode & 0o777 == then


# -------------------------------------------------------------------- hands that come and go at once


def who_finishes(storage: LocalStorage) -> tuple[threading.Thread, list[list[int]]]:
    """Who sends what is missing and commits, once it is started; which parts those were."""
    sent: list[list[int]] = []

    def finish() -> None:
        with storage.open_upload(OWNER, FILE) as upload:
            sent.append(send_missing(upload, DATA))
            upload.commit(digest(DATA), None)

    return threading.Thread(target=finish), sent


def test_upload_that_was_dropped_while_another_came_is_begun_anew_for_it(storage: LocalStorage) -> None:
    put(storage, "other", b"x")  # digests are remembered from then on, in a file that stays open
    before = settled_files()
    upload = storage.open_upload(OWNER, FILE)
    send(upload, 0, part_of(upload, DATA, 0))
    live = storage._uploads._live[upload.id]
    comer, found = who_finishes(storage)
    with live.lifecycle:
        comer.start()
        eventually(lambda: live.holders == 2)
        upload.abort()
    comer.join(20)
    upload.close()
    assert found == [[0, 1, 2]]
    assert read(storage, "d/big") == DATA
    assert storage._uploads._live == {} and open_files() == before


def test_upload_stays_open_for_who_comes_while_the_last_one_leaves(storage: LocalStorage) -> None:
    upload = storage.open_upload(OWNER, FILE)
    send(upload, 0, part_of(upload, DATA, 0))
    live = storage._uploads._live[upload.id]
    comer, found = who_finishes(storage)
    leaver = threading.Thread(target=upload.close)
    with live.lifecycle:
        leaver.start()
        eventually(lambda: live.holders == 0)
        comer.start()
        eventually(lambda: live.holders == 1)
    leaver.join(20)
    comer.join(20)
    assert found == [[1, 2]]
    assert read(storage, "d/big") == DATA
    assert storage._uploads._live == {}


def test_upload_is_opened_again_by_who_comes_while_it_closes(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = storage.open_upload(OWNER, FILE)
    send(upload, 0, part_of(upload, DATA, 0))
    live = storage._uploads._live[upload.id]
    comer, found = who_finishes(storage)
    close = UploadFiles.close

    def close_late(files: UploadFiles) -> None:
        close(files)
        monkeypatch.undo()
        comer.start()
        eventually(lambda: live.holders == 1)

    monkeypatch.setattr(UploadFiles, "close", close_late)
    upload.close()
    comer.join(20)
    assert found == [[1, 2]]
    assert read(storage, "d/big") == DATA
    assert storage._uploads._live == {}


class Neighbour:
    """Leads every question to one storage, and does something first."""

    def __init__(self, owner: LocalStorage, first: Callable[[], None]) -> None:
        self._owner, self._first = owner, first
        self.claimed: set[str] = set()

    def claim(self, upload_id: str) -> None:
        """It is open here."""
        self.claimed.add(upload_id)

    def release(self, upload_id: str) -> None:
        """It is not any more, or never was."""
        self.claimed.discard(upload_id)

    def link(self, upload_id: str) -> Link:
        """The way there."""
        self._first()
        mine, theirs = Link.pair()
        self._owner.welcome(theirs)
        return mine


def test_upload_is_busy_when_who_should_have_it_open_has_not(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(uploads, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    state = tmp_path / "state"
    asked: list[None] = []
    with LocalStorage(root, state) as holder, LocalStorage(root, state) as other:
        with (
            LocalStorage(root, state, neighbours=Neighbour(other, lambda: asked.append(None))) as here,
            holder.open_upload(OWNER, FILE),
            pytest.raises(Busy),
        ):
            here.open_upload(OWNER, FILE)
        with other.open_upload(OWNER, FILE) as upload:
            assert upload.missing() == [(0, 2)]
    assert len(asked) > 1


def test_hand_from_another_process_is_let_go_when_the_storage_ends_meanwhile(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with LocalStorage(root, state) as owner, owner.open_upload(OWNER, FILE) as upload:
        here = LocalStorage(root, state, neighbours=Neighbour(owner, lambda: here.interrupt()))
        with pytest.raises(ShuttingDown):
            here.open_upload(OWNER, FILE)
        live = owner._uploads._live[upload.id]
        eventually(lambda: live.holders == 1)
        here.close()


def test_the_server_is_told_which_uploads_are_open_here(root: Path, tmp_path: Path, storage: LocalStorage) -> None:
    neighbour = Neighbour(storage, lambda: None)
    with LocalStorage(root, tmp_path / "state", neighbours=neighbour) as here:
        with here.open_upload(OWNER, FILE) as upload, here.open_upload(OWNER, FILE):
            assert neighbour.claimed == {upload.id}
        assert neighbour.claimed == set()


def test_a_storage_that_ends_lets_nobody_from_another_process_in_its_uploads(root: Path, tmp_path: Path) -> None:
    state, before = tmp_path / "state", set(threading.enumerate())
    owner = LocalStorage(root, state)
    owner.open_upload(OWNER, FILE)
    with LocalStorage(root, state, neighbours=Neighbour(owner, lambda: None)) as here, here.open_upload(OWNER, FILE):
        owner.close()
        assert set(threading.enumerate()) <= before


class Overtaken:
    """A lock that somebody is faster to take, once."""

    def __init__(self, inner: threading.Lock, faster: Callable[[], None]) -> None:
        self._inner, self._faster = inner, [faster]

    def __enter__(self) -> None:
        while self._faster:
            self._faster.pop()()
        self._inner.acquire()

    def __exit__(self, *_: object) -> None:
        self._inner.release()


def test_an_upload_that_is_found_again_while_its_last_hand_lets_go_stays_open(storage: LocalStorage) -> None:
    found: list[Upload] = []
    last = storage.open_upload(OWNER, FILE)
    assert isinstance(last, LocalUpload)
    faster = Overtaken(last.live.lifecycle, lambda: found.append(storage.open_upload(OWNER, FILE)))
    last.live.lifecycle = faster  # type: ignore[assignment]
    last.close()
    with found[0] as upload:
        send_missing(upload, DATA)
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA


@pytest.mark.parametrize("gap", [0, 1])
def test_parts_are_taken_again_after_a_commit_that_was_refused(storage: LocalStorage, gap: int) -> None:
    with storage.open_upload(OWNER, structs.replace(FILE, condition="absent")) as upload:
        send_missing(upload, DATA)
        put(storage, "d/big", b"in the way")
        with pytest.raises(AlreadyExists):
            upload.commit(digest(DATA), None)
        send(upload, gap, part_of(upload, DATA, gap))
        storage.rm(path("d/big"), recursive=False)
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA


def test_one_follower_reads_along_from_the_first_part_to_the_last(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Counted(Follower):
        def __init__(self, digest: DigestName, read: Callable[[int, memoryview], int]) -> None:
            made.append(digest)
            super().__init__(digest, read)

    monkeypatch.setattr(upload_module, "Follower", Counted)
    with storage.open_upload(OWNER, FILE) as upload:
        send_missing(upload, DATA)
        upload.commit(digest(DATA), None)
    assert made == ["md5"]


def test_storage_that_ends_welcomes_nobody(storage: LocalStorage) -> None:
    mine, theirs = Link.pair()
    storage.interrupt()
    with pytest.raises(ShuttingDown):
        storage.welcome(theirs)
    for link in (mine, theirs):
        link.close()


def test_folder_that_another_makes_meanwhile_is_gone_into(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Directory.mkdir

    def raced(parent: Directory, leaf: str, *mode: int) -> None:
        if leaf == "raced":
            make(parent, leaf)
        make(parent, leaf, *mode)

    monkeypatch.setattr(Directory, "mkdir", raced)
    put(storage, "raced/f", b"1")
    assert storage.stat(path("raced/f")).size == 1
