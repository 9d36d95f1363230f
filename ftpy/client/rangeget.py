"""A file fetched in ranges, by one connection or several at once, each range verified as it comes."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

from ftpy.client.connection import Connection
from ftpy.client.partial import Partial, check_space
from ftpy.client.pieces import Gauge, Pieces
from ftpy.client.ranges import RANGE_BYTES, Range, cut, gaps
from ftpy.client.results import OnProgress, Progress
from ftpy.digests import DigestName, new_hasher
from ftpy.errors import DigestMismatch, ProtocolError
from ftpy.files import RemotePath
from ftpy.storage.base import MIB, Closing
from ftpy.storage.following import Follower
from ftpy.storage.positional import read_at, write_at
from ftpy.timing import HASHING
from ftpy.wire.messages import GetReply, GetRequest
from ftpy.wire.spelling import path_to_wire

BUFFER_BYTES = MIB // 4
"""Bytes received and written at a time, on each connection: what a lost one costs at most."""
MOST_RANGES = 100_000
"""Of one file: those of a larger one than 800 GB are longer, so that no size that a server names costs much memory."""
RANGE_TRIES = 3
"""How often a range that arrives broken is fetched."""
LEAST_AHEAD = 2
"""Ranges asked for on one connection at once: while one comes the next is asked for already."""
MOST_AHEAD = 32
"""At most: 256 MiB, which is 200 ms of a line of 10 Gbit/s."""


class RangedGet(Closing):
    """One version of a file, ``there``, on its way into a partial; ``worker`` on each of any number of connections."""

    def __init__(
        self, path: RemotePath, digest: DigestName, there: GetReply, partial: Partial, on_progress: OnProgress
    ) -> None:
        self.path, self.there, self.partial = path, there, partial
        self._digest: DigestName = digest
        self._size = there.file_size
        self._lock = threading.Lock()
        self._tries: Counter[Range] = Counter()
        self._gauge = Gauge(lambda done: on_progress(Progress("receiving", done, self._size)))
        self.journal = partial.use_ranges()
        self._known = self.journal.read(min(self._size, partial.size))
        self.resumed = sum(one.length for one in self._known)
        """Bytes that were here before."""
        self._begin()

    def _begin(self) -> None:
        """Share out what is missing, and hash what is here."""
        missing = gaps(self._known, self._size)
        check_space(self.partial.descriptor, sum(one.length for one in missing))
        self.pieces: Pieces[Range] = Pieces(cut(missing, max(RANGE_BYTES, self._size // MOST_RANGES)))
        descriptor = self.partial.descriptor
        self._follower = Follower(self._digest, lambda at, view: read_at(descriptor, at, view))
        try:
            for one in self._known:
                self._follower.announce(*one)
            self._gauge.begin(sum(one.length for one in self._known))
        except BaseException:
            self._follower.close()  # before the partial, which its thread reads
            raise

    @property
    def received(self) -> int:
        """Bytes written on this side."""
        return self._gauge.bytes

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self._size - self._gauge.bytes

    def worker(self, connection: Connection) -> None:
        """Fetch ranges until all are here, or the connection's ``leaving`` is set; with siblings in other threads."""
        fetching = _Fetching(connection, self)
        try:
            fetching.run()
        finally:
            fetching.close()

    def hexdigest(self) -> str:
        """The digest of the whole, which is here; waits until it is hashed."""
        return self._follower.hexdigest(self._size)

    @property
    def hashed(self) -> int:
        """Bytes hashed so far."""
        return self._follower.position

    def recheck(self) -> int:
        """Forget what is not, or was never known to be, what the server sent: how many bytes are to come again."""
        self._follower.close()
        right = dict(entry for entry in self._known.items() if self._is_here(*entry))
        lost = sum(one.length for one in self._known) - sum(one.length for one in right)
        self._known = right
        self.journal.replace(right)
        self._begin()
        return lost

    def _is_here(self, one: Range, digest: str | None) -> bool:
        if digest is None:
            return False
        hasher = new_hasher("blake3")
        buffer = memoryview(bytearray(MIB))
        at = one.offset
        while at < one.end:
            view = buffer[: min(len(buffer), one.end - at)]
            if read_at(self.partial.descriptor, at, view) != len(view):
                return False
            hasher.update(view)
            at += len(view)
        return hasher.hexdigest() == digest

    def close(self) -> None:
        """End the hashing, close the partial, which stays for the next get."""
        self._follower.close()
        self.partial.close()

    # ---------------------------------------------------------------- for the connections

    def request(self, connection: Connection, piece: Range) -> GetRequest:
        """What asks for a range of this very version."""
        # BLAKE3 is what a range's trailer is; named, it is also that of a range which is the whole.
        return GetRequest(
            id=connection.next_id(),
            **path_to_wire(self.path),
            offset=piece.offset,
            count=piece.length,
            etag=self.there.etag,
            digest="blake3",
        )

    def check(self, reply: GetReply, piece: Range) -> None:
        """Raises ProtocolError unless the server sends what was asked for."""
        if (reply.offset, reply.length, reply.file_size) != (*piece, self._size) or reply.etag != self.there.etag:
            raise ProtocolError("the server sends another range or version than the one that was asked for")

    def moved(self, piece: Range, count: int) -> None:
        """So many bytes of a range are written."""
        self._gauge.partly(piece, count)

    def came(self, piece: Range, digest: str | None, *, part_of: Range | None = None) -> None:
        """A range is written; ``digest`` None: only a part of one, and not verified on its own."""
        with self._lock:
            self.journal.append(piece, digest)
            self._known[piece] = digest
        self._follower.announce(*piece)
        self._gauge.done(part_of or piece, piece.length)

    def broken(self, piece: Range) -> bool:
        """A range arrived broken: whether it may be fetched once more."""
        self._gauge.dropped(piece)
        with self._lock:
            self._tries[piece] += 1
            return self._tries[piece] < RANGE_TRIES


