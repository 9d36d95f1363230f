"""kill -9 of server, worker or client while eight uploads and a tree are under way (promises 1, 2, 4, 5, 7).

The clients are threads of one process, the *crowd*, forked from a warm one: ``python -m tests.rigs.crowd``. It writes a
line before it begins something and one after it was acknowledged; what was written is in the pipe, whoever dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ftpy.client import lines
from ftpy.client.client import Client
from ftpy.client.trees import Told, TreeOptions
from ftpy.config.client import Profile
from ftpy.errors import FtpyError
from tests.rigs.book import Book, Version, version_of
from tests.rigs.kill import PATIENT, PUT_SECONDS, Report, base_of, check_base, connected, stored_parts
from tests.rigs.nursery import REPOSITORY, ForkedHost, Nursery
from tests.rigs.processes import MIB, Usage, served_within, until, write_noise

UPLOADS = 8
PATHS_EACH = 2
"""Paths that each of the uploaders puts to in turn."""
SIZES = (9 * MIB + 1, 17 * MIB, 25 * MIB - 7)
"""Two to four parts, bytes."""
TREES = 3
TREE_FILES = 120
TREE_LARGE = 2
MOST_PARTS = 12
"""A kill comes when fewer than so many parts lie in unfinished uploads."""
LONGEST_SECONDS = 2.0
"""Or after so long."""
SURE_LOOKS, SURE_SECONDS = 5, 3.0
"""What is wrong in the same way so often, for so long, is wrong; else it may have changed while it was looked at."""
WORKERS = 3


# ------------------------------------------------------------------ the crowd's own process


@dataclass(frozen=True)
class Order:
    """What a crowd is to do: ``first`` are puts that were cut off, (source, path), which go on before all else."""

    profile: dict[str, Any]
    sources: list[str]
    trees: list[str]
    first: list[tuple[str, str]]
    seed: int


class Crowd:
    """The threads of one crowd."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._profile = msgspec.convert(order.profile, Profile)
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until it is killed."""
        threads = [threading.Thread(target=self._guarded, args=(self._upload, number)) for number in range(UPLOADS)]
        threads.append(threading.Thread(target=self._guarded, args=(self._tree, UPLOADS)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _say(self, *words: object) -> None:
        line = json.dumps(words).encode() + b"\n"
        with self._lock:
            os.write(1, line)  # at once or not at all: it is shorter than PIPE_BUF

    def _guarded(self, work: Any, number: int) -> None:
        """Every failure is one: the retries are meant to see a restart through."""
        try:
            with Client(self._profile, PATIENT) as client:
                work(client, random.Random(f"{self._order.seed} {number}"), number)
        except FtpyError as error:
            self._say("failed", f"client {number}: {type(error).__name__}: {error}")

    def _upload(self, client: Client, rng: random.Random, number: int) -> None:
        for source, path in self._order.first:
            if path.startswith(f"up-{number}/"):
                self._put(client, source, path)
        while True:
            self._put(client, rng.choice(self._order.sources), f"up-{number}/{rng.randrange(PATHS_EACH)}")

    def _put(self, client: Client, source: str, path: str) -> None:
        self._say("begin", source, path)
        stored = client.put(source, path)
        self._say("done", path, stored.resumed)

    def _tree(self, client: Client, rng: random.Random, _: int) -> None:
        while True:
            source, target = rng.choice(self._order.trees), f"tree-{rng.randrange(TREES)}"
            self._say("begin tree", source, target)
            failures = client.put_tree(source, target, TreeOptions(by_digest=True, on_told=self._told)).failures
            for failure in failures:
                self._say("failed", f"{failure.path}: {failure.error}")
            self._say("done tree", target)

    def _told(self, told: Told) -> None:
        if told.verdict in ("sent", "identical"):
            self._say("done", str(told.path), 0)


def _main() -> None:
    """A line with an order: fork a crowd, and say its process id; an empty line: wait for its end."""
    lines.BACKOFF_SECONDS = 0.02  # else most of the time nothing would be under way
    crowd = 0
    for line in sys.stdin:
        if line.strip():
            crowd = os.fork()
            if crowd == 0:
                try:
                    Crowd(msgspec.json.decode(line, type=Order)).run()
                finally:
                    os._exit(70)
            os.write(1, b'["started", %d]\n' % crowd)
        elif crowd:
            os.waitpid(crowd, 0)
            crowd = 0
            os.write(1, b'["ended"]\n')
    if crowd:
        os.kill(crowd, signal.SIGKILL)


# ------------------------------------------------------------------ the rig


class Keeper:
    """Starts crowds and keeps the book of what they say."""

    def __init__(self, host: ForkedHost, report: Report, folder: Path, seed: int) -> None:
        self.book, self._report, self._host = Book(), report, host
        folder.mkdir()
        sources = [write_noise(folder / f"source-{n}", size, f"{seed} {n}") for n, size in enumerate(SIZES * 2)]
        trees = [_tree_at(folder / f"tree-{n}", f"{seed} {n}") for n in range(2)]
        self._versions: dict[str, Version] = {str(path): version_of(path) for path in sources}
        self._below = {
            str(tree): {str(path.relative_to(tree)): version_of(path) for path in tree.rglob("*") if path.is_file()}
            for tree in trees
        }
        self._order = Order({}, list(self._versions), list(self._below), [], 0)
        self._rng = random.Random(seed)
        self._under_way: dict[str, str] = {}
        self.resumed = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rigs.crowd"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        self._pid = 0
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, name="keeper")
        self._reader.start()

    def start(self) -> None:
        """A crowd; what the one before had under way comes first."""
        profile = msgspec.to_builtins(self._host.profile())
        first = [(source, path) for path, source in self._under_way.items()]
        order = Order(profile, self._order.sources, self._order.trees, first, self._rng.randrange(2**32))
        self._under_way = {}
        self._ended.clear()
        self._pid = 0
        self._tell(msgspec.json.encode(order))
        assert until(lambda: self._pid != 0)

    def kill(self) -> None:
        """kill -9 of the crowd, and all that it said has been read."""
        os.kill(self._pid, signal.SIGKILL)
        self._tell(b"")
        assert self._ended.wait(PUT_SECONDS)
        self._pid = 0

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it, and the crowd that it has now."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *arguments = json.loads(line)
            self._hear(word, arguments)

    def _hear(self, word: str, arguments: list[Any]) -> None:
        match word:
            case "started":
                (self._pid,) = arguments
            case "ended":
                self._ended.set()
            case "begin":
                source, path = arguments
                self._under_way[path] = source
                self.book.begin(path, self._versions[source])
            case "begin tree":
                source, target = arguments
                for name, version in self._below[source].items():
                    self.book.begin(f"{target}/{name}", version)
            case "done":
                path, resumed = arguments
                self._under_way.pop(path, None)
                self.resumed += resumed > 0
                self.book.acknowledge(path)
            case "failed":
                self._report.violations.append(arguments[0])


def _tree_at(folder: Path, seed: str) -> Path:
    rng = random.Random(seed)
    for number in range(TREE_FILES):
        path = folder / f"{number % 7}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 1000, 20_000])))
    for number in range(TREE_LARGE):
        write_noise(folder / f"large-{number}", SIZES[number], f"{seed} {number}")
    return folder


class Kills:
    """One server, one crowd, and one kill after the other."""

    def __init__(self, host: ForkedHost, keeper: Keeper, report: Report, base: Usage, seed: int) -> None:
        self._host, self._keeper, self._report, self._base = host, keeper, report, base
        self._rng = random.Random(seed)

    def round(self, victim: str) -> None:
        """Wait for a random moment, kill, look."""
        wanted = self._rng.randrange(MOST_PARTS)
        until(lambda: stored_parts(self._host) >= wanted, LONGEST_SECONDS)
        time.sleep(self._rng.uniform(0, 0.05))
        self._report.stage("under eight uploads and a tree")
        self._report.parts.append(stored_parts(self._host))
        {"server": self._server, "worker": self._worker, "client": self._client}[victim]()

    def _server(self) -> None:
        self._host.kill()
        self._check("with the server dead")
        since = time.monotonic()
        self._host.spawn()
        self._served(since)

    def _worker(self) -> None:
        self._host.kill_worker(self._rng)
        self._served(time.monotonic())
        self._check("after a worker died")

    def _client(self) -> None:
        self._keeper.kill()
        self._served(time.monotonic())
        # What the server has received of a put goes on without its client.
        self._host.settled(self._base)
        self._report.violations += self._keeper.book.settle(self._host.root)
        self._keeper.start()

    def _check(self, when: str) -> None:
        """Nothing acknowledged is lost, nothing is torn; what others change meanwhile is looked at again and again."""
        began = time.monotonic()
        faults = set(self._keeper.book.faults(self._host.root))
        looks = 1
        while faults and (looks < SURE_LOOKS or time.monotonic() - began < SURE_SECONDS):
            faults &= set(self._keeper.book.faults(self._host.root))
            looks += 1
        self._report.violations += [f"{fault} ({when})" for fault in sorted(faults)]

    def _served(self, since: float) -> None:
        """A fresh client puts, gets and lists in time; what was acknowledged before is in the listing."""
        probe, back = self._host.folder / "probe", self._host.folder / "probe-back"
        write_noise(probe, 4096, f"probe {since}")
        back.unlink(missing_ok=True)
        self._keeper.book.begin("probe", version_of(probe))
        before = {path for path, truth in self._keeper.book.copy().items() if None not in truth.allowed}
        with connected(self._host, since) as client:
            client.put(probe, "probe")
            self._keeper.book.acknowledge("probe")
            client.get("probe", back)
            listed = {str(info.path) for info in client.ls(recursive=True)}
        seconds = time.monotonic() - since
        self._report.served.append(seconds)
        if seconds > served_within():
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
            self._report.violations.append(f"a fresh client was served after {seconds:.2f} s ({load})")
        if back.read_bytes() != probe.read_bytes():
            self._report.violations.append("a get brought other bytes than the put before it")
        if lost := before - listed:
            self._report.violations.append(f"acknowledged and not listed: {sorted(lost)[:5]}")


@contextlib.contextmanager
def _crowded(folder: Path, victim: str, report: Report, seed: int) -> Iterator[tuple[ForkedHost, Keeper]]:
    with Nursery() as nursery:
        host = ForkedHost(folder, nursery=nursery, workers=WORKERS if victim == "worker" else 1)
        keeper = None
        try:
            host.spawn()
            connected(host, time.monotonic()).close()
            keeper = Keeper(host, report, folder / "sources", seed)
            yield host, keeper
        finally:
            if keeper is not None:
                keeper.close()
            host.stop()


def rig_crowd(folder: Path, rounds: int, victim: str, seed: int) -> Report:
    """``rounds`` kills of the ``victim``, "server", "worker" or "client", under eight uploads and a tree.

    At the end, with the crowd gone, all is there, and descriptors, threads and memory are at their base.
    """
    report = Report()
    with _crowded(folder, victim, report, seed) as (host, keeper):
        base = base_of(host, keeper.book)
        keeper.start()
        kills = Kills(host, keeper, report, base, seed)
        for _ in range(rounds):
            kills.round(victim)
        keeper.kill()
        host.settled(base)
        report.violations += keeper.book.settle(host.root)
        if victim != "worker":  # whose parent holds nothing but its children
            check_base(host, base, report)
        report.acknowledged = keeper.book.acknowledgements
    return report


if __name__ == "__main__":
    _main()
