"""The one door to the file system: nothing outside a root is opened or changed through it.

Every call is (directory, leaf name). A directory is reached by openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
and RESOLVE_NO_MAGICLINKS, or by an O_NOFOLLOW walk where that is missing; the leaf is never followed either.
So a symlink that is flipped under a running request can make it fail, never lead it out.
``os.path.realpath`` before an open cannot promise that: the path may change between the two.

All raise OSError: the storage turns it into a RequestError (``refusals``), a client into its own words.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.base import Closing

Door = Literal["openat2", "walk", "path"]
"""How directories are reached: one system call; one per component; by path where there are no directory fds."""

_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_O_BINARY = getattr(os, "O_BINARY", 0)
_O_PATH: int | None = getattr(os, "O_PATH", None)
_DIRECTORY_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _O_NOFOLLOW
_UPWARD_FLAGS = _O_PATH or os.O_RDONLY  # of "/", "." and "..": directories in any case, which need not be readable
# O_NONBLOCK: opening a FIFO must not wait for its other end.
_READ_FLAGS = os.O_RDONLY | _O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | _O_BINARY
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_NOFOLLOW | _O_BINARY
_APPEND_FLAGS = os.O_RDWR | os.O_APPEND | _READ_FLAGS
_WRITE_FLAGS = os.O_RDWR | _READ_FLAGS

_NOT_HERE = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG)
"""openat2 refused as such: no such call, or a sandbox that does not know it."""


NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""link refused as such: a file system without hard links (link(2))."""


def best_door() -> Door:
    """The best way that this system has."""
    if os.open not in os.supports_dir_fd:
        return "path"
    root = os.open("/", _UPWARD_FLAGS)
    try:
        syscalls.close(syscalls.open_directory_beneath(root, b"."))
    except OSError as error:
        if error.errno in _NOT_HERE:
            return "walk"
        if error.errno != errno.EACCES:  # a sandbox refuses this folder, which is no answer for the call
            raise
    finally:
        syscalls.close(root)
    return "openat2"


def _regular(fd: int) -> int:
    """``fd`` if it is a regular file; else it is closed and OSError says what was there."""
    _regular_status(fd)
    return fd


def _regular_status(fd: int) -> os.stat_result:
    """The same, and what it is."""
    try:
        found = os.fstat(fd)
    except OSError:
        syscalls.close(fd)
        raise
    if stat.S_ISREG(found.st_mode):
        return found
    syscalls.close(fd)
    code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.ENXIO
    raise OSError(code, os.strerror(code))


