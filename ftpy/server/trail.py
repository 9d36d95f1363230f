"""The trail of one connection: a line for everything that was done or refused, several written at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

MOST_LINES = 256
"""Lines kept back at most; they are written before the connection waits for its peer, too."""


def _nowhere(_: str, __: list[dict[str, Any]]) -> None:
    return None


class Trail:
    """Collects events of one kind that come in a row, for ``write``; safe in any thread."""

    def __init__(self, write: Callable[[str, list[dict[str, Any]]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._event = ""
        self._each: list[dict[str, Any]] = []

    def __call__(self, event: str, **fields: object) -> None:
        """Something was done."""
        self.several(event, [fields])

    def several(self, event: str, each: list[dict[str, Any]]) -> None:
        """Something was done several times, in this order."""
        with self._lock:
            if event != self._event or len(self._each) >= MOST_LINES:
                self._flush()
                self._event = event
            self._each += each

    def flush(self) -> None:
        """Write what was kept back."""
        if self._each:
            with self._lock:
                self._flush()

    def close(self) -> None:
        """Write what was kept back, for the last time.

        Who writes is let go: in a circle with a trail, an ended connection would hold its buffers and its TLS until
        the collector comes by.
        """
        self.flush()
        self._write = _nowhere

    def _flush(self) -> None:
        each, self._each = self._each, []
        if each:
            self._write(self._event, each)
