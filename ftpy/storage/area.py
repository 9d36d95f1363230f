"""The staging area ``.ftpy`` in the root: where bytes lie before anyone may see them.

It is on the root's own file system, so that a rename publishes. Names in it never derive from a final name.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack

from ftpy.errors import PermissionDenied
from ftpy.files import display
from ftpy.storage import syscalls
from ftpy.storage.base import Closing
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.locking import open_locked
from ftpy.storage.positional import write_at

AREA = ".ftpy"
STAGED, UPLOADS = "staged", "uploads"
"""Its folders for small files and for uploads."""
LOCK = "lock"
"""Its file that is locked by who publishes."""
_PRIVATE = 0o700
_LOCK_SUFFIX = ".lock"


def made_private(parent: Directory, name: str) -> Directory:
    """A private directory, made where it is missing.

    One that others could have written to is refused: what lies there would be published, and its links followed.
    """
    try:
        parent.mkdir(name, _PRIVATE)
        parent.sync()
    except FileExistsError:
        pass
    made = parent.open_dir(name)
    found = os.fstat(made.fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        made.close()
        raise PermissionDenied(
            f"{display(str(made.path))} in the root is not the server's alone: it must belong to user {os.geteuid()}"
            f" with mode 0700, not to {found.st_uid} with {found.st_mode & 0o7777:04o}"
        )
    return made


def write_new(directory: Directory, name: str, data: bytes) -> None:
    """A private file of ours, its content durable; its name is once the directory is synced. Raises OSError."""
    fd = directory.create(name, 0o600)
    try:
        write_at(fd, 0, memoryview(data))
        syscalls.fsync(fd)
    finally:
        syscalls.close(fd)


class Area(Closing):
    """The staging area: ``staged`` for small files, ``uploads`` for uploads, ``lock`` for publications.

    A process marks its staged files with a token whose lock file it keeps locked: once that lock can be had,
    the process is dead, whatever its number is used for now. Raises OSError, PermissionDenied.
    """

    def __init__(self, beneath: Beneath) -> None:
        self._numbers = itertools.count()
        self.root = beneath.root
        with ExitStack() as opened:
            self.top = opened.enter_context(made_private(beneath.root, AREA))
            self.staged = opened.enter_context(made_private(self.top, STAGED))
            self.uploads = opened.enter_context(made_private(self.top, UPLOADS))
            self._token, lock = self._marked()
            self._lock: int | None = lock
            opened.pop_all()

    def _marked(self) -> tuple[str, int]:
        """A token, and its lock file, locked. One that a sweep has met before it was is a dead process's to it."""
        while True:
            token = os.urandom(8).hex()
            if (lock := open_locked(self.staged, token + _LOCK_SUFFIX, create=True)) is not None:
                return token, lock

    def close(self) -> None:
        """Let go of the token and the directories."""
        with ExitStack() as closing:
            for directory in (self.staged, self.uploads, self.top):
                closing.callback(directory.close)
            if self._lock is not None:
                closing.callback(syscalls.close, self._lock)
                self._lock = None
                # Who has the root around ours may have removed it.
                self.staged.unlink(self._token + _LOCK_SUFFIX, missing_ok=True)

    def new_name(self) -> tuple[int, str]:
        """A number that grows, and the name of a new staged file."""
        number = next(self._numbers)
        return number, f"{self._token}-{number:x}"

    def owned(self, directory: Directory) -> Iterator[tuple[bool, list[str]]]:
        """The names in one of the area's directories, by process: ours (true), and those of each that is dead.

        Nobody else is given the same ones at the same time.
        """
        tokens: dict[str, list[str]] = {}
        for name in directory.names():
            tokens.setdefault(name.partition("-")[0].removesuffix(_LOCK_SUFFIX), []).append(name)
        yield True, tokens.pop(self._token, [])
        for token, names in tokens.items():
            lock = open_locked(self.staged, token + _LOCK_SUFFIX, create=True)
            if lock is None:
                continue
            try:
                yield False, [name for name in names if not name.endswith(_LOCK_SUFFIX)]
                self.staged.unlink(token + _LOCK_SUFFIX)
            finally:
                syscalls.close(lock)

    def sweep_staged(self) -> int:
        """Remove what dead processes left staged: how many files went."""
        gone = 0
        for ours, names in self.owned(self.staged):
            if not ours:
                gone += sum(self.staged.unlink(name, missing_ok=True) for name in names)
        if gone:
            import logging  # here: a client's staging area hardly ever has any

            log = logging.getLogger("ftpy.storage")
            log.info("removed %d staged leftovers", gone, extra={"event": "staged-swept", "fields": {"files": gone}})
        return gone
