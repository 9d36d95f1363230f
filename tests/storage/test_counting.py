"""Usage: what lies below a root is counted exactly, whoever adds, replaces, drops and dies, and no quota is overrun."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from blake3 import blake3
from msgspec import structs

from ftpy.errors import AlreadyExists, IoError, NoSpace, NotFound, QuotaExceeded, RequestError
from ftpy.storage import counting
from ftpy.storage.base import MIB, NewDirectory, Quota, Storage
from ftpy.storage.beneath import Directory
from ftpy.storage.counting import CountedUsage
from ftpy.storage.local import LocalStorage
from ftpy.storage.measuring import measure
from ftpy.storage.operations import OperationKey
from ftpy.storage.uploadbase import STREAM_PART_BYTES
from tests.descriptors import open_files, settled_files
from tests.storage.contract import OWNER, content, digest, new_file, path

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="no server runs here")


def on_disk(root: Path) -> tuple[int, int]:
    """What counts below a root, looked up in another way than the one that is tested."""
    size = files = 0
    for found in sorted(root.rglob("*")):
        inner = found.relative_to(root).parts
        if ".ftpy" in inner:
            below = inner[inner.index(".ftpy") + 1 :]
            kept = len(below) > 1 and below[0] in ("trash", "trees", "previous") and ".ftpy" not in below
            stored = len(below) == 2 and (below[1].endswith(".data") or (below[0] == "staged" and "-" in below[1]))
            if not kept and not stored:
                continue
        try:
            about = found.lstat()
        except FileNotFoundError:  # moved meanwhile
            continue
        files += 1
        size += about.st_size if stat.S_ISREG(about.st_mode) else 0
    return size, files


class Counted:
    """A state folder, and storages whose roots are counted."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        self.top, self._stack = top, stack
        self.state = top / "state"
        self.roots = frozenset[str]()

    def open(self, name: str = "root", *, counted: bool = True) -> LocalStorage:
        """A storage of a folder."""
        root = self.top / name
        root.mkdir(parents=True, exist_ok=True)
        if counted:
            self.roots |= {str(root)}
        usage = CountedUsage(str(root), self.state, lambda: self.roots)
        return self._stack.enter_context(LocalStorage(root, self.state, usage=usage))

    def used(self, name: str = "root") -> tuple[int, int] | None:
        """What is counted, None where nothing is or it is not trusted."""
        with sqlite3.connect(self.state / "usage.sqlite") as database:
            row = database.execute(
                "SELECT bytes, files FROM usage WHERE root = ? AND trusted", (os.fsencode(self.top / name),)
            ).fetchone()
        database.close()
        return row

    def check(self, name: str = "root") -> None:
        """The count is what is on disk."""
        assert self.used(name) == on_disk(self.top / name)

    def check_enough(self, name: str = "root") -> None:
        """The count is what is on disk, or more."""
        used, there = self.used(name), on_disk(self.top / name)
        assert used is not None and used[0] >= there[0] and used[1] >= there[1], (used, there)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    with ExitStack() as stack:
        yield Counted(tmp_path, stack)


def put(storage: Storage, name: str, size: int, quota: Quota | None = None, condition: str | None = None) -> None:
    data = content(size)
    file = new_file(name, size, condition)
    (result,) = storage.publish([storage.stage(file, memoryview(data), digest(data), quota=quota)])
    if isinstance(result, RequestError):
        raise result


def upload(storage: Storage, name: str, size: int | None, quota: Quota | None = None):
    return storage.open_upload(OWNER, new_file(name, size), quota=quota)


def send(hand, number: int, data: bytes) -> None:
    with hand.part(number, len(data)) as part:
        done = 0
        for view in part:
            view[:] = data[done : done + len(view)]
            done += len(view)
        part.finish(blake3(data).hexdigest())


# ------------------------------------------------------------------ the limit


def by_put(storage: Storage, name: str, size: int, quota: Quota) -> None:
    put(storage, name, size, quota)


def by_upload(storage: Storage, name: str, size: int, quota: Quota) -> None:
    with upload(storage, name, size, quota) as hand:
        if size:
            send(hand, 0, content(size))
        hand.commit(digest(content(size)), None)


