"""Usage counted in SQLite, shared by all processes of a server and by roots that lie within each other.

A row a root that somebody's quota is for. Adding is one conditional UPDATE, so that of any number of racers no more
get through than there is room for. An effect on the disk and its count happen under a shared lock; who counts anew
takes that lock alone, so that nothing is seen twice or missed. Whatever dies in between leaves a count that is too
high, never too low, and the next recount mends it. The database may be lost at any time: it is made again from the
disk.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ftpy.errors import IoError, NoSpace, QuotaExceeded, RequestError
from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.base import Quota
from ftpy.storage.database import Database
from ftpy.storage.locking import lock
from ftpy.storage.measuring import measure
from ftpy.storage.usage import ROOT, Change, Usage

log = logging.getLogger("ftpy.storage")

Roots = Callable[[], frozenset[str]]
"""The real paths of the roots that somebody's quota is for, as it is now; the same object while nothing changes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    root BLOB PRIMARY KEY, bytes INTEGER NOT NULL, files INTEGER NOT NULL, trusted INTEGER NOT NULL
) WITHOUT ROWID
"""
_ADD = """
UPDATE usage SET bytes = bytes + :size, files = files + :files
WHERE root = :root AND trusted
    AND typeof(bytes + :size) = 'integer'  -- what is more than that becomes a float, which forgets bytes
    AND (:size = 0 OR :most_bytes IS NULL OR bytes + :size <= :most_bytes)
    AND (:files = 0 OR :most_files IS NULL OR files + :files <= :most_files)
"""
_CHANGE = "UPDATE usage SET bytes = max(0, bytes + ?), files = max(0, files + ?) WHERE root = ?"
_LOOK = "SELECT bytes, files, trusted FROM usage WHERE root = ?"
_SET = "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, 1)"
_DISTRUST = "UPDATE usage SET trusted = 0 WHERE root = ?"
_MOST_BYTES = 2**63 - 1
"""What SQLite can count to."""
_BUSY_SECONDS = 30.0
"""How long another process's write is waited for: each takes some microseconds."""


class _Untrusted(Exception):
    """A root has to be counted first."""

    def __init__(self, root: str) -> None:
        self.root = root


class _Told(Change):
    """What goes, summed up by root."""

    def __init__(self, counted: dict[str, tuple[str, ...]]) -> None:
        self._counted = counted
        self.deltas: dict[str, list[int]] = {}
        self.shaken: set[str] = set()
        """Roots that lie within what goes or comes: of them it is not known how much that is."""

    def removed(self, path: RemotePath, size: int, files: int = 1) -> None:
        self.shaken |= _within(self._counted, path)
        for root in _at(self._counted, path):
            self._tell(root, -size, -files)

    def moved(self, source: RemotePath, target: RemotePath, size: int, files: int = 1) -> None:
        self.shaken |= _within(self._counted, source) | _within(self._counted, target)
        before, after = _at(self._counted, source), _at(self._counted, target)
        for root in after - before:
            self._tell(root, size, files)
        for root in before - after:
            self._tell(root, -size, -files)

    def tells(self, source: RemotePath, target: RemotePath) -> bool:
        if _within(self._counted, source) or _within(self._counted, target):
            return True
        return _at(self._counted, source) != _at(self._counted, target)

    def _tell(self, root: str, size: int, files: int) -> None:
        delta = self.deltas.setdefault(root, [0, 0])
        delta[0] += size
        delta[1] += files


def _at(counted: dict[str, tuple[str, ...]], path: RemotePath) -> set[str]:
    """The roots that a path counts for."""
    return {root for root, parts in counted.items() if path.parts[: len(parts)] == parts}


def _within(counted: dict[str, tuple[str, ...]], path: RemotePath) -> set[str]:
    """The roots that a path leads to, or that lie below it; the staging area, which counts for ROOT, holds none."""
    if path == ROOT:
        return set()
    return {root for root, parts in counted.items() if parts and parts[: len(path.parts)] == path.parts}


