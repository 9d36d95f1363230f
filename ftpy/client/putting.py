"""How one file gets to the server: small at once, large in parts; resumed wherever it was left."""

from __future__ import annotations

import select
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, BinaryIO

from ftpy.client.connection import Connection
from ftpy.client.results import OnProgress, Progress, Stored
from ftpy.client.source import Source
from ftpy.digests import DigestName, hexdigest, new_hasher
from ftpy.errors import (
    Changed,
    DigestMismatch,
    IsADirectory,
    LocalFileError,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolError,
)
from ftpy.files import RemotePath
from ftpy.storage.base import Condition, KnownDigest
from ftpy.wire.messages import (
    MOST_PARTS,
    AbortReply,
    AbortRequest,
    CommitRequest,
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
    PartReply,
    PartRequest,
    PutRequest,
    StoredReply,
    UploadReply,
    digest_of,
    trailer_of,
)
from ftpy.wire.spelling import path_to_wire

PARTS_IN_FLIGHT = 4
"""Parts sent but not yet acknowledged: what is sent again after a lost connection, at most."""
MOST_PART_BYTES = 256 * 1024 * 1024
"""Largest part of a stream, bytes: it is held in memory until the server has it."""
PART_TRIES = 3
"""How often a part that arrives broken is sent."""


@dataclass(slots=True)
class Put:
    """What the caller wants: where to, verified by which digest, under which condition."""

    path: RemotePath
    digest: DigestName
    condition: Condition
    on_progress: OnProgress

    def request(self, request_id: int, **fields: Any) -> PutRequest:
        """The request that begins it."""
        wanted = self.condition
        return PutRequest(
            id=request_id,
            **path_to_wire(self.path),
            digest=self.digest,
            condition=digest_of(wanted.name, wanted.hex) if isinstance(wanted, KnownDigest) else wanted,
            **fields,
        )

    def result(self, reply: StoredReply, size: int, digest: KnownDigest, resumed: int = 0) -> Stored:
        """What the server says it has stored. Raises ProtocolError where that is not what was sent."""
        if (reply.file_size, reply.digest.name, reply.digest.hex) != (size, digest.name, digest.hex):
            raise ProtocolError("the server says that it stored something else than what was sent")
        return Stored(self.path, size, digest, durable=reply.durable, resumed=resumed)

    def found(self, connection: Connection, size: int, mtime_ns: int, digest: KnownDigest) -> bool:
        """Whether the put whose answer was lost has happened.

        Under a condition the same content is not enough, another may have put it: its time must be ours as well.
        """
        try:
            reply = connection.call(
                DigestRequest(id=connection.next_id(), **path_to_wire(self.path), digest=digest.name), DigestReply
            )
            if (reply.file_size, reply.digest.name, reply.digest.hex) != (size, digest.name, digest.hex):
                return False
            if self.condition is None:
                return True
            look = GetRequest(id=connection.next_id(), **path_to_wire(self.path), count=0, etag=reply.etag)
            there = connection.call(look, GetReply)
            if there.length:
                raise ProtocolError("the server sends bytes that nobody asked for")
            connection.channel.receive_trailer()
        except (NotFound, NotAFile, IsADirectory, PermissionDenied, Changed):
            return False
        return there.mtime_ns == mtime_ns


