"""What the client reports: how far a transfer is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from ftpy.errors import FtpyError
from ftpy.files import RemotePath
from ftpy.storage.base import KnownDigest

Phase = Literal["sending", "receiving", "verifying", "committing"]


class Progress(Struct, frozen=True):
    """``done`` of ``total`` bytes (None: not known) are through ``phase``.

    Sending counts bytes that the server has stored, receiving bytes written on this side, verifying bytes hashed.
    """

    phase: Phase
    done: int
    total: int | None


OnProgress = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """The callback of those who do not look."""


class Stored(Struct, frozen=True):
    """A put that is verified and published: ``resumed`` of its ``size`` bytes were there already.

    ``durable`` is the server's word; False where its answer was lost and the file was found in place afterwards: then
    its version ``etag`` is not known.
    """

    path: RemotePath
    size: int
    digest: KnownDigest
    durable: bool
    resumed: int = 0
    etag: str | None = None


class Removed(Struct, frozen=True):
    """What an rm took away: so many ``files`` (whatever is no folder) and ``folders``.

    ``durable`` is the server's word; False where its answer was lost and nothing was found there afterwards: then it
    is not known how many they were.
    """

    path: RemotePath
    files: int | None
    folders: int | None
    durable: bool


class Moved(Struct, frozen=True):
    """What was at ``path`` is at ``to``; not ``durable`` where the server's answer was lost and it was found there."""

    path: RemotePath
    to: RemotePath
    durable: bool


class Touched(Struct, frozen=True):
    """What is at ``path`` has this time now, durably; whether it was ``created`` for that, an empty file.

    (Where the first answer was lost with its connection it is not known that it was: then it counts as found.)
    """

    path: RemotePath
    mtime_ns: int
    created: bool


class Room(Struct, frozen=True):
    """How much there may be, bytes, and files and folders; None where there is no such limit, or nobody counts.

    Of the disk in all, and free on it for the server; the most that this user may have, and what counts of that now.
    """

    disk_bytes: int | None
    disk_free_bytes: int | None
    disk_files: int | None
    disk_free_files: int | None
    quota_bytes: int | None
    quota_files: int | None
    used_bytes: int | None
    used_files: int | None

    @property
    def free_bytes(self) -> int | None:
        """What this user may still add: of the disk, and of the quota."""
        return _less(self.disk_free_bytes, _left(self.quota_bytes, self.used_bytes))

    @property
    def free_files(self) -> int | None:
        """The same, files and folders."""
        return _less(self.disk_free_files, _left(self.quota_files, self.used_files))


def _left(most: int | None, used: int | None) -> int | None:
    return None if most is None else max(0, most - (used or 0))


def _less(one: int | None, other: int | None) -> int | None:
    return min((known for known in (one, other) if known is not None), default=None)


class RolledBack(Struct, frozen=True):
    """The tree that was at ``path`` before is there again, durably; whether another was ``replaced``, which is kept."""

    path: RemotePath
    replaced: bool


class Fetched(Struct, frozen=True):
    """A get that is verified and in place (``target`` None: written to a stream).

    ``resumed`` of its ``size`` bytes were there already; ``identical``: the target was this very content before;
    ``unchanged``: it was, and that was asked for.
    """

    path: RemotePath
    target: str | None
    size: int
    digest: KnownDigest
    durable: bool
    resumed: int = 0
    identical: bool = False
    unchanged: bool = False


class Kept(Struct, frozen=True):
    """An operation whose replaced and deleted files are kept: what began it, and how many steps of each kind it had.

    ``target`` is the folder of this side that it changed; None for one on the server.
    """

    id: str
    what: str
    time_ns: int
    added: int
    replaced: int
    deleted: int
    moved: int
    made: int
    target: str | None = None


class LeftAlone(Struct, frozen=True):
    """A path that an undo could not make what it was, and why."""

    path: RemotePath
    error: FtpyError


class Undone(Struct, frozen=True):
    """What an undo did: so many ``steps`` reversed, ``already`` as they were before, ``left`` alone; the first of these
    in ``paths``. ``by`` is the operation that undoes the undo.
    """

    id: str
    by: str
    steps: int
    already: int
    left: int
    paths: list[LeftAlone]
