"""The n-th close(2) of a process fails after it was made: strace could only fail it by not making it.

A descriptor that stays open holds its lock as well, which no real failure of close does (close(2)).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import threading
from pathlib import Path

PLAN = "FTPY_RIG_CLOSES"
"""Environment variable: the file by which rig and server talk."""
_WORDS = struct.Struct("=qqq")
"""Which close is to fail (0: none), with what error number, and how many have been made since."""


def _map(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), _WORDS.size)


def install() -> None:
    """Make this process one whose ``os.close`` fails as planned."""
    plan, lock, close = _map(os.environ[PLAN]), threading.Lock(), os.close

    def failing(fd: int) -> None:
        close(fd)
        with lock:
            number, error, made = _WORDS.unpack(plan)
            if number == 0:
                return
            plan[:] = _WORDS.pack(number, error, made + 1)
        if made + 1 == number:
            raise OSError(error, os.strerror(error))

    os.close = failing


class FailedClose:
    """While the ``with`` lasts, the ``number``-th close fails; ``count`` says afterwards whether it came to that."""

    def __init__(self, path: Path, error: str, number: int) -> None:
        self._plan = _map(str(path))
        self._error, self._number = getattr(errno, error), number
        self.count = 0

    @staticmethod
    def prepare(path: Path) -> None:
        """Make the file."""
        path.write_bytes(bytes(_WORDS.size))

    def __enter__(self) -> FailedClose:
        self._plan[:] = _WORDS.pack(self._number, self._error, 0)
        return self

    def __exit__(self, *_: object) -> None:
        self.count = int(_WORDS.unpack(self._plan)[2] >= self._number)
        self._plan[:] = bytes(_WORDS.size)
        self._plan.close()