class FilePut:
    """One file on its way, over as many connections as it takes; ``attempt`` with each until one succeeds."""

    def __init__(self, put: Put, source: Source) -> None:
        self._put = put
        self._source = source
        self._resumed: int | None = None
        self._digest: KnownDigest | None = None
        self._commit_unanswered = False
        self._upload_id: str | None = None
        self.stored_bytes = 0
        """Bytes that the server is known to have; grows, so that whoever retries knows that something moves."""

    def attempt(self, connection: Connection) -> Stored:
        """Send what is missing and commit. Raises SourceChanged and whatever the connection or the server raises."""
        connection.require(self._put.digest)
        if self._commit_unanswered:
            source, digest = self._source, self._digest
            assert digest is not None
            if self._put.found(connection, source.size, source.mtime_ns, digest):
                return Stored(self._put.path, source.size, digest, durable=False, resumed=self._resumed or 0)
        if self._source.size <= connection.inline_bytes:
            return self._at_once(connection)
        return self._in_parts(connection)

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
        connection.channel.send(trailer_of(put.digest, self._digest.hex))
        self._commit_unanswered = True
        reply = connection.wait(StoredReply)
        self._say("sending", source.size)
        return put.result(reply, source.size, self._digest)

    def _in_parts(self, connection: Connection) -> Stored:
        source = self._source
        upload = connection.call(
            self._put.request(connection.next_id(), file_size=source.size, mtime_ns=source.mtime_ns, mode=source.mode),
            UploadReply,
        )
        missing = _numbers(upload, source.size)
        self.stored_bytes = source.size - sum(self._length(upload, number) for number in missing)
        if self._resumed is None:
            self._resumed = self.stored_bytes
        self._say("sending", self.stored_bytes)
        self._upload_id = upload.upload
        self._send_parts(connection, upload, missing)
        self._say("verifying", 0)
        digest = KnownDigest(self._put.digest, source.hexdigest())
        source.check_unchanged()
        return self._commit(connection, upload, digest)

    def _length(self, upload: UploadReply, number: int) -> int:
        return min(upload.part_size, self._source.size - number * upload.part_size)

    def _send_parts(self, connection: Connection, upload: UploadReply, missing: list[int]) -> None:
        source = self._source
        due = set(missing)
        queue = deque((number, 1) for number in range(-(-source.size // upload.part_size)))
        flying: deque[tuple[int, int]] = deque()
        most = min(PARTS_IN_FLIGHT, connection.welcome.limits.requests)
        while queue or flying:
            if queue and len(flying) < most:
                number, tries = queue.popleft()
                if number not in due:
                    source.pass_over(number * upload.part_size, self._length(upload, number))
                    continue
                flying.append((number, tries))
                self._send_part(connection, upload, number)
            while flying and (len(flying) >= most or not queue or connection.readable()):
                number, tries = flying.popleft()
                try:
                    self._await_part(connection, upload, number)
                except DigestMismatch:
                    if tries >= PART_TRIES:
                        raise
                    queue.append((number, tries + 1))

    def _send_part(self, connection: Connection, upload: UploadReply, number: int) -> None:
        source, channel = self._source, connection.channel
        offset, length = number * upload.part_size, self._length(upload, number)
        name = connection.part_digest
        channel.send(
            PartRequest(id=connection.next_id(), upload=upload.upload, part=number, length=length, digest=name)
        )
        hasher = new_hasher(name)
        for view in source.chunks(offset, length):
            hasher.update(view)
            if channel.sends_files:
                # The kernel hands the file's pages on: one copy less. Should they differ from what was hashed,
                # because the file is being changed, the part is refused.
                channel.send_file(source.fileno(), offset, len(view))
            else:
                channel.send_body(view)
            offset += len(view)
        channel.send(trailer_of(name, hasher.hexdigest()))
        channel.flush()

    def _await_part(self, connection: Connection, upload: UploadReply, number: int) -> None:
        connection.wait(PartReply, lambda done: self._say("sending", self.stored_bytes + done))
        self.stored_bytes += self._length(upload, number)
        self._say("sending", self.stored_bytes)

    def _commit(self, connection: Connection, upload: UploadReply, digest: KnownDigest) -> Stored:
        size = self._source.size
        self._digest = digest
        self._commit_unanswered = True

        def on_progress(verified: int) -> None:
            self._say("verifying" if verified < size else "committing", verified)

        reply = connection.call(
            CommitRequest(id=connection.next_id(), upload=upload.upload, digest=digest_of(digest.name, digest.hex)),
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
    def begun(self) -> bool:
        """Whether the server holds an upload of it."""
        return self._upload_id is not None

    def abandon(self, connection: Connection) -> None:
        """Drop what the server holds of a file that is no longer that file."""
        assert self._upload_id is not None
        connection.call(AbortRequest(id=connection.next_id(), upload=self._upload_id), AbortReply)

    def _say(self, phase: Any, done: int) -> None:
        self._put.on_progress(Progress(phase, done, self._source.size))

    @property
    def resumed(self) -> bool:
        """Whether the server had some of it before this put began."""
        return bool(self._resumed)

    def start_over(self) -> None:
        """Forget what was learnt of an upload that the server has dropped."""
        self._resumed, self._upload_id = None, None
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


class StreamPut:
    """A put of a source of unknown length: part by part, each kept until the server has it; not resumable later."""

    def __init__(self, put: Put, stream: BinaryIO) -> None:
        self._put = put
        self._stream = stream
        self._hasher = new_hasher(put.digest)
        self._upload: UploadReply | None = None
        self._part: memoryview | None = None
        self._number = 0
        self._ended = False
        self._mtime_ns = time.time_ns()
        self._commit_unanswered = False
        self.stored_bytes = 0

    def attempt(self, connection: Connection) -> Stored:
        """Go on where the last connection ended."""
        put = self._put
        connection.require(put.digest)
        if self._upload is None:
            self._upload = connection.call(
                put.request(connection.next_id(), file_size=None, mtime_ns=self._mtime_ns), UploadReply
            )
            if self._upload.part_size > MOST_PART_BYTES:
                raise ProtocolError(f"the server asks for parts of {self._upload.part_size} bytes")
        upload, name = self._upload.upload, connection.part_digest
        while self._part is not None or not self._ended:
            if self._part is None and not self._read(self._upload.part_size):
                break
            part = self._part
            assert part is not None
            connection.channel.send(
                PartRequest(id=connection.next_id(), upload=upload, part=self._number, length=len(part), digest=name)
            )
            connection.channel.send_body(part)
            connection.channel.send(trailer_of(name, hexdigest(name, part)))
            connection.wait(PartReply, lambda done: self._say("sending", self.stored_bytes + done))
            self.stored_bytes += len(part)
            self._number += 1
            self._part = None
            self._say("sending", self.stored_bytes)
        digest = KnownDigest(put.digest, self._hasher.hexdigest())
        if self._commit_unanswered and put.found(connection, self.stored_bytes, self._mtime_ns, digest):
            return Stored(put.path, self.stored_bytes, digest, durable=False)
        self._commit_unanswered = True
        reply = connection.call(
            CommitRequest(
                id=connection.next_id(),
                upload=upload,
                digest=digest_of(digest.name, digest.hex),
                file_size=self.stored_bytes,
            ),
            StoredReply,
            lambda done: self._say("verifying", done),
        )
        return put.result(reply, self.stored_bytes, digest)

    def _read(self, count: int) -> bool:
        """Read the next part, whole unless it is the last; False at the end."""
        buffer = memoryview(bytearray(count))
        held = 0
        while held < count:
            try:
                got = self._stream.readinto(buffer[held:])  # type: ignore[attr-defined]
                if got is None:  # it is non-blocking, and nothing is there yet
                    select.select([self._stream], [], [])
                    continue
            except (OSError, ValueError) as error:
                raise LocalFileError(f"standard input: {getattr(error, 'strerror', None) or error}") from None
            if not got:
                self._ended = True
                break
            held += got
        if held:
            self._part = buffer[:held]
            self._hasher.update(self._part)
        return held > 0

    def _say(self, phase: Any, done: int) -> None:
        self._put.on_progress(Progress(phase, done, None))
