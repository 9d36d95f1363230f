"""A proxy for thousands of cases one after the other: exact to the byte, quick, and it keeps what passed."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from ftpy.transport import tls
from tests.rig import Fault, Faults, Host, Proxy

PASS = (Fault(), Fault())
RECEIVE_BYTES = 256 * 1024
WAIT_SECONDS = 20.0
"""Longer than any case lasts: what takes so long hangs."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 seconds: close sends RST instead of FIN (socket(7))."""

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
"""To be the server towards the client, and the client towards the server."""


def contexts_of(host: Host) -> Contexts:
    """With the server's own certificate."""
    return tls.server_context(host.config.certificate, host.config.private_key), tls.client_context()


@dataclass
class Passage:
    """One connection: what each end sent, up and down, before any fault, and whether its fault has come about."""

    sent: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    fired: bool = False


class _Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, fault: Fault, sent: bytearray) -> None:
        self.source, self.sink, self._sent = source, sink, sent
        self._fault = fault
        self.armed = fault.what != "none"

    @property
    def due(self) -> str:
        """What is to happen now, before another byte passes; empty: nothing, or a flip, which takes the next byte."""
        due = self.armed and len(self._sent) == self._fault.after
        return self._fault.what if due and self._fault.what != "flip" else ""

    def forward(self) -> int:
        """Pass on what has come, up to where a fault is due: how many bytes, 0 at the end. Raises OSError."""
        left = self._fault.after - len(self._sent) if self.armed else RECEIVE_BYTES
        data = bytearray(self.source.recv(min(left or 1, self._fault.slice_bytes, RECEIVE_BYTES)))
        self._sent += data
        if self.armed and data and left == 0:
            data[0] ^= 1 << self._fault.bit
            self.armed = False
        self.sink.sendall(data)
        return len(data)


class Breaker(Proxy):
    """Passes on both ways of a connection in one thread; ``arm`` tells the faults of the next case.

    With ``contexts`` it ends TLS on either side, so that faults are counted in the bytes within: a half-close comes
    with TLS's own farewell (close_notify), as from a peer that means it.
    """

    def __init__(self, target: str, contexts: Contexts | None = None) -> None:
        self.passages: list[Passage] = []
        self._contexts = contexts
        self._released = threading.Event()
        super().__init__(target, PASS)

    def arm(self, *faults: Faults) -> None:
        """The faults of the connections from now on, the last for good; earlier ones end."""
        self.settle()
        self._faults = list(faults)
        self._released.clear()
        self.by_connection.clear()
        self.passages.clear()

    def settle(self) -> None:
        """Let all connections end, those that stall too."""
        self._released.set()
        accepting, *relays = self._threads
        for thread in relays:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "a connection through the proxy does not end"
        self._threads[:] = [accepting]
        self._open.clear()

    @property
    def fired(self) -> bool:
        """Whether any fault has come about since ``arm``."""
        return any(passage.fired for passage in self.passages)

    def _pass_on(self, client: socket.socket, server: socket.socket, faults: Faults, _: list[int]) -> None:
        passage = Passage()
        self.passages.append(passage)
        self._spawn(self._relay, client, server, faults, passage)

    def _relay(self, client: socket.socket, server: socket.socket, faults: Faults, passage: Passage) -> None:
        with contextlib.ExitStack() as opened:
            try:
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    end.settimeout(WAIT_SECONDS)
                if self._contexts is not None:
                    client = self._contexts[0].wrap_socket(client, server_side=True)
                    server = self._contexts[1].wrap_socket(server)
                ends = opened.enter_context(client), opened.enter_context(server)
                self._both_ways(
                    [_Way(ends[way], ends[1 - way], faults[way], passage.sent[way]) for way in (0, 1)], passage
                )
            except (OSError, ValueError):  # ValueError: an SSL socket that is shut down
                for end in (client, server):
                    _shut_down(end)
                    end.close()

    def _both_ways(self, ways: list[_Way], passage: Passage) -> None:
        while ways:
            for way in [way for way in ways if way.due]:
                passage.fired = True
                ways.remove(way)
                if not self._happen[way.due](self, way):
                    return
            for way in _ready(ways):
                before = way.armed
                if not way.forward():
                    _end(way.sink)
                    ways.remove(way)
                passage.fired |= before and not way.armed
                if way.due:
                    break

    # ---- what can happen: whether the other way goes on

    def _cut(self, way: _Way) -> bool:
        for end in (way.source, way.sink):
            _shut_down(end)
        return False

    def _reset(self, way: _Way) -> bool:
        for end in (way.source, way.sink):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return False

    def _half_close(self, way: _Way) -> bool:
        _end(way.sink)
        return True

    def _stall(self, way: _Way) -> bool:
        """Nothing more moves, either way: a line that is dead does not even tell that an end has gone."""
        self._released.wait(WAIT_SECONDS)
        return False

    _happen: ClassVar[dict[str, Callable[[Breaker, _Way], bool]]] = {
        "cut": _cut,
        "reset": _reset,
        "half-close": _half_close,
        "stall": _stall,
    }


def _ready(ways: list[_Way]) -> list[_Way]:
    """The ways on which something has come; none when a case takes too long."""
    held = [way for way in ways if isinstance(way.source, ssl.SSLSocket) and way.source.pending()]
    if held:
        return held
    ready = select.select([way.source for way in ways], [], [], WAIT_SECONDS)[0]
    if ways and not ready:
        raise TimeoutError
    return [way for way in ways if way.source in ready]


def _end(sock: socket.socket) -> None:
    """End our half, within TLS by its own farewell first."""
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(0)
        with contextlib.suppress(OSError):  # it is said; what the peer says to it is not waited for
            sock.unwrap()
        socket.socket.shutdown(sock, socket.SHUT_WR)
        return
    sock.shutdown(socket.SHUT_WR)


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
