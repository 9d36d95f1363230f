"""The feed kept in SQLite, one for all roots and processes of a server, in the order in which things happened.

A row is a group of events that were published together, numbered in one; ``last`` is the number of the last of them.
It is written, durably, before anything is done, and is ``pending`` until all of it is durable: no reader is given it,
or what follows it, before. Who dies in between leaves it pending. All who do something hold one lock, shared, from
that write to the end, and who takes something away, or settles, holds it alone: so the order of numbers is that of
what happened, and what is pending while somebody holds it alone is a dead process's. What became of that is looked up,
before anything else is taken away: a rename brings an inode to its path, a removal or a move takes one from there.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from ftpy.errors import CursorTooOld, IoError, NoSpace, RequestError
from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.area import AREA
from ftpy.storage.base import Closing
from ftpy.storage.beneath import Beneath
from ftpy.storage.database import Database
from ftpy.storage.feed import Cursor, Feed, Happening, Plan, Record
from ftpy.storage.locking import lock_in_turn

log = logging.getLogger("ftpy.storage")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    last INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_ns INTEGER NOT NULL, root BLOB NOT NULL, what BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS pending (last INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS feed (epoch TEXT NOT NULL, swept INTEGER NOT NULL);
INSERT INTO feed SELECT lower(hex(randomblob(8))), 0 WHERE NOT EXISTS (SELECT 1 FROM feed);
"""
_ADD = """
INSERT INTO events
SELECT max(swept, (SELECT coalesce(max(last), 0) FROM events)) + :count, :count, :time_ns, :root, :what FROM feed
"""
_READ = "SELECT last, count, time_ns, root, what FROM events WHERE last > ? AND last < ? ORDER BY last LIMIT ?"
_PENDING = "SELECT last, root, what FROM events JOIN pending USING (last) ORDER BY last"
_OLD = "SELECT max(last) FROM events WHERE time_ns < :before OR last <= (SELECT max(last) FROM events) - :most"
_GOING = "SELECT max(last), sum(count) FROM events WHERE last <= ? AND last < ?"
# What comes after an epoch's end cannot be told from what was lost.
_RENEW = (
    "UPDATE feed SET epoch = lower(hex(randomblob(8))), swept = max(swept, (SELECT coalesce(max(last), 0) FROM events))"
)
_BUSY_SECONDS = 30.0
"""How long another process's write is waited for: each takes as long as the disk does for one."""
_ENDLESS = 2**63 - 1
_MARGIN = 1000
"""Events above the most that go at once, in a few milliseconds, and not one by one with each write."""
LOOK_SECONDS = 0.5
"""How often who waits looks what other processes have written."""

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Happening]).decode


class Row(NamedTuple):
    """Events of one group: numbered up to ``last``, at ``root``'s real path."""

    last: int
    time_ns: int
    root: str
    events: list[Happening]

    def numbered(self) -> Iterator[tuple[int, Happening]]:
        """Each with its number."""
        return enumerate(self.events, self.last - len(self.events) + 1)


class _Entry:
    """A group on its way into the feed; ``last`` once it is there."""

    __slots__ = ("count", "error", "last", "root", "what")

    def __init__(self, root: str, planned: Sequence[Happening]) -> None:
        self.root, self.what, self.count = os.fsencode(root), _encode(planned), len(planned)
        self.last = 0
        self.error: RequestError | None = None


