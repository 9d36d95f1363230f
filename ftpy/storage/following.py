"""Hashing overlapped with I/O: a thread that follows a file in order while others read or write it.

``hashlib`` releases the interpreter lock for large buffers, so on two cores a digest costs hardly more time
than the slower of hashing and moving the bytes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from ftpy.digests import DigestName, new_hasher
from ftpy.errors import Busy
from ftpy.storage import wanted
from ftpy.storage.base import MIB, Closing
from ftpy.timing import HASHING

CHUNK_BYTES = MIB
"""Bytes moved and hashed at a time: large enough that Python's cost per chunk vanishes."""
BUFFERS = 4
"""Buffers of a follower: one being filled, one being hashed, two between; 4 MiB in all."""
ASK_SECONDS = 0.25
"""How often who waits for a digest asks whether it is still wanted."""
REST_SECONDS = 0.1
"""After so long without work the buffers are let go: of the 64 uploads of one connection few are fed at a time."""
INLINE_BYTES = 64 * 1024
"""Up to here a thread costs more than it saves."""

ReadAt = Callable[[int, memoryview], int]


class FollowerClosed(Exception):
    """The follower was closed while its digest was waited for."""


def start_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """A thread that runs. Raises Busy where the system gives no more."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise Busy("no more threads can be started; try again later") from error
    return thread


class Follower:
    """Hashes a file from its first byte on, in a thread of its own.

    What passes by in order is handed over in borrowed buffers; what does not (parts that came early, a resumed
    beginning) is only announced, and read from the file when its turn comes. One thread at a time borrows and
    gives; any thread may announce.

    A feeder that may have to take its bytes back (a part that turns out broken) says ``begin`` first, and then
    ``settle`` or ``rewind``: until then nothing else is queued behind its bytes.
    """

    def __init__(self, digest: DigestName, read_at: ReadAt) -> None:
        self.digest: DigestName = digest
        self._read_at = read_at
        self._free: list[memoryview] = []
        self._made = 0
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._waiting: dict[int, int] = {}
        self._queued = 0
        self._began: int | None = None
        self._error: BaseException | None = None
        self._hasher = new_hasher(digest)
        self._mark = (0, self._hasher)
        self._scratch: memoryview | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self.position = 0
        """Bytes hashed so far: the file's first ``position`` bytes."""

    def borrow(self) -> memoryview:
        """A buffer of CHUNK_BYTES to fill and ``give`` (or ``give_back``); waits while all are being hashed."""
        with self._lock:
            if not self._free and self._made >= BUFFERS:
                with HASHING:
                    self._freed.wait_for(lambda: self._free or self._made < BUFFERS)
            if self._free:
                return self._free.pop()
            buffer = memoryview(bytearray(CHUNK_BYTES))
            self._made += 1
            return buffer

    def give(self, offset: int, buffer: memoryview, count: int) -> None:
        """``buffer`` (borrowed) holds the file's ``count`` bytes at ``offset``; it is ours again."""
        with self._lock:
            # Far behind, the file's pages are read again rather than letting the feeder wait for the hash.
            behind = self._queued - self.position > BUFFERS * CHUNK_BYTES
            handed_over = offset == self._queued and not behind and not self._closed
            if handed_over:
                self._queue(offset, count, lambda: self._hash_buffer(buffer, count))
            elif offset == self._queued:
                self._queue_range(offset, count)
            else:
                self._waiting[offset] = count
            self._queue_waiting()
        if not handed_over:
            self.give_back(buffer)

    def give_back(self, buffer: memoryview) -> None:
        """``buffer`` (borrowed) holds nothing of worth."""
        with self._lock:
            self._free.append(buffer)
            self._freed.notify()

    def announce(self, offset: int, count: int) -> None:
        """The file holds ``count`` bytes at ``offset``; they will be read from it in their turn."""
        with self._lock:
            self._waiting[offset] = count
            self._queue_waiting()

    def begin(self, offset: int) -> bool:
        """Whether bytes from ``offset`` on come next, and nobody else feeds; if so their feeder is the one caller."""
        with self._lock:
            if offset != self._queued or self._began is not None or self._closed:
                return False
            self._put(self._set_mark)
            self._began = offset
            return True

    def settle(self) -> None:
        """What was given since ``begin`` is good."""
        with self._lock:
            self._began = None
            self._queue_waiting()

    def rewind(self) -> None:
        """What was given since ``begin`` counts as never given."""
        with self._lock:
            assert self._began is not None
            self._queued, self._began = self._began, None
            self._put(self._back_to_mark)

    def hexdigest(self, size: int) -> str:
        """The digest of the file's first ``size`` bytes, all given or announced before; waits for it.

        Raises what reading the file raised; FollowerClosed; RequestError where it is not wanted any more.
        """
        reached = threading.Event()
        with self._lock:
            if self._closed:
                raise FollowerClosed
            if self._queued != size:
                raise ValueError(f"{self._queued} bytes are known where {size} are due")
            if self._thread is None:
                reached.set()
            else:
                self._put(reached.set)
        with HASHING:
            while not reached.wait(ASK_SECONDS):
                wanted.check()
        if self._error is not None:
            raise self._error
        return self._hasher.hexdigest()

    def close(self) -> None:
        """End the thread; waits for the chunk in its hands. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._error = self._error or FollowerClosed()
            thread, self._thread = self._thread, None
        if thread is not None:
            self._work.put(None)
            thread.join()

    # ---------------------------------------------------------------- with the lock held

    def _queue_waiting(self) -> None:
        while self._began is None and (count := self._waiting.get(offset := self._queued)) is not None:
            self._queue_range(offset, count)
            del self._waiting[offset]

    def _queue_range(self, offset: int, count: int) -> None:
        self._queue(offset, count, lambda: self._hash_range(offset, count))

    def _queue(self, offset: int, count: int, step: Callable[[], None]) -> None:
        self._put(step)
        self._queued = offset + count

    def _put(self, step: Callable[[], None]) -> None:
        if self._closed:
            return
        if self._thread is None:
            self._thread = start_thread(self._run, "ftpy-digest")
        self._work.put(step)

    # ---------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while (step := self._next()) is not None:
            try:
                step()
            except BaseException as error:  # noqa: BLE001  (raised again where the digest is asked for)
                self._error = self._error or error

    def _next(self) -> Callable[[], None] | None:
        try:
            # Where the limit passes before it begins to wait, Python 3.11 waits without one; what is put still ends it.
            return self._work.get(timeout=REST_SECONDS)
        except queue.Empty:
            self._let_go()
            return self._work.get()

    def _let_go(self) -> None:
        with self._lock:
            self._scratch = None
            self._made -= len(self._free)
            self._free.clear()
            self._freed.notify()

    def _hash_buffer(self, buffer: memoryview, count: int) -> None:
        try:
            if self._error is None:
                self._hash(buffer[:count])
        finally:
            self.give_back(buffer)

    def _hash_range(self, offset: int, count: int) -> None:
        if self._scratch is None:
            self._scratch = memoryview(bytearray(CHUNK_BYTES))
        end = offset + count
        while offset < end and self._error is None:
            view = self._scratch[: min(CHUNK_BYTES, end - offset)]
            got = self._read_at(offset, view)
            if got != len(view):
                raise EOFError(f"the file ends at {offset + got}, before {end}")
            self._hash(view)
            offset += got

    def _hash(self, view: memoryview) -> None:
        self._hasher.update(view)
        self.position += len(view)

    def _set_mark(self) -> None:
        self._mark = (self.position, self._hasher.copy())

    def _back_to_mark(self) -> None:
        self.position, self._hasher = self._mark


class HashedRead(Closing):
    """Reads a range chunk by chunk and knows its digest at the end; hashing overlaps with the chunks' use."""

    def __init__(self, digest: DigestName, read_at: ReadAt, offset: int, length: int) -> None:
        self._offset, self._length = offset, length
        self._read_at = read_at
        self._inline = new_hasher(digest) if length <= INLINE_BYTES else None
        # Within the range the follower counts from zero, so that any range can be hashed on its own.
        self._follower = Follower(digest, lambda at, view: read_at(offset + at, view))

    def __iter__(self) -> Iterator[memoryview]:
        """Views of the range in order; each is valid until the next is asked for.

        Raises RequestError where they are not wanted any more.
        """
        done = 0
        while done < self._length:
            wanted.check()
            buffer = memoryview(bytearray(self._length)) if self._inline else self._follower.borrow()
            view = buffer[: min(len(buffer), self._length - done)]
            got = self._read_at(self._offset + done, view)
            if got != len(view):
                raise EOFError(f"the file ends at {self._offset + done + got}")
            if self._inline:
                with HASHING:
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
