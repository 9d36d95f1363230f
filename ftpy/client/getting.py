"""How one file gets here: beside its target, verified, then in place by one rename; resumed wherever it was left."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from ftpy.client.connection import Connection
from ftpy.client.lines import Lines
from ftpy.client.partial import Partial, Partials, check_space
from ftpy.client.rangeget import BUFFER_BYTES, RangedGet
from ftpy.client.results import Fetched, OnProgress, Progress
from ftpy.client.source import Source, local_error
from ftpy.digests import DigestName
from ftpy.errors import Changed, DigestMismatch, LocalFileError, ProtocolError, TargetExists
from ftpy.files import FileInfo, RemotePath, display
from ftpy.storage.base import MIB, Closing, KnownDigest
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.following import Follower
from ftpy.storage.positional import read_at, write_at
from ftpy.storage.syscalls import fsync
from ftpy.wire.messages import (
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
)
from ftpy.wire.spelling import path_to_wire

MOST_CHANGES = 3
"""How often a get starts over because the file changed: beyond, it changes faster than it can be fetched."""
PROBE_BYTES = 2 * MIB
"""What the first request for ranges asks for: a file up to that size takes one round trip, as without ranges."""


class Get(Struct):
    """What the caller wants: which file, verified by which digest; as it was ``listed`` and no other version of it."""

    path: RemotePath
    digest: DigestName
    on_progress: OnProgress
    listed: FileInfo | None = None
    size: int | None = None
    """What the caller knows of its size already: where there is no space for it, no bytes are asked for."""

    @property
    def etag(self) -> str | None:
        """The version that it must be, if it matters."""
        return self.listed.etag if self.listed is not None else None

    def request(self, connection: Connection, offset: int, etag: str | None, count: int | None = None) -> GetReply:
        """Ask for ``count`` bytes, or all, from ``offset`` on: the reply, whose body comes next. Raises Changed."""
        connection.require(self.digest)
        reply = connection.call(
            GetRequest(
                id=connection.next_id(),
                **path_to_wire(self.path),
                offset=offset,
                count=count,
                etag=etag,
                digest=self.digest,
            ),
            GetReply,
        )
        left = reply.file_size - offset
        length = left if count is None else min(count, left)
        if (reply.offset, reply.length) != (offset, length) or etag not in (None, reply.etag):
            raise ProtocolError("the server sends another range or version than the one that was asked for")
        if self.listed is not None:
            check_listed(reply, self.listed)
        return reply

    def expected(self, connection: Connection, reply: GetReply) -> str:
        """The whole file's digest, after its body has come: from the trailer, the reply, or asked for now."""
        trailer = connection.channel.receive_trailer()
        if reply.length == reply.file_size:
            if trailer.name != self.digest:
                raise ProtocolError(f"a {trailer.name} trailer where {self.digest} is due")
            return trailer.hex
        return self.known(connection, reply)

    def look(self, connection: Connection) -> GetReply:
        """What is there, without its bytes: who may get it may know that, also without the right to ls."""
        reply = self.request(connection, 0, None, 0)
        connection.channel.receive_trailer()
        return reply

    def known(self, connection: Connection, reply: GetReply) -> str:
        """The whole file's digest, where the server remembers it or else computes it now. Raises Changed."""
        known: str | None = getattr(reply, self.digest)
        if known is not None:
            return known
        answer = connection.call(
            DigestRequest(id=connection.next_id(), **path_to_wire(self.path), digest=self.digest),
            DigestReply,
            lambda done: self.say("verifying", min(done, reply.file_size), reply.file_size),
        )
        if answer.etag != reply.etag or answer.digest.name != self.digest:
            raise Changed
        return answer.digest.hex

    def say(self, phase: Any, done: int, total: int) -> None:
        """Tell the caller how far it is."""
        self.on_progress(Progress(phase, done, total))


def check_listed(reply: GetReply, listed: FileInfo) -> None:
    """Raises ProtocolError where one version has a size or time that it was not listed with.

    What is on record of it, for an undo, is what was listed.
    """
    if (reply.file_size, reply.mtime_ns) != (listed.size, listed.mtime_ns):
        raise ProtocolError("the server sends another version than the one that it listed")