class Directory(Closing):
    """An open directory; every method takes the name of something directly in it, and follows no symlink.

    ``path`` is for messages. A name is one component: callers pass a ``RemotePath``'s or their own.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: RemotePath) -> None:
        self.fd = fd
        self.path = path

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            syscalls.close(self.fd)
            self.fd = -1

    def again(self) -> Directory:
        """The same directory with a descriptor of its own."""
        return Directory(os.open(".", _DIRECTORY_FLAGS, dir_fd=self.fd), self.path)

    def open_dir(self, leaf: str) -> Directory:
        """A directory in this one. NotADirectoryError for anything else."""
        try:
            fd = os.open(leaf, _DIRECTORY_FLAGS, dir_fd=self.fd)
        except OSError as error:
            raise _as_not_a_directory(error) from None
        return Directory(fd, RemotePath((*self.path.parts, leaf)))

    def open_file(self, leaf: str) -> int:
        """A regular file, for reading: its descriptor."""
        return _regular(os.open(leaf, _READ_FLAGS, dir_fd=self.fd))

    def open_for_write(self, leaf: str) -> int:
        """An existing regular file, for reading and writing."""
        return _regular(os.open(leaf, _WRITE_FLAGS, dir_fd=self.fd))

    def open_for_append(self, leaf: str, *, create: bool, mode: int = 0o600) -> int:
        """A regular file, for reading and appending."""
        flags = _APPEND_FLAGS | (os.O_CREAT if create else 0)
        return _regular(os.open(leaf, flags, mode, dir_fd=self.fd))

    def create(self, leaf: str, mode: int = 0o666) -> int:
        """A new file, for reading and writing; ``mode`` less the umask. FileExistsError."""
        return os.open(leaf, _CREATE_FLAGS, mode, dir_fd=self.fd)

    def chmod(self, leaf: str, mode: int) -> None:
        """Set the permission bits. Follows a symlink: only for directories that nobody else can write to."""
        os.chmod(leaf, mode, dir_fd=self.fd)

    def chmod_directory(self, leaf: str, mode: int) -> None:
        """Set the permission bits of a directory in this one, and of nothing else. NotADirectoryError."""
        if _O_PATH is None:  # pragma: no cover  (macOS: Linux cannot chmod without following)
            os.chmod(leaf, mode, dir_fd=self.fd, follow_symlinks=False)
            return
        try:
            fd = os.open(leaf, _O_PATH | _DIRECTORY_FLAGS, dir_fd=self.fd)  # whatever its bits are now
        except OSError as error:
            raise _as_not_a_directory(error) from None
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)  # fchmod(2) takes no such descriptor
        finally:
            syscalls.close(fd)

    def lstat(self, leaf: str) -> os.stat_result:
        """What is there, a symlink as itself."""
        return os.stat(leaf, dir_fd=self.fd, follow_symlinks=False)

    def rename(self, leaf: str, into: Directory, new: str) -> None:
        """Move, replacing a file or symlink of that name. IsADirectoryError."""
        os.rename(leaf, new, src_dir_fd=self.fd, dst_dir_fd=into.fd)

    def rename_noreplace(self, leaf: str, into: Directory, new: str) -> None:
        """Move, unless anything of that name is there: FileExistsError."""
        try:
            syscalls.rename_noreplace(self.fd, leaf, into.fd, new)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EINVAL):
                raise
            self._link_noreplace(leaf, into, new)

    def link(self, leaf: str, into: Directory, new: str) -> None:
        """Give a file, or a symlink itself, another name. FileExistsError; OSError where there are no hard links."""
        os.link(leaf, new, src_dir_fd=self.fd, dst_dir_fd=into.fd, follow_symlinks=False)

    def _link_noreplace(self, leaf: str, into: Directory, new: str) -> None:
        try:
            os.link(leaf, new, src_dir_fd=self.fd, dst_dir_fd=into.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        else:
            os.unlink(leaf, dir_fd=self.fd)
            return
        # The last way, for FAT and its like under macOS: what is made between the look and the rename is replaced.
        try:
            into.lstat(new)
        except FileNotFoundError:
            self.rename(leaf, into, new)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def exchange(self, leaf: str, into: Directory, other: str) -> None:
        """Let two names swap what they stand for, in one step. OSError (EINVAL, ENOSYS) where that cannot be done."""
        syscalls.rename_with(syscalls.RENAME_EXCHANGE, self.fd, leaf, into.fd, other)

    def is_at(self, within: Directory, leaf: str) -> bool:
        """Whether it is what has that name in another directory now."""
        try:
            return os.path.samestat(within.lstat(leaf), self.lstat("."))
        except FileNotFoundError:
            return False

    def is_below(self, other: Directory, top: Directory) -> bool:
        """Whether it is below another directory now, which is below ``top``. Looks at no name, and not above ``top``.

        Also where what it was in is gone before it.
        """
        found, ends = self.lstat("."), (other.lstat("."), top.lstat("."))
        at = os.open(".", _UPWARD_FLAGS, dir_fd=self.fd)
        try:
            while not any(os.path.samestat(found, end) for end in ends):
                higher = os.open("..", _UPWARD_FLAGS, dir_fd=at)
                syscalls.close(at)
                at = higher  # before anything can fail: what is closed below is always open, and nobody else's
                below, found = found, os.fstat(at)
                if os.path.samestat(found, below):
                    return False  # the system's own root: it was moved out of ``top``
        except FileNotFoundError:
            return True
        finally:
            syscalls.close(at)
        return os.path.samestat(found, ends[0])

    def unlink(self, leaf: str, *, missing_ok: bool = False) -> bool:
        """Remove a file or symlink: whether it was there. FileNotFoundError unless ``missing_ok``."""
        try:
            self._unlink(leaf)
        except FileNotFoundError:
            if not missing_ok:
                raise
            return False
        return True

    def _unlink(self, leaf: str) -> None:
        os.unlink(leaf, dir_fd=self.fd)

    def mkdir(self, leaf: str, mode: int = 0o777) -> None:
        """Make a directory; ``mode`` less the umask. FileExistsError."""
        os.mkdir(leaf, mode, dir_fd=self.fd)

    def rmdir(self, leaf: str) -> None:
        """Remove an empty directory. FileNotFoundError, OSError (ENOTEMPTY)."""
        os.rmdir(leaf, dir_fd=self.fd)

    def names(self) -> list[str]:
        """What is in it, in no order; undecodable names with surrogate escapes."""
        # A descriptor of its own: the place in a listing belongs to the descriptor, which threads may share.
        with self.again() as own:
            return os.listdir(own.fd)

    def sync(self) -> None:
        """Make its names durable (fsync(2): a new name needs the directory's own fsync)."""
        syscalls.fsync(self.fd)


def _as_not_a_directory(error: OSError) -> OSError:
    """Linux says ELOOP where others say ENOTDIR for a symlink in a directory's place; we say ENOTDIR."""
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return error


class Beneath(Closing):
    """Everything below one root, and nothing else. Safe in any thread.

    The root itself may be reached through symlinks: the operator chose it. ``door`` None takes the best way there is.
    """

    def __init__(self, root: str | Path, *, door: Door | None = None) -> None:
        self.door: Door = door or best_door()
        self._place = os.path.realpath(root)
        if self.door == "path":
            from ftpy.storage.bypath import PathDirectory

            self.root: Directory = PathDirectory(self._place, RemotePath())
        else:
            self.root = Directory(os.open(self._place, _DIRECTORY_FLAGS), RemotePath())
        self._reach: Callable[[tuple[str, ...]], Directory] = self._at_once if self.door == "openat2" else self._walk

    def close(self) -> None:
        """Close the root."""
        self.root.close()

    def is_in_place(self) -> bool:
        """Whether the path of the root still leads to it; where that cannot be told, it does."""
        try:
            return os.path.samestat(os.stat(self._place), self.root.lstat("."))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def open_dir(self, path: RemotePath) -> Directory:
        """A directory. Raises FileNotFoundError, NotADirectoryError (also for a symlink), PermissionError."""
        parts = path.parts
        if not parts:
            return self.root.again()
        check_parts(parts)
        return self._reach(parts)

    def parent(self, path: RemotePath) -> Directory:
        """The directory that ``path`` is in. The root is in none: IsADirectoryError."""
        if not path.parts:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        check_parts(path.parts)
        return self.open_dir(path.parent)

    def open_file(self, path: RemotePath) -> tuple[int, os.stat_result]:
        """A regular file, for reading: its descriptor, and what it is."""
        fd = self._open_at_once(path) if self.door == "openat2" else None
        if fd is None:
            with self.parent(path) as parent:
                fd = parent.open_file(path.name)
        return fd, _regular_status(fd)

    def _open_at_once(self, path: RemotePath) -> int | None:
        """Whatever is there, in one system call; None where that fails: the way by its directory says why."""
        check_parts(path.parts)
        try:
            return syscalls.open_file_beneath(self.root.fd, os.fsencode(str(path)))
        except OSError:
            return None

    def lstat(self, path: RemotePath) -> os.stat_result:
        """What is at ``path``, a symlink as itself."""
        if not path.parts:
            return self.root.lstat(".")
        with self.parent(path) as parent:
            return parent.lstat(path.name)

    def _at_once(self, parts: tuple[str, ...]) -> Directory:
        try:
            fd = syscalls.open_directory_beneath(self.root.fd, os.fsencode("/".join(parts)))
        except OSError as error:
            if error.errno == errno.EAGAIN or error.errno in _NOT_HERE:
                return self._walk(parts)  # a rename under way, or a sandbox that came later
            raise _as_not_a_directory(error) from None
        return Directory(fd, RemotePath(parts))

    def _walk(self, parts: tuple[str, ...]) -> Directory:
        at = self.root.again()
        for part in parts:
            with at:
                at = at.open_dir(part)
        return at


_NO_NAMES = frozenset(["", ".", ".."])


def check_parts(parts: tuple[str, ...]) -> None:
    """A second look at a ``RemotePath`` that was made without ``parse``: dots and separators never reach the system.

    Raises OSError (EILSEQ).
    """
    text = "".join(parts)
    if "/" in text or "\0" in text or not _NO_NAMES.isdisjoint(parts):
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ))
