"""What a tree on this side holds: lazily, each folder before its content, in the order of names."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from ftpy.client.source import local_error
from ftpy.errors import FtpyError, InvalidPath, LocalFileError
from ftpy.files import RESERVED_PREFIX, RemotePath, display, is_reserved

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

    def takes(self, entry: os.DirEntry[str], relative: str) -> bool:
        """Whether what was found in a directory of this side is meant."""
        try:
            return self.enters(relative) if entry.is_dir(follow_symlinks=False) else self.takes_file(relative)
        except OSError:
            return True  # nobody knows what it is

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
        self._real_root = os.path.realpath(root)

    def __iter__(self) -> Iterator[Found]:
        """Everything in order; the root itself first and last, as a directory and its end."""
        try:
            status = os.stat(self._root)
        except OSError as error:
            raise local_error(self._root, error) from None
        if not stat.S_ISDIR(status.st_mode):
            raise LocalFileError(f"{display(self._root)}: not a folder")
        yield from self._directory(self._target, self._root, "", status, linked=False)

    def _directory(
        self, path: RemotePath, local: str, relative: str, status: os.stat_result, *, linked: bool
    ) -> Iterator[Found]:
        try:
            with os.scandir(local) as scan:
                entries = sorted(scan, key=attrgetter("name"))
        except OSError as error:
            yield Found("failed", path, local, error=local_error(local, error))
            return
        yield Found("directory", path, local, status)
        plain = path.admits([entry.name for entry in entries])
        for entry in entries:
            name = entry.name
            try:
                below = RemotePath((*path.parts, name)) if plain else path / name
                regular = entry.is_file(follow_symlinks=False)
            except InvalidPath as error:
                meant = self._filter is None or self._filter.takes(entry, relative + name)
                if meant and not is_reserved(name):  # what is ours is nobody's file
                    yield Found("failed", RemotePath((*path.parts, name)), entry.path, error=error)
                continue
            except OSError:
                regular = False  # a closer look tells
            if regular:
                if self._filter is None or self._filter.takes_file(relative + name):
                    yield _file(entry.path, below)
            else:
                yield from self._entry(entry, below, relative + name, linked=linked)
        yield Found("end", path, local, status)

    def _entry(self, entry: os.DirEntry[str], path: RemotePath, relative: str, *, linked: bool) -> Iterator[Found]:
        try:
            if entry.is_symlink():
                yield from self._link(entry.path, path, relative, linked=linked)
            elif entry.is_dir(follow_symlinks=False):
                if self._filter is None or self._filter.enters(relative):
                    status = entry.stat(follow_symlinks=False)
                    yield from self._directory(path, entry.path, f"{relative}/", status, linked=linked)
            elif self._filter is None or self._filter.takes_file(relative):
                yield _file(entry.path, path)
        except OSError as error:
            yield Found("failed", path, entry.path, error=local_error(entry.path, error))

    def _link(self, local: str, path: RemotePath, relative: str, *, linked: bool) -> Iterator[Found]:
        """A link, or what it names where that is inside the tree.

        Below a linked directory no link to a directory is followed: links that name each other could go on for ever.
        """
        real = os.path.realpath(local)
        inside = os.path.commonpath([real, self._real_root]) == self._real_root
        ours = any(is_reserved(part) for part in os.path.relpath(real, self._real_root).split(os.sep))
        if self._links == "skip" or not inside or ours or not os.path.exists(real):
            yield Found("link", path, local)
            return
        status = os.stat(real)
        if stat.S_ISREG(status.st_mode):
            if self._filter is None or self._filter.takes_file(relative):
                yield Found("file", path, real, status)
        elif (
            stat.S_ISDIR(status.st_mode)
            and not linked
            and not _is_above(real, os.path.realpath(os.path.dirname(local)))
        ):
            if self._filter is None or self._filter.enters(relative):
                yield from self._directory(path, real, f"{relative}/", status, linked=True)
        else:
            yield Found("link", path, local)


def _file(local: str, path: RemotePath) -> Found:
    """What is neither a link nor a directory."""
    try:
        # On Windows a scan's own status lacks what tells two versions apart.
        status = os.stat(local, follow_symlinks=False)
    except OSError as error:
        return Found("failed", path, local, error=local_error(local, error))
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
                    if filtered is not None and not filtered.takes(entry, relative + entry.name):
                        continue
                    if not plain:
                        try:
                            path / entry.name
                        except InvalidPath as error:
                            if not entry.name.startswith(RESERVED_PREFIX):
                                yield Found("failed", RemotePath((*path.parts, entry.name)), entry.path, error=error)
                            continue
                    if entry.is_dir(follow_symlinks=False):
                        below = f"{relative}{entry.name}/"
                        waiting.append((entry.path, RemotePath((*path.parts, entry.name)), below))
        except OSError:
            continue  # told when the walk comes there