class FeedBook(Closing):
    """The feed of a server, whose folder is ``state``, as one process sees it. Every method is safe in any thread.

    Of more events than the ``most`` the oldest go.
    """

    def __init__(self, state: str | Path, *, most: int = _ENDLESS) -> None:
        self._state, self._most = Path(state), most
        self._database = Database(
            self._state / "events.sqlite", _SCHEMA, busy_seconds=_BUSY_SECONDS, synchronous="NORMAL"
        )
        self._queue: list[_Entry] = []
        self._queue_lock = threading.Lock()
        self._ended: list[tuple[int, Sequence[Happening] | None]] = []
        """Pending rows that have ended and whose end is still to be written: what of them happened, None: all."""
        self._lost = False
        """Something happened that could not be written. That is said once nothing is pending: so what is told to who
        begins anew has happened since."""
        self._changed = threading.Condition()
        self.changes = 0
        """Grows with whatever this process adds."""

    def of(self, root: str) -> Feed:
        """The feed as the storage of one root's real path writes it."""
        return _KeptFeed(self, root)

    def close(self) -> None:
        """Close the database."""
        with self._database.lock:
            self._database.disconnect()

    def forget(self) -> None:
        """No feed is kept any more, and none of it is left. Raises OSError."""
        with self._database.lock:
            self._database.remove()

    # ---------------------------------------------------------------- writing

    @contextmanager
    def recording(self, root: str, plan: Plan, *, alone: bool, needed: bool) -> Iterator[Record]:
        """Write it down, let it happen, write down what did."""
        if not plan:
            yield Record(())
            return
        look = plan if callable(plan) else lambda: plan
        entry: _Entry | None
        with ExitStack() as held:
            held.callback(self._tell_of_loss, wait=needed)
            try:
                held.enter_context(self._holding(alone=alone))
                if alone:
                    self._settle()  # what had come to a path cannot be told by a look once it is taken away
                record = Record(look())
                entry = _Entry(root, record.planned)
                self._add(entry)
            except RequestError:
                if needed:
                    raise
                record, entry = Record(look()), None
            try:
                yield record
            finally:
                self._end(entry, record)

    def _add(self, entry: _Entry) -> None:
        """Write a group down, durably: with all those that came while another one was written. Raises RequestError."""
        with self._queue_lock:
            self._queue.append(entry)
        with self._database.lock:
            if not entry.last and entry.error is None:
                with self._queue_lock:
                    several, self._queue = self._queue, []
                try:
                    numbers = self._write(lambda database: self._insert_bounded(database, several), durable=True)
                except RequestError as error:
                    for one in several:
                        one.error = error
                else:
                    for one, number in zip(several, numbers, strict=True):
                        one.last = number
        if entry.error is not None:
            raise entry.error

    def _insert_bounded(self, database: sqlite3.Connection, several: list[_Entry]) -> list[int]:
        """The most holds now, too: within an hour anybody can write more than a disk holds."""
        numbers = _insert(database, several)
        (swept,) = database.execute("SELECT swept FROM feed").fetchone()
        if numbers[-1] - swept > self._most + _MARGIN:
            _forget(database, numbers[-1] - self._most)
        return numbers

    def _end(self, entry: _Entry | None, record: Record) -> None:
        """Write down what has happened. What cannot be written now is with the next write, or settled once we died."""
        happened = record.happened
        with self._database.lock:
            if entry is not None:
                self._ended.append((entry.last, None if len(happened) == len(record.planned) else happened))
            elif happened:
                self._lost = True
            with suppress(RequestError):
                self._write(lambda _: None)
        self._notify()

    def _tell_of_loss(self, *, wait: bool) -> None:
        """Once the lock is free again: who removed need not have had it.

        Nor does who removes ``wait`` for it: what it took away still counts, and others may have to count anew before
        they let go of the lock.
        """
        if self._lost:
            with suppress(RequestError):  # it has been said; who comes next tries again
                self.settle(wait=wait)

    def _notify(self) -> None:
        with self._changed:
            self.changes += 1
            self._changed.notify_all()

    def _write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Do ``work`` (lock held), behind what ended before and could not be written then. Raises IoError, NoSpace."""

        def both(database: sqlite3.Connection) -> T:
            for last, happened in self._ended:
                _write_end(database, last, happened)
            return work(database)

        done = self._safely(both, durable=durable)
        self._ended = []
        return done

    def sweep(self, *, days: float) -> int:
        """Forget what is older, or more than the most: how many events went. Raises IoError."""

        def forget(database: sqlite3.Connection) -> int:
            before = time.time_ns() - int(days * 86400 * 1e9)
            old = database.execute(_OLD, {"before": before, "most": self._most}).fetchone()[0] or 0
            return _forget(database, old)

        with self._database.lock:
            return self._write(forget)

    # ---------------------------------------------------------------- settling

    def settle(self, *, wait: bool = True) -> int:
        """Look what became of what dead processes were about to do: how many groups there were.

        Raises IoError; also where the lock is not free and it is not to ``wait``.
        """
        if not self._pending() and not self._lost:
            return 0
        with self._holding(alone=True, wait=wait):
            return self._settle()

    def _settle(self) -> int:
        """The same, by who holds the lock alone."""
        pending = self._pending()
        if not pending and not self._lost:
            return 0
        ends = [(last, _what_became(os.fsdecode(root), _decode(what))) for last, root, what in pending]

        def write(database: sqlite3.Connection) -> None:
            for last, happened in ends:
                _write_end(database, last, happened or ())
            if self._lost:
                database.execute(_RENEW)
                database.execute("DELETE FROM events")

        with self._database.lock:
            self._lost = self._lost or any(happened is None for _, happened in ends)
            self._write(write, durable=True)
            if self._lost:
                log.error("events were lost: cursors of before are worth nothing", extra={"event": "events-lost"})
            self._lost = False
        self._notify()
        if ends:
            log.info("events-settled", extra={"event": "events-settled", "fields": {"groups": len(ends)}})
        return len(ends)

    def _pending(self) -> list[Any]:
        with self._database.lock:
            return self._safely(lambda database: database.execute(_PENDING).fetchall())

    # ---------------------------------------------------------------- reading

    def ends(self) -> tuple[Cursor, Cursor]:
        """The cursors before the oldest event that is kept, and behind the newest. Raises RequestError."""

        def look(database: sqlite3.Connection) -> tuple[Cursor, Cursor]:
            epoch, swept = database.execute("SELECT epoch, swept FROM feed").fetchone()
            newest = "SELECT coalesce(max(last), 0) FROM events WHERE last < ?"
            return Cursor(epoch, swept), Cursor(epoch, database.execute(newest, (_limit(database),)).fetchone()[0])

        with self._database.lock:
            oldest, newest = self._safely(look)
        return oldest, max(oldest, newest)

    def read(self, since: Cursor, most: int) -> list[Row]:
        """The groups that hold the events behind ``since``, ``most`` at once. Raises CursorTooOld, IoError."""

        def look(database: sqlite3.Connection) -> list[Any]:
            epoch, swept = database.execute("SELECT epoch, swept FROM feed").fetchone()
            if since.epoch != epoch:
                raise CursorTooOld("that cursor is of another feed; this one has begun anew since")
            if since.number < swept:
                raise CursorTooOld
            return database.execute(_READ, (since.number, _limit(database), most)).fetchall()

        with self._database.lock:
            rows = self._safely(look)
        return [Row(last, time_ns, os.fsdecode(root), _decode(what)) for last, _, time_ns, root, what in rows]

    def wait(self, seen: int, seconds: float) -> None:
        """Wait for something newer than what was read when ``changes`` was ``seen``, in this process or another."""
        with self._changed:
            self._changed.wait_for(lambda: self.changes != seen, min(seconds, LOOK_SECONDS))

    # ---------------------------------------------------------------- lock and database

    @contextmanager
    def _holding(self, *, alone: bool, wait: bool = True) -> Iterator[None]:
        """The lock."""
        try:
            fd = lock_in_turn(self._opened, "events.lock", shared=not alone, wait=wait)
        except OSError as error:
            raise IoError(f"events cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            syscalls.close(fd)

    def _opened(self, name: str) -> int:
        return os.open(self._state / name, os.O_RDWR | os.O_CREAT, 0o600)

    def _safely(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Do ``work`` in one transaction (lock held); a broken database is set aside, once. Raises IoError, NoSpace."""
        try:
            try:
                return self._transaction(work, durable)
            except sqlite3.OperationalError:
                raise  # locked, disk full: it passes
            except sqlite3.DatabaseError as error:
                log.error("the feed begins anew: %s", error, extra={"event": "events-broken"})
                self._database.set_aside()
                return self._transaction(work, durable)
        except (sqlite3.Error, OSError) as error:
            log.error("events: %s", error, extra={"event": "events-failed"})
            self._database.disconnect()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise NoSpace from error
            raise IoError("events cannot be read or written; the server's log says why") from error

    def _transaction(self, work: Callable[[sqlite3.Connection], T], durable: bool) -> T:
        database = self._database.connection()
        database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        with database:
            database.execute("BEGIN IMMEDIATE")
            return work(database)


