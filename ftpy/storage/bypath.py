"""The door where there are no directory descriptors (Windows): by path, with a look at every component first.

A look and an open are two steps, so this guards against what lies there, not against a race.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from ftpy.files import RemotePath
from ftpy.storage.beneath import Directory

_REPARSE_POINT = 0x400
"""FILE_ATTRIBUTE_REPARSE_POINT: symlinks, junctions, mount points of Windows."""
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)


_FOREIGN = re.compile(r"[/\0\\:]|[. ]\Z" if os.name == "nt" else r"[/\0]")
"""What of one legal component leads elsewhere here: a separator; what Windows leaves out, so that `.. ` is `..`."""


def _leads_elsewhere(found: os.stat_result) -> bool:
    return stat.S_ISLNK(found.st_mode) or bool(getattr(found, "st_file_attributes", 0) & _REPARSE_POINT)


def _refuse(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class PathDirectory(Directory):
    """A ``Directory`` known by its absolute path; ``fd`` is -1."""

    __slots__ = ("_host",)

    def __init__(self, host: str, path: RemotePath) -> None:
        super().__init__(-1, path)
        self._host = host

    def _at(self, leaf: str) -> str:
        """Where ``leaf`` is on the host, after a look at this directory itself."""
        if leaf != "." and _FOREIGN.search(leaf):
            raise _refuse(errno.EILSEQ)
        found = os.lstat(self._host)
        if not stat.S_ISDIR(found.st_mode) or (self.path.parts and _leads_elsewhere(found)):
            raise _refuse(errno.ENOTDIR)
        return os.path.join(self._host, leaf)

    def _open(self, leaf: str, flags: int, mode: int = 0o666) -> int:
        at = self._at(leaf)
        try:
            found = os.lstat(at)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        else:
            if flags & os.O_EXCL:
                raise _refuse(errno.EEXIST)
            if _leads_elsewhere(found):
                raise _refuse(errno.ELOOP)
            if not stat.S_ISREG(found.st_mode):
                raise _refuse(errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.ENXIO)
        return os.open(at, flags | _FLAGS | _BINARY, mode)

    def again(self) -> Directory:
        """The same directory."""
        return PathDirectory(self._host, self.path)

    def open_dir(self, leaf: str) -> Directory:
        """A directory in this one."""
        at = self._at(leaf)
        found = os.lstat(at)
        if not stat.S_ISDIR(found.st_mode) or _leads_elsewhere(found):
            raise _refuse(errno.ENOTDIR)
        return PathDirectory(at, RemotePath((*self.path.parts, leaf)))

    def open_file(self, leaf: str) -> int:
        """A regular file, for reading."""
        return self._open(leaf, os.O_RDONLY)

    def open_for_write(self, leaf: str) -> int:
        """An existing regular file, for reading and writing."""
        return self._open(leaf, os.O_RDWR)

    def open_for_append(self, leaf: str, *, create: bool, mode: int = 0o600) -> int:
        """A regular file, for reading and appending."""
        return self._open(leaf, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0), mode)

    def create(self, leaf: str, mode: int = 0o666) -> int:
        """A new file, for reading and writing."""
        return self._open(leaf, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def chmod(self, leaf: str, mode: int) -> None:
        """Set the permission bits."""
        os.chmod(self._at(leaf), mode)

    def chmod_directory(self, leaf: str, mode: int) -> None:
        """Set the permission bits of a directory."""
        with self.open_dir(leaf):
            os.chmod(self._at(leaf), mode)

    def lstat(self, leaf: str) -> os.stat_result:
        """What is there, a symlink as itself."""
        return os.lstat(self._at(leaf))

    def rename(self, leaf: str, into: Directory, new: str) -> None:
        """Move, replacing."""
        assert isinstance(into, PathDirectory)
        os.replace(self._at(leaf), into._at(new))

    def rename_noreplace(self, leaf: str, into: Directory, new: str) -> None:
        """Move, unless anything is there."""
        assert isinstance(into, PathDirectory)
        if os.name == "nt":
            os.rename(self._at(leaf), into._at(new))  # refuses an existing target there
        else:
            os.link(self._at(leaf), into._at(new), follow_symlinks=False)
            os.unlink(self._at(leaf))

    def link(self, leaf: str, into: Directory, new: str) -> None:
        """Give a file another name."""
        assert isinstance(into, PathDirectory)
        os.link(self._at(leaf), into._at(new), follow_symlinks=os.name == "nt")  # a reparse point was refused before

    def _unlink(self, leaf: str) -> None:
        os.unlink(self._at(leaf))

    def mkdir(self, leaf: str, mode: int = 0o777) -> None:
        """Make a directory."""
        os.mkdir(self._at(leaf), mode)

    def rmdir(self, leaf: str) -> None:
        """Remove an empty directory."""
        os.rmdir(self._at(leaf))

    def names(self) -> list[str]:
        """What is in it."""
        return os.listdir(self._at(""))

    def sync(self) -> None:
        """Make its names durable, where a directory can be opened at all."""
        if os.name != "nt":
            fd = os.open(self._at(""), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
