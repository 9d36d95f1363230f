"""Digests remembered by file version, in SQLite; a cache that may be lost at any time.

A remembered digest is that of the day the file was put: a get needs no hashing, and catches bit-rot.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ftpy.storage.base import Closing
from ftpy.storage.database import Database
from ftpy.storage.versions import NO_DIGESTS, Digests, Version

log = logging.getLogger("ftpy.storage")

# One row an inode: a new version takes the place of the old one, so the table does not outgrow the disk's files where
# inode numbers come back.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS digests (
    dev INTEGER NOT NULL, ino INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    md5 TEXT, blake3 TEXT,
    PRIMARY KEY (dev, ino)
) WITHOUT ROWID
"""
_KEEP = """
INSERT INTO digests VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (dev, ino) DO UPDATE SET
    md5 = CASE WHEN (size, mtime_ns, ctime_ns) = (excluded.size, excluded.mtime_ns, excluded.ctime_ns)
        THEN coalesce(excluded.md5, md5) ELSE excluded.md5 END,
    blake3 = CASE WHEN (size, mtime_ns, ctime_ns) = (excluded.size, excluded.mtime_ns, excluded.ctime_ns)
        THEN coalesce(excluded.blake3, blake3) ELSE excluded.blake3 END,
    size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns
"""
_LOOK = "SELECT dev, ino, size, mtime_ns, ctime_ns, md5, blake3 FROM digests WHERE dev = ? AND ino = ?"
# CROSS JOIN fixes the order: SQLite would scan the whole table for more than a few names.
_LOOK_ALL = """
WITH wanted (dev, ino) AS (VALUES {})
SELECT dev, ino, size, mtime_ns, ctime_ns, md5, blake3 FROM wanted CROSS JOIN digests USING (dev, ino)
"""
MOST_LISTED = 16_384
"""Versions whose digests are kept at hand after a listing, some 8 MB; then it begins anew."""
_BUSY_SECONDS = 5.0
"""How long another process's write is waited for."""

T = TypeVar("T")


def _signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite's signed one."""
    return number - 2**64 if number >= 2**63 else number


class Remembered(Closing):
    """The digests of a storage. Never raises for the database's sake: what it cannot tell is unknown."""

    def __init__(self, file: Path) -> None:
        self._database = Database(file, _SCHEMA, busy_seconds=_BUSY_SECONDS)
        self._listed: dict[Version, Digests] = {}
        """What was looked up for listings, whose files are often asked for next; of a version it is never wrong."""
        self._closed = False

    def close(self) -> None:
        """Close the database."""
        with self._database.lock:
            self._closed = True
            self._database.disconnect()

    def look(self, version: Version) -> Digests:
        """What is remembered of one version."""
        if (found := self._listed.get(version)) is not None:
            return found
        key = _key(version)
        row = self._safely(lambda database: database.execute(_LOOK, key[:2]).fetchone(), None)
        return Digests(row[5], row[6]) if row is not None and row[:5] == key else NO_DIGESTS

    def look_all(self, versions: Sequence[Version]) -> dict[Version, Digests]:
        """What is remembered of several versions, in one query; at most some thousand."""
        if not versions:
            return {}
        keys = [_key(version) for version in versions]
        names = [number for key in keys for number in key[:2]]
        query = _LOOK_ALL.format(",".join(["(?,?)"] * len(versions)))
        rows: list[tuple[Any, ...]] = self._safely(lambda database: database.execute(query, names).fetchall(), [])
        found = {row[:5]: Digests(row[5], row[6]) for row in rows}
        self._make_room(len(versions))
        known = {version: found[key] for version, key in zip(versions, keys, strict=True) if key in found}
        self._listed.update(known)
        return known

    def keep(self, digests: Iterable[tuple[Version, Digests]]) -> None:
        """Remember digests, in one transaction; what cannot be written is at hand for a while."""
        several = list(digests)
        rows = [(*_key(version), *known) for version, known in several]

        def write(database: sqlite3.Connection) -> bool:
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany(_KEEP, rows)
            return True

        if self._safely(write, False):
            for version, _ in several:
                self._listed.pop(version, None)
        else:
            self._make_room(len(several))
            for version, known in several:
                old = self._listed.get(version, NO_DIGESTS)
                self._listed[version] = Digests(known.md5 or old.md5, known.blake3 or old.blake3)

    def _make_room(self, count: int) -> None:
        if len(self._listed) + count > MOST_LISTED:
            self._listed.clear()

    def _safely(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Run ``work`` on the connection; a broken database is set aside and made anew, once."""
        with self._database.lock:
            for attempt in (1, 2):
                try:
                    if self._closed:
                        return otherwise
                    return work(self._database.connection())
                except sqlite3.Error as error:
                    log.warning("remembered digests: %s", error, extra={"event": "digests-failed"})
                    self._database.disconnect()
                    # An OperationalError (locked, disk full) passes; anything else is the file's own fault.
                    if isinstance(error, sqlite3.OperationalError) or attempt == 2:
                        return otherwise
                    self._set_aside()
        return otherwise

    def _set_aside(self) -> None:
        try:
            self._database.set_aside()
        except OSError as error:
            log.error("remembered digests: %s", error.strerror, extra={"event": "digests-not-set-aside"})
        log.error("the file of remembered digests is broken and was set aside", extra={"event": "digests-set-aside"})


def _key(version: Version) -> tuple[int, int, int, int, int]:
    dev, ino, size, mtime_ns, ctime_ns = version
    if dev < 2**63 and ino < 2**63:
        return version  # as nearly always
    return _signed(dev), _signed(ino), size, mtime_ns, ctime_ns
