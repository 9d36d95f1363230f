"""What a put reads: one version of a regular file on this side."""

from __future__ import annotations

import heapq
import os
import stat
import threading
from collections.abc import Callable, Generator

from ftpy.digests import DigestName
from ftpy.errors import LocalFileError, SourceChanged
from ftpy.files import display
from ftpy.storage.base import Closing
from ftpy.storage.following import CHUNK_BYTES, Follower
from ftpy.storage.positional import read_at
from ftpy.storage.versions import told_ns

DEFAULT_MODE_MASK = 0o777

Opened = Callable[[str], int]
"""What opens a file of this side for reading, by its name: the descriptor. Raises LocalFileError."""


def local_error(path: str, error: OSError) -> LocalFileError:
    """The one translation of an OSError about a file of this side."""
    return LocalFileError(f"{display(path)}: {error.strerror or error}")


def holds_more(path: str) -> SourceChanged:
    """What is said of a file that goes on behind its end, as many of /proc do, whose size is 0."""
    return SourceChanged(f"{display(path)} holds more than its size says; nothing was stored")


def open_named(path: str) -> int:
    """A file that the user named, also by a link: its descriptor. Raises LocalFileError."""
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise local_error(path, error) from None


class Source(Closing):
    """A file open for sending: read at any offset, hashed once in order, noticed when it changes.

    ``opened`` opens it. Raises LocalFileError when it cannot be opened or is not a regular file.
    """

    def __init__(self, path: str, digest: DigestName, opened: Opened = open_named) -> None:
        self.path = path
        self._descriptor = opened(path)
        self._open = True
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise LocalFileError(f"{display(path)}: {kind}")
        self.size = status.st_size
        self.mtime_ns = told_ns(status.st_mtime_ns)
        self.mode = status.st_mode & DEFAULT_MODE_MASK
        self._version = version(status)
        self._follower = Follower(digest, self.read_at)
        self._lock = threading.Lock()
        self._fed = 0
        """Bytes from the beginning on that the digest has been told of."""
        self._feeding = False
        self._ahead: list[tuple[int, int]] = []
        """Ranges behind these that were passed over, a heap: where each begins and ends."""

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset``: the bytes read, fewer only at the end. Raises LocalFileError."""
        try:
            return read_at(self._descriptor, offset, view)
        except OSError as error:
            raise local_error(self.path, error) from None

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def read_all(self) -> memoryview:
        """The whole content, for small files. Raises SourceChanged."""
        view = memoryview(bytearray(self.size))
        if self.read_at(0, view) != self.size:
            raise SourceChanged(f"{display(self.path)} changed while it was being sent")
        return view

    def chunks(self, offset: int, length: int) -> Generator[memoryview, None, None]:
        """A range, chunk by chunk, each valid until the next; hashed in its turn. Raises SourceChanged.

        Several threads may read ranges that do not overlap. Whoever reads what the digest needs next hands it over;
        what the others read is read once more when its turn comes, from memory as long as they are close together.
        """
        end = offset + length
        feeds = self._begin_feeding(offset, end)
        buffer = None if feeds else memoryview(bytearray(min(CHUNK_BYTES, length)))
        at = offset
        try:
            while at < end:
                if buffer is None:
                    buffer = self._follower.borrow()
                view = buffer[: min(len(buffer), end - at)]
                got = self.read_at(at, view)
                if got != len(view):
                    raise SourceChanged(f"{display(self.path)} became shorter while it was being sent")
                yield view
                if feeds:
                    self._feed(at, buffer, got)
                    buffer = None
                at += got
        finally:
            if feeds:
                self._end_feeding(buffer)
        if not feeds:
            self.pass_over(offset, length)

    def _begin_feeding(self, offset: int, end: int) -> bool:
        with self._lock:
            feeds = not self._feeding and offset <= self._fed < end
            self._feeding = self._feeding or feeds
            return feeds

    def _feed(self, offset: int, buffer: memoryview, count: int) -> None:
        with self._lock:
            if offset == self._fed:
                self._follower.give(offset, buffer, count)
                self._fed += count
            else:
                self._follower.give_back(buffer)  # it is sent again only

    def _end_feeding(self, buffer: memoryview | None) -> None:
        if buffer is not None:
            self._follower.give_back(buffer)
        with self._lock:
            self._feeding = False
            self._announce()

    def pass_over(self, offset: int, length: int) -> None:
        """This range, which the server has, counts for the digest, too. In any thread."""
        with self._lock:
            heapq.heappush(self._ahead, (offset, offset + length))
            self._announce()

    def _announce(self) -> None:
        """Let what comes next be read, as far as it was passed over (lock held)."""
        while not self._feeding and self._ahead and self._ahead[0][0] <= self._fed:
            _, end = heapq.heappop(self._ahead)
            if end > self._fed:
                self._follower.announce(self._fed, end - self._fed)
                self._fed = end

    def read_digest(self) -> str:
        """The digest of the whole file, read for nothing else. Raises SourceChanged."""
        for _ in self.chunks(0, self.size):
            pass
        self._check_end()
        return self.hexdigest()

    def hexdigest(self) -> str:
        """The digest of the whole file, after every range was sent or passed over. Raises SourceChanged."""
        try:
            return self._follower.hexdigest(self.size)
        except EOFError:
            raise SourceChanged(f"{display(self.path)} became shorter while it was being sent") from None

    def check_unchanged(self) -> None:
        """Raises SourceChanged unless the file is still what it was when it was opened, and was sent to its end."""
        if version(os.fstat(self._descriptor)) != self._version:
            raise SourceChanged(f"{display(self.path)} changed while it was being sent; nothing was stored")
        self._check_end()

    def _check_end(self) -> None:
        if self.read_at(self.size, memoryview(bytearray(1))):
            raise holds_more(self.path)

    def close(self) -> None:
        """Close the file and end its hashing."""
        if self._open:
            self._open = False
            if hasattr(self, "_follower"):
                self._follower.close()
            os.close(self._descriptor)


def version(status: os.stat_result) -> tuple[int, ...]:
    """What tells two states of a file on this side apart."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_digest(local: str, name: DigestName, opened: Opened = open_named) -> str | None:
    """The digest of a file of this side; None where it cannot be read, which is told when it is to be sent."""
    try:
        with Source(local, name, opened) as source:
            return source.read_digest()
    except LocalFileError:
        return None
