"""Length-prefixed frames: a 4-byte little-endian length, then that many bytes of header.

TCP is a stream and cuts where it likes; the length comes before the bytes, so nothing here depends
on where it cut (docs/protocol.md, frame).
"""

from __future__ import annotations

import struct

from ftpy.errors import ProtocolError

HEADER_BYTES = 65_536
"""Longest header after authentication, bytes."""
HANDSHAKE_HEADER_BYTES = 2_048
"""Longest header before authentication, bytes: a stranger cannot make us hold more."""
BUFFER_BYTES = 256 * 1024
"""Received ahead at most, bytes: a header of the greatest length and some small bodies in one recv."""

_PREFIX = struct.Struct("<I")


def frame(header: bytes) -> bytes:
    """``header`` with its length before it. Raises ProtocolError when it is empty or too long."""
    if not 1 <= len(header) <= HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes cannot be framed")
    return _PREFIX.pack(len(header)) + header


class FrameBuffer:
    """Bytes received but not yet used: headers are cut out of it, bodies are taken from it as they are."""

    def __init__(self, capacity: int = BUFFER_BYTES) -> None:
        self._view = memoryview(bytearray(capacity))
        self._start = 0
        self._end = 0

    def __len__(self) -> int:
        """Bytes held."""
        return self._end - self._start

    def space(self) -> memoryview:
        """Where the next bytes belong, never empty while a frame is incomplete; then tell ``filled``."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start > len(self._view) // 2:
            held = bytes(self._view[self._start : self._end])
            self._view[: len(held)] = held
            self._start, self._end = 0, len(held)
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """``count`` bytes were written to the start of ``space()``."""
        self._end += count

    def feed(self, data: bytes) -> None:
        """Add a copy of ``data``, which must fit into ``space()``."""
        self.space()[: len(data)] = data
        self.filled(len(data))

    def next_header(self, limit: int) -> bytes | None:
        """The next whole header, or None while bytes are missing.

        Raises ProtocolError as soon as the length is known to be 0 or over ``limit`` bytes.
        """
        held = self._end - self._start
        if held < 4:
            return None
        (size,) = _PREFIX.unpack_from(self._view, self._start)
        if not 1 <= size <= limit:
            raise ProtocolError(f"a frame announces {size} bytes, outside 1 to {limit}")
        if held < 4 + size:
            return None
        begin = self._start + 4
        self._start = begin + size
        return bytes(self._view[begin : self._start])

    def holds(self, body: int, limit: int) -> bool:
        """Whether ``body`` bytes and a whole frame behind them are here."""
        at = self._start + body
        if self._end - at < 4:
            return False
        (size,) = _PREFIX.unpack_from(self._view, at)
        return bool(1 <= size <= limit and self._end - at >= 4 + size)

    def take(self, count: int) -> memoryview:
        """Up to ``count`` body bytes without a copy; valid until the next ``space()`` or ``feed()``."""
        begin = self._start
        self._start = min(begin + count, self._end)
        return self._view[begin : self._start]
