"""How one file gets to the server: small at once, large in parts; resumed wherever it was left."""

from __future__ import annotations

import threading
from typing import Any

from msgspec import Struct

from ftpy.client.connection import MOST_INLINE_BYTES, Connection
from ftpy.client.lines import Lines, check_done
from ftpy.client.parts import Parts, Sending
from ftpy.client.pieces import Gauge
from ftpy.client.results import OnProgress, Progress, Stored
from ftpy.client.source import Source
from ftpy.digests import DigestName, hexdigest
from ftpy.errors import (
    AlreadyExists,
    Changed,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolError,
    UnknownUpload,
)
from ftpy.files import RemotePath
from ftpy.storage.base import Condition, KnownDigest, KnownVersion
from ftpy.wire.fields import MOST_PARTS, digest_of
from ftpy.wire.messages import (
    AbortReply,
    AbortRequest,
    CommitRequest,
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
    PutRequest,
    StoredReply,
    UploadReply,
)
from ftpy.wire.spelling import path_to_wire

FINAL = (AlreadyExists, Changed, InvalidPath, IsADirectory, NotADirectory, PermissionDenied)
"""Refusals that will not change by going on: what was sent of the file is dropped."""


def drop(connection: Connection, upload: str) -> None:
    """Have the server forget what it holds of a put that will never end well; it would expire, but why wait.

    Raises ConnectionFailed, RequestError.
    """
    try:
        connection.call(AbortRequest(id=connection.next_id(), upload=upload), AbortReply)
    except UnknownUpload:
        return  # it has done so itself


class Put(Struct):
    """What the caller wants: where to, verified by which digest, under which condition."""

    path: RemotePath
    digest: DigestName
    condition: Condition
    on_progress: OnProgress
    operation: str | None = None
    tree: str | None = None

    def request(self, request_id: int, **fields: Any) -> PutRequest:
        """The request that begins it."""
        return PutRequest(
            id=request_id,
            **path_to_wire(self.path),
            digest=self.digest,
            **condition_fields(self.condition),
            operation=self.operation,
            tree=self.tree,
            **fields,
        )

    def result(self, reply: StoredReply, size: int, digest: KnownDigest, resumed: int = 0) -> Stored:
        """What the server says it has stored. Raises ProtocolError where that is not what was sent."""
        if (reply.file_size, reply.digest.name, reply.digest.hex) != (size, digest.name, digest.hex):
            raise ProtocolError("the server says that it stored something else than what was sent")
        return Stored(self.path, size, digest, durable=reply.durable, resumed=resumed, etag=reply.etag)

    def found(self, connection: Connection, size: int, mtime_ns: int, digest: KnownDigest) -> bool:
        """Whether the put whose answer was lost has happened.

        The same content is not enough, it may have been there before or be another's: its time must be ours as well.
        """
        try:
            reply = connection.call(
                DigestRequest(id=connection.next_id(), **path_to_wire(self.path), digest=digest.name, tree=self.tree),
                DigestReply,
            )
            if (reply.file_size, reply.digest.name, reply.digest.hex) != (size, digest.name, digest.hex):
                return False
            look = GetRequest(id=connection.next_id(), **path_to_wire(self.path), count=0, etag=reply.etag)
            there = connection.call(look, GetReply)
            if there.length:
                raise ProtocolError("the server sends bytes that nobody asked for")
            connection.channel.receive_trailer()
        except (NotFound, NotAFile, IsADirectory, PermissionDenied, Changed):
            return False
        return there.mtime_ns == mtime_ns


def condition_fields(condition: Condition) -> dict[str, Any]:
    """The fields of a put that spell a condition."""
    if isinstance(condition, KnownVersion):
        return {"etag": condition.etag}
    return {"condition": digest_of(condition.name, condition.hex) if isinstance(condition, KnownDigest) else condition}


