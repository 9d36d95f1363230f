"""The feed: what was done is in it, in its order, and nothing else, whoever dies at whatever moment."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ftpy.errors import AlreadyExists, CursorTooOld, IoError, NoSpace, NotEmpty, NotFound
from ftpy.storage import feedbook
from ftpy.storage.base import NewDirectory
from ftpy.storage.beneath import Beneath
from ftpy.storage.feed import Cursor, published
from ftpy.storage.feedbook import FeedBook
from ftpy.storage.local import LocalStorage
from ftpy.storage.publishing import Publication
from ftpy.storage.staging import LocalStaged
from tests.storage.contract import MTIME, OWNER, content, digest, new_file, path, put, send_missing, stage

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="no server runs here")

Told = list[tuple[str, ...]]
REPOSITORY = Path(__file__).resolve().parents[2]


class World:
    """A state folder with its feed, and storages that write it."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        self.top, self._stack = top, stack
        self.state = top / "state"
        self.state.mkdir()
        self.book = stack.enter_context(FeedBook(self.state))
        self.storage = self.open()

    def open(self, name: str = "root") -> LocalStorage:
        """A storage of a folder."""
        root = self.top / name
        root.mkdir(exist_ok=True)
        return self._stack.enter_context(LocalStorage(root, self.state, feed=self.book.of(str(root))))

    def told(self, since: Cursor | None = None) -> Told:
        """What a reader is told, as (kind, path[, to]), paths from the top."""
        since = since or self.book.ends()[0]
        found: Told = []
        for row in self.book.read(since, 1000):
            below = os.path.relpath(row.root, self.top)
            for number, one in row.numbered():
                if number > since.number:
                    ways = [os.fsdecode(way) for way in (one.path, one.to) if way]
                    found.append((one.kind, *(f"{below}/{way}" for way in ways)))
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty one."""
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_what_is_done_is_told_in_its_order(world: World) -> None:
    put(world.storage, "a", b"1")
    put(world.storage, "folder/b", b"2")
    world.storage.mv(path("a"), path("c"))
    world.storage.rm(path("folder"), recursive=True)
    world.storage.publish([world.storage.stage_directory(NewDirectory(path("made")))])
    assert world.told() == [
        ("published", "root/a"),
        ("published", "root/folder/b"),
        ("moved", "root/a", "root/c"),
        ("deleted", "root/folder"),
        ("published", "root/made"),
    ]


def test_an_upload_is_told_of_when_it_is_committed_and_not_before(world: World) -> None:
    data = content(100)
    with world.storage.open_upload(OWNER, new_file("large", len(data))) as upload:
        send_missing(upload, data)
        assert world.told() == []
        upload.commit(digest(data), None)
    assert world.told() == [("published", "root/large")]


def test_what_is_refused_is_not_told(world: World) -> None:
    put(world.storage, "there", b"1")
    put(world.storage, "folder/x", b"1")
    for refused, error in (
        (lambda: put(world.storage, "there", b"2", "absent"), AlreadyExists),
        (lambda: world.storage.mv(path("there"), path("nowhere/x")), NotFound),
        (lambda: world.storage.rm(path("folder"), recursive=False), NotEmpty),
        (lambda: world.storage.rm(path("nothing"), recursive=False), NotFound),
    ):
        with pytest.raises(error):
            refused()
    assert world.told() == [("published", "root/there"), ("published", "root/folder/x")]


def test_of_a_group_only_what_came_in_place_is_told(world: World) -> None:
    put(world.storage, "b", b"1")
    group = [stage(world.storage, name, b"2", "absent") for name in ("a", "b", "c")]
    world.storage.publish(group)
    assert world.told()[1:] == [("published", "root/a"), ("published", "root/c")]


def test_a_folder_is_told_of_once_when_it_is_new(world: World) -> None:
    for _ in range(2):
        wanted = NewDirectory(path("folder"), parents=True, mtime_ns=MTIME)
        world.storage.publish([world.storage.stage_directory(wanted) for _ in range(2)])
    assert world.told() == [("published", "root/folder")]


def test_of_a_group_that_failed_only_what_came_in_place_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: LocalStaged) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(LocalStaged, "status", fail)
    wanted = NewDirectory(path("folder"), parents=True)
    results = world.storage.publish([stage(world.storage, "a", b"1"), world.storage.stage_directory(wanted)])
    assert [type(result) for result in results] == [IoError, IoError]
    assert world.told() == [("published", "root/a")] and not (world.top / "root/folder").exists()


def test_a_group_is_one_commit_that_waits_for_the_disk_and_a_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[bool] = []
    real = FeedBook._transaction

    def counted(book: FeedBook, work: Any, durable: bool) -> Any:
        commits.append(durable)
        return real(book, work, durable)

    wanted = NewDirectory(path("folder"), parents=True)
    world.storage.publish([world.storage.stage_directory(wanted)])
    monkeypatch.setattr(FeedBook, "_transaction", counted)
    world.storage.publish([world.storage.stage_directory(wanted)])  # which is there
    assert commits == []
    world.storage.publish([stage(world.storage, f"f{i}", b"1") for i in range(100)])
    assert sorted(commits) == [False, True]
    with sqlite3.connect(world.state / "events.sqlite") as database:
        assert database.execute("SELECT count(*), sum(count) FROM events").fetchone() == (2, 101)
    database.close()


# ------------------------------------------------------------------ death

DIE = """
import os, signal, sys
from ftpy.storage.beneath import Directory
from ftpy.storage.feedbook import FeedBook
from ftpy.storage.local import LocalStorage
from ftpy.storage.publishing import Publication
from ftpy.storage.base import NewDirectory
from tests.storage.contract import path, stage

