"""The parts of an upload, and how one connection of several sends them."""

from __future__ import annotations

import contextlib
from collections import Counter, deque

from ftpy.client.connection import Connection
from ftpy.client.pieces import Gauge, Pieces
from ftpy.client.source import Source
from ftpy.digests import new_hasher
from ftpy.errors import Busy, DigestMismatch
from ftpy.timing import HASHING
from ftpy.wire.messages import PartReply, PartRequest

BYTES_IN_FLIGHT = 64 * 1024 * 1024
"""Bytes sent on one connection and not yet acknowledged: what 100 ms of a line of 5 Gbit/s hold. It costs no memory
here, and nothing is sent twice for it: after a lost connection the server is asked what it has."""
LEAST_IN_FLIGHT = 2
"""Parts, however large: while one is acknowledged another is on its way."""
MOST_HEARD = 64
"""Messages taken in between two pieces that are sent: a server that talks without end does not keep us from sending."""
PART_TRIES = 3
"""How often a part that arrives broken is sent."""


class Parts(Pieces[int]):
    """The parts of one upload by their numbers, shared by the connections that send them. Safe in any thread."""

    def __init__(self, upload: str, part_size: int, size: int, missing: set[int]) -> None:
        super().__init__(missing)
        self.upload, self.part_size, self._size = upload, part_size, size
        self._tries: Counter[int] = Counter()
        self._stored = set(range(-(-size // part_size))) - missing

    def range(self, number: int) -> tuple[int, int]:
        """Where a part begins and how long it is, bytes."""
        offset = number * self.part_size
        return offset, min(self.part_size, self._size - offset)

    @property
    def stored(self) -> set[int]:
        """Those that the server has, as far as is known: a copy."""
        with self._changed:
            return self._stored.copy()

    @property
    def stored_bytes(self) -> int:
        """Their bytes."""
        return sum(self.range(number)[1] for number in self.stored)

    def done(self, piece: int) -> None:
        """The server has stored it."""
        with self._changed:
            self._stored.add(piece)
            super().done(piece)

    def broken(self, number: int) -> bool:
        """It arrived broken and is to be sent again, alone: whether it may be tried once more."""
        with self._changed:
            self._tries[number] += 1
            self.give_back(number)
            return self._tries[number] < PART_TRIES

    def compare(self, before: set[int], missing: set[int]) -> None:
        """The server says what is ``missing``, asked after ``before`` were stored: a crash may have cost it some."""
        with self._changed:
            self._stored -= before & missing
            through = set(range(-(-self._size // self.part_size))) - missing
            self._stored |= through - self._out
            self.revise(lost=before & missing, through=through)


class Sending:
    """Parts on their way over one connection: sent one after the other, several not yet acknowledged."""

    def __init__(self, connection: Connection, parts: Parts, source: Source, gauge: Gauge) -> None:
        self._connection, self._parts, self._source, self._gauge = connection, parts, source, gauge
        most = max(LEAST_IN_FLIGHT, BYTES_IN_FLIGHT // parts.part_size)
        self._most = min(most, connection.welcome.limits.requests)
        self._flying: deque[int] = deque()
        self._busy: dict[int, Busy] = {}

    def run(self) -> None:
        """Send until there is nothing left to be sent by anybody."""
        flying, leaving = self._flying, self._connection.leaving
        while True:
            while len(flying) < self._most:
                number = self._parts.take(leaving, wait=not flying)
                if number is None:
                    break
                if number in self._busy and flying:
                    self._parts.put_off(number)
                    break
                flying.append(number)
                if number in self._busy:  # and there is nothing else to do meanwhile
                    raise self._busy[number]
                self._send(number)
            if not flying:
                return
            self._hear()

    def close(self) -> None:
        """Give back what was not acknowledged."""
        for number in self._flying:
            self._gauge.dropped(number)
        self._parts.give_back(*self._flying)

    def _send(self, number: int) -> None:
        source, channel = self._source, self._connection.channel
        offset, length = self._parts.range(number)
        name = self._connection.part_digest
        channel.send(
            PartRequest(
                id=self._connection.next_id(), upload=self._parts.upload, part=number, length=length, digest=name
            )
        )
        hasher = new_hasher(name)
        with contextlib.closing(source.chunks(offset, length)) as views:
            for view in views:
                with HASHING:
                    hasher.update(view)
                if channel.sends_files:
                    # The kernel hands the file's pages on: one copy less. Should they differ from what was hashed,
                    # because the file is being changed, the part is refused.
                    channel.send_file(source.fileno(), offset, len(view))
                else:
                    channel.send_body(view)
                offset += len(view)
                self._hear_what_is_there()
        channel.send_trailer(name, hasher.hexdigest())
        channel.flush()
        self._hear_what_is_there()

    def _hear_what_is_there(self) -> None:
        for _ in range(MOST_HEARD):
            if not self._flying or not self._connection.readable():
                return
            self._hear()

    def _hear(self) -> None:
        """One message: the oldest part's reply, or how much of it the server has."""
        number = self._flying[0]
        length = self._parts.range(number)[1]
        try:
            reply = self._connection.hear(PartReply, lambda done: self._gauge.partly(number, min(done, length)))
        except DigestMismatch:
            self._flying.popleft()
            self._gauge.dropped(number)
            if not self._parts.broken(number):
                raise
        except Busy as error:  # whoever lost the connection that it was sent on has not been missed yet
            self._flying.popleft()
            self._parts.put_off(number)
            self._busy[number] = error
        else:
            if reply is not None:
                self._flying.popleft()
                self._parts.done(number)
                self._gauge.done(number, length)
