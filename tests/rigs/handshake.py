"""Somebody between client and server who changes, adds, drops and repeats frames of the handshake.

Both ends are the real ones over real sockets. What each said and heard is kept frame by frame, and one checker holds
them to this: nobody opens a session unless every byte of the transcript came as it was sent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ftpy.client import connection as client_side
from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.errors import FtpyError, ProtocolError
from ftpy.server.identity import Identity
from ftpy.transport.channel import Channel
from ftpy.transport.stream import Stream
from ftpy.wire.auth import Channel as Binding
from ftpy.wire.framing import HEADER_BYTES, FrameBuffer, frame
from ftpy.wire.messages import LsReply, LsRequest
from ftpy.wire.session import Side
from tests.rig import Faults, Host, Proxy
from tests.rigs.alterations import (
    CHALLENGE,
    DOWN,
    HELLO,
    NAMES,
    PROOF,
    UP,
    WELCOME,
    Change,
    Spot,
    flips,
    insertions,
    rearrangements,
    respellings,
)
from tests.rigs.breaking import WAIT_SECONDS, contexts_of
from tests.rigs.processes import until

QUIET_SECONDS = 0.1
"""After a change, silence this long ends a case: an end that waits for what will not come has decided nothing."""
BRIEF = Transfer(stall_seconds=WAIT_SECONDS, connect_seconds=WAIT_SECONDS, retries=0)
BOUND = b"\x5a" * 32
"""The certificate's SHA-256 that proofs are bound to where TLS itself is left out."""

Kind = Literal["plain", "bound", "tls"]
"""Without TLS; the same, with proofs bound as within TLS; within TLS, which ends with who is between."""


@dataclass
class Seen:
    """What each end said, frame by frame, and the bytes that each got; ``sent[UP]`` is what the client said."""

    sent: tuple[list[bytes], list[bytes]] = field(default_factory=lambda: ([], []))
    passed: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    before_welcome: bytes = b""
    """All that the server got before it spoke for the second time."""

    def command(self, way: int) -> list[str]:
        """The ``cmd`` of each frame that was said."""
        return [str(json.loads(said[4:]).get("cmd", "reply")) for said in self.sent[way]]

    @property
    def server_heard_truly(self) -> bool:
        """Whether the server, when it judged the proof, had what the client had said, and the client its challenge."""
        return self.before_welcome == b"".join(self.sent[UP][:2]) and self.client_heard_truly

    @property
    def client_heard_truly(self) -> bool:
        """Whether the client got the server's challenge, and the server the client's hello and proof."""
        return self.passed[DOWN].startswith(self.sent[DOWN][0]) and self.passed[UP].startswith(
            b"".join(self.sent[UP][:2])
        )


class Between(Proxy):
    """Passes on frame by frame, but for one ``change``; one connection at a time.

    Within TLS it shows the server's own certificate: somebody in one of the two ends, whom TLS does not keep out.
    """

    def __init__(self, host: Host) -> None:
        self._contexts = contexts_of(host) if host.tls else None
        self.change: Change | None = None
        self.seen = Seen()
        super().__init__(host.address)

    def arm(self, change: Change | None) -> Seen:
        """What is done to the next connection; what it will have seen."""
        self.change, self.seen = change, Seen()
        return self.seen

    def settle(self) -> None:
        """Wait until both ends have left."""
        accepting, *relays = self._threads
        for thread in relays:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "a handshake does not end"
        self._threads[:] = [accepting]
        self._open.clear()

    def _pass_on(self, client: socket.socket, server: socket.socket, faults: Faults, passed: list[int]) -> None:
        self._spawn(self._relay, client, server, self.seen, self.change)

    def _relay(self, client: socket.socket, server: socket.socket, seen: Seen, change: Change | None) -> None:
        # ProtocolError: a body, which no handshake has; the build that sends one is told by the checker.
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError, ProtocolError):
            opened.callback(client.close)
            opened.callback(server.close)
            for end in (client, server):
                end.settimeout(WAIT_SECONDS)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._contexts is not None:
                client = opened.enter_context(self._contexts[0].wrap_socket(client, server_side=True))
                server = opened.enter_context(self._contexts[1].wrap_socket(server))
            self._both_ways((client, server), seen, change)

    @staticmethod
    def _both_ways(ends: tuple[socket.socket, socket.socket], seen: Seen, change: Change | None) -> None:
        buffers = FrameBuffer(), FrameBuffer()
        ways, patience = {UP, DOWN}, WAIT_SECONDS
        while ways:
            for way in _ready(ends, ways, patience):
                data = ends[way].recv(HEADER_BYTES)
                if not data:
                    ways.discard(way)
                    socket.socket.shutdown(ends[1 - way], socket.SHUT_WR)
                    continue
                buffers[way].feed(data)
                while (header := buffers[way].next_header(HEADER_BYTES)) is not None:
                    said = [(way, frame(header))]
                    if Spot(way, len(seen.sent[way])) == WELCOME:
                        seen.before_welcome = bytes(seen.passed[UP])
                    if change is not None and change.spot == Spot(way, len(seen.sent[way])):
                        said = change.instead(frame(header))
                        patience = WAIT_SECONDS if change.is_answered else QUIET_SECONDS
                    seen.sent[way].append(frame(header))
                    for where, data in said:
                        seen.passed[where].extend(data)
                        ends[1 - where].sendall(data)


