"""What happens over and over is said once in a while, with how often it did: a flood must not become one of the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable

log = logging.getLogger("ftpy.server")

SECONDS = 10.0
"""How long nothing more is said of one thing."""
MOST_THINGS = 1024
"""Things that are told apart; beyond, all begins anew."""


class Seldom:
    """Counts each thing. Safe in any thread."""

    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._said: dict[Hashable, float] = {}
        self._times: dict[Hashable, int] = {}

    def due(self, thing: Hashable) -> int:
        """It has happened once more: how often since it was said, if it is to be said now, else 0."""
        with self._lock:
            return self._due(thing, self._clock())

    def say_failed(self, event: str, reason: str | None) -> None:
        """Log an error that comes of what the system cannot give now, and ``times`` it happened, if that is due."""
        if times := self.due(event):
            log.error(event, extra={"event": event, "fields": {"reason": reason, "times": times}})

    def _due(self, thing: Hashable, now: float) -> int:
        times = self._times.get(thing, 0) + 1
        if now - self._said.get(thing, -self._seconds) < self._seconds:
            self._times[thing] = times
            return 0
        if len(self._said) >= MOST_THINGS:
            self._said.clear()
            self._times.clear()
        self._said[thing] = now
        self._times[thing] = 0
        return times
