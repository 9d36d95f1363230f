"""The two files of an upload, its data and its journal: opened under a lock, believed as far as they are whole."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import ExitStack

from ftpy.digests import new_hasher
from ftpy.errors import UnknownUpload
from ftpy.storage import syscalls
from ftpy.storage.area import Area
from ftpy.storage.base import NewFile, Quota
from ftpy.storage.following import CHUNK_BYTES
from ftpy.storage.journal import Journal, Meta, StoredPart
from ftpy.storage.locking import open_locked
from ftpy.storage.positional import read_at
from ftpy.storage.reserving import reserve
from ftpy.storage.sharing import Elsewhere
from ftpy.storage.uploadbase import part_size_for
from ftpy.storage.usage import ROOT, Usage, weight

log = logging.getLogger("ftpy.storage")


class UploadFiles:
    """The files of one upload: ``data`` (a descriptor) and ``journal`` while they are open. All raise OSError."""

    data: int
    journal: Journal

    def __init__(self, upload_id: str, area: Area, usage: Usage) -> None:
        self._id, self._usage = upload_id, usage
        self.folder = area.uploads
        self._extending = threading.Lock()
        self.data_name, self.journal_name = f"{upload_id}.data", f"{upload_id}.journal"

    def open(self, owner: str, file: NewFile | None, quota: Quota | None) -> tuple[Meta, dict[int, StoredPart]]:
        """Open what is on disk, or with a ``file`` begin anew: what it is for, and its parts that are really there.

        Raises UnknownUpload, Elsewhere, QuotaExceeded.
        """
        try:
            locked = open_locked(self.folder, self.journal_name, create=file is not None)
        except FileNotFoundError:
            raise UnknownUpload from None
        if locked is None:
            raise Elsewhere
        self.journal = Journal(locked)
        try:
            return self._load(owner, file, quota)
        except BaseException:
            syscalls.close(locked)
            raise

    def _load(self, owner: str, file: NewFile | None, quota: Quota | None) -> tuple[Meta, dict[int, StoredPart]]:
        contents = self.journal.read()
        meta = contents.meta
        data = self._open_data(meta) if meta else None
        if meta is not None and data is not None:
            self.data = data
            try:
                parts = self._believed(contents.parts, meta.part_size)
                reserve(data, meta.file.file_size or 0)
            except BaseException:
                syscalls.close(data)
                raise
            return meta, parts
        if file is None:
            self.unlink()  # a half that a crash left
            raise UnknownUpload
        meta = Meta(owner, file, part_size_for(file.file_size))
        self._begin(meta, quota)
        return meta, {}

    def _open_data(self, meta: Meta) -> int | None:
        """The data file, if it is whole: the space was reserved before the first part came."""
        try:
            fd = self.folder.open_for_write(self.data_name)
        except FileNotFoundError:
            return None
        except PermissionError:  # it had the mode of a read-only file already when its commit was cut off
            self.folder.chmod(self.data_name, self.folder.lstat(self.data_name).st_mode & 0o777 | 0o600)
            fd = self.folder.open_for_write(self.data_name)
        with ExitStack() as opened:
            opened.callback(syscalls.close, fd)
            size = meta.file.file_size
            if size is not None and os.fstat(fd).st_size < size:
                return None
            opened.pop_all()
        return fd

    def _begin(self, meta: Meta, quota: Quota | None) -> None:
        size = meta.file.file_size or 0
        try:
            self.journal.clear()
            self.journal.meta(meta)
            self._remove_data()
            with self._usage.adding(size, 1, quota):
                self.data = self.folder.create(self.data_name)
                try:
                    reserve(self.data, size)
                except BaseException:
                    syscalls.close(self.data)
                    self.folder.unlink(self.data_name)
                    raise
        except BaseException:
            self.folder.unlink(self.journal_name, missing_ok=True)
            raise

    def extend(self, offset: int, length: int, quota: Quota | None) -> None:
        """Make room for a part of an upload of unknown size. Raises OSError, QuotaExceeded."""
        with self._extending:
            more = max(0, offset + length - os.fstat(self.data).st_size)
            with self._usage.adding(more, 0, quota):
                syscalls.reserve(self.data, offset, length)

    def cut(self, size: int) -> None:
        """Give the data its final size."""
        found = os.fstat(self.data).st_size
        if found != size:
            with self._usage.changing() as change:
                os.ftruncate(self.data, size)
                change.removed(ROOT, found - size, 0)

    def _believed(self, parts: dict[int, StoredPart], part_size: int) -> dict[int, StoredPart]:
        """The parts that are durable, and of the others those whose bytes are really there."""
        believed: dict[int, StoredPart] = {}
        for number, part in parts.items():
            if part.durable or self._is_there(number * part_size, part):
                believed[number] = part
            else:
                self.journal.void(number)
                log.info(
                    "part %d was not on disk", number, extra={"event": "part-void", "fields": {"upload": self._id}}
                )
        return believed

    def _is_there(self, offset: int, part: StoredPart) -> bool:
        hasher = new_hasher(part.digest_name)
        buffer = memoryview(bytearray(min(CHUNK_BYTES, part.length)))
        left = part.length
        while left:
            view = buffer[: min(len(buffer), left)]
            if read_at(self.data, offset, view) != len(view):
                return False
            hasher.update(view)
            offset += len(view)
            left -= len(view)
        return hasher.hexdigest() == part.digest

    def close(self) -> None:
        """Close both, and let go of the lock."""
        syscalls.close(self.data)
        syscalls.close(self.journal.fd)

    def unlink(self) -> None:
        """Remove both; who has them open goes on with what has no name."""
        self._remove_data()
        self.folder.unlink(self.journal_name, missing_ok=True)

    def _remove_data(self) -> None:
        with self._usage.changing() as change:
            try:
                found = self.folder.lstat(self.data_name)
                self.folder.unlink(self.data_name)
            except FileNotFoundError:
                return
            change.removed(ROOT, weight(found))
