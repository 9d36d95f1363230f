"""What a client does while its network breaks, puts and gets of a file or of a tree, and how it is held to its word.

The checks read the disk themselves, beside the server: what they compare with is what was sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ftpy.client.client import Client
from ftpy.client.results import Progress
from ftpy.client.trees import TreeOptions, TreeResult
from tests.rig import Host

SMALL_BYTES = 1024
LARGE_BYTES = 17 * 1024 * 1024 + 5
"""Three parts of a put, three ranges of a get: enough for three connections."""
BASE_NS = 1_700_000_000_123_456_789
"""Times of files are counted from here, so that all have the same number of digits."""
STEP_NS = 1_000_000
"""Between two versions: more than what trees take for one time."""
MODE = 0o640


@dataclass(frozen=True)
class File:
    """A file as it was sent: its bytes, its time of modification, and its permission bits."""

    data: bytes
    mtime_ns: int
    mode: int = MODE

    def write(self, path: Path) -> None:
        """Lay it down."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        path.chmod(self.mode)
        os.utime(path, ns=(self.mtime_ns, self.mtime_ns))

    @staticmethod
    def read(path: Path) -> File:
        """What is there."""
        status = path.stat()
        return File(path.read_bytes(), status.st_mtime_ns, status.st_mode & 0o7777)

    def __repr__(self) -> str:
        digest = hashlib.md5(self.data).hexdigest()[:8]
        return f"{len(self.data)} bytes {digest}…, mtime_ns {self.mtime_ns}, mode {self.mode:o}"