top, act, moment = sys.argv[1:]
book = FeedBook(f"{top}/state")
storage = LocalStorage(f"{top}/root", f"{top}/state", feed=book.of(f"{top}/root"))

def dying(before, real):
    def die(*arguments, **named):
        if not before:
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return die

def arm(target, names, before):
    for name in names:
        setattr(target, name, dying(before, getattr(target, name)))

group = [stage(storage, f"new/{i}", b"new") for i in range(3)] + [stage(storage, "a", b"other")]
if moment == "planned":
    arm(Directory, ("rename", "rename_noreplace", "unlink", "mkdir", "rmdir"), True)
elif moment == "in the middle":
    arm(Directory, ("rename", "rename_noreplace", "unlink", "mkdir", "rmdir"), False)
elif moment == "done":
    arm(Publication, ("sync",), True)
elif moment.startswith("overtaken"):
    other = LocalStorage(f"{top}/root", f"{top}/state", feed=book.of(f"{top}/root"))
    real = FeedBook._holding

    def overtaken(book, *, alone):
        if alone:
            other.publish([stage(other, "a", b"newer")])
            arm(Directory, ("rename", "unlink"), moment == "overtaken, planned")
        return real(book, alone=alone)

    FeedBook._holding = overtaken
else:
    arm(FeedBook, ("_end",), moment == "durable")
{
    "put": lambda: storage.publish(group),
    "mkdir": lambda: storage.publish([storage.stage_directory(NewDirectory(path("made")))]),
    "rm": lambda: storage.rm(path("a"), recursive=False),
    "rm -r": lambda: storage.rm(path("folder"), recursive=True),
    "mv": lambda: storage.mv(path("a"), path("z")),
    "mv over": lambda: storage.mv(path("a"), path("b")),
    "mv folder": lambda: storage.mv(path("folder"), path("z")),
}[act]()
"""
ACTS = ("put", "mkdir", "rm", "rm -r", "mv", "mv over", "mv folder")
MOMENTS = ("planned", "in the middle", "done", "durable", "told")


def die(world: World, act: str, moment: str) -> None:
    """Do it in another process, which is killed at that moment."""
    arguments = [sys.executable, "-c", DIE, str(world.top), act, moment]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def believed(told: Told) -> set[str]:
    """The files and folders that a reader of the feed believes to be there."""
    there: set[str] = set()

    def at(way: str) -> set[str]:
        return {one for one in there if one == way or one.startswith(f"{way}/")}

    for kind, *ways in told:
        gone = at(ways[0]) if kind != "published" else set()
        there -= gone
        if kind == "moved":
            there |= {ways[1] + one[len(ways[0]) :] for one in gone}
        elif kind == "published":
            there.add(ways[0])
    return there


def on_disk(world: World) -> set[str]:
    """The files that are there, and the folder that was asked for; those on the way of a put are not told of."""
    found = [one for one in (world.top / "root").rglob("*") if ".ftpy" not in one.parts]
    return {one.relative_to(world.top).as_posix() for one in found if one.is_file() or one.name == "made"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("act", ACTS)
def test_feed_and_files_agree_whenever_a_process_is_killed(world: World, act: str, moment: str) -> None:
    for name in ("a", "b", "folder/x", "folder/y"):
        put(world.storage, name, name.encode())
    die(world, act, moment)
    world.book.settle()
    assert believed(world.told()) == on_disk(world)
    world.storage.sweep(expire_seconds=0)
    assert believed(world.told()) == on_disk(world)
    put(world.storage, "after", b"1")
    assert world.told()[-1] == ("published", "root/after")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["overtaken, planned", "overtaken, done"])
@pytest.mark.parametrize("act", ["rm", "mv"])
def test_feed_and_files_agree_when_who_is_killed_had_waited_for_a_put_to_that_place(
    world: World, act: str, moment: str
) -> None:
    put(world.storage, "a", b"old")
    die(world, act, moment)
    if moment == "overtaken, done":
        put(world.storage, "a", b"again")
    world.book.settle()
    assert believed(world.told()) == on_disk(world)


@pytest.mark.slow
def test_what_a_dead_process_had_done_is_looked_up_before_it_is_taken_elsewhere(world: World) -> None:
    put(world.storage, "a", b"old")
    die(world, "mv", "done")
    world.storage.mv(path("z"), path("further"))
    put(world.storage, "a", b"new")
    die(world, "put", "done")
    world.storage.mv(path("new"), path("elsewhere"))
    put(world.storage, "new/0", b"newer")
    world.book.settle()
    assert believed(world.told()) == on_disk(world)


def test_what_was_refused_is_not_told_when_its_process_died_before_it_wrote_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(100)
    with world.storage.open_upload(OWNER, new_file("a", len(data), "absent")) as upload:
        send_missing(upload, data)
        put(world.storage, "a", b"1")
        with monkeypatch.context() as dying:
            dying.setattr(FeedBook, "_end", lambda *_: None)
            with pytest.raises(AlreadyExists):
                upload.commit(digest(data), None)
            upload.abort()
            with pytest.raises(AlreadyExists):
                put(world.storage, "a", b"2", "absent")
    assert world.book.settle() == 2
    assert world.told() == [("published", "root/a")]


def test_what_happened_is_known_where_the_disk_has_another_number_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world.storage, "a", b"1")
    put(world.storage, "folder/b", b"1")
    with monkeypatch.context() as dying:
        dying.setattr(FeedBook, "_end", lambda *_: None)
        with pytest.raises(NotEmpty):
            world.storage.rm(path("folder"), recursive=False)
        put(world.storage, "c", b"1")
    with closing(sqlite3.connect(world.state / "events.sqlite")) as database:
        for last, what in database.execute("SELECT last, what FROM events").fetchall():
            events = [replace(one, node=(one.node[0] + 1, one.node[1])) for one in feedbook._decode(what)]
            database.execute("UPDATE events SET what = ? WHERE last = ?", (feedbook._encode(events), last))
        database.commit()
    assert world.book.settle() == 2
    assert believed(world.told()) == on_disk(world)


@pytest.mark.slow
def test_nothing_behind_what_is_pending_is_told_until_that_is_settled(world: World) -> None:
    die(world, "put", "done")
    put(world.storage, "behind", b"1")
    assert world.told() == []
    world.book.settle()
    assert {ways[0] for _, *ways in world.told()} == {
        f"root/{name}" for name in ("new/0", "new/1", "new/2", "a", "behind")
    }
    assert world.told()[-1] == ("published", "root/behind")


@pytest.mark.slow
def test_what_lies_staged_is_looked_at_before_it_is_swept(world: World) -> None:
    die(world, "put", "planned")
    assert world.storage.sweep(expire_seconds=0) == 4
    assert world.told() == []


def test_settling_waits_for_what_is_under_way(world: World) -> None:
    began, goes_on = threading.Event(), threading.Event()
    real = Publication.sync

    def slow(publication: Publication) -> Any:
        began.set()
        assert goes_on.wait(20)
        return real(publication)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publication, "sync", slow)
        putting = threading.Thread(target=lambda: put(world.storage, "slow", b"1"))
        putting.start()
        assert began.wait(20)
        settled: list[int] = []
        settling = threading.Thread(target=lambda: settled.append(world.book.settle()))
        settling.start()
        assert world.told() == []
        goes_on.set()
        putting.join(20)
        settling.join(20)
    assert world.told() == [("published", "root/slow")]


# ------------------------------------------------------------------ cursors, bounds


def test_a_reader_goes_on_where_it_stood(world: World) -> None:
    put(world.storage, "a", b"1")
    _, here = world.book.ends()
    world.storage.publish([stage(world.storage, name, b"1") for name in "bcd"])
    assert world.told(here) == [("published", f"root/{name}") for name in "bcd"]
    middle = Cursor(here.epoch, here.number + 2)
    assert world.told(middle) == [("published", "root/d")]
    assert Cursor.parse(str(middle)) == middle


@pytest.mark.parametrize(
    "text", ["", "0", "12-3", "g" * 16 + "-1", "0" * 16 + "-", "0" * 16 + "-1\n", "0" * 16 + "-9999999999999999999"]
)
def test_what_is_no_cursor_is_told(text: str) -> None:
    with pytest.raises(CursorTooOld):
        Cursor.parse(text)


def test_the_feed_is_bounded_and_a_cursor_that_is_too_old_is_told(world: World) -> None:
    start, _ = world.book.ends()
    for i in range(10):
        put(world.storage, f"f{i}", b"1")
    with FeedBook(world.state, most=4) as book:
        assert book.sweep(days=1) == 6
    with pytest.raises(CursorTooOld):
        world.book.read(start, 10)
    oldest, newest = world.book.ends()
    assert (oldest.number, newest.number) == (6, 10)
    assert len(world.told()) == 4
    assert world.book.sweep(days=0) == 4
    assert world.book.ends() == (newest, newest)
    put(world.storage, "last", b"1")  # with a number that was not given before
    assert world.told(newest) == world.told() == [("published", "root/last")]


def test_the_most_holds_whatever_comes_between_two_sweeps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedbook, "_MARGIN", 5)
    root, one = str(world.top / "root"), [published(path("a"))]
    with FeedBook(world.state, most=10) as book:
        for _ in range(100):
            with book.recording(root, one * 3, alone=False, needed=True) as record:
                record.done()
            assert len(world.told()) <= 10 + 5
        assert len(world.told()) >= 10 - 2
        assert world.book.ends()[1].number == 300


@pytest.mark.parametrize("becomes", [[], [0, 1, 2]])
def test_nothing_is_forgotten_from_what_is_pending_on_and_no_number_given_again(
    world: World, becomes: list[int]
) -> None:
    put(world.storage, "a", b"1")
    _, here = world.book.ends()
    planned = [published(path(name)) for name in "bcd"]
    with world.book.recording(str(world.top / "root"), planned, alone=False, needed=True) as record:
        assert world.book.sweep(days=0) == 1
        record.happened = [planned[number] for number in becomes]
    put(world.storage, "e", b"1")
    told = [("published", f"root/{name}") for name in [*("bcd"[number] for number in becomes), "e"]]
    assert world.told() == world.told(here) == told


def test_a_broken_file_begins_another_feed(world: World) -> None:
    put(world.storage, "a", b"1")
    _, here = world.book.ends()
    world.book.close()
    for name in ("events.sqlite-wal", "events.sqlite-shm"):
        (world.state / name).unlink(missing_ok=True)
    (world.state / "events.sqlite").write_bytes(b"no database" * 1000)
    put(world.storage, "b", b"1")
    with pytest.raises(CursorTooOld):
        world.book.read(here, 10)
    assert world.told() == [("published", "root/b")]


def test_a_broken_file_is_set_aside_once_and_all_processes_write_the_one_that_follows(world: World) -> None:
    root = world.top / "root"
    with FeedBook(world.state) as book, LocalStorage(root, world.state, feed=book.of(str(root))) as other:
        put(world.storage, "a", b"1")
        put(other, "b", b"1")
        world.book._database.set_aside()  # both have found it broken
        put(world.storage, "c", b"1")
        book._database.set_aside()
        put(other, "d", b"1")
        put(world.storage, "e", b"1")
        assert world.told() == [("published", f"root/{name}") for name in "cde"]
        assert [row.last for row in book.read(book.ends()[0], 10)] == [1, 2, 3]
    assert len([name for name in os.listdir(world.state) if ".broken-" in name and name[-4:-3] != "-"]) == 1


def test_what_is_forgotten_is_gone_and_another_feed_begins(world: World) -> None:
    put(world.storage, "a", b"1")
    _, here = world.book.ends()
    world.book.forget()
    with pytest.raises(CursorTooOld):
        world.book.read(here, 10)


# ------------------------------------------------------------------ what fails


@pytest.fixture
def full(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether the feed's disk is full."""
    refusing = False
    real = feedbook._insert

    def insert(database: sqlite3.Connection, several: Any) -> Any:
        numbers = real(database, several)
        if refusing:
            database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0]}")
            database.execute("CREATE TABLE big AS SELECT randomblob(1000000) AS b")
        return numbers

    def fill(wanted: bool) -> None:
        nonlocal refusing
        refusing = wanted

    monkeypatch.setattr(feedbook, "_insert", insert)
    return fill


