"""Hashing overlapped with I/O: a thread that follows a file in order while others read or write it.

``hashlib`` releases the interpreter lock for large buffers, so on two cores a digest costs hardly more time
than the slower of hashing and moving the bytes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from ftpy.digests import DigestName, Hasher, new_hasher
from ftpy.storage.base import MIB

CHUNK_BYTES = MIB
"""Bytes moved and hashed at a time: large enough that Python's cost per chunk vanishes."""
BUFFERS = 4
"""Buffers of a follower: one being filled, one being hashed, two between; 4 MiB in all."""
INLINE_BYTES = 64 * 1024
"""Up to here a thread costs more than it saves."""

ReadAt = Callable[[int, memoryview], int]


class Follower:
    """Hashes a file from its first byte on, in a thread of its own.

    What passes by in order is handed over in borrowed buffers; what does not (parts that came early, a resumed
    beginning) is only announced, and read from the file when its turn comes. One thread feeds at a time.
    """

    def __init__(self, digest: DigestName, read_at: ReadAt) -> None:
        self._digest: DigestName = digest
        self._read_at = read_at
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._made = 0
        self._work: queue.SimpleQueue[tuple[memoryview | None, int, int] | None] = queue.SimpleQueue()
        self._waiting: dict[int, int] = {}
        self._queued = 0
        self._moved = threading.Condition()
        self._error: BaseException | None = None
        self._hasher: Hasher = new_hasher(digest)
        self._thread: threading.Thread | None = None
        self.position = 0
        """Bytes hashed so far: the file's first ``position`` bytes."""

    def borrow(self) -> memoryview:
        """A buffer of CHUNK_BYTES to fill and ``give``; waits while all are being hashed."""
        if self._free.empty() and self._made < BUFFERS:
            self._made += 1
            return memoryview(bytearray(CHUNK_BYTES))
        return self._free.get()

    def give(self, offset: int, buffer: memoryview, count: int) -> None:
        """``buffer`` (borrowed) holds the file's ``count`` bytes at ``offset``; it is ours again."""
        behind = self._queued - self.position > BUFFERS * CHUNK_BYTES
        if offset != self._queued or behind:
            self._free.put(buffer)
            self.announce(offset, count)
        else:
            self._queue(buffer, offset, count)
            self._queue_waiting()

    def announce(self, offset: int, count: int) -> None:
        """The file holds ``count`` bytes at ``offset``; they will be read from it in their turn."""
        self._waiting[offset] = count
        self._queue_waiting()

    def hexdigest(self, size: int) -> str:
        """The digest of the file's first ``size`` bytes, all given or announced before; waits for it.

        Raises what reading the file raised.
        """
        if self._queued != size:
            raise ValueError(f"{self._queued} bytes are known where {size} are due")
        with self._moved:
            self._moved.wait_for(lambda: self._error is not None or self.position >= size)
            if self._error is not None:
                raise self._error
            return self._hasher.hexdigest()

    def close(self) -> None:
        """End the thread; waits for the chunk in its hands."""
        if self._thread is not None:
            self._error = self._error or RuntimeError("closed")
            self._work.put(None)
            self._thread.join()
            self._thread = None

    def _queue_waiting(self) -> None:
        while (count := self._waiting.pop(self._queued, None)) is not None:
            self._queue(None, self._queued, count)

    def _queue(self, buffer: memoryview | None, offset: int, count: int) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ftpy-digest", daemon=True)
            self._thread.start()
        self._queued = offset + count
        self._work.put((buffer, offset, count))

    def _run(self) -> None:
        scratch: memoryview | None = None
        while (item := self._work.get()) is not None:
            buffer, offset, count = item
            if self._error is None:
                try:
                    if buffer is not None:
                        self._hash(buffer[:count])
                    else:
                        scratch = scratch or memoryview(bytearray(CHUNK_BYTES))
                        self._hash_from_file(offset, count, scratch)
                except BaseException as error:  # noqa: BLE001  (raised again where the digest is asked for)
                    with self._moved:
                        self._error = error
                        self._moved.notify_all()
            if buffer is not None:
                self._free.put(buffer)

    def _hash_from_file(self, offset: int, count: int, scratch: memoryview) -> None:
        end = offset + count
        while offset < end and self._error is None:
            view = scratch[: min(CHUNK_BYTES, end - offset)]
            got = self._read_at(offset, view)
            if got != len(view):
                raise EOFError(f"the file ends at {offset + got}, before {end}")
            self._hash(view)
            offset += got

    def _hash(self, view: memoryview) -> None:
        self._hasher.update(view)
        with self._moved:
            self.position += len(view)
            self._moved.notify_all()


class HashedRead:
    """Reads a range chunk by chunk and knows its digest at the end; hashing overlaps with what is done to the chunks."""

    def __init__(self, digest: DigestName, read_at: ReadAt, offset: int, length: int) -> None:
        self._offset, self._length = offset, length
        self._read_at = read_at
        self._inline = new_hasher(digest) if length <= INLINE_BYTES else None
        # Within the range the follower counts from zero, so that any range can be hashed on its own.
        self._follower = Follower(digest, lambda at, view: read_at(offset + at, view))

    def __iter__(self) -> Iterator[memoryview]:
        """Views of the range in order; each is valid until the next is asked for."""
        done = 0
        while done < self._length:
            buffer = memoryview(bytearray(self._length)) if self._inline else self._follower.borrow()
            view = buffer[: min(len(buffer), self._length - done)]
            got = self._read_at(self._offset + done, view)
            if got != len(view):
                raise EOFError(f"the file ends at {self._offset + done + got}")
            if self._inline:
                self._inline.update(view)
                yield view
            else:
                yield view
                self._follower.give(done, buffer, got)
            done += got

    def hexdigest(self) -> str:
        """The range's digest, after the iteration ended."""
        return self._inline.hexdigest() if self._inline else self._follower.hexdigest(self._length)

    def close(self) -> None:
        """End the hashing thread."""
        self._follower.close()