class FileGet(Closing):
    """One file on its way into a target, over as many connections as it takes.

    What has come lies beside the target as a ``Partial``. ``directory`` is the folder that the target is in, opened
    without following links where others may have made it; it is closed with this. With ``force`` or ``if_changed`` a
    different target is replaced; with the latter one of the same content is left as it is. ``check`` is asked last of
    all before that, and raises where what is there now is to stay.
    """

    def __init__(
        self,
        get: Get,
        target: str,
        *,
        force: bool,
        if_changed: bool = False,
        notify: Callable[[str], None],
        directory: Directory | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._check = check
        self._get, self._target, self._notify = get, target, notify
        self._replaces, self._looks = force or if_changed, if_changed or not force
        self._if_changed = if_changed
        try:
            parent, self._leaf = os.path.split(os.path.abspath(target))
        except OSError as error:  # the current folder is gone
            raise local_error(target, error) from None
        try:
            self._directory = directory or Beneath(parent).root
        except OSError as error:
            raise local_error(parent, error) from None
        self._partials = Partials(self._directory, get.path, self._leaf)
        self._resumed: int | None = None
        self._size = get.listed.size if get.listed is not None else get.size
        """What it has before a reply tells, as far as that is known."""
        self.received = 0
        """Bytes written on this side so far; grows, so that whoever retries knows that something moves."""

    def close(self) -> None:
        """Let go of the folder; a partial stays for the next get."""
        self._directory.close()

    def fetch(self, lines: Lines) -> Fetched:
        """Fetch what is missing, verify, put it in place. Raises TargetExists, LocalFileError, DigestMismatch, …."""
        with self._translated():
            identical = lines.persist(self._look_at_target)
            if identical is not None:
                self._partials.drop()  # also what a get that was killed left once this was in place
                return identical
            if self._get.etag is not None:
                self._partials.drop(but=self._get.etag)
            for _ in range(MOST_CHANGES):
                try:
                    if lines.several or self._partials.ranged:
                        return self._fetch_ranges(lines)
                    return lines.persist(self._fetch, lambda: self.received)
                except Changed:
                    if self._get.etag is not None:
                        raise
                    self._start_over("the file changed on the server")
                except DigestMismatch as error:
                    if not self._resumed:
                        raise
                    self._start_over(str(error))
            raise Changed("the file changes on the server all the time")

    def _start_over(self, reason: str) -> None:
        self._notify(f"{display(str(self._get.path))}: {reason}; starting over")
        self._resumed = self.received = 0

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise local_error(self._target, error) from None

    # ---- what is there already

    def _look_at_target(self, connection: Connection) -> Fetched | None:
        """The result where the target is that very content already; raises where it is another and to be kept."""
        try:
            status = self._directory.lstat(self._leaf)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise LocalFileError(f"{display(self._target)}: a directory")
        if not self._is_file(status):
            raise LocalFileError(f"{display(self._target)}: not a regular file")
        if not self._looks:
            return None
        found = self._identical(connection, status)
        if found is None and not self._replaces:
            raise TargetExists(f"{display(self._target)}: {TargetExists.sentence()}")
        return found

    def _is_file(self, status: os.stat_result) -> bool:
        """Whether what is here may give way to a file: one itself, or a link, unless it leads to a device or the like.

        Without ``/dev/stdout`` or a queue in its place others would write to a file that nobody reads.
        """
        if not stat.S_ISLNK(status.st_mode):
            return stat.S_ISREG(status.st_mode)
        try:
            end = os.stat(self._target).st_mode
            return (stat.S_ISREG(end) or stat.S_ISDIR(end)) and not os.readlink(self._target).startswith("/proc/")
        except OSError:
            return True  # it leads nowhere

    def _identical(self, connection: Connection, status: os.stat_result) -> Fetched | None:
        """The result where what is here, of this status, is what the server has."""
        get = self._get
        there = get.look(connection)
        self._size = there.file_size
        if not stat.S_ISREG(status.st_mode) or there.file_size != status.st_size:
            return None
        try:
            theirs = get.known(connection, there)
        except Changed:
            if self._if_changed:
                return None  # just now, so it is fetched
            raise
        with Source(self._target, get.digest) as local:
            if local.read_digest() != theirs:
                return None
            fsync(local.fileno())  # whoever wrote it may not have waited for the disk
        return Fetched(
            path=get.path,
            target=self._target,
            size=there.file_size,
            digest=KnownDigest(get.digest, theirs),
            durable=True,
            identical=True,
            unchanged=self._if_changed,
        )

    # ---- the bytes

    def _fetch(self, connection: Connection) -> Fetched:
        """All that is missing, by one request."""
        partial = self._partials.any()
        if partial is None:
            self._check_space(self._size)
            reply = self._get.request(connection, 0, self._get.etag)
            partial = self._begin(reply)
        else:
            reply = self._go_on(partial, connection, partial.size)
        with partial:
            return self._receive_and_commit(connection, reply, partial)

    def _begin(self, reply: GetReply) -> Partial:
        """A new partial, unless there is no space for what it is to hold."""
        self._check_space(reply.file_size)
        return self._partials.begin(reply.etag)

    def _check_space(self, size: int | None, here: int = 0) -> None:
        if size is not None:
            check_space(self._directory.fd, size - here)

    def _go_on(self, partial: Partial, connection: Connection, offset: int, count: int | None = None) -> GetReply:
        """Ask for more of the version that a partial is of. Raises Changed when that is gone, and it with it."""
        try:
            if count is None:
                self._check_space(self._size, offset)
            return self._get.request(connection, offset, partial.etag, count)
        except Changed:
            with partial:
                partial.drop()
            self._partials.drop()  # those of other versions are no better
            raise
        except BaseException:
            partial.close()
            raise

    def _receive_and_commit(self, connection: Connection, reply: GetReply, partial: Partial) -> Fetched:
        if self._resumed is None:
            self._resumed = reply.offset
        try:
            digest = self._receive(connection, reply, partial.descriptor)
        except DigestMismatch:
            partial.drop()
            raise
        return self._commit(reply, partial, digest)

    # ---- ranges

    def _fetch_ranges(self, lines: Lines) -> Fetched:
        """All that is missing, by requests for ranges."""
        begun = lines.persist(self._begin_ranges, lambda: self.received)
        if isinstance(begun, Fetched):
            return begun
        with begun as ranged:
            for _ in range(MOST_CHANGES):
                lines.run(ranged.worker, lambda: ranged.received, lambda: ranged.left)
                expected = lines.persist(lambda connection: self._get.known(connection, ranged.there))
                self._get.say("verifying", ranged.hashed, ranged.there.file_size)
                if ranged.hexdigest() == expected:
                    return self._commit(ranged.there, ranged.partial, KnownDigest(self._get.digest, expected))
                if not (lost := ranged.recheck()):
                    break
                self._notify(
                    f"{display(str(self._get.path))}: {lost:,} bytes are not what was sent; fetching them again"
                )
            ranged.partial.drop()
            raise mismatch()

    def _begin_ranges(self, connection: Connection) -> RangedGet | Fetched:
        """The partial and what of it is missing; a small file is fetched by the request that tells what is there."""
        get, partial = self._get, self._partials.any()
        with contextlib.ExitStack() as opened:
            if partial is None:
                self._check_space(self._size)
                reply = get.request(connection, 0, get.etag, PROBE_BYTES)
                partial = opened.enter_context(self._begin(reply))
                self._resumed = self._resumed or 0
                if reply.length == reply.file_size:
                    return self._receive_and_commit(connection, reply, partial)
                self._receive_beginning(connection, reply, partial.descriptor)
            else:
                reply = self._go_on(opened.enter_context(partial), connection, 0, 0)
                connection.channel.receive_trailer()
            ranged = RangedGet(get.path, get.digest, reply, partial, get.on_progress)
            opened.pop_all()
        if self._resumed is None:
            self._resumed = ranged.resumed
        return ranged

    def _receive_beginning(self, connection: Connection, reply: GetReply, descriptor: int) -> None:
        """The first bytes, which are verified as a part of the whole only."""
        buffer = memoryview(bytearray(BUFFER_BYTES))
        at = 0
        while at < reply.length:
            view = buffer[: min(len(buffer), reply.length - at)]
            connection.channel.receive_into(view)
            write_at(descriptor, at, view)
            at += len(view)
            self.received = at
            self._get.say("receiving", at, reply.file_size)
        connection.channel.receive_trailer()

    # ---- one body

    def _receive(self, connection: Connection, reply: GetReply, descriptor: int) -> KnownDigest:
        """The body into the partial: hashed as it comes, what was there before meanwhile."""
        get, size = self._get, reply.file_size
        check_space(descriptor, reply.length)
        follower = Follower(get.digest, lambda at, view: read_at(descriptor, at, view))
        try:
            if reply.offset:
                follower.announce(0, reply.offset)
            at = reply.offset
            get.say("receiving", at, size)
            while at < size:
                buffer = follower.borrow()
                view = buffer[: min(len(buffer), size - at)]
                connection.channel.receive_into(view)
                write_at(descriptor, at, view)
                follower.give(at, buffer, len(view))
                at += len(view)
                self.received = at
                get.say("receiving", at, size)
            expected = get.expected(connection, reply)
            get.say("verifying", follower.position, size)
            actual = follower.hexdigest(size)
        finally:
            follower.close()
        if actual != expected:
            raise mismatch()
        return KnownDigest(get.digest, actual)

    def _commit(self, reply: GetReply, partial: Partial, digest: KnownDigest) -> Fetched:
        """In place, durably; a different file that came meanwhile stays."""
        self._get.say("committing", reply.file_size, reply.file_size)
        mode, mtime_ns = reply.mode, reply.mtime_ns
        try:
            partial.publish(self._leaf, mode=mode, mtime_ns=mtime_ns, replace=self._replaces, check=self._check)
        except FileExistsError:
            raise TargetExists(f"{display(self._target)}: {TargetExists.sentence()}") from None
        self._partials.drop(but=reply.etag)  # of this one there is none but what another get has just begun
        return Fetched(
            path=self._get.path,
            target=self._target,
            size=reply.file_size,
            digest=digest,
            durable=True,
            resumed=self._resumed or 0,
        )


def mismatch() -> DigestMismatch:
    """What came is not what the server knows of."""
    return DigestMismatch("the bytes that arrived are not the bytes that the server knows of")