class FilePut:
    """One file on its way, over as many connections as it takes: ``send`` over lines that see to lost connections, or
    ``attempt`` with one connection after the other until one succeeds.
    """

    def __init__(self, put: Put, source: Source) -> None:
        self._put = put
        self._source = source
        self._resumed: int | None = None
        self._digest: KnownDigest | None = None
        self._commit_unanswered = False
        self._opening = threading.Lock()
        self._parts: Parts | None = None
        self._is_current = False
        """Whether the server still has what ``_parts`` says: after a lost connection it may have crashed, too."""
        self._gauge = Gauge(lambda done: self._say("sending", done))

    @property
    def stored_bytes(self) -> int:
        """Bytes that the server is known to have; grows, so that whoever retries knows that something moves."""
        return self._gauge.bytes

    def send(self, lines: Lines) -> Stored:
        """Send it over one connection or several. Raises SourceChanged and whatever lines or server raise."""
        if self._source.size > MOST_INLINE_BYTES and not self._commit_unanswered:
            lines.run(self.worker, lambda: self.stored_bytes, self._left)
        return lines.persist(self.attempt, lambda: self.stored_bytes)

    def _left(self) -> int:
        return self._source.size - self.stored_bytes

    def attempt(self, connection: Connection) -> Stored:
        """Send what is missing and commit. Raises SourceChanged and whatever the connection or the server raises."""
        connection.require(self._put.digest)
        if self._commit_unanswered:
            source, digest = self._source, self._digest
            assert digest is not None
            if self._put.found(connection, source.size, source.mtime_ns, digest):
                if self.upload is not None:
                    drop(connection, self.upload)  # where this very file was there before, it may be left
                return Stored(self._put.path, source.size, digest, durable=False, resumed=self._resumed or 0)
        if self._source.size <= connection.inline_bytes:
            return self._at_once(connection)
        self.worker(connection)
        check_done(connection, self._left)
        try:
            return self._finish(connection)
        except BaseException:
            self._is_current = False
            raise

    def _at_once(self, connection: Connection) -> Stored:
        source, put = self._source, self._put
        body = source.read_all()
        source.check_unchanged()
        self._digest = KnownDigest(put.digest, hexdigest(put.digest, body))
        self._say("sending", 0)
        connection.channel.send(
            put.request(
                connection.next_id(),
                file_size=source.size,
                mtime_ns=source.mtime_ns,
                mode=source.mode,
                length=source.size,
            )
        )
        connection.channel.send_body(body)
        connection.channel.send_trailer(put.digest, self._digest.hex)
        self._commit_unanswered = True
        reply = connection.wait(StoredReply)
        self._say("sending", source.size)
        return put.result(reply, source.size, self._digest)

    # ---- parts

    def worker(self, connection: Connection) -> None:
        """Send parts until all are stored, or the connection's ``leaving`` is set; with siblings in other threads."""
        connection.require(self._put.digest)
        parts = self._open(connection)
        sending = Sending(connection, parts, self._source, self._gauge)
        try:
            sending.run()
        except BaseException:
            self._is_current = False
            raise
        finally:
            sending.close()

    def _open(self, connection: Connection) -> Parts:
        """The parts, asked for by the first worker and by the first one after any that failed."""
        with self._opening:
            parts, source = self._parts, self._source
            if parts is not None and self._is_current:
                return parts
            before = parts.stored if parts else set()
            upload = connection.call(
                self._put.request(
                    connection.next_id(), file_size=source.size, mtime_ns=source.mtime_ns, mode=source.mode
                ),
                UploadReply,
            )
            missing = set(_numbers(upload, source.size))
            if parts is None:
                parts = self._parts = Parts(upload.upload, upload.part_size, source.size, missing)
            elif (parts.upload, parts.part_size) == (upload.upload, upload.part_size):
                parts.compare(before, missing)
            else:
                raise UnknownUpload
            for number in parts.stored:
                source.pass_over(*parts.range(number))
            self._gauge.begin(parts.stored_bytes)
            if self._resumed is None:
                self._resumed = parts.stored_bytes
            self._is_current = True
            return parts

    def _finish(self, connection: Connection) -> Stored:
        assert self._parts is not None
        self._say("verifying", 0)
        digest = KnownDigest(self._put.digest, self._source.hexdigest())
        self._source.check_unchanged()
        return self._commit(connection, self._parts.upload, digest)

    def _commit(self, connection: Connection, upload: str, digest: KnownDigest) -> Stored:
        size = self._source.size
        self._digest = digest
        self._commit_unanswered = True

        def on_progress(verified: int) -> None:
            verified = min(verified, size)
            self._say("verifying" if verified < size else "committing", verified)

        reply = connection.call(
            CommitRequest(id=connection.next_id(), upload=upload, digest=digest_of(digest.name, digest.hex)),
            StoredReply,
            on_progress,
        )
        self._say("committing", size)
        return self._put.result(reply, size, digest, self._resumed or 0)

    def answer_lost(self, digest: KnownDigest) -> None:
        """This content was sent already, and its answer lost with a connection."""
        self._digest, self._commit_unanswered = digest, True

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    @property
    def upload(self) -> str | None:
        """What the server holds of it."""
        return self._parts.upload if self._parts is not None else None

    def _say(self, phase: Any, done: int) -> None:
        self._put.on_progress(Progress(phase, done, self._source.size))

    @property
    def resumed(self) -> bool:
        """Whether the server had some of it before this put began."""
        return bool(self._resumed)

    def start_over(self) -> None:
        """Forget what was learnt of an upload that the server has dropped."""
        self._resumed, self._parts = None, None
        self._gauge = Gauge(lambda done: self._say("sending", done))
        self._commit_unanswered = False


def _numbers(upload: UploadReply, size: int) -> list[int]:
    """The parts that the server asks for. Raises ProtocolError for ranges that such an upload cannot have."""
    count = -(-size // upload.part_size)
    if count > MOST_PARTS:
        raise ProtocolError(f"the server wants {count} parts where {MOST_PARTS} are the most")
    due = 0
    numbers: list[int] = []
    for first, last in upload.missing:
        if not due <= first <= last < count:
            raise ProtocolError("the server asks for parts that this file does not have")
        numbers += range(first, last + 1)
        due = last + 1
    return numbers
