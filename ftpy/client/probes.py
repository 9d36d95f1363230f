"""The part of ``Client`` that measures the line."""

from __future__ import annotations

from ftpy.client.base import Base
from ftpy.client.probing import Flow, Way, flow, round_trip
from ftpy.wire.ping import PING_BYTES


class Probes(Base):
    """What takes no right, and leaves nothing. A connection that breaks meanwhile is not made again."""

    def ping(self) -> float:
        """Seconds for one request to the server and its reply. Raises Unsupported."""
        return round_trip(self._connected())

    def throughput(self, way: Way, *, size: int = PING_BYTES, seconds: float = 1.0) -> Flow:
        """How much passes "up" to the server or "down" from it, in so many seconds or a little more.

        Raises Unsupported, DigestMismatch.
        """
        return flow(self._connected(), way, size=size, seconds=seconds)
