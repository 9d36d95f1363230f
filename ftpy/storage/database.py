"""A file of SQLite's in the server's folder: opened when it is first used, by one connection and one lock a process.

A connection per thread would cost each thread three descriptors and half a millisecond.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

_SUFFIXES = ("", "-wal", "-shm")


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
        self.lock = threading.Lock()

    def connection(self) -> sqlite3.Connection:
        """The connection, made where there is none. Raises sqlite3.Error."""
        if self._connection is None:
            self._connection = self._connected()
        return self._connection

    def _connected(self) -> sqlite3.Connection:
        made = sqlite3.connect(
            self._file, timeout=self._busy_seconds, check_same_thread=False, isolation_level=None, cached_statements=32
        )
        try:
            made.execute("PRAGMA journal_mode = WAL")
            made.execute(f"PRAGMA synchronous = {self._synchronous}")
            made.execute("PRAGMA temp_store = MEMORY")  # a sandbox has no /tmp
            made.executescript(self._schema)
        except sqlite3.Error:
            made.close()
            raise
        return made

    def disconnect(self) -> None:
        """Close the connection; safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def remove(self) -> None:
        """Let the next connection begin with an empty file. Raises OSError."""
        self.disconnect()
        for suffix in _SUFFIXES:
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)

    def set_aside(self) -> None:
        """The same, keeping the old file under another name, for who wants to know what was wrong. Raises OSError."""
        self.disconnect()
        aside = f"{self._file}.broken-{time.time_ns()}"
        for suffix in _SUFFIXES:
            if os.path.lexists(f"{self._file}{suffix}"):
                os.replace(f"{self._file}{suffix}", f"{aside}{suffix}")
