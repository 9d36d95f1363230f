"""A listing read to its end at once, whatever pace it is used at: what is ahead waits in a temporary file.

A server gives up a connection that is not read from for long; a tree may take days.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import IO

import msgspec

from ftpy.client.connection import Connection
from ftpy.client.lines import Line
from ftpy.client.source import local_error
from ftpy.errors import FtpyError, LocalFileError, NotFound, ProtocolError
from ftpy.files import FileInfo, RemotePath
from ftpy.storage.base import Closing
from ftpy.wire.entries import Entry, entry_to_info
from ftpy.wire.messages import LsReply, LsRequest
from ftpy.wire.spelling import path_to_wire

PAGES_AT_HAND = 128
"""Pages kept in memory, some 15,000 entries; what comes while they are not taken waits on disk."""
MOST_ENTRIES = 100_000_000
"""Entries of one listing: a hundred times what a large tree has, and an end for one that has none."""
SPARE_BYTES = 256 * 1024 * 1024
"""Free space that others keep on the temporary files' disk, whatever a server lists, bytes."""
LOOK_BYTES = 16 * 1024 * 1024
"""How often it is looked whether that much is free, bytes put away; a listing shorter than this never asks."""
WAIT_SECONDS = 60.0
"""How long is waited at a time; where waits cannot be interrupted, Ctrl-C counts only then."""

_decoder = msgspec.json.Decoder(LsReply)


class Listing(Closing):
    """What is below ``path``, in the server's order. One that ended early is never taken for a complete one.

    Raises LocalFileError where it cannot be kept, as one without end.

    With ``tree`` it is of what is staged in that.

    It begins on ``connection``, which is the caller's again when it is ``complete``, and goes on over ``line`` where
    that breaks.
    """

    def __init__(
        self,
        path: RemotePath,
        connection: Connection,
        line: Line,
        *,
        recursive: bool = True,
        tree: str | None = None,
    ) -> None:
        self._recursive, self._tree = recursive, tree
        self._path, self._connection, self._line = path, connection, line
        line.connection = connection
        self._changed = threading.Condition()
        self._pages: deque[LsReply] = deque()
        self._spool: IO[bytes] | None = None
        self._read_bytes = self._spooled_bytes = 0
        self._looked_bytes = 0
        self._received = 0
        """Pages that brought something new."""
        self._ended = False
        self._error: FtpyError | None = None
        self._last: tuple[str, ...] = ()
        self._ordered = True
        """It came in the order of paths so far: only then can another connection go on with it."""
        self.missing = False
        """Nothing is at ``path``; known when it is ``complete``."""
        self._thread = threading.Thread(target=self._read, name="ftpy-listing", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether it is complete, or has failed, within ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, seconds)

    def complete(self) -> None:
        """Wait until all of it has come. Raises what ended it early."""
        while not self.wait(WAIT_SECONDS):
            pass
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End it; the connection that it was begun on is broken unless it was complete."""
        self._line.leaving.set()
        with self._changed:
            ended = self._ended
        if not ended and (connection := self._line.connection) is not None:
            connection.abandon()
        self._thread.join()
        if self._spool is not None:
            self._spool.close()

    def __iter__(self) -> Iterator[FileInfo]:
        """The entries. Raises what ended it early, and ProtocolError for names that no listing can have."""
        while (page := self._next_page()) is not None:
            for entry in page.entries:
                info = entry_to_info(entry, self._path)
                if info.path == self._path:
                    raise ProtocolError("a listing names the folder itself as something in it")
                yield info

    def _next_page(self) -> LsReply | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pages or self._ended or self._read_bytes < self._spooled_bytes)
            if self._pages:
                return self._pages.popleft()
            if self._spool is not None and self._read_bytes < self._spooled_bytes:
                with _on_disk():  # all of it came later than what is at hand
                    self._spool.seek(self._read_bytes)
                    size = int.from_bytes(self._spool.read(4), "little")
                    self._read_bytes += 4 + size
                    return _decoder.decode(self._spool.read(size))
            if self._error is not None:
                raise self._error
            return None

    # ---------------------------------------------------------------- in the thread

    def _read(self) -> None:
        error: FtpyError | None = LocalFileError("the listing was not read to its end")
        try:
            self._line.persist(self._attempt, lambda: self._received)
            error = None
        except NotFound as refused:
            self.missing = not self._received
            error = None if self.missing else refused
        except FtpyError as failure:
            error = failure
        finally:
            if not self._connection.in_step:
                self._connection.abandon()  # what still comes is an answer to nobody's request
            if self._line.connection is not self._connection:
                self._line.close()
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify_all()

    def _attempt(self, connection: Connection) -> None:
        try:
            self._receive(connection)
        except FtpyError:
            if not self._ordered:  # nobody can go on with it
                self._line.leaving.set()
            raise

    def _receive(self, connection: Connection) -> None:
        where, recursive = path_to_wire(self._path), self._recursive
        request = LsRequest(id=connection.next_id(), **where, recursive=recursive, tree=self._tree)
        resumed, count = self._last, 0
        page: LsReply | None = None
        while page is None or not page.complete:
            if self._line.leaving.is_set():
                raise LocalFileError("nobody reads the listing any more")
            page = connection.call(request, LsReply) if page is None else connection.wait(LsReply)
            check_count(count := count + len(page.entries))
            self._keep(page, resumed)

    def _keep(self, page: LsReply, resumed: tuple[str, ...]) -> None:
        """Put a page away, less what came before ``resumed``."""
        fresh = []
        for entry in page.entries:
            parts = self._parts(entry)
            if parts > self._last:
                self._last = parts
            elif parts <= resumed:
                continue
            else:
                self._ordered = False
            fresh.append(entry)
        if not fresh and not page.complete:
            return
        if len(fresh) < len(page.entries):
            page = msgspec.structs.replace(page, entries=fresh)
        with self._changed:
            if self._read_bytes == self._spooled_bytes and len(self._pages) < PAGES_AT_HAND:
                self._pages.append(page)
            else:
                self._put_away(msgspec.json.encode(page))
            self._received += bool(fresh)
            self._changed.notify_all()

    def _put_away(self, data: bytes) -> None:
        import shutil
        import tempfile

        with _on_disk():
            if self._spool is None:
                self._spool = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
            if self._spooled_bytes - self._looked_bytes >= LOOK_BYTES:
                self._looked_bytes = self._spooled_bytes
                if shutil.disk_usage(tempfile.gettempdir()).free < SPARE_BYTES:
                    raise LocalFileError("the server's listing fills the disk of temporary files; see $TMPDIR")
            self._spool.seek(self._spooled_bytes)
            self._spool.write(len(data).to_bytes(4, "little") + data)
            self._spool.flush()  # what the disk refuses is known here
        self._spooled_bytes += 4 + len(data)

    def _parts(self, entry: Entry) -> tuple[str, ...]:
        if entry.name_b64 is None:
            return tuple(entry.name.split("/"))
        return entry_to_info(entry, self._path).path.parts[len(self._path.parts) :]


def check_count(entries: int) -> None:
    """Raises ProtocolError for more than one listing may have."""
    if entries > MOST_ENTRIES:
        raise ProtocolError(f"the server lists more than {MOST_ENTRIES:,} entries; its folders one by one may do")


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    """An OSError about the temporary file becomes a LocalFileError."""
    try:
        yield
    except OSError as error:
        raise local_error("a temporary file", error) from None
