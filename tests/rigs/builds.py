"""Builds of the server that differ in one thing: the broken ones are the controls of the rigs, which must tell them.

``python -m tests.rigs.builds BUILD[,BUILD…] run -c FILE`` is ``ftpy-server run -c FILE`` of such a build.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

from tests.rigs import closing

KIB = 1024


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def no_directory_sync() -> None:
    """A file is made durable, its name is not."""
    from ftpy.storage import syscalls

    real, syscalls.HAS_SYNCFS = syscalls.fsync, False
    syscalls.fsync = lambda fd: None if _is_directory(fd) else real(fd)


def no_file_sync() -> None:
    """A name is made durable, the file is not."""
    from ftpy.storage import journal, syncing, syscalls

    real, syscalls.HAS_SYNCFS = syscalls.fsync, False
    syscalls.fsync = lambda fd: real(fd) if _is_directory(fd) else None
    journal.sync_data = vars(syncing)["sync_data"] = lambda _: None


def deaf_sync() -> None:
    """What a sync says is not listened to."""
    from ftpy.storage import syscalls

    real, syscalls.HAS_SYNCFS = syscalls.fsync, False

    def fsync(fd: int) -> None:
        try:
            real(fd)
        except OSError:
            return

    syscalls.fsync = fsync


def retried_sync() -> None:
    """A sync that failed is tried again, when the kernel has forgotten what it could not write (fsync(2))."""
    from ftpy.storage import syscalls

    real, syscalls.HAS_SYNCFS = syscalls.fsync, False

    def fsync(fd: int) -> None:
        try:
            real(fd)
        except OSError:
            real(fd)

    syscalls.fsync = fsync


def no_reservation() -> None:
    """The space for an upload is not reserved: that it is missing shows in the middle."""
    from ftpy.storage import uploadfiles

    vars(uploadfiles)["reserve"] = os.ftruncate


def swallowed_no_space() -> None:
    """A write for which there is no space is taken for done."""
    from ftpy.storage import partwriting, positional, staging, upload

    real = positional.write_at

    def write_at(fd: int, offset: int, view: memoryview) -> None:
        try:
            real(fd, offset, view)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    for module in (positional, partwriting, staging, upload):
        vars(module)["write_at"] = write_at


def believed_close() -> None:
    """What a close says is taken for the fate of the request."""
    from ftpy.storage import syscalls

    syscalls.close = lambda fd: os.close(fd)


def failing_close() -> None:
    """Not broken: the n-th close fails, as the rig says (``closing``)."""
    closing.install()


def no_drain() -> None:
    """A server that stops cuts everything off at once."""
    from ftpy.server.server import Service

    real = Service._wait_closed
    Service._wait_closed = lambda self, timeout: real(self, 0.0 * timeout)  # type: ignore[method-assign]


def small_parts() -> None:
    """Not broken: parts of 128 KiB, made durable in the background from 256 KiB on, so that little time has many."""
    from ftpy.storage import syncing, uploadbase

    uploadbase.PART_BYTES, uploadbase.STREAM_PART_BYTES, uploadbase.STEP_BYTES = 128 * KIB, 128 * KIB, KIB
    syncing.SYNC_BYTES, syncing.MOST_UNSYNCED = 256 * KIB, 1024 * KIB


def slow_rename() -> None:
    """Not broken: every rename takes its time, so that a kill comes between two of them."""
    import time

    from ftpy.storage.beneath import Directory

    real = Directory.rename

    def rename(self: Directory, leaf: str, into: Directory, new: str) -> None:
        time.sleep(0.005)
        real(self, leaf, into, new)

    Directory.rename = rename  # type: ignore[method-assign]


def unsettled_feed() -> None:
    """An event is told as soon as it is about to happen, and stays whatever becomes of it."""
    from ftpy.storage import feedbook

    real = feedbook._insert

    def insert(database: Any, several: Any) -> list[int]:
        numbers = real(database, several)
        database.execute("DELETE FROM pending")
        return numbers

    vars(feedbook)["_insert"] = insert


def late_feed() -> None:
    """An event is written down a moment after it has happened, and not before."""
    import time

    from ftpy.storage import feedbook

    real = feedbook.FeedBook._add
    feedbook.FeedBook._add = lambda self, entry: None  # type: ignore[method-assign]
    end = feedbook.FeedBook._end

    def late(self: Any, entry: Any, record: Any) -> None:
        if record.happened:
            time.sleep(0.01)  # what goes wrong in between is to be seen, and not by chance
            real(self, entry)
            end(self, entry, record)

    feedbook.FeedBook._end = late  # type: ignore[method-assign]


BUILDS: dict[str, Callable[[], None]] = {
    build.__name__.replace("_", "-"): build
    for build in (
        no_directory_sync,
        no_file_sync,
        deaf_sync,
        retried_sync,
        no_reservation,
        swallowed_no_space,
        believed_close,
        failing_close,
        no_drain,
        small_parts,
        slow_rename,
        unsettled_feed,
        late_feed,
    )
}


def apply(names: str) -> None:
    """Make this process one of these builds, whose names are joined by commas."""
    for name in filter(None, names.split(",")):
        BUILDS[name]()


def command(*names: str) -> list[str]:
    """What runs ``ftpy-server`` of these builds, from the root of the repository."""
    return [sys.executable, "-m", "tests.rigs.builds", ",".join(names)]


if __name__ == "__main__":
    from ftpy.cli.server import main

    apply(sys.argv.pop(1))
    main()