def _ready(ends: tuple[socket.socket, socket.socket], ways: set[int], seconds: float) -> list[int]:
    """The ways on which something has come. Raises TimeoutError."""
    held = [way for way in ways if getattr(ends[way], "pending", int)()]
    if held:
        return held
    ready = select.select([ends[way] for way in ways], [], [], seconds)[0]
    if not ready:
        raise TimeoutError
    return [way for way in ways if ends[way] in ready]


class _Logins(logging.Handler):
    """Counts the sessions that the server opens."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.count = 0
        self.failures: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at it."""
        self.count += record.__dict__.get("event") == "login"
        if record.levelno >= logging.ERROR:
            self.failures.append(f"the server logs {record.getMessage()}")


@dataclass
class Outcome:
    """What came of one connection."""

    seen: Seen
    opened: bool
    """Whether the client took the server for the right one."""
    logins: int
    """Sessions that the server opened."""
    error: FtpyError | None
    listed: set[str] | None
    wrong: list[str]


class Stage:
    """A server, a client and somebody between; use it in a ``with``, one at a time: it listens to the server's log."""

    said: dict[Spot, bytes]
    """The frames of a handshake that nobody changed."""

    def __init__(self, host: Host, kind: Kind) -> None:
        assert host.service is not None and host.tls == (kind == "tls")
        self.host, self.kind = host, kind
        if kind == "bound":
            host.service.identity = Identity(binding=Binding(BOUND))
        self.between = Between(host)
        self._profile = host.profile(address=self.between.address)
        self._logins = _Logins()
        self._log = logging.getLogger("ftpy.server")
        self._level = self._log.level
        (self.host.root / "there").write_bytes(b"there")
        host.swept()
        self._storage = self._look()

    def __enter__(self) -> Stage:
        self._log.addHandler(self._logins)
        self._log.setLevel(logging.INFO)
        good = self.attempt()
        assert good.opened and good.logins == 1 and not good.wrong, good
        self.said = {spot: good.seen.sent[spot.way][spot.number] for spot in NAMES}
        return self

    def __exit__(self, *_: object) -> None:
        self._log.removeHandler(self._logins)
        self._log.setLevel(self._level)
        self.between.close()

    def _look(self) -> list[tuple[str, int, int]]:
        """Everything in the server's storage, with its times."""
        found = []
        for where, _, names in os.walk(self.host.root):
            for path in (where, *(os.path.join(where, name) for name in names)):
                status = os.lstat(path)
                found.append((path, status.st_mtime_ns, status.st_size))
        return sorted(found)

    def _connect(self) -> Connection:
        if self.kind != "bound":
            return Connection.open(self._profile, BRIEF)
        host, _, port = self.between.address.rpartition(":")
        sock = socket.create_connection((host, int(port)), WAIT_SECONDS)
        try:
            channel = Channel(Stream(sock, silence_seconds=BRIEF.stall_seconds, listens=True), Side.CLIENT)
            welcome, *_ = client_side._authenticate(channel, self._profile, BOUND)
        except BaseException:
            sock.close()
            raise
        return Connection(channel, welcome)

    def attempt(self, change: Change | None = None) -> Outcome:
        """Connect, prove, list; then hold all of it against the rules."""
        self._logins.count = 0
        self._logins.failures.clear()
        seen = self.between.arm(change)
        opened, listed = False, None
        error: FtpyError | None = None
        try:
            connection = self._connect()
            opened = True
            with contextlib.closing(connection):
                reply = connection.call(LsRequest(id=connection.next_id()), LsReply)
                listed = {entry.name for entry in reply.entries}
        except FtpyError as failure:
            error = failure
        self.between.settle()
        if not until(lambda: not self._connections(), pause_seconds=0.001):
            self._logins.failures.append("the server does not let go of a connection")
        outcome = Outcome(seen, opened, self._logins.count, error, listed, [*self._logins.failures])
        outcome.wrong += self._check(outcome)
        return outcome

    def _connections(self) -> int:
        assert self.host.service is not None
        return self.host.service.admission.connections

    def _check(self, outcome: Outcome) -> Iterator[str]:
        seen = outcome.seen
        if outcome.logins and not seen.server_heard_truly:
            yield "the server opened a session although the transcript was changed"
        if outcome.logins > 1:
            yield "the server opened a session twice"
        if outcome.opened and not seen.client_heard_truly:
            yield "the client opened a session although the transcript was changed"
        if outcome.opened and _proof(bytes(seen.passed[DOWN])) != _proof(b"".join(seen.sent[DOWN])):
            yield "the client opened a session although the server's proof was changed"
        if self._look() != self._storage:
            yield "the server's storage was touched"
            self._storage = self._look()
        if outcome.listed is not None and outcome.listed != set(os.listdir(self.host.root)) - {".ftpy"}:
            yield f"the client believes that there is {outcome.listed}"
        said = seen.command(UP)
        due = ["hello", "proof", "ls"] if outcome.opened else ["hello", "proof"]
        if said != due[: len(said)]:
            yield f"the client said {said}"


