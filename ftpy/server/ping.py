"""ping: bytes that come are dropped, bytes that go are made up; the disk has no part in it."""

from __future__ import annotations

import os
from functools import lru_cache

from ftpy.digests import hexdigest
from ftpy.errors import DigestMismatch, InvalidRequest
from ftpy.server.context import Context
from ftpy.wire.ping import PING_BYTES, PingReply, PingRequest


def handle_ping(request: PingRequest, context: Context) -> PingReply | None:
    """Take what comes, look whether it is whole, and send what is wanted."""
    channel, name = context.channel, request.digest
    if request.length is not None:
        other = channel.compare_trailer(name, hexdigest(name, channel.receive_body()))
        if other is not None:
            raise DigestMismatch if other.name == name else InvalidRequest(f"the trailer's digest is {name}")
    if request.count is None:
        return PingReply(id=request.id)
    body = memoryview(_noise())[: request.count]
    channel.send(PingReply(id=request.id, length=request.count))
    channel.send_body(body)
    channel.send_trailer(name, hexdigest(name, body))
    return None


@lru_cache(maxsize=1)
def _noise() -> bytes:
    """What a line that compresses makes nothing smaller of."""
    return os.urandom(PING_BYTES)
