"""Where a tree is taken from: what is in one folder of this side, reached from there and through no link."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

from ftpy.client.source import local_error
from ftpy.errors import LocalFileError
from ftpy.files import RemotePath, display
from ftpy.storage.base import Closing
from ftpy.storage.beneath import Beneath, Directory

Entry = Literal["file", "directory", "link", "other"]
"""What a folder says that something in it is; ``other``: a closer look tells."""

T = TypeVar("T")

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.ENXIO)
"""A link, or a socket, where a regular file was."""


class Within(Closing):
    """The folder ``root``, which itself may be named by a link: the user named it. Raises LocalFileError; any thread.

    Others may write in a tree while it is sent: a folder that became a link since it was listed would lead to what its
    sender may read and they may not. Everything has the name that the walk gives it, ``root`` and what is below.

    Most of what a thread asks for is where the last was: that folder stays open. Without directory descriptors
    (Windows) all is reached by its path, and a race is not guarded against.
    """

    def __init__(self, root: str) -> None:
        self._prefix = os.path.join(root, "")
        try:
            os.stat(root)  # "" is no folder, though it would be made the current one
            self._place = os.path.realpath(root)
            self._beneath = Beneath(self._place)
        except NotADirectoryError:
            raise LocalFileError(f"{display(root)}: not a folder") from None
        except OSError as error:
            raise local_error(root, error) from None
        self._by_path = self._beneath.door == "path"
        self._held: dict[int, tuple[str, Directory]] = {}
        """The folder that each thread was last in, and its place below the root."""

    def close(self) -> None:
        """Close all folders."""
        while self._held:
            self._held.popitem()[1][1].close()
        self._beneath.close()

    def real(self, name: str) -> str:
        """Where on this side a name leads to, through whatever links."""
        return os.path.realpath(os.path.join(self._place, name[len(self._prefix) :]))

    def place_of(self, real: str) -> str | None:
        """Where that is below the root; None where it is not."""
        prefix = os.path.join(self._place, "")
        return real[len(prefix) :] if real.startswith(prefix) else None

    def scan(self, name: str) -> tuple[os.stat_result, list[tuple[str, Entry]]]:
        """A folder: its status, and the names that are in it, in order, with what they are."""
        try:
            if self._by_path:
                return os.stat(name), _entries(name)
            self._leave()  # what was open may be gone, and seem empty
            folder = self._folder(name[len(self._prefix) :])
            return os.fstat(folder.fd), _entries(folder.fd)
        except OSError as error:
            raise local_error(name, error) from None

    def lstat(self, name: str) -> os.stat_result:
        """What is there, a link as itself."""
        try:
            return self._look(_lstat, name)
        except OSError as error:
            raise local_error(name, error) from None

    def open_file(self, name: str) -> int:
        """A file, for reading: its descriptor. Whether it is a regular one is for the caller to see."""
        try:
            return self._look(_open, name)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise LocalFileError(f"{display(name)}: no longer a regular file") from None
            raise local_error(name, error) from None

    def _look(self, look: Callable[[str, int | None], T], name: str) -> T:
        if self._by_path:
            return look(name, None)
        place, _, leaf = name[len(self._prefix) :].rpartition(os.sep)
        try:
            return look(leaf, self._folder(place).fd)
        except FileNotFoundError:
            self._leave()  # the folder that was open may be gone, and another one there
            return look(leaf, self._folder(place).fd)

    def _folder(self, place: str) -> Directory:
        held = self._held.get(threading.get_ident())
        if held is not None and held[0] == place:
            return held[1]
        folder = self._beneath.open_dir(RemotePath(tuple(place.split(os.sep)) if place else ()))
        self._leave()
        self._held[threading.get_ident()] = place, folder
        return folder

    def _leave(self) -> None:
        held = self._held.pop(threading.get_ident(), None)
        if held is not None:
            held[1].close()


def _lstat(name: str, folder: int | None) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _open(name: str, folder: int | None) -> int:
    return os.open(name, _FLAGS, dir_fd=folder)


def _entries(folder: str | int) -> list[tuple[str, Entry]]:
    with os.scandir(folder) as scan:
        return sorted([(entry.name, _kind(entry)) for entry in scan])


def _kind(entry: os.DirEntry[str]) -> Entry:
    try:
        if entry.is_file(follow_symlinks=False):
            return "file"
        if entry.is_symlink():
            return "link"
        return "directory" if entry.is_dir(follow_symlinks=False) else "other"
    except OSError:
        return "other"
