"""Reading what is in a file without keeping it: in pieces, each verified before anybody sees it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from msgspec import Struct

from ftpy.client.connection import Connection
from ftpy.digests import DigestName, hexdigest, new_hasher
from ftpy.errors import Changed, ConnectionFailed, DigestMismatch, InvalidRequest, NotFound, ProtocolError
from ftpy.files import RemotePath
from ftpy.storage.base import MIB
from ftpy.wire.messages import DigestReply, DigestRequest, GetReply, GetRequest
from ftpy.wire.spelling import path_to_wire

PIECE_BYTES = 8 * MIB
"""Most bytes asked for at a time; held in memory."""
BLOCK_BYTES = 60 * 1024
"""The same of a file that may grow: what a server reads at once, so that it need not stand still for long."""
MOST_BLOCK_BYTES = 2 * MIB
"""What is asked for of it when that has gone well so far; where it did not, the server had to end the connection."""
KNOWN_BYTES = 1024
"""So much before what is new is read again, and tells a file that has grown from one that took its place."""
MOST_CHANGES, CHANGING_SECONDS = 20, 3.0
"""How often the end of a file is looked for while it changes, at least, and for how long: a look takes a
millisecond, and one in sixty needed fifteen of them beside a writer that never rests."""


class Piece(Struct, frozen=True):
    """What a range of a file holds, as the trailer says, too; ``there`` tells of the version that it is of."""

    there: GetReply
    data: bytes


def read_piece(connection: Connection, path: RemotePath, offset: int, count: int, *, etag: str | None = None) -> Piece:
    """Up to ``count`` bytes from ``offset`` on. Raises Changed, DigestMismatch; InvalidRequest behind the end."""
    request = GetRequest(
        id=connection.next_id(), **path_to_wire(path), offset=offset, count=count, etag=etag, digest="blake3"
    )
    reply = connection.call(request, GetReply)
    if (reply.offset, reply.length) != (offset, min(count, reply.file_size - offset)) or etag not in (None, reply.etag):
        raise ProtocolError("the server sends another range or version than the one that was asked for")
    data = bytearray(reply.length)
    connection.channel.receive_into(memoryview(data))
    trailer = connection.channel.receive_trailer()
    if trailer.name != "blake3":
        raise ProtocolError(f"a {trailer.name} trailer where blake3 is due")
    if trailer.hex != hexdigest("blake3", data):
        raise DigestMismatch("the bytes that arrived are not the bytes that were sent")
    return Piece(reply, bytes(data))


class Cat:
    """A range of one version of a file: ``take`` one piece after the other over whatever connection there is.

    The whole file is verified at its end, too, by the digest that the server knows.
    """

    def __init__(self, path: RemotePath, digest: DigestName, offset: int, count: int | None) -> None:
        self._path, self._digest, self._at, self._left = path, digest, offset, count
        self._hasher = new_hasher(digest) if offset == 0 else None
        self._there: GetReply | None = None

    def take(self, connection: Connection) -> bytes:
        """The next piece; nothing at the end. Raises Changed, DigestMismatch, InvalidRequest behind the end."""
        there = self._there
        most = PIECE_BYTES if self._left is None else min(PIECE_BYTES, self._left)
        if there is not None and (most == 0 or self._at >= there.file_size):
            self._check_whole(connection, there)
            return b""
        piece = read_piece(connection, self._path, self._at, most, etag=there.etag if there else None)
        self._there = piece.there
        self._at += len(piece.data)
        if self._left is not None:
            self._left -= len(piece.data)
        if self._hasher is not None:
            self._hasher.update(piece.data)
        return piece.data or self.take(connection)

    def _check_whole(self, connection: Connection, there: GetReply) -> None:
        if self._hasher is None or self._at < there.file_size:
            return  # a range; each piece of it was verified
        known: str | None = getattr(there, self._digest)
        if known is None:
            connection.require(self._digest)
            answer = connection.call(
                DigestRequest(id=connection.next_id(), **path_to_wire(self._path), digest=self._digest), DigestReply
            )
            if answer.etag != there.etag or answer.digest.name != self._digest:
                raise Changed
            known = answer.digest.hex
        if self._hasher.hexdigest() != known:
            raise DigestMismatch("the bytes that arrived are not the bytes that the server knows of")


def _tries() -> Iterator[None]:
    """To look again and again, but not for ever."""
    end = time.monotonic() + CHANGING_SECONDS
    for number in itertools.count():
        if number >= MOST_CHANGES and time.monotonic() > end:
            return
        yield


class Replaced(Exception):
    """What was a file's beginning is not any more: never seen outside of here."""


