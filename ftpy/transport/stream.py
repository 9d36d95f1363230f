"""One connected socket, plain or TLS: whole headers in, whole buffers out, one timeout for silence.

A timeout here is a length of *silence*: any byte that moves starts it anew. A limit over several steps is a
``Deadline``. Raises only ConnectionLost, Stalled and ProtocolError.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from ftpy.errors import ConnectionLost, ProtocolError, Stalled, Translating
from ftpy.timing import Activity, Moving
from ftpy.transport.deadline import Deadline
from ftpy.transport.kernel import LineTimes, line_times
from ftpy.transport.pace import LeastPace, Pace
from ftpy.wire.framing import HEADER_BYTES, FrameBuffer

TLS_SEND_BYTES = 256 * 1024
"""Bytes handed to one TLS send, which is all or nothing: this bounds what must move within the silence limit."""
SENDFILE_BYTES = 2**30
"""Bytes handed to one sendfile."""
TICK_SECONDS = 0.5
"""A system call that moves body bytes returns what has moved after this long, however much was asked for."""
LISTEN_SECONDS = 0.05
"""How long a send that is blocked lets a peer wait which, before it reads on, wants to be read itself."""
HEARD_BYTES = 8 * 1024 * 1024
"""Received ahead at most by a stream that listens while it sends, bytes: the replies to all that may be under way."""
JIFFY_SECONDS = 0.02
"""A kernel may count its ticks that much too short."""
_KERNEL_WAITS = os.name == "posix"
"""Whether SO_RCVTIMEO and SO_SNDTIMEO take a timeval: then the kernel waits and fills whole buffers by itself."""


class _translated(Translating):  # noqa: N801  (reads as a statement: with _translated())
    """The one place where a socket's OSError becomes ours."""

    __slots__ = ()

    def translate(self, error: BaseException) -> None:
        if isinstance(error, (TimeoutError, BlockingIOError)):
            raise Stalled from None
        if isinstance(error, OSError) and hasattr(error, "reason"):  # an SSLError
            if error.reason == "MALLOC_FAILURE":
                raise MemoryError from error
            raise ConnectionLost(f"the encrypted connection failed: {error.reason or error}") from error
        if isinstance(error, (OSError, ValueError)):  # ValueError: an SSL socket that another thread shut down
            raise ConnectionLost(f"the connection was lost: {getattr(error, 'strerror', None) or error}") from error


