"""The contract of every storage, and what its words mean.

*staged*: stored under a name that no reader sees. *published*: readable under its path, as one complete
version. *durable*: still there after a power cut. A file is published only after its digest was verified,
and acknowledged only when it is durable; until then, and after any failure, readers see the old version.

Nothing here needs rename, append or a local lock to be correct: an object store can keep this contract.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from msgspec import Struct

from ftpy.digests import DigestName
from ftpy.errors import InvalidPath, RequestError
from ftpy.files import FileInfo, RemotePath, display
from ftpy.storage.operations import Allows, Operation, OperationKey, Undone

if TYPE_CHECKING:
    from ftpy.storage.treebase import Trees
    from ftpy.storage.uploadbase import Upload

MIB = 1024 * 1024


class KnownDigest(Struct, frozen=True, gc=False):
    """A digest and its name."""

    name: DigestName
    hex: str


class KnownVersion(Struct, frozen=True, gc=False):
    """A version of a file, as its etag names it."""

    etag: str


class KnownInode(Struct, frozen=True, gc=False):
    """A file, link or its like by itself, as it was last written, whatever other names it gets or loses."""

    device: int
    number: int
    size: int
    mtime_ns: int


Condition = Literal["absent"] | KnownDigest | KnownVersion | KnownInode | None
"""What must be true of the path at publication: nothing there, this content, version or inode there, or anything."""


class StagedTree(Struct, frozen=True, gc=False):
    """A tree that is put as one thing (``treebase``): what is put below ``path`` and names it stays out of sight."""

    owner: str
    path: RemotePath
    id: str

    def check_holds(self, path: RemotePath) -> None:
        """Raises InvalidPath unless ``path`` is its own or below it."""
        if path.parts[: len(self.path.parts)] != self.path.parts:
            where = display(str(self.path))
            raise InvalidPath(f"{display(str(path))}: not in the tree that is staged for {where}")


Admits = Callable[[RemotePath], bool] | None
"""Whether a listing may tell of a path and of what is below it; None: of all."""


class Quota(Struct, frozen=True):
    """Most that may lie below a root when somebody adds to it: bytes, files and folders; None: any number."""

    bytes: int | None = None
    files: int | None = None

    @property
    def stretched(self) -> Quota:
        """What holds the records of removing and undoing: as much again, for they must go on where it is used up."""
        more = None if self.bytes is None else 2 * self.bytes + MIB
        return Quota(more, None if self.files is None else 2 * self.files + 1000)


class NewFile(Struct, frozen=True):
    """What a client wants published: ``file_size`` in bytes (None: not known yet), ``mode`` None for the default."""

    path: RemotePath
    file_size: int | None
    mtime_ns: int
    mode: int | None = None
    digest: DigestName = "md5"
    condition: Condition = None
    operation: OperationKey | None = None
    tree: StagedTree | None = None


class Closing:
    """A thing that is closed at the end of a ``with``."""

    def close(self) -> None:
        """Let go; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Reader(Closing, abc.ABC):
    """One version of a regular file, open for reading."""

    info: FileInfo
    """As it was when it was opened, with ``etag`` and the digests remembered for it."""

    @abc.abstractmethod
    def read_at(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset`` (as far as the file goes): the bytes read. Raises Changed, IoError."""

    @abc.abstractmethod
    def read(self, offset: int, count: int) -> bytes:
        """A small piece: ``count`` bytes from ``offset``, fewer only where the file ends. Raises IoError."""

    @abc.abstractmethod
    def fileno(self) -> int | None:
        """A descriptor for sendfile, or None where there is none."""

    @abc.abstractmethod
    def check_unchanged(self) -> None:
        """Raises Changed unless the file is still the version that ``info`` describes, IoError."""

    @abc.abstractmethod
    def remember(self, digest: KnownDigest) -> None:
        """Keep the digest of this version's whole content, if it is still unchanged."""


class NewDirectory(Struct, frozen=True):
    """A directory that a client wants: with ``parents`` those above it too, and it may be there already.

    ``mode`` and ``mtime_ns`` become its where they are given, also if it was there; ``untouched``: only if it was not.
    Whatever the mode is, its owner may read and enter it.
    """

    path: RemotePath
    parents: bool = False
    mode: int | None = None
    mtime_ns: int | None = None
    untouched: bool = False
    operation: OperationKey | None = None
    tree: StagedTree | None = None


class Removed(Struct, frozen=True):
    """What went: ``files`` (whatever is no folder) of ``size`` bytes together, and ``folders``."""

    files: int
    folders: int
    size: int


class Touched(Struct, frozen=True):
    """What is known of something that has another time now, and whether it was made for that."""

    info: FileInfo
    created: bool


class Room(Struct, frozen=True):
    """How much there may be: bytes, and files and folders, of the disk in all and free on it; None: no such limit."""

    bytes: int | None = None
    free_bytes: int | None = None
    files: int | None = None
    free_files: int | None = None


class Moved(Struct, frozen=True):
    """What is known of something under its new path, and of what gave way to it, if anything did."""

    info: FileInfo
    replaced: FileInfo | None


def ignore(_: int) -> None:
    """For those who do not want to know how far something is."""


class Staged(Closing, abc.ABC):
    """A small file or a directory, staged; publish it with ``Storage.publish`` or close it to drop it."""

    path: RemotePath


class Storage(Closing, abc.ABC):
    """Files below one root, shared by all who use that root; every method is safe in any thread.

    All raise the RequestError that fits (NotFound, NotAFile, IsADirectory, NotADirectory, PermissionDenied,
    InvalidPath, NoSpace, IoError…), never OSError.
    """

    @abc.abstractmethod
    def stat(self, path: RemotePath) -> FileInfo:
        """What is at ``path``; symlinks are reported, never followed."""

    @abc.abstractmethod
    def ls(
        self, path: RemotePath, *, recursive: bool, admits: Admits = None, tree: StagedTree | None = None
    ) -> Iterator[FileInfo]:
        """What is below a directory, each directory before its content, in the order of names, if it ``admits`` them.

        Memory stays flat in the depth-first sense: one directory's names at a time. A folder that is destroyed while
        it is listed ends that with Changed: no listing looks complete of which something may be missing.
        """

    @abc.abstractmethod
    def open(self, path: RemotePath, *, tree: StagedTree | None = None) -> Reader:
        """Open a regular file; as in ``ls`` that of a staged tree, where one is named."""

    @abc.abstractmethod
    def assure(self, reader: Reader) -> None:
        """Make durable that what is read is at its path, whoever published it. Raises Changed: it is there no more."""

    @abc.abstractmethod
    def stage(self, file: NewFile, data: memoryview, digest: KnownDigest, *, quota: Quota | None = None) -> Staged:
        """Store a small file whole, out of sight; ``digest`` was verified by the caller and is remembered.

        Raises QuotaExceeded, as all do that take a ``quota``, here or at the end of what they begin.
        """

    @abc.abstractmethod
    def stage_directory(self, directory: NewDirectory, *, quota: Quota | None = None) -> Staged:
        """A directory to be made in its turn when its group is published."""

    @abc.abstractmethod
    def publish(self, group: Sequence[Staged]) -> list[FileInfo | RequestError]:
        """Make what is staged durable together, publish each, make that durable: a result each, in order.

        Later ones of the same path win. A failed fsync is never retried: that file's result is IoError.
        """

    @abc.abstractmethod
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
        """Remove what is at ``path``: a file or link itself, an empty folder, with ``recursive`` any folder.

        With an ``operation`` it is kept under that one, whose record may stretch the ``quota``; with a ``version``
        only a file that is still it goes (Changed).

        Durable when it returns. A folder goes whole: once part of it is destroyed no reader sees any of it, also after
        a crash; what could not be destroyed then counts as gone and is seen to later. ``on_removed`` hears how many
        names went so far. Raises NotFound, NotEmpty, InvalidPath for the root.
        """

    @abc.abstractmethod
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
        """Give what is at ``path`` the path ``to``, in one step where the storage can; durable when it returns.

        What is no folder replaces what is no folder, unless the condition is "absent". Known digests stay known.
        Raises NotFound, AlreadyExists, IsADirectory, InvalidRequest for ``to`` that is ``path`` or below it,
        InvalidPath for the root and for a new name that is not portable. ``version`` and ``operation`` as of ``rm``;
        the operation's record is held to the ``quota``.
        """

    @abc.abstractmethod
    def touch(
        self, path: RemotePath, mtime_ns: int, *, create: bool, replacing: bool = True, quota: Quota | None = None
    ) -> Touched:
        """Give the file or folder at ``path`` this time; with ``create``, make an empty file where nothing is.

        Durable when it returns; known digests stay known. Not ``replacing``: what is there stays as it is.
        Raises NotFound, AlreadyExists, NotAFile for a link, InvalidPath for the root and for a new name that is not
        portable.
        """

    @abc.abstractmethod
    def room(self) -> Room:
        """How much there may be, and how much more there can be."""

    @abc.abstractmethod
    def used(self, quota: Quota) -> tuple[int, int]:
        """Bytes, files and folders that count for this quota now. Raises IoError."""

    @abc.abstractmethod
    def begin(self, key: OperationKey, what: str, *, quota: Quota | None = None) -> None:
        """An operation that puts, folders, rm and mv may name from now on, durably; ``what`` is for people.

        Begun already by its owner, it goes on. What it keeps counts for the quota. Raises InvalidRequest.
        """

    @abc.abstractmethod
    def check_operation(self, key: OperationKey) -> None:
        """Raises UnknownOperation unless its owner has begun it and it has neither expired nor been forgotten."""

    @abc.abstractmethod
    def operations(self, owner: str) -> Iterator[Operation]:
        """Those of one owner, the newest first, each looked at in its turn."""

    @abc.abstractmethod
    def undo(
        self,
        key: OperationKey,
        by: OperationKey,
        allows: Allows,
        *,
        on_step: Callable[[int], None] = ignore,
        quota: Quota | None = None,
    ) -> Undone:
        """Reverse an operation, newest first, as another one, ``by``, that can itself be undone.

        Its record may stretch the ``quota``: what comes and goes is counted already.
        Only what is as the operation left it is reversed; nothing is destroyed. Broken off, it can be asked again.
        """

    @abc.abstractmethod
    def forget(self, key: OperationKey, *, on_removed: Callable[[int], None] = ignore) -> Removed:
        """Destroy what an operation keeps: it can no longer be undone."""

    @property
    @abc.abstractmethod
    def trees(self) -> Trees:
        """Those that are put as one thing."""

    @abc.abstractmethod
    def open_upload(self, owner: str, file: NewFile, *, quota: Quota | None = None) -> Upload:
        """Open an upload, or find the unfinished one of (owner, path, file_size, mtime_ns). Reserves the space.

        Raises AlreadyExists or Changed at once where the condition fails already, IsADirectory or NotADirectory where
        nothing could be published; NoSpace. The condition is this hand's own, whatever others ask of the same upload.
        """

    @abc.abstractmethod
    def find_upload(self, owner: str, upload_id: str, *, quota: Quota | None = None) -> Upload:
        """An open upload of this owner by its id, with the condition of its latest put. Raises UnknownUpload."""

    @abc.abstractmethod
    def uploads(self) -> list[str]:
        """Ids of unfinished uploads."""

    @abc.abstractmethod
    def sweep(self, *, expire_seconds: float, trash_seconds: float = math.inf) -> int:
        """Drop uploads untouched for that long, operations nothing was added to for ``trash_seconds``, and staged
        leftovers of dead processes: how many went.
        """

    @abc.abstractmethod
    def interrupt(self) -> None:
        """The server stops: a commit that waits for its digest ends with ShuttingDown, and so do parts and opens.

        What is being published already goes on. Returns without waiting for it; ``close`` waits.
        """
