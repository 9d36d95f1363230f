"""One authenticated connection to a server: requests out, replies in, in order."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ftpy.client.clock import Clock
from ftpy.config.addresses import parse_address
from ftpy.config.client import Profile, Transfer
from ftpy.digests import DigestName, PartDigestName
from ftpy.errors import (
    Busy,
    ConfigError,
    ConnectionFailed,
    ConnectionLost,
    Denied,
    FtpyError,
    ProtocolError,
    ServerNotTrusted,
    ShuttingDown,
    Stalled,
    TlsFailed,
    TurnedAway,
    Unsupported,
)
from ftpy.transport.channel import Channel
from ftpy.transport.deadline import Deadline
from ftpy.transport.pace import Pace
from ftpy.transport.stream import Stream
from ftpy.wire import auth, codec
from ftpy.wire.bases import FailureReply, ProgressReply, Reply, Request
from ftpy.wire.handshake import Challenge, Welcome
from ftpy.wire.handshake import Denied as DeniedMessage
from ftpy.wire.session import Side
from ftpy.wire.spelling import b64decode

MOST_INLINE_BYTES = 1024 * 1024
"""Largest file that is sent whole, bytes; above, parts make it resumable."""

PATIENCE = 120
"""How many of the limits of silence a server may spend on a request without getting any further: an hour, by default.
It says 0 all the time while it reads what an interrupted upload had before a crash, which may be a terabyte."""
SIGN_SECONDS = 30.0
"""Who sees nothing of a server's progress is told after so long that it is waited for, then after twice that."""

R = TypeVar("R", bound=Reply)


def _ignore(_: int) -> None:
    return None


def _silent(_: str) -> None:
    return None


class Connection:
    """A channel that has proven both ends; not safe in several threads.

    After any error with requests under way the connection is out of step: close it and make another.
    """

    def __init__(self, channel: Channel, welcome: Welcome) -> None:
        self.channel = channel
        self.welcome = welcome
        self.round_trip_seconds = 0.0
        """The shorter of the handshake's two round trips: the nearest to what the line alone takes."""
        self.clock = Clock.of_welcome(welcome.time_ns, time.time_ns(), 0.0)
        """The host's clock, as its welcome told it."""
        self.leaving = threading.Event()
        """Once it is set, whoever works on this connection ends what is under way and begins nothing more."""
        self.closing: Callable[[Connection], None] | None = None
        """Who is to be told before it is closed."""
        self.patience_seconds = math.inf
        """How long a server may say that it is at work and get nowhere."""
        self._furthest, self._moved = -1, 0.0
        """What the progress of the request under way has come to, and when."""
        self._began, self._sign_seconds = 0.0, SIGN_SECONDS
        self.notify: Callable[[str], None] = _silent
        self._next_id = 1

    @classmethod
    def open(cls, profile: Profile, transfer: Transfer, pace: Pace | None = None) -> Connection:
        """Dial the profile's addresses in turn, prove both ends, within ``connect_seconds`` each.

        It keeps ``pace``. Raises TurnedAway where a server is there and takes no connection now; ConnectionFailed,
        Denied, ServerNotTrusted.
        """
        failures = []
        kind = ConnectionFailed
        stranger: ServerNotTrusted | None = None
        for address in profile.addresses:
            try:
                return cls._open_one(address, profile, transfer, pace)
            except ConnectionFailed as error:
                failures.append(f"{address}: {error}")
                if isinstance(error, TurnedAway):
                    kind = TurnedAway
            except ServerNotTrusted as error:  # another host's address by now: ours may be the next
                stranger = stranger or error
        if stranger is not None:
            raise stranger
        raise kind("no connection: " + "; ".join(failures))

    @classmethod
    def _open_one(cls, address: str, profile: Profile, transfer: Transfer, pace: Pace | None) -> Connection:
        deadline = Deadline(transfer.connect_seconds, "connecting")
        sock = dial(address, deadline)
        pin = b""
        try:
            if profile.certificate_sha256 is not None:
                from ftpy.transport import tls

                pin = bytes.fromhex(profile.certificate_sha256)
                sock = tls.connect(sock, pin, deadline.remaining())
            stream = Stream(sock, silence_seconds=transfer.stall_seconds, listens=True, pace=pace)
            if pin:
                stream.expect_tls(tls.ALPN)
            channel = Channel(stream, Side.CLIENT)
            with stream.until(deadline):
                welcome, round_trip_seconds, clock = _authenticate(channel, profile, pin)
        except BaseException as error:
            sock.close()
            if isinstance(error, ConnectionLost) and not isinstance(error, (Stalled, TlsFailed)):
                raise TurnedAway from error
            raise
        connection = cls(channel, welcome)
        connection.round_trip_seconds, connection.clock = round_trip_seconds, clock
        connection.patience_seconds = PATIENCE * transfer.stall_seconds
        return connection

    @property
    def in_step(self) -> bool:
        """Whether the next thing sent would be read as a request, and the next thing received is its reply."""
        return self.channel.session.at_rest

    @property
    def inline_bytes(self) -> int:
        """Largest body that a put may carry inline; held in memory here, so a server's word has its limit."""
        return min(self.welcome.limits.inline_bytes, MOST_INLINE_BYTES)

    @property
    def part_digest(self) -> PartDigestName:
        """What verifies the parts of a put: the fastest that the server knows."""
        return "xxh128" if "xxh128" in self.welcome.digests else "blake3"

    def require(self, digest: DigestName) -> None:
        """Raises Unsupported unless the server knows this digest."""
        if digest not in self.welcome.digests:
            raise Unsupported(f"the server does not know the digest {digest}")

    def next_id(self) -> int:
        """A fresh request id."""
        self._next_id += 1
        return self._next_id - 1

    def call(self, request: Request, kind: type[R], on_progress: Callable[[int], None] = _ignore) -> R:
        """Send a request and wait for its reply; nothing else may be under way. Raises the failure that it carries."""
        self.channel.send(request)
        return self.wait(kind, on_progress)

    def wait(self, kind: type[R], on_progress: Callable[[int], None] = _ignore) -> R:
        """The reply that is due next; ``on_progress`` hears the bytes that the server says it has done meanwhile."""
        while (reply := self.hear(kind, on_progress)) is None:
            pass
        return reply

    def hear(self, kind: type[R], on_progress: Callable[[int], None] = _ignore) -> R | None:
        """One message: the reply that is due next, or None where it was progress. Raises the failure that it carries.

        May be called in the middle of a request's body, when ``readable``.
        """
        if not codec.is_prepared(kind):
            prepare_decoder(kind)
        message = self.channel.receive()
        if isinstance(message, ProgressReply):
            self._check_progress(message.progress, seen=on_progress is not _ignore)
            on_progress(message.progress)
            return None
        self._furthest, self._sign_seconds = -1, SIGN_SECONDS
        if isinstance(message, kind):
            return message
        if isinstance(message, FailureReply):
            raise message.exception()
        if message is None:
            raise ConnectionLost("the server closed the connection")
        raise ProtocolError(f"a {type(message).__name__} where a {kind.__name__} is due")

    def _check_progress(self, done: int, *, seen: bool) -> None:
        """Raises Stalled where signs of life go on, but no work; tells who sees nothing that it is waited for."""
        now = time.monotonic()
        if self._furthest < 0:
            self._began = now
        if done > self._furthest:
            self._furthest, self._moved = done, now
        elif now - self._moved > self.patience_seconds:
            raise Stalled("the server says that it is at work on it, but it gets nowhere")
        if not seen and (waited := now - self._began) > self._sign_seconds:
            self._sign_seconds = 2 * waited
            self.notify(f"the server says that it is at work on it; waiting for {waited:.0f} s")

    def readable(self) -> bool:
        """Whether a reply can be had without waiting."""
        return self.channel.readable()

    def holds_reply(self) -> bool:
        """Whether a whole reply has come already, with what was waited for."""
        return self.channel.stream.holds_header()

    def abandon(self) -> None:
        """From another thread: break the connection, wherever it is."""
        self.channel.stream.abandon()

    def close(self) -> None:
        """Close the connection."""
        closing, self.closing = self.closing, None
        if closing is not None:
            closing(self)
        self.channel.stream.close()


