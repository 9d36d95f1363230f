"""A rate that is kept: how many bytes a second may pass, over however many streams."""

from __future__ import annotations

import threading
import time

from ftpy import timing

SLICE_SECONDS = 0.05
"""What one system call may move, as time at the rate: so short are the waits between."""
LEAST_SLICE_BYTES = 1024
MOST_SLICE_BYTES = 1024 * 1024
BURST_SECONDS = 0.1
"""How much of the time in which nothing passed may be made up for."""


class Pace:
    """A rate in bytes a second that all streams that share it keep together. Safe in any thread."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self.slice_bytes = min(max(int(bytes_per_second * SLICE_SECONDS), LEAST_SLICE_BYTES), MOST_SLICE_BYTES)
        """Bytes to move at a time, so that they pass evenly."""
        self._lock = threading.Lock()
        self._due = time.monotonic()

    def passed(self, count: int) -> None:
        """So many bytes have passed: wait until they were due."""
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - BURST_SECONDS) + count / self._rate
            wait = self._due - now
        if wait > 0:
            with timing.PACING:
                time.sleep(wait)
