"""A file of SQLite's in the server's folder: opened when it is first used, by one connection and one lock a process.

A connection per thread would cost each thread three descriptors and half a millisecond.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ftpy.storage.locking import lock

_SUFFIXES = ("", "-wal", "-shm")
_LOOK_SECONDS = 0.002
"""How often it is looked whether another process has the folder's databases locked; none does for long."""


class Database:
    """The one connection to ``file``; hold the ``lock`` while ``connection`` is used. It commits each statement by
    itself, unless that is in a transaction.

    ``busy_seconds``: how long another process's write is waited for. ``synchronous`` as SQLite's pragma: after a power
    cut, with OFF the file may be broken, with NORMAL its last commits may be missing, with FULL nothing is.
    """

    def __init__(self, file: Path, schema: str, *, busy_seconds: float, synchronous: str = "OFF") -> None:
        self._file, self._schema = file, schema
        self._busy_seconds, self._synchronous = busy_seconds, synchronous
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        """Which file it is (device, inode) that is connected to, or was last."""
        self.lock = threading.Lock()

    def connection(self) -> sqlite3.Connection:
        """The connection, made where there is none. Raises sqlite3.Error.

        Where another process has set the file aside, what is written to it would be lost.
        """
        try:
            if self._connection is not None and self._there() != self._opened:
                self.disconnect()
            if self._connection is None:
                self._connection = self._connected()
        except OSError as error:
            raise sqlite3.OperationalError(error.strerror) from error
        return self._connection

    def _there(self) -> tuple[int, int] | None:
        """Which file has the name now."""
        try:
            found = os.stat(self._file)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _connected(self) -> sqlite3.Connection:
        with contextlib.ExitStack() as opened:
            with self._alone():
                self._opened = self._there()
                made = sqlite3.connect(
                    self._file,
                    timeout=self._busy_seconds,
                    check_same_thread=False,
                    isolation_level=None,
                    cached_statements=32,
                )
                opened.callback(made.close)
                made.execute("PRAGMA journal_mode = WAL")
                self._opened = self._opened or self._there()
            made.execute(f"PRAGMA synchronous = {self._synchronous}")
            made.execute("PRAGMA temp_store = MEMORY")  # a sandbox has no /tmp
            made.executescript(self._schema)
            opened.pop_all()
        return made

    def disconnect(self) -> None:
        """Close the connection; safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def remove(self) -> None:
        """Let the next connection begin with an empty file, in every process. Raises OSError."""
        self._take_away(lambda suffix: os.unlink(f"{self._file}{suffix}"))

    def set_aside(self) -> None:
        """The same, keeping the old file under another name, for who wants to know what was wrong. Raises OSError."""
        aside = f"{self._file}.broken-{time.time_ns()}"
        self._take_away(lambda suffix: os.replace(f"{self._file}{suffix}", f"{aside}{suffix}"))

    def _take_away(self, take: Callable[[str], None]) -> None:
        """Take the file that was connected to, and no other that followed it: several processes find it broken."""
        self.disconnect()
        with self._alone():
            if self._opened in (None, self._there()):
                for suffix in reversed(_SUFFIXES):  # the file itself last: no log of the old one is for the next
                    with contextlib.suppress(FileNotFoundError):
                        take(suffix)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process gives a file in the folder its write-ahead log, or takes one away. Raises OSError.

        SQLite waits for no other that does the first: the file is locked at once then, whatever ``busy_seconds``.
        """
        folder, deadline = os.open(self._file.parent, os.O_RDONLY), time.monotonic() + self._busy_seconds
        try:
            while not lock(folder, wait=False):
                if time.monotonic() > deadline:
                    raise BlockingIOError(errno.EAGAIN, "another process keeps the databases locked")
                time.sleep(_LOOK_SECONDS)
            yield
        finally:
            os.close(folder)
