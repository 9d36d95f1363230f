"""Publication: renames under a lock that conditions can rely on, and the directories made durable once a group."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from ftpy.errors import AlreadyExists, Changed, NotFound, RequestError, UnknownTree
from ftpy.files import RemotePath, display
from ftpy.storage import syscalls, wanted
from ftpy.storage.area import AREA, LOCK, Area
from ftpy.storage.base import Closing, Condition, KnownDigest, KnownInode, KnownVersion, NewDirectory, Quota
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.feed import NOBODYS, Feed
from ftpy.storage.locking import lock_in_turn
from ftpy.storage.record import Identity
from ftpy.storage.refusals import refusal
from ftpy.storage.usage import ROOT, Usage, weight
from ftpy.storage.versions import inode_of, version_of

MANY = 4
"""From so many on, one syncfs is cheaper than an fsync each (measured on ext4: 4 files 0.3 to 1.6 ms, 256 5 to 64)."""

MOST_TRUSTED = 10_000
"""Directories that a process remembers as durable, some 3 MB; then it begins anew, at a few fsyncs' cost."""

_STAGED_DEPTH = 4
"""Components of the path of a staged tree itself (``trees``): all that is in it is deeper."""

ENTERED = 0o500
"""What every folder's mode has for its owner, the server: what it cannot look into it cannot count."""

DigestAt = Callable[[RemotePath, KnownDigest, bool], str]
"""The digest, of this kind, of what is at a path; with True nothing large is hashed. Raises NotFound, Busy, …."""
_Trusted = tuple[RemotePath, int, int]
"""A directory that is no other: its path, inode and generation."""


def _trusted(path: RemotePath, directory: Directory) -> _Trusted:
    return path, os.fstat(directory.fd).st_ino, syscalls.generation(directory.fd)


def sync_all(fds: Collection[int], oldest: int) -> dict[int, OSError]:
    """Make open files or directories of one file system durable: the errors, by descriptor.

    ``oldest`` is the one opened first, before anything was written to any: syncfs reports to a descriptor what
    failed since it was opened, and it does not say whose failure it was, so then it is everyone's.
    A failed sync is not tried again: the kernel has then forgotten the pages that it could not write.
    """
    if len(fds) >= MANY and syscalls.HAS_SYNCFS and syscalls.file_system_type(oldest) in syscalls.SYNCED_BY_SYNCFS:
        try:
            syscalls.syncfs(oldest)
        except OSError as error:
            return dict.fromkeys(fds, error)
        return {}
    failed: dict[int, OSError] = {}
    for fd in fds:
        try:
            syscalls.fsync(fd)
        except OSError as error:
            failed[fd] = error
    return failed


