"""What all verbs mean, in memory: paths and uploads as dictionaries, and why a request is refused.

It knows nothing of how a server does it; ``machine`` compares the two.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from ftpy.errors import (
    AlreadyExists,
    Changed,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    RequestError,
)
from ftpy.wire.fields import DigestOf

PART = 4096
"""Bytes of a part here; ``small_parts`` makes the server think so, too."""
INLINE = 1000
"""Largest body of an inline put here, bytes."""
SECOND = 1_000_000_000

Path = tuple[str, ...]
Fault = type[RequestError]


def small_parts(file_size: int | None) -> int:
    """In place of ``part_size_for``: uploads of some parts are some thousand bytes."""
    return PART


@dataclass(frozen=True)
class File:
    """A regular file of the model."""

    data: bytes
    mtime_ns: int


@dataclass
class Upload:
    """An unfinished upload of the model: its content is always the same for its key, so parts may come from anyone."""

    id: str
    path: Path
    data: bytes
    mtime_ns: int
    condition: Any
    stored: set[int] = field(default_factory=set)

    def part(self, number: int) -> bytes:
        """What belongs there."""
        return self.data[number * PART : (number + 1) * PART]

    @property
    def parts(self) -> int:
        """How many it has."""
        return -(-len(self.data) // PART)


class Model:
    """What is there: files, folders (None) and uploads by what names them."""

    def __init__(self) -> None:
        self.nodes: dict[Path, File | None] = {(): None}
        self.uploads: dict[tuple[Path, int, int], Upload] = {}

    def way(self, path: Path) -> Fault | None:
        """Why nothing can be found or made at a path, for what is above it; missing folders are no fault."""
        above = (self.nodes.get(path[:depth]) for depth in range(1, len(path)))
        return NotADirectory if any(isinstance(node, File) for node in above) else None

    def reach(self, path: Path) -> Fault | None:
        """Why a path cannot be looked at: what is above it must be there."""
        for depth in range(1, len(path) + 1):
            if path[:depth] not in self.nodes:
                return NotFound
            if depth < len(path) and self.nodes[path[:depth]] is not None:
                return NotADirectory
        return None

    def file(self, path: Path) -> File | Fault:
        """The file at a path, or why there is none."""
        if fault := self.reach(path):
            return fault
        return self.nodes[path] or IsADirectory

    def publishing(self, path: Path, condition: Any) -> set[Fault]:
        """Why a put may be refused, one of these; empty: it happens."""
        there = self.nodes.get(path)
        is_folder = path in self.nodes and there is None
        if fault := self.way(path):
            return {fault, Changed} if isinstance(condition, DigestOf) else {fault}
        if condition == "absent" and path in self.nodes:
            return {AlreadyExists, IsADirectory} if is_folder else {AlreadyExists}
        if is_folder:
            return {IsADirectory, Changed} if isinstance(condition, DigestOf) else {IsADirectory}
        if isinstance(condition, DigestOf) and (there is None or md5(there.data) != condition.md5):
            return {Changed}
        return set()

    def moving(self, path: Path, to: Path, *, absent: bool) -> set[Fault]:
        """Why a move may be refused, one of these; empty: it happens."""
        faults: set[Fault] = set()
        if to[: len(path)] == path:
            faults.add(InvalidRequest)
        for needed in (path, to[:-1]):
            if fault := self.reach(needed):
                faults.add(fault)
        if to[:-1] in self.nodes and self.nodes[to[:-1]] is not None:
            faults.add(NotADirectory)
        if to in self.nodes and to != path:
            if absent or (path in self.nodes and self.nodes[path] is None):
                faults.add(AlreadyExists)  # a folder replaces nothing
            if self.nodes[to] is None:
                faults.add(IsADirectory)
            if path[: len(to)] == to:
                faults.add(NotEmpty)  # it would take the place of the folder that it is in
        return faults

    def publish(self, path: Path, file: File) -> None:
        """A put happens: folders on the way are made."""
        self.make_way(path[:-1])
        self.nodes[path] = file

    def make_way(self, path: Path) -> None:
        """Make a folder and those above it."""
        for depth in range(len(path) + 1):
            self.nodes.setdefault(path[:depth], None)

    def below(self, path: Path, *, recursive: bool) -> dict[Path, File | None]:
        """What a listing of a folder says."""
        return {
            one: node
            for one, node in self.nodes.items()
            if len(one) > len(path) and one[: len(path)] == path and (recursive or len(one) == len(path) + 1)
        }


def md5(data: bytes) -> str:
    """As md5sum prints it."""
    return hashlib.md5(data).hexdigest()


def content(length: int, mtime_ns: int, path: Path) -> bytes:
    """Bytes that are the same for the same upload, and for no other."""
    return hashlib.shake_128(repr((length, mtime_ns, path)).encode()).digest(length)
