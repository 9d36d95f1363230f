"""How what has no length yet gets to the server: part by part, as it is read."""

from __future__ import annotations

import select
import time
from functools import partial
from typing import Any, BinaryIO

from ftpy.client.connection import Connection
from ftpy.client.putting import Put
from ftpy.client.results import Progress, Stored
from ftpy.digests import hexdigest, new_hasher
from ftpy.errors import LocalFileError, ProtocolError
from ftpy.storage.base import KnownDigest
from ftpy.wire.fields import digest_of
from ftpy.wire.messages import CommitRequest, PartReply, PartRequest, StoredReply, UploadReply

MOST_PART_BYTES = 256 * 1024 * 1024
"""Largest part of a stream, bytes: it is held in memory until the server has it."""


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

    @property
    def upload(self) -> str | None:
        """What the server holds of it."""
        return self._upload.upload if self._upload is not None else None

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
            connection.channel.send_trailer(name, hexdigest(name, part))
            connection.wait(PartReply, partial(self._say_stored, len(part)))
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
            lambda done: self._say("verifying", min(done, self.stored_bytes)),
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

    def _say_stored(self, most: int, done: int) -> None:
        self._say("sending", self.stored_bytes + min(done, most))

    def _say(self, phase: Any, done: int) -> None:
        self._put.on_progress(Progress(phase, done, None))
