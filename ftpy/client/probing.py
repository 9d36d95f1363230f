"""Measuring a line by pings: round trips, and how much passes each way. Nothing is left on any disk."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from ftpy.client.connection import Connection
from ftpy.digests import hexdigest
from ftpy.errors import ProtocolError
from ftpy.wire.ping import PING_BYTES, PingReply, PingRequest

Way = Literal["up", "down"]
FIRST_BYTES = 16 * 1024
"""Of the first ping while throughput is measured: a slow line is not kept busy for long. The next ones have twice as
many each, up to their size."""
MOST_BYTES = 16 * 1024 * 1024
"""Under way at most: what 1.3 Gbit/s have on their way over 100 ms."""


@dataclass(frozen=True, slots=True)
class Flow:
    """So many bytes passed in so many seconds."""

    bytes: int
    seconds: float


def round_trip(connection: Connection) -> float:
    """Seconds for a request without a body and its reply. Raises Unsupported."""
    began = time.perf_counter()
    _check(connection.call(PingRequest(id=connection.next_id()), PingReply), None)
    return time.perf_counter() - began


def flow(connection: Connection, way: Way, *, size: int = PING_BYTES, seconds: float) -> Flow:
    """What passes while pings of up to ``size`` bytes are sent for so long, and until the last of them has come.

    One is under way at first, and one more with each that has come, as TCP begins: so a slow line is not filled with
    more than it carries in about that time. Raises Unsupported, DigestMismatch.
    """
    if not 0 < size <= PING_BYTES:
        raise ValueError(f"a ping has 1 to {PING_BYTES} bytes")
    pinger = _Pinger(connection, way, size)
    most = min(MOST_BYTES // size, connection.welcome.limits.requests)
    under_way: deque[int] = deque()
    window, done, next_size = 1, 0, min(FIRST_BYTES, size)
    began = time.perf_counter()
    while True:
        while len(under_way) < window and (not done or time.perf_counter() - began < seconds):
            pinger.ask(next_size)
            under_way.append(next_size)
        if not under_way:
            return Flow(done, time.perf_counter() - began)
        count = under_way.popleft()
        pinger.hear(count)
        done += count
        window, next_size = min(window + 1, most), min(2 * next_size, size)


class _Pinger:
    """Pings that go one way."""

    def __init__(self, connection: Connection, way: Way, most: int) -> None:
        self._connection, self._way = connection, way
        self._name = connection.part_digest
        self._noise = memoryview(os.urandom(most if way == "up" else 0))

    def ask(self, count: int) -> None:
        """Send one of so many bytes, or for so many."""
        connection, channel = self._connection, self._connection.channel
        up = self._way == "up"
        sizes = {"length": count} if up else {"count": count}
        channel.send(PingRequest(id=connection.next_id(), digest=self._name, **sizes))
        if up:
            body = self._noise[:count]
            channel.send_body(body)
            channel.send_trailer(self._name, hexdigest(self._name, body))

    def hear(self, count: int) -> None:
        """Wait for the oldest one's reply, and what follows it."""
        down = self._way == "down"
        _check(self._connection.wait(PingReply), count if down else None)
        if down:
            channel = self._connection.channel
            if channel.compare_trailer(self._name, hexdigest(self._name, channel.receive_body())) is not None:
                raise ProtocolError("what came back is not what its digest says")


def _check(reply: PingReply, wanted: int | None) -> None:
    if reply.body_length != wanted:
        raise ProtocolError("the server sends another number of bytes than was asked for")
