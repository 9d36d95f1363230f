"""How one file gets into a stream of the caller's: written as it comes, and verified at its end."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

from ftpy.client.connection import Connection
from ftpy.client.getting import Get, mismatch
from ftpy.client.results import Fetched
from ftpy.digests import new_hasher
from ftpy.errors import LocalFileError
from ftpy.storage.base import KnownDigest
from ftpy.storage.following import CHUNK_BYTES


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
            raise mismatch()
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
