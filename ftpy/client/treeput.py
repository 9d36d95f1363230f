"""A tree on its way to the server: small files pipelined on a connection, large ones in parts, folders behind both."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING

from ftpy.client.connection import Connection
from ftpy.client.lines import Alone
from ftpy.client.putjobs import FileJob, FolderEnd, PutJobs
from ftpy.client.putting import FINAL, FilePut, Put, condition_fields, drop
from ftpy.client.source import Source, holds_more, local_error, read_digest, version
from ftpy.client.trees import (
    FILE_TRIES,
    MOST_IN_FLIGHT,
    Tally,
    Told,
    TreeOptions,
)
from ftpy.client.within import Within
from ftpy.client.work import SHARED_BYTES, Ends, Joint, SharedLine, Work, check_step
from ftpy.digests import hexdigest
from ftpy.errors import (
    ConnectionFailed,
    DigestMismatch,
    FtpyError,
    LocalFileError,
    ProtocolError,
    RequestError,
    ShuttingDown,
    SourceChanged,
    UnknownTree,
    UnknownUpload,
    Unsupported,
)
from ftpy.files import RemotePath, display
from ftpy.storage.base import KnownDigest
from ftpy.storage.versions import told_ns
from ftpy.timing import DISK
from ftpy.wire.messages import (
    DigestReply,
    DigestRequest,
    MkdirReply,
    MkdirRequest,
    PutRequest,
    StoredReply,
)
from ftpy.wire.spelling import path_to_wire

if TYPE_CHECKING:
    from ftpy.client.listing import Listing

LOOK_EVERY = 16
"""Small files between two looks whether replies have come: a look is a system call."""


class TreePut:
    """One tree; ``worker`` on each of any number of connections until it returns.

    ``inline_bytes`` is the largest file sent in one piece; ``theirs`` lists what is there, None where nothing is. With
    ``staged``, a tree of that id, all goes there: out of sight, and ``theirs`` is what is staged in it.
    """

    def __init__(
        self,
        root: str,
        target: RemotePath,
        options: TreeOptions,
        inline_bytes: int,
        theirs: Listing | None,
        *,
        staged: str | None = None,
    ) -> None:
        self._options, self._inline_bytes, self._staged = options, inline_bytes, staged
        self.tally = Tally(options)
        self._jobs = PutJobs(root, target, options, inline_bytes, theirs, staged=staged is not None, tally=self.tally)
        self._within = Within(root)
        self._source = self._found()
        self.work: Work[FileJob, FolderEnd] = Work(self._source)
        self._doomed: deque[str] = deque()
        """Uploads of files that failed for good, to be dropped."""

    def close(self) -> None:
        """Let go of the tree, and of large files that were begun and are not through."""
        with contextlib.suppress(ValueError):  # interrupted twice: nobody waits for the thread that is at it
            self._source.close()
        self._within.close()
        for job in self.work.left():
            self._close(job)

    def dry_run(self) -> None:
        """Tell what would be sent; what differs only in content is found by its digest in a real run only."""
        try:
            for found in self._source:
                if isinstance(found, FileJob):
                    self.tally.tell(Told("sent", found.path, found.name, found.size))
        finally:
            self.close()

    def _found(self) -> Generator[FileJob | FolderEnd, None, None]:
        yield from self._jobs

    @property
    def folders(self) -> int:
        """Folders below the target that there will be, so far as the walk has come."""
        return self._jobs.folders

    # ---------------------------------------------------------------- doing it

    def worker(self, connection: Connection) -> None:
        """Send what there is to send over one connection. Raises ConnectionFailed and its like, nothing of a file."""
        connection.require(self._options.digest)
        flying: deque[FileJob] = deque()
        try:
            while True:
                while self._doomed and not flying:
                    self._drop(connection, self._doomed.popleft())
                batch = self.work.take(connection.leaving, idle=not flying)
                if isinstance(batch, FileJob):
                    self._send_large(connection, batch)
                elif isinstance(batch, Joint):
                    self.work.join(connection, batch)
                elif batch is None:
                    if not flying:
                        return
                    self._take_replies(connection, flying)
                elif isinstance(batch, Ends):
                    self._send_ends(connection, batch)
                else:
                    self._send_batch(connection, batch, flying)
        except ProtocolError:
            self.work.stop()  # that ends all: nobody goes on with what is given back
            raise
        finally:
            for job in flying:
                if job.condition is not None:
                    job.alone = True  # it may have been stored: what is there then is our own
            self.work.give_back(flying)

    def _send_batch(self, connection: Connection, batch: list[FileJob], flying: deque[FileJob]) -> None:
        most = min(MOST_IN_FLIGHT, connection.welcome.limits.requests)
        left = deque(batch)
        try:
            while left:
                if self._send_small(connection, left[0]):
                    flying.append(left[0])
                left.popleft()
                if len(flying) >= most or (len(left) % LOOK_EVERY == 0 and flying and connection.readable()):
                    self._take_replies(connection, flying)
        finally:
            self.work.give_back(left)

    def _read(self, job: FileJob) -> bytes | None:
        """The whole of a small file, as the walk found it or as it is now; None where it has outgrown the pipeline.

        Raises LocalFileError, SourceChanged.
        """
        for _ in range(FILE_TRIES):
            try:
                descriptor = self._within.open_file(job.name)
                try:
                    body = os.read(descriptor, job.size + 1)
                    status = os.fstat(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise local_error(job.name, error) from None
            if version(status) == version(job.status) and len(body) >= job.size:
                if len(body) > job.size:
                    raise holds_more(job.name)
                return body
            if not stat.S_ISREG(status.st_mode):
                raise LocalFileError(f"{display(job.name)}: no longer a regular file")
            job.status, job.size = status, status.st_size
            if job.size > self._inline_bytes:
                job.alone = True
                return None
        raise SourceChanged(f"{display(job.name)} changes all the time")

    def _send_small(self, connection: Connection, job: FileJob) -> bool:
        """Read, hash and send one file whole: whether it was sent. One that cannot be read is told and through."""
        try:
            with DISK:
                body = self._read(job)
        except LocalFileError as error:
            self._fail(job, error)
            return False
        if body is None:
            self.work.give_back([job])
            return False
        name = self._options.digest
        digest = hexdigest(name, body)
        job.sent = KnownDigest(name, digest)
        channel = connection.channel
        channel.send(
            PutRequest(
                id=connection.next_id(),
                **path_to_wire(job.path),
                file_size=job.size,
                mtime_ns=told_ns(job.status.st_mtime_ns),
                mode=job.status.st_mode & 0o777,
                digest=name,
                **condition_fields(job.condition),
                operation=self._options.operation,
                tree=self._staged,
                length=job.size,
            )
        )
        channel.send_body(body)
        channel.send_trailer(name, digest)
        return True

    def _take_replies(self, connection: Connection, flying: deque[FileJob]) -> None:
        """The next reply, and those that have come with it."""
        stored: list[FileJob] = []
        try:
            while True:
                try:
                    reply = connection.wait(StoredReply)
                except RequestError as error:
                    self._refused(flying.popleft(), error)
                else:
                    job = flying[0]
                    sent = job.sent
                    if sent is None or reply.file_size != job.size or getattr(reply.digest, sent.name) != sent.hex:
                        raise ProtocolError("the server says that it stored something else than what was sent")
                    stored.append(flying.popleft())
                if not flying or not connection.holds_reply():
                    return
        finally:
            self._succeed(stored)

    def _refused(self, job: FileJob, error: RequestError) -> None:
        if isinstance(error, DigestMismatch) and job.tries + 1 < FILE_TRIES:
            job.tries += 1
            self.work.give_back([job])
        else:
            self._fail(job, error)

    def _succeed(self, jobs: list[FileJob]) -> None:
        self.work.done(len(jobs))
        self.tally.tell_all([Told("sent", job.path, job.name, job.size) for job in jobs])

    def _fail(self, job: FileJob, error: FtpyError) -> None:
        self.work.done()
        self.tally.tell(Told("failed", job.path, job.name, error=error))
        if isinstance(error, UnknownTree):
            self.work.give_up(error)

    # ---------------------------------------------------------------- large files

    def _send_large(self, connection: Connection, job: FileJob) -> None:
        """One file in parts; it goes on where it stood when its connection is lost."""
        try:
            if job.asks and self._is_there(connection, job):
                self.work.done()
                self.tally.tell(Told("identical", job.path, job.name, job.size))
                return
            transfer = self._transfer(job)
            lines = SharedLine(connection, self.work) if job.size >= SHARED_BYTES else Alone(connection)
            try:
                stored = transfer.send(lines)
            except (DigestMismatch, UnknownUpload) as error:
                if isinstance(error, DigestMismatch) and not transfer.resumed:
                    raise
                transfer.start_over()  # what an earlier run left was of other bytes, or is gone
                stored = transfer.send(lines)
            job.size = stored.size  # it may have grown since the walk
        except (ConnectionFailed, ShuttingDown):  # it goes on when the server is back, as its connection does
            self.work.give_back([job])
            raise
        except FtpyError as error:
            if isinstance(error, (LocalFileError, *FINAL)) and job.transfer and job.transfer.upload:
                self._doomed.append(job.transfer.upload)
            self._close(job)
            self._fail(job, error)
            check_step(connection)
        except BaseException:
            self._close(job)
            raise
        else:
            self._close(job)
            self._succeed([job])

    def _drop(self, connection: Connection, upload: str) -> None:
        """What the server holds of a file that failed for good is dropped, by the first connection that is free."""
        with contextlib.suppress(RequestError):  # it expires
            drop(connection, upload)

    def _transfer(self, job: FileJob) -> FilePut:
        if job.transfer is None:
            options, staged = self._options, self._staged
            wanted = Put(job.path, options.digest, job.condition, self.tally.watch(job), options.operation, staged)
            job.transfer = FilePut(wanted, Source(job.name, options.digest, self._within.open_file))
            if job.sent is not None:
                job.transfer.answer_lost(job.sent)
        return job.transfer

    def _is_there(self, connection: Connection, job: FileJob) -> bool:
        """Whether the server has this very content already."""
        name = self._options.digest
        try:
            reply = connection.call(
                DigestRequest(id=connection.next_id(), **path_to_wire(job.path), digest=name, tree=self._staged),
                DigestReply,
            )
        except RequestError:
            return False  # gone or out of our sight: then it is sent
        return reply.file_size == job.size and reply.digest.hex == read_digest(job.name, name, self._within.open_file)

    @staticmethod
    def _close(job: FileJob) -> None:
        if job.transfer is not None:
            job.transfer.close()

    # ---------------------------------------------------------------- folders

    def _send_ends(self, connection: Connection, ends: list[FolderEnd]) -> None:
        """Make the folders that are still missing, and give each its mode and time."""
        answered, most = 0, connection.welcome.limits.requests
        try:
            for sent, end in enumerate(ends):
                if sent - answered >= most or (sent > answered and connection.readable()):
                    self._take_end(connection, ends[answered])
                    answered += 1
                connection.channel.send(
                    MkdirRequest(
                        id=connection.next_id(),
                        **path_to_wire(end.path),
                        parents=True,
                        mode=end.mode,
                        mtime_ns=told_ns(end.mtime_ns),
                        operation=self._options.operation,
                        tree=self._staged,
                    )
                )
            while answered < len(ends):
                self._take_end(connection, ends[answered])
                answered += 1
        except BaseException:
            self.work.give_back_ends(ends[answered:])
            raise

    def _take_end(self, connection: Connection, end: FolderEnd) -> None:
        try:
            connection.wait(MkdirReply)
        except Unsupported:
            return  # an old server: it has made the folders of all files, without their times
        except RequestError as error:
            self.tally.tell(Told("failed", end.path, end.name, error=error))
            if isinstance(error, UnknownTree):
                self.work.give_up(error)
