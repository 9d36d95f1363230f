"""Reading one version of a file, and what is below a directory."""

from __future__ import annotations

import itertools
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator

from ftpy.errors import Changed, InvalidPath
from ftpy.files import FileInfo, RemotePath, display, is_reserved
from ftpy.storage import syscalls
from ftpy.storage.base import Admits, KnownDigest, Reader
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.positional import read_at
from ftpy.storage.refusals import refusal, translating
from ftpy.storage.remembered import Remembered
from ftpy.storage.versions import NO_DIGESTS, digests, file_info, version_of

log = logging.getLogger("ftpy.storage")

IsGoing = Callable[[Directory], bool]

LISTED_TOGETHER = 256
"""Entries looked up in one query for remembered digests."""
_TICK_NS = 10_000_000
"""The coarsest clock tick of Linux, nanoseconds: two writes within one leave the same times behind."""


class LocalReader(Reader):
    """An open file; reading goes on in this version even when another is published meanwhile."""

    def __init__(self, path: RemotePath, fd: int, found: os.stat_result, remembered: Remembered) -> None:
        self._fd: int | None = fd
        self._remembered = remembered
        self._links = found.st_nlink
        self.version = version_of(found)
        self._opened_ns = time.time_ns()
        self.info = file_info(path, found, remembered.look(self.version))

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            syscalls.close(self._fd)
            self._fd = None

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset``."""
        try:
            return read_at(self._descriptor(), offset, view)
        except OSError as error:
            raise refusal(error, self.info.path) from error

    def read(self, offset: int, count: int) -> bytes:
        """A small piece."""
        try:
            return os.pread(self._descriptor(), count, offset)
        except OSError as error:
            raise refusal(error, self.info.path) from error

    def fileno(self) -> int | None:
        """The descriptor."""
        return self._descriptor()

    def check_unchanged(self) -> None:
        """Raises Changed when the bytes may be others; losing its name to a new version does not count."""
        with translating(self.info.path):
            found = os.fstat(self._descriptor())
        now = version_of(found)
        unlinked = found.st_nlink < self._links
        if now != self.version and not (unlinked and now[:-1] == self.version[:-1]):
            raise Changed(f"{display(str(self.info.path))}: the file changed while it was read")

    def remember(self, digest: KnownDigest) -> None:
        """Keep the digest, unless the file changed, or so shortly before it was opened that a change could hide."""
        settled = not 0 <= self._opened_ns - self.version.ctime_ns < _TICK_NS
        with translating(self.info.path):
            now = version_of(os.fstat(self._descriptor()))
        if settled and now == self.version:
            self._remembered.keep([(self.version, digests(digest))])

    def _descriptor(self) -> int:
        if self._fd is None:
            raise ValueError("the reader is closed")
        return self._fd


def listing(
    beneath: Beneath,
    remembered: Remembered,
    path: RemotePath,
    *,
    recursive: bool,
    admits: Admits = None,
    place: RemotePath,
    is_going: IsGoing,
) -> Iterator[FileInfo]:
    """What is below a directory, lazily, each directory before its content, if it ``admits`` them. Raises RequestError.

    It lies at ``place`` and is called ``path``.
    A directory that cannot be read ends the listing with an error, and so does one that ``is_going``, for what is
    being destroyed has lost some names and not yet others: a listing never looks complete when it is not.
    """
    with translating(path):
        directory = beneath.open_dir(place)
    with directory:
        directory.path = path
        yield from _below(directory, remembered, admits, is_going, recursive=recursive)
        _check_stays(directory, is_going)


def _below(
    directory: Directory, remembered: Remembered, admits: Admits, is_going: IsGoing, *, recursive: bool
) -> Iterator[FileInfo]:
    for info in _entries(directory, remembered, admits):
        yield info
        if recursive and info.type == "directory":
            name = info.path.name
            try:
                inner = directory.open_dir(name)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed or replaced since it was listed
            except OSError as error:
                raise refusal(error, info.path) from error
            with inner:
                yield from _below(inner, remembered, admits, is_going, recursive=True)
                with translating(info.path):
                    stays = inner.is_at(directory, name)
                if not stays:  # where it still is, what is above it is looked at in its turn
                    _check_stays(inner, is_going)


def _check_stays(directory: Directory, is_going: IsGoing) -> None:
    with translating(directory.path):
        if is_going(directory):
            raise Changed(f"{display(str(directory.path))}: the folder was removed while it was listed")


def _entries(directory: Directory, remembered: Remembered, admits: Admits) -> Iterator[FileInfo]:
    """One directory's entries in the order of names, without what no peer could name or may be told of."""
    with translating(directory.path):
        try:
            names = directory.names()
        except FileNotFoundError:
            return  # it was empty when it went, or is found to be on its way out
    names.sort()
    skipped: list[str] = []
    paths = filter(admits, _legal(directory.path, names, skipped))  # None lets all pass
    while batch := list(itertools.islice(paths, LISTED_TOGETHER)):
        yield from _batch(directory, remembered, batch)
    if skipped:
        log.warning(
            "%s: %d names that no path can hold are not listed",
            display(str(directory.path)) or "/",
            len(skipped),
            extra={"event": "names-skipped", "fields": {"path": display(str(directory.path)), "names": len(skipped)}},
        )


def _legal(below: RemotePath, names: list[str], skipped: list[str]) -> Iterator[RemotePath]:
    """The paths of those names that are legal, made one by one; the others are ``skipped`` (but not our own)."""
    if below.admits(names):
        yield from (RemotePath((*below.parts, name)) for name in names)
        return
    for name in names:
        try:
            yield below / name
        except InvalidPath:
            if not is_reserved(name):
                skipped.append(name)


def _batch(directory: Directory, remembered: Remembered, paths: list[RemotePath]) -> Iterator[FileInfo]:
    found: list[tuple[RemotePath, os.stat_result]] = []
    for path in paths:
        try:
            found.append((path, directory.lstat(path.name)))
        except FileNotFoundError:
            continue  # removed since its name was read
        except OSError as error:
            raise refusal(error, path) from error
    versions = [version_of(status) if stat.S_ISREG(status.st_mode) else None for _, status in found]
    known = remembered.look_all([version for version in versions if version is not None])
    for (path, status), version in zip(found, versions, strict=True):
        yield file_info(path, status, known.get(version, NO_DIGESTS) if version else NO_DIGESTS, version)
