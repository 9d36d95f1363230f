#!/usr/bin/env python3
"""A long line on one machine: a proxy that passes TCP on late, and loses nothing.

    longline.py --to 127.0.0.1:7421 --rtt 0.1                     100 ms there and back, as wide as the machine is
    longline.py --to 127.0.0.1:7421 --rtt 0.1 --window 2097152    at most 2 MiB under way, a connection and direction

Its own address is the one line on standard output. What it models, for a line that takes ``rtt`` there and back:

* A byte arrives half a round trip after it was sent, in order; ends and resets of a connection as well.
* A window of W bytes: a sender has at most W bytes under way that the other end has not acknowledged, and an
  acknowledgement takes half a round trip, too. So one connection moves at most W bytes in a round trip, whatever it
  does; that is what a TCP window means.
* Setting a connection up takes one round trip before its first byte leaves. The client's system says earlier that it
  is connected, so what it sends until then waits here; the server hears of it after one and a half.
* ``rate``: bytes a second in each direction, divided among all connections.

One thread and ``select``: a timer of the kernel's ``epoll`` counts whole milliseconds, which is much of a short line.
"""

from __future__ import annotations

import argparse
import enum
import math
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

CHUNK = 1024 * 1024
"""Bytes to read at once: fewer calls, and still in a processor's cache when they are passed on at once."""
SMALL = 64 * 1024
"""Bytes from which a chunk keeps the buffer it was read into; what is less is copied out of it."""
WIDE = 256 * 1024 * 1024
"""Bytes under way at most where no window is set: 2.6 GB/s at 100 ms, more than loopback moves."""
IDLE_SECONDS = 1.0
"""How long to sleep when nothing is on its way."""
ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() a reset."""


class Kind(enum.Enum):
    """What travels."""

    DATA = enum.auto()
    END = enum.auto()
    RESET = enum.auto()


@dataclass(slots=True)
class Chunk:
    """Something on its way, and the moment when it arrives."""

    due: float
    kind: Kind
    view: memoryview
    buffer: bytearray | None = None


@dataclass(slots=True)
class Lane:
    """One direction of the line, shared by all connections: when its end is free for the next byte."""

    free_at: float = 0.0


@dataclass(eq=False, slots=True)
class Passage:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    lane: Lane
    opened: float
    """No byte leaves before."""
    queue: deque[Chunk] = field(default_factory=deque)
    acknowledgements: deque[tuple[float, int]] = field(default_factory=deque)
    under_way: int = 0
    """Bytes that were read here and whose acknowledgement has not arrived."""
    reading: bool = True
    blocked: bool = False
    """The sink takes no more just now."""
    over: bool = False
    """The end, or a reset, was passed on."""


@dataclass(eq=False, slots=True)
class Connection:
    """A client's connection, ours to the target, and both directions."""

    client: socket.socket
    server: socket.socket
    connect_at: float
    up: Passage
    down: Passage
    connected: bool = False

    def passages(self) -> tuple[tuple[Passage, Passage], ...]:
        """Each direction with the other one."""
        return (self.up, self.down), (self.down, self.up)


