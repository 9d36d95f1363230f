"""Another time for what is there, or an empty file where nothing is; durable either way."""

from __future__ import annotations

import os
import stat

from ftpy.digests import hexdigest
from ftpy.errors import RequestError
from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.base import KnownDigest, NewFile, Quota, Touched
from ftpy.storage.publishing import Publisher
from ftpy.storage.refusals import translating
from ftpy.storage.remembered import Remembered
from ftpy.storage.staging import SmallFiles
from ftpy.storage.versions import NO_DIGESTS, Digests, file_info, version_of


def set_time(publisher: Publisher, remembered: Remembered, path: RemotePath, mtime_ns: int) -> Touched:
    """Give a file or folder this time. Raises NotFound, NotAFile, …."""
    with translating(path), publisher.publication(exclusive=False) as publication:
        directory = publication.existing(path.parent)
        before = directory.lstat(path.name)
        publisher.check_device(before)
        fd = directory.open_dir(path.name).fd if stat.S_ISDIR(before.st_mode) else directory.open_file(path.name)
        try:
            before = os.fstat(fd)
            known = remembered.look(version_of(before)) if stat.S_ISREG(before.st_mode) else NO_DIGESTS
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            syscalls.fsync(fd)
            after = os.fstat(fd)
        finally:
            syscalls.close(fd)
    return Touched(file_info(path, after, _keep(remembered, before, after, known)), created=False)


def _keep(remembered: Remembered, before: os.stat_result, after: os.stat_result, known: Digests) -> Digests:
    """Remember under the new time what was known under the old one, as far as one can tell that it is the same file.

    (Who writes as many bytes into the file in the moment between two looks at it would not be noticed.)
    """
    if known == NO_DIGESTS or version_of(after)[:3] != version_of(before)[:3]:
        return NO_DIGESTS
    remembered.keep([(version_of(after), known)])
    return known


def create_empty(small: SmallFiles, path: RemotePath, mtime_ns: int, quota: Quota | None) -> Touched:
    """Make an empty file, and the folders on the way. Raises AlreadyExists, …."""
    file = NewFile(path, 0, mtime_ns, condition="absent")
    staged = small.stage(file, memoryview(b""), KnownDigest("md5", hexdigest("md5", b"")), quota)
    (made,) = small.publish([staged])
    if isinstance(made, RequestError):
        raise made
    return Touched(made, created=True)
