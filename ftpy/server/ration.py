"""How often something may be had: so many a second, some at once, by source and in all."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

BURST_SECONDS = 2.0
"""What was not had lately may be had at once, at most the number for so long."""
MOST_THINGS = 4096
"""Things that are told apart, some 400 KiB; beyond, what was had least lately begins anew."""


class Ration:
    """The generic cell rate algorithm (ITU-T I.371): a moment for each thing. Not safe in several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: OrderedDict[Hashable, float] = OrderedDict()
        """When all that each thing had is paid off."""

    def admits(self, thing: Hashable, per_second: float) -> bool:
        """Whether it may be had once more; then it counts."""
        now = self._clock()
        due = max(self._due.get(thing, now), now) + 1 / per_second
        if due - now > max(BURST_SECONDS, 1 / per_second):
            return False
        self._due[thing] = due
        self._due.move_to_end(thing)
        if len(self._due) > MOST_THINGS:
            self._due.popitem(last=False)
        return True
