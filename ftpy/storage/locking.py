"""Locks that hold across threads and processes and die with their holder."""

from __future__ import annotations

import contextlib
import os

from ftpy.storage import syscalls
from ftpy.storage.beneath import Directory

with contextlib.suppress(ImportError):  # Windows: no storage opens there, but its modules can be read
    import fcntl


def lock(fd: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file: whether it is ours now. It ends when ``fd`` is closed, also by the process's death.

    flock(2) locks belong to the open file description: two opens exclude each other even in one process.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


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
