"""The contract of uploads: files that come in parts, over any number of connections, and are published whole.

An object store can keep it, too: an ``Upload`` is a multipart upload, part ``i`` its part number ``i + 1``.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator

from ftpy.digests import PartDigestName
from ftpy.files import FileInfo, RemotePath
from ftpy.storage.base import MIB, Closing, KnownDigest, StagedTree

PART_BYTES = 8 * MIB
"""Least part size, bytes: over the 5 MiB that object stores ask for, small enough to send again."""
STREAM_PART_BYTES = 16 * MIB
"""Part size of an upload of unknown length, bytes: 10,000 of them are 160 GiB."""
MOST_PARTS = 10_000
"""Most parts of one upload."""
STEP_BYTES = MIB
"""Part sizes are multiples of it, bytes."""


def part_size_for(file_size: int | None) -> int:
    """Bytes of each part but the last, so that no file needs more than MOST_PARTS."""
    if file_size is None:
        return STREAM_PART_BYTES
    return max(PART_BYTES, -(-file_size // MOST_PARTS // STEP_BYTES) * STEP_BYTES)


class PartWriter(Closing, abc.ABC):
    """Where one part's bytes go: iterate to be offered views, fill each one whole, then ``finish``.

    Closed without ``finish`` the part counts as never sent.
    """

    @abc.abstractmethod
    def __iter__(self) -> Iterator[memoryview]:
        """Views to fill, in order, in all exactly the part's length."""

    @abc.abstractmethod
    def finish(self, digest: str) -> None:
        """Count the part as stored. Raises DigestMismatch (the part stays missing), NoSpace, IoError."""


class Upload(Closing, abc.ABC):
    """A put in progress. Connections of its owner share one object in a process; ``close`` lets go of one."""

    id: str
    """32 hexadecimal digits."""
    path: RemotePath
    """Where it is to be published."""
    file_size: int | None
    part_size: int
    tree: StagedTree | None
    """Into which it goes, if into any."""

    @abc.abstractmethod
    def missing(self) -> list[tuple[int, int]]:
        """Ranges (first, last; both in) of parts that are not stored yet; empty for an unknown size."""

    @abc.abstractmethod
    def part(self, number: int, length: int, digest: PartDigestName = "blake3") -> PartWriter:
        """Begin to store a part of ``length`` bytes, whose writer is finished with their ``digest``.

        Raises InvalidRequest for a number or length that this upload cannot have, NoSpace.
        """

    @abc.abstractmethod
    def commit(self, digest: KnownDigest, file_size: int | None, *, replacing: bool = True) -> FileInfo:
        """Verify the whole, publish it, make it durable; ``file_size`` where it was not known before.

        Not ``replacing``: as if this hand's condition were "absent".
        Raises Incomplete (go on sending), DigestMismatch (the upload is dropped), AlreadyExists, Changed, NoSpace.
        """

    @property
    @abc.abstractmethod
    def verified(self) -> int:
        """Bytes of the whole hashed so far; grows during ``commit``."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Drop the upload and all that was stored of it."""

    @property
    def is_lost(self) -> bool:
        """Whether this hand is of no use any more, though the upload may still be found."""
        return False