def refuse(*_: object, **__: object) -> None:
    """The feed's disk is full."""
    raise NoSpace


def refuse_to_look(*_: object) -> None:
    """The disk fails."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_nothing_is_put_or_moved_when_the_feed_cannot_be_written(world: World, full: Callable[[bool], None]) -> None:
    put(world.storage, "a", b"1")
    full(True)
    with pytest.raises(NoSpace):
        put(world.storage, "b", b"1")
    with pytest.raises(NoSpace):
        world.storage.mv(path("a"), path("c"))
    assert on_disk(world) == {"root/a"}
    assert os.listdir(world.top / "root" / ".ftpy" / "staged") != []  # the lock of this process alone
    full(False)
    put(world.storage, "d", b"1")
    assert believed(world.told()) == on_disk(world)


def test_who_removes_makes_room_and_readers_are_told_to_begin_anew(world: World, full: Callable[[bool], None]) -> None:
    put(world.storage, "a", b"1")
    _, here = world.book.ends()
    full(True)
    world.storage.rm(path("a"), recursive=False)
    assert on_disk(world) == set()
    full(False)
    put(world.storage, "b", b"1")
    with pytest.raises(CursorTooOld):
        world.book.read(here, 10)
    assert world.told() == [("published", "root/b")]


def test_who_begins_anew_is_told_of_all_that_was_under_way_then(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world.storage, "a", b"1")
    with monkeypatch.context() as failing:
        failing.setattr(FeedBook, "_write", refuse)
        world.storage.rm(path("a"), recursive=False)
    with FeedBook(world.state) as others:
        under_way = others.recording(str(world.top / "root"), [published(path("x"))], alone=False, needed=True)
        with under_way as record:
            seen = world.book.changes
            putting = threading.Thread(target=lambda: put(world.storage, "b", b"1"))
            putting.start()
            while world.book.changes == seen:
                world.book.wait(seen, 1)
            _, here = world.book.ends()
            record.done()
        putting.join(20)
    with pytest.raises(CursorTooOld):
        world.told(here)


def test_who_removes_does_not_wait_until_a_loss_can_be_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it took away still counts, and who has come meanwhile may be about to count anew."""
    put(world.storage, "folder/a", b"1")
    _, here = world.book.ends()
    tell = world.book._tell_of_loss
    with FeedBook(world.state) as others, ExitStack() as under_way:

        def later(**how: bool) -> None:
            come = [published(path("x"))]
            under_way.enter_context(others.recording(str(world.top / "root"), come, alone=False, needed=True))
            tell(**how)

        with monkeypatch.context() as failing:
            failing.setattr(world.book, "_write", refuse)
            failing.setattr(world.book, "_tell_of_loss", later)
            removing = threading.Thread(target=lambda: world.storage.rm(path("folder"), recursive=True))
            removing.start()
            removing.join(20)
            assert not removing.is_alive()
    put(world.storage, "b", b"1")
    with pytest.raises(CursorTooOld):
        world.told(here)


@pytest.mark.parametrize("trouble", ["gone", "not mounted", "unreadable"])
def test_readers_are_told_to_begin_anew_where_it_cannot_be_looked_what_happened(
    world: World, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    other = world.open("other")
    with monkeypatch.context() as dying:
        dying.setattr(FeedBook, "_end", lambda *_: None)
        put(world.storage, "a", b"1")
    _, here = world.book.ends()
    if trouble != "unreadable":
        (world.top / "root").rename(world.top / "moved")
    if trouble == "not mounted":
        (world.top / "root").mkdir()
    with monkeypatch.context() as failing:
        if trouble == "unreadable":
            failing.setattr(Beneath, "lstat", refuse_to_look)
        assert world.book.settle() == 1
    with pytest.raises(CursorTooOld):
        world.told(here)
    put(other, "b", b"1")
    assert world.told() == [("published", "other/b")]


def test_nothing_is_put_when_the_lock_of_the_feed_cannot_be_had(world: World) -> None:
    (world.state / "turn.events.lock").mkdir()
    with pytest.raises(IoError):
        put(world.storage, "a", b"1")
    assert on_disk(world) == set()
