"""The power fails under a server at work, at random moments; one checker (``book``) on the disk as it comes back.

The server is a real one, forked from a process that is warm, killed together with the power of its ext4. What is cut
is what the kernel had not given to the disk yet; a disk that loses what it has acknowledged is another matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.client.putting import Put
from ftpy.config.server import Events, Limits
from ftpy.digests import new_hasher
from ftpy.errors import ConnectionFailed, FtpyError
from ftpy.files import RemotePath
from ftpy.storage.base import Condition
from ftpy.storage.journal import parse
from ftpy.wire.messages import StoredReply
from tests.rigs.book import Book, version_of, version_of_bytes
from tests.rigs.cutwholes import WHOLES, RootBelief, Tree, mixes
from tests.rigs.disks import MIB, PoweredDisk
from tests.rigs.feeding import SETTLE_SECONDS
from tests.rigs.kill import PUT_SECONDS, connected
from tests.rigs.nursery import AT_ONCE, INLINE, KIB, ForkedHost, Nursery
from tests.rigs.processes import served_within, told_by, until

MOST_ACKNOWLEDGED = 12
"""The cut comes after a random number of acknowledgements below this, and a random moment."""
MOMENT_SECONDS = 0.03
LONGEST_SECONDS = 2.0
"""From the coming of the clients to the cut, at most, however slow they are."""
CLIENTS = 3
FRESH_AFTER = 100
"""Cycles after which the disk is made anew: uploads of unknown length that nobody can resume fill it. The feed is on
for every other one.
"""


LOSSES = ("is gone", "torn or old", "is back", "is a mix")
CONTROLS = {"no-directory-sync": LOSSES, "no-file-sync": LOSSES, "late-feed": ("in the feed",)}
"""Broken builds, and what a sentence that tells them has in it."""


@dataclass
class Report:
    """What the rig has seen; ``violations`` are sentences, none of which may be there."""

    cycles: int = 0
    acknowledged: dict[str, int] = field(default_factory=dict)
    """Acknowledgements by what was asked for."""
    cut: int = 0
    """Requests that were under way when the power failed."""
    resumed: int = 0
    """Puts that went on after the power had come back."""
    parts: int = 0
    """Parts that a journal called durable, each compared with the disk."""
    served: list[float] = field(default_factory=list)
    """Seconds from the start of the server until a client had listed."""
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self, name: str) -> str:
        """The figures."""
        each = ", ".join(f"{count} {word}" for word, count in sorted(self.acknowledged.items()))
        served = f"served after {statistics.median(self.served):.2f} s, at most {max(self.served):.2f} s"
        return (
            f"{name}: {self.cycles} power cuts in {self.seconds:.0f} s; acknowledged: {each}; {self.cut} cut off, "
            f"{self.resumed} uploads resumed, {self.parts} durable parts compared; {served}; "
            f"{len(self.violations)} violations"
        )


class Worker(threading.Thread):
    """One client that asks for one thing after the other, in a folder of its own, until its connection is lost."""

    def __init__(self, number: int, rig: PowerCut, rng: random.Random) -> None:
        super().__init__(name=f"client-{number}")
        self._rig, self.book, self.rng = rig, rig.book, rng
        self.name_of_folder = f"client-{number}"
        self.source = rig.host.folder / f"source-{number}"
        self.unfinished: tuple[Path, str] | None = None
        """A put in parts that the last cut has interrupted: where it comes from and goes to."""
        self.told: list[str] = []
        self.wholes: list[Tree] = []
        """Trees that were put at once in this life of the server: the one that is there, and the one before."""
        self.folders: set[str] = set()
        """Those that were made, and acknowledged."""

    def again(self) -> Worker:
        """The same client, for another life of the server."""
        other = Worker(int(self.name_of_folder.rpartition("-")[2]), self._rig, self.rng)
        other.unfinished, other.folders = self.unfinished, self.folders
        return other

    def run(self) -> None:
        """Until the power fails; anything else is wrong."""
        asked = "nothing"
        try:
            with self._rig.host.client(transfer=AT_ONCE, notify=self.told.append) as client:
                self._resume(client)
                while not self._rig.is_over.is_set():
                    verb = self.rng.choice(VERBS + WHOLES)
                    asked = verb.__name__.removeprefix("_").replace("_", " ")
                    if verb(self, client):
                        self._rig.acknowledged(asked)
        except ConnectionFailed:
            self._rig.report.cut += 1
        except FtpyError as error:
            # The disk is gone before the connection is: that is said truthfully.
            if not self._rig.power_is_off.is_set():
                self._rig.violation(f"{asked} failed while the power was on: {type(error).__name__}: {error}")
            self._rig.report.cut += 1

    # ---------------------------------------------------------------- what is asked for: whether it was

    def _path(self, kind: str, count: int) -> str:
        return f"{self.name_of_folder}/{kind}-{self.rng.randrange(count)}"

    def _all_there(self) -> list[str]:
        """Paths of ours where a file is."""
        return [
            path
            for path, truth in sorted(self.book.copy().items())
            if path.startswith(f"{self.name_of_folder}/") and truth.acknowledged and not truth.under_way
        ]

    def there(self, kinds: tuple[str, ...]) -> str | None:
        """One of them, of these kinds."""
        fitting = [path for path in self._all_there() if path.rpartition("/")[2].split("-")[0] in kinds]
        return self.rng.choice(fitting) if fitting else None

    def _store(self, client: Client, path: str, size: int, condition: Condition = None) -> bool:
        data = self.rng.randbytes(size)
        self.source.write_bytes(data)
        self.book.begin(path, version_of_bytes(data))
        client.put(self.source, path, condition=condition)
        self.book.acknowledge(path)
        return True

    def _small(self, client: Client) -> bool:
        return self._store(client, self._path("small", 40), self.rng.choice([0, 1, self.rng.randrange(INLINE)]))

    def _new(self, client: Client) -> bool:
        path = f"{self.name_of_folder}/new-{self.rng.randrange(10**9)}/{self.rng.randrange(2)}"
        return self._store(client, path, self.rng.randrange(4096), "absent")

    def _swap(self, client: Client) -> bool:
        if (path := self.there(("small", "swapped"))) is None:
            return False
        return self._store(client, path, self.rng.randrange(4096), client.digest(path))

    def _group(self, client: Client) -> bool:
        """Small puts sent one behind the other, made durable together."""
        connection = Connection.open(self._rig.host.profile(), AT_ONCE)
        try:
            paths = [f"{self.name_of_folder}/grouped-{n}" for n in self.rng.sample(range(60), 12)]
            for path in paths:
                self._send(connection, path, self.rng.randbytes(self.rng.randrange(4096)))
            for path in paths:
                connection.wait(StoredReply)
                self.book.acknowledge(path)
        finally:
            connection.close()
        return True

    def _send(self, connection: Connection, path: str, data: bytes) -> None:
        self.book.begin(path, version_of_bytes(data))
        put = Put(RemotePath.parse(path), "md5", None, lambda _: None)
        request = put.request(
            connection.next_id(), file_size=len(data), mtime_ns=time.time_ns(), mode=None, length=len(data)
        )
        connection.channel.send(request)
        connection.channel.send_body(data)
        connection.channel.send_trailer("md5", hashlib.md5(data, usedforsecurity=False).hexdigest())

    def _remove(self, client: Client) -> bool:
        if (path := self.there(("small", "grouped", "large"))) is None:
            return False
        self.book.begin(path, None)
        client.rm(path)
        self.book.acknowledge(path)
        return True

    def _remove_folder(self, client: Client) -> bool:
        """A folder of ``_new``, with what is in it."""
        made = {path.rpartition("/")[0] for path in self._all_there() if "/new-" in path}
        if not made:
            return False
        folder = self.rng.choice(sorted(made))
        paths = [path for path in self.book.copy() if path.startswith(f"{folder}/")]
        for path in paths:
            self.book.begin(path, None)
        client.rm(folder, recursive=True)
        for path in paths:
            self.book.acknowledge(path)
        return True

    def _move(self, client: Client) -> bool:
        """To a new name, or over another file."""
        source, target = self.there(("small", "large", "moved")), self._path("moved", 6)
        if source is None or source == target:
            return False
        move = self.book.begin_move(source, target)
        client.mv(source, target)
        self.book.acknowledge_move(move)
        return True

    def _large(self, client: Client) -> bool:
        path = self._path("large", 4)
        source = self.source.with_name(f"{self.source.name}-large")
        data = self.rng.randbytes(self.rng.randrange(2 * INLINE, 2 * MIB))
        source.write_bytes(data)
        self.book.begin(path, version_of_bytes(data))
        self.unfinished = source, path
        client.put(source, path)
        self.book.acknowledge(path)
        self.unfinished = None
        return True

    def _stream(self, client: Client) -> bool:
        path = self._path("stream", 3)
        data = self.rng.randbytes(self.rng.randrange(400 * KIB))
        self.source.write_bytes(data)
        self.book.begin(path, version_of_bytes(data))
        with open(self.source, "rb") as stream:
            client.put(stream, path)
        self.book.acknowledge(path)
        return True

    def _resume(self, client: Client) -> None:
        """Go on with a put that was cut off, which must not find anything that is not really there."""
        if self.unfinished is None:
            return
        source, path = self.unfinished
        self.book.begin(path, version_of(source))
        done = client.put(source, path)
        self.book.acknowledge(path)
        self._rig.acknowledged("large")
        self._rig.report.resumed += bool(done.resumed)
        self.unfinished = None
        for sentence in self.told:
            self._rig.violation(f"the put of {path} could not just go on: {sentence}")


VERBS: tuple[Callable[[Worker, Client], bool], ...] = (
    Worker._small,
    Worker._small,
    Worker._new,
    Worker._swap,
    Worker._group,
    Worker._remove,
    Worker._remove_folder,
    Worker._move,
    Worker._large,
    Worker._large,
    Worker._stream,
)


class PowerCut:
    """A disk, a server on it, and clients; ``cycle`` by ``cycle``."""

    def __init__(self, host: ForkedHost, disk: PoweredDisk, rng: random.Random, report: Report, clients: int) -> None:
        self.host, self.report = host, report
        self.book = Book()
        self.is_over, self.power_is_off = threading.Event(), threading.Event()
        self._disk, self._rng = disk, rng
        self._lock = threading.Lock()
        self._fresh = 0
        self._belief = RootBelief(host.root) if host.events.days else None
        self._workers = [Worker(number, self, random.Random(rng.random())) for number in range(clients)]

    def acknowledged(self, what: str) -> None:
        """Something was acknowledged."""
        with self._lock:
            self._fresh += 1
            self.report.acknowledged[what] = self.report.acknowledged.get(what, 0) + 1

    def violation(self, sentence: str) -> None:
        """Something is wrong."""
        with self._lock:
            self.report.violations.append(f"cycle {self.report.cycles}: {sentence}")

    def cycle(self) -> None:
        """Start, work, cut, and look at what came back."""
        self.is_over.clear()
        self.power_is_off.clear()
        self._fresh = 0
        self._start()
        self._workers = [worker.again() for worker in self._workers]
        for worker in self._workers:
            worker.start()
        self._wait_for_moment()
        self.is_over.set()
        self.power_is_off.set()
        self._disk.cut()
        self.host.kill()
        for worker in self._workers:
            worker.join(PUT_SECONDS)
            if worker.is_alive():
                self.violation(f"{worker.name} hangs")
        self._disk.unmount()
        self._disk.mount()
        self.report.cycles += 1
        for fault in [*mixes(self.host.root), *self.book.settle(self.host.root)]:
            self.violation(fault)
        for worker in self._workers:
            for folder in worker.folders:
                if not (self.host.root / folder).is_dir():
                    self.violation(f"the folder {folder} was made and is gone")
        self._check_parts()

    def _wait_for_moment(self) -> None:
        wanted, end = self._rng.randrange(MOST_ACKNOWLEDGED), time.monotonic() + LONGEST_SECONDS
        while self._fresh < wanted and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(self._rng.uniform(0, MOMENT_SECONDS))

    def _start(self) -> None:
        since = time.monotonic()
        self.host.spawn()
        with connected(self.host, since) as client:
            listed = {str(info.path) for info in client.ls(recursive=True) if info.type == "file"}
        self.report.served.append(time.monotonic() - since)
        if self.report.served[-1] > served_within():
            self.violation(f"served after {self.report.served[-1]:.2f} s")
        there = {path for path, truth in self.book.copy().items() if truth.acknowledged}
        if listed != there:
            self.violation(f"listed is not what is there: {sorted(listed ^ there)[:5]}")
        if self._belief is not None:
            self._compare(self._belief, since)

    def _compare(self, belief: RootBelief, since: float) -> None:
        """Nothing is under way: what the feed makes one believe is what is there, sooner or later."""

        def agree() -> bool:
            with connected(self.host, since) as client:
                for event in client.events(belief.cursor):
                    belief.hear(event)
            return not belief.faults()

        if not until(agree, SETTLE_SECONDS, 0.05):
            for fault in belief.faults():
                self.violation(fault)

    def _check_parts(self) -> None:
        """What a journal calls durable is on the disk, byte for byte."""
        for journal in (self.host.root / ".ftpy" / "uploads").glob("*.journal"):
            contents = parse(journal.read_bytes())
            durable = {number: part for number, part in contents.parts.items() if part.durable}
            stored = journal.with_suffix(".data")
            if not durable or contents.meta is None or not stored.exists():  # published already, or never begun
                continue
            data = stored.read_bytes()
            for number, part in durable.items():
                hasher = new_hasher(part.digest_name)
                hasher.update(data[number * contents.meta.part_size :][: part.length])
                self.report.parts += 1
                if hasher.hexdigest() != part.digest:
                    self.violation(f"part {number} of {journal.stem} is called durable and is not there")

    def finish(self) -> None:
        """Every file comes back by get, with the digest of the day it was put."""
        since = time.monotonic()
        self.host.spawn()
        target = self.host.folder / "back"
        with connected(self.host, since) as client:
            for path, truth in sorted(self.book.copy().items()):
                if truth.acknowledged is None:
                    continue
                client.get(path, target, force=True)
                if version_of(target) != truth.acknowledged:
                    self.violation(f"{path} comes back as other bytes")
        if not self.host.stop():
            self.violation("the server did not stop well")


def rig_powercut(folder: Path, cycles: int, seed: int, *, clients: int = CLIENTS) -> Report:
    """Cut the power ``cycles`` times, with a disk made anew from time to time."""
    report, began = Report(), time.monotonic()
    with Nursery("small-parts") as nursery:
        share = min(FRESH_AFTER, -(-cycles // 2))
        while report.cycles < cycles:
            feed = report.cycles // share % 2 == 1  # off and on in turn
            with _working(folder / f"from-{report.cycles}", nursery, report, seed, clients, feed=feed) as rig:
                for _ in range(min(share, cycles - report.cycles)):
                    rig.cycle()
                rig.finish()
    report.seconds = time.monotonic() - began
    return report


def cycles_to_a_loss(folder: Path, most: int, seed: int, build: str) -> Report:
    """The control: a broken build under one client, until it is told, or ``most`` cycles.

    One client alone: what another one syncs would make durable what this build has left.
    """
    report, began, feed = Report(), time.monotonic(), build == "late-feed"
    with Nursery("small-parts", build) as nursery, _working(folder / build, nursery, report, seed, 1, feed=feed) as rig:
        while report.cycles < most and told_by(report.violations, CONTROLS[build]) is None:
            rig.cycle()
    report.seconds = time.monotonic() - began
    return report


@contextlib.contextmanager
def _working(
    folder: Path, nursery: Nursery, report: Report, seed: int, clients: int, *, feed: bool = False
) -> Iterator[PowerCut]:
    folder.mkdir()
    with PoweredDisk(folder) as disk:
        limits = Limits(inline_bytes=INLINE)
        host = ForkedHost(
            folder / "host",
            tls=False,
            limits=limits,
            nursery=nursery,
            root_at=disk.place / "files",
            state_at=disk.place / "state",
            events=Events(days=1 if feed else 0),
        )
        try:
            yield PowerCut(host, disk, random.Random(f"{seed} {report.cycles}"), report, clients)
        finally:
            host.kill()
