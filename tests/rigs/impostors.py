"""Who pretends: servers without the key, a man in the middle, recorded proofs; and what the time of a refusal tells."""

from __future__ import annotations

import contextlib
import json
import math
import random
import secrets
import select
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ftpy.config.addresses import parse_address
from ftpy.config.client import Profile
from ftpy.server.identity import certificate_sha256, make_identity
from ftpy.transport import tls
from ftpy.transport.stream import Stream
from ftpy.wire import auth
from ftpy.wire.codec import decode, encode
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES, HEADER_BYTES, FrameBuffer, frame
from ftpy.wire.handshake import Challenge, Proof, Welcome
from ftpy.wire.handshake import Limits as WireLimits
from ftpy.wire.spelling import b64decode, b64encode
from tests.rig import FAST, Host

WAIT_SECONDS = 10.0


def commands(data: bytes) -> list[str]:
    """The ``cmd`` of every frame in what a client sent; the last is "…" where the bytes do not end with a frame."""
    buffer = FrameBuffer(max(4, len(data)))
    buffer.feed(data)
    found = []
    while (header := buffer.next_header(HEADER_BYTES)) is not None:
        found.append(str(json.loads(header)["cmd"]))
    return [*found, "…"] if len(buffer) else found


@dataclass
class Identity:
    """A certificate of one's own."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._files = (str(self.folder / "certificate.pem"), str(self.folder / "private_key.pem"))
        make_identity(*self._files)
        self.pin = certificate_sha256(self._files[0])

    def context(self) -> ssl.SSLContext:
        """For a server that shows it."""
        return tls.server_context(*self._files)


class Listener:
    """Serves connections one after the other with ``serve``, and keeps what clients said inside TLS (if any)."""

    def __init__(self, identity: Identity | None) -> None:
        self.said: list[bytes] = []
        """What each client sent, without TLS around it."""
        self.failures: list[str] = []
        self._context = identity.context() if identity else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="impostor")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.said.append(b"")
            try:
                sock.settimeout(WAIT_SECONDS)
                with self._context.wrap_socket(sock, server_side=True) if self._context else sock as channel:
                    self.serve(channel)
            except OSError as error:
                self.failures.append(str(error))

    def serve(self, channel: socket.socket) -> None:
        """One connection, until the client leaves."""
        raise NotImplementedError

    def hear(self, channel: socket.socket) -> bytes:
        """The next bytes of the client, kept; empty when it has left."""
        data = channel.recv(65536)
        self.said[-1] += data
        return data

    def hear_all(self, channel: socket.socket) -> None:
        """All that the client still says."""
        with contextlib.suppress(OSError):
            while self.hear(channel):
                pass


class FakeServer(Listener):
    """Speaks the protocol without knowing any user's verifier: ``answers`` are sent to hello and to proof."""

    def __init__(self, identity: Identity | None, *answers: bytes) -> None:
        self._answers = answers
        super().__init__(identity)

    def serve(self, channel: socket.socket) -> None:
        """An answer for each thing said, then silence."""
        for answer in self._answers:
            if not self.hear(channel):
                return
            channel.sendall(answer)
        self.hear_all(channel)


class Middle(Listener):
    """Ends the client's TLS with a certificate of its own and passes all on to the real server over another TLS."""

    def __init__(self, identity: Identity, target: str) -> None:
        self._target = parse_address(target)
        super().__init__(identity)

    def serve(self, channel: socket.socket) -> None:
        """Pass on until either end has had enough."""
        plain = socket.create_connection((self._target.host, self._target.port), WAIT_SECONDS)
        with tls.client_context().wrap_socket(plain) as onward, contextlib.suppress(OSError):
            assert isinstance(channel, ssl.SSLSocket)
            while True:
                # In one thread: an SSL socket that one thread reads while another writes may see an end that is none.
                for source in _readable(channel, onward):
                    sink = onward if source is channel else channel
                    data = self.hear(channel) if source is channel else source.recv(65536)
                    if not data:
                        return
                    sink.sendall(data)


def _readable(*channels: ssl.SSLSocket) -> list[ssl.SSLSocket]:
    """Those that have something to be read, at least one. Raises TimeoutError."""
    if held := [channel for channel in channels if channel.pending()]:
        return held
    if not (ready := select.select(channels, [], [], WAIT_SECONDS)[0]):
        raise TimeoutError
    return ready


def false_challenge() -> bytes:
    """A challenge as anyone can make it."""
    return frame(encode(Challenge(server_nonce=b64encode(secrets.token_bytes(auth.NONCE_BYTES)))))


def false_welcome(proof: bytes = bytes(32)) -> bytes:
    """A welcome with a proof that proves nothing."""
    return frame(
        encode(
            Welcome(
                server_proof=b64encode(proof),
                server="ftpy",
                time_ns=1,
                limits=WireLimits(inline_bytes=1024, requests=16),
                digests=["md5", "blake3"],
                rights=["list", "read", "write"],
            )
        )
    )


# ------------------------------------------------------------------ one login, frame by frame


@dataclass
class Login:
    """What passed in an attempt to log in: the raw headers, what followed them, and the seconds of the answers."""

    hello: bytes = b""
    challenge: bytes = b""
    proof: bytes = b""
    verdict: bytes = b""
    rest: bytes = b""
    seconds: tuple[float, float] = (0.0, 0.0)
    """From hello to challenge, and from proof to verdict."""

    @property
    def shape(self) -> tuple[object, ...]:
        """All that an observer of the answers' form can tell: their fields and lengths, and the verdict's bytes."""
        return (sorted(json.loads(self.challenge)), len(self.challenge), self.verdict, self.rest)


