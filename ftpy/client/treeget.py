"""A tree on its way here: small files pipelined on a connection and published in groups, large ones as partials."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ftpy.client.connection import Connection
from ftpy.client.getjobs import FileJob, FolderEnd, GetJobs
from ftpy.client.landing import Landing
from ftpy.client.lines import Alone
from ftpy.client.trees import (
    FILE_TRIES,
    MOST_BYTES_IN_FLIGHT,
    MOST_IN_FLIGHT,
    Tally,
    Told,
    TreeOptions,
)
from ftpy.client.work import SHARED_BYTES, Ends, Joint, SharedLine, Work, check_step
from ftpy.digests import hexdigest
from ftpy.errors import (
    Changed,
    ConnectionFailed,
    DigestMismatch,
    FtpyError,
    LocalFileError,
    ProtocolError,
    RequestError,
)
from ftpy.files import RemotePath
from ftpy.storage.base import KnownDigest, NewDirectory, NewFile, Staged
from ftpy.wire.messages import GetReply, GetRequest
from ftpy.wire.spelling import path_to_wire

if TYPE_CHECKING:
    from ftpy.client.listing import Listing

LOOK_EVERY = 16
"""Small files between two looks whether more has come: a look is a system call."""
GROUP_FILES = 256
"""Most small files made durable together."""
GROUP_BYTES = 16 * 1024 * 1024
"""Most bytes made durable together."""


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
        self._landing, self._options, self._inline_bytes = landing, options, inline_bytes
        self.tally = Tally(options)
        self._jobs = GetJobs(path, landing, options, inline_bytes, theirs, tally=self.tally)
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

    def _found(self) -> Iterator[FileJob | FolderEnd]:
        return iter(self._jobs)

    # ---------------------------------------------------------------- doing it

    def worker(self, connection: Connection) -> None:
        """Fetch what there is to fetch over one connection. Raises ConnectionFailed and its like, nothing of a file."""
        connection.require(self._options.digest)
        flying: deque[FileJob] = deque()
        group = _Group(self)
        try:
            while True:
                batch = self.work.take(connection.leaving, idle=not flying and not group)
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
        except ProtocolError:
            self.work.stop()  # that ends all: nobody goes on with what is given back
            raise
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
                options, listed = self._options, job.info if self._as_listed else None
                job.transfer = FileGet(
                    Get(job.path, options.digest, self.tally.watch(job), listed, job.info.size),
                    job.name,
                    force=job.replaces,
                    notify=lambda _: None,
                    directory=self._landing.open_dir(job.below.parent),
                    check=partial(self._landing.check, job.below, job.known),
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
            condition=job.known if job.replaces else "absent",
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
