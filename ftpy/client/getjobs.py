"""What is to be fetched of a tree: the listed files that this side does not have, and its folders behind them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ftpy.client.landing import Landing, no_wider
from ftpy.client.source import Source
from ftpy.client.trees import (
    OWNER_BITS,
    Tally,
    Told,
    TreeOptions,
    Verdict,
    same_time,
)
from ftpy.client.work import Job
from ftpy.errors import FtpyError, InvalidPath, LocalFileError, TargetExists
from ftpy.files import FileInfo, RemotePath, check_portable, display
from ftpy.storage.base import KnownInode, NewDirectory

if TYPE_CHECKING:
    from ftpy.client.getting import FileGet
    from ftpy.client.listing import Listing


class FileJob(Job):
    """A file of the server, as the listing told of it; ``path`` there, ``below`` on this side."""

    __slots__ = ("below", "info", "known", "replaces", "transfer")

    def __init__(
        self,
        info: FileInfo,
        below: RemotePath,
        name: str,
        *,
        alone: bool,
        replaces: bool,
        known: KnownInode | None = None,
    ) -> None:
        super().__init__(info.path, name, info.size, alone=alone)
        self.info, self.below = info, below
        self.known = known
        """The only thing that may go, if it matters."""
        self.replaces = replaces
        """What is there may go: it was there before, and that was asked for."""
        self.transfer: FileGet | None = None


class FolderEnd(NamedTuple):
    """A folder whose files are all here."""

    wanted: NewDirectory


class _Folder(NamedTuple):
    """A folder that the listing is in; ``status`` is of the one on this side, if there is one."""

    path: RemotePath
    info: FileInfo
    status: os.stat_result | None
    touched: list[bool]


class GetJobs:
    """The jobs of one tree, in the order of the listing ``theirs``; what needs none is told to the ``tally``."""

    def __init__(
        self,
        path: RemotePath,
        landing: Landing,
        options: TreeOptions,
        inline_bytes: int,
        theirs: Listing,
        *,
        tally: Tally,
    ) -> None:
        self._path, self._landing, self._options, self._theirs = path, landing, options, theirs
        self._inline_bytes, self._tally = inline_bytes, tally
        self._filter = options.selection.compiled()

    def __iter__(self) -> Iterator[FileJob | FolderEnd]:
        folders: list[_Folder] = []
        passed: RemotePath | None = None
        depth = len(self._path.parts)
        for info in self._theirs:
            below = RemotePath(info.path.parts[depth:])
            while folders and not _is_below(below, folders[-1].path):
                yield from self._end(folders.pop())
            if passed is not None and _is_below(below, passed):
                continue
            try:
                if os.name == "nt":
                    check_portable(below)
                if info.type == "directory":
                    if not self._enters(below) or not self._open(info, below, folders):
                        passed = below
                elif info.type == "file":
                    if (job := self._file(info, below, folders)) is not None:
                        yield job
                elif self._takes(below):
                    self._tell("link" if info.type == "symlink" else "special", info, below)
            except (LocalFileError, InvalidPath) as error:
                passed = below
                self._tell("failed", info, below, error)
        while folders:
            yield from self._end(folders.pop())
        self._tally.progress.known = True

    def _enters(self, below: RemotePath) -> bool:
        return self._filter is None or self._filter.enters(str(below))

    def _takes(self, below: RemotePath) -> bool:
        return self._filter is None or self._filter.takes_file(str(below))

    def _open(self, info: FileInfo, below: RemotePath, folders: list[_Folder]) -> bool:
        """Enter a folder: whether this side can hold it."""
        status = self._status(below, folders)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            name = display(self._landing.name(below))
            self._tell("failed", info, below, TargetExists(f"{name}: there is something else than a folder here"))
            return False
        if status is None and folders:
            folders[-1].touched[0] = True
        folders.append(_Folder(below, info, status, [False]))
        return True

    def _status(self, below: RemotePath, folders: list[_Folder]) -> os.stat_result | None:
        """What is on this side; nothing is in a folder that is not there."""
        if folders and folders[-1].status is None:
            return None
        return self._landing.lstat(below)

    def _file(self, info: FileInfo, below: RemotePath, folders: list[_Folder]) -> FileJob | None:
        """The job, unless this side has that very file."""
        if not self._takes(below):
            return None
        self._tally.found(info.size)
        status, replaces = self._status(below, folders), False
        name, alone = self._landing.name(below), info.size > self._inline_bytes or not self._landing.groups
        if status is not None:
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise LocalFileError(f"{display(name)}: not a regular file")
            alike = stat.S_ISREG(status.st_mode) and status.st_size == info.size
            if alike and self._identical(info, name, status):
                self._tell("identical", info, below)
                return None
            replaces = self._options.force and not self._landing.came_meanwhile(status)
            if not alike and not replaces:
                why = "it came during this very transfer" if self._options.force else TargetExists.sentence()
                self._tell("failed", info, below, TargetExists(f"{display(name)}: {why}"))
                return None
            alone = alone or not replaces  # the contents are to be compared first
        if folders:
            folders[-1].touched[0] = True
        return FileJob(info, below, name, alone=alone, replaces=replaces)

    def _identical(self, info: FileInfo, name: str, status: os.stat_result) -> bool:
        if not self._options.by_digest:
            return same_time(info.mtime_ns, status.st_mtime_ns)
        known: str | None = getattr(info, self._options.digest)
        if known is None:
            return False
        with Source(name, self._options.digest) as source:
            return source.read_digest() == known

    def _end(self, folder: _Folder) -> Iterator[FolderEnd]:
        """What is still to be done to a folder, unless it is as it should be."""
        if self._options.dry_run or (self._filter is not None and self._filter.only_some):
            return
        mode, mtime_ns, status = folder.info.mode | OWNER_BITS, folder.info.mtime_ns, folder.status
        if status is not None and not self._options.force:
            mode = no_wider(mode, status.st_mode)
        as_it_should_be = (
            status is not None
            and not folder.touched[0]
            and status.st_mode & 0o777 == mode
            and same_time(status.st_mtime_ns, mtime_ns)
        )
        if as_it_should_be:
            return
        yield FolderEnd(NewDirectory(folder.path, parents=True, mode=mode, mtime_ns=mtime_ns))

    def _tell(self, verdict: Verdict, info: FileInfo, below: RemotePath, error: FtpyError | None = None) -> None:
        size = info.size if verdict == "identical" else 0
        self._tally.tell(Told(verdict, info.path, self._landing.name(below), size, error))


def _is_below(path: RemotePath, folder: RemotePath) -> bool:
    return path.parts[: len(folder.parts)] == folder.parts
