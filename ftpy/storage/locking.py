"""Locks that hold across threads and processes and die with their holder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

from ftpy.storage import syscalls
from ftpy.storage.beneath import Directory

with contextlib.suppress(ImportError):  # Windows: no storage opens there, but its modules can be read
    import fcntl


TURN = "turn."
"""What the name of a file begins with whose lock says who is next at another one's."""


def lock(fd: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file: whether it is ours now. It ends when ``fd`` is closed, also by the process's death.

    flock(2) locks belong to the open file description: two opens exclude each other even in one process.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def lock_in_turn(opened: Callable[[str], int], name: str, *, shared: bool, wait: bool = True) -> int:
    """Open and lock a file: its descriptor. Who wants it alone is waited for by all who come later.

    Else those who share it, coming and going, would keep it out for ever: flock(2) keeps no order. So nobody may lock
    it twice. ``opened`` opens a file by its name. Raises OSError; BlockingIOError where it is not to ``wait``.
    """
    fd = opened(name)
    try:
        turn = opened(TURN + name)
        try:
            if not (lock(turn, wait=wait) and lock(fd, shared=shared, wait=wait)):
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        finally:
            syscalls.close(turn)
    except BaseException:
        syscalls.close(fd)
        raise
    return fd


def open_locked(directory: Directory, name: str, *, create: bool) -> int | None:
    """Open (for appending) and lock a file whose name may be removed by another holder: its descriptor.

    None while another holds it. FileNotFoundError without ``create``.
    """
    while True:
        fd = directory.open_for_append(name, create=create)
        try:
            if not lock(fd, wait=False):
                syscalls.close(fd)
                return None
            # A lock on a file that lost its name meanwhile excludes nobody.
            if os.path.samestat(os.fstat(fd), directory.lstat(name)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            syscalls.close(fd)
            raise
        syscalls.close(fd)
