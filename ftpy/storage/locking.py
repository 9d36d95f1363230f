"""Locks that hold across threads and processes and die with their holder."""

from __future__ import annotations

import errno
import os
import sys

from ftpy.storage.beneath import Directory

if sys.platform == "win32":
    import msvcrt

    def lock(fd: int, *, shared: bool = False, wait: bool = True) -> bool:  # noqa: ARG001
        """Lock an open file: whether it is ours now. Windows knows only exclusive locks; shared ones are too."""
        os.lseek(fd, 0, os.SEEK_SET)
        while True:
            try:
                msvcrt.locking(fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if not wait and error.errno in (errno.EACCES, errno.EDEADLK):
                    return False
                if not wait or error.errno != errno.EDEADLK:  # LK_LOCK gives up after ten seconds
                    raise
            else:
                return True

else:
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
                os.close(fd)
                return None
            # A lock on a file that lost its name meanwhile excludes nobody.
            if os.path.samestat(os.fstat(fd), directory.lstat(name)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
