"""The trash: what operations have replaced and removed, in ``.ftpy/trash`` under each operation's id.

An operation is a folder there: its ``record`` (``storage.record``) and what it keeps, under names of our own. A line
is durable before anything of it is done, so that a crash leaves nothing that cannot be told.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from ftpy.errors import InvalidRequest, QuotaExceeded, UnknownOperation
from ftpy.storage import syscalls
from ftpy.storage.area import write_new
from ftpy.storage.base import MIB, Closing, Quota
from ftpy.storage.beneath import Directory
from ftpy.storage.operations import Operation, OperationKey
from ftpy.storage.record import About, Step, count, decode, decode_about, encode, encode_about
from ftpy.storage.usage import Usage

TRASH = "trash"
"""The folder of the staging area."""
RECORD = "record"
MOST_RECORD_BYTES = 256 * MIB
"""Longest record, bytes: a million steps. What is not counted by the file must have an end."""
MOST_OPERATIONS = 100_000
"""Operations of one root: they are looked through one by one, and a quota of bytes alone would let them be more."""
_ID = re.compile(r"[0-9a-f]{32}")


class Folder(Closing):
    """One operation's folder, open; ``directory`` holds what it keeps. All raise OSError."""

    def __init__(self, operation: str, directory: Directory) -> None:
        self.id, self.directory = operation, directory

    def close(self) -> None:
        """Close it."""
        self.directory.close()

    @staticmethod
    def new_name() -> str:
        """A name for something that is kept."""
        return os.urandom(8).hex()

    def append(self, steps: Iterable[Step], usage: Usage, quota: Quota | None = None) -> None:
        """Write steps down, durably. Raises InvalidRequest for too many, QuotaExceeded."""
        lines = encode(steps)
        fd = self.directory.open_for_append(RECORD, create=False)
        try:
            size = os.fstat(fd).st_size
            if size + len(lines) > MOST_RECORD_BYTES:
                raise InvalidRequest("this operation has too many steps; begin another")
            if size and os.pread(fd, 1, size - 1) != b"\n":
                lines = b"\n" + lines  # a torn line must not swallow the next one
            with usage.adding(len(lines), 0, quota):
                written = os.write(fd, lines)
            # From here on it counts: what is written stays.
            if written != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            syscalls.fsync(fd)
        finally:
            syscalls.close(fd)

    def steps(self) -> Iterator[Step]:
        """Newest first, as they are now; a line that was never finished is passed over."""
        fd = self.directory.open_file(RECORD)
        try:
            for line in _backwards(fd):
                if (step := decode(line)) is not None:
                    yield step
        finally:
            syscalls.close(fd)

    def counts(self) -> dict[str, int]:
        """How many steps of each kind there are, at most."""
        found: Counter[str] = Counter()
        fd = self.directory.open_file(RECORD)
        try:
            rest = b""
            while piece := os.read(fd, MIB):
                lines, newline, rest = (rest + piece).rpartition(b"\n")
                found.update(count(lines + newline))
            found.update(count(rest))
        finally:
            syscalls.close(fd)
        return dict(found)


def _backwards(fd: int) -> Iterator[bytes]:
    """The finished lines of a file, the last one first: a record can be longer than memory should hold."""
    end, rest, is_unfinished = os.fstat(fd).st_size, b"", True
    while end > 0:
        start = max(0, end - MIB)
        rest, *lines = (os.pread(fd, end - start, start) + rest).split(b"\n")
        end = start
        if lines and is_unfinished:
            lines.pop()
            is_unfinished = False
        yield from reversed(lines)
    if not is_unfinished:
        yield rest


