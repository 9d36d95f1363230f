"""The work of a tree, shared out among its connections: small files by the handful, large ones piece by piece."""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, cast

from ftpy.client.connection import Connection
from ftpy.client.lines import Alone, Count, Worker, endless
from ftpy.client.pieces import LOOK_SECONDS
from ftpy.client.streams import PIECE_BYTES
from ftpy.errors import ConnectionFailed, ConnectionLost, FtpyError
from ftpy.files import RemotePath
from ftpy.timing import IDLE

MOST_LARGE = 1_024
"""Large files kept waiting, so that the largest is begun first."""
MOST_ENDS = 1_024
"""Folders whose files are through and whose time is still to be set, before that is done."""
SHARED_BYTES = 2 * PIECE_BYTES
"""From this size on a file is open to several connections at once, where there are several."""


def check_step(connection: Connection) -> None:
    """Raises ConnectionLost where a file that failed, in the middle, has cost us the connection as well."""
    if not connection.in_step:
        raise ConnectionLost("a file that failed was half on its way")


class Job:
    """One file to be moved; ``size`` in bytes as it was found."""

    __slots__ = ("alone", "name", "path", "size", "tries")

    def __init__(self, path: RemotePath, name: str, size: int, *, alone: bool = False) -> None:
        self.path, self.name, self.size = path, name, size
        self.alone = alone
        """It is not for the pipeline: it is large, or something must be asked first."""
        self.tries = 0

    def __lt__(self, other: Job) -> bool:
        return self.size > other.size


J = TypeVar("J", bound=Job)
E = TypeVar("E")


class Smalls(list[J]):
    """Jobs for the pipeline."""


class Ends(list[E]):
    """Folders that nothing is under way in any more."""


class Joint:
    """A large file that one connection is at, and that others may join: ``worker`` takes a piece after the other."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.helpers: set[Connection] = set()


class Work(Generic[J, E]):
    """The jobs of a tree, shared by the workers of several connections: small ones as they are found, of those that go
    ``alone`` the largest first, and folders' ends when all that was found before them is through. Safe in any thread.
    """

    BATCH = 64
    """Small jobs handed out at a time."""

    def __init__(self, source: Iterable[J | E]) -> None:
        self._source: Iterator[J | E] = iter(source)
        self._changed = threading.Condition()
        self._again: deque[J] = deque()
        self._large: list[J] = []
        self._ends: Ends[E] = Ends()
        self._read = False
        self.failure: FtpyError | None = None
        """What ended the source early. What it had given before is done all the same; who runs it raises this then."""
        self._stopped = False
        self._out = 0
        self._joints: list[Joint] = []

    def take(self, leaving: threading.Event, *, idle: bool) -> Smalls[J] | Ends[E] | J | Joint | None:
        """Small jobs, a large one, ends of folders, a large one of another's to ``join``; None: nothing now, or when
        ``idle`` nothing ever again; or we are leaving.

        ``idle`` says that the caller has nothing under way; only then it is given what must wait for others.
        """
        with self._changed:
            while not self._stopped and not leaving.is_set():
                if self._again:
                    return self._hand(Smalls(self._again.popleft() for _ in range(min(self.BATCH, len(self._again)))))
                full = len(self._ends) >= MOST_ENDS
                busy = self._out > 0
                if not full and not self._read and (small := self._small(others=busy and idle)):
                    return self._hand(small)
                if self._large and (idle or not self._read):
                    if not idle:
                        return None
                    job = heapq.heappop(self._large)
                    self._out += 1
                    return job
                if not idle:
                    return None
                if not busy:
                    if not self._ends:
                        return None
                    ends, self._ends = self._ends, Ends()
                    return ends
                if self._joints:
                    return self._joints[0]
                with IDLE:
                    self._changed.wait(LOOK_SECONDS)
            return None

    @contextlib.contextmanager
    def shared(self, worker: Worker) -> Iterator[None]:
        """While a large file's pieces are moved inside, others may join in; they are through when it ends."""
        joint = Joint(worker)
        with self._changed:
            self._joints.append(joint)
            self._changed.notify_all()
        try:
            yield
        except ConnectionFailed:
            raise  # the others go on: what they move need not be moved again
        except BaseException:
            with self._changed:
                for connection in joint.helpers:
                    connection.abandon()
            raise
        finally:
            with self._changed, IDLE:
                self._withdraw(joint)
                self._changed.wait_for(lambda: not joint.helpers)

    def join(self, connection: Connection, joint: Joint) -> None:
        """Move pieces of another's large file until none is left. Raises ConnectionFailed.

        What else fails is for whoever began it to meet, or to do without.
        """
        with self._changed:
            if joint not in self._joints:
                return
            joint.helpers.add(connection)
        try:
            joint.worker(connection)
        except ConnectionFailed:
            raise
        except FtpyError:
            with self._changed:
                self._withdraw(joint)
            check_step(connection)
        else:
            if not connection.leaving.is_set():
                with self._changed:
                    self._withdraw(joint)
        finally:
            with self._changed:
                joint.helpers.discard(connection)
                self._changed.notify_all()

    def _withdraw(self, joint: Joint) -> None:
        if joint in self._joints:
            self._joints.remove(joint)

    def _small(self, *, others: bool) -> Smalls[J]:
        """The next small jobs; what is large or an end is put aside on the way.

        Where ``others`` are at work on small ones already, a large one is left for the caller.
        """
        batch: Smalls[J] = Smalls()
        while len(batch) < self.BATCH and len(self._ends) < MOST_ENDS and len(self._large) < MOST_LARGE:
            if others and self._large:
                break
            try:
                found = next(self._source, None)
            except FtpyError as error:  # not for a worker, who would take it for a failure of his own connection
                self.failure, found = error, None
            if found is None:
                self._read = True
                break
            if not isinstance(found, Job):
                self._ends.append(found)
            else:
                job = cast(J, found)
                if job.alone:
                    heapq.heappush(self._large, job)
                else:
                    batch.append(job)
        return batch

    def _hand(self, jobs: Smalls[J]) -> Smalls[J]:
        self._out += len(jobs)
        return jobs

    def done(self, count: int = 1) -> None:
        """So many of the jobs that were taken are through, well or not."""
        with self._changed:
            self._out -= count
            if not self._out:
                self._changed.notify_all()

    def give_back(self, jobs: Iterable[J]) -> None:
        """The connection was lost: another worker takes them up."""
        with self._changed:
            for job in jobs:
                self._out -= 1
                if job.alone:
                    heapq.heappush(self._large, job)
                else:
                    self._again.append(job)
            self._changed.notify_all()

    def give_back_ends(self, ends: Iterable[E]) -> None:
        """The connection was lost before they were set."""
        with self._changed:
            self._ends[:0] = ends

    def left(self) -> list[J]:
        """The jobs that nobody has in hand and that are not through."""
        with self._changed:
            return [*self._again, *self._large]

    def give_up(self, failure: FtpyError) -> None:
        """Nothing more can be done: what is under way ends, and who runs it raises this."""
        with self._changed:
            self.failure = self.failure or failure
        self.stop()

    def stop(self) -> None:
        """Nothing more is handed out."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class SharedLine(Alone):
    """One connection of a tree's, at a large file whose pieces the ``work``'s others may take, too."""

    several = True

    def __init__(self, connection: Connection, work: Work[J, E]) -> None:
        super().__init__(connection)
        self._work = work

    def run(self, worker: Worker, moved: Count, left: Callable[[], float] = endless, /) -> None:
        """Work on it, with whoever joins in."""
        with self._work.shared(worker):
            super().run(worker, moved, left)