def prepare_decoder(kind: type) -> None:
    """Have what reads this ``kind`` of message made by another thread, for signals are the main thread's.

    msgspec swallows a Ctrl-C that comes while it looks at a type.
    """
    thread = threading.Thread(target=codec.prepare, args=(kind,), name="ftpy-decoder")
    try:
        thread.start()
    except RuntimeError:
        return  # there is no thread to be had: it is made when it is needed
    thread.join()


def dial(address: str, deadline: Deadline) -> socket.socket:
    """A socket connected to ``address``, TCP or Unix, before ``deadline``. Raises ConnectionFailed, ConfigError."""
    target = parse_address(address)
    try:
        if target.kind == "unix":
            if not hasattr(socket, "AF_UNIX"):
                raise ConnectionFailed("this system has no Unix sockets")
            with contextlib.ExitStack() as stack:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                sock.settimeout(deadline.remaining())
                sock.connect(target.path)
                stack.pop_all()
            return sock
        return socket.create_connection((target.host, target.port), timeout=deadline.remaining())
    except TimeoutError:
        raise Stalled("no answer") from None
    except OSError as error:
        raise ConnectionFailed(error.strerror or str(error)) from None
    except UnicodeError:  # the idna codec's word for a label that is empty or too long
        raise ConnectionFailed("that is no host name") from None


def _authenticate(channel: Channel, profile: Profile, pin: bytes) -> tuple[Welcome, float, Clock]:
    """Prove both ends: the welcome, the round trip in seconds, and the clock that the welcome tells of."""
    try:
        key = b64decode(profile.key)
    except ProtocolError:
        raise ConfigError("the profile's key is damaged; pair again") from None
    binding = auth.Channel(pin)
    handshake = auth.ClientHandshake(profile.user, key, os.urandom(auth.NONCE_BYTES), binding)
    channel.send(handshake.message)
    began = time.monotonic()
    challenge_bytes = channel.receive_raw()
    challenged = time.monotonic()
    if challenge_bytes is None:
        raise TurnedAway
    challenge = channel.session.receive(challenge_bytes)
    if isinstance(challenge, FailureReply):
        raise _as_failure(challenge.exception())
    assert isinstance(challenge, Challenge)
    channel.send(handshake.prove(challenge_bytes))
    proven = time.monotonic()
    verdict = channel.receive()
    now_ns, waited = time.time_ns(), time.monotonic() - proven
    if isinstance(verdict, DeniedMessage):
        raise Denied(f"the server refused user {profile.user!r} with this key")
    if isinstance(verdict, FailureReply):
        raise _as_failure(verdict.exception())
    if not isinstance(verdict, Welcome):
        raise ConnectionLost("the server closed the connection before it answered the proof")
    handshake.check(verdict.server_proof)
    channel.session.adds_crc = not pin  # within TLS nothing is damaged unnoticed
    return verdict, min(challenged - began, waited), Clock.of_welcome(verdict.time_ns, now_ns, waited)


def _as_failure(error: FtpyError) -> FtpyError:
    """What a server says before it has proven itself is hearsay: a reason, never a result."""
    if isinstance(error, ConnectionFailed):
        return error
    return TurnedAway(str(error)) if isinstance(error, (Busy, ShuttingDown)) else ConnectionFailed(str(error))
