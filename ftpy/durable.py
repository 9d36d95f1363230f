"""Small files that must survive: replaced whole, kept private, changed by one process at a time."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator

from ftpy.errors import ConfigError
from ftpy.files import display


def read_file(path: str) -> tuple[bytes, os.stat_result]:
    """A file's content and what was known of it when it was opened. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            return file.read(), os.fstat(file.fileno())
    except OSError as error:
        raise ConfigError(f"{display(path)}: {error.strerror or error}") from None


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """An OSError on the way to writing ``path`` becomes a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{display(path)}: cannot be written: {error.strerror or error}") from None


def replace_file(path: str, data: bytes, mode: int) -> None:
    """Write ``path`` so that readers see the old content or the new one, also after a power cut.

    Who owned the old file owns the new one, so that root may edit what another user's server reads. Raises OSError.
    """
    import tempfile

    path = os.path.realpath(path)  # a link stays a link
    folder = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".ftpy-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.chmod(temporary, mode)
            _keep_owner(path, temporary)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _keep_owner(old: str, new: str) -> None:
    if sys.platform != "win32" and os.geteuid() == 0 and os.path.exists(old):
        status = os.stat(old)
        os.chown(new, status.st_uid, status.st_gid)


def _sync_folder(folder: str) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Alone among the processes that are about to replace ``path``; a file beside it is the lock. Raises OSError."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    lock = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _keep_owner(path, lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_private(path: str, status: os.stat_result, *, own: bool = True, holds: str = "secrets") -> None:
    """Raises ConfigError unless only its owner can read the file, who must be us or root where ``own``.

    Without meaning on Windows, where the profile's folder is private.
    """
    if sys.platform == "win32":
        return
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{display(path)}: it holds {holds} and others can read it (mode {mode:04o}); chmod 600")
    if own and status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{display(path)}: it belongs to another user (uid {status.st_uid})")
