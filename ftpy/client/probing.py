"""Measuring a line by pings: round trips, and how much passes each way. Nothing is left on any disk."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Literal

from ftpy.client.connection import Connection
from ftpy.digests import hexdigest
from ftpy.errors import ProtocolError
from ftpy.wire.ping import PING_BYTES, PingReply, PingRequest

Way = Literal["up", "down"]
SIZE = 64 * 1024
"""Bytes of one ping while throughput is measured: few enough that a slow line is not kept busy for long."""
MOST_WINDOW = 256
"""Pings under way at most: 16 MiB with SIZE, what 1.3 Gbit/s have on their way over 100 ms."""


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


def flow(connection: Connection, way: Way, *, size: int = SIZE, seconds: float) -> Flow:
    """What passes while pings of ``size`` bytes are sent for so long, and until the last of them has come.

    One is under way at first, and one more with each that has come, as TCP begins: so a slow line is not filled with
    more than it carries in about that time. Raises Unsupported, DigestMismatch.
    """
    if not 0 < size <= PING_BYTES:
        raise ValueError(f"a ping has 1 to {PING_BYTES} bytes")
    pinger = _Pinger(connection, way, size)
    most = min(MOST_WINDOW, connection.welcome.limits.requests)
    under_way, window, done = 0, 1, 0
    began = time.perf_counter()
    while True:
        while under_way < window and (not done or time.perf_counter() - began < seconds):
            pinger.ask()
            under_way += 1
        if not under_way:
            return Flow(done, time.perf_counter() - began)
        pinger.hear()
        under_way -= 1
        done += size
        window = min(window + 1, most)


class _Pinger:
    """Pings of one size that go one way."""

    def __init__(self, connection: Connection, way: Way, size: int) -> None:
        self._connection, self._way, self._size = connection, way, size
        self._name = connection.part_digest
        self._body = os.urandom(size) if way == "up" else b""
        self._digest = hexdigest(self._name, self._body)

    def ask(self) -> None:
        """Send one."""
        connection, channel = self._connection, self._connection.channel
        length, count = (self._size, None) if self._way == "up" else (None, self._size)
        channel.send(PingRequest(id=connection.next_id(), length=length, count=count, digest=self._name))
        if length is not None:
            channel.send_body(self._body)
            channel.send_trailer(self._name, self._digest)

    def hear(self) -> None:
        """Wait for the oldest one's reply, and what follows it."""
        wanted = None if self._way == "up" else self._size
        _check(self._connection.wait(PingReply), wanted)
        if wanted is not None:
            channel = self._connection.channel
            if channel.compare_trailer(self._name, hexdigest(self._name, channel.receive_body())) is not None:
                raise ProtocolError("what came back is not what its digest says")


def _check(reply: PingReply, wanted: int | None) -> None:
    if reply.body_length != wanted:
        raise ProtocolError("the server sends another number of bytes than was asked for")
