"""What a tree on this side holds: lazily, each folder before its content, in the order of names."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from ftpy.client.within import Entry, Within
from ftpy.errors import FtpyError, InvalidPath, LocalFileError
from ftpy.files import RESERVED_PREFIX, RemotePath, is_reserved

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

Links = Literal["skip", "copy"]
"""Symbolic links are passed over, or what they name inside the tree is taken in their place."""

Kind = Literal["file", "directory", "end", "link", "special", "failed"]


class Found(NamedTuple):
    """One thing in a tree; ``end`` comes behind all that a directory holds, ``failed`` with its ``error``.

    ``path`` is what it will be called on the server, ``local`` how it is opened here.
    """

    kind: Kind
    path: RemotePath
    local: str
    status: os.stat_result | None = None
    error: FtpyError | None = None


class Selection(Struct, frozen=True):
    """What of a tree is meant: gitignore's patterns, relative to the tree.

    With ``include`` alone only files that match are taken, with ``exclude`` all but those that match; with both,
    what matches ``exclude`` stays out unless it matches ``include``, too. Nothing below an excluded folder is seen.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def compiled(self) -> Filter | None:
        """As a filter; None where everything is meant. Raises InvalidPath for a pattern that is none."""
        if not self.include and not self.exclude:
            return None
        return Filter(self)


class Filter:
    """A ``Selection``, compiled."""

    def __init__(self, selection: Selection) -> None:
        from pathspec import GitIgnoreSpec

        def compiled(patterns: Sequence[str]) -> GitIgnoreSpec | None:
            try:
                return GitIgnoreSpec.from_lines(patterns) if patterns else None
            except ValueError as error:
                raise InvalidPath(f"not a pattern: {error}") from None

        self._include, self._exclude = compiled(selection.include), compiled(selection.exclude)

    @property
    def only_some(self) -> bool:
        """Whether only what matches is meant: then folders come with their files or not at all."""
        return self._exclude is None

    def takes_file(self, relative: str) -> bool:
        """Whether a file is meant; ``relative`` to the tree, with slashes."""
        if self._exclude is None:
            return self._include is None or self._include.match_file(relative)
        if not self._exclude.match_file(relative):
            return True
        return self._include is not None and self._include.match_file(relative)

    def takes(self, relative: str, *, folder: bool) -> bool:
        """Whether what was found in a directory of this side is meant."""
        return self.enters(relative) if folder else self.takes_file(relative)

    def enters(self, relative: str) -> bool:
        """Whether what is in a directory can be meant."""
        if self._exclude is None or not self._exclude.match_file(relative + "/"):
            return True
        return self._include is not None and self._include.match_file(relative + "/")


