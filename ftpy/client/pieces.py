"""What the connections of one transfer share: the pieces still to be moved, and how far the whole is."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from ftpy.timing import IDLE

LOOK_SECONDS = 0.5
"""How often who waits for others looks whether it is to leave; Windows tells of Ctrl-C only between two waits."""

P = TypeVar("P", bound=Any)


class Pieces(Generic[P]):
    """Pieces of work in their order, each with one worker at a time. Safe in any thread.

    A worker takes a piece and then says ``done``, ``give_back`` or ``put_off``; nobody waits for a slow one while
    there is anything else to do.
    """

    def __init__(self, pieces: Iterable[P]) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._queue = sorted(pieces)
        self._later: list[P] = []
        self._out: set[P] = set()

    def take(self, leaving: threading.Event, *, wait: bool) -> P | None:
        """The first piece that is left. None: there is none now or, with ``wait``, never will be; or we are leaving.

        To ``wait`` is to see whether another worker gives back what it has taken.
        """
        with self._changed:
            while not leaving.is_set():
                if not self._queue:
                    self._queue, self._later = sorted(self._later), []
                if self._queue:
                    piece = heapq.heappop(self._queue)
                    self._out.add(piece)
                    return piece
                if not wait or not self._out:
                    return None
                with IDLE:
                    self._changed.wait(LOOK_SECONDS)
            return None

    def done(self, piece: P) -> None:
        """A piece that was taken is through."""
        with self._changed:
            self._out.discard(piece)
            self._changed.notify_all()

    def give_back(self, *pieces: P, rest: P | None = None) -> None:
        """Pieces that were taken are not through: the next worker takes them, or ``rest`` in the place of one."""
        with self._changed:
            self._out.difference_update(pieces)
            for piece in pieces if rest is None else (rest,):
                heapq.heappush(self._queue, piece)
            self._changed.notify_all()

    def put_off(self, piece: P) -> None:
        """A piece that was taken cannot be moved now; all others come before it."""
        with self._changed:
            self._out.discard(piece)
            self._later.append(piece)
            self._changed.notify_all()

    def revise(self, *, lost: Iterable[P], through: set[P]) -> None:
        """What the other side says: pieces that are to be moved again, and some that need not be moved any more."""
        with self._changed:
            self._queue = sorted({*self._queue, *lost} - through - self._out)
            self._later = [piece for piece in self._later if piece not in through]
            self._changed.notify_all()


class Gauge:
    """How far a transfer is, told by several threads: one at a time, and never backwards. Safe in any thread."""

    def __init__(self, say: Callable[[int], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._whole = 0
        self._partly: dict[Any, int] = {}
        self._sum = 0
        self._said = -1

    @property
    def bytes(self) -> int:
        """What is through, of pieces under way as well; less than before when some of it was lost again."""
        return self._whole + self._sum

    def begin(self, count: int) -> None:
        """So many bytes are through before anything is moved; pieces under way count on."""
        with self._lock:
            self._whole = count
            self._tell()

    def partly(self, piece: Any, count: int) -> None:
        """So many bytes of a piece are through."""
        with self._lock:
            self._sum += count - self._partly.get(piece, 0)
            self._partly[piece] = count
            self._tell()

    def done(self, piece: Any, count: int) -> None:
        """A piece is through, all its bytes."""
        with self._lock:
            self._sum -= self._partly.pop(piece, 0)
            self._whole += count
            self._tell()

    def dropped(self, piece: Any) -> None:
        """A piece has to be moved again."""
        with self._lock:
            self._sum -= self._partly.pop(piece, 0)

    def _tell(self) -> None:
        count = self._whole + self._sum
        if count > self._said:
            self._said = count
            self._say(count)
