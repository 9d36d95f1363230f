"""Where a thread's time goes, measured while somebody wants to know.

A thread with a ``Stopwatch`` does one thing at any moment: ``with timing.DISK:`` says which, and the innermost counts.
So the seconds add up to the thread's whole time. Without a stopwatch a ``with`` costs a tenth of a microsecond.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, TypeVar, get_args

Activity = Literal[
    "disk", "sync", "hashing", "encryption", "copying", "sending", "receiving", "pacing", "idle", "other"
]
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)

T = TypeVar("T")


class _Here(threading.local):
    stopwatch: Stopwatch | None = None


_here = _Here()


class Stopwatch:
    """What one thread does, in seconds by activity; what is not said to be anything is "other".

    Used by one thread at a time.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self._doing: list[Activity] = ["other"]
        self._since = time.perf_counter()

    def lap(self) -> dict[str, float]:
        """The seconds up to now, a copy."""
        self._count()
        return dict(self.seconds)

    def begin(self, activity: Activity) -> None:
        """From now on it is this."""
        self._count()
        self._doing.append(activity)

    def end(self, processor: Activity | None = None, processor_seconds: float = 0.0) -> None:
        """What was begun last is over; the part of it in which the processor was at work counts as ``processor``."""
        self._count()
        activity = self._doing.pop()
        if processor is not None:
            self.seconds[activity] -= processor_seconds
            self.seconds[processor] += processor_seconds

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self._doing[-1]] += now - self._since
        self._since = now


class Doing:
    """``with`` it the thread does one thing, if anybody measures."""

    __slots__ = ("_activity",)

    def __init__(self, activity: Activity) -> None:
        self._activity: Activity = activity

    def __enter__(self) -> None:
        if (stopwatch := _here.stopwatch) is not None:
            stopwatch.begin(self._activity)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (stopwatch := _here.stopwatch) is not None:
            stopwatch.end()


class Moving:
    """The same for a system call that moves bytes: waiting is the ``activity``, the processor's work ``processor``."""

    __slots__ = ("_activity", "_processor")

    def __init__(self, activity: Activity, processor: Activity) -> None:
        self._activity, self._processor = activity, processor

    def __call__(self, move: Callable[[], T]) -> T:
        """What ``move`` returns."""
        if (stopwatch := _here.stopwatch) is None:
            return move()
        stopwatch.begin(self._activity)
        began = time.thread_time()
        try:
            return move()
        finally:
            stopwatch.end(self._processor, time.thread_time() - began)


DISK = Doing("disk")
"""Reading or writing files, their names and their attributes."""
SYNC = Doing("sync")
"""Waiting until what is written is durable."""
HASHING = Doing("hashing")
"""Hashing, or waiting for the thread that hashes."""
PACING = Doing("pacing")
"""Waiting because the user limits the rate."""
IDLE = Doing("idle")
"""Waiting for work that another thread has to find, or to finish."""


def measuring() -> Stopwatch | None:
    """This thread's stopwatch."""
    return _here.stopwatch


def attach(stopwatch: Stopwatch | None) -> None:
    """Let it measure this thread from now on."""
    _here.stopwatch = stopwatch


@contextlib.contextmanager
def lent() -> Iterator[Stopwatch | None]:
    """This thread's stopwatch, for another thread to attach: what that does counts, while this one waits for it."""
    stopwatch, _here.stopwatch = _here.stopwatch, None
    try:
        yield stopwatch
    finally:
        _here.stopwatch = stopwatch