WAYS = pytest.mark.parametrize("way", [by_put, by_upload])


@WAYS
def test_what_fits_exactly_is_stored_and_one_byte_more_is_not(counted: Counted, way: Callable[..., None]) -> None:
    storage, quota = counted.open(), Quota(bytes=1000)
    way(storage, "a", 400, quota)
    with pytest.raises(QuotaExceeded, match="quota of 1000 bytes has room for 600, not for 601"):
        way(storage, "b", 601, quota)
    assert storage.uploads() == []
    way(storage, "b", 600, quota)
    with pytest.raises(QuotaExceeded):
        way(storage, "c", 1, quota)
    way(storage, "empty", 0, quota)
    assert counted.used() == (1000, 3)
    counted.check()


@WAYS
def test_files_and_folders_are_counted_one_by_one(counted: Counted, way: Callable[..., None]) -> None:
    storage, quota = counted.open(), Quota(files=3)
    way(storage, "d/a", 1, quota)
    with pytest.raises(QuotaExceeded, match="3 files and folders has no room for 1 more; there are 3"):
        way(storage, "e/a", 1, quota)  # the file fits, not its folder
    if (left := storage.uploads()) != []:
        with storage.find_upload(OWNER, left[0]) as hand:
            hand.abort()
    way(storage, "d/b", 1, quota)
    with pytest.raises(QuotaExceeded):
        way(storage, "d/c", 0, quota)
    assert sorted(os.listdir(counted.top / "root/d")) == ["a", "b"]
    counted.check()


def test_part_that_the_quota_refused_is_taken_when_there_is_room(counted: Counted) -> None:
    storage, quota = counted.open(), Quota(bytes=1000)
    put(storage, "a", 600, quota)
    with upload(storage, "stream", None, quota) as hand:
        for _ in range(2):  # refused for the same reason again: the first try holds nothing
            with pytest.raises(QuotaExceeded):
                send(hand, 0, bytes(500))
        storage.rm(path("a"), recursive=False)
        send(hand, 0, bytes(500))
        hand.commit(digest(bytes(500)), 500)
    assert counted.used() == (500, 1)
    counted.check()


def test_a_folder_is_refused_when_its_quota_is_used_up(counted: Counted) -> None:
    storage, quota = counted.open(), Quota(files=2)
    for name, fits in {"a": True, "a/b": True, "c": False}.items():
        (result,) = storage.publish([storage.stage_directory(NewDirectory(path(name), parents=True), quota=quota)])
        assert isinstance(result, QuotaExceeded) is not fits
    storage.publish([storage.stage_directory(NewDirectory(path("a"), parents=True), quota=quota)])
    assert counted.used() == (0, 2)
    counted.check()


def test_everybodys_files_count_but_only_who_has_a_quota_is_held_to_it(counted: Counted) -> None:
    storage = counted.open()
    put(storage, "a", 5000)
    with pytest.raises(QuotaExceeded):
        put(storage, "b", 1, Quota(bytes=4000))
    put(storage, "b", 1, Quota(bytes=6000))
    put(storage, "c", 5000)
    counted.check()


def test_nothing_is_counted_and_no_file_is_made_where_nobody_has_a_quota(counted: Counted) -> None:
    storage = counted.open(counted=False)
    put(storage, "d/a", 10)
    by_upload(storage, "b", 10, None)
    storage.sweep(expire_seconds=1)
    assert not (counted.state / "usage.sqlite").exists() and not (counted.state / "usage.lock").exists()


# ------------------------------------------------------------------ uploads


def test_an_upload_counts_whole_from_its_beginning_and_until_it_is_dropped(counted: Counted) -> None:
    storage, quota = counted.open(), Quota(bytes=20 * MIB)
    with upload(storage, "a", 12 * MIB, quota) as hand:
        assert counted.used() == (12 * MIB, 1)
        with pytest.raises(QuotaExceeded):
            upload(storage, "b", 9 * MIB, quota)
        with upload(storage, "a", 12 * MIB, quota):
            assert counted.used() == (12 * MIB, 1)  # found again: counted once
        hand.abort()
    assert counted.used() == (0, 0)
    with upload(storage, "b", 20 * MIB, quota):
        pass
    assert storage.sweep(expire_seconds=-1) == 1
    assert counted.used() == (0, 0)
    counted.check()


