"""Writing overlapped with receiving: a thread that writes what another has received, then hands it to the hash."""

from __future__ import annotations

import queue
import threading

from ftpy.storage.base import Closing
from ftpy.storage.following import INLINE_BYTES, Follower
from ftpy.storage.positional import write_at


class Writer(Closing):
    """Writes buffers of a ``Follower`` at rising offsets of a file, in a thread of its own, and gives them back to it.

    One thread hands over. The file never has a hole: a failed write leaves it ending at its last good byte, nothing
    more is written, and the failure is raised at the next ``put`` or at ``finish``.
    """

    def __init__(self, descriptor: int, follower: Follower) -> None:
        self._descriptor, self._follower = descriptor, follower
        self._work: queue.SimpleQueue[tuple[int, memoryview, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def put(self, offset: int, buffer: memoryview, count: int) -> None:
        """Write ``count`` bytes of ``buffer``, which is the follower's again afterwards. Raises an earlier OSError."""
        if self._thread is None and count <= INLINE_BYTES:
            self._write(offset, buffer, count)
        else:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="ftpy-write", daemon=True)
                thread.start()
                self._thread = thread
            self._work.put((offset, buffer, count))
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all is written. Raises OSError."""
        self.close()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write what was handed over, and end the thread."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            self._write(*item)

    def _write(self, offset: int, buffer: memoryview, count: int) -> None:
        if self._error is None:
            try:
                write_at(self._descriptor, offset, buffer[:count])
            except OSError as error:
                self._error = error
            else:
                self._follower.give(offset, buffer, count)
                return
        self._follower.give_back(buffer)