class Publisher(Closing):
    """What all publications of a storage share."""

    def __init__(
        self,
        beneath: Beneath,
        area: Area,
        digest_at: DigestAt,
        *,
        shared: bool = False,
        usage: Usage | None = None,
        feed: Feed = NOBODYS,
        check: Callable[[], None] | None = None,
    ) -> None:
        """``check`` is asked under the lock, before anything is published: it raises RequestError."""
        self.usage, self.feed = usage or Usage(), feed
        self._check = check
        self._beneath, self._area, self._digest_at = beneath, area, digest_at
        self._shared = shared
        self.device = area.top.lstat(".").st_dev
        """Number of the file system that everything here is published on."""
        self.unsynced: set[RemotePath] = set()
        """Directories made by a publication under way, or whose sync failed: their names may not be durable yet."""
        self._making = threading.Lock()
        self._trusted: set[_Trusted] = set()
        """Where others publish too: the directories whose way from the root this process has synced."""

    @contextmanager
    def unsynced_while_made(self, path: RemotePath) -> Iterator[None]:
        """A ``with`` around what makes a directory: its name counts as not durable, unless it ends with an exception.

        Before it is there: whoever puts a file into it, now or after a sync that failed, makes its name durable.
        """
        with self._making:
            was_unsynced = path in self.unsynced
            self.unsynced.add(path)
            try:
                yield
            except BaseException:
                if not was_unsynced:
                    self.unsynced.discard(path)
                raise

    def doubtful_ways(self, path: RemotePath, directory: Directory) -> list[RemotePath]:
        """The directories from ``path`` up whose names may not be durable yet.

        What another process makes this one cannot know of: it trusts only ways that it has once synced itself.
        """
        is_strange = self._shared and _trusted(path, directory) not in self._trusted
        if not is_strange and not self.unsynced:
            return []
        ways = [RemotePath(path.parts[:depth]) for depth in range(len(path.parts), 0, -1)]
        return ways if is_strange else [way for way in ways if way in self.unsynced]

    def trust(self, directories: dict[RemotePath, Directory]) -> None:
        """The names of these directories, and all on the way there, are durable."""
        if self._shared:
            if len(self._trusted) > MOST_TRUSTED:
                self._trusted.clear()
            self._trusted.update(_trusted(path, directory) for path, directory in directories.items())

    def is_there(self, path: RemotePath) -> bool:
        """Whether anything is, as far as that can be told."""
        try:
            self._beneath.lstat(path)
        except OSError:
            return False
        return True

    def assure(self, path: RemotePath, fd: int) -> None:
        """Make an open file durable, and that it is at ``path``. Raises OSError, Changed where it is there no more."""
        syscalls.fsync(fd)
        for depth in range(len(path.parts)):
            with self._beneath.open_dir(RemotePath(path.parts[:depth])) as directory:
                directory.sync()
        if not os.path.samestat(self._beneath.lstat(path), os.fstat(fd)):
            raise Changed(f"{display(str(path))}: another file took its place")

    def check(self, path: RemotePath, condition: Condition, *, locked: bool = False) -> None:
        """Raises AlreadyExists or Changed where the condition does not hold now.

        Under the lock (``locked``) nothing large is hashed, for everybody waits: that was done before. Raises Busy for
        what has come since.
        """
        if condition == "absent":
            try:
                self._beneath.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            except OSError as error:
                raise refusal(error, path) from error
            raise AlreadyExists(f"{display(str(path))}: something is already there")
        if isinstance(condition, KnownDigest):
            try:
                found = self._digest_at(path, condition, locked)
            except NotFound:
                raise Changed(f"{display(str(path))}: the file is no longer there") from None
            if found != condition.hex:
                raise Changed(f"{display(str(path))}: the file has another {condition.name}")
        if isinstance(condition, KnownVersion | KnownInode):
            try:
                status = self._beneath.lstat(path)
            except FileNotFoundError:
                raise Changed(f"{display(str(path))}: the file is no longer there") from None
            except OSError as error:
                raise refusal(error, path) from error
            check_version(path, status, condition)

    @contextmanager
    def standing(
        self, path: RemotePath, *, version: KnownVersion | None = None, exclusive: bool = False
    ) -> Iterator[Place]:
        """What is at ``path``, for who takes it away from there: it changes by no publication meanwhile.

        Where it is a folder nothing is published anywhere, so that no file is put into one that has just gone; nor
        where that is wanted (``exclusive``). Raises OSError (EXDEV on another file system), Changed.
        """
        is_folder = stat.S_ISDIR(self._beneath.lstat(path).st_mode)
        with self.publication(exclusive=is_folder or exclusive or version is not None) as publication:
            directory = publication.existing(path.parent)
            found = directory.lstat(path.name)
            check_version(path, found, version)
            if stat.S_ISDIR(found.st_mode) and not (is_folder or exclusive):
                raise Changed(f"{display(str(path))}: a folder took its place")
            self.check_device(found)
            yield Place(publication, directory, path, found)

    def check_device(self, found: os.stat_result) -> None:
        """Raises OSError (EXDEV) for what is on another file system."""
        if found.st_dev != self.device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    @contextmanager
    def publication(self, *, exclusive: bool) -> Iterator[Publication]:
        """A group of publications; ``exclusive`` where one of them compares before it swaps.

        The lock is shared among those that only put, in any thread and process, unless what they replace counts. Raises
        OSError, RequestError.
        """
        opened = partial(self._area.top.open_for_append, create=True)
        fd = lock_in_turn(opened, LOCK, shared=not (exclusive or self.usage.counts))
        try:
            wanted.check()  # here: it may have taken long to come here
            if self._check is not None:
                self._check()
            with Publication(self, self._beneath) as publication:
                yield publication
        finally:
            syscalls.close(fd)


