"""The digests that ftpy speaks: md5 for whole files by default, BLAKE3 for speed, XXH3-128 for parts on their way.

Every byte of a large file is hashed twice on each end, in its part and in the whole; for the part XXH3 costs next to
nothing, so that the whole's digest alone sets the pace. Digests guard against accidents; TLS guards against people
(docs/protocol.md, digests).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, Protocol, Self, get_args

from blake3 import blake3
from xxhash import xxh3_128

from ftpy.timing import HASHING

DigestName = Literal["md5", "blake3"]
DIGEST_NAMES: tuple[DigestName, ...] = get_args(DigestName)
PartDigestName = Literal["blake3", "xxh128"]
PART_DIGEST_NAMES: tuple[PartDigestName, ...] = get_args(PartDigestName)
"""What verifies a part; the first is understood by every peer."""
HEX_LENGTH: dict[DigestName | PartDigestName, int] = {"md5": 32, "blake3": 64, "xxh128": 32}
"""Hexadecimal digits of each digest."""


class Hasher(Protocol):
    """What ``hashlib`` and ``blake3`` have in common."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The digest of what was added so far, lower-case hexadecimal."""

    def copy(self) -> Self:
        """An independent hasher with the same bytes in it."""


def _md5() -> Hasher:
    return hashlib.md5(usedforsecurity=False)


_MAKERS: dict[DigestName | PartDigestName, Callable[[], Hasher]] = {"md5": _md5, "blake3": blake3, "xxh128": xxh3_128}


def new_hasher(name: DigestName | PartDigestName) -> Hasher:
    """An empty hasher; all kinds release the interpreter lock for large updates."""
    return _MAKERS[name]()


def hexdigest(name: DigestName | PartDigestName, data: bytes | bytearray | memoryview) -> str:
    """The digest of ``data``, lower-case hexadecimal."""
    with HASHING:
        hasher = _MAKERS[name]()
        hasher.update(data)
        return hasher.hexdigest()
