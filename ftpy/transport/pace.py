"""A rate that is kept: how many bytes a second may pass, over however many streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ftpy import timing
from ftpy.errors import Stalled

SLICE_SECONDS = 0.05
"""What one system call may move, as time at the rate: so short are the waits between."""
LEAST_SLICE_BYTES = 1024
MOST_SLICE_BYTES = 1024 * 1024
BURST_SECONDS = 0.1
"""How much of the time in which nothing passed may be made up for."""


class Schedule:
    """When bytes are due at a rate of so many a second. Not safe in several threads."""

    def __init__(self, bytes_per_second: int) -> None:
        self.bytes_per_second = bytes_per_second
        self._due = time.monotonic()

    def passed(self, count: int) -> float:
        """So many bytes have passed: seconds until they were due."""
        now = time.monotonic()
        self._due = max(self._due, now - BURST_SECONDS) + count / self.bytes_per_second
        return self._due - now

    @property
    def is_owed(self) -> bool:
        """Whether more has passed than was due by now."""
        return self._due > time.monotonic()


class Pace:
    """A rate in bytes a second that all streams that share it keep together. Safe in any thread.

    ``passed``, if given, keeps the schedule for more of them: it is told what has passed, now and then, and says how
    many seconds to wait.
    """

    def __init__(self, bytes_per_second: int, passed: Callable[[int], float] | None = None) -> None:
        self.bytes_per_second = bytes_per_second
        self.slice_bytes = min(max(int(bytes_per_second * SLICE_SECONDS), LEAST_SLICE_BYTES), MOST_SLICE_BYTES)
        """Bytes to move at a time, so that they pass evenly."""
        self._passed = passed or Schedule(bytes_per_second).passed
        self._told_bytes = int(bytes_per_second * SLICE_SECONDS) if passed else 0
        """So many are told of at once, at least: whoever keeps the schedule may be another process."""
        self._untold = 0
        self._lock = threading.Lock()

    def passed(self, count: int) -> None:
        """So many bytes have passed: wait until they were due."""
        with self._lock:
            self._untold += count
            if self._untold < self._told_bytes:
                return
            seconds = self._tell()
        self._wait(seconds)

    def catch_up(self) -> None:
        """Wait until what others have moved was due."""
        with self._lock:
            seconds = self._tell()
        self._wait(seconds)

    def settle(self) -> None:
        """Nothing more passes here: tell the rest, whose time others will wait for."""
        with self._lock:
            self._tell()

    def _tell(self) -> float:
        count, self._untold = self._untold, 0
        return self._passed(count)

    @staticmethod
    def _wait(seconds: float) -> None:
        if seconds > 0:
            with timing.PACING:
                time.sleep(seconds)


class LeastPace:
    """Ends a stream whose peer, whenever it is its turn, moves less than so many bytes a second over so many seconds.

    Counted is the time in system calls that move bytes, and no other: neither disks nor a pace of our own are the
    peer's fault.
    """

    def __init__(self, bytes_per_second: int, seconds: float) -> None:
        self._rate, self._seconds = bytes_per_second, seconds
        self._spent = 0.0
        self._moved = 0

    def moved(self, count: int, seconds: float) -> None:
        """So many bytes took so long. Raises Stalled."""
        self._spent += seconds
        self._moved += count
        if self._spent >= self._seconds:
            if self._moved < self._rate * self._spent:
                raise Stalled(f"the peer moves less than {self._rate} bytes a second")
            self._spent, self._moved = 0.0, 0
