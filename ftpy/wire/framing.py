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
BUFFER_BYTES = 512 * 1024
"""Received ahead at most, bytes: a header of the greatest length and some small bodies in one recv."""
FIRST_BUFFER_BYTES = 4 * 1024
"""Received ahead at first, bytes: what an idle connection costs; it doubles whenever it was filled."""

_PREFIX = struct.Struct("<I")


def frame(header: bytes) -> bytes:
    """``header`` with its length before it. Raises ProtocolError when it is empty or too long."""
    if not 1 <= len(header) <= HEADER_BYTES:
        raise ProtocolError(f"a header of {len(header)} bytes cannot be framed")
    return _PREFIX.pack(len(header)) + header


class FrameBuffer:
    """Bytes received but not yet used: headers are cut out of it, bodies are taken from it as they are."""

    def __init__(self, capacity: int = BUFFER_BYTES) -> None:
        self._capacity = capacity
        self._view = memoryview(bytearray(min(FIRST_BUFFER_BYTES, capacity)))
        self._start = 0
        self._end = 0
        self._filled = False

    def __len__(self) -> int:
        """Bytes held."""
        return self._end - self._start

    def space(self) -> memoryview:
        """Where the next bytes belong, never empty while a frame is incomplete; then tell ``filled``."""
        if self._filled and len(self._view) < self._capacity:
            self._move(memoryview(bytearray(min(2 * len(self._view), self._capacity))))
        elif self._start > len(self._view) // 2:
            self._move(self._view)
        return self._view[self._end :]

    def _move(self, into: memoryview) -> None:
        """What is held goes to the beginning of ``into``, which may be the same memory."""
        held = bytes(self._view[self._start : self._end])
        into[: len(held)] = held
        self._view, self._start, self._end, self._filled = into, 0, len(held), False

    def filled(self, count: int) -> None:
        """``count`` bytes were written to the start of ``space()``."""
        self._end += count
        self._filled = self._end == len(self._view)

    def feed(self, data: bytes) -> None:
        """Add a copy of ``data``. Raises ValueError when it is more than can be held."""
        while data:
            if not (space := self.space()):
                raise ValueError(f"{len(data)} bytes more than can be held")
            space[: len(data)] = data[: len(space)]
            self.filled(min(len(data), len(space)))
            data = data[len(space) :]

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
