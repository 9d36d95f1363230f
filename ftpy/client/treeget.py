"""A tree on its way here: small files pipelined on a connection and published in groups, large ones as partials."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ftpy.client.connection import Connection
from ftpy.client.landing import Landing
from ftpy.client.lines import Alone
from ftpy.client.source import Source
from ftpy.client.trees import (
    FILE_TRIES,
    MOST_BYTES_IN_FLIGHT,
    MOST_IN_FLIGHT,
    OWNER_BITS,
    Tally,
    Told,
    TreeOptions,
    Verdict,
    same_time,
)
from ftpy.client.work import SHARED_BYTES, Ends, Job, Joint, SharedLine, Work, check_step
from ftpy.digests import hexdigest
from ftpy.errors import (
    Changed,
    ConnectionFailed,
    DigestMismatch,
    FtpyError,
    InvalidPath,
    LocalFileError,
    ProtocolError,
    RequestError,
    TargetExists,
)
from ftpy.files import FileInfo, RemotePath, check_portable, display
from ftpy.storage.base import KnownDigest, KnownVersion, NewDirectory, NewFile, Staged
from ftpy.wire.messages import GetReply, GetRequest
from ftpy.wire.spelling import path_to_wire

if TYPE_CHECKING:
    from ftpy.client.getting import FileGet
    from ftpy.client.listing import Listing

LOOK_EVERY = 16
"""Small files between two looks whether more has come: a look is a system call."""
GROUP_FILES = 256
"""Most small files made durable together."""
GROUP_BYTES = 16 * 1024 * 1024
"""Most bytes made durable together."""


class FileJob(Job):
    """A file of the server, as the listing told of it; ``path`` there, ``below`` on this side."""

    __slots__ = ("below", "info", "replaces", "transfer", "version")

    def __init__(
        self,
        info: FileInfo,
        below: RemotePath,
        name: str,
        *,
        alone: bool,
        replaces: bool,
        version: KnownVersion | None = None,
    ) -> None:
        super().__init__(info.path, name, info.size, alone=alone)
        self.info, self.below = info, below
        self.version = version
        """The only one that may go, if it matters."""
        self.replaces = replaces
        """What is there may go: it was there before, and that was asked for."""
        self.transfer: FileGet | None = None


class FolderEnd(NamedTuple):
    """A folder whose files are all here."""

    wanted: NewDirectory


class _Folder(NamedTuple):
    """A folder that the listing is in; ``status`` is of the one on this side, if there is one."""

    path: RemotePath
    info: FileInfo
    status: os.stat_result | None
    touched: list[bool]


class TreeGet:
    """One tree; ``worker`` on each of any number of connections until it returns.

    Where there may be ``several``, large files are fetched in ranges.
    """

    def __init__(
        self,
        path: RemotePath,
        landing: Landing,
        options: TreeOptions,
        inline_bytes: int,
        theirs: Listing,
        *,
        several: bool,
    ) -> None:
        self._several = several
        self._path, self._landing, self._options, self._theirs = path, landing, options, theirs
        self._inline_bytes = inline_bytes
        self._filter = options.selection.compiled()
        self.tally = Tally(options)
        self.work: Work[FileJob, FolderEnd] = Work(self._found())

    _as_listed = False
    """Whether a file that is another by now than the listing told of is refused, and not taken as it is."""

    def close(self) -> None:
        """Let go of large files that were begun and are not through."""
        for job in self.work.left():
            self._close(job)

    def dry_run(self) -> None:
        """Tell what would be fetched."""
        for found in self._found():
            if isinstance(found, FileJob):
                self.tally.tell(Told("received", found.path, found.name, found.size))

    # ---------------------------------------------------------------- what is to be done

    def _found(self) -> Iterator[FileJob | FolderEnd]:
        folders: list[_Folder] = []
        passed: RemotePath | None = None
        depth = len(self._path.parts)
        for info in self._theirs:
            below = RemotePath(info.path.parts[depth:])
            while folders and not _is_below(below, folders[-1].path):
                yield from self._end(folders.pop())
            if passed is not None and _is_below(below, passed):
                continue
            try:
                if os.name == "nt":
                    check_portable(below)
                if info.type == "directory":
                    if not self._enters(below) or not self._open(info, below, folders):
                        passed = below
                elif info.type == "file":
                    if (job := self._file(info, below, folders)) is not None:
                        yield job
                elif self._takes(below):
                    self._tell("link" if info.type == "symlink" else "special", info, below)
            except (LocalFileError, InvalidPath) as error:
                passed = below
                self._tell("failed", info, below, error)
        while folders:
            yield from self._end(folders.pop())
        self.tally.progress.known = True

    def _enters(self, below: RemotePath) -> bool:
        return self._filter is None or self._filter.enters(str(below))

    def _takes(self, below: RemotePath) -> bool:
        return self._filter is None or self._filter.takes_file(str(below))

    def _open(self, info: FileInfo, below: RemotePath, folders: list[_Folder]) -> bool:
        """Enter a folder: whether this side can hold it."""
        status = self._status(below, folders)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            name = display(self._landing.name(below))
            self._tell("failed", info, below, TargetExists(f"{name}: there is something else than a folder here"))
            return False
        if status is None and folders:
            folders[-1].touched[0] = True
        folders.append(_Folder(below, info, status, [False]))
        return True

    def _status(self, below: RemotePath, folders: list[_Folder]) -> os.stat_result | None:
        """What is on this side; nothing is in a folder that is not there."""
        if folders and folders[-1].status is None:
            return None
        return self._landing.lstat(below)

    def _file(self, info: FileInfo, below: RemotePath, folders: list[_Folder]) -> FileJob | None:
        """The job, unless this side has that very file."""
        if not self._takes(below):
            return None
        self.tally.found(info.size)
        status, replaces = self._status(below, folders), False
        name, alone = self._landing.name(below), info.size > self._inline_bytes or not self._landing.groups
        if status is not None:
            alike = stat.S_ISREG(status.st_mode) and status.st_size == info.size
            if alike and self._identical(info, name, status):
                self._tell("identical", info, below)
                return None
            replaces = self._options.force and not self._landing.came_meanwhile(status)
            if not alike and not replaces:
                why = "it came during this very transfer" if self._options.force else TargetExists.sentence()
                self._tell("failed", info, below, TargetExists(f"{display(name)}: {why}"))
                return None
            alone = alone or not replaces  # the contents are to be compared first
        if folders:
            folders[-1].touched[0] = True
        return FileJob(info, below, name, alone=alone, replaces=replaces)

    def _identical(self, info: FileInfo, name: str, status: os.stat_result) -> bool:
        if not self._options.by_digest:
            return same_time(info.mtime_ns, status.st_mtime_ns)
        known: str | None = getattr(info, self._options.digest)
        if known is None:
            return False
        with Source(name, self._options.digest) as source:
            return source.read_digest() == known

    def _end(self, folder: _Folder) -> Iterator[FolderEnd]:
        """What is still to be done to a folder, unless it is as it should be."""
        if self._options.dry_run or (self._filter is not None and self._filter.only_some):
            return
        mode, mtime_ns, status = folder.info.mode | OWNER_BITS, folder.info.mtime_ns, folder.status
        as_it_should_be = (
            status is not None
            and not folder.touched[0]
            and status.st_mode & 0o777 == mode
            and same_time(status.st_mtime_ns, mtime_ns)
        )
        if as_it_should_be:
            return
        yield FolderEnd(NewDirectory(folder.path, parents=True, mode=mode, mtime_ns=mtime_ns))

    def _tell(self, verdict: Verdict, info: FileInfo, below: RemotePath, error: FtpyError | None = None) -> None:
        size = info.size if verdict == "identical" else 0
        self.tally.tell(Told(verdict, info.path, self._landing.name(below), size, error))

    # ---------------------------------------------------------------- doing it

    def worker(self, connection: Connection) -> None:
        """Fetch what there is to fetch over one connection. Raises ConnectionFailed and its like, nothing of a file."""
        connection.require(self._options.digest)
        flying: deque[FileJob] = deque()
        group = _Group(self)
        try:
            while True:
                batch = None if connection.leaving.is_set() else self.work.take(idle=not flying and not group)
                if isinstance(batch, FileJob):
                    self._fetch_large(connection, batch)
                elif isinstance(batch, Joint):
                    self.work.join(connection, batch)
                elif batch is None:
                    if flying:
                        self._take_replies(connection, flying, group)
                    elif group:
                        group.publish()
                    else:
                        return
                elif isinstance(batch, Ends):
                    self._finish_folders(batch)
                else:
                    self._ask(connection, batch, flying, group)
        finally:
            self.work.give_back(flying)
            group.publish()  # verified, whatever became of the connection

    def _ask(self, connection: Connection, batch: list[FileJob], flying: deque[FileJob], group: _Group) -> None:
        most = min(MOST_IN_FLIGHT, connection.welcome.limits.requests)
        left = deque(batch)
        try:
            while left:
                while len(flying) >= most or group.due > MOST_BYTES_IN_FLIGHT:
                    self._take_replies(connection, flying, group)
                job = left[0]
                fields = path_to_wire(job.path)
                connection.channel.send(
                    GetRequest(id=connection.next_id(), **fields, etag=job.info.etag, digest=self._options.digest)
                )
                flying.append(left.popleft())
                group.due += job.size
                if len(left) % LOOK_EVERY == 0 and connection.readable():
                    self._take_replies(connection, flying, group)
            connection.channel.flush()  # the server may begin, whatever else is found to do here
        finally:
            self.work.give_back(left)

    def _take_replies(self, connection: Connection, flying: deque[FileJob], group: _Group) -> None:
        """The next file, and those that have come with it."""
        self._take_reply(connection, flying, group)
        while flying and connection.holds_reply():
            self._take_reply(connection, flying, group)

    def _take_reply(self, connection: Connection, flying: deque[FileJob], group: _Group) -> None:
        """The next file: verified and staged, or told why not."""
        job = flying[0]
        try:
            reply = connection.wait(GetReply)
        except RequestError as error:
            self._let_go(flying, group)
            if isinstance(error, Changed) and not self._as_listed:
                job.alone = True  # it is another file than the listing told of: as it is now
                self.work.give_back([job])
            else:
                self._fail(job, error)
            return
        if (reply.offset, reply.length) != (0, job.size) or reply.file_size != job.size:
            raise ProtocolError("the server sends another range or version than the one that was asked for")
        if self._as_listed:
            from ftpy.client.getting import check_listed

            check_listed(reply, job.info)
        body = connection.channel.receive_body()
        name = self._options.digest
        digest = hexdigest(name, body)
        other = connection.channel.compare_trailer(name, digest)
        self._let_go(flying, group)
        if other is not None:
            self._again(job)
            return
        group.add(job, reply, body, KnownDigest(name, digest))

    @staticmethod
    def _let_go(flying: deque[FileJob], group: _Group) -> None:
        group.due -= flying.popleft().size

    def _again(self, job: FileJob) -> None:
        job.tries += 1
        if job.tries < FILE_TRIES:
            self.work.give_back([job])
        else:
            self._fail(job, DigestMismatch("the bytes that arrived are not the bytes that the server knows of"))

    def _succeed(self, jobs: list[FileJob]) -> None:
        self.work.done(len(jobs))
        self.tally.tell_all([Told("received", job.path, job.name, job.size) for job in jobs])

    def _fail(self, job: FileJob, error: FtpyError) -> None:
        self.work.done()
        self.tally.tell(Told("failed", job.path, job.name, error=error))
        if _because(error, errno.ENOSPC, errno.EDQUOT):
            self.work.give_up(error)  # the next ones fared no better, however many a server lists

    # ---------------------------------------------------------------- large files and folders

    def _fetch_large(self, connection: Connection, job: FileJob) -> None:
        """One file by itself; it goes on where it stood when its connection is lost."""
        from ftpy.client.getting import FileGet, Get

        try:
            if job.transfer is None:
                options = self._options
                job.transfer = FileGet(
                    Get(job.path, options.digest, self.tally.watch(job), job.info if self._as_listed else None),
                    job.name,
                    force=job.replaces,
                    notify=lambda _: None,
                    directory=self._landing.open_dir(job.below.parent),
                    check=partial(self._landing.check, job.below, job.version),
                )
            shared = self._several and job.size >= SHARED_BYTES
            fetched = job.transfer.fetch(SharedLine(connection, self.work) if shared else Alone(connection))
        except ConnectionFailed:
            self.work.give_back([job])
            raise
        except FtpyError as error:
            self._close(job)
            self._fail(job, error)
            check_step(connection)
        except BaseException:
            self._close(job)
            raise
        else:
            self._close(job)
            self.work.done()
            self.tally.tell(Told("identical" if fetched.identical else "received", job.path, job.name, fetched.size))

    @staticmethod
    def _close(job: FileJob) -> None:
        if job.transfer is not None:
            job.transfer.close()

    def _finish_folders(self, ends: list[FolderEnd]) -> None:
        landing = self._landing
        if landing.groups:
            failed = landing.publish([landing.stage_directory(end.wanted) for end in ends])
        else:
            failed = [self._finish_alone(end.wanted) for end in ends]
        for end, error in zip(ends, failed, strict=True):
            if error is not None:
                self.tally.tell(Told("failed", end.wanted.path, landing.name(end.wanted.path), error=error))

    def _finish_alone(self, wanted: NewDirectory) -> FtpyError | None:
        try:
            self._landing.finish_alone(wanted)
        except LocalFileError as error:
            return error
        return None


class _Group:
    """What one connection brought and is staged, until it is published together."""

    def __init__(self, tree: TreeGet) -> None:
        self._tree = tree
        self._staged: list[tuple[FileJob, Staged]] = []
        self._bytes = 0
        self.due = 0
        """Bytes that were asked for and are not here yet."""

    def __len__(self) -> int:
        return len(self._staged)

    def add(self, job: FileJob, reply: GetReply, body: memoryview, digest: KnownDigest) -> None:
        """Stage one file, and publish when there are enough."""
        tree = self._tree
        file = NewFile(
            path=job.below,
            file_size=job.size,
            mtime_ns=reply.mtime_ns,
            mode=reply.mode,
            digest=digest.name,
            condition=job.version if job.replaces else "absent",
        )
        try:
            self._staged.append((job, tree._landing.stage(file, body, digest)))
        except LocalFileError as error:
            tree._fail(job, error)
            return
        self._bytes += job.size
        if len(self._staged) >= GROUP_FILES or self._bytes >= GROUP_BYTES:
            self.publish()

    def publish(self) -> None:
        """Put all in place, durably."""
        group, self._staged, self._bytes = self._staged, [], 0
        if not group:
            return
        failed = self._tree._landing.publish([staged for _, staged in group])
        self._tree._succeed([job for (job, _), error in zip(group, failed, strict=True) if error is None])
        for (job, _), error in zip(group, failed, strict=True):
            if error is None:
                continue
            if _because(error, errno.EXDEV):
                job.alone = True  # a mount point below the folder: staged beside its place it can be renamed
                self._tree.work.give_back([job])
            else:
                self._tree._fail(job, error)


def _because(error: FtpyError, *codes: int) -> bool:
    """Whether one of these errors of the system is what was met."""
    met = error.__cause__ or error.__context__
    return isinstance(met, OSError) and met.errno in codes


def _is_below(path: RemotePath, folder: RemotePath) -> bool:
    return path.parts[: len(folder.parts)] == folder.parts
