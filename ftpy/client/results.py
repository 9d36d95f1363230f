"""What the client reports: how far a transfer is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

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

    ``durable`` is the server's word; False where its answer was lost and the file was found in place afterwards.
    """

    path: RemotePath
    size: int
    digest: KnownDigest
    durable: bool
    resumed: int = 0


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


class Fetched(Struct, frozen=True):
    """A get that is verified and in place (``target`` None: written to a stream).

    ``resumed`` of its ``size`` bytes were there already; ``identical``: the target was this very content before.
    """

    path: RemotePath
    target: str | None
    size: int
    digest: KnownDigest
    durable: bool
    resumed: int = 0
    identical: bool = False