class _KeptFeed(Feed):
    """One root's."""

    def __init__(self, book: FeedBook, root: str) -> None:
        self._book, self._root = book, root

    @property
    def keeps(self) -> bool:
        """It does."""
        return True

    def recording(self, plan: Plan, *, alone: bool = False, needed: bool = True) -> AbstractContextManager[Record]:
        """A ``with`` around what does this."""
        return self._book.recording(self._root, plan, alone=alone, needed=needed)

    def settle(self) -> None:
        """Of all roots: they are in one feed."""
        self._book.settle()


def _insert(database: sqlite3.Connection, several: list[_Entry]) -> list[int]:
    now, numbers = time.time_ns(), []
    for one in several:
        row = {"count": one.count, "time_ns": now, "root": one.root, "what": one.what}
        numbers.append(database.execute(_ADD, row).lastrowid or 0)
    database.executemany("INSERT INTO pending VALUES (?)", [(number,) for number in numbers])
    return numbers


def _forget(database: sqlite3.Connection, upto: int) -> int:
    """Forget the groups up to this number, but none from the first on that is pending: how many events went."""
    last, gone = database.execute(_GOING, (upto, _limit(database))).fetchone()
    if last is None:
        return 0
    database.execute("DELETE FROM events WHERE last <= ?", (last,))
    database.execute("UPDATE feed SET swept = max(swept, ?)", (last,))
    return gone  # type: ignore[no-any-return]


