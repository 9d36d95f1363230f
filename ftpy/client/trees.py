"""What putting and getting a tree have in common: the work shared out, what came of it, how far it is."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Literal, TypeVar, cast

from msgspec import Struct, field

from ftpy.client.results import OnProgress, Progress, ignore
from ftpy.client.walking import Links, Selection
from ftpy.digests import DigestName
from ftpy.errors import FtpyError
from ftpy.files import RemotePath
from ftpy.timing import IDLE

MOST_IN_FLIGHT = 16_384
"""Small files under way on one connection: 100 ms of a line that takes 160,000 a second."""
MOST_BYTES_IN_FLIGHT = 32 * 1024 * 1024
"""Bytes of small files asked for and not yet here: 100 ms of a line of 2.5 Gbit/s."""
MOST_LARGE = 1_024
"""Large files kept waiting, so that the largest is begun first."""
MOST_ENDS = 1_024
"""Folders whose files are through and whose time is still to be set, before that is done."""
MOST_TOLD = 1_000
"""Failures kept for the end; more are counted only."""
OWNER_BITS = 0o700
"""A folder's owner keeps these, or the next transfer could not go on in it."""
FILE_TRIES = 3
"""How often a file is sent that arrives broken or changes while it is read."""
SAME_TIME_NS = 1_000
"""Times that differ by less are one time: some file systems count in tenths of microseconds."""

Verdict = Literal["sent", "received", "identical", "link", "special", "failed"]


class Told(Struct, frozen=True):
    """What came of one file: ``name`` on this side, ``path`` on the server, ``error`` where it failed."""

    verdict: Verdict
    path: RemotePath
    name: str
    size: int = 0
    error: FtpyError | None = None


class TreeProgress(Struct):
    """How far a tree is; the totals grow while the tree is read, and are final when ``known``."""

    files: int = 0
    bytes: int = 0
    total_files: int = 0
    total_bytes: int = 0
    known: bool = False
    current: str = ""
    """The large file that is under way."""
    part: Progress | None = None
    """How far that one is."""


class TreeResult(Struct):
    """What came of a tree; ``size`` counts the bytes of what was transferred."""

    files: int = 0
    size: int = 0
    identical: int = 0
    links: int = 0
    special: int = 0
    failed: int = 0
    failures: list[Told] = field(default_factory=list)
    """The first MOST_TOLD of those that failed."""
    seconds: float = 0.0


def _nothing(_: object) -> None:
    return None


class TreeOptions(Struct, frozen=True):
    """How a tree is transferred.

    ``by_digest`` takes files for identical by their content instead of size and time; ``dry_run`` only tells;
    ``force`` replaces different files on this side; ``if_absent`` none on the server.
    ``on_told`` hears of every file, ``on_progress`` several times a second, both from any thread, one at a time.
    """

    digest: DigestName = "md5"
    selection: Selection = field(default_factory=Selection)
    links: Links = "skip"
    by_digest: bool = False
    dry_run: bool = False
    force: bool = False
    if_absent: bool = False
    on_told: Callable[[Told], None] = _nothing
    on_progress: Callable[[TreeProgress], None] = _nothing


def same_time(one_ns: int, other_ns: int) -> bool:
    """Whether two times of files can be the same."""
    return abs(one_ns - other_ns) < SAME_TIME_NS


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


class Tally:
    """Counts and tells what came of each file. Safe in any thread."""

    SECONDS = 0.05
    """How often progress is said at most."""

    def __init__(self, options: TreeOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._began = self._said = time.monotonic()
        self.progress = TreeProgress()
        self.result = TreeResult()
        self.moved = 0
        """Bytes, and one for every file, that moved: so that whoever retries or measures can tell."""

    def found(self, size: int) -> None:
        """A file that is meant, of ``size`` bytes."""
        self.progress.total_files += 1
        self.progress.total_bytes += size

    def tell(self, told: Told) -> None:
        """What came of one file."""
        self.tell_all([told])

    def tell_all(self, several: Iterable[Told]) -> None:
        """What came of each of several files."""
        result, progress, on_told = self.result, self.progress, self._options.on_told
        with self._lock:
            for told in several:
                match told.verdict:
                    case "sent" | "received":
                        result.files += 1
                        result.size += told.size
                        self.moved += told.size
                    case "identical":
                        result.identical += 1
                    case "link":
                        result.links += 1
                    case "special":
                        result.special += 1
                    case "failed":
                        result.failed += 1
                        if len(result.failures) < MOST_TOLD:
                            result.failures.append(told)
                progress.files += 1
                progress.bytes += told.size
                self.moved += 1
                on_told(told)
            self._say()

    def watch(self, job: Job) -> OnProgress:
        """The progress of one large file as part of the whole's."""
        if self._options.on_progress is _nothing:
            return ignore

        def on_progress(part: Progress) -> None:
            with self._lock:
                self.moved += 1
                self.progress.current, self.progress.part = job.name, part
                self._say()

        return on_progress

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._said > self.SECONDS:
            self._said = now
            self._options.on_progress(self.progress)

    def finish(self) -> TreeResult:
        """All is done: the last progress, the result."""
        with self._lock:
            self.progress.part = None
            self._options.on_progress(self.progress)
            self.result.seconds = time.monotonic() - self._began
        return self.result


J = TypeVar("J", bound=Job)
E = TypeVar("E")


class Smalls(list[J]):
    """Jobs for the pipeline."""


class Ends(list[E]):
    """Folders that nothing is under way in any more."""


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
        self._stopped = False
        self._out = 0

    def take(self, *, idle: bool) -> Smalls[J] | Ends[E] | J | None:
        """Small jobs, a large one, ends of folders; None: nothing now, or when ``idle`` nothing ever again.

        ``idle`` says that the caller has nothing under way; only then it is given what must wait for others.
        """
        with self._changed:
            while not self._stopped:
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
                with IDLE:
                    self._changed.wait()
            return None

    def _small(self, *, others: bool) -> Smalls[J]:
        """The next small jobs; what is large or an end is put aside on the way.

        Where ``others`` are at work on small ones already, a large one is left for the caller.
        """
        batch: Smalls[J] = Smalls()
        while len(batch) < self.BATCH and len(self._ends) < MOST_ENDS and len(self._large) < MOST_LARGE:
            if others and self._large:
                break
            found = next(self._source, None)
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

    def stop(self) -> None:
        """Nothing more is handed out."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