class Tail:
    """The end of a file, and what comes behind it; the file may grow, be replaced, go and come back."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._at = self._end = 0
        """What comes next, and where the file ended when it was first looked at."""
        self._known: bytes | None = b""
        """What lies before ``_at``, the last KNOWN_BYTES of it; None where nobody has looked yet."""
        self._gone = False
        self._block, self._grows = BLOCK_BYTES, True
        """What is asked for next, and whether that may become more."""

    def seek_bytes(self, connection: Connection, count: int) -> None:
        """To the last ``count`` bytes."""
        self._begin_at(max(0, self._size(connection) - count))

    def seek_lines(self, connection: Connection, count: int) -> None:
        """To the last ``count`` lines; the end of the last line begins none. Raises Changed where none is found."""
        for _ in _tries():
            try:
                self._begin_at(self._find_lines(connection, count))
            except (Changed, InvalidRequest):
                continue
            return
        raise Changed("the file changes all the time")

    def _begin_at(self, offset: int) -> None:
        self._at, self._known = offset, None if offset else b""

    def _size(self, connection: Connection) -> int:
        self._end = read_piece(connection, self._path, 0, 0).there.file_size
        return self._end

    def _find_lines(self, connection: Connection, count: int) -> int:
        size = end = self._size(connection)
        if not count:
            return size
        while end:
            start = max(0, end - self._block)
            data = self._read(connection, start, end - start).data
            if len(data) < end - start:
                raise Changed
            stop = len(data) - (end == size and data.endswith(b"\n"))
            while (stop := data.rfind(b"\n", 0, stop)) >= 0:
                count -= 1
                if not count:
                    return start + stop + 1
            end = start
        return 0

    def _read(self, connection: Connection, offset: int, count: int) -> Piece:
        asked, self._block = self._block, BLOCK_BYTES
        try:
            piece = read_piece(connection, self._path, offset, count)
        except ConnectionFailed:
            self._grows = self._grows and asked == BLOCK_BYTES
            raise
        if self._grows and len(piece.data) >= BLOCK_BYTES:
            self._block = min(2 * asked, MOST_BLOCK_BYTES)
        return piece

    def take(self, connection: Connection) -> bytes:
        """What comes next; nothing where there is no more for now.

        Raises Replaced where what was seen of it is not there any more; InvalidRequest where it is shorter by now.
        """
        before = len(self._known) if self._known is not None else min(KNOWN_BYTES, self._at)
        piece = self._read(connection, self._at - before, before + self._block)
        known, fresh = piece.data[:before], piece.data[before:]
        if len(known) < before or self._known not in (None, known):
            raise Replaced
        self._at += len(fresh)
        self._known = (known + fresh)[-KNOWN_BYTES:]
        return fresh

    def rest(self, connection: Connection) -> bytes:
        """What comes next of what was there at first; nothing at its end. Raises Changed if it is there no more."""
        for _ in _tries():
            if self._at >= self._end:
                return b""
            try:
                data = self.take(connection)
            except Changed:
                continue  # it grew while it was read
            except (Replaced, InvalidRequest):
                break
            if data:
                return data[: len(data) - max(0, self._at - self._end)]
        raise Changed

    def follow(self, connection: Connection) -> tuple[bytes, str]:
        """What comes next, and what is to be said of it: nothing, as long as the file just grows."""
        try:
            data = self.take(connection)
        except NotFound:
            said = "" if self._gone else "it is not there any more; waiting for it"
            self._gone = True
            self._begin_at(0)
            return b"", said
        except (Replaced, InvalidRequest):
            self._begin_at(0)
            return b"", "another file took its place, or it was cut short; from its beginning"
        except Changed:
            return b"", ""  # while it was read: the next look tells
        said = "it is there again" if self._gone else ""
        self._gone = False
        return data, said
