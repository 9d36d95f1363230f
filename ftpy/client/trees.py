"""What putting and getting a tree have in common: what is wanted, how far it is, what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from ftpy.client.results import OnProgress, Progress
from ftpy.client.walking import Links, Selection
from ftpy.digests import DigestName
from ftpy.errors import FtpyError
from ftpy.files import RemotePath
from ftpy.storage.versions import told_ns

if TYPE_CHECKING:
    from ftpy.client.work import Job

MOST_IN_FLIGHT = 16_384
"""Small files under way on one connection: 100 ms of a line that takes 160,000 a second."""
MOST_BYTES_IN_FLIGHT = 32 * 1024 * 1024
"""Bytes of small files asked for and not yet here: 100 ms of a line of 2.5 Gbit/s."""
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
    swapped: bool = False
    """All of it was put in place at once; what was there before is kept."""


def _nothing(_: object) -> None:
    return None


class Choices(Struct, frozen=True, kw_only=True):
    """What is to be transferred of a tree, and how, whether as it is or by the plan of a sync.

    ``by_digest`` takes files for identical by their content instead of size and time; ``dry_run`` only tells.
    ``on_told`` hears of every file, ``on_progress`` several times a second, both from any thread, one at a time.
    """

    digest: DigestName = "md5"
    selection: Selection = field(default_factory=Selection)
    links: Links = "skip"
    by_digest: bool = False
    dry_run: bool = False
    on_told: Callable[[Told], None] = _nothing
    on_progress: Callable[[TreeProgress], None] = _nothing


class TreeOptions(Choices, frozen=True, kw_only=True):
    """How a tree is transferred.

    ``force`` replaces different files on this side; ``if_absent`` none on the server; there, what is replaced is kept
    under an ``operation``; ``atomic`` puts all of it in place at once.
    """

    force: bool = False
    if_absent: bool = False
    operation: str | None = None
    atomic: bool = False


def same_time(one_ns: int, other_ns: int) -> bool:
    """Whether two times of files can be the same, as far as the protocol tells them."""
    return abs(told_ns(one_ns) - told_ns(other_ns)) < SAME_TIME_NS


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
        self.there = 0
        """Bytes of the files that the other side has now."""
        self._watched: dict[str, int] = {}
        """Bytes of large files under way that have moved, or need not."""

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
                        self.there += told.size
                        self.moved += told.size - self._watched.pop(told.name, 0)
                    case "identical":
                        result.identical += 1
                        self.there += told.size
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
        self._watched.pop(job.name, None)

        def on_progress(part: Progress) -> None:
            with self._lock:
                if part.phase in ("sending", "receiving"):
                    before = self._watched.get(job.name, part.done)  # what was there already has not moved
                    self._watched[job.name] = max(before, part.done)
                    self.moved += max(0, part.done - before)
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