def noise(name: str, number: int, size: int) -> File:
    """Version ``number`` of a file: no two are alike, and what is out of its place is noticed."""
    block = hashlib.shake_128(f"{name} {number}".encode()).digest(min(size, 256 * 1024))
    pieces = (block[:-8] + at.to_bytes(8, "little") for at in range(-(-size // len(block)))) if size else iter(())
    return File(b"".join(pieces)[:size], BASE_NS + number * STEP_NS)


def files_below(folder: Path) -> dict[str, Path]:
    """All that a reader could see: everything but folders and what is ftpy's own."""
    found = {}
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".ftpy")]
        for name in names:
            if not name.startswith(".ftpy"):
                path = Path(where, name)
                found[path.relative_to(folder).as_posix()] = path
    return found


class Act(ABC):
    """One thing that a client does, over and over, each time with other bytes than before."""

    size = SMALL_BYTES
    """Of the file, bytes."""
    parallel = 1
    """Connections that it may use."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.number = 0
        self.acknowledged = False
        """Whether the client has read that it is done."""
        folder.mkdir()

    def prepare(self) -> None:
        """Make ready for the next time."""
        self.number += 1
        self.acknowledged = False

    @abstractmethod
    def run(self, client: Client) -> None:
        """Do it. Raises FtpyError when any of it was not done."""

    @abstractmethod
    def check(self, *, done: bool) -> list[str]:
        """What is wrong: all must be new when it is ``done``, and each file whole, old or new, in any case."""


class PutFile(Act):
    """A file over an older one."""

    def __init__(self, host: Host, folder: Path) -> None:
        super().__init__(host, folder)
        self.name = folder.name
        self.source, self.there = folder / "source", host.root / self.name
        self.old = self.new = noise(self.name, 0, self.size)
        self.new.write(self.there)

    def prepare(self) -> None:
        """Another version here than there."""
        super().prepare()
        self.old = File.read(self.there)
        self.new = noise(self.name, self.number, self.size)
        self.new.write(self.source)

    def run(self, client: Client) -> None:
        """Put it."""
        client.put(self.source, self.name, on_progress=self._hear)

    def _hear(self, progress: Progress) -> None:
        # A small file is sent in one piece: all of it counts as stored when the answer has been read.
        if self.size <= 1024 * 1024 and progress.done == self.size:
            self.acknowledged = True

    def check(self, *, done: bool) -> list[str]:
        """The server's file."""
        return told(self.there, self.name, [self.new] if done else [self.old, self.new])


class GetFile(Act):
    """A file over an older one of this side."""

    def __init__(self, host: Host, folder: Path) -> None:
        super().__init__(host, folder)
        self.name = folder.name
        self.target = folder / "target"
        self.old, self.new = noise("old", 1, SMALL_BYTES // 2), noise(self.name, 1, self.size)
        self.new.write(host.root / self.name)

    def prepare(self) -> None:
        """An older file here, and nothing of an earlier get."""
        super().prepare()
        for left in self.folder.iterdir():
            left.unlink()
        self.old.write(self.target)

    def run(self, client: Client) -> None:
        """Get it."""
        client.get(self.name, self.target, force=True)

    def check(self, *, done: bool) -> list[str]:
        """The file here, and that nothing else came; the server's is as it was."""
        wrong = told(self.target, f"the target of {self.name}", [self.new] if done else [self.old, self.new])
        wrong += [f"{name} came without being asked for" for name in files_below(self.folder) if name != "target"]
        return wrong + told(self.host.root / self.name, self.name, [self.new])


TREE = {"a": 700, "b": 0, "sub/c": 1500, "sub/d": 3000, "sub/deep/e": 90, "z": 20_000}
"""The files of a tree and their sizes, bytes."""


class Tree(Act):
    """A folder over an older one."""

    def __init__(self, host: Host, folder: Path) -> None:
        super().__init__(host, folder)
        self.name = folder.name
        self.here, self.there = folder / "tree", host.root / self.name
        self.old: Mapping[str, File] = {}
        self.new: Mapping[str, File] = self._version()
        self._write(self.new, self.there)

    def _version(self) -> dict[str, File]:
        return {name: noise(f"{self.name}/{name}", self.number, size) for name, size in TREE.items()}

    @staticmethod
    def _write(files: Mapping[str, File], folder: Path) -> None:
        for name, file in files.items():
            file.write(folder / name)

    def _told(self, folder: Path, *, done: bool) -> list[str]:
        wrong = []
        for name in TREE:
            wrong += told(folder / name, f"{self.name}/{name}", [self.new[name], *([] if done else [self.old[name]])])
        wrong += [f"{self.name}/{name} came without being asked for" for name in set(files_below(folder)) - set(TREE)]
        return wrong


class PutTree(Tree):
    """Put it."""

    def prepare(self) -> None:
        """Other versions here than there."""
        super().prepare()
        self.old = {name: File.read(self.there / name) for name in TREE}
        self.new = self._version()
        self._write(self.new, self.here)

    def run(self, client: Client) -> None:
        """Put it."""
        _all_done(client.put_tree(self.here, self.name, TreeOptions()))

    def check(self, *, done: bool) -> list[str]:
        """The server's files."""
        return self._told(self.there, done=done)


class GetTree(Tree):
    """Get it."""

    def prepare(self) -> None:
        """Other versions here than there."""
        super().prepare()
        shutil.rmtree(self.here, ignore_errors=True)
        self.old = self._version()
        self._write(self.old, self.here)

    def run(self, client: Client) -> None:
        """Get it."""
        _all_done(client.get_tree(self.name, self.here, TreeOptions(force=True)))

    def check(self, *, done: bool) -> list[str]:
        """The files here; the server's are as they were."""
        wrong = self._told(self.here, done=done)
        for name in TREE:
            wrong += told(self.there / name, f"{self.name}/{name}", [self.new[name]])
        return wrong


def _all_done(result: TreeResult) -> None:
    for failure in result.failures:
        assert failure.error is not None
        raise failure.error


def told(path: Path, name: str, allowed: list[File]) -> list[str]:
    """A sentence where something else is there than one of these versions, whole."""
    seen = None
    with contextlib.suppress(FileNotFoundError):
        seen = File.read(path)
    return [] if seen in allowed else [f"{name} is {seen} where {' or '.join(map(repr, allowed))} must be"]


class PutParts(PutFile):
    """In parts, over several connections."""

    size, parallel = LARGE_BYTES, 3


class GetRanges(GetFile):
    """In ranges, over several connections."""

    size, parallel = LARGE_BYTES, 3


ACTS: dict[str, type[Act]] = {
    "put": PutFile,
    "get": GetFile,
    "put-parts": PutParts,
    "get-ranges": GetRanges,
    "put-tree": PutTree,
    "get-tree": GetTree,
}
SMALL = ("put", "get")
"""Those of one small file, which are broken at every byte."""
