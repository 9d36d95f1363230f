"""How one file gets here: beside its target, verified, then in place by one rename; resumed wherever it was left."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ftpy.client.connection import Connection
from ftpy.client.results import Fetched, OnProgress, Progress
from ftpy.client.source import Source, local_error
from ftpy.digests import DigestName, hexdigest, new_hasher
from ftpy.errors import Changed, DigestMismatch, LocalFileError, ProtocolError, TargetExists
from ftpy.files import RESERVED_PREFIX, RemotePath, display
from ftpy.storage.base import Closing, KnownDigest
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.following import CHUNK_BYTES, Follower
from ftpy.storage.positional import read_at, write_at
from ftpy.wire.messages import (
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
)
from ftpy.wire.spelling import path_to_wire

try:
    import fcntl
except ImportError:  # Windows: two gets of one file at once are told apart by their digest only
    fcntl = None  # type: ignore[assignment]


@dataclass(slots=True)
class Get:
    """What the caller wants: which file, verified by which digest."""

    path: RemotePath
    digest: DigestName
    on_progress: OnProgress

    def request(self, connection: Connection, offset: int, etag: str | None) -> GetReply:
        """Ask for all from ``offset`` on: the reply, whose body comes next. Raises Changed."""
        reply = connection.call(
            GetRequest(
                id=connection.next_id(), **path_to_wire(self.path), offset=offset, etag=etag, digest=self.digest
            ),
            GetReply,
        )
        if reply.offset != offset or reply.offset + reply.length != reply.file_size or etag not in (None, reply.etag):
            raise ProtocolError("the server sends another range or version than the one that was asked for")
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
        request = GetRequest(id=connection.next_id(), **path_to_wire(self.path), count=0, digest=self.digest)
        reply = connection.call(request, GetReply)
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
            lambda done: self.say("verifying", done, reply.file_size),
        )
        if answer.etag != reply.etag or answer.digest.name != self.digest:
            raise Changed
        return answer.digest.hex

    def say(self, phase: Any, done: int, total: int) -> None:
        """Tell the caller how far it is."""
        self.on_progress(Progress(phase, done, total))


class FileGet(Closing):
    """One file on its way into a target, over as many connections as it takes; ``attempt`` with each.

    What has come lies beside the target as ``.ftpy-KEY-ETAG.partial``: KEY names path and target, ETAG the version on
    its server, and its size is how far it is, so that a later get goes on there in one round trip.
    """

    def __init__(self, get: Get, target: str, *, force: bool, notify: Callable[[str], None]) -> None:
        self._get, self._target, self._force, self._notify = get, target, force, notify
        parent, self._leaf = os.path.split(os.path.abspath(target))
        try:
            self._beneath = Beneath(parent)
        except OSError as error:
            raise local_error(parent, error) from None
        self._resumed: int | None = None
        self.received = 0
        """Bytes written on this side so far; grows, so that whoever retries knows that something moves."""

    def close(self) -> None:
        """Let go of the folder; a partial stays for the next get."""
        self._beneath.close()

    def attempt(self, connection: Connection) -> Fetched:
        """Fetch what is missing, verify, put it in place. Raises TargetExists, LocalFileError, DigestMismatch, …."""
        with self._translated():
            identical = self._look_at_target(connection)
            if identical is not None:
                return identical
            while True:
                try:
                    return self._fetch(connection)
                except Changed:
                    self._start_over("the file changed on the server")
                except DigestMismatch as error:
                    if not self._resumed:
                        raise
                    self._start_over(str(error))

    def _start_over(self, reason: str) -> None:
        self._notify(f"{display(str(self._get.path))}: {reason}; starting over")
        self._resumed = 0

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise local_error(self._target, error) from None

    # ---- what is there already

    def _look_at_target(self, connection: Connection) -> Fetched | None:
        """The result where the target is that very content already; raises where it is another and not forced."""
        try:
            status = self._directory.lstat(self._leaf)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise LocalFileError(f"{display(self._target)}: a directory")
        if self._force:
            return None
        get = self._get
        there = get.look(connection)
        if not stat.S_ISREG(status.st_mode) or there.file_size != status.st_size:
            raise TargetExists(f"{display(self._target)}: {TargetExists.sentence()}")
        theirs = get.known(connection, there)
        with Source(self._target, get.digest) as local:
            for _ in local.chunks(0, local.size):
                pass
            if local.hexdigest() != theirs:
                raise TargetExists(f"{display(self._target)}: {TargetExists.sentence()}")
        digest = KnownDigest(get.digest, theirs)
        return Fetched(get.path, self._target, there.file_size, digest, durable=True, identical=True)

    @property
    def _directory(self) -> Directory:
        return self._beneath.root

    def _key(self) -> str:
        names = f"{self._get.path}\0{self._leaf}"
        return hexdigest("blake3", names.encode("utf-8", "surrogateescape"))[:16]

    def _partials(self) -> list[str]:
        prefix = f"{RESERVED_PREFIX}-{self._key()}-"
        return sorted(name for name in self._directory.names() if name.startswith(prefix) and name.endswith(".partial"))

    # ---- the bytes

    def _fetch(self, connection: Connection) -> Fetched:
        partials = self._partials()
        if self._resumed == 0 and not self.received:
            self._drop(partials)
            partials = []
        if partials:
            name = partials[0]
            descriptor = self._directory.open_for_write(name)
            offset = _size_of_own(descriptor, name)
            etag = name.removesuffix(".partial").rpartition("-")[2]
        else:
            name, descriptor, offset, etag = "", -1, 0, None
        try:
            if descriptor >= 0:
                _lock(descriptor, self._target)
            try:
                reply = self._get.request(connection, offset, etag)
            except Changed:
                self._drop(partials)
                self.received = 0
                raise
            if descriptor < 0:
                name = f"{RESERVED_PREFIX}-{self._key()}-{reply.etag}.partial"
                descriptor = self._directory.create(name, 0o600)
                _lock(descriptor, self._target)
            if self._resumed is None:
                self._resumed = offset
            digest = self._receive(connection, reply, descriptor)
            return self._commit(reply, name, descriptor, digest)
        except DigestMismatch:
            self._drop([name])
            self.received = 0
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _drop(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._directory.unlink(name)

    def _receive(self, connection: Connection, reply: GetReply, descriptor: int) -> KnownDigest:
        """The body into the partial, hashed as it comes; what was there before is hashed meanwhile."""
        get, size = self._get, reply.file_size
        _check_space(descriptor, reply.length)
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
            raise DigestMismatch("the bytes that arrived are not the bytes that the server knows of")
        return KnownDigest(get.digest, actual)

    def _commit(self, reply: GetReply, name: str, descriptor: int, digest: KnownDigest) -> Fetched:
        """Make the partial durable, then give it its name; a different file that came meanwhile stays."""
        self._get.say("committing", reply.file_size, reply.file_size)
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, reply.mode & 0o777)
        if os.utime in os.supports_fd:
            os.utime(descriptor, ns=(reply.mtime_ns, reply.mtime_ns))
        os.fsync(descriptor)
        directory = self._directory
        try:
            (directory.rename if self._force else directory.rename_noreplace)(name, directory, self._leaf)
        except FileExistsError:
            raise TargetExists(f"{display(self._target)}: {TargetExists.sentence()}") from None
        directory.sync()
        self._drop(self._partials())
        return Fetched(
            path=self._get.path,
            target=self._target,
            size=reply.file_size,
            digest=digest,
            durable=True,
            resumed=self._resumed or 0,
        )


class StreamGet:
    """One file written to a stream as it comes; what was written cannot be taken back, but a bad end is told."""

    def __init__(self, get: Get, stream: BinaryIO) -> None:
        self._get, self._stream = get, stream
        self._hasher = new_hasher(get.digest)
        self._etag: str | None = None
        self.received = 0

    def attempt(self, connection: Connection) -> Fetched:
        """Go on where the last connection ended. Raises Changed, DigestMismatch."""
        get = self._get
        reply = get.request(connection, self.received, self._etag)
        self._etag = reply.etag
        buffer = memoryview(bytearray(min(CHUNK_BYTES, max(1, reply.length))))
        while self.received < reply.file_size:
            view = buffer[: min(len(buffer), reply.file_size - self.received)]
            connection.channel.receive_into(view)
            self._write(view)
            self._hasher.update(view)
            self.received += len(view)
            get.say("receiving", self.received, reply.file_size)
        with _writing():
            self._stream.flush()
        expected = get.expected(connection, reply)
        if self._hasher.hexdigest() != expected:
            raise DigestMismatch("the bytes that arrived are not the bytes that the server knows of")
        return Fetched(get.path, None, reply.file_size, KnownDigest(get.digest, expected), durable=False)

    def _write(self, view: memoryview) -> None:
        """All of ``view``; a raw stream may take less at a time."""
        with _writing():
            if not isinstance(self._stream, io.RawIOBase):
                self._stream.write(view)
                return
            while view:
                taken = self._stream.write(view)
                if taken is None:  # it is non-blocking, and full
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                view = view[taken:]


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """The one translation of an OSError of the caller's stream; that nobody reads it any more is no failure of ours."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalFileError(f"the output cannot be written: {error.strerror or error}") from None


def _size_of_own(descriptor: int, name: str) -> int:
    """How far a partial is; one that somebody else laid there could be changed by them after it was verified."""
    status = os.fstat(descriptor)
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        os.close(descriptor)
        raise LocalFileError(f"{name} belongs to another user")
    return status.st_size


def _lock(descriptor: int, target: str) -> None:
    """Hold the partial against another get of the same file; the lock goes with the descriptor."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalFileError(f"{display(target)}: another ftpy is fetching it already") from None


def _check_space(descriptor: int, count: int) -> None:
    """Know that the disk is full before the body comes."""
    if hasattr(os, "fstatvfs"):
        status = os.fstatvfs(descriptor)
        if count > status.f_bavail * status.f_frsize:
            raise OSError(28, f"no space for {count:,} bytes")