class CountedUsage(Usage):
    """The usage of one storage, whose root's real path is ``root``; ``state`` is the server's folder."""

    def __init__(self, root: str, state: str | Path, roots: Roots) -> None:
        self._root, self._state, self._roots = root, Path(state), roots
        self._seen: frozenset[str] = frozenset()
        self._counted: dict[str, tuple[str, ...]] = {}
        """Roots that something here may count for: how far below ours each begins, nothing for those around it."""
        self._lock = threading.Lock()
        self._database = Database(self._state / "usage.sqlite", _SCHEMA, busy_seconds=_BUSY_SECONDS)

    @property
    def counts(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self._now_counted())

    def close(self) -> None:
        """Close the database."""
        with self._database.lock:
            self._database.disconnect()

    # ---------------------------------------------------------------- what storages tell

    def adding(self, size: int, files: int = 1, quota: Quota | None = None, path: RemotePath = ROOT) -> Any:
        """A ``with`` around what adds."""
        counted = self._now_counted()
        if quota is not None and self._root not in counted:
            counted = counted | {self._root: ()}  # its account is newer than what we know of the others
        return self._adding(counted, size, files, quota, path) if counted else super().adding(size, files)

    @contextmanager
    def _adding(
        self, counted: dict[str, tuple[str, ...]], size: int, files: int, quota: Quota | None, path: RemotePath
    ) -> Iterator[Change]:
        roots = _at(counted, path)
        with self._counting_all(roots, size, files, quota):
            try:
                yield Change()
            except BaseException:
                self._change({root: [-size, -files] for root in roots})
                raise

    @contextmanager
    def _counting_all(self, roots: set[str], size: int, files: int, quota: Quota | None) -> Iterator[None]:
        """Hold the lock, with these counted; a root that has to be counted first is, without it."""
        while True:
            with self._holding(shared=True):
                try:
                    self._safely(lambda database: self._add(database, roots, size, files, quota))
                except _Untrusted as error:
                    untrusted = error.root
                else:
                    yield
                    return
            self._count(untrusted)

    def _add(self, database: sqlite3.Connection, roots: set[str], size: int, files: int, quota: Quota | None) -> None:
        with database:
            database.execute("BEGIN IMMEDIATE")
            for root in roots:
                own = quota if root == self._root else None
                asked = {"root": os.fsencode(root), "size": size, "files": files}
                most = {"most_bytes": own and own.bytes, "most_files": own and own.files}
                if database.execute(_ADD, asked | most).rowcount:
                    continue
                row = database.execute(_LOOK, (os.fsencode(root),)).fetchone()
                if row is None or not row[2]:
                    raise _Untrusted(root)
                if row[0] + size > _MOST_BYTES:
                    raise NoSpace
                assert own is not None
                raise QuotaExceeded(_too_much(own, row[0], row[1], size, files))

    @contextmanager
    def _telling(self, counted: dict[str, tuple[str, ...]]) -> Iterator[Change]:
        told = _Told(counted)
        with ExitStack() as held:
            try:
                held.enter_context(self._holding(shared=True))
            except IoError:
                self._seen = frozenset()  # who removes is not kept from it: what is counted is distrusted instead
            try:
                yield told
            finally:
                self._change(told.deltas)
                self._distrust(told.shaken)

    def changing(self) -> Any:
        """A ``with`` around what removes or moves."""
        counted = self._now_counted()
        return self._telling(counted) if counted else super().changing()

    def _change(self, deltas: dict[str, list[int]]) -> None:
        """Count what has happened already: where that fails, count anew before the next one."""
        rows = [(*delta, os.fsencode(root)) for root, delta in deltas.items() if any(delta)]
        if not rows:
            return

        try:
            self._safely(lambda database: database.executemany(_CHANGE, rows))
        except RequestError:
            self._seen = frozenset()  # what fails here is distrusted as soon as it can be

    def measure(self, path: RemotePath) -> tuple[int, int]:
        """What a folder counts with all that is below it; where that cannot be told, all is counted anew later."""
        if not self.counts:
            return 0, 0
        try:
            size, files = measure(os.path.join(self._root, *path.parts))
        except IoError:
            self.distrust()
            return 0, 0
        return size, files + 1

    def used(self, quota: Quota) -> tuple[int, int]:
        """What counts now: adding nothing tells whether that can be trusted, and counts where it cannot."""
        with self.adding(0, 0, quota):
            pass
        return self._look(self._root) or measure(self._root)

    # ---------------------------------------------------------------- which roots

    def _now_counted(self) -> dict[str, tuple[str, ...]]:
        roots = self._roots()
        if roots is not self._seen:
            self._learn(roots)
        return self._counted

    def _learn(self, roots: frozenset[str]) -> None:
        """Other roots have quotas: what was counted of a new one before may be long out of date."""
        counted = {root: parts for root in roots if (parts := self._below(root)) is not None}
        with self._lock:
            new = counted.keys() - self._counted.keys() if self._seen else counted.keys()
        distrusted = self._distrust(new)
        with self._lock:
            self._counted = counted
            if distrusted:
                self._seen = roots

    def _below(self, root: str) -> tuple[str, ...] | None:
        """How far below ours a root begins; nothing for ours and those around it, None for any other one."""
        ours, other = _inside(self._root), _inside(root)
        if ours.startswith(other):
            return ()
        return tuple(root[len(ours) :].split("/")) if other.startswith(ours) else None

    def distrust(self) -> None:
        """Something may have gone uncounted."""
        self._distrust(self._now_counted())

    def _distrust(self, roots: Iterable[str]) -> bool:
        """Whether it could be written down."""
        rows = [(os.fsencode(root),) for root in roots]
        if rows:
            try:
                self._safely(lambda database: database.executemany(_DISTRUST, rows))
            except RequestError:
                self._seen = frozenset()
                return False
        return True

    # ---------------------------------------------------------------- counting anew

    def recount(self) -> None:
        """Compare our root with the disk. What is put meanwhile waits only where there is a difference."""
        if self._root not in self._now_counted():
            return
        before = self._look(self._root)
        if before is not None and (found := self._found()) is not None:
            after = self._look(self._root)
            if after is not None and all(
                min(pair) <= count <= max(pair) for count, *pair in zip(found, before, after, strict=True)
            ):
                return  # as far as one can tell while others work
        self._count(self._root)

    def _found(self) -> tuple[int, int] | None:
        try:
            return measure(self._root)
        except IoError:  # a folder was moved while we were in it, say
            return None

    def _look(self, root: str) -> tuple[int, int] | None:
        row = self._safely(lambda database: database.execute(_LOOK, (os.fsencode(root),)).fetchone())
        return (row[0], row[1]) if row is not None and row[2] else None

    def _count(self, root: str) -> None:
        """Count a root anew, while nothing changes."""
        with self._holding(shared=False):
            size, files = measure(root)

            self._safely(lambda database: database.execute(_SET, (os.fsencode(root), size, files)))
        fields = {"root": root, "bytes": size, "files": files}
        log.info("counted %d bytes in %d files", size, files, extra={"event": "usage-counted", "fields": fields})

    # ---------------------------------------------------------------- lock and database

    @contextmanager
    def _holding(self, *, shared: bool) -> Iterator[None]:
        with ExitStack() as held:
            try:
                fd = os.open(self._state / "usage.lock", os.O_RDWR | os.O_CREAT, 0o600)
                held.callback(syscalls.close, fd)
                lock(fd, shared=shared)
            except OSError as error:
                raise IoError(f"what is stored cannot be counted: {error.strerror}") from error
            yield

    def _safely(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run ``work`` on the connection; a broken database is removed and made anew, once. Raises IoError, NoSpace."""
        with self._database.lock:
            try:
                try:
                    return work(self._database.connection())
                except sqlite3.OperationalError:
                    raise  # locked, disk full: it passes
                except sqlite3.DatabaseError as error:
                    log.error("usage is counted anew: %s", error, extra={"event": "usage-broken"})
                    self._database.remove()
                    return work(self._database.connection())
            except (sqlite3.Error, OSError) as error:
                log.error("usage: %s", error, extra={"event": "usage-failed"})
                self._database.disconnect()
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise NoSpace from error
                raise IoError("what is stored cannot be counted; the server's log says why") from error


def _inside(root: str) -> str:
    return root.rstrip("/") + "/"


def _too_much(quota: Quota, size: int, files: int, more: int, more_files: int) -> str:
    """What a user reads who has no room."""
    if quota.bytes is not None and more and size + more > quota.bytes:
        return f"the quota of {quota.bytes} bytes has room for {max(0, quota.bytes - size)}, not for {more}"
    return f"the quota of {quota.files} files and folders has no room for {more_files} more; there are {files}"
