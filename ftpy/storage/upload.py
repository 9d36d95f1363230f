"""An upload on this disk: its data file, its journal, and who is at work on it.

A ``LiveUpload`` is what one process knows of an upload while anyone holds it (``uploads`` counts the hands).
Parts are written where they belong in a file of the final size, which is renamed at the end.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace

from ftpy.digests import DigestName, PartDigestName, new_hasher
from ftpy.errors import (
    Busy,
    DigestMismatch,
    Incomplete,
    InvalidRequest,
    IoError,
    RequestError,
    ShuttingDown,
    UnknownUpload,
)
from ftpy.files import FileInfo, RemotePath, display
from ftpy.storage import syscalls
from ftpy.storage.area import Area
from ftpy.storage.base import MIB, MOST_PARTS, Condition, KnownDigest, NewFile, part_size_for
from ftpy.storage.following import CHUNK_BYTES, Follower, FollowerClosed, start_thread
from ftpy.storage.journal import Journal, Meta, StoredPart, sync_data
from ftpy.storage.locking import open_locked
from ftpy.storage.partwriting import LocalPartWriter
from ftpy.storage.positional import read_at, write_at
from ftpy.storage.publishing import Publisher
from ftpy.storage.refusals import refusal, translating
from ftpy.storage.remembered import Remembered
from ftpy.storage.reserving import reserve
from ftpy.storage.sharing import Elsewhere
from ftpy.storage.versions import digests, file_info, version_of

log = logging.getLogger("ftpy.storage")

SYNC_BYTES = 64 * MIB
"""New bytes that start a sync in the background: writeback overlaps with receiving."""
MOST_UNSYNCED = 4 * SYNC_BYTES
"""Bytes from which on a part waits for the disk: what is read again after a crash stays bounded."""


class LiveUpload:
    """One upload, open in this process. Every method is safe in any thread; all raise RequestError.

    ``lifecycle`` is held while its files are opened or closed; the storage counts the ``holders``.
    """

    def __init__(self, upload_id: str, area: Area, publisher: Publisher, remembered: Remembered) -> None:
        self.id = upload_id
        self.lifecycle = threading.Lock()
        self.holders = 0
        self.is_open = False
        self.gone = False
        """Published or dropped: its files are no longer there."""
        self._area, self._publisher, self._remembered = area, publisher, remembered
        self._data_name, self._journal_name = f"{upload_id}.data", f"{upload_id}.journal"
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._closed_to_parts = False
        self._published: tuple[KnownDigest, Condition, FileInfo] | None = None
        self._failure: RequestError | None = None
        self._interrupted = False
        self._stored: dict[int, StoredPart] = {}
        self._writing: set[int] = set()
        self._follower: Follower | None = None
        self._syncer: threading.Thread | None = None
        self._unsynced = 0
        self._name_is_durable = False

    # ---------------------------------------------------------------- open and close (lifecycle held)

    def open(self, owner: str, file: NewFile | None) -> None:
        """Open what is on disk, or with a ``file`` begin anew. Raises UnknownUpload, Elsewhere, NoSpace."""
        path = file.path if file else RemotePath()
        with translating(path):
            try:
                locked = open_locked(self._area.uploads, self._journal_name, create=file is not None)
            except FileNotFoundError:
                raise UnknownUpload from None
            if locked is None:
                raise Elsewhere
            self._journal = Journal(locked)
            try:
                self._load(owner, file)
            except BaseException:
                os.close(locked)
                raise
        self.is_open = True
        self._follow_stored()

    def _load(self, owner: str, file: NewFile | None) -> None:
        contents = self._journal.read()
        meta = contents.meta
        data = self._open_data(meta) if meta else None
        if meta is not None and data is not None:
            self.meta, self._data = meta, data
            try:
                self._believe(contents.parts)
                reserve(data, meta.file.file_size or 0)
            except BaseException:
                os.close(data)
                raise
        elif file is not None:
            self._begin(Meta(owner, file, part_size_for(file.file_size)))
        else:
            raise UnknownUpload

    def _open_data(self, meta: Meta) -> int | None:
        """The data file, if it is whole: the space was reserved before the first part came."""
        uploads = self._area.uploads
        try:
            fd = uploads.open_for_write(self._data_name)
        except FileNotFoundError:
            return None
        except PermissionError:  # it had the mode of a read-only file already when its commit was cut off
            uploads.chmod(self._data_name, uploads.lstat(self._data_name).st_mode & 0o777 | 0o600)
            fd = uploads.open_for_write(self._data_name)
        if os.fstat(fd).st_size >= (meta.file.file_size or 0):
            return fd
        os.close(fd)
        return None

    def _begin(self, meta: Meta) -> None:
        self._journal.clear()
        self._journal.meta(meta)
        self._area.uploads.unlink(self._data_name, missing_ok=True)
        self.meta = meta
        self._data = self._area.uploads.create(self._data_name)
        try:
            reserve(self._data, meta.file.file_size or 0)
        except OSError:
            os.close(self._data)
            self._unlink()
            raise

    def _believe(self, parts: dict[int, StoredPart]) -> None:
        """Take over the parts that are durable, and of the others those whose bytes are really there."""
        for number, part in parts.items():
            if part.durable or self._is_there(number, part):
                self._stored[number] = part
                self._unsynced += 0 if part.durable else part.length
            else:
                self._journal.void(number)
                log.info("part %d was not on disk", number, extra={"event": "part-void", "fields": {"upload": self.id}})

    def _is_there(self, number: int, part: StoredPart) -> bool:
        hasher = new_hasher(part.digest_name)
        buffer = memoryview(bytearray(min(CHUNK_BYTES, part.length)))
        offset, left = number * self.meta.part_size, part.length
        while left:
            view = buffer[: min(len(buffer), left)]
            if read_at(self._data, offset, view) != len(view):
                return False
            hasher.update(view)
            offset += len(view)
            left -= len(view)
        return hasher.hexdigest() == part.digest

    def close(self) -> None:
        """Close files and threads; what is stored stays."""
        if not self.is_open:
            return
        self.is_open = False
        try:
            if self._follower is not None:
                self._follower.close()
                self._follower = None
            self._await_sync()
        finally:
            os.close(self._data)
            os.close(self._journal.fd)
            self._stored.clear()
            self._unsynced = 0

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
            self._await_sync()

    # ---------------------------------------------------------------- what it is for

    def renew(self, file: NewFile) -> None:
        """The file is put again: mode, digest and condition may have changed; it does not expire yet."""
        with self._lock, translating(file.path):
            if file != self.meta.file:
                self.meta = replace(self.meta, file=file)
                self._journal.meta(self.meta)
            else:
                self._journal.touch()

    def missing(self) -> list[tuple[int, int]]:
        """Ranges of parts not stored, of a known size."""
        if self.meta.file.file_size is None:
            return []
        with self._lock:
            return _gaps(self._stored, -(-self.meta.file.file_size // self.meta.part_size))

    @property
    def verified(self) -> int:
        """Bytes hashed so far."""
        follower = self._follower
        return follower.position if follower else 0

    # ---------------------------------------------------------------- parts

    def part(self, number: int, length: int, digest: PartDigestName, let_go: Callable[[], None]) -> LocalPartWriter:
        """Begin a part; ``let_go`` is called when its writer closes."""
        stored, follower = self.begin_part(number, length, feeds=True)
        return LocalPartWriter(self, number, length, digest, follower=follower, stored=stored, let_go=let_go)

    def begin_part(self, number: int, length: int, *, feeds: bool) -> tuple[StoredPart | None, Follower | None]:
        """Begin a part: as which it is stored already, else whose writer ``feeds`` the follower, if it comes in order.

        One that is not stored ends with ``part_written`` or ``part_abandoned``.
        """
        self._check_shape(number, length)
        with self._lock:
            self._check_usable()
            if self._closed_to_parts:
                raise Busy("the upload is being committed")
            stored = self._stored.get(number)
            if stored is not None and stored.length != length:
                raise InvalidRequest(f"part {number} is stored with {stored.length} bytes")
            if number in self._writing:
                raise Busy(f"part {number} is being received on another connection")
            follower = None
            if stored is None:
                whole = self._follow(self.meta.file.digest)
                follower = whole if feeds and whole.begin(number * self.meta.part_size) else None
                self._writing.add(number)
        if stored is None and self.meta.file.file_size is None:
            # Only now: what is being written keeps a commit out, so that nothing grows behind its back.
            try:
                with translating(self.meta.file.path):
                    syscalls.reserve(self._data, number * self.meta.part_size, length)
            except RequestError:
                self.part_abandoned(number, follower)
                raise
        return stored, follower

    def write(self, offset: int, view: memoryview) -> None:
        """Write into the data file, for part writers."""
        with translating(self.meta.file.path):
            write_at(self._data, offset, view)

    @property
    def descriptors(self) -> list[int]:
        """The data file, to write parts to, and the journal, which is locked as long as anyone has it open."""
        return [self._data, self._journal.fd]

    def part_written(self, number: int, part: StoredPart, follower: Follower | None) -> None:
        """A part's bytes are written and verified: it counts."""
        with self._lock:
            self._check_usable()
            with translating(self.meta.file.path):
                self._journal.part(number, part)
            self._stored[number] = part
            self._writing.discard(number)
            if follower is not None:
                follower.settle()
            elif self._follower is not None:
                self._follower.announce(number * self.meta.part_size, part.length)
            self._unsynced += part.length
            if self._unsynced >= SYNC_BYTES:
                self._start_sync()
            behind = self._unsynced >= MOST_UNSYNCED
        if behind:
            self._await_sync()

    def part_abandoned(self, number: int, follower: Follower | None) -> None:
        """A part ended before it counted."""
        with self._lock:
            self._writing.discard(number)
            if follower is not None:
                follower.rewind()

    def _check_shape(self, number: int, length: int) -> None:
        size, part_size = self.meta.file.file_size, self.meta.part_size
        if size is None:
            right = 0 <= number < MOST_PARTS and 0 < length <= part_size
        else:
            right = number >= 0 and 0 < length == min(part_size, size - number * part_size)
        if not right:
            raise InvalidRequest(f"this upload has no part {number} of {length} bytes")

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
        if follower is None or (follower.digest != digest and not self._writing):
            if follower is not None:
                follower.close()
                self._follower = None
            fd = self._data
            follower = Follower(digest, lambda offset, view: read_at(fd, offset, view))
            for number, part in sorted(self._stored.items()):
                follower.announce(number * self.meta.part_size, part.length)
            self._follower = follower
        return follower

    def _follow_stored(self) -> None:
        with self._lock:
            if self._stored:
                self._follow(self.meta.file.digest)

    # ---------------------------------------------------------------- syncing

    def _start_sync(self) -> None:
        """Begin to make durable what is stored so far, in the background (lock held)."""
        if self._syncer is None and self._failure is None and not self._interrupted:
            try:
                self._syncer = start_thread(self._sync, "ftpy-sync")
            except Busy as error:  # the next part tries again, and the commit syncs whatever is left
                log.warning("%s", error, extra={"event": "sync-put-off", "fields": {"upload": self.id}})

    def _await_sync(self) -> None:
        if (syncer := self._syncer) is not None:
            syncer.join()

    def _sync(self) -> None:
        with self._lock:
            covered, synced = self._journal.size, self._unsynced
        try:
            sync_data(self._data)
            if not self._name_is_durable:
                self._area.uploads.sync()
                self._name_is_durable = True
            with self._lock:
                self._journal.durable(covered)
        except OSError as error:
            # Never tried again, and dropped at once: the kernel has forgotten the pages that it could not write,
            # but still shows them to who reads, so that nothing of it could be believed later.
            self._fail(error)
        with self._lock:
            self._unsynced -= synced
            self._syncer = None

    # ---------------------------------------------------------------- the end

    def commit(self, digest: KnownDigest, file_size: int | None, condition: Condition) -> FileInfo:
        """Verify, publish, make durable. A second commit waits for the first and has its result."""
        with self._committing:
            if self._published is not None:
                return self._published_already(digest, condition)
            size, follower = self._close_to_parts(digest.name, file_size)
            try:
                self._verify(digest, size, follower)
                return self._publish(digest, size, condition)
            finally:
                self._closed_to_parts = False

    def _published_already(self, digest: KnownDigest, condition: Condition) -> FileInfo:
        assert self._published is not None
        published, met, info = self._published
        if published != digest:
            raise UnknownUpload
        if condition != met:  # another's publication is not what this hand asked for, unless it fits
            self._publisher.check(info.path, condition)
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
            self._check_complete(size)
            follower = self._follow(digest)
            self._closed_to_parts = True
            if self._unsynced >= SYNC_BYTES // 4:
                self._start_sync()  # while the digest is waited for
            return size, follower

    def _check_complete(self, size: int) -> None:
        """Raises Incomplete unless the stored parts are exactly those of a file of ``size`` bytes."""
        part_size = self.meta.part_size
        count = -(-size // part_size)
        gaps = _gaps(self._stored, count)
        if gaps:
            raise Incomplete(f"{sum(last - first + 1 for first, last in gaps)} parts are missing")
        if self._writing:
            raise Incomplete("a part is still being received")
        lengths = [part.length for _, part in sorted(self._stored.items())]
        if len(lengths) != count or sum(lengths) != size or any(length != part_size for length in lengths[:-1]):
            raise InvalidRequest(f"the parts that were sent do not make a file of {size} bytes")

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

    def _publish(self, digest: KnownDigest, size: int, condition: Condition) -> FileInfo:
        file = self.meta.file
        self._finish_data(size)
        exclusive = isinstance(condition, KnownDigest)
        if exclusive:
            self._publisher.check(file.path, condition)  # hashes before the lock, not under it
        with translating(file.path), self._publisher.publication(exclusive=exclusive) as publication:
            publication.place(self._area.uploads, self._data_name, file.path, condition)
            try:
                failed = publication.sync()
                self._area.uploads.unlink(self._journal_name, missing_ok=True)
            finally:
                self.gone = True
        if failed:
            raise next(iter(failed.values()))
        status = os.fstat(self._data)
        known = digests(digest)
        self._remembered.keep([(version_of(status), known)])
        info = file_info(file.path, status, known)
        self._published = digest, condition, info
        return info

    def _finish_data(self, size: int) -> None:
        """Give the data its final size, times and mode, and make it durable."""
        file = self.meta.file
        self._await_sync()
        try:
            if self._failure is not None:
                raise self._failure
            if os.fstat(self._data).st_size != size:
                os.ftruncate(self._data, size)
            if file.mode is not None:
                os.fchmod(self._data, file.mode & 0o777)
            os.utime(self._data, ns=(file.mtime_ns, file.mtime_ns))
            syscalls.fsync(self._data)
        except OSError as error:
            self.drop()
            raise refusal(error, file.path) from error
        except RequestError:
            self.drop()
            raise

    def abort(self) -> None:
        """Drop it; a commit under way is waited for, and wins."""
        with self._committing:
            if not self.gone:
                self.drop()

    def drop(self) -> None:
        """Remove its files; descriptors stay until the last holder lets go, for parts that are being written."""
        try:
            with translating(self.meta.file.path):
                self._unlink()
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

    def _unlink(self) -> None:
        self._area.uploads.unlink(self._data_name, missing_ok=True)
        self._area.uploads.unlink(self._journal_name, missing_ok=True)


def _gaps(stored: dict[int, StoredPart], count: int) -> list[tuple[int, int]]:
    """Ranges (both ends in) of numbers under ``count`` that are not in ``stored``."""
    gaps: list[tuple[int, int]] = []
    due = 0
    for number in [*sorted(number for number in stored if number < count), count]:
        if number > due:
            gaps.append((due, number - 1))
        due = number + 1
    return gaps
