"""What unfinished work holds open in this process, so that no user takes all of it."""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple

MOST = 8192
"""Descriptors that unfinished work holds at most, however many a process may have: uploads have threads as well."""
CONNECTION = 3
"""Descriptors of one connection that does nothing unusual."""


class Shares:
    """Descriptors, handed out to accounts by their ``owner``: none has more than are left for the others. Thread-safe.

    ``total`` is how many there are.
    """

    def __init__(self, total: int) -> None:
        self._left = total
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, owner: str, count: int) -> bool:
        """Whether it may have so many more; then they are its own until they are given back."""
        with self._lock:
            if self._held[owner] + count > self._left - count:
                return False
            self._held[owner] += count
            self._left -= count
            return True

    def give_back(self, owner: str, count: int) -> None:
        """They are closed."""
        with self._lock:
            self._left += count
            self._held[owner] -= count
            if not self._held[owner]:
                del self._held[owner]


class Share(NamedTuple):
    """Those of one account."""

    shares: Shares
    owner: str

    def take(self, count: int) -> bool:
        """Whether it may have so many more."""
        return self.shares.take(self.owner, count)

    def give_back(self, count: int) -> None:
        """They are closed."""
        self.shares.give_back(self.owner, count)


def descriptors(connections: int) -> int:
    """How many descriptors this process has for unfinished work: what so many connections leave, a quarter at least."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows: there is no such limit
        return MOST
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return MOST
    return min(MOST, max(soft // 4, soft - CONNECTION * connections))