def test_an_upload_of_unknown_size_counts_as_it_grows_and_what_is_left_over_is_given_back(counted: Counted) -> None:
    storage, quota = counted.open(), Quota(bytes=STREAM_PART_BYTES + 10)
    data = content(STREAM_PART_BYTES)
    with upload(storage, "a", None, quota) as hand:
        send(hand, 0, data)
        send(hand, 0, data)  # again: it is there already
        counted.check()
        with pytest.raises(QuotaExceeded):
            hand.part(1, 11)
        send(hand, 1, b"0123456789")
        counted.check()
        hand.commit(digest(data + b"0123456789"), STREAM_PART_BYTES + 10)
    assert counted.used() == (STREAM_PART_BYTES + 10, 1)
    with upload(storage, "b", None) as hand:
        with hand.part(0, 1000):
            pass  # never finished: its room is given back at the end
        send(hand, 0, b"x")
        hand.commit(digest(b"x"), 1)
    counted.check()


def test_an_upload_whose_digest_is_wrong_is_given_back(counted: Counted) -> None:
    storage = counted.open()
    with upload(storage, "a", 10) as hand:
        send(hand, 0, content(10))
        with pytest.raises(RequestError):
            hand.commit(digest(b"other"), None)
    assert counted.used() == (0, 0)


# ------------------------------------------------------------------ given back


@WAYS
def test_what_is_replaced_is_given_back(counted: Counted, way: Callable[..., None]) -> None:
    storage, quota = counted.open(), Quota(bytes=1000, files=2)
    way(storage, "a", 600, quota)
    way(storage, "a", 300, quota)
    assert counted.used() == (300, 1)
    way(storage, "a", 700, quota)
    assert counted.used() == (700, 1)
    with pytest.raises(QuotaExceeded):
        way(storage, "a", 301, quota)  # both are there for a moment
    counted.check()


def test_a_link_that_is_replaced_counts_as_a_file_without_bytes(counted: Counted) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    (counted.top / "root/l").symlink_to("a")
    storage.sweep(expire_seconds=1000)
    assert counted.used() == (10, 2)
    put(storage, "l", 5)
    assert counted.used() == (15, 2)
    counted.check()


def test_what_is_staged_and_not_published_is_given_back(counted: Counted) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    data = content(20)
    storage.stage(new_file("b", 20), memoryview(data), digest(data)).close()
    with pytest.raises(AlreadyExists):
        put(storage, "a", 30, condition="absent")
    with pytest.raises(RequestError):
        put(storage, "a/b", 40)
    assert counted.used() == (10, 1)
    counted.check()


def test_a_staged_file_that_cannot_be_removed_counts_on(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    staged = storage.stage(new_file("b", 20), memoryview(content(20)), digest(content(20)))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "read-only")

    with monkeypatch.context() as broken:
        broken.setattr(Directory, "unlink", refuse)
        staged.close()
    assert counted.used() == (30, 2)
    counted.check()


