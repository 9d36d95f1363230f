"""Two folders that swap places in one step, and what is counted before that is done. All raise OSError."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ftpy.storage import syscalls, wanted
from ftpy.storage.beneath import Directory
from ftpy.storage.treebase import Census
from ftpy.storage.usage import weight

_PROBES = ("probe-a", "probe-b")
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def can_exchange(directory: Directory) -> bool:
    """Whether the system and this directory's file system can exchange two folders (renameat2(2), RENAME_EXCHANGE).

    NFS, FUSE and others cannot. Nobody else may be at work in the directory.
    """
    try:
        for name in _PROBES:
            directory.mkdir(name, 0o700)
        directory.exchange(_PROBES[0], directory, _PROBES[1])
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    finally:
        for name in _PROBES:
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir(name)
    return True


class Exchange(NamedTuple):
    """The folder ``coming``, at ``tree`` of ``ours``, and what is at ``name`` of ``parent``, if anything is."""

    ours: Directory
    tree: str
    coming: os.stat_result
    parent: Directory
    name: str
    replaced: os.stat_result | None

    def make(self) -> None:
        """Let the tree be at the name, and in its place what was there."""
        self._rename(self.ours, self.tree, self.parent, self.name)

    def undo(self) -> None:
        """Let all be where it was just before."""
        self._rename(self.parent, self.name, self.ours, self.tree)

    def _rename(self, within: Directory, tree: str, into: Directory, name: str) -> None:
        """Let ``coming``, at ``tree``, be at ``name``, and the other way round."""
        moves = [(within, tree, self.coming, into, name)]
        if self.replaced is None:
            with _writable(moves):
                within.rename_noreplace(tree, into, name)
        else:
            with _writable([*moves, (into, name, self.replaced, within, tree)]):
                within.exchange(tree, into, name)


_Move = tuple[Directory, str, os.stat_result, Directory, str]


@contextlib.contextmanager
def _writable(moves: list[_Move]) -> Iterator[None]:
    """Folders that get another folder above them: their own entry for it changes, which takes the right to write.

    (rename(2); root may always.) They get that for the moment, and have their own bits again in their new place.
    """
    changed = [move for move in moves if not move[2].st_mode & stat.S_IWUSR and os.geteuid() != 0]
    for within, leaf, found, _, _ in changed:
        within.chmod_directory(leaf, stat.S_IMODE(found.st_mode) | stat.S_IWUSR)
    try:
        yield
    except OSError:
        for within, leaf, found, _, _ in changed:
            within.chmod_directory(leaf, stat.S_IMODE(found.st_mode))
        raise
    for _, _, found, into, new in changed:
        into.chmod_directory(new, stat.S_IMODE(found.st_mode))


def count_and_sync(folder: Directory, tree: str, on_counted: Callable[[int], None]) -> Census:
    """All that is below ``tree``, and every name of it durable: the files themselves were when they were published.

    ``on_counted`` hears how many names were counted so far.
    """
    at_once = syscalls.HAS_SYNCFS and syscalls.file_system_type(folder.fd) in syscalls.SYNCED_BY_SYNCFS
    counting = _Counting(on_counted, each_synced=not at_once)
    counting.count(folder, tree)
    if at_once:
        syscalls.syncfs(folder.fd)
    return Census(counting.files, counting.folders, counting.size)


class _Counting:
    """Counts a tree that was put by paths, and so is no deeper than one can be."""

    def __init__(self, on_counted: Callable[[int], None], *, each_synced: bool) -> None:
        self._on_counted, self._each_synced = on_counted, each_synced
        self.files = self.folders = self.size = 0

    def count(self, within: Directory, name: str) -> None:
        """Add what is below a folder. Raises RequestError where that is not wanted any more."""
        wanted.check()
        with within.open_dir(name) as directory:
            names = directory.names()
            for one in names:
                found = directory.lstat(one)
                if stat.S_ISDIR(found.st_mode):
                    self.folders += 1
                    self.count(directory, one)
                else:
                    self.files += 1
                    self.size += weight(found)
            if self._each_synced:
                directory.sync()
            self._on_counted(self.files + self.folders)
