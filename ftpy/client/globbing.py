"""Patterns of remote paths: which names they mean, told from complete listings and from nothing else.

``*`` stands for any letters of a name, ``?`` for one, ``[a-z]`` and ``[!a-z]`` for one of some, and ``**``, a
component of its own, for any number of folders, also none. What begins with a dot is only meant by a pattern that
does. As in every shell; ``[*]``, ``[?]`` and ``[[]`` stand for those letters themselves.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ftpy.errors import NotADirectory, NotFound, TooManyMatches
from ftpy.files import FileInfo, RemotePath

MAGIC: Final = frozenset("*?[")
DEEP: Final = "**"
"""The component that stands for any number of folders."""

MOST_MATCHES = 1_000_000
"""What one pattern may mean, kept in memory: some 300 MB; where all lie 64 deep, ten times that."""

Keep = Callable[[FileInfo], bool]
Listed = Callable[[RemotePath, bool, Keep], list[FileInfo]]
"""What is to be kept of a folder's complete listing, recursive or not. Raises NotFound, NotADirectory, …."""
Stat = Callable[[RemotePath], FileInfo]


def is_pattern(text: str) -> bool:
    """Whether a text has letters that mean others."""
    return not MAGIC.isdisjoint(text)


class Name:
    """One component of a pattern: which names it means."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.deep = text == DEEP
        self.literal = not is_pattern(text)
        self._matches = re.compile(fnmatch.translate(text), re.DOTALL).match
        self._shows_hidden = text.startswith(".")

    def fits(self, name: str) -> bool:
        """Whether it means this name; ``**``, whether it leads through it."""
        if self.literal:
            return name == self.text
        if name.startswith(".") and not self._shows_hidden:
            return False
        return self.deep or self._matches(name) is not None


class Pattern:
    """A pattern of paths; ``base`` is the part of it before its first component with letters that mean others."""

    def __init__(self, text: str) -> None:
        """Raises InvalidPath: what could be no path is no pattern."""
        parts = RemotePath.parse(text).parts
        names = tuple(map(Name, parts))
        first = next((at for at, name in enumerate(names[:-1]) if not name.literal), len(names[:-1]))
        self.base, self.rest = RemotePath(parts[:first]), names[first:]

    def expand(self, listed: Listed, stat: Stat) -> list[FileInfo]:
        """What it means, in the order of paths."""
        folders, found = [self.base], list[FileInfo]()
        for at, name in enumerate(self.rest):
            if name.deep:
                return _each(folders, functools.partial(_below, self.rest[at:], listed))
            found = _each(folders, functools.partial(_in, name, listed, stat))
            folders = [info.path for info in found if info.type == "directory"]
        return found


def _each(folders: Iterable[RemotePath], find: Callable[[RemotePath], list[FileInfo]]) -> list[FileInfo]:
    """What is found in each, in the order of paths; one that is not there, or is no folder, has nothing in it.

    Raises TooManyMatches.
    """
    found: list[FileInfo] = []
    for folder in folders:
        try:
            found += find(folder)
        except (NotFound, NotADirectory):
            continue
        if len(found) > MOST_MATCHES:
            raise TooManyMatches
    return sorted(found, key=lambda info: info.path.parts)


def _in(name: Name, listed: Listed, stat: Stat, folder: RemotePath) -> list[FileInfo]:
    """What a name means directly in a folder."""
    if name.literal:
        return [stat(RemotePath((*folder.parts, name.text)))]
    return listed(folder, False, lambda info: info.path.parent == folder and name.fits(info.path.name))


def _below(names: tuple[Name, ...], listed: Listed, folder: RemotePath) -> list[FileInfo]:
    """What several names mean below a folder."""
    depth = len(folder.parts)
    return listed(folder, True, lambda info: fits(names, info.path.parts[depth:]))


def fits(names: tuple[Name, ...], parts: tuple[str, ...]) -> bool:
    """Whether the names, in order, mean these components, all of them. Takes time by the product of both."""
    reached = set(_passing(names, 0))
    for part in parts:
        reached = {
            further
            for at in reached
            if at < len(names) and names[at].fits(part)
            for further in _passing(names, at if names[at].deep else at + 1)
        }
    return len(names) in reached


def _passing(names: tuple[Name, ...], at: int) -> Iterator[int]:
    """Where in the names one can stand at ``at``: a ``**`` may stand for no folder at all."""
    yield at
    while at < len(names) and names[at].deep:
        at += 1
        yield at


def outermost(found: Iterable[FileInfo]) -> Iterator[FileInfo]:
    """Of what was found, in the order of paths, that which is below nothing else of it."""
    last: RemotePath | None = None
    for info in found:
        if last is None or info.path.parts[: len(last.parts)] != last.parts:
            last = info.path
            yield info
