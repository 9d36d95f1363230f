"""Disks that are full to the last block or the last inode, and quotas that are used up: refused in time, nothing torn.

A round fills what is short, asks for everything, makes room, and asks again. The checker is ``book``.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ftpy.client.client import Client
from ftpy.client.trees import Told, TreeOptions, TreeResult
from ftpy.errors import ConnectionFailed, FtpyError, NoSpace
from ftpy.wire.messages import RmReply, RmRequest
from tests.rig import Fault, Proxy
from tests.rigs.book import Book, Version, version_of, version_of_bytes
from tests.rigs.disks import SmallDisk
from tests.rigs.kill import connected
from tests.rigs.nursery import AT_ONCE, INLINE, KIB, ForkedHost, Nursery
from tests.rigs.processes import Meter, served_within, told_by, until
from tests.rigs.shortages import DISK_BYTES, DISK_INODES, LARGE, SHORTAGES, Shortage

ALREADY_SENT = 128 * KIB
"""Bytes of a large put that may have passed when it is refused for want of space: the handshake, no part."""
PAGE = 4096
CONTROLS = {"no-reservation": ("nearly-all", "was refused after"), "swallowed-no-space": ("space", "torn or old")}
"""Broken builds: what must be short, and what a sentence that tells them has in it."""


@dataclass
class Report:
    """What the rig has seen; ``violations`` are sentences, none of which may be there."""

    rounds: dict[str, int] = field(default_factory=dict)
    """Rounds by what was short."""
    refused: int = 0
    done: int = 0
    """Requests while it was short, by how they ended."""
    resumed: int = 0
    """Uploads begun before, finished while it was short or after room was made."""
    served: list[float] = field(default_factory=list)
    """Seconds from the making of room until a fresh client had put, got and listed."""
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self, name: str) -> str:
        """The figures."""
        each = ", ".join(f"{count} {kind}" for kind, count in self.rounds.items())
        return (
            f"{name}: {sum(self.rounds.values())} rounds in {self.seconds:.0f} s ({each}); while it was short "
            f"{self.done} requests done, {self.refused} refused; {self.resumed} uploads gone on with; normal within "
            f"{max(self.served, default=0):.2f} s of room; {len(self.violations)} violations"
        )


# ------------------------------------------------------------------ a round


class Rounds:
    """A server that runs short again and again."""

    def __init__(self, name: str, host: ForkedHost, shortage: Shortage, work: Path, report: Report, seed: int) -> None:
        self.name, self.host, self.report = name, host, report
        self.book = Book()
        self._shortage, self._work, self._rng = shortage, work, random.Random(f"{seed} {name}")
        self._number = 0
        self._wholes: list[dict[str, Version]] = []
        """Of the folder that is put at once: what is there, and what was before."""
        self._source = work / "source"
        connected(host, time.monotonic()).close()
        self._before()
        self._base = host.at_rest()

    def round(self) -> None:
        """Fill, ask, make room, ask again."""
        self._number += 1
        self.report.rounds[self.name] = self.report.rounds.get(self.name, 0) + 1
        self._before()
        unfinished = self._begin_upload()
        self._shortage.fill(self.host)
        requests = list(REQUESTS)
        self._rng.shuffle(requests)
        for request in requests:
            self._ask(request)
        for request in RELIEVING:
            self._ask(request, relieves=True)
        self._check_reading()
        self._go_on(unfinished, short=True)
        self._check_disk("while it was short")
        self._shortage.make_room(self.host)
        self._check_normal(time.monotonic())
        self._go_on(unfinished, short=False)
        for request in requests:
            self._ask(request, short=False)
        self._check_disk("after room was made")
        self._check_rest()

    def violation(self, sentence: str) -> None:
        """Something is wrong."""
        self.report.violations.append(f"{self.name}, round {self._number}: {sentence}")

    def store(self, client: Client, path: str, size: int, *, stream: bool = False) -> None:
        """Put fresh bytes."""
        data = self._rng.randbytes(size)
        self._source.write_bytes(data)
        self.book.begin(path, version_of_bytes(data))
        if stream:
            with open(self._source, "rb") as opened:
                client.put(opened, path)
        else:
            client.put(self._source, path)
        self.book.acknowledge(path)

    def store_tree(self, client: Client) -> None:
        """Put a folder of small files; each is told of on its own."""
        tree = self._work / "tree"
        (tree / "inner").mkdir(parents=True, exist_ok=True)
        for number in range(6):
            data = self._rng.randbytes(self._rng.randrange(1, 3 * PAGE))
            name = f"inner/{number}" if number % 2 else f"{number}"
            (tree / name).write_bytes(data)
            self.book.begin(f"tree/{name}", version_of_bytes(data))
        refused: list[FtpyError] = []

        def told(one: Told) -> None:
            if one.error is not None:
                refused.append(one.error)
            else:
                self.book.acknowledge(str(one.path))

        client.put_tree(tree, "tree", TreeOptions(on_told=told))
        if refused:
            raise refused[0]

    def store_at_once(self, client: Client) -> None:
        """Put a folder of which readers see the old version or the new one."""
        tree, version = self._work / "whole", {}
        for name in ("a", "inner/b"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            data = self._rng.randbytes(2 * PAGE)
            (tree / name).write_bytes(data)
            version[f"whole/{name}"] = version_of_bytes(data)
        self._become(version, lambda: _all_done(client.put_tree(tree, "whole", TreeOptions(atomic=True))))
        self._wholes = [version, *self._wholes[:1]]

    def roll_back(self, client: Client) -> None:
        """The version before comes back."""
        self._become(self._wholes[1], lambda: client.rollback("whole"))
        self._wholes.reverse()

    def _become(self, version: dict[str, Version], change: Callable[[], object]) -> None:
        for path, state in version.items():
            self.book.begin(path, state)
        change()
        for path in version:
            self.book.acknowledge(path)

    def remove_kept(self, client: Client, path: str) -> None:
        """Remove a file into the trash, and bring it back."""
        was, operation = self.book.copy()[path].acknowledged, client.begin("a rig")
        self.book.begin(path, None)
        client._persist(lambda live: live.call(RmRequest(id=live.next_id(), path=path, operation=operation), RmReply))
        self.book.acknowledge(path)
        self.book.begin(path, was)
        undone = client.undo(operation)
        for left in undone.paths:
            raise NoSpace(f"{left.path} is left alone: {left.error}")
        self.book.acknowledge(path)
        for kept in (operation, undone.by):  # else hundreds of rounds fill the disk, as they should
            client.forget(kept)

    def remove(self, client: Client, path: str, *below: str) -> None:
        """Remove a file, or a folder and what is in it."""
        for each in below or (path,):
            self.book.begin(each, None)
        client.rm(path, recursive=bool(below))
        for each in below or (path,):
            self.book.acknowledge(each)

    def move(self, client: Client, source: str, target: str) -> None:
        """Move a file."""
        move = self.book.begin_move(source, target)
        client.mv(source, target)
        self.book.acknowledge_move(move)

    # ---------------------------------------------------------------- steps

    def _before(self) -> None:
        with self.host.client(transfer=AT_ONCE) as client:
            for number in range(3):
                self.store(client, f"old/{number}", self._rng.randrange(1, 2 * INLINE))
            self.store(client, "old/large", LARGE // 2)
            for path in ("doomed/file", "doomed/folder/1", "doomed/folder/2", "doomed/moving"):
                self.store(client, path, PAGE)
            self.store_tree(client)
            for _ in range(2):
                self.store_at_once(client)

    def _begin_upload(self) -> tuple[Path, str]:
        """A large put that is cut off after some parts; its space is reserved."""
        source, path = self._work / "unfinished", "unfinished/file"
        source.write_bytes(self._rng.randbytes(LARGE))
        self.book.begin(path, version_of(source))
        cut = Fault("cut", after=self._rng.randrange(LARGE // 4, LARGE // 2))
        with Proxy(self.host.address, (cut, Fault())) as proxy:
            try:
                with self.host.client(transfer=AT_ONCE, address=proxy.address) as client:
                    client.put(source, path)
                self.violation("a put ended well though its connection was cut")
            except ConnectionFailed:
                pass  # as it was meant
        return source, path

    def _go_on(self, unfinished: tuple[Path, str], *, short: bool) -> None:
        """The upload goes on: at the latest when there is room it ends well, with what the server had."""
        source, path = unfinished
        self.book.begin(path, version_of(source))
        try:
            with self.host.client(transfer=AT_ONCE, notify=self._heard) as client:
                stored = client.put(source, path)
        except FtpyError as error:
            if not short or self._shortage.refusal is None or not isinstance(error, self._shortage.refusal):
                self.violation(f"an upload cannot go on: {type(error).__name__}: {error}")
            return
        self.book.acknowledge(path)
        self.report.resumed += bool(stored.resumed)

    def _heard(self, sentence: str) -> None:
        self.violation(f"an upload could not just go on: {sentence}")

    def _ask(self, request: Callable[[Rounds, Client], None], *, short: bool = True, relieves: bool = False) -> None:
        """Ask for one thing, which may be refused for want of room where it is ``short``, unless it makes room."""
        what = request.__name__.removeprefix("_").replace("_", " ")
        uploads = set(self.host.uploads)
        with Meter(self.host.address) as meter:
            try:
                with self.host.client(transfer=AT_ONCE, address=meter.address) as client:
                    request(self, client)
                self.report.done += short
            except FtpyError as error:
                expected = self._shortage.refusal
                if not short or relieves or expected is None or not isinstance(error, expected):
                    self.violation(f"{what} failed: {type(error).__name__}: {error}")
                self.report.refused += 1
                if request in (_large, _replace_large) and meter.passed[0] > ALREADY_SENT:
                    self.violation(f"{what} was refused after {meter.passed[0]} bytes")
        if left := set(self.host.uploads) - uploads:
            self.violation(f"{what} has left uploads: {sorted(left)}")

    def _check_reading(self) -> None:
        """Who reads notices nothing."""
        target = self._work / "target"
        try:
            with self.host.client(transfer=AT_ONCE) as client:
                path = f"old/{self._rng.randrange(3)}"
                client.get(path, target, force=True)
                if version_of(target) not in self.book.copy()[path].allowed:
                    self.violation("a get brought other bytes")
                listed = {str(info.path): info for info in client.ls("old", recursive=True)}
            if set(listed) != {"old/0", "old/1", "old/2", "old/large"}:
                self.violation(f"ls: {sorted(listed)}")
        except FtpyError as error:
            self.violation(f"reading failed: {type(error).__name__}: {error}")

    def _check_normal(self, since: float) -> None:
        """A fresh client puts, gets and lists in time."""
        target = self._work / "target"
        try:
            with self.host.client(transfer=AT_ONCE) as client:
                self.store(client, "probe", PAGE)
                client.get("probe", target, force=True)
                list(client.ls())
        except FtpyError as error:
            self.violation(f"not normal after room was made: {type(error).__name__}: {error}")
        self.report.served.append(time.monotonic() - since)
        if self.report.served[-1] > served_within():
            self.violation(f"normal {self.report.served[-1]:.2f} s after room was made")

    def _check_disk(self, when: str) -> None:
        faults = self.book.faults(self.host.root)
        for fault in faults:
            if not fault.startswith("fillers/"):
                self.violation(f"{when}: {fault}")

    def _check_rest(self) -> None:
        base = self._base

        def at_base() -> bool:
            now = self.host.usage()
            return now.descriptors <= base.descriptors and now.threads <= base.threads

        if not until(at_base, 5.0):
            self.violation(f"not back at its base: {self.host.usage()} where {base} is the base")
        if self.host.uploads:
            self.violation(f"uploads are left: {self.host.uploads}")
        staged = [path.name for path in (self.host.root / ".ftpy" / "staged").iterdir() if "-" in path.name]
        if staged:
            self.violation(f"staged files are left: {staged}")
        log = self.host.log.read_text(errors="replace")
        for word in ("Traceback", "Logging error", " internal ", "connection-failed"):
            if word in log:
                line = next(line for line in log.splitlines() if word in line)
                self.violation(f"{word!r} in the log: {line[:600]}")
        os.truncate(self.host.log, 0)


def _small(rounds: Rounds, client: Client) -> None:
    rounds.store(client, "new/small", 3 * PAGE)


def _replace(rounds: Rounds, client: Client) -> None:
    rounds.store(client, "old/1", INLINE)


def _large(rounds: Rounds, client: Client) -> None:
    rounds.store(client, "new/large", LARGE)


def _replace_large(rounds: Rounds, client: Client) -> None:
    rounds.store(client, "old/large", LARGE)


def _stream(rounds: Rounds, client: Client) -> None:
    rounds.store(client, "new/stream", LARGE // 4, stream=True)


def _tree(rounds: Rounds, client: Client) -> None:
    rounds.store_tree(client)


def _rm(rounds: Rounds, client: Client) -> None:
    rounds.remove(client, "doomed/file")


def _rm_folder(rounds: Rounds, client: Client) -> None:
    rounds.remove(client, "doomed/folder", "doomed/folder/1", "doomed/folder/2")


def _mv(rounds: Rounds, client: Client) -> None:
    rounds.move(client, "doomed/moving", "doomed/moved")


def _at_once(rounds: Rounds, client: Client) -> None:
    rounds.store_at_once(client)


def _rollback(rounds: Rounds, client: Client) -> None:
    rounds.roll_back(client)


def _rm_kept(rounds: Rounds, client: Client) -> None:
    rounds.remove_kept(client, "old/2")


def _mkdir(rounds: Rounds, client: Client) -> None:
    client.mkdir("new/made/below", parents=True)
    assert (rounds.host.root / "new/made/below").is_dir()


def _touch(rounds: Rounds, client: Client) -> None:
    rounds.book.begin("new/empty", version_of_bytes(b""))
    client.touch("new/empty")
    rounds.book.acknowledge("new/empty")


def _all_done(result: TreeResult) -> None:
    for told in result.failures:
        assert told.error is not None
        raise told.error


RELIEVING = (_mv, _rm, _rm_folder, _rollback)
"""What must work on a full disk as on any other."""
REQUESTS: tuple[Callable[[Rounds, Client], None], ...] = (
    _small,
    _replace,
    _large,
    _replace_large,
    _stream,
    _tree,
    _at_once,
    _rm_kept,
    _mkdir,
    _touch,
)


# ------------------------------------------------------------------ the rig


def rig_full(
    folder: Path,
    count: int,
    seed: int,
    *,
    build: str = "",
    only: tuple[str, ...] = tuple(SHORTAGES),
    signs: Collection[str] = (),
) -> Report:
    """``count`` rounds, shared by what can be short; ``signs``: end with a violation that has one of these in it."""
    report, began = Report(), time.monotonic()
    with Nursery("small-parts", build) as nursery:
        for place, name in enumerate(only):
            with _running_short(name, folder / name, nursery, report, seed) as rounds:
                for _ in range(count // len(only) + (place < count % len(only))):
                    if told_by(report.violations, signs):
                        break
                    rounds.round()
    report.seconds = time.monotonic() - began
    return report


@contextlib.contextmanager
def _running_short(name: str, folder: Path, nursery: Nursery, report: Report, seed: int) -> Iterator[Rounds]:
    folder.mkdir(parents=True)
    work = folder / "work"
    work.mkdir()
    with ExitStack() as stack:
        disk = stack.enter_context(SmallDisk(folder, size=DISK_BYTES, inodes=DISK_INODES))
        shortage = SHORTAGES[name](disk.place)
        host = shortage.host(folder / "host", nursery)
        stack.callback(host.kill)
        host.spawn()
        yield Rounds(name, host, shortage, work, report, seed)