@contextlib.contextmanager
def dialled(host: Host, profile: Profile) -> Iterator[Stream]:
    """A stream to the server, within TLS where it has it."""
    address = parse_address(profile.addresses[0])
    sock = socket.create_connection((address.host, address.port), WAIT_SECONDS)
    if host.tls:
        assert profile.certificate_sha256 is not None
        sock = tls.connect(sock, bytes.fromhex(profile.certificate_sha256), WAIT_SECONDS)
    stream = Stream(sock, silence_seconds=FAST.stall_seconds)
    try:
        yield stream
    finally:
        stream.close()


def _as_it_is(proof: bytes) -> bytes:
    return proof


def log_in(
    host: Host,
    user: str,
    key: bytes,
    *,
    replay: Login | None = None,
    altered: Callable[[bytes], bytes] = _as_it_is,
) -> Login:
    """Say hello and prove, in order or (``replay``) with the very bytes of an earlier login, or a proof ``altered``."""
    profile = host.profile()
    pin = bytes.fromhex(profile.certificate_sha256 or "")
    handshake = auth.ClientHandshake(user, key, secrets.token_bytes(auth.NONCE_BYTES), auth.Channel(pin))
    seen = Login()
    with dialled(host, profile) as stream:
        seen.hello = replay.hello if replay else encode(handshake.message)
        began = time.perf_counter()
        stream.send(frame(seen.hello))
        seen.challenge = stream.receive_header(HANDSHAKE_HEADER_BYTES) or b""
        challenged = time.perf_counter()
        decode(seen.challenge, Challenge)
        seen.proof = replay.proof if replay else altered(encode(handshake.prove(seen.challenge)))
        said = time.perf_counter()
        stream.send(frame(seen.proof))
        seen.verdict = stream.receive_header(HANDSHAKE_HEADER_BYTES) or b""
        seen.seconds = (challenged - began, time.perf_counter() - said)
        if json.loads(seen.verdict)["cmd"] == "denied":
            seen.rest = stream.receive_header(HANDSHAKE_HEADER_BYTES) or b""
    return seen


def relabelled(login: Login) -> Login:
    """The same proof behind a fresh hello: the nonce of the client is part of what was proven."""
    hello = json.loads(login.hello) | {"client_nonce": b64encode(secrets.token_bytes(auth.NONCE_BYTES))}
    return Login(hello=json.dumps(hello, separators=(",", ":")).encode(), proof=login.proof)


def flipped(proof: bytes, bit: int) -> bytes:
    """A proof's header with one bit of the proof turned over."""
    raw = bytearray(b64decode(json.loads(proof)["client_proof"]))
    raw[bit // 8] ^= 1 << bit % 8
    return encode(Proof(client_proof=b64encode(bytes(raw))))


# ------------------------------------------------------------------ what the time tells

SURE = 4.5
"""|z| of Mann and Whitney's test from which on two samples count as told apart: chance does it once in 150,000."""


def rank_sum_z(left: list[float], right: list[float]) -> float:
    """Mann and Whitney's U of two samples as a normal deviate: 0 where neither tends to be greater."""
    ranked = sorted([(value, 0) for value in left] + [(value, 1) for value in right])
    rank_sum = sum(rank for rank, (_, side) in enumerate(ranked, 1) if side == 0)
    n, m = len(left), len(right)
    return (rank_sum - n * (n + m + 1) / 2) / math.sqrt(n * m * (n + m + 1) / 12)


@dataclass
class Timing:
    """Seconds of refusals, interleaved: of a user that exists with a wrong key, and of one that does not."""

    wrong_key: list[tuple[float, float]] = field(default_factory=list)
    unknown: list[tuple[float, float]] = field(default_factory=list)

    def z(self, step: int) -> float:
        """How surely the unknown user is told (0: challenge, 1: verdict)."""
        return rank_sum_z([s[step] for s in self.unknown], [s[step] for s in self.wrong_key])

    @property
    def told_apart(self) -> bool:
        """Whether the time of any answer tells who exists."""
        return any(abs(self.z(step)) > SURE for step in (0, 1))

    def line(self) -> str:
        """The figures."""
        steps = []
        for step, name in enumerate(("challenge", "verdict")):
            wrong, unknown = (statistics.median(s[step] for s in kind) * 1e6 for kind in (self.wrong_key, self.unknown))
            steps.append(f"{name} {wrong:.1f} us with a wrong key, {unknown:.1f} us unknown, z {self.z(step):+.2f}")
        return f"rig-attackers timing: {len(self.unknown)} refusals of each kind; {'; '.join(steps)}"


def time_refusals(host: Host, count: int, seed: int = 0) -> Timing:
    """``count`` refusals of each kind in pairs, each pair in random order, with names of one length."""
    rng, timing = random.Random(seed), Timing()
    kinds: list[tuple[str, list[Any]]] = [("alice", timing.wrong_key), ("alicf", timing.unknown)]
    for user, _ in kinds * 5:
        log_in(host, user, bytes(auth.KEY_BYTES))  # what is made at first use is made
    for _ in range(count):
        for user, seconds in rng.sample(kinds, 2):
            seconds.append(log_in(host, user, rng.randbytes(auth.KEY_BYTES)).seconds)
    return timing


def slowed(work: Callable[..., Any], seconds: float, *, only: Callable[..., bool]) -> Callable[..., Any]:
    """``work``, but later where ``only`` says so of its arguments: what a careless look-up would do."""

    def slow(*arguments: Any) -> Any:
        if only(*arguments):
            time.sleep(seconds)
        return work(*arguments)

    return slow
