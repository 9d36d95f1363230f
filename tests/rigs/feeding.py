"""kill -9 of the server, or of one of its workers, while files and folders come, move and go: feed and files agree.

A reader of the feed believes that certain files are there; the disk is looked at, beside the server. After every kill,
once nothing is under way and what was pending is settled, the two are the same, and all that was acknowledged is told.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from ftpy.client.client import Client
from ftpy.client.events import Event
from ftpy.config.server import Events
from ftpy.errors import CursorTooOld, FtpyError
from tests.rigs.book import visible
from tests.rigs.kill import PUT_SECONDS, Report, connected
from tests.rigs.nursery import AT_ONCE, ForkedHost, Nursery
from tests.rigs.processes import until

WRITERS = 3
GROUP = 40
"""Small files of a folder that is put at once."""
SETTLE_SECONDS = 10.0
"""How long a server that has started may take until all is settled."""


class Belief:
    """What a reader of the feed believes, who was never told anything else."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.told: set[str] = set()
        """All paths that something was ever published at."""
        self.cursor = "start"

    def hear(self, event: Event) -> None:
        """One event more."""
        self.cursor = event.cursor
        path, gone = str(event.path), set[str]()
        if event.kind != "published":
            gone = {one for one in self.files if one == path or one.startswith(f"{path}/")}
            self.files -= gone
        if event.to is not None:
            self.files |= {f"{event.to}{one[len(path) :]}" for one in gone}
        if event.kind == "published":
            self.files.add(path)
            self.told.add(path)


class Gate:
    """Who works passes through it; ``shut`` keeps all out and waits until nobody is inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open, self._inside, self.over = True, 0, False

    def enter(self) -> bool:
        """Whether there is to be more."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self.over)
            self._inside += not self.over
            return not self.over

    def leave(self) -> None:
        """One thing is through."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Nothing more begins; returns when all that did has ended."""
        with self._changed:
            self._open = False
            assert self._changed.wait_for(lambda: not self._inside, PUT_SECONDS)

    def open(self, *, over: bool = False) -> None:
        """Go on, or it is over."""
        with self._changed:
            self._open, self.over = True, over
            self._changed.notify_all()


class Writer(threading.Thread):
    """Puts, moves and removes below a folder of its own; every name is new, and what fails is left as it is."""

    def __init__(self, host: ForkedHost, gate: Gate, number: int, seed: int) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self._host, self._gate, self._top = host, gate, f"w{number}"
        self._rng = random.Random(f"{seed} {number}")
        self._count = 0
        self._there: list[str] = []
        """Files and folders that may be there."""
        self.acknowledged: set[str] = set()
        self._source = host.folder / self._top
        self._source.mkdir(exist_ok=True)

    def run(self) -> None:
        """Until the gate says that it is over."""
        while self._gate.enter():
            try:
                with self._host.client(transfer=AT_ONCE) as client:
                    for _ in range(5):
                        self._rng.choice([self._put, self._put_folder, self._move, self._remove])(client)
            except FtpyError:
                time.sleep(0.01)
            finally:
                self._gate.leave()

    def _new(self) -> str:
        self._count += 1
        return f"{self._top}/{self._count}"

    def _put(self, client: Client) -> None:
        path = self._new()
        self._there.append(path)
        source = self._source / "one"
        source.write_bytes(self._rng.randbytes(self._rng.choice([10, 5000, 50_000])))
        client.put(source, path)
        self.acknowledged.add(path)

    def _put_folder(self, client: Client) -> None:
        path = self._new()
        folder = self._source / "folder"
        folder.mkdir(exist_ok=True)
        for number in range(GROUP):
            (folder / str(number)).write_bytes(b"%d" % self._count)
        self._there.append(path)
        if not client.put_tree(folder, path).failed:
            self.acknowledged |= {f"{path}/{number}" for number in range(GROUP)}

    def _move(self, client: Client) -> None:
        if self._there:
            path, to = self._there.pop(self._rng.randrange(len(self._there))), self._new()
            self._there.append(to)
            client.mv(path, to)

    def _remove(self, client: Client) -> None:
        if self._there:
            client.rm(self._there.pop(self._rng.randrange(len(self._there))), recursive=True)


def rig_feed(folder: Path, rounds: int, victim: str, seed: int, builds: tuple[str, ...] = ()) -> Report:
    """``rounds`` kills of the ``victim``, "server" or "worker"; ``builds``: of which the server is."""
    rng, report = random.Random(seed), Report()
    with Nursery(*builds) as nursery:
        workers = 3 if victim == "worker" else 1
        host = ForkedHost(folder, nursery=nursery, workers=workers, events=Events(days=1), tls=False)
        host.spawn()
        gate, belief = Gate(), Belief()
        connected(host, time.monotonic()).close()
        writers = [Writer(host, gate, number, seed) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(rounds):
                done = _acknowledged(writers)
                until(lambda done=done: _acknowledged(writers) > done)  # type: ignore[misc]
                time.sleep(rng.uniform(0.05, 0.5))
                _kill(host, victim, rng)
                report.stage(f"{victim} killed")
                gate.shut()
                if victim == "server":
                    host.spawn()
                _compare(host, belief, writers, report)
                if report.violations:
                    break  # what follows from it would be told again and again
                gate.open()
        finally:
            gate.open(over=True)
            for writer in writers:
                writer.join(PUT_SECONDS)
            host.stop()
    report.acknowledged = _acknowledged(writers)
    return report


def _acknowledged(writers: list[Writer]) -> int:
    return sum(len(writer.acknowledged) for writer in writers)


def _kill(host: ForkedHost, victim: str, rng: random.Random) -> None:
    if victim == "server":
        host.kill()
    else:
        host.kill_worker(rng)


def _compare(host: ForkedHost, belief: Belief, writers: list[Writer], report: Report) -> None:
    """Nothing is under way: what the feed makes one believe is what is there, sooner or later."""

    def agree() -> bool:
        with connected(host, time.monotonic()) as client:
            for event in client.events(belief.cursor):
                belief.hear(event)
        return belief.files == set(visible(host.root)) and all(one.acknowledged <= belief.told for one in writers)

    try:
        if until(agree, SETTLE_SECONDS, 0.05):
            return
    except CursorTooOld as error:
        report.violations.append(f"the feed has begun anew: {error}")
        return
    there = set(visible(host.root))
    report.violations += [f"{path} is there and not in the feed" for path in sorted(there - belief.files)[:5]]
    report.violations += [f"{path} is in the feed and not there" for path in sorted(belief.files - there)[:5]]
    lost = sorted(set[str]().union(*(one.acknowledged for one in writers)) - belief.told)
    report.violations += [f"{path} was acknowledged and is not in the feed" for path in lost[:5]]