class Stream:
    """A connected socket and the bytes received ahead of their use.

    One that ``listens`` takes in what comes while its own sends are blocked: who pipelines requests must, or both
    ends could wait for ever to be read. It also counts as a sign of life. One with a ``pace`` keeps it both ways, and
    one with a ``least`` pace expects that of its peer: in the middle of headers and bodies, not before a header.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        silence_seconds: float,
        listens: bool = False,
        pace: Pace | None = None,
        least: LeastPace | None = None,
    ) -> None:
        self._sock = sock
        self._tls = hasattr(sock, "selected_alpn_protocol")  # an SSLSocket; ssl is only imported where it is used
        self._listens = listens
        self._least = least
        self.keep(pace)
        processor: Activity = "encryption" if self._tls else "copying"
        self._sending, self._receiving = Moving("sending", processor), Moving("receiving", processor)
        self._buffer = FrameBuffer(HEARD_BYTES) if listens else FrameBuffer()
        self.held_header = self._buffer.next_header
        """The next header of at most so many bytes, if all of it is here already."""
        self._silence = silence_seconds
        self._deadline: Deadline | None = None
        self._armed: dict[int, float] = {}
        self.moved = 0
        """Bytes that passed so far, both ways."""
        self.unsent = 0
        """Bytes of the file that is being sent which have not left yet."""
        # An SSL socket takes a kernel's timeout for "try again" and would do so for ever.
        self._kernel_waits = _KERNEL_WAITS and not self._tls and _takes_timeval(sock)
        if self._kernel_waits:
            sock.settimeout(None)
        if sock.family != getattr(socket, "AF_UNIX", None):
            with _translated():
                # Frames are joined before they are sent; waiting for more would only delay the last.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def keep(self, pace: Pace | None) -> None:
        """Keep this pace from now on."""
        self._pace = pace
        self._most = pace.slice_bytes if pace else sys.maxsize
        """Bytes that one system call may move."""

    def settle(self) -> None:
        """Nothing more passes here: who keeps the pace for several streams is told of the last bytes."""
        if self._pace is not None:
            self._pace.settle()

    def fileno(self) -> int:
        """Its descriptor, to wait for it beside others: what is not ``readable`` now will be when this can be read."""
        return self._sock.fileno()

    def expect_acknowledgement(self, seconds: float) -> None:
        """From now on the connection is broken when nothing of what was sent arrives for so long, where that is known.

        For who sends little and must know that the peer is there still.
        """
        if hasattr(socket, "TCP_USER_TIMEOUT") and self._sock.family != getattr(socket, "AF_UNIX", None):
            with _translated():
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    @property
    def encrypted(self) -> bool:
        """Whether the bytes go through TLS."""
        return self._tls

    @contextlib.contextmanager
    def silence(self, seconds: float) -> Iterator[None]:
        """Another limit of silence for a while, seconds."""
        before, self._silence = self._silence, seconds
        try:
            yield
        finally:
            self._silence = before

    @contextlib.contextmanager
    def until(self, deadline: Deadline) -> Iterator[None]:
        """All that is done inside ends by ``deadline``."""
        self._deadline = deadline
        try:
            yield
        finally:
            self._deadline = None

    def _arm(self, option: int, most: float = math.inf) -> None:
        """Let what follows wait no longer than silence, deadline and ``most`` allow."""
        timeout = min(self._silence, most, self._deadline.remaining() if self._deadline else math.inf)
        if self._armed.get(option) != timeout:
            self._armed[option] = timeout
            if self._kernel_waits:
                self._sock.setsockopt(socket.SOL_SOCKET, option, _timeval(timeout))
            else:
                self._sock.settimeout(timeout)
                self._armed = {option: timeout}

    def _move(self, option: int, move: Callable[[], int]) -> int:
        """The bytes that one system call moved; it is made again after each tick, until silence lasts too long.

        Where the kernel waits, a call that moved something before all went silent returns when its time is up: the
        tick keeps that from counting twice.
        """
        listens = self._listens and option == socket.SO_SNDTIMEO
        if not self._kernel_waits and not listens:
            self._arm(option)
            return move()
        began = time.monotonic()
        while True:
            self._arm(option, LISTEN_SECONDS if listens else TICK_SECONDS)
            try:
                return move()
            except (BlockingIOError, TimeoutError):
                if listens and self._hear():
                    began = time.monotonic()
                elif time.monotonic() - began > self._silence - JIFFY_SECONDS:
                    raise

    def _counted(self, moving: Moving, move: Callable[[], int], *, idles: bool = False) -> int:
        """The bytes that ``move`` moves, in the time that it takes, at the paces that are to be kept.

        What the peer does while it ``idles`` takes no time.
        """
        began = time.monotonic()
        count = moving(move)
        self.moved += count
        if self._least is not None:
            self._least.moved(count, 0.0 if idles else time.monotonic() - began)
        if self._pace is not None:
            self._pace.passed(count)
        return count

    def _hear(self) -> bool:
        """Take in all that has come, without waiting: whether anything had."""
        heard = False
        while self._hear_some():
            heard = True
        return heard

    def _hear_some(self) -> bool:
        """Take in one TLS record, or what fits: whether anything had come."""
        if not (self._tls and self._sock.pending()) and not _readable(self._sock):  # type: ignore[attr-defined]
            return False
        if not (space := self._buffer.space()):
            return False
        self._arm(socket.SO_RCVTIMEO, JIFFY_SECONDS)
        try:
            count = self._sock.recv_into(space)
        except (BlockingIOError, TimeoutError):  # a piece of a TLS record
            return False
        self._buffer.filled(count)
        return count > 0  # the end of the stream is for who receives next

    def readable(self) -> bool:
        """Whether bytes can be had without waiting."""
        if len(self._buffer) or (self._tls and self._sock.pending()):  # type: ignore[attr-defined]
            return True
        with _translated():
            return _readable(self._sock)

    def holds_header(self) -> bool:
        """Whether all of the next header is here already."""
        return self._buffer.holds(0, HEADER_BYTES)

    def receive_header(self, limit: int, *, silence_seconds: float | None = None) -> bytes | None:
        """The next header, or None where the peer ended the stream between two frames.

        ``silence_seconds`` is how long its first byte may take; the rest must come within the stream's own limit.
        """
        buffer = self._buffer
        header = buffer.next_header(limit)
        if header is None:
            if not len(buffer):
                with self.silence(silence_seconds or self._silence):
                    if not self._fill(idles=True):
                        return None
            rest = Deadline(self._silence, "a frame")
            while (header := buffer.next_header(limit)) is None:
                with self.silence(rest.remaining()):
                    if not self._fill():
                        raise ConnectionLost("the connection ended inside a frame")
        return header

    def _fill(self, *, idles: bool = False) -> int:
        with _translated():
            self._arm(socket.SO_RCVTIMEO)
            space = self._buffer.space()[: self._most]
            count = self._counted(self._receiving, partial(self._sock.recv_into, space), idles=idles)
        self._buffer.filled(count)
        return count

    def receive_some(self, view: memoryview) -> int:
        """Body bytes into ``view``, at least one and as many as come within a tick: how many.

        Raises ConnectionLost at end of stream.
        """
        if len(self._buffer):
            held = self._buffer.take(len(view))
            view[: len(held)] = held
            return len(held)
        view = view[: self._most]
        if self._kernel_waits:
            # One system call for a whole buffer, where the bytes come fast enough.
            fill = partial(self._sock.recv_into, view, len(view), socket.MSG_WAITALL)
            receive = partial(self._move, socket.SO_RCVTIMEO, fill)
        else:
            receive = partial(self._receive_records, view)
        with _translated():
            count = self._counted(self._receiving, receive)
        if not count:
            raise ConnectionLost("the connection ended inside a body")
        return count

    def _receive_records(self, view: memoryview) -> int:
        """TLS gives one record of at most 16 KiB at a time: as many as fit and come within a tick."""
        self._arm(socket.SO_RCVTIMEO)
        receive, until = self._sock.recv_into, time.monotonic() + TICK_SECONDS
        done = 0
        while done < len(view) and (count := receive(view[done:])):
            done += count
            if time.monotonic() > until:
                break
        return done

    def held(self, count: int, limit: int) -> memoryview | None:
        """``count`` body bytes without a copy, if they and the frame behind them are all here already.

        Valid until more is received, which that frame (the trailer) does not need.
        """
        return self._buffer.take(count) if self._buffer.holds(count, limit) else None

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``."""
        view = memoryview(data)
        most = min(TLS_SEND_BYTES, self._most) if self._tls else self._most
        with _translated():
            while view:
                send = partial(self._move, socket.SO_SNDTIMEO, partial(self._sock.send, view[:most]))
                view = view[self._counted(self._sending, send) :]

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Send ``count`` bytes of a file without copying them through this process; plain sockets only.

        Raises ConnectionLost when the file is shorter: the body cannot be finished.
        """
        end = offset + count
        with _translated():
            while offset < end:
                self.unsent = end - offset
                most = min(self.unsent, SENDFILE_BYTES, self._most)
                send_some = partial(os.sendfile, self._sock.fileno(), descriptor, offset, most)
                sent = self._counted(self._sending, partial(self._move, socket.SO_SNDTIMEO, send_some))
                if not sent:
                    raise ConnectionLost("the file became shorter while it was sent")
                offset += sent
        self.unsent = 0

    def expect_tls(self, protocol: str) -> None:
        """Raises ProtocolError unless TLS agreed on this application protocol."""
        if self._tls and self._sock.selected_alpn_protocol() != protocol:  # type: ignore[attr-defined]
            raise ProtocolError("the peer does not speak ftpy over this TLS connection")

    def line_times(self) -> LineTimes:
        """What the kernel says of the line."""
        return line_times(self._sock)

    def farewell(self, seconds: float) -> None:
        """End our half and wait for the peer's: what was said last arrives, even when bytes are left unread."""
        with contextlib.suppress(ConnectionLost), _translated():
            self._sock.shutdown(socket.SHUT_WR)
            with self.until(Deadline(seconds)):
                while self._raw_receive(64 * 1024):
                    pass

    def _raw_receive(self, count: int) -> bytes:
        self._arm(socket.SO_RCVTIMEO)
        return socket.socket.recv(self._sock, count)

    def abandon(self) -> None:
        """From another thread: break the connection, in the middle of whatever it is."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._sock.close()


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, max(1, int((seconds - whole) * 1e6)))


def _takes_timeval(sock: socket.socket) -> bool:
    """Not where a 32-bit system counts time in 64 bits."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(1.0))
    except OSError:
        return False
    return True


def _readable(sock: socket.socket) -> bool:
    if hasattr(select, "poll"):  # select cannot watch descriptors over 1023
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock.fileno()], [], [], 0)[0])
