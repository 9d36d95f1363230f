"""Reading and writing at an offset, whole, on every system."""

from __future__ import annotations

import os
import threading

from ftpy.timing import DISK

_POSITIONAL = hasattr(os, "preadv") and hasattr(os, "pwrite")
_seeking = threading.Lock()
"""Where there is no positional I/O (Windows), seeking and moving bytes are two steps that threads must not mix."""


def read_at(fd: int, offset: int, view: memoryview) -> int:
    """Fill ``view`` from ``offset`` as far as the file goes: the bytes read. Raises OSError."""
    done = 0
    with DISK:
        while done < len(view):
            got = _read(fd, offset + done, view[done:])
            if not got:
                break
            done += got
    return done


def write_at(fd: int, offset: int, view: memoryview) -> None:
    """Write all of ``view`` at ``offset``. Raises OSError."""
    with DISK:
        done = _write(fd, offset, view)
        while done < len(view):
            done += _write(fd, offset + done, view[done:])


def _read(fd: int, offset: int, view: memoryview) -> int:
    if _POSITIONAL:
        return os.preadv(fd, [view], offset)
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


def _write(fd: int, offset: int, view: memoryview) -> int:
    if _POSITIONAL:
        return os.pwrite(fd, view, offset)
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, view)
