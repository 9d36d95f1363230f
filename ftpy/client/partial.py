"""What has come of a file so far, beside its target."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from ftpy.client.ranges import Journal, Range
from ftpy.digests import hexdigest
from ftpy.errors import LocalFileError
from ftpy.files import RESERVED_PREFIX, RemotePath
from ftpy.storage import syscalls
from ftpy.storage.base import Closing
from ftpy.storage.beneath import Directory

try:
    import fcntl
except ImportError:  # Windows: two gets of one file at once are told apart by their digest only
    fcntl = None  # type: ignore[assignment]


IN_USE = "another ftpy is fetching it already"

WHOLE, RANGED, JOURNAL = ".partial", ".ranged", ".ranges"
"""Suffixes: bytes from the first on without a gap; bytes with gaps, never taken for the first; which of them count."""


class _Gone(Exception):
    """What was opened has lost its name: it was published, dropped, or is called otherwise now."""


class Partial(Closing):
    """A file ``.ftpy-KEY-ETAG.partial``: KEY names path and target, ETAG the version on its server.

    Its size is how far it is, so that a later get goes on there in one round trip. Where ranges come in any order it
    is called ``.ftpy-KEY-ETAG.ranged`` instead, and beside it ``.ftpy-KEY-ETAG.ranges`` is the ``journal`` that says
    which are here. It is locked while it is open.
    """

    def __init__(self, directory: Directory, name: str, descriptor: int) -> None:
        self._directory, self._name = directory, name
        self.descriptor = descriptor
        self._stem = os.path.splitext(name)[0]
        self.etag = self._stem.rpartition("-")[2]
        self.journal: Journal | None = None
        self._is_ours = False
        """Whether its name means it, and nobody else may change that."""
        try:
            self._take()
            if name.endswith(RANGED):
                self.journal = self._open_journal()
        except BaseException:
            self.close()
            raise

    def _open_journal(self) -> Journal:
        descriptor = self._directory.open_for_append(self._stem + JOURNAL, create=True)
        try:
            _check_owner(self._stem + JOURNAL, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return Journal(descriptor)

    def use_ranges(self) -> Journal:
        """The journal; what has come so far is its first range, which was not verified on its own."""
        if self.journal is None:
            journal = self._open_journal()
            try:
                # Before the new name: a journal without it is nobody's.
                journal.replace({Range(0, self.size): None} if self.size else {})
                self._rename(self._stem + RANGED)
            except BaseException:
                journal.close()
                raise
            self.journal = journal
        return self.journal

    def _rename(self, name: str) -> None:
        if os.name == "nt":
            os.close(self.descriptor)  # an open file cannot be renamed there
            self.descriptor = -1
        self._directory.rename(self._name, self._directory, name)
        if os.name == "nt":
            self.descriptor = self._directory.open_for_write(name)
        self._name = name

    def _take(self) -> None:
        _take(self._directory, self._name, self.descriptor)
        self._is_ours = True
        if self._name.endswith(WHOLE) and self._has_ranged():
            self.drop()
            raise _Gone

    def _has_ranged(self) -> bool:
        """Whether a partial of the same version has got ranges since none was found: that one counts.

        None gets them from now on: only who holds one without may give it that name.
        """
        try:
            self._directory.lstat(self._stem + RANGED)
        except FileNotFoundError:
            return False
        return True

    @property
    def size(self) -> int:
        """Its size, bytes: how far it is, unless it has a journal."""
        return os.fstat(self.descriptor).st_size

    def publish(self, leaf: str, *, mode: int, mtime_ns: int, replace: bool, check: Callable[[], None]) -> None:
        """Make it durable, ``check``, then give it its name. Raises FileExistsError, unless it may ``replace``."""
        if hasattr(os, "fchmod"):
            os.fchmod(self.descriptor, mode)
        if os.utime in os.supports_fd:
            os.utime(self.descriptor, ns=(mtime_ns, mtime_ns))
        syscalls.fsync(self.descriptor)
        if os.name == "nt":
            self._is_ours = False
            self.close()  # an open file cannot be renamed there
        check()  # not before, the disk may take minutes
        directory = self._directory
        (directory.rename if replace else directory.rename_noreplace)(self._name, directory, leaf)
        self._is_ours = False
        directory.sync()
        self._drop_journal()

    def drop(self) -> None:
        """Remove it."""
        self._is_ours = False
        if os.name == "nt":
            self.close()
        with contextlib.suppress(FileNotFoundError):
            self._directory.unlink(self._name)
        self._drop_journal()

    def _drop_journal(self) -> None:
        if self.journal is not None:
            self.journal.close()
            self.journal = None
            self._directory.unlink(self._stem + JOURNAL, missing_ok=True)

    def close(self) -> None:
        """Close it; it stays for the next get, unless nothing has come."""
        ours, self._is_ours = self._is_ours, False
        try:
            if ours and not self.size:
                self.drop()
        finally:
            if self.journal is not None:
                self.journal.close()
            descriptor, self.descriptor = self.descriptor, -1
            if descriptor >= 0:
                syscalls.close(descriptor)


class Partials:
    """The partials of one path and target in the target's folder, one for each version that was ever begun."""

    def __init__(self, directory: Directory, path: RemotePath, leaf: str) -> None:
        key = hexdigest("blake3", f"{path}\0{leaf}".encode("utf-8", "surrogateescape"))[:16]
        self._directory = directory
        self._prefix = f"{RESERVED_PREFIX}-{key}-"

    def any(self) -> Partial | None:
        """One to go on with. Raises LocalFileError when another get holds it, or it is another user's."""
        while names := self._names():
            with contextlib.suppress(_Gone):
                return self._taken(names[0])
        return None

    @property
    def ranged(self) -> bool:
        """Whether one to go on with has gaps."""
        return any(name.endswith(RANGED) for name in self._names()[:1])

    def begin(self, etag: str) -> Partial:
        """A new, empty one. Raises LocalFileError when another get has begun meanwhile."""
        name = f"{self._prefix}{etag}{WHOLE}"
        try:
            return Partial(self._directory, name, self._directory.create(name, 0o600))
        except (FileExistsError, _Gone):
            raise LocalFileError(IN_USE) from None

    def drop(self, *, but: str | None = None) -> None:
        """Remove all that no other get holds, ``but`` those of this version."""
        for name in self._names():
            if but is not None and name.startswith(self._prefix + but):
                continue
            with contextlib.suppress(_Gone, LocalFileError), self._taken(name) as partial:
                partial.drop()
        journals = self._names(JOURNAL)  # before the others: it comes after the partial that it is of
        left = {os.path.splitext(name)[0] for name in self._names()}
        for name in journals:  # of a get that was killed between two steps
            if os.path.splitext(name)[0] not in left:
                self._directory.unlink(name, missing_ok=True)

    def _taken(self, name: str) -> Partial:
        try:
            descriptor = self._open(name)
        except FileNotFoundError:
            raise _Gone from None
        return Partial(self._directory, name, descriptor)

    def _open(self, name: str) -> int:
        try:
            return self._directory.open_for_write(name)
        except PermissionError:
            # Given its final, read-only mode by a get that was killed before the rename, or is just about to do that.
            descriptor = self._directory.open_file(name)
            try:
                _take(self._directory, name, descriptor)
                os.fchmod(descriptor, 0o600)
            finally:
                syscalls.close(descriptor)
            return self._directory.open_for_write(name)

    def _names(self, *suffixes: str) -> list[str]:
        return sorted(
            name
            for name in self._directory.names()
            if name.startswith(self._prefix) and name.endswith(suffixes or (WHOLE, RANGED))
        )


def _take(directory: Directory, name: str, descriptor: int) -> None:
    """Lock what was opened by this name. Raises LocalFileError, and _Gone where it is not called that any more."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalFileError(IN_USE) from None
    try:
        found = directory.lstat(name)
    except FileNotFoundError:
        raise _Gone from None
    # What was published between open and lock is the target, and its old name may be another get's partial by now.
    if not os.path.samestat(os.fstat(descriptor), found):
        raise _Gone
    _check_owner(name, descriptor)


def _check_owner(name: str, descriptor: int) -> None:
    if hasattr(os, "geteuid") and os.fstat(descriptor).st_uid != os.geteuid():
        # Whoever laid it there could change it after it was verified.
        raise LocalFileError(f"{name} belongs to another user")


def check_space(descriptor: int, count: int) -> None:
    """Know that the disk is full before the body comes; of a file or a folder on it. Raises LocalFileError."""
    if hasattr(os, "fstatvfs") and descriptor >= 0:  # a folder without a descriptor
        status = os.fstatvfs(descriptor)
        if count > status.f_bavail * status.f_frsize:
            raise LocalFileError(f"the disk has no space for {count:,} bytes")
