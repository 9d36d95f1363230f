"""A source that changes while it is put: it is told, and what a reader sees is one whole version (promises 2, 4, 7).

In every round one file of this side is put, alone or in a folder, and changed at a random moment on its way. What the
server then has is compared with what the file was before and after, never with what ftpy says.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ftpy.client.client import Client
from ftpy.errors import FtpyError, LocalFileError, SourceChanged
from tests.rig import FAST, Host, Proxy

MIB = 1024 * 1024
LOOK_SECONDS = 0.0002
"""How often it is looked whether the moment has come: a put over loopback is some milliseconds long."""
LATE_SECONDS = 2.0
"""After this long the change comes in any case."""
BESIDE = 12
"""Small files that lie in a folder beside the one that changes."""


def _grow(path: Path, rng: random.Random) -> None:
    with open(path, "ab") as file:
        file.write(rng.randbytes(1 + rng.randrange(200_000)))


def _shrink(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def _rewrite(path: Path, rng: random.Random) -> None:
    """Other bytes here and there, of the same number, and the old time: what size and mtime do not show."""
    before = path.stat()
    with open(path, "r+b", buffering=0) as file:
        for _ in range(8):
            file.seek(rng.randrange(before.st_size))
            file.write(rng.randbytes(1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path, rng: random.Random) -> None:
    other = path.parent.with_name("other")  # not in the folder, which may be put as a whole
    other.write_bytes(rng.randbytes(path.stat().st_size))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)


def _delete(path: Path, _: random.Random) -> None:
    path.unlink()


CHANGES: dict[str, Callable[[Path, random.Random], None]] = {
    "grows": _grow,
    "shrinks": _shrink,
    "is rewritten": _rewrite,
    "is replaced": _replace,
    "is deleted": _delete,
}


@dataclass(frozen=True)
class Way:
    """How the file gets to the server: how large it is, bytes, over how many connections, with its folder or alone."""

    size: int
    streams: int = 1
    tree: bool = False


WAYS = {
    "small": Way(300_000),
    "in parts": Way(24 * MIB + 1),
    "over three connections": Way(40 * MIB, streams=3),
    "in a folder": Way(300_000, tree=True),
    "large, in a folder": Way(24 * MIB + 1, tree=True),
}


@dataclass
class Report:
    """What a rig has seen; ``violations`` are sentences, none of which may be there."""

    rounds: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """The figures."""
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        return f"{name}: {self.rounds} changed sources ({outcomes}); {len(self.violations)} violations"


class Changer(threading.Thread):
    """Changes ``path`` once so many bytes have passed the proxy since the beginning, and a random moment more."""

    def __init__(self, path: Path, kind: str, proxy: Proxy, after: int, rng: random.Random) -> None:
        super().__init__(name="changer")
        self._path, self._kind, self._proxy, self._rng = path, kind, proxy, rng
        self._due = proxy.passed[0] + after
        self._more_seconds = rng.uniform(0, 0.004)

    def run(self) -> None:
        """Wait for the moment, then do it."""
        late = time.monotonic() + LATE_SECONDS
        while self._proxy.passed[0] < self._due and time.monotonic() < late:
            time.sleep(LOOK_SECONDS)
        time.sleep(self._more_seconds)
        CHANGES[self._kind](self._path, self._rng)


class Changing:
    """Rounds against one server; ``seed`` repeats them, but for the moments of its threads."""

    def __init__(self, host: Host, folder: Path, seed: int) -> None:
        self.report = Report()
        self._host, self._folder = host, folder
        self._rng = random.Random(seed)
        self._left: set[str] = set()

    def run(self, rounds: int) -> Report:
        """Every change by every way in turn."""
        plan = [(kind, way) for way in WAYS for kind in CHANGES]
        with Proxy(self._host.address) as proxy:
            for number in range(rounds):
                kind, way = plan[number % len(plan)]
                self.report.rounds += 1
                self._round(kind, way, proxy)
        return self.report

    def _round(self, kind: str, way: str, proxy: Proxy) -> None:
        source, remote = self._prepare(WAYS[way])
        before = source.read_bytes()
        there = self._there(remote)
        changer = Changer(source, kind, proxy, int(self._rng.uniform(0, 1.05) * len(before)), self._rng)
        changer.start()
        try:
            error = self._put(source, remote, WAYS[way], proxy.address)
        finally:
            changer.join()
        after = source.read_bytes() if source.exists() else None
        self._judge(f"{way}, {kind}", error, self._there(remote), there, [before, after])

    def _prepare(self, way: Way) -> tuple[Path, str]:
        """A file with random bytes, and where it goes; half of the time an older one is there already."""
        folder = self._folder / "source"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for number in range(BESIDE if way.tree else 0):
            (folder / f"beside-{number}").write_bytes(self._rng.randbytes(1000))
        source = folder / "file"
        source.write_bytes(self._rng.randbytes(way.size))
        remote = "folder/file" if way.tree else "file"
        stored = self._host.root / remote
        stored.unlink(missing_ok=True)
        if self._rng.random() < 0.5:
            stored.parent.mkdir(exist_ok=True)
            stored.write_bytes(b"what was there before")
        return source, remote

    def _there(self, remote: str) -> bytes | None:
        path = self._host.root / remote
        return path.read_bytes() if path.exists() else None

    def _put(self, source: Path, remote: str, way: Way, address: str) -> Exception | None:
        """Put it: what was told of it, None where it was told to be stored."""
        transfer = msgspec.structs.replace(FAST, streams=way.streams, digest="blake3")
        with self._host.client(address=address, transfer=transfer) as client:
            try:
                if not way.tree:
                    client.put(source, remote)
                    return None
                return self._put_tree(client, source)
            except FtpyError as error:
                return error

    def _put_tree(self, client: Client, source: Path) -> Exception | None:
        result = client.put_tree(source.parent, "folder")
        failed = {str(failure.path): failure.error for failure in result.failures}
        error = failed.pop("folder/file", None)
        if failed:
            self.report.violations.append(f"others failed with it: {failed}")
        return error

    def _judge(
        self, what: str, error: Exception | None, now: bytes | None, there: bytes | None, versions: list[bytes | None]
    ) -> None:
        violations = self.report.violations
        if error is None:
            self.report.outcomes["stored"] += 1
            if versions[1] is None:
                versions = [versions[0], there]  # it was gone before its folder was read
            if now not in versions:
                violations.append(f"{what}: stored silently, and it is neither what it was nor what it became")
        elif isinstance(error, SourceChanged | LocalFileError):
            self.report.outcomes["told"] += 1
            if now != there:
                violations.append(f"{what}: told ({error}), but what was there before is no longer")
        else:
            violations.append(f"{what}: {type(error).__name__}: {error}")
        for left in set(self._host.uploads) - self._left:
            self._left.add(left)
            violations.append(f"{what}: an upload is left")