class Trash(Closing):
    """All operations of one storage. Safe in any thread; all raise OSError, UnknownOperation."""

    def __init__(self, folder: Directory, usage: Usage) -> None:
        self.folder, self._usage = folder, usage

    def close(self) -> None:
        """Close the folder."""
        self.folder.close()

    def begin(self, key: OperationKey, what: str, quota: Quota | None = None) -> None:
        """An operation of its owner, from now on; begun already, it goes on. Raises InvalidRequest, QuotaExceeded."""
        if self._is_begun(key):
            self._renew(key)
            return
        if len(self.folder.names()) >= MOST_OPERATIONS:
            raise QuotaExceeded(f"there are {MOST_OPERATIONS} operations on record already; forget some")
        try:
            self._make(key.id, encode_about(About(key.owner, what, time.time_ns())), quota)
        except FileExistsError:
            if not self._is_begun(key):
                raise InvalidRequest("this operation's id is taken; choose another") from None
            self._renew(key)

    def _renew(self, key: OperationKey) -> None:
        """Somebody cares for it: it does not expire yet. Whoever began it may have died before it was durable."""
        with self.open(key) as folder:
            fd = folder.directory.open_for_append(RECORD, create=False)
            try:
                os.utime(fd)
            finally:
                syscalls.close(fd)
        self.folder.sync()

    def _is_begun(self, key: OperationKey) -> bool:
        try:
            self.open(key).close()
        except UnknownOperation:
            return False
        return True

    def _make(self, operation: str, line: bytes, quota: Quota | None) -> None:
        """A folder with its record, under its name only when it is whole. Raises FileExistsError, QuotaExceeded."""
        name = Folder.new_name()  # no operation's: what a crash leaves of it takes nobody's id, and is swept
        with ExitStack() as counting:
            counting.enter_context(self._usage.adding(len(line), 2, quota))
            self.folder.mkdir(name, 0o700)
            try:
                with self.folder.open_dir(name) as made:
                    write_new(made, RECORD, line)
                    made.sync()
                self.folder.rename_noreplace(name, self.folder, operation)
            except BaseException:
                try:
                    with self.folder.open_dir(name) as made:
                        made.unlink(RECORD, missing_ok=True)
                    self.folder.rmdir(name)
                except OSError:
                    counting.close()  # as if all of it stayed: until it is swept it counts
                raise
        self.folder.sync()

    def open(self, key: OperationKey) -> Folder:
        """The folder of an operation of this owner."""
        folder = self._folder(key.id)
        try:
            if self._about(folder).owner != key.owner:
                raise UnknownOperation
        except BaseException:
            folder.close()
            raise
        return folder

    def _folder(self, operation: str) -> Folder:
        if not _ID.fullmatch(operation):
            raise UnknownOperation
        try:
            return Folder(operation, self.folder.open_dir(operation))
        except FileNotFoundError:
            raise UnknownOperation from None

    @staticmethod
    def _about(folder: Folder) -> About:
        """The first line alone, which is short."""
        try:
            fd = folder.directory.open_file(RECORD)
        except FileNotFoundError:
            raise UnknownOperation from None
        try:
            about = decode_about(os.read(fd, 64 * 1024).partition(b"\n")[0])
        finally:
            syscalls.close(fd)
        if about is None:
            raise UnknownOperation
        return about

    def operations(self, owner: str) -> Iterator[Operation]:
        """Those of one owner, the newest first; what each was is read from its record when its turn comes."""
        found = []
        for name in self.folder.names():
            about = self._about_of(name)
            if about is not None and about.owner == owner:
                found.append((about.time_ns, name))
        for time_ns, name in sorted(found, reverse=True):
            try:
                with self._folder(name) as folder:
                    told = Operation(id=name, what=self._about(folder).what, time_ns=time_ns, **folder.counts())
            except UnknownOperation:
                continue  # forgotten meanwhile
            yield told

    def _about_of(self, name: str) -> About | None:
        """What began it; None for what is no operation."""
        try:
            with self._folder(name) as folder:
                return self._about(folder)
        except UnknownOperation:
            return None

    def expired(self, seconds: float, owner: str | None = None) -> list[str]:
        """Ids of those, of one ``owner`` or of all, that nothing was added to for so long.

        And what a crash left of a beginning.
        """
        expired = [name for name in self.folder.names() if self.has_expired(name, seconds)]
        if owner is None:
            return expired
        abouts = ((name, self._about_of(name)) for name in expired)
        return [name for name, about in abouts if about is None or about.owner == owner]

    def has_expired(self, name: str, seconds: float) -> bool:
        """Whether it is there, and nothing was added to it for so long."""
        last_ns = self._last_ns(name)
        return last_ns is not None and time.time_ns() - last_ns > seconds * 1e9

    def _last_ns(self, name: str) -> int | None:
        try:
            with self.folder.open_dir(name) as folder:
                try:
                    return folder.lstat(RECORD).st_mtime_ns
                except FileNotFoundError:
                    return folder.lstat(".").st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None  # gone meanwhile, or nobody's
