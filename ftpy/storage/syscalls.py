"""System calls that Python's ``os`` lacks, most through ctypes; each says whether this system has it.

All raise OSError like their neighbours in ``os``. What is absent is never called: ``beneath`` and ``publish``
have a portable way beside each.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from ftpy.timing import SYNC

_SYS_OPENAT2 = 437
"""The same on every Linux architecture (openat2(2), since 5.6)."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
"""renameat2(2): swap two names."""


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _function(name: str, *arguments: Any) -> Callable[..., int] | None:
    """The C library's function, or None where it has none."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    return function  # type: ignore[no-any-return]


_syscall = _function("syscall", ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_renameat2 = _function("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs = _function("syncfs", ctypes.c_int)
_fstatfs = _function("fstatfs64", ctypes.c_int, ctypes.c_void_p) or _function("fstatfs", ctypes.c_int, ctypes.c_void_p)
_fallocate = _function("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_malloc_trim = _function("malloc_trim", ctypes.c_size_t)
_mallopt = _function("mallopt", ctypes.c_int, ctypes.c_int)
_GETVERSION = 0x80007601 | ctypes.sizeof(ctypes.c_long) << 16
"""FS_IOC_GETVERSION of linux/fs.h, as most architectures number it; others refuse it."""
_ARENA_MAX, HEAPS = -8, 4
"""M_ARENA_MAX of malloc.h, and ours: enough that threads seldom wait for one another."""

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)  # which os.open always sets by itself
_RESOLVE = _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS
_DIRECTORY_HOW = _OpenHow(_NOFOLLOW | getattr(os, "O_DIRECTORY", 0), 0, _RESOLVE)
_FILE_HOW = _OpenHow(_NOFOLLOW | getattr(os, "O_NONBLOCK", 0), 0, _RESOLVE)
_DIRECTORY_HOW_AT, _FILE_HOW_AT = ctypes.addressof(_DIRECTORY_HOW), ctypes.addressof(_FILE_HOW)
_HOW_BYTES = ctypes.sizeof(_OpenHow)


def _failure() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def _linux_at_least(*version: int) -> bool:
    if sys.platform != "linux":
        return False
    release = os.uname().release.split("-")[0].split(".")
    return tuple(int(part) for part in release[:2] if part.isdigit()) >= version


HAS_SYNCFS = _syncfs is not None and _linux_at_least(5, 8)
"""Whether ``syncfs`` can be trusted: before 5.8 it did not report write errors (syncfs(2))."""


def open_directory_beneath(fd: int, path: bytes) -> int:
    """A directory below ``fd`` that no symlink leads to; openat2(2). ENOSYS where the kernel has none."""
    return _open_beneath(fd, path, _DIRECTORY_HOW_AT)


def open_file_beneath(fd: int, path: bytes) -> int:
    """The same for whatever it is, for reading; opening a FIFO does not wait for its other end."""
    return _open_beneath(fd, path, _FILE_HOW_AT)


def _open_beneath(fd: int, path: bytes, how: int) -> int:
    if _syscall is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    opened = _syscall(_SYS_OPENAT2, fd, path, how, _HOW_BYTES)
    if opened < 0:
        raise _failure()
    return opened


def _encoded(name: str) -> bytes:
    return name.encode() if name.isascii() else os.fsencode(name)


def rename_with(flags: int, from_fd: int, name: str, to_fd: int, new: str) -> None:
    """renameat2(2). ENOSYS or EINVAL where the system or its file system has none."""
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _renameat2(from_fd, _encoded(name), to_fd, _encoded(new), flags) < 0:
        raise _failure()


def rename_noreplace(from_fd: int, name: str, to_fd: int, new: str) -> None:
    """Rename unless something is there: FileExistsError."""
    rename_with(_RENAME_NOREPLACE, from_fd, name, to_fd, new)


def generation(fd: int) -> int:
    """What tells an inode from one that had its number before (FS_IOC_GETVERSION); 0 where that is not told."""
    if sys.platform != "linux":
        return 0
    import fcntl

    found = bytearray(ctypes.sizeof(ctypes.c_long))
    try:
        fcntl.ioctl(fd, _GETVERSION, found)
    except OSError:
        return 0
    return int.from_bytes(found[: ctypes.sizeof(ctypes.c_int)], sys.byteorder)


def close(fd: int) -> None:
    """close(2). What it fails with (EIO, ENOSPC, EINTR) changes nothing: the descriptor is free all the same, so that
    it is never tried again, and whatever must be durable was synced before. Raises OSError for a wrong ``fd`` only.
    """
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise


def fsync(fd: int) -> None:
    """fsync(2), and where that leaves the bytes in the drive's cache (macOS), F_FULLFSYNC. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        try:
            with SYNC:
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
                raise
        else:
            return
    with SYNC:
        os.fsync(fd)


def syncfs(fd: int) -> None:
    """Make all of the file system durable; write errors since ``fd`` was opened are raised (HAS_SYNCFS)."""
    if _syncfs is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    with SYNC:
        if _syncfs(fd) < 0:
            raise _failure()


SYNCED_BY_SYNCFS = frozenset([0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994])
"""``f_type`` of ext2 to ext4, XFS, btrfs, F2FS and tmpfs (statfs(2)): their syncfs writes all, and says what failed.

That of FUSE returns 0 and does nothing at all (mergerfs, ntfs-3g, sshfs); of others it is not known.
"""


def file_system_type(fd: int) -> int:
    """``f_type`` of fstatfs(2); 0 where the system does not say. Raises OSError."""
    if _fstatfs is None:
        return 0
    told = ctypes.create_string_buffer(512)  # struct statfs has 120 bytes; the type is its first word
    if _fstatfs(fd, told) < 0:
        raise _failure()
    return ctypes.c_long.from_buffer(told).value & 0xFFFFFFFF


def reserve(fd: int, offset: int, length: int) -> None:
    """Give the file real space for ``length`` bytes at ``offset``: NoSpace is then known before the bytes come.

    Not ``os.posix_fallocate``: the C library makes up for a file system that cannot by writing every block.
    There the size is set, and only the space that is free now is asked for. Raises OSError (ENOSPC).
    """
    if length == 0:
        return
    if _fallocate is not None:
        while _fallocate(fd, 0, offset, length) < 0:
            error = _failure()
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                break
            if error.errno != errno.EINTR:
                raise error
        else:
            return
    free, found = os.fstatvfs(fd), os.fstat(fd)
    if free.f_bavail * free.f_frsize < min(length, offset + length - found.st_blocks * 512):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if found.st_size < offset + length:
        os.ftruncate(fd, offset + length)


def share_heaps() -> None:
    """Let all threads allocate from ``HEAPS`` heaps (mallopt(3)), before any is started.

    By default they spread over eight for each core, and every one keeps more than a MiB of holes for good.
    """
    if _mallopt is not None:
        _mallopt(_ARENA_MAX, HEAPS)


def give_memory_back() -> None:
    """Return what is free to the system, where the C library would keep it (malloc_trim(3)): some ms for 100 MiB."""
    if _malloc_trim is not None:
        _malloc_trim(0)