def _proof(down: bytes) -> str:
    """The server's proof in the second frame that goes down."""
    buffer = FrameBuffer(max(4, len(down)))
    buffer.feed(down)
    buffer.next_header(HEADER_BYTES)
    return str(json.loads(buffer.next_header(HEADER_BYTES) or b"{}").get("server_proof"))


# ------------------------------------------------------------------ all of it


def stays_closed(change: Change, outcome: Outcome) -> list[str]:
    """What is wrong where a frame was spelt as none may be: who got it is to refuse it at sight."""
    seen = outcome.seen
    at_sight = {
        HELLO: seen.command(DOWN) == ["reply"],
        CHALLENGE: seen.command(UP) == ["hello"],
        PROOF: seen.command(DOWN) == ["challenge", "reply"],
        WELCOME: not outcome.opened,
    }[change.spot]
    return [] if at_sight else [f"{change.spot} was taken: {seen.command(UP)}, {seen.command(DOWN)}"]


CHANGES: dict[str, Callable[[Stage], Iterator[Change]]] = {
    "flip": lambda stage: flips(stage.said),
    "insert": lambda _: insertions(),
    "rearrange": lambda stage: rearrangements(stage.said),
    "respell": lambda stage: respellings(stage.said),
}


@dataclass
class Report:
    """What was done, what came of it, and sentences for what must not be."""

    cases: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """The figures."""
        cases, outcomes = (
            ", ".join(f"{what} {count}" for what, count in counted.most_common())
            for counted in (self.cases, self.outcomes)
        )
        return f"{name}: {self.cases.total()} handshakes ({cases}): {outcomes}; {len(self.violations)} violations"


def rig_handshake(stage: Stage, kind: str, report: Report, *, first: int = 0, step: int = 1) -> None:
    """All changes of a kind, or every ``step``-th of them from the ``first`` on."""
    for change in list(CHANGES[kind](stage))[first::step]:
        outcome = stage.attempt(change)
        wrong = outcome.wrong + (stays_closed(change, outcome) if change.is_answered else [])
        report.cases[kind] += 1
        report.outcomes["opened" if outcome.opened else type(outcome.error).__name__] += 1
        report.violations += [f"{stage.kind}, {change.name}: {sentence}" for sentence in wrong]
