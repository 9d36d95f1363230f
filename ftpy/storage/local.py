"""Files below a folder of this machine: the contract of ``base`` by rename, fsync and a journal.

Nothing here opens by path: ``beneath`` is the only door. ``.ftpy`` in the root is the staging area (``area``),
``state/digests.sqlite`` remembers digests (``remembered``).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal

from ftpy.errors import (
    AlreadyExists,
    Busy,
    InvalidPath,
    IoError,
    IsADirectory,
    NotFound,
    RequestError,
    Unsupported,
)
from ftpy.files import FileInfo, RemotePath, check_portable, display
from ftpy.storage.area import Area, made_private
from ftpy.storage.base import (
    Admits,
    KnownDigest,
    KnownVersion,
    Moved,
    NewDirectory,
    NewFile,
    Quota,
    Reader,
    Removed,
    Room,
    Staged,
    StagedTree,
    Storage,
    Touched,
    ignore,
)
from ftpy.storage.beneath import Beneath, Door, best_door, check_parts
from ftpy.storage.feed import NOBODYS, Feed
from ftpy.storage.following import HashedRead
from ftpy.storage.keeping import Keeper
from ftpy.storage.moving import move
from ftpy.storage.operations import Allows, Operation, OperationKey, Undone
from ftpy.storage.places import place_of
from ftpy.storage.publishing import Publisher
from ftpy.storage.reading import LocalReader, listing
from ftpy.storage.refusals import translating
from ftpy.storage.remembered import Remembered
from ftpy.storage.removing import Remover
from ftpy.storage.sharing import Link, Neighbours
from ftpy.storage.staging import SmallFiles
from ftpy.storage.touching import create_empty, set_time
from ftpy.storage.trash import TRASH, Trash
from ftpy.storage.treebase import Trees
from ftpy.storage.trees import LocalTrees
from ftpy.storage.undoing import Undoing
from ftpy.storage.uploadbase import Upload
from ftpy.storage.uploads import Uploads
from ftpy.storage.usage import Usage
from ftpy.storage.versions import file_info, version_of

AT_ONCE_BYTES = 1024 * 1024
"""What is hashed in some milliseconds: under the lock no more is."""


class LocalStorage(Storage):
    """Storage below ``root``; ``state`` is a folder of the server's own. Several processes may share both.

    ``portable_names`` refuses new names that other systems could not hold; ``door`` None takes the best there is.
    With ``neighbours`` an upload that one of them has open is reached there, without it is Busy. What is stored and
    removed is told to ``usage``, which is closed with the storage, and to ``feed``.
    Raises RequestError like every method.
    """

    def __init__(
        self,
        root: str | Path,
        state: str | Path,
        *,
        portable_names: bool = True,
        door: Door | None = None,
        neighbours: Neighbours | None = None,
        usage: Usage | None = None,
        feed: Feed = NOBODYS,
    ) -> None:
        if not hasattr(os, "preadv") or not hasattr(os, "fchmod") or (door or best_door()) == "path":
            raise Unsupported("this system lacks preadv(2), fchmod(2) or openat(2): it can be a client, not a server")
        self.portable_names = portable_names
        self.is_displaced = False
        """Found to be no longer at the path of its root: nothing is published here any more."""
        self._usage, self._feed = usage or Usage(), feed
        with ExitStack() as opened:
            opened.callback(self._usage.close)
            with translating(RemotePath()):
                Path(state).mkdir(parents=True, exist_ok=True, mode=0o700)
                self._beneath = opened.enter_context(Beneath(root, door=door))
                self._area = opened.enter_context(Area(self._beneath))
                self._remembered = opened.enter_context(Remembered(Path(state) / "digests.sqlite"))
                self._publisher = Publisher(
                    self._beneath,
                    self._area,
                    self._digest_at,
                    shared=neighbours is not None,
                    usage=self._usage,
                    feed=feed,
                    check=self.check_in_place,
                )
                self._remover = opened.enter_context(Remover(self._area, self._publisher))
                self._trash = opened.enter_context(Trash(made_private(self._area.top, TRASH), self._usage))
                self._trees = opened.enter_context(
                    LocalTrees(self._area, self._publisher, self._remover, self._check_name)
                )
            self._keeper = Keeper(self._trash, self._usage, self._remembered)
            self._small = SmallFiles(self._area, self._publisher, self._remembered, self._keeper)
            self._uploads = Uploads(self._area, self._publisher, self._remembered, self._keeper, neighbours)
            self._opened = opened.pop_all()

    def is_in_place(self) -> bool:
        """Whether the path of the root still leads here; once it was found not to, it never does again."""
        self.is_displaced = self.is_displaced or not self._beneath.is_in_place()
        return not self.is_displaced

    def check_in_place(self) -> None:
        """Raises Busy where the root was moved or replaced, as who has one around it may: nobody would find a put."""
        if not self.is_in_place():
            raise Busy("the folder was moved or replaced on the server; come back to the one that is there now")

    def interrupt(self) -> None:
        """Let commits that wait for a digest end with ShuttingDown; what is removed is cleared at the next start."""
        self._uploads.interrupt()
        self._remover.interrupt()

    def close(self) -> None:
        """Close everything, after those who use it have ended; unfinished uploads stay on disk."""
        self.interrupt()
        self._uploads.wait()
        self._opened.close()

    def welcome(self, link: Link) -> None:
        """Another process asks for an upload that is open here: serve it until it lets go. Raises RequestError."""
        self._uploads.welcome(link)

    def look_after_remote(self) -> None:
        """Another process has ended: let go of uploads that it had open, so that they can be taken over."""
        self._uploads.look_after_remote()
        self._usage.distrust()

    # ---------------------------------------------------------------- reading

    def stat(self, path: RemotePath) -> FileInfo:
        """What is at ``path``."""
        with translating(path):
            found = self._beneath.lstat(path)
        info = file_info(path, found)
        if info.type != "file":
            return info
        return file_info(path, found, self._remembered.look(version_of(found)))

    def ls(
        self, path: RemotePath, *, recursive: bool, admits: Admits = None, tree: StagedTree | None = None
    ) -> Iterator[FileInfo]:
        """What is below a directory; refuses at once what cannot be listed."""
        place = place_of(path, tree)
        with translating(path):
            self._beneath.open_dir(place).close()
        return listing(
            self._beneath,
            self._remembered,
            path,
            recursive=recursive,
            admits=admits,
            place=place,
            is_going=self._remover.has_taken,
        )

    def open(self, path: RemotePath, *, tree: StagedTree | None = None) -> Reader:
        """Open a regular file."""
        with translating(path):
            return LocalReader(path, *self._beneath.open_file(place_of(path, tree)), self._remembered)

    def assure(self, reader: Reader) -> None:
        """Make a file and all names on the way to it durable."""
        path, descriptor = reader.info.path, reader.fileno()
        assert descriptor is not None
        with translating(path):
            self._publisher.assure(path, descriptor)

    def _digest_at(self, path: RemotePath, like: KnownDigest, at_once: bool) -> str:
        """The digest of the file that is there now, remembered or computed; ``at_once`` if that is to be had so."""
        with self.open(path) as reader:
            known: str | None = getattr(reader.info, like.name)
            if known is None:
                if at_once and reader.info.size > AT_ONCE_BYTES:
                    raise Busy(f"{display(str(path))}: it was replaced just now; try again later")
                with HashedRead(like.name, reader.read_at, 0, reader.info.size) as hashed:
                    try:
                        for _ in hashed:
                            pass
                        known = hashed.hexdigest()
                    except EOFError as error:
                        raise IoError(f"{display(str(path))}: it changes all the time") from error
                reader.remember(KnownDigest(like.name, known))
            return known

    # ---------------------------------------------------------------- small files

    def stage(self, file: NewFile, data: memoryview, digest: KnownDigest, *, quota: Quota | None = None) -> Staged:
        """Store a small file whole, out of sight."""
        self._check_name(file.path)
        return self._small.stage(file, data, digest, quota)

    def stage_directory(self, directory: NewDirectory, *, quota: Quota | None = None) -> Staged:
        """A directory to be made in its turn."""
        self._check_name(directory.path)
        return self._small.stage_directory(directory, quota)

    def publish(self, group: Sequence[Staged]) -> list[FileInfo | RequestError]:
        """Make staged files durable together, publish each, make that durable."""
        return self._small.publish(group)

    # ---------------------------------------------------------------- removing and moving

    def rm(
        self,
        path: RemotePath,
        *,
        recursive: bool,
        on_removed: Callable[[int], None] = ignore,
        version: KnownVersion | None = None,
        operation: OperationKey | None = None,
        quota: Quota | None = None,
    ) -> Removed:
        """Remove what is at ``path``."""
        _check_not_root(path)
        if operation is not None:
            more = quota and quota.stretched
            return self._remover.keep(self._keeper, operation, path, recursive=recursive, version=version, quota=more)
        return self._remover.rm(path, recursive=recursive, on_removed=on_removed, version=version)

    def mv(
        self,
        path: RemotePath,
        to: RemotePath,
        *,
        condition: Literal["absent"] | None = None,
        version: KnownVersion | None = None,
        operation: OperationKey | None = None,
        quota: Quota | None = None,
    ) -> Moved:
        """Give what is at ``path`` the path ``to``."""
        _check_not_root(path)
        _check_not_root(to)
        self._check_name(to)
        keep = None if operation is None else partial(self._keeper.keeping, operation, quota=quota)
        return move(self._publisher, self._remembered, path, to, condition, version=version, keep=keep)

    # ---------------------------------------------------------------- operations

    def begin(self, key: OperationKey, what: str, *, quota: Quota | None = None) -> None:
        """An operation that may be named from now on."""
        with translating(RemotePath()):
            self._trash.begin(key, what, quota)

    def check_operation(self, key: OperationKey) -> None:
        """Whether it may be named."""
        with translating(RemotePath()):
            self._trash.open(key).close()

    def operations(self, owner: str) -> Iterator[Operation]:
        """Those of one owner."""
        with translating(RemotePath()):
            yield from self._trash.operations(owner)

    def undo(
        self,
        key: OperationKey,
        by: OperationKey,
        allows: Allows,
        *,
        on_step: Callable[[int], None] = ignore,
        quota: Quota | None = None,
    ) -> Undone:
        """Reverse an operation."""
        more = quota and quota.stretched
        return Undoing(self._publisher, self._keeper, (key, by), allows, on_step, quota=more).run()

    def forget(self, key: OperationKey, *, on_removed: Callable[[int], None] = ignore) -> Removed:
        """Destroy what an operation keeps."""
        return self._remover.forget(self._trash, key, on_removed)

    def touch(
        self, path: RemotePath, mtime_ns: int, *, create: bool, replacing: bool = True, quota: Quota | None = None
    ) -> Touched:
        """Give what is at ``path`` this time, or make an empty file."""
        _check_not_root(path)
        if not replacing:
            self._publisher.check(path, "absent")
        else:
            try:
                return set_time(self._publisher, self._remembered, path, mtime_ns)
            except NotFound:
                if not create:
                    raise
        if not create:
            raise NotFound(f"{display(str(path))}: there is no such file or directory")
        self._check_name(path)
        try:
            return create_empty(self._small, path, mtime_ns, quota)
        except AlreadyExists:
            if not replacing:
                raise
            return set_time(self._publisher, self._remembered, path, mtime_ns)  # somebody was faster

    @property
    def trees(self) -> Trees:
        """Those that are put as one thing."""
        return self._trees

    # ---------------------------------------------------------------- room

    def room(self) -> Room:
        """What the disk has."""
        with translating(RemotePath()):
            found = os.fstatvfs(self._beneath.root.fd)
        files = (found.f_files, found.f_favail) if found.f_files else (None, None)  # as many as fit: btrfs and others
        return Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, *files)

    def used(self, quota: Quota) -> tuple[int, int]:
        """What counts for this quota."""
        return self._usage.used(quota)

    # ---------------------------------------------------------------- uploads

    def open_upload(self, owner: str, file: NewFile, *, quota: Quota | None = None) -> Upload:
        """Open an upload, or find the unfinished one."""
        self._check_name(file.path)
        if file.tree is None:
            self._publisher.check(file.path, file.condition)
        self._check_place(file.path, place_of(file.path, file.tree))
        return self._uploads.open(owner, file, quota)

    def find_upload(self, owner: str, upload_id: str, *, quota: Quota | None = None) -> Upload:
        """An open upload of this owner."""
        return self._uploads.find(owner, upload_id, quota)

    def uploads(self) -> list[str]:
        """Ids of unfinished uploads."""
        return self._uploads.ids()

    def sweep(self, *, expire_seconds: float, trash_seconds: float = math.inf) -> int:
        """Drop what expired, and what dead processes left staged."""
        self._feed.settle()  # by what lies staged, so before any of that goes
        with translating(RemotePath()):
            if trash_seconds < math.inf:
                self._remover.sweep_trash(self._trash, trash_seconds)
            self._trees.sweep(expire_seconds=expire_seconds, trash_seconds=trash_seconds)
            gone = self._uploads.sweep(expire_seconds) + self._remover.sweep() + self._area.sweep_staged()
            self._usage.recount()  # what went just now was not told, and the host may have changed files
            return gone

    def _check_name(self, path: RemotePath) -> None:
        if not path.parts:
            raise IsADirectory
        with translating(path):
            check_parts(path.parts)
        if self.portable_names:
            check_portable(path)

    def _check_place(self, path: RemotePath, place: RemotePath) -> None:
        """Refuse at once what could not be published at the end: onto a directory, or below what is none."""
        with translating(path):
            try:
                found = self._beneath.lstat(place)
            except FileNotFoundError:
                return
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectory(f"{display(str(path))}: that is a directory")


def _check_not_root(path: RemotePath) -> None:
    if not path.parts:
        raise InvalidPath("the root itself can be neither removed nor moved, nor replaced")