class Walk:
    """A tree below ``root``, to be called ``target`` on the server. Iterating raises LocalFileError for the root only.

    What cannot be read or named comes as ``failed`` and does not stop the rest.
    """

    def __init__(self, root: str, target: RemotePath, selection: Selection, links: Links) -> None:
        self._root, self._target, self._links = root, target, links
        self._filter = selection.compiled()

    def __iter__(self) -> Iterator[Found]:
        """Everything in order; the root itself first and last, as a directory and its end."""
        with Within(self._root) as within:
            status, entries = within.scan(self._root)
            yield from self._directory(within, Found("directory", self._target, self._root, status), entries, "")

    def _directory(
        self, within: Within, folder: Found, entries: list[tuple[str, Entry]], relative: str, *, linked: bool = False
    ) -> Iterator[Found]:
        yield folder
        path, prefix = folder.path, os.path.join(folder.local, "")
        plain = path.admits([name for name, _ in entries])
        for name, entry in entries:
            local = prefix + name
            try:
                below = RemotePath((*path.parts, name)) if plain else path / name
            except InvalidPath as error:
                meant = self._filter is None or self._filter.takes(relative + name, folder=entry == "directory")
                if meant and not is_reserved(name):  # what is ours is nobody's file
                    yield Found("failed", RemotePath((*path.parts, name)), local, error=error)
                continue
            if entry == "link":
                yield from self._link(within, local, below, relative + name, linked=linked)
            elif entry == "directory":
                yield from self._enter(within, local, below, relative + name, linked=linked)
            elif self._filter is None or self._filter.takes_file(relative + name):
                yield _file(within, local, below)
        yield folder._replace(kind="end")

    def _enter(self, within: Within, local: str, path: RemotePath, relative: str, *, linked: bool) -> Iterator[Found]:
        if self._filter is not None and not self._filter.enters(relative):
            return
        try:
            status, entries = within.scan(local)
        except LocalFileError as error:
            yield Found("failed", path, local, error=error)
            return
        folder = Found("directory", path, local, status)
        yield from self._directory(within, folder, entries, f"{relative}/", linked=linked)

    def _link(self, within: Within, local: str, path: RemotePath, relative: str, *, linked: bool) -> Iterator[Found]:
        """A link, or what it names where that is inside the tree.

        Below a linked directory no link to a directory is followed: links that name each other could go on for ever.
        """
        found = None if self._links == "skip" else self._named(within, local)
        if found is None:
            yield Found("link", path, local)
            return
        named, status = found
        if stat.S_ISREG(status.st_mode):
            if self._filter is None or self._filter.takes_file(relative):
                yield Found("file", path, named, status)
        elif (
            stat.S_ISDIR(status.st_mode)
            and not linked
            and not _is_above(within.real(named), within.real(os.path.dirname(local)))
        ):
            yield from self._enter(within, named, path, relative, linked=True)
        else:
            yield Found("link", path, local)

    def _named(self, within: Within, local: str) -> tuple[str, os.stat_result] | None:
        """Where in the tree that lies which a link names, and what it is; None where that is nothing of the tree's."""
        place = within.place_of(within.real(local))
        if place is None or any(is_reserved(part) for part in place.split(os.sep)):
            return None
        named = os.path.join(self._root, place)
        try:
            return named, within.lstat(named)
        except LocalFileError:
            return None


def _file(within: Within, local: str, path: RemotePath) -> Found:
    """What is neither a link nor a directory."""
    try:
        status = within.lstat(local)
    except LocalFileError as error:
        return Found("failed", path, local, error=error)
    return Found("file" if stat.S_ISREG(status.st_mode) else "special", path, local, status)


def _is_above(folder: str, path: str) -> bool:
    """Whether ``path`` is ``folder`` or below it."""
    return os.path.commonpath([folder, path]) == folder


MOST_FORESEEN = 100_000
"""Names looked at before anything is sent, a tenth of a second or so; those behind are told as the walk finds them."""


def unnameable(root: str, target: RemotePath, selection: Selection) -> Iterator[Found]:
    """What of a tree the server cannot hold by its name, told by a quick look at the names alone."""
    filtered = selection.compiled()
    seen = 0
    waiting = [(root, target, "")]
    while waiting and seen < MOST_FORESEEN:
        local, path, relative = waiting.pop()
        try:
            with os.scandir(local) as scan:
                entries = list(itertools.islice(scan, MOST_FORESEEN - seen))
                seen += len(entries)
                plain = path.admits([entry.name for entry in entries])
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if filtered is not None and not filtered.takes(relative + entry.name, folder=is_folder):
                        continue
                    if not plain:
                        try:
                            path / entry.name
                        except InvalidPath as error:
                            if not entry.name.startswith(RESERVED_PREFIX):
                                yield Found("failed", RemotePath((*path.parts, entry.name)), entry.path, error=error)
                            continue
                    if is_folder:
                        below = f"{relative}{entry.name}/"
                        waiting.append((entry.path, RemotePath((*path.parts, entry.name)), below))
        except OSError:
            continue  # told when the walk comes there
