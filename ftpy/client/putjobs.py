"""What is to be sent of a tree: the files that the server does not have, and folders behind what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ftpy.client.beside import Beside, Folder
from ftpy.client.source import read_digest
from ftpy.client.trees import OWNER_BITS, Tally, Told, TreeOptions, same_time
from ftpy.client.walking import Found, Walk, unnameable
from ftpy.client.work import Job
from ftpy.files import FileInfo, RemotePath
from ftpy.storage.base import Condition, KnownDigest

if TYPE_CHECKING:
    from ftpy.client.listing import Listing
    from ftpy.client.putting import FilePut


class FileJob(Job):
    """A file of this side, as the walk found it."""

    __slots__ = ("asks", "condition", "sent", "status", "transfer")

    def __init__(
        self,
        path: RemotePath,
        name: str,
        status: os.stat_result,
        *,
        alone: bool,
        asks: bool = False,
        condition: Condition = None,
    ) -> None:
        super().__init__(path, name, status.st_size, alone=alone)
        self.status = status
        self.condition = condition
        self.asks = asks
        """The server may have this very content: that is to be asked first."""
        self.sent: KnownDigest | None = None
        """What was sent, when its reply is still to come."""
        self.transfer: FilePut | None = None
        """What goes on where it stood when the connection is lost."""


class FolderEnd(NamedTuple):
    """A folder whose files are all sent."""

    path: RemotePath
    name: str
    mode: int
    mtime_ns: int


class PutJobs:
    """The jobs of one tree, in the order of the walk; what needs none is told to the ``tally``.

    ``theirs`` lists what is there, None where nothing is; ``staged``: it is what a staged tree holds.
    """

    def __init__(
        self,
        root: str,
        target: RemotePath,
        options: TreeOptions,
        inline_bytes: int,
        theirs: Listing | None,
        *,
        staged: bool,
        tally: Tally,
    ) -> None:
        self._options, self._theirs, self._staged = options, theirs, staged
        self._root, self._target = root, target
        self._inline_bytes, self._tally = inline_bytes, tally
        self._walk = Walk(root, target, options.selection, options.links)
        self._only_some = bool(options.selection.include) and not options.selection.exclude
        self.folders = 0
        """Folders below the target that there will be, so far as the walk has come."""

    def __iter__(self) -> Iterator[FileJob | FolderEnd]:
        foreseen = set()
        for found in unnameable(self._root, self._target, self._options.selection):
            foreseen.add(found.local)
            self._tell_failed(found)
        there = Beside(iter(self._theirs) if self._theirs is not None else iter(()))
        folders: list[Folder] = []
        for found in self._walk:
            match found.kind:
                case "file":
                    folders[-1].held = True
                    job = self._file(found, there.at(found.path))
                    if job is not None:
                        folders[-1].touched = True
                        yield job
                case "directory":
                    theirs = there.at(found.path)
                    if folders and theirs is None:
                        folders[-1].touched = True
                    folders.append(Folder(theirs))
                case "end":
                    folder = folders.pop()
                    if folders and (folder.held or not self._only_some):
                        folders[-1].held = True
                        self.folders += 1
                    if (end := self._end(found, folder)) is not None:
                        yield end
                case "link" | "special":
                    self._tally.tell(Told(found.kind, found.path, found.local))
                case "failed":
                    if found.local not in foreseen:
                        self._tell_failed(found)
        self._tally.progress.known = True

    def _tell_failed(self, found: Found) -> None:
        self._tally.tell(Told("failed", found.path, found.local, error=found.error))

    def _file(self, found: Found, there: FileInfo | None) -> FileJob | None:
        """The job, unless the server has that very file."""
        status, asks = found.status, False
        assert status is not None
        self._tally.found(status.st_size)
        if there is not None and there.type == "file" and there.size == status.st_size:
            same = same_time(there.mtime_ns, status.st_mtime_ns)
            if self._staged:
                same = same and there.mode == status.st_mode & 0o777
            # Who staged a file, and from where, nobody knows: its content counts, and all else that is to be of it.
            if same if self._staged else self._options.by_digest:
                known = getattr(there, self._options.digest)
                same = known is not None and read_digest(found.local, self._options.digest) == known
                asks = known is None
            if same:
                self._tally.tell(Told("identical", found.path, found.local, status.st_size))
                return None
        alone = asks or status.st_size > self._inline_bytes
        condition: Condition = "absent" if self._options.if_absent else None
        return FileJob(found.path, found.local, status, alone=alone, asks=asks, condition=condition)

    def _end(self, found: Found, folder: Folder) -> FolderEnd | None:
        """What is still to be done to a folder, unless it is as it should be."""
        status, there = found.status, folder.there
        if not found.path.parts or self._only_some or self._options.dry_run or status is None:
            return None
        mode = status.st_mode & 0o777 | OWNER_BITS
        as_it_should_be = (
            there is not None
            and not folder.touched
            and there.mode == mode
            and same_time(there.mtime_ns, status.st_mtime_ns)
        )
        return None if as_it_should_be else FolderEnd(found.path, found.local, mode, status.st_mtime_ns)