def test_what_cannot_be_staged_is_given_back(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = counted.open()
    put(storage, "a", 10)

    def refuse(*_: object) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as broken:
        broken.setattr("ftpy.storage.staging.write_at", refuse)
        with pytest.raises(RequestError):
            put(storage, "b", 20)
    assert counted.used() == (10, 1)
    counted.check()


def test_any_order_of_verbs_leaves_the_count_at_what_is_on_disk(counted: Counted) -> None:
    storage = counted.open()
    dice = random.Random(4)
    open_uploads: list = []
    for _ in range(300):
        name = f"{'d/' * dice.randrange(3)}{dice.choice('abc')}"
        try:
            match dice.randrange(9):
                case 0 | 1:
                    put(storage, name, dice.randrange(50), Quota(bytes=300, files=9))
                case 2:
                    by_upload(storage, name, dice.randrange(1, 50), Quota(bytes=300, files=9))
                case 3:
                    open_uploads.append(upload(storage, name, dice.randrange(50), Quota(bytes=300, files=9)))
                case 4 if open_uploads:
                    with open_uploads.pop() as hand:
                        hand.abort()
                case 5:
                    storage.publish([storage.stage_directory(NewDirectory(path(name), parents=True))])
                case 6 | 7:
                    storage.mv(path(name), path(f"{'d/' * dice.randrange(3)}{dice.choice('abcd')}"))
                case 8:
                    storage.rm(path(name), recursive=dice.random() < 0.5)
        except RequestError:
            pass
        if counted.used() is not None:
            counted.check()
    for hand in open_uploads:
        hand.close()
    counted.check()


# ------------------------------------------------------------------ races


def test_of_racing_threads_as_many_get_through_as_there_is_room_for(counted: Counted) -> None:
    storage, quota = counted.open(), Quota(bytes=1000)
    outcomes: list[bool] = []

    def race(number: int) -> None:
        for again in range(8):
            try:
                put(storage, f"{number}-{again}", 30, quota)
                outcomes.append(True)
            except QuotaExceeded:
                outcomes.append(False)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 33 and len(outcomes) == 64
    assert counted.used() == (990, 33)
    counted.check()


def test_racing_replacements_of_one_file_are_counted_exactly(counted: Counted) -> None:
    storage = counted.open()

    def race(number: int) -> None:
        for again in range(10):
            put(storage, "same", 10 * number + again)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted.check()


RACER = """
import sys
from tests.storage.test_counting import Counted, QuotaExceeded, Quota, put
from contextlib import ExitStack
from pathlib import Path
with ExitStack() as stack:
    storage = Counted(Path(sys.argv[1]), stack).open()
    input()
    stored = 0
    for number in range(60):
        try:
            put(storage, f"{sys.argv[2]}{number % 40}", 50, Quota(bytes=3000))
        except QuotaExceeded:
            continue
        stored += 1
    print(stored)
"""


def test_racing_processes_do_not_overrun_a_quota(counted: Counted) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(counted.top), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for name in "xy"
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        assert int(racer.communicate(timeout=60)[0]) > 0
        assert racer.returncode == 0
    # A file counts twice while it is replaced: who wants the last 50 bytes at that moment is refused them.
    assert on_disk(counted.top / "root") in ((3000, 60), (2950, 59))
    counted.check()


# ------------------------------------------------------------------ roots within roots


def test_a_put_counts_for_every_root_around_it_and_below_it(counted: Counted) -> None:
    outer, inner = counted.open("o"), counted.open("o/bob")
    put(outer, "other", 40)
    put(inner, "f", 10, Quota(bytes=100))
    put(outer, "bob/g", 20)
    assert counted.used("o/bob") == (30, 2) and counted.used("o") == (70, 4)
    put(outer, "bob/f", 50)  # replaced by the outer one
    with pytest.raises(QuotaExceeded):
        put(inner, "h", 31, Quota(bytes=100))
    with pytest.raises(QuotaExceeded):
        put(outer, "h", 1, Quota(bytes=110))
    put(inner, "h", 30, Quota(bytes=100))
    for name in ("o", "o/bob"):
        counted.check(name)


def test_an_upload_counts_for_the_root_within_when_it_is_published(counted: Counted) -> None:
    outer, inner = counted.open("o"), counted.open("o/bob")
    put(outer, "e", 1)
    put(inner, "f", 1)
    with upload(outer, "bob/g", 10) as hand:
        assert counted.used("o/bob") == (1, 1)
        send(hand, 0, content(10))
        hand.commit(digest(content(10)), None)
    assert counted.used("o/bob") == (11, 2)
    counted.check("o")


def test_what_is_kept_when_it_is_replaced_counts_for_who_keeps_it_alone(counted: Counted) -> None:
    outer, inner = counted.open("o"), counted.open("o/bob")
    put(outer, "e", 1)
    put(inner, "f", 10)
    key = OperationKey(OWNER, "0" * 32)
    outer.begin(key, "a test")
    new = structs.replace(new_file("bob/f", 3), operation=key)
    assert outer.publish([outer.stage(new, memoryview(b"new"), digest(b"new"))])
    assert counted.used("o/bob") == (3, 1)
    for name in ("o", "o/bob"):
        counted.check(name)


def test_a_move_counts_for_the_roots_that_it_leaves_and_enters(counted: Counted) -> None:
    outer, inner = counted.open("o"), counted.open("o/bob")
    put(outer, "d/e/a", 10)
    put(inner, "b", 5)
    assert counted.used("o") == (15, 5) and counted.used("o/bob") == (5, 1)
    outer.mv(path("d"), path("bob/d"))
    assert counted.used("o") == (15, 5) and counted.used("o/bob") == (15, 4)
    outer.mv(path("bob/d/e/a"), path("bob/b"))
    assert counted.used("o") == (10, 4) and counted.used("o/bob") == (10, 3)
    outer.mv(path("bob/b"), path("b"))
    for name in ("o", "o/bob"):
        counted.check(name)


def test_a_root_that_is_removed_or_moved_by_who_has_the_one_around_it_is_counted_anew(counted: Counted) -> None:
    outer, inner = counted.open("o"), counted.open("o/x/bob")
    put(inner, "b", 5)
    put(outer, "a", 1)
    outer.mv(path("x"), path("y"))
    assert counted.used("o/x/bob") is None
    outer.mv(path("y"), path("x"))
    outer.rm(path("x"), recursive=True)
    assert counted.used("o/x/bob") is None
    counted.check("o")


# ------------------------------------------------------------------ what goes


@pytest.mark.parametrize("name", ["d/e/a", "d/e", "d", "link"])
def test_what_is_removed_is_given_back_at_once(counted: Counted, name: str) -> None:
    storage, quota = counted.open(), Quota(bytes=10, files=5)
    put(storage, "d/e/a", 10, quota)
    (counted.top / "root" / "link").symlink_to("d")
    storage.sweep(expire_seconds=3600)
    with pytest.raises(QuotaExceeded):
        put(storage, "b", 10, quota)
    during: list[object] = []
    storage.rm(path(name), recursive=True, on_removed=lambda _: during.append(counted.used()))
    counted.check()
    assert set(during) <= {counted.used()}  # while what is out of sight is still on the disk
    if name != "link":
        put(storage, "b", 10, quota)


def test_a_folder_that_stays_because_its_removal_is_not_durable_counts_on(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = counted.open()
    put(storage, "d/a", 10)

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", refuse)
        with pytest.raises(IoError):
            storage.rm(path("d"), recursive=True)
    assert counted.used() == (10, 2)
    counted.check()


# ------------------------------------------------------------------ what was not told


def test_what_is_changed_on_the_host_is_counted_at_the_next_sweep(counted: Counted) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    (counted.top / "root/d").mkdir()
    (counted.top / "root/d/b").write_bytes(bytes(90))
    (counted.top / "root/a").unlink()
    with pytest.raises(QuotaExceeded):
        put(storage, "c", 91, Quota(bytes=100))
    assert counted.used() == (10, 1)
    storage.sweep(expire_seconds=1000)
    assert counted.used() == (90, 2)
    counted.check()


def test_a_storage_that_is_opened_counts_anew(counted: Counted) -> None:
    put(counted.open(), "a", 10)
    (counted.top / "root/b").write_bytes(bytes(90))
    with pytest.raises(QuotaExceeded):
        put(counted.open(), "c", 1, Quota(bytes=100))
    counted.check()


def test_a_root_that_gets_a_quota_again_is_counted_anew(counted: Counted) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    roots, counted.roots = counted.roots, frozenset()
    put(storage, "b", 20)
    assert counted.used() == (10, 1)
    counted.roots = roots
    with pytest.raises(QuotaExceeded):
        put(storage, "c", 71, Quota(bytes=100))
    counted.check()


def test_the_death_of_another_process_makes_the_next_put_count_anew(counted: Counted) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    (counted.top / "root/b").write_bytes(bytes(90))
    storage.look_after_remote()
    with pytest.raises(QuotaExceeded):
        put(storage, "c", 1, Quota(bytes=100))


@pytest.mark.parametrize("harm", ["gone", "broken"])
def test_a_database_that_is_lost_is_made_again_from_the_disk(counted: Counted, harm: str) -> None:
    put(counted.open(), "a", 10)
    counted._stack.close()
    for file in counted.state.glob("usage.sqlite*"):
        if harm == "gone":
            file.unlink()
        else:
            file.write_bytes(b"no database" * 1000)
    put(counted.open(), "b", 20, Quota(bytes=30))
    assert counted.used() == (30, 2)


def test_nothing_is_added_when_it_cannot_be_counted(counted: Counted) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    (counted.state / "usage.lock").unlink()
    (counted.state / "usage.lock").mkdir()
    with pytest.raises(IoError, match="cannot be counted"):
        put(storage, "b", 1)
    with pytest.raises(NotFound):
        storage.stat(path("b"))
    (counted.state / "usage.lock").rmdir()
    put(storage, "b", 1)
    counted.check()


def test_folders_that_nobody_may_enter_do_not_end_the_counting(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = counted.open()
    (counted.top / "root/lost+found").mkdir()
    real = os.open

    def refuse(where, *args, **kw):  # root may enter everywhere
        if str(where) == "lost+found":
            raise PermissionError(13, "no")
        return real(where, *args, **kw)

    monkeypatch.setattr(os, "open", refuse)
    put(storage, "a", 10, Quota(bytes=10, files=2))
    assert counted.used() == (10, 2)


def test_a_tree_deeper_than_any_path_is_counted(counted: Counted) -> None:
    storage = counted.open()
    folders = "/".join(["d"] * 62)
    for number in range(20):  # moved together bit by bit: no path leads to its end
        storage.publish([storage.stage_directory(NewDirectory(path(f"t{number}/{folders}"), parents=True))])
        if number:
            storage.mv(path(f"t{number - 1}"), path(f"t{number}/{folders}/x"))
        else:
            put(storage, f"t0/{folders}/file", 7)
    storage.sweep(expire_seconds=1e9)
    assert counted.used() == (7, 20 * 63 + 1)
    storage._usage.distrust()
    put(storage, "new", 3, Quota(bytes=10))
    assert counted.used() == (10, 20 * 63 + 2)
    storage.rm(path("t19"), recursive=True)
    counted.check()


def test_a_recount_waits_for_nobody_when_the_count_is_right(counted: Counted, caplog: pytest.LogCaptureFixture) -> None:
    storage = counted.open()
    put(storage, "a", 10)
    caplog.clear()
    with caplog.at_level("INFO", "ftpy"):
        storage.sweep(expire_seconds=1000)
    assert not [record for record in caplog.records if getattr(record, "event", "") == "usage-counted"]


def test_put_is_refused_when_the_lock_of_the_counts_cannot_be_had(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = counted.open()

    def failing(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as broken:
        broken.setattr(counting, "lock", failing)
        with pytest.raises(IoError, match="cannot be counted"):
            put(storage, "a", 1, Quota(bytes=10))
    put(storage, "a", 1, Quota(bytes=10))
    counted.check()


def test_a_close_that_fails_while_a_tree_is_measured_costs_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a/b/c", "a/d", "e"):
        (tmp_path / folder).mkdir(parents=True)
    close = os.close

    def failing(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = settled_files()
    monkeypatch.setattr(os, "close", failing)
    assert measure(str(tmp_path)) == (0, 5)
    monkeypatch.undo()
    assert open_files() == before


@pytest.mark.parametrize("bounds", [None, {"files": 100}])
def test_what_is_too_much_to_be_counted_leaves_the_count_as_it_was(
    counted: Counted, bounds: dict[str, int] | None
) -> None:
    """A sum beyond 2^63 - 1 is a float to SQLite, which forgets some thousand bytes."""
    storage = counted.open()
    put(storage, "a", 1000)
    quota = bounds and Quota(**bounds)
    with pytest.raises(NoSpace):
        storage.open_upload(OWNER, new_file("large", 2**63 - 1), quota=quota)
    assert counted.used() == (1000, 1)
