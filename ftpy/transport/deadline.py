"""One limit across many steps."""

from __future__ import annotations

import time

from ftpy.errors import Stalled


class Deadline:
    """A moment, ``timeout`` seconds from now, by which all that follows must be done."""

    __slots__ = ("_at", "_what")

    def __init__(self, timeout: float, what: str = "the peer") -> None:
        self._at = time.monotonic() + timeout
        self._what = what

    def remaining(self) -> float:
        """Seconds left. Raises Stalled when none are."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise Stalled(f"{self._what} took too long")
        return left
