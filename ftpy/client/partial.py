"""What has come of a file so far, beside its target."""

from __future__ import annotations

import contextlib
import os

from ftpy.digests import hexdigest
from ftpy.errors import LocalFileError
from ftpy.files import RESERVED_PREFIX, RemotePath
from ftpy.storage.base import Closing
from ftpy.storage.beneath import Directory
from ftpy.storage.syscalls import fsync

try:
    import fcntl
except ImportError:  # Windows: two gets of one file at once are told apart by their digest only
    fcntl = None  # type: ignore[assignment]


class Partial(Closing):
    """A file ``.ftpy-KEY-ETAG.partial``: KEY names path and target, ETAG the version on its server.

    Its size is how far it is, so that a later get goes on there in one round trip. It is locked while it is open.
    """

    def __init__(self, directory: Directory, name: str, descriptor: int) -> None:
        self._directory, self._name = directory, name
        self.descriptor = descriptor
        self.etag = name.removesuffix(".partial").rpartition("-")[2]
        try:
            self._take()
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalFileError("another ftpy is fetching it already") from None
        if hasattr(os, "geteuid") and os.fstat(self.descriptor).st_uid != os.geteuid():
            # Whoever laid it there could change it after it was verified.
            raise LocalFileError(f"{self._name} belongs to another user")

    @property
    def size(self) -> int:
        """How far it is, bytes."""
        return os.fstat(self.descriptor).st_size

    def publish(self, leaf: str, *, mode: int, mtime_ns: int, replace: bool) -> None:
        """Make it durable, then give it its name. Raises FileExistsError, unless it may ``replace``."""
        if hasattr(os, "fchmod"):
            os.fchmod(self.descriptor, mode)
        if os.utime in os.supports_fd:
            os.utime(self.descriptor, ns=(mtime_ns, mtime_ns))
        fsync(self.descriptor)
        if os.name == "nt":
            self.close()  # an open file cannot be renamed there
        directory = self._directory
        (directory.rename if replace else directory.rename_noreplace)(self._name, directory, leaf)
        directory.sync()

    def drop(self) -> None:
        """Remove it."""
        if os.name == "nt":
            self.close()
        with contextlib.suppress(FileNotFoundError):
            self._directory.unlink(self._name)

    def close(self) -> None:
        """Close it; it stays for the next get."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Partials:
    """The partials of one path and target in the target's folder, one for each version that was ever begun."""

    def __init__(self, directory: Directory, path: RemotePath, leaf: str) -> None:
        key = hexdigest("blake3", f"{path}\0{leaf}".encode("utf-8", "surrogateescape"))[:16]
        self._directory = directory
        self._prefix = f"{RESERVED_PREFIX}-{key}-"

    def any(self) -> Partial | None:
        """One to go on with. Raises LocalFileError when another get holds it, or it is another user's."""
        names = self._names()
        return self._taken(names[0]) if names else None

    def begin(self, etag: str) -> Partial:
        """A new, empty one."""
        name = f"{self._prefix}{etag}.partial"
        return Partial(self._directory, name, self._directory.create(name, 0o600))

    def drop(self) -> None:
        """Remove all that no other get holds."""
        for name in self._names():
            with contextlib.suppress(FileNotFoundError, LocalFileError), self._taken(name) as partial:
                partial.drop()

    def _taken(self, name: str) -> Partial:
        return Partial(self._directory, name, self._open(name))

    def _open(self, name: str) -> int:
        try:
            return self._directory.open_for_write(name)
        except PermissionError:
            # Given its final, read-only mode by a get that was killed before the rename.
            self._directory.chmod(name, 0o600)
            return self._directory.open_for_write(name)

    def _names(self) -> list[str]:
        return sorted(
            name for name in self._directory.names() if name.startswith(self._prefix) and name.endswith(".partial")
        )


def check_space(descriptor: int, count: int) -> None:
    """Know that the disk is full before the body comes. Raises LocalFileError."""
    if hasattr(os, "fstatvfs"):
        status = os.fstatvfs(descriptor)
        if count > status.f_bavail * status.f_frsize:
            raise LocalFileError(f"the disk has no space for {count:,} bytes")
