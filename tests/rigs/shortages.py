"""What can be used up, to the last block, inode, byte or file: where a server lies for that, how it is filled."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import ClassVar

from ftpy.config.server import Limits
from ftpy.errors import NoSpace, QuotaExceeded, RequestError
from tests.rigs.disks import MIB
from tests.rigs.nursery import AT_ONCE, INLINE, ForkedHost, Nursery

LARGE = 2 * MIB
DISK_BYTES, DISK_INODES = 24 * MIB, 512


class Shortage:
    """Something that can be used up, and how; ``refusal`` is what a request may be told then, None: nothing."""

    refusal: type[RequestError] | None = NoSpace

    def __init__(self, disk: Path) -> None:
        self._fillers = disk / "fillers"
        self._fillers.mkdir()
        self._disk = disk

    def host(self, folder: Path, nursery: Nursery) -> ForkedHost:
        """The server that is to run short."""
        return _host(folder, nursery, root_at=self._disk / "files")

    def fill(self, host: ForkedHost) -> None:
        """Use it up, to the last block."""
        zeros = bytes(MIB)
        with open(self._fillers / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(zeros):
                pass

    def make_room(self, host: ForkedHost) -> None:
        """Give it back."""
        for filler in self._fillers.iterdir():
            filler.unlink()


class Space(Shortage):
    """The root's disk has no block left."""


class NearlyAll(Shortage):
    """The root's disk has room for small files, not for a large one: that must be known before it is sent."""

    def fill(self, host: ForkedHost) -> None:
        """Use it up but for a little."""
        super().fill(host)
        filler = self._fillers / "filler"
        os.truncate(filler, filler.stat().st_size - LARGE // 4)


class Inodes(Shortage):
    """The root's disk has no inode left."""

    def fill(self, host: ForkedHost) -> None:
        """Use them up."""
        number = 0
        try:
            while True:
                (self._fillers / f"{number}").touch()
                number += 1
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


class State(Shortage):
    """The disk of what the server remembers is full: that is a cache, nobody notices."""

    refusal = None

    def host(self, folder: Path, nursery: Nursery) -> ForkedHost:
        """State on the small disk."""
        return _host(folder, nursery, state_at=self._disk / "state")


class Log(Shortage):
    """The disk of the log and of the audit trail is full: lines are lost, nobody is held up."""

    refusal = None

    def host(self, folder: Path, nursery: Nursery) -> ForkedHost:
        """Log, audit and users on the small disk; root and state are elsewhere."""
        return _host(self._disk / "host", nursery, root_at=folder / "files", state_at=folder / "state")


class Quota(Shortage):
    """The user's quota is used up to the last byte; the disk is not."""

    refusal = QuotaExceeded
    quota: ClassVar[dict[str, int]] = {"quota_bytes": DISK_BYTES}
    size = DISK_BYTES // 4
    """Bytes of the first file that fills it; where one is too large, half of that."""

    def host(self, folder: Path, nursery: Nursery) -> ForkedHost:
        """A user with a quota."""
        host = _host(folder, nursery)
        host.accounts.change("alice", **self.quota)
        return host

    def fill(self, host: ForkedHost) -> None:
        """Put until not one byte more, or not one file, is taken."""
        source, size = self._fillers / "source", self.size
        with host.client(transfer=AT_ONCE) as client:
            for number in range(2 * DISK_INODES):
                source.write_bytes(bytes(size))
                try:
                    client.put(source, f"fillers/{number}")
                except QuotaExceeded:
                    if size <= 1:
                        return
                    size //= 2
        raise AssertionError("the quota cannot be used up")

    def make_room(self, host: ForkedHost) -> None:
        """Remove what was put."""
        with host.client(transfer=AT_ONCE) as client:
            client.rm("fillers", recursive=True)


class QuotaOfFiles(Quota):
    """The user's quota of files is used up."""

    quota: ClassVar[dict[str, int]] = {"quota_files": 100}
    size = 0


SHORTAGES: dict[str, type[Shortage]] = {
    "space": Space,
    "nearly-all": NearlyAll,
    "inodes": Inodes,
    "quota": Quota,
    "quota-files": QuotaOfFiles,
    "state": State,
    "log": Log,
}


def _host(folder: Path, nursery: Nursery, *, root_at: Path | None = None, state_at: Path | None = None) -> ForkedHost:
    return ForkedHost(
        folder,
        tls=False,
        limits=Limits(inline_bytes=INLINE),
        audit=True,
        nursery=nursery,
        root_at=root_at,
        state_at=state_at,
    )