def _limit(database: sqlite3.Connection) -> int:
    """The number of the first group that is still pending: nobody is told of it, or of what follows."""
    return database.execute("SELECT coalesce(min(last), ?) FROM pending", (_ENDLESS,)).fetchone()[0]  # type: ignore[no-any-return]


def _write_end(database: sqlite3.Connection, last: int, happened: Sequence[Happening] | None) -> None:
    """A group is pending no more; ``happened`` of it has, None: all. One that another has settled stays as it is."""
    if not database.execute("DELETE FROM pending WHERE last = ?", (last,)).rowcount or happened is None:
        return
    if happened:
        row = (len(happened), _encode(happened), last)
        database.execute("UPDATE events SET count = ?, what = ? WHERE last = ?", row)
    else:
        database.execute("DELETE FROM events WHERE last = ?", (last,))


def _what_became(root: str, planned: list[Happening]) -> list[Happening] | None:
    """What of this has happened, and is durable now; None where that cannot be told."""
    try:
        with Beneath(root) as beneath:
            beneath.lstat(RemotePath((AREA,)))  # else it is where a disk is to be mounted, say
            happened = [one for one in planned if _has_happened(beneath, one)]
            ways = {_path(way).parent for one in happened for way in (one.path, one.to) if way}
            for way in sorted(ways):
                with suppress(FileNotFoundError, NotADirectoryError), beneath.open_dir(way) as directory:
                    directory.sync()
            return happened
    except OSError as error:
        fields = {"root": root, "reason": error.strerror}
        log.warning("events-not-settled", extra={"event": "events-not-settled", "fields": fields})
        return None


def _has_happened(beneath: Beneath, one: Happening) -> bool:
    inode = one.node[1]  # the device may have another number after a restart of the machine
    found = _inode(beneath, _path(one.path))
    if one.kind == "published":
        if one.staged:
            return _inode(beneath, RemotePath((AREA, *one.staged.split("/")))) is None
        return found is not None and inode in (0, found)
    if one.kind == "deleted" or found is None:
        return found != inode
    return found != inode and _inode(beneath, _path(one.to)) == inode


def _inode(beneath: Beneath, path: RemotePath) -> int | None:
    """What has this path, if anything has."""
    try:
        return beneath.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def _path(path: bytes) -> RemotePath:
    return RemotePath(tuple(os.fsdecode(path).split("/")))