class _Fetching:
    """Ranges on their way over one connection: several asked for, one coming."""

    def __init__(self, connection: Connection, ranged: RangedGet) -> None:
        self._connection, self._ranged = connection, ranged
        self._asked: deque[Range] = deque()
        self._written = 0
        self._ahead = _Ahead(connection)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def run(self) -> None:
        """Fetch until nothing is left to be fetched by anybody."""
        asked, leaving, pieces = self._asked, self._connection.leaving, self._ranged.pieces
        while True:
            while len(asked) < self._ahead.ranges:
                piece = pieces.take(leaving, wait=not asked)
                if piece is None:
                    break
                asked.append(piece)
                self._connection.channel.send(self._ranged.request(self._connection, piece))
            if not asked:
                return
            self._receive(asked[0])

    def _receive(self, piece: Range) -> None:
        ranged, channel = self._ranged, self._connection.channel
        ranged.check(self._connection.wait(GetReply), piece)
        hasher = new_hasher("blake3")
        while self._written < piece.length:
            view = self._buffer[: min(len(self._buffer), piece.length - self._written)]
            channel.receive_into(view)
            with HASHING:
                hasher.update(view)
            write_at(ranged.partial.descriptor, piece.offset + self._written, view)
            self._written += len(view)
            ranged.moved(piece, self._written)
        trailer = channel.receive_trailer()
        self._written = 0
        if (trailer.name, trailer.hex) == ("blake3", hasher.hexdigest()):
            ranged.came(piece, trailer.hex)
            ranged.pieces.done(piece)
        elif ranged.broken(piece):
            ranged.pieces.give_back(piece)
        else:
            raise DigestMismatch("a range arrived broken, time after time")
        self._asked.popleft()
        self._ahead.came(piece.length)

    def close(self) -> None:
        """Give back what has not come; what has come of a range is kept."""
        try:
            if self._written:
                self._keep(self._asked[0])
        finally:
            self._ranged.pieces.give_back(*self._asked)

    def _keep(self, piece: Range) -> None:
        here = Range(piece.offset, self._written)
        self._ranged.came(here, None, part_of=piece)
        self._asked.popleft()
        if here == piece:
            self._ranged.pieces.done(piece)
        else:
            self._ranged.pieces.give_back(piece, rest=Range(here.end, piece.end - here.end))


class _Ahead:
    """How many ``ranges`` to have asked for: what comes within two round trips, beside the one that is coming.

    So a slow connection takes little upon itself, and a fast one on a long line never waits for its next range.
    """

    def __init__(self, connection: Connection) -> None:
        self._round_trip_seconds = connection.round_trip_seconds
        self._most = min(MOST_AHEAD, connection.welcome.limits.requests)
        self._last = time.monotonic()
        self.ranges = min(LEAST_AHEAD, self._most)

    def came(self, count: int) -> None:
        """So many bytes more have come."""
        now = time.monotonic()
        rate = count / max(now - self._last, 1e-6)
        self._last = now
        self.ranges = min(self._most, LEAST_AHEAD + int(2 * self._round_trip_seconds * rate / RANGE_BYTES))