class LongLine:
    """The proxy; ``step`` it for ever. ``clock`` is in seconds."""

    def __init__(
        self,
        target: tuple[str, int],
        rtt: float,
        window: int = WIDE,
        rate: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rtt, self.window = rtt, window
        self._target, self._rate, self._clock = target, rate, clock
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()
        self.connections: list[Connection] = []
        self._lanes = Lane(), Lane()
        self._buffers: list[bytearray] = []

    def close(self) -> None:
        """Give up the port and all connections."""
        for connection in self.connections:
            connection.client.close()
            connection.server.close()
        self._listener.close()

    def step(self, longest: float = IDLE_SECONDS) -> None:
        """Pass on what is due, wait until something can be done, at most ``longest`` seconds, and read."""
        wait = min(longest, max(0.0, self._deliver() - self._clock()))
        readers: dict[socket.socket, tuple[Passage, Passage]] = {}
        writers: dict[socket.socket, Passage] = {}
        for connection in self.connections:
            for passage, back in connection.passages():
                listens = connection.connected or passage is connection.up
                if passage.reading and listens and passage.under_way < self.window:
                    readers[passage.source] = passage, back
                if passage.blocked:
                    writers[passage.sink] = passage
        readable, writable, _ = select.select([self._listener, *readers], writers, (), wait)
        for sink in writable:
            writers[sink].blocked = False
        for source in readable:
            if source is self._listener:
                self._accept()
            else:
                self._read(*readers[source])

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # it left before it was accepted
            return
        server = socket.socket()
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        now, (up, down) = self._clock(), self._lanes
        opened = now + self.rtt
        self.connections.append(
            Connection(
                client,
                server,
                opened + self.rtt / 2,
                Passage(client, server, up, opened),
                Passage(server, client, down, opened),
            )
        )

    def _read(self, passage: Passage, back: Passage) -> None:
        buffer = self._buffers.pop() if self._buffers else bytearray(CHUNK)
        room = min(CHUNK, self.window - passage.under_way)
        try:
            count = passage.source.recv_into(buffer, room)
        except (BlockingIOError, InterruptedError):
            self._buffers.append(buffer)
            return
        except OSError:
            self._buffers.append(buffer)
            self._break(passage, back)
            return
        if count < SMALL:
            self._send(passage, Kind.DATA if count else Kind.END, memoryview(bytes(buffer[:count])))
            self._buffers.append(buffer)
        else:
            self._send(passage, Kind.DATA, memoryview(buffer)[:count], buffer)
        passage.reading = count > 0
        passage.under_way += count

    def _send(self, passage: Passage, kind: Kind, view: memoryview, buffer: bytearray | None = None) -> None:
        """Put something on its way."""
        passage.lane.free_at = max(self._clock(), passage.lane.free_at) + len(view) / self._rate
        due = max(passage.lane.free_at, passage.opened) + self.rtt / 2
        passage.queue.append(Chunk(due, kind, view, buffer))

    def _break(self, passage: Passage, back: Passage) -> None:
        """The source of ``passage`` is gone: its other side hears of it when the line has carried it there."""
        passage.reading = back.reading = back.blocked = False
        back.queue.clear()
        passage.over, back.over = False, True
        self._send(passage, Kind.RESET, memoryview(b""))

    def _deliver(self) -> float:
        """Pass on what is due: the moment when the next is."""
        now, following = self._clock(), math.inf
        for connection in self.connections[:]:
            if not connection.connected:
                if connection.connect_at > now:
                    following = min(following, connection.connect_at)
                    continue
                connection.server.connect_ex(self._target)  # what becomes of it is seen on the first read
                connection.connected = True
            for passage, back in connection.passages():
                following = min(following, self._deliver_passage(passage, back, now))
            if connection.up.over and connection.down.over:
                connection.client.close()
                connection.server.close()
                self.connections.remove(connection)
        return following

    def _deliver_passage(self, passage: Passage, back: Passage, now: float) -> float:
        acknowledgements, queue = passage.acknowledgements, passage.queue
        while acknowledgements and acknowledgements[0][0] <= now:
            passage.under_way -= acknowledgements.popleft()[1]
        while queue and queue[0].due <= now and not passage.blocked:
            chunk = queue[0]
            try:
                self._arrive(passage, back, chunk)
            except (BlockingIOError, InterruptedError):
                passage.blocked = True
                break
            except OSError:
                self._break(back, passage)
                break
            if not chunk.view:
                queue.popleft()
                if chunk.buffer is not None:
                    self._buffers.append(chunk.buffer)
        following = acknowledgements[0][0] if acknowledgements else math.inf
        return min(following, queue[0].due) if queue and not passage.blocked else following

    def _arrive(self, passage: Passage, back: Passage, chunk: Chunk) -> None:
        """Give a chunk, or as much of it as is taken, to the sink. Raises OSError."""
        if chunk.kind is Kind.DATA:
            count = passage.sink.send(chunk.view)
            chunk.view = chunk.view[count:]
            passage.acknowledgements.append((self._clock() + self.rtt / 2, count))
            return
        passage.over = True
        if chunk.kind is Kind.END:
            passage.sink.shutdown(socket.SHUT_WR)
        else:
            passage.sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            back.over = True  # closing it is the reset


def parse_address(text: str) -> tuple[str, int]:
    """``127.0.0.1:7421``."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=parse_address, required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("--rtt", type=float, default=0.1, metavar="SECONDS", help="there and back (0.1)")
    parser.add_argument("--window", type=int, default=WIDE, metavar="BYTES", help="under way, a connection (wide)")
    parser.add_argument("--rate", type=float, default=math.inf, metavar="BYTES", help="a second (no limit)")
    chosen = parser.parse_args(argv)
    line = LongLine(chosen.to, chosen.rtt, chosen.window, chosen.rate)
    print("{}:{}".format(*line.address), flush=True)
    try:
        while True:
            line.step()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
