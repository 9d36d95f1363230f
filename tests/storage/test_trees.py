"""Trees at once on a local disk: deaths at every call, counts, events, other disks, listings meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ftpy.errors import (
    Changed,
    InvalidPath,
    IoError,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    RequestError,
    UnknownTree,
    Unsupported,
)
from ftpy.storage import area, syscalls, trees
from ftpy.storage.base import Quota
from ftpy.storage.beneath import Directory
from ftpy.storage.counting import CountedUsage
from ftpy.storage.feedbook import FeedBook
from ftpy.storage.local import LocalStorage
from ftpy.storage.treebase import Census, Swapped
from ftpy.storage.treefolder import Folder
from tests.descriptors import open_files, settled_files
from tests.storage.contract import OWNER, path, put
from tests.storage.contract_trees import NEW, OLD, census_of, content_of, fill, put_in, put_tree, stage_tree
from tests.storage.test_counting import Counted
from tests.storage.unwanted import wanted_while

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="no server runs here")


# ------------------------------------------------------------------ deaths


class Died(BaseException):
    """From here on nothing happens any more."""


CALLS = {
    Directory: ("rename", "rename_noreplace", "exchange", "mkdir", "rmdir", "unlink", "create", "sync"),
    syscalls: ("fsync", "syncfs"),
}


class Dying:
    """Lets so many calls pass that change the disk, and none after them; with ``late`` the last one still happens."""

    def __init__(self, patch: pytest.MonkeyPatch, calls: int, *, late: bool) -> None:
        self._left, self._late = calls, late
        self.dead = False
        for target, names in CALLS.items():
            for name in names:
                patch.setattr(target, name, self._dying(getattr(target, name)))

    def _dying(self, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.dead:
                raise Died
            if not self._left:
                self.dead = True
                if self._late:
                    real(*arguments, **named)
                raise Died
            self._left -= 1
            return real(*arguments, **named)

        return call


def dies(work: Any, calls: int, *, late: bool) -> bool:
    """Whether it died before it was through."""
    with pytest.MonkeyPatch.context() as patch:
        dying = Dying(patch, calls, late=late)
        try:
            work()
        except Died:
            return True
        assert not dying.dead
        return False


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("there", [None, OLD])
def test_wherever_a_swap_dies_the_old_tree_or_the_new_one_is_there_and_the_same_swap_ends_it(
    tmp_path: Path, there: dict[str, bytes] | None, late: bool
) -> None:
    for calls in range(200):
        root, state = tmp_path / f"root-{calls}", tmp_path / f"state-{calls}"
        root.mkdir()
        with LocalStorage(root, state) as storage:
            for _ in range(2 if there else 0):  # so that one is kept from before
                put_tree(storage, there or {})
            tree = stage_tree(storage)
            fill(storage, tree, NEW)
            died = dies(lambda: storage.trees.swap(tree, census_of(NEW)), calls, late=late)  # noqa: B023
        with LocalStorage(root, state) as storage:
            found = content_of(storage) if (root / "site").exists() else None
            assert found in (there, NEW)
            was_swapped = found == NEW
            if not died:
                assert was_swapped
                return
            assert storage.trees.swap(tree, census_of(NEW)) == Swapped(replaced=there is not None)
            assert content_of(storage) == NEW
            if there is not None:
                assert storage.trees.rollback(path("site")).replaced and content_of(storage) == there
            storage.sweep(expire_seconds=1e9)
            for folder in ("trees", "removed"):
                assert os.listdir(root / ".ftpy" / folder) == []
    pytest.fail("a swap never ends")


@pytest.mark.parametrize("late", [False, True])
def test_wherever_a_rollback_dies_one_of_the_two_trees_is_there_and_the_other_is_kept(
    tmp_path: Path, late: bool
) -> None:
    for calls in range(100):
        root, state = tmp_path / f"root-{calls}", tmp_path / f"state-{calls}"
        root.mkdir()
        with LocalStorage(root, state) as storage:
            put_tree(storage, OLD)
            put_tree(storage, NEW)
            died = dies(lambda: storage.trees.rollback(path("site")), calls, late=late)
        with LocalStorage(root, state) as storage:
            found = content_of(storage)
            assert found in (OLD, NEW)
            storage.trees.rollback(path("site"))
            assert content_of(storage) == (NEW if found == OLD else OLD)
        if not died:
            return
    pytest.fail("a rollback never ends")


@pytest.mark.parametrize("late", [False, True])
def test_wherever_staging_dies_the_next_one_begins_or_goes_on(tmp_path: Path, late: bool) -> None:
    for calls in range(100):
        root, state = tmp_path / f"root-{calls}", tmp_path / f"state-{calls}"
        root.mkdir()
        with LocalStorage(root, state) as storage:
            died = dies(lambda: stage_tree(storage), calls, late=late)
        with LocalStorage(root, state) as storage:
            put_tree(storage, NEW)
            assert content_of(storage) == NEW and os.listdir(root / ".ftpy" / "trees") == []
        if not died:
            return
    pytest.fail("staging never ends")


def test_a_sync_that_fails_after_the_exchange_brings_the_old_tree_back(local: LocalStorage) -> None:
    put_tree(local, OLD)
    tree = stage_tree(local)
    fill(local, tree, NEW)
    real, exchanged = Directory.exchange, []

    def exchange(*arguments: Any) -> None:
        real(*arguments)
        exchanged.append(arguments)

    def sync(_: Directory) -> None:
        if len(exchanged) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        local.trees.stage("bob", path("site"))  # finds out what this disk can
        patch.setattr(Directory, "exchange", exchange)
        patch.setattr(Directory, "sync", sync)
        with pytest.raises(Exception, match="disk failed"):
            local.trees.swap(tree, census_of(NEW))
    assert content_of(local) == OLD
    assert local.trees.swap(tree, census_of(NEW)).replaced and content_of(local) == NEW


def test_a_rollback_that_fails_leaves_nothing_open(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (OLD, NEW):
        put_tree(local, content)
    before = settled_files()
    failing = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(Folder, "tree", lambda _: (_ for _ in ()).throw(failing))
    for _ in range(3):
        with pytest.raises(IoError):
            local.trees.rollback(path("site"))
    assert open_files() == before and content_of(local) == NEW


def test_a_swap_is_done_also_where_what_it_replaced_cannot_be_put_away_at_once(
    local: LocalStorage, caplog: pytest.LogCaptureFixture
) -> None:
    put_tree(local, OLD)
    tree = stage_tree(local)
    fill(local, tree, NEW)
    real, full = Directory.rename, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def rename(self: Directory, leaf: str, into: Directory, new: str) -> None:
        if into.path.parts == (".ftpy", "previous"):
            raise full
        real(self, leaf, into, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Directory, "rename", rename)
        assert local.trees.swap(tree, census_of(NEW)).replaced
    assert content_of(local) == NEW and "No space left" in caplog.text
    assert local.trees.swap(tree, census_of(NEW)).replaced  # asked again it says the same
    assert local.trees.rollback(path("site")).replaced and content_of(local) == OLD


def test_what_was_copied_to_another_disk_in_the_middle_of_a_put_is_still_what_was_staged(
    local: LocalStorage, root: Path, tmp_path: Path
) -> None:
    """A backup that was put back: no inode is what it was."""
    put_tree(local, OLD)
    put_tree(local, OLD)
    fill(local, stage_tree(local), {"half": b"of it"})
    shutil.copytree(root, tmp_path / "copy")
    with LocalStorage(tmp_path / "copy", tmp_path / "other state") as copied:
        copied.trees.stage("bob", path("site"))
        copied.trees.rollback(path("site"))
        assert content_of(copied) == OLD
        tree, resumed = copied.trees.stage(OWNER, path("site"))
        assert resumed and [str(info.path) for info in copied.ls(path("site"), recursive=True, tree=tree)] == [
            "site/half"
        ]


def test_a_swap_that_is_asked_again_while_it_is_counted_is_done_by_the_second(local: LocalStorage) -> None:
    tree = stage_tree(local)
    fill(local, tree, NEW)
    said: list[Swapped] = []

    def again(_: int) -> None:
        if not said:
            said.append(local.trees.swap(tree, census_of(NEW)))

    with pytest.raises(UnknownTree):
        local.trees.swap(tree, census_of(NEW), on_counted=again)
    assert said == [Swapped(replaced=False)] and content_of(local) == NEW


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_swap_that_was_done_already_is_durable_when_that_is_answered(
    local: LocalStorage, root: Path, synced: list[str]
) -> None:
    tree = stage_tree(local, "d/site")
    fill(local, tree, NEW)
    local.trees.swap(tree, census_of(NEW))
    synced.clear()  # of a server that was killed before it had synced that
    local.trees.swap(tree, census_of(NEW))
    assert f"{root}/d" in synced
    assert any(name.startswith(f"{root}/.ftpy/previous/") for name in synced)


def test_a_swap_that_is_not_wanted_any_more_ends_while_it_is_counted_and_can_be_asked_for_again(
    local: LocalStorage,
) -> None:
    tree, wide = stage_tree(local), {f"{n}/f": b"x" for n in range(9)}
    fill(local, tree, wide)
    counted: list[int] = []
    with pytest.raises(PermissionDenied):
        wanted_while(
            lambda: len(counted) < 2, lambda: local.trees.swap(tree, census_of(wide), on_counted=counted.append)
        )
    assert len(counted) == 2
    with pytest.raises(NotFound):
        local.stat(path("site"))
    assert local.trees.swap(tree, census_of(wide)) == Swapped(replaced=False) and content_of(local) == wide


def test_nothing_is_put_into_a_tree_that_was_taken_out_of_its_folder(local: LocalStorage, root: Path) -> None:
    tree = stage_tree(local)
    (root / ".ftpy" / "trees" / tree.id / "tree").rmdir()
    with pytest.raises(UnknownTree):
        put_in(local, tree, "a", b"x")
    assert os.listdir(root / ".ftpy" / "trees" / tree.id) == ["about"]


# ------------------------------------------------------------------ names, counts, events


def test_a_tree_has_a_portable_name_where_that_is_asked_for(local: LocalStorage) -> None:
    for name in ("aux", "a:b", "d./site"):
        with pytest.raises(InvalidPath):
            stage_tree(local, name)


def test_staged_trees_are_not_without_number(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MOST_STAGED", 2)
    first = stage_tree(local, "a")
    stage_tree(local, "b")
    with pytest.raises(QuotaExceeded):
        stage_tree(local, "c")
    assert stage_tree(local, "a") != first  # goes on


def test_what_is_staged_and_kept_counts_exactly(tmp_path: Path) -> None:
    with ExitStack() as stack:
        counted = Counted(tmp_path, stack)
        storage = counted.open()
        quota = Quota(bytes=10_000)
        for content in (OLD, NEW, OLD):
            tree, _ = storage.trees.stage(OWNER, path("site"), quota=quota)
            counted.check()
            fill(storage, tree, content)
            counted.check()
            storage.trees.stage(OWNER, path("site"), quota=quota)
            counted.check()
            tree, _ = storage.trees.stage(OWNER, path("site"), quota=quota)
            storage.trees.swap(tree, census_of(content))
            counted.check()
        for _ in range(2):
            storage.trees.rollback(path("site"))
            counted.check()
        tree = stage_tree(storage)
        fill(storage, tree, NEW)
        storage.trees.discard(tree)
        counted.check()
        stage_tree(storage, "other")
        storage.sweep(expire_seconds=-1, trash_seconds=-1)
        counted.check()
        with pytest.raises(QuotaExceeded):
            storage.trees.stage(OWNER, path("new"), quota=Quota(files=3))
        counted.check()
        assert os.listdir(counted.top / "root" / ".ftpy" / "trees") == []


@pytest.mark.parametrize("again", [False, True], ids=["a new one", "one that is there"])
@pytest.mark.parametrize(
    ("target", "call"),
    [
        (Directory, "mkdir"),
        (Directory, "open_dir"),
        (Directory, "create"),
        (Directory, "rename"),
        (Directory, "sync"),
        (area, "write_at"),
        (syscalls, "fsync"),
    ],
)
def test_never_less_is_counted_than_is_there_when_a_tree_cannot_be_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, call: str, again: bool
) -> None:
    with ExitStack() as stack:
        counted = Counted(tmp_path, stack)
        storage = counted.open()
        if again:
            stage_tree(storage)
        real = getattr(target, call)

        def unless_in_it(*arguments: Any, **named: Any) -> Any:
            where = arguments[0].path.parts if target is Directory else (".ftpy", "trees", "a tree")
            if where[:2] == (".ftpy", "trees") and (len(where) > 2 or call == "open_dir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        for _ in range(3):
            with monkeypatch.context() as full:
                full.setattr(target, call, unless_in_it)
                with contextlib.suppress(RequestError):
                    stage_tree(storage)
            counted.check_enough()
        tree = stage_tree(storage)
        counted.check_enough()
        storage.trees.discard(tree)
        counted.check_enough()
        storage.sweep(expire_seconds=1e9)
        counted.check()


def test_all_is_counted_anew_where_the_note_of_a_staged_tree_could_not_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        counted = Counted(tmp_path, stack)
        storage = counted.open()
        stage_tree(storage, "first")
        adding = CountedUsage.adding

        def unless_a_note(usage: CountedUsage, size: int, files: int = 1, *more: Any) -> Any:
            if size and not files:
                raise IoError
            return adding(usage, size, files, *more)

        with monkeypatch.context() as broken:
            broken.setattr(CountedUsage, "adding", unless_a_note)
            stage_tree(storage)
        assert counted.used() is None
        stage_tree(storage, "other")
        counted.check()


def test_events_tell_of_a_tree_when_it_is_in_place_and_never_of_what_is_staged(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "state").mkdir()
    book = FeedBook(tmp_path / "state")
    root = str(tmp_path / "root")

    def told() -> list[tuple[str, str]]:
        oldest, _ = book.ends()
        return [(one.kind, one.path.decode()) for row in book.read(oldest, 1000) for one in row.events]

    with book, LocalStorage(root, tmp_path / "state", feed=book.of(root)) as storage:
        tree = stage_tree(storage)
        fill(storage, tree, OLD)
        assert told() == []
        storage.trees.swap(tree, census_of(OLD))
        assert told() == [("published", "site")]
        put_tree(storage, NEW)
        storage.trees.rollback(path("site"))
        assert told() == [("published", "site"), *[("deleted", "site"), ("published", "site")] * 2]


# ------------------------------------------------------------------ disks, listings


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_where_a_disk_cannot_exchange_a_tree_is_refused_before_it_is_sent(local: LocalStorage, code: int) -> None:
    put(local, "site/a", b"old")
    real = syscalls.rename_with

    def without(flags: int, *arguments: Any) -> None:
        if flags == syscalls.RENAME_EXCHANGE:
            raise OSError(code, os.strerror(code))
        real(flags, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syscalls, "rename_with", without)
        with pytest.raises(Unsupported, match="cannot exchange two folders"):
            stage_tree(local)
        assert put_tree(local, NEW, "new") == Swapped(replaced=False)
        tree = stage_tree(local, "other")
        put(local, "other/a", b"came meanwhile")
        with pytest.raises(Unsupported):
            local.trees.swap(tree, Census(0, 0, 0))
    assert content_of(local) == {"a": b"old"} and content_of(local, "new") == NEW


def test_a_listing_goes_on_in_the_tree_in_which_it_began(local: LocalStorage) -> None:
    put_tree(local, OLD)
    listing = local.ls(path("site"), recursive=True)
    found = [str(next(listing).path)]
    put_tree(local, NEW)
    found += [str(info.path) for info in listing]
    assert found == ["site/a", "site/d", "site/d/b", "site/gone"]


@pytest.mark.parametrize("below", ["site", "site/d"])
@pytest.mark.parametrize("way", ["a second swap", "rm"])
def test_a_listing_of_what_is_destroyed_meanwhile_never_looks_complete(
    local: LocalStorage, below: str, way: str
) -> None:
    old = {f"d/{number}/x": b"x" for number in range(300)}
    put_tree(local, old)
    listing = local.ls(path(below), recursive=True)
    next(listing)
    if way == "rm":
        local.rm(path("site"), recursive=True)
    else:
        put_tree(local, NEW)
        put_tree(local, NEW)
    with pytest.raises(Changed):
        list(listing)


@pytest.mark.skipif(os.geteuid() != 0, reason="being another user needs root")
def test_folders_that_their_owner_may_not_write_to_swap_places_all_the_same(tmp_path: Path) -> None:
    """As a server that is not root has it; in a process of its own."""
    import subprocess
    import sys

    os.chmod(tmp_path, 0o777)
    code = """
import os, sqlite3, sys
from pathlib import Path
from ftpy.errors import IoError
from ftpy.storage.beneath import Directory
from ftpy.storage.local import LocalStorage
from tests.storage.contract_trees import NEW, OLD, content_of, put_tree, path
os.setuid(65534)
root = Path(sys.argv[1]) / "root"
root.mkdir()
with LocalStorage(root, Path(sys.argv[1]) / "state") as storage:
    put_tree(storage, OLD)
    os.chmod(root / "site", 0o500)
    put_tree(storage, NEW)
    assert content_of(storage) == NEW
    os.chmod(root / "site", 0o500)
    storage.trees.rollback(path("site"))
    assert content_of(storage) == OLD
    assert (root / "site").stat().st_mode & 0o777 == 0o500
    real, syncs = Directory.sync, []
    def sync(self):
        syncs.append(self)
        raise OSError(5, "failed")
    Directory.sync = sync
    try:
        storage.trees.rollback(path("site"))
    except IoError:
        pass
    assert syncs and content_of(storage) == OLD  # and back
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