class Place(NamedTuple):
    """What stands at ``path`` under the lock, and the directory that it is in."""

    publication: Publication
    directory: Directory
    path: RemotePath
    found: os.stat_result

    @property
    def is_folder(self) -> bool:
        """Whether it is one."""
        return stat.S_ISDIR(self.found.st_mode)

    def look(self) -> os.stat_result:
        """What it is now: where nothing was exclusive, what was ``found`` may have been replaced. Raises OSError."""
        return self.directory.lstat(self.path.name)

    def check_gone(self) -> None:
        """It is there no more: make that durable. Raises RequestError."""
        self.publication.changed(self.path.parent)
        self.publication.check_synced()


class Publication(Closing):
    """Files placed under the lock; each directory is opened once, and made durable once."""

    def __init__(self, publisher: Publisher, beneath: Beneath) -> None:
        self._publisher, self._beneath = publisher, beneath
        self._directories: dict[RemotePath, Directory] = {}
        self._changed: dict[RemotePath, None] = {}
        self._made: dict[RemotePath, None] = {}
        """Directories whose names no sync has covered yet."""
        self._new: set[RemotePath] = set()
        """Directories that were not there until this publication made them."""

    def close(self) -> None:
        """Close the directories; those that were made for what then failed stay, and their names are durable."""
        try:
            if self._made:
                self.sync()
        finally:
            for directory in self._directories.values():
                directory.close()

    def place(
        self,
        source: Directory,
        name: str,
        path: RemotePath,
        condition: Condition,
        *,
        size: int,
        quota: Quota | None = None,
        kept: Identity | None = None,
    ) -> None:
        """Rename a staged file of ``size`` bytes to its path, if the condition holds. Raises OSError, RequestError.

        The folders on the way that are missing are made, within the ``quota``. Where what is replaced is ``kept`` it
        counts on, in the staging area.
        """
        parent = path.parent
        if condition != "absent" and kept is None:  # else it was judged before it was kept
            # Before folders are made, which would stay where it does not hold.
            self._publisher.check(path, condition, locked=True)
        into = self._directory(parent, quota)
        usage = self._publisher.usage
        with usage.changing() as change:
            if condition == "absent":
                source.rename_noreplace(name, into, path.name)
            else:
                replaced = entry(into, path.name) if usage.counts else None
                source.rename(name, into, path.name)
                if replaced is not None and kept is not None and kept.fits(replaced):
                    change.moved(path, ROOT, weight(replaced))
                elif replaced is not None:
                    change.removed(path, weight(replaced))
            change.moved(ROOT, path, size)
        self._changed[parent] = None

    def make(self, wanted: NewDirectory, quota: Quota | None = None) -> os.stat_result:
        """Make a directory, or give one that is there its mode and time. Raises OSError, RequestError."""
        path = wanted.path
        was_new = path in self._new
        if not wanted.parents:
            try:
                self._mkdir(self.existing(path.parent), path, quota)
            except FileExistsError:
                raise AlreadyExists(f"{display(str(path))}: something is already there") from None
        directory = self._directory(path, quota)
        self._changed[path] = None
        if path not in self._new:
            self.found(path)
        if wanted.untouched and (was_new or path not in self._new):
            return os.fstat(directory.fd)
        if wanted.mode is not None:
            kept = os.fstat(directory.fd).st_mode & 0o7000  # setgid is inherited
            os.fchmod(directory.fd, kept | wanted.mode | ENTERED)
        if wanted.mtime_ns is not None:
            os.utime(directory.fd, ns=(wanted.mtime_ns, wanted.mtime_ns))
        return os.fstat(directory.fd)

    def has_made(self, path: RemotePath) -> bool:
        """Whether a directory was not there until this publication made it."""
        return path in self._new

    def changed(self, path: RemotePath) -> None:
        """A name in this directory has come or gone: it is to be made durable."""
        self._changed[path] = None

    def found(self, path: RemotePath) -> None:
        """What is at ``path``, or that nothing is, was found as it is wanted: that is to be made durable all the same.

        Whoever made it so may have died before it was. Raises OSError.
        """
        folder = path.parent
        while not self._is_folder(folder):
            folder = folder.parent
        self._changed[folder] = None

    def _is_folder(self, path: RemotePath) -> bool:
        try:
            self.existing(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def check_synced(self) -> None:
        """Make it all durable. Raises RequestError."""
        for error in self.sync().values():
            raise error

    def sync(self) -> dict[RemotePath, RequestError]:
        """Make all that was placed or made durable: for each directory that failed, why."""
        failed: dict[RemotePath, RequestError] = {}
        names, self._made = self._made, {}  # those too that were made for what could not be placed
        for path in self._changed:
            names.update(dict.fromkeys(self._publisher.doubtful_ways(path, self._directory(path))))
        changed = dict.fromkeys([*self._changed, *(path.parent for path in names)])
        directories = {self._directory(path).fd: path for path in changed}
        if directories:
            # Not just the first one: where a put was refused, another file system may be mounted.
            oldest = next(directory.fd for path, directory in self._directories.items() if path in changed)
            for fd, error in sync_all(directories, oldest).items():
                failed[directories[fd]] = refusal(error, directories[fd])
        if not failed:
            self._publisher.unsynced.difference_update(names)
            self._publisher.trust({path: self._directory(path) for path in self._changed})
        return failed

    def _directory(self, path: RemotePath, quota: Quota | None = None) -> Directory:
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = self._enter(path, quota)
        return found

    def existing(self, path: RemotePath) -> Directory:
        """A directory, if it is there. Raises OSError."""
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = self._beneath.open_dir(path)
        return found

    def making(self, path: RemotePath, quota: Quota | None = None) -> Directory:
        """A directory, made with those above it where it is missing. Raises OSError, QuotaExceeded."""
        return self._directory(path, quota)

    def _enter(self, path: RemotePath, quota: Quota | None) -> Directory:
        try:
            return self._beneath.open_dir(path)
        except FileNotFoundError:
            parent = self._directory(path.parent, quota)
        try:
            self._mkdir(parent, path, quota)
        except FileExistsError:
            pass  # another publication was first, or it is no directory: opening it tells
        return self._beneath.open_dir(path)

    def _mkdir(self, parent: Directory, path: RemotePath, quota: Quota | None) -> None:
        if path.parts[0] == AREA and len(path.parts) <= _STAGED_DEPTH:
            raise UnknownTree  # what is put into a staged tree that is no more must not make another one
        self._publisher.check_device(parent.lstat("."))  # no directories where the file could not follow
        with self._publisher.usage.adding(0, 1, quota, path), self._publisher.unsynced_while_made(path):
            parent.mkdir(path.name)
        self._made[path] = None
        self._new.add(path)


def check_version(path: RemotePath, found: os.stat_result, version: KnownVersion | KnownInode | None) -> None:
    """Raises Changed unless what was found is still that version of a file, or that inode, if one is named."""
    if isinstance(version, KnownVersion):
        same = stat.S_ISREG(found.st_mode) and version_of(found).etag() == version.etag
    else:
        same = version in (None, inode_of(found))
    if not same:
        raise Changed(f"{display(str(path))}: it is another version by now")


def entry(directory: Directory, name: str) -> os.stat_result | None:
    """What has this name, if anything has."""
    try:
        return directory.lstat(name)
    except FileNotFoundError:
        return None
