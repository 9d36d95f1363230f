"""What a stat tells: which version of a file it is, and what is known of it."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from typing import NamedTuple

from ftpy.files import FileInfo, FileType, RemotePath
from ftpy.storage.base import KnownDigest, KnownInode

_UNSIGNED = 2**64 - 1
_PACKED = struct.Struct("<QQqq")
_TYPES: dict[int, FileType] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


def told_ns(time_ns: int) -> int:
    """A time as the protocol tells it, in 64 bits: what lies before 1677 or after 2262 is told as the end of these."""
    if -(2**63) <= time_ns < 2**63:
        return time_ns  # as nearly always
    return 2**63 - 1 if time_ns > 0 else -(2**63)


class Version(NamedTuple):
    """One version of one regular file: any write, rename or chmod makes another (its ctime)."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def etag(self) -> str:
        """32 hexadecimal digits that name it at its path, without telling where it lies.

        The device is not in them: a disk may come back under another number, and what was begun before goes on then.
        """
        packed = _PACKED.pack(self.ino & _UNSIGNED, self.size, self.mtime_ns, self.ctime_ns)
        return hashlib.blake2b(packed, digest_size=16).hexdigest()


def version_of(found: os.stat_result) -> Version:
    """The version that a stat saw."""
    mtime_ns, ctime_ns = told_ns(found.st_mtime_ns), told_ns(found.st_ctime_ns)
    return Version(found.st_dev, found.st_ino, found.st_size, mtime_ns, ctime_ns)


def inode_of(found: os.stat_result) -> KnownInode:
    """What a stat saw, by itself."""
    return KnownInode(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Digests(NamedTuple):
    """The digests known of one version."""

    md5: str | None = None
    blake3: str | None = None


NO_DIGESTS = Digests()


def digests(digest: KnownDigest) -> Digests:
    """One digest in its place."""
    return Digests(digest.hex) if digest.name == "md5" else Digests(None, digest.hex)


def file_info(
    path: RemotePath, found: os.stat_result, digests: Digests = NO_DIGESTS, version: Version | None = None
) -> FileInfo:
    """What a stat and the remembered digests say of ``path``; ``version`` where it is known already."""
    kind = _TYPES.get(stat.S_IFMT(found.st_mode), "other")
    regular = kind == "file"
    return FileInfo(
        path=path,
        type=kind,
        size=found.st_size if regular else 0,
        mtime_ns=told_ns(found.st_mtime_ns),
        mode=found.st_mode & 0o777,
        etag=(version or version_of(found)).etag() if regular else None,
        md5=digests.md5,
        blake3=digests.blake3,
    )
