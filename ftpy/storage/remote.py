"""An upload that another process of this server has open, as one hand here sees it.

The bytes of a part are received, verified and written here, into the owner's data file; what counts, what is durable
and what is published is decided by the owner, asked over a ``Link`` in messages of some hundred bytes.

With the data file comes the owner's journal, for its lock: that belongs to whoever has it open. So when the owner
dies nobody can go on with the upload before every hand has stopped writing to it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from ftpy.digests import PartDigestName
from ftpy.errors import Busy, RequestError, ShuttingDown
from ftpy.files import FileInfo
from ftpy.storage import syscalls, wanted
from ftpy.storage.base import KnownDigest
from ftpy.storage.following import Follower
from ftpy.storage.journal import Meta, StoredPart
from ftpy.storage.partwriting import LocalPartWriter
from ftpy.storage.positional import write_at
from ftpy.storage.refusals import translating
from ftpy.storage.sharing import Asked, Link
from ftpy.storage.uploadbase import Upload
from ftpy.timing import DISK


class RemoteUpload(Upload):
    """A hand on an upload that is open in another process; raises Busy once that process is gone."""

    def __init__(
        self, upload_id: str, link: Link, meta: Meta, descriptors: list[int], left: Callable[[RemoteUpload], None]
    ) -> None:
        self.id = upload_id
        self.path, self.tree = meta.file.path, meta.file.tree
        self.file_size = meta.file.file_size
        self.part_size = meta.part_size
        self.meta = meta
        self._link, self._descriptors, self._left = link, descriptors, left
        self._asking = threading.Lock()
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._holders = 1  # the hand itself, and every part under way
        self._closed = False
        self._lost: RequestError | None = None
        self._verified = 0

    @classmethod
    def take(cls, link: Link, asked: Asked, left: Callable[[RemoteUpload], None]) -> RemoteUpload | None:
        """The upload at the other end of ``link``; None where it is not open there any more."""
        try:
            link.send(asked)
            (outcome, found), descriptors = link.receive()
        except (EOFError, OSError):
            outcome, found = "done", None
        if outcome == "done" and found is not None:
            return cls(asked.id, link, found, descriptors, left)
        link.close()
        if outcome == "failed":
            raise found
        return None

    # ---------------------------------------------------------------- the owner

    def _ask(self, *request: object) -> Any:
        """The owner's answer. Raises what it raised; Busy where it is gone; what ``wanted`` raises."""
        with self._asking, DISK:
            try:
                if self._lost is not None:
                    raise self._lost
                self._link.send(request)
                outcome, result = self._link.receive()[0]
                while outcome == "verified":
                    self._verified = result
                    self._check_wanted()
                    outcome, result = self._link.receive()[0]
            except (EOFError, OSError):
                raise self._lose() from None
        if outcome == "failed":
            raise result
        return result

    def _check_wanted(self) -> None:
        """Whether the owner is to go on; if not, it finds the link ended."""
        try:
            wanted.check()
        except RequestError:
            self.interrupt()
            raise

    def _lose(self) -> RequestError:
        """The owner is gone: from now on nothing is written, so that another one can take its place."""
        with self._writing:
            if self._lost is None:
                self._lost = Busy("the process at work on this upload has ended; try again")
            self._close_files()
            return self._lost

    def _close_files(self) -> None:
        while self._descriptors:
            syscalls.close(self._descriptors.pop())

    def look(self) -> None:
        """Some process has ended: if it was the owner, let go. Where it is being asked, that finds out itself."""
        if self._asking.acquire(blocking=False):
            try:
                if self._lost is None and not self._closed and self._link.has_ended():
                    self._lose()
            finally:
                self._asking.release()

    def interrupt(self) -> None:
        """End with ShuttingDown what waits for the owner, and all that follows."""
        with self._writing:
            self._lost = self._lost or ShuttingDown()
        self._link.shutdown()

    # ---------------------------------------------------------------- holding

    def _hold(self) -> None:
        with self._counting:
            self._holders += 1

    def _let_go(self) -> None:
        with self._counting:
            self._holders -= 1
            if self._holders:
                return
        with self._asking:
            with self._writing:
                self._lost = self._lost or Busy("the upload was let go")
                self._close_files()  # before the link, at whose end the owner may let go of the lock
            self._link.finish()  # whoever comes next finds the upload let go
            self._link.close()
        self._left(self)

    def close(self) -> None:
        """Let go; parts under way go on."""
        if not self._closed:
            self._closed = True
            self._let_go()

    # ---------------------------------------------------------------- what it is for

    def missing(self) -> list[tuple[int, int]]:
        """Ranges of parts that are not stored."""
        missing: list[tuple[int, int]] = self._ask("missing")
        return missing

    def part(self, number: int, length: int, digest: PartDigestName = "blake3") -> LocalPartWriter:
        """Begin to store a part."""
        self._hold()
        try:
            stored: StoredPart | None = self._ask("begin_part", number, length)
            return LocalPartWriter(self, number, length, digest, follower=None, stored=stored, let_go=self._let_go)
        except BaseException:
            self._let_go()
            raise

    def write(self, offset: int, view: memoryview) -> None:
        """Write into the data file, for part writers."""
        with self._writing, translating(self.meta.file.path):
            if self._lost is not None:
                raise self._lost
            write_at(self._descriptors[0], offset, view)

    def part_written(self, number: int, part: StoredPart, follower: Follower | None) -> None:  # noqa: ARG002
        """A part's bytes are written and verified: it counts."""
        self._ask("part_written", number, part)

    def part_abandoned(self, number: int, follower: Follower | None) -> None:  # noqa: ARG002
        """A part ended before it counted."""
        with contextlib.suppress(Busy, ShuttingDown):  # an owner that is gone has forgotten it already
            self._ask("part_abandoned", number)

    def commit(self, digest: KnownDigest, file_size: int | None, *, replacing: bool = True) -> FileInfo:
        """Verify and publish."""
        info: FileInfo = self._ask("commit", digest, file_size, replacing)
        self._verified = info.size
        return info

    @property
    def verified(self) -> int:
        """Bytes that the owner has hashed, as it said last."""
        return self._verified

    def abort(self) -> None:
        """Drop it."""
        self._ask("abort")

    @property
    def is_lost(self) -> bool:
        """Whether the owner is gone."""
        return self._lost is not None
