"""An upload on this disk while it is worked on: from its parts, followed by the whole's digest, to a published file.

A ``LiveUpload`` is what one process knows of an upload while anyone holds it (``uploads`` counts the hands).
Parts are written where they belong in a file of the final size, which is renamed at the end.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ftpy.digests import DigestName, PartDigestName
from ftpy.errors import (
    Busy,
    DigestMismatch,
    InvalidRequest,
    IoError,
    RequestError,
    ShuttingDown,
    UnknownUpload,
)
from ftpy.files import FileInfo, RemotePath, display
from ftpy.storage import syscalls
from ftpy.storage.area import Area
from ftpy.storage.base import Condition, KnownDigest, KnownVersion, NewFile, Quota
from ftpy.storage.feed import arrived
from ftpy.storage.following import Follower, FollowerClosed
from ftpy.storage.journal import StoredPart
from ftpy.storage.keeping import Keeper, Keeping
from ftpy.storage.operations import OperationKey
from ftpy.storage.partbook import PartBook
from ftpy.storage.partwriting import LocalPartWriter
from ftpy.storage.places import place_of
from ftpy.storage.positional import read_at, write_at
from ftpy.storage.publishing import Publication, Publisher
from ftpy.storage.record import Identity, identity
from ftpy.storage.refusals import refusal, translating
from ftpy.storage.remembered import Remembered
from ftpy.storage.syncing import Syncing
from ftpy.storage.uploadfiles import UploadFiles
from ftpy.storage.versions import digests, file_info, version_of

MOST_RENEWED_BYTES = 2 * 1024 * 1024
"""Longest journal to which a put in another way is still added, bytes: all parts that there can be take half of it."""

log = logging.getLogger("ftpy.storage")


class LiveUpload:
    """One upload, open in this process. Every method is safe in any thread; all raise RequestError.

    ``lifecycle`` is held while its files are opened or closed; the storage counts the ``holders``.
    """

    def __init__(
        self, upload_id: str, area: Area, publisher: Publisher, remembered: Remembered, keeper: Keeper
    ) -> None:
        self.id = upload_id
        self.lifecycle = threading.Lock()
        self.holders = 0
        self.is_open = False
        self.gone = False
        """Published or dropped: its files are no longer there."""
        self._publisher, self._remembered, self._keeper = publisher, remembered, keeper
        self._lock = threading.Lock()
        self._files = UploadFiles(upload_id, area, publisher.usage)
        self._syncing = Syncing(upload_id, self._files, self._lock, self._fail)
        self._committing = threading.Lock()
        self._closed_to_parts = False
        self._published: tuple[KnownDigest, NewFile, FileInfo] | None = None
        self._failure: RequestError | None = None
        self._interrupted = False
        self._follower: Follower | None = None

    # ---------------------------------------------------------------- open and close (lifecycle held)

    def open(self, owner: str, file: NewFile | None, quota: Quota | None) -> None:
        """Open what is on disk, or with a ``file`` begin anew.

        Raises UnknownUpload, Elsewhere, NoSpace, QuotaExceeded.
        """
        with translating(file.path if file else RemotePath()):
            self.meta, stored = self._files.open(owner, file, quota)
        self._book = PartBook(self.meta.file.file_size, self.meta.part_size, stored)
        self._syncing.begin(sum(part.length for part in stored.values() if not part.durable))
        if stored:
            try:
                with self._lock:
                    self._follow(self.meta.file.digest)
            except BaseException:
                self._files.close()
                raise
        self.is_open = True

    def close(self) -> None:
        """Close files and threads; what is stored stays."""
        if not self.is_open:
            return
        self.is_open = False
        try:
            if self._follower is not None:
                self._follower.close()
                self._follower = None
            self._syncing.wait()
        finally:
            self._files.close()

    def interrupt(self) -> None:
        """A commit that waits for its digest ends with ShuttingDown, and so does what follows."""
        with self._lock:
            self._interrupted = True
            follower = self._follower
        if follower is not None:
            follower.close()

    def wait(self) -> None:
        """Wait for a commit and a sync under way."""
        with self._committing:
            self._syncing.wait()

    # ---------------------------------------------------------------- what it is for

    def renew(self, file: NewFile) -> None:
        """The file is put again: mode, digest and condition may have changed; it does not expire yet.

        Raises InvalidRequest once that has made the journal, which no quota counts, too long.
        """
        with self._lock, translating(file.path):
            if file != self.meta.file:
                if self._files.journal.size > MOST_RENEWED_BYTES:
                    raise InvalidRequest("the upload was put again in other ways too often; abort it and begin anew")
                renewed = replace(self.meta, file=file)
                self._files.journal.meta(renewed)
                self.meta = renewed
            else:
                self._files.journal.touch()

    def missing(self) -> list[tuple[int, int]]:
        """Ranges of parts not stored, of a known size."""
        with self._lock:
            return self._book.missing()

    @property
    def verified(self) -> int:
        """Bytes hashed so far."""
        follower = self._follower
        return follower.position if follower else 0

    # ---------------------------------------------------------------- parts

    def part(
        self, number: int, length: int, digest: PartDigestName, quota: Quota | None, let_go: Callable[[], None]
    ) -> LocalPartWriter:
        """Begin a part; ``let_go`` is called when its writer closes."""
        stored, follower = self.begin_part(number, length, quota, feeds=True)
        return LocalPartWriter(self, number, length, digest, follower=follower, stored=stored, let_go=let_go)

    def begin_part(
        self, number: int, length: int, quota: Quota | None, *, feeds: bool
    ) -> tuple[StoredPart | None, Follower | None]:
        """Begin a part: as which it is stored already, else whose writer ``feeds`` the follower, if it comes in order.

        One that is not stored ends with ``part_written`` or ``part_abandoned``.
        """
        self._book.check_shape(number, length)
        with self._lock:
            self._check_usable()
            if self._closed_to_parts:
                raise Busy("the upload is being committed")
            stored = self._book.stored_as(number, length)
            follower = None
            if stored is None:
                whole = self._follow(self.meta.file.digest)
                follower = whole if feeds and whole.begin(number * self.meta.part_size) else None
                self._book.receiving.add(number)
        if stored is None and self.meta.file.file_size is None:
            # Only now: what is being written keeps a commit out, so that nothing grows behind its back.
            try:
                with translating(self.meta.file.path):
                    self._files.extend(number * self.meta.part_size, length, quota)
            except RequestError:
                self.part_abandoned(number, follower)
                raise
        return stored, follower

    def write(self, offset: int, view: memoryview) -> None:
        """Write into the data file, for part writers."""
        with translating(self.meta.file.path):
            write_at(self._files.data, offset, view)

    @property
    def descriptors(self) -> list[int]:
        """The data file, to write parts to, and the journal, which is locked as long as anyone has it open."""
        return [self._files.data, self._files.journal.fd]

    def part_written(self, number: int, part: StoredPart, follower: Follower | None) -> None:
        """A part's bytes are written and verified: it counts."""
        with self._lock:
            self._check_usable()
            with translating(self.meta.file.path):
                self._files.journal.part(number, part)
            self._book.stored[number] = part
            self._book.receiving.discard(number)
            if follower is not None:
                follower.settle()
            elif self._follower is not None:  # pragma: no branch  (a part that was begun has made one)
                self._follower.announce(number * self.meta.part_size, part.length)
            behind = self._syncing.written(part.length)
        if behind:
            self._syncing.wait()

    def part_abandoned(self, number: int, follower: Follower | None) -> None:
        """A part ended before it counted."""
        with self._lock:
            self._book.receiving.discard(number)
            if follower is not None:
                follower.rewind()

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.gone or not self.is_open:
            raise UnknownUpload
        if self._interrupted:
            raise ShuttingDown

    # ---------------------------------------------------------------- following (lock held)

    def _follow(self, digest: DigestName) -> Follower:
        """The follower, begun anew with what is stored where another digest is asked for than before."""
        follower = self._follower
        if follower is None or (follower.digest != digest and not self._book.receiving):
            if follower is not None:
                follower.close()
                self._follower = None
            fd = self._files.data
            follower = Follower(digest, lambda offset, view: read_at(fd, offset, view))
            for number, part in sorted(self._book.stored.items()):
                follower.announce(number * self.meta.part_size, part.length)
            self._follower = follower
        return follower

    # ---------------------------------------------------------------- the end

    def commit(
        self,
        digest: KnownDigest,
        file_size: int | None,
        wanted: NewFile,
        quota: Quota | None,
    ) -> FileInfo:
        """Verify, publish as is ``wanted``, make durable. A second commit waits for the first and has its result."""
        with self._committing:
            if self._published is not None:
                return self._published_already(digest, wanted)
            size, follower = self._close_to_parts(digest.name, file_size)
            try:
                self._verify(digest, size, follower)
                with translating(wanted.path):
                    return self._publish(digest, size, wanted, quota)
            finally:
                self._closed_to_parts = False

    def _published_already(self, digest: KnownDigest, wanted: NewFile) -> FileInfo:
        assert self._published is not None
        published, met, info = self._published
        if published != digest or wanted.tree != met.tree:
            raise UnknownUpload
        if wanted.condition != met.condition:  # another's publication is not what this hand asked for, unless it fits
            self._publisher.check(place_of(wanted.path, wanted.tree), wanted.condition)
        return info

    def _close_to_parts(self, digest: DigestName, file_size: int | None) -> tuple[int, Follower]:
        known = self.meta.file.file_size
        if known is not None and file_size not in (None, known):
            raise InvalidRequest(f"the upload has {known} bytes, not {file_size}")
        size = known if known is not None else file_size
        if size is None:
            raise InvalidRequest("the size must be named")
        with self._lock:
            self._check_usable()
            self._book.check_complete(size)
            follower = self._follow(digest)
            self._closed_to_parts = True
            self._syncing.all_written()
            return size, follower

    def _verify(self, digest: KnownDigest, size: int, follower: Follower) -> None:
        path = self.meta.file.path
        try:
            found = follower.hexdigest(size)
        except FollowerClosed:
            raise ShuttingDown from None
        except EOFError as error:
            self.drop()
            raise IoError(f"{display(str(path))}: what was stored is no longer there") from error
        except OSError as error:
            self.drop()
            raise refusal(error, path) from error
        if found != digest.hex:
            self.drop()
            raise DigestMismatch(f"{display(str(path))}: its {digest.name} is {found}, not {digest.hex}")

    def _publish(self, digest: KnownDigest, size: int, wanted: NewFile, quota: Quota | None) -> FileInfo:
        condition, place = wanted.condition, place_of(wanted.path, wanted.tree)
        self._finish_data(size)
        compares = isinstance(condition, KnownDigest | KnownVersion)
        if compares:
            self._publisher.check(place, condition)  # hashes before the lock, not under it
        # What goes into a staged tree happens for nobody yet.
        planned = [arrived(place, os.fstat(self._files.data))] if wanted.tree is None else []
        exclusive = compares or wanted.operation is not None
        with (
            self._publisher.publication(exclusive=exclusive) as publication,
            self._keeping(publication, condition, quota, wanted.operation) as (keeping, kept),
            self._publisher.feed.recording(planned) as record,
        ):
            source, name = self._files.folder, self._files.data_name
            publication.place(source, name, place, condition, size=size, quota=quota, kept=kept)
            record.done()
            try:
                failed = publication.sync()
                if keeping is not None:
                    keeping.settle()
                self._files.folder.unlink(self._files.journal_name, missing_ok=True)
            finally:
                self.gone = True
        if failed:
            raise next(iter(failed.values()))
        status = os.fstat(self._files.data)
        known = digests(digest)
        self._remembered.keep([(version_of(status), known)])
        info = file_info(wanted.path, status, known)
        self._published = digest, wanted, info
        return info

    @contextmanager
    def _keeping(
        self, publication: Publication, condition: Condition, quota: Quota | None, operation: OperationKey | None
    ) -> Iterator[tuple[Keeping | None, Identity | None]]:
        """What is replaced is kept, where that is wanted; which it is."""
        if operation is None:
            yield None, None
            return
        path = self.meta.file.path
        self._publisher.check(path, condition, locked=True)
        with self._keeper.keeping(operation, publication, quota) as keeping:
            kept = keeping.coming(path, identity(os.fstat(self._files.data))).old
            keeping.seal()
            yield keeping, kept

    def _finish_data(self, size: int) -> None:
        """Give the data its final size, times and mode, and make it durable."""
        file = self.meta.file
        self._syncing.wait()
        if self._failure is not None:
            raise self._failure  # which has dropped it
        try:
            self._files.cut(size)
            if file.mode is not None:
                os.fchmod(self._files.data, file.mode & 0o777)
            os.utime(self._files.data, ns=(file.mtime_ns, file.mtime_ns))
            syscalls.fsync(self._files.data)
        except OSError as error:
            self.drop()
            raise refusal(error, file.path) from error

    def abort(self) -> None:
        """Drop it; a commit under way is waited for, and wins."""
        with self._committing:
            self.drop()

    def drop(self) -> None:
        """Remove its files; descriptors stay until the last holder lets go, for parts that are being written.

        Where it is gone already, these names are its successor's.
        """
        with self._lock:
            if self.gone:
                return
            try:
                with translating(self.meta.file.path):
                    self._files.unlink()
            finally:
                self.gone = True
        log.info("an upload was dropped", extra={"event": "upload-dropped", "fields": {"upload": self.id}})

    def _fail(self, error: OSError) -> None:
        """What went on in the background failed: the upload is dropped, and whoever asks next is told why."""
        log.error(
            "an upload failed: %s", error.strerror, extra={"event": "upload-failed", "fields": {"upload": self.id}}
        )
        self._failure = refusal(error, self.meta.file.path)
        try:
            self.drop()
        except RequestError as refused:
            log.error(
                "an upload could not be dropped: %s",
                refused,
                extra={"event": "drop-failed", "fields": {"upload": self.id}},
            )
