"""The types of the fields that messages have: numbers with their ranges, names, digests (docs/protocol.md, headers)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ftpy.digests import HEX_LENGTH, DigestName, PartDigestName

MOST_PARTS = 10_000
"""Most parts of one upload: what the strictest object stores allow."""

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
RequestId = Annotated[int, Meta(ge=1, le=2**53 - 1)]
ConnectionId = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Time = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Mode = Annotated[int, Meta(ge=0, le=0o777)]
PartNumber = Annotated[int, Meta(ge=0, lt=MOST_PARTS)]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Etag = Hex32
UploadId = Hex32
Base64 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]*\Z")]
Secret32 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]\Z")]
"""32 bytes (a nonce, a proof) as canonical base64url: the two bits that the last digit has too many are 0."""
TEXT_CHARACTERS = 1024
"""Longest text that is meant for people, characters."""
Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS)]
ActivityName = Annotated[str, Meta(pattern=r"^[a-z][a-z-]{0,31}\Z")]
UserName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every header has in common: fields by name only, none unknown."""


class DigestOf(Message, frozen=True, kw_only=True):
    """A digest with its name: exactly one of the fields."""

    md5: Hex32 | None = None
    blake3: Hex64 | None = None

    def __post_init__(self) -> None:
        if (self.md5 is None) == (self.blake3 is None):
            raise ValueError("exactly one of md5 and blake3 is due")

    @property
    def name(self) -> DigestName:
        """Which digest it is."""
        return "md5" if self.md5 is not None else "blake3"

    @property
    def hex(self) -> str:
        """The digest, lower-case hexadecimal."""
        return self.md5 or self.blake3 or ""


class Trailer(Message, frozen=True, kw_only=True):
    """Follows every body: the digest of its bytes, exactly one of the fields; ``xxh128`` only behind a part."""

    md5: Hex32 | None = None
    blake3: Hex64 | None = None
    xxh128: Hex32 | None = None

    def __post_init__(self) -> None:
        if (self.md5 is None) + (self.blake3 is None) + (self.xxh128 is None) != 2:
            raise ValueError("exactly one of md5, blake3 and xxh128 is due")

    @property
    def name(self) -> DigestName | PartDigestName:
        """Which digest it is."""
        if self.md5 is not None:
            return "md5"
        return "blake3" if self.blake3 is not None else "xxh128"

    @property
    def hex(self) -> str:
        """The digest, lower-case hexadecimal."""
        return self.md5 or self.blake3 or self.xxh128 or ""


def digest_of(name: DigestName, value: str) -> DigestOf:
    """A ``DigestOf`` from a digest's name and hexadecimal value."""
    assert len(value) == HEX_LENGTH[name]
    return DigestOf(md5=value) if name == "md5" else DigestOf(blake3=value)
