"""Destroying a tree that nobody sees any more, name by name, as far as it can be done."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from ftpy.files import DEPTH
from ftpy.storage.base import Removed, ignore
from ftpy.storage.beneath import Directory
from ftpy.storage.usage import weight

_OWNER_BITS = 0o700


class Clearing:
    """Destroys what has a name in ``folder`` with all below it; what cannot be is counted as ``left``.

    A tree is as deep as whoever made it liked: what lies deeper than any path of ours is brought up into ``folder``
    under a ``new_name``, so that neither the stack nor the descriptors run out. What is mounted inside stays:
    it is not on ``device``.
    ``on_removed`` hears how many names went so far; once it ``is_stopped`` no more go.
    """

    def __init__(
        self,
        folder: Directory,
        new_name: Callable[[], str],
        *,
        device: int,
        on_removed: Callable[[int], None] = ignore,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._folder, self._new_name = folder, new_name
        self._on_removed, self._is_stopped = on_removed, is_stopped
        self._device = device
        self._brought_up: list[str] = []
        self._files = self._folders = self._size = 0
        self.left = 0
        self.error: OSError | None = None
        """Why the first of those that are left is."""

    @property
    def removed(self) -> Removed:
        """What went so far."""
        return Removed(self._files, self._folders, self._size)

    def clear(self, name: str) -> None:
        """Destroy one tree, or a file."""
        self._brought_up.append(name)
        while self._brought_up and not self._is_stopped():
            self._destroy(self._folder, self._brought_up.pop(), 0)

    def _destroy(self, directory: Directory, name: str, depth: int) -> None:
        try:
            found = directory.lstat(name)
            if stat.S_ISDIR(found.st_mode):
                if not self._destroy_folder(directory, name, found, depth):
                    return
                self._folders += 1
            else:
                directory.unlink(name)
                self._files += 1
                self._size += weight(found)
        except FileNotFoundError:
            return
        except OSError as error:
            self.left += 1
            self.error = self.error or error
        else:
            self._on_removed(self._files + self._folders)

    def _destroy_folder(self, directory: Directory, name: str, found: os.stat_result, depth: int) -> bool:
        """Whether all of it went, or an empty folder is left to count."""
        if found.st_dev != self._device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if found.st_mode & _OWNER_BITS != _OWNER_BITS:
            with contextlib.suppress(OSError):  # what follows says why it cannot be done
                directory.chmod_directory(name, _OWNER_BITS)
        if depth == DEPTH:
            higher = self._new_name()
            directory.rename(name, self._folder, higher)
            self._brought_up.append(higher)
            return False
        left = self.left
        with directory.open_dir(name) as inner:
            for one in inner.names():
                if self._is_stopped():
                    return False
                self._destroy(inner, one, depth + 1)
        if self.left > left:
            return False
        directory.rmdir(name)
        return True
