"""ping: bytes there and back that mean nothing, to measure the line by (docs/protocol.md 11.6)."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from ftpy.digests import PartDigestName
from ftpy.wire.bases import Reply, Request

PING_BYTES = 1024 * 1024
"""Most that one ping carries each way: either end holds it in memory."""
PingSize = Annotated[int, Meta(ge=0, le=PING_BYTES)]


class PingRequest(Request, frozen=True, kw_only=True, tag="ping"):
    """Take ``length`` bytes, if any come, and say ``count`` bytes, if any are wanted; ``digest`` is of the trailers."""

    length: PingSize | None = None
    count: PingSize | None = None
    digest: PartDigestName = "blake3"

    @property
    def body_length(self) -> int | None:
        """The bytes that come."""
        return self.length


class PingReply(Reply, frozen=True, kw_only=True):
    """All of it came; ``length`` bytes follow where some were wanted."""

    length: PingSize | UnsetType = UNSET

    @property
    def body_length(self) -> int | None:
        """The bytes that follow."""
        return None if self.length is UNSET else self.length
