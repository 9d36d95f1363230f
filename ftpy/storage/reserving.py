"""Real space for an upload before its bytes come, without letting its sender wait for it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

from ftpy.storage import syscalls
from ftpy.storage.base import MIB, Closing

AT_ONCE_SECONDS = 0.01
"""How long a sender waits; a file system with extents reserves a terabyte in less, one in memory 64 MiB."""
STEP_BYTES = 32 * MIB
"""Reserved at a time in the background; a part that is written meanwhile waits for one step."""


class Reservation(Closing):
    """Space for ``size`` bytes of an open file, whose size is set at once.

    What is plainly not free is refused here: OSError (ENOSPC). What turns out so later is told to ``failed``.
    """

    def __init__(self, fd: int, size: int, failed: Callable[[OSError], None]) -> None:
        self._fd, self._size, self._failed = fd, size, failed
        self._done = 0
        self._thread: threading.Thread | None = None
        self._cancelled = False
        self._refuse_what_cannot_fit()
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        until = time.monotonic() + AT_ONCE_SECONDS
        step = STEP_BYTES
        while self._done < size and time.monotonic() < until:
            self._reserve(step)
            step *= 2

    def go_on(self) -> None:
        """Reserve the rest in the background."""
        if self._done < self._size:
            self._thread = threading.Thread(target=self._run, name="ftpy-reserve", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Reserve no more."""
        self._cancelled = True

    def close(self) -> None:
        """Reserve no more, and wait for the step under way: the descriptor may be closed then."""
        self._cancelled = True
        if self._thread is not None:
            self._thread.join()

    def _refuse_what_cannot_fit(self) -> None:
        disk = os.fstatvfs(self._fd)
        if self._size - os.fstat(self._fd).st_blocks * 512 > disk.f_bavail * disk.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _run(self) -> None:
        try:
            while self._done < self._size and not self._cancelled:
                self._reserve(STEP_BYTES)
        except OSError as error:
            self._failed(error)

    def _reserve(self, step: int) -> None:
        count = min(step, self._size - self._done)
        syscalls.reserve(self._fd, self._done, count)
        self._done += count
