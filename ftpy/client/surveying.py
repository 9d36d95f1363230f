"""What is made of a whole listing while it comes: totals of folders, a drawing, what fits. Nothing is kept but the way
down to where the listing is.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ftpy.errors import Unsupported
from ftpy.files import FileInfo, FileType, RemotePath

MOST_HELD = 10_000
"""Entries that a drawing holds back until it is known whether another one follows at their side, some MB."""


class Total(Struct):
    """What lies below a folder: ``size`` bytes in ``files`` (whatever is no folder), and ``folders``."""

    path: RemotePath
    size: int = 0
    files: int = 0
    folders: int = 0


def totals(where: RemotePath, entries: Iterable[FileInfo]) -> Iterator[Total]:
    """The total of every folder, those in it before it; of ``where`` itself at the end. Raises Unsupported."""
    way = [Total(where)]
    for info in entries:
        yield from _up_to(way, info.path.parent)
        if info.type == "directory":
            way.append(Total(info.path))
        else:
            way[-1].size += info.size
            way[-1].files += 1
    yield from _up_to(way, where)
    yield way[0]


def _up_to(way: list[Total], folder: RemotePath) -> Iterator[Total]:
    """Leave the folders that the listing is through with."""
    while way[-1].path != folder:
        done = way.pop()
        if not way:
            raise Unsupported("this server lists folders in an order that no sum can be made of while it comes")
        way[-1].size += done.size
        way[-1].files += done.files
        way[-1].folders += done.folders + 1
        yield done


class Branch(Struct):
    """An entry of a drawing, ``depth`` below its top; whether it is the last in its folder, and so all above it."""

    info: FileInfo
    depth: int
    lasts: tuple[bool, ...] = ()

    @property
    def prefix(self) -> str:
        """What is drawn before its name."""
        *above, last = self.lasts
        return "".join("    " if over else "│   " for over in above) + ("└── " if last else "├── ")


def branches(where: RemotePath, entries: Iterable[FileInfo]) -> Iterator[Branch]:
    """A listing as a tree. Where more than MOST_HELD entries follow one, it is drawn as if another came at its side."""
    drawing = _Drawing()
    for info in entries:
        yield from drawing.add(info, len(info.path.parts) - len(where.parts))
    yield from drawing.finish()


class _Node(Struct):
    info: FileInfo
    depth: int
    last: bool | None = None


class _Drawing:
    """Holds entries back until it is known of each whether it is the last one in its folder."""

    def __init__(self) -> None:
        self._held: deque[_Node] = deque()
        self._open: list[_Node] = []
        """The latest entry of every depth, of which that is not known yet."""
        self._lasts: list[bool] = []
        """What was said of the entry that was handed out last, and of those above it."""

    def add(self, info: FileInfo, depth: int) -> Iterator[Branch]:
        """One more entry: those that can be handed out now."""
        self._close(depth)
        node = _Node(info, depth)
        self._held.append(node)
        self._open.append(node)
        if len(self._held) > MOST_HELD and self._held[0].last is None:
            self._held[0].last = False
        yield from self._ready()

    def finish(self) -> Iterator[Branch]:
        """Those that are left."""
        self._close(0)
        yield from self._ready()

    def _close(self, depth: int) -> None:
        """An entry of this depth follows: what is deeper is through, and at its depth comes another one."""
        while self._open and self._open[-1].depth >= depth:
            node = self._open.pop()
            if node.last is None:
                node.last = node.depth > depth

    def _ready(self) -> Iterator[Branch]:
        while self._held and (last := self._held[0].last) is not None:
            node = self._held.popleft()
            del self._lasts[node.depth - 1 :]
            self._lasts.append(last)
            yield Branch(node.info, node.depth, tuple(self._lasts))


class Wanted(Struct, frozen=True):
    """What is looked for: names that match a pattern, of these types, within sizes and times, both ends in.

    ``name`` is about the last component, and means what begins with a dot as well. Only files have a size.
    """

    name: str | None = None
    types: frozenset[FileType] = frozenset()
    least_bytes: int = 0
    most_bytes: float = math.inf
    since_ns: float = -math.inf
    until_ns: float = math.inf

    def among(self, entries: Iterable[FileInfo]) -> Iterator[FileInfo]:
        """Those that fit."""
        matches = re.compile(fnmatch.translate(self.name), re.DOTALL).match if self.name is not None else None
        sized = self.least_bytes > 0 or self.most_bytes < math.inf
        for info in entries:
            if (
                (matches is None or matches(info.path.name))
                and (not self.types or info.type in self.types)
                and (not sized or (info.type == "file" and self.least_bytes <= info.size <= self.most_bytes))
                and self.since_ns <= info.mtime_ns <= self.until_ns
            ):
                yield info
