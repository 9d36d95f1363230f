"""Storing one part: received into a buffer, written where it belongs, hashed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ftpy.digests import PartDigestName, new_hasher
from ftpy.errors import DigestMismatch
from ftpy.storage.following import CHUNK_BYTES, Follower
from ftpy.storage.journal import Meta, StoredPart
from ftpy.storage.uploadbase import PartWriter
from ftpy.timing import HASHING

OWN_CHUNK_BYTES = CHUNK_BYTES // 4
"""Buffer of a part that comes out of order: it is hashed from the page cache later, so it needs only one."""


class TakesParts(Protocol):
    """The upload that parts are written to: open in this process, or in another. All raise RequestError."""

    meta: Meta

    def write(self, offset: int, view: memoryview) -> None:
        """Write into the data file."""

    def part_written(self, number: int, part: StoredPart, follower: Follower | None) -> None:
        """A part's bytes are written and verified: it counts."""

    def part_abandoned(self, number: int, follower: Follower | None) -> None:
        """A part ended before it counted."""


class LocalPartWriter(PartWriter):
    """One part under way, used by one thread.

    With a ``follower`` the part comes in order, and its buffers are handed over to the whole's hash without a copy.
    A part that is ``stored`` already never changes: its bytes are received and compared, not written.
    """

    def __init__(
        self,
        upload: TakesParts,
        number: int,
        length: int,
        digest: PartDigestName,
        *,
        follower: Follower | None,
        stored: StoredPart | None,
        let_go: Callable[[], None],
    ) -> None:
        self._upload, self._number, self._length = upload, number, length
        self._offset = number * upload.meta.part_size
        self._follower, self._stored, self._let_go = follower, stored, let_go
        self._digest: PartDigestName = digest
        self._hashers = {name: new_hasher(name) for name in {digest, stored.digest_name if stored else digest}}
        self._done = 0
        self._lent: memoryview | None = None
        self._finished = self._closed = False

    def __iter__(self) -> Iterator[memoryview]:
        """Views to fill."""
        own = memoryview(bytearray(min(OWN_CHUNK_BYTES, self._length))) if self._follower is None else None
        while (left := self._length - self._done) > 0:
            if own is None:
                assert self._follower is not None
                self._lent = buffer = self._follower.borrow()
            else:
                buffer = own
            view = buffer[: min(len(buffer), left)]
            yield view
            self._take(view)
            if self._follower is not None:
                self._lent = None
                self._follower.give(self._offset + self._done, buffer, len(view))
            self._done += len(view)

    def _take(self, view: memoryview) -> None:
        if self._stored is None:
            self._upload.write(self._offset + self._done, view)
        with HASHING:
            for hasher in self._hashers.values():
                hasher.update(view)

    def finish(self, digest: str) -> None:
        """Count the part as stored."""
        if self._done != self._length:
            raise ValueError(f"{self._done} of {self._length} bytes were given")
        found = self._hashers[self._digest].hexdigest()
        stored = self._stored
        if found != digest or (stored and self._hashers[stored.digest_name].hexdigest() != stored.digest):
            raise DigestMismatch(f"part {self._number}: its {self._digest} is {found}")
        if stored is None:
            self._upload.part_written(self._number, StoredPart(self._length, digest), self._follower)
        self._finished = True

    def close(self) -> None:
        """Let go; without ``finish`` the part is missing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._follower is not None and self._lent is not None:
                self._follower.give_back(self._lent)
            if self._stored is None and not self._finished:
                self._upload.part_abandoned(self._number, self._follower)
        finally:
            self._let_go()
