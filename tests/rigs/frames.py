"""Mangled frames against both ends: millions at framing, codec and session in process; thousands at a live server."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import HealthCheck, Phase, given, seed, settings

from ftpy.client.connection import Connection
from ftpy.errors import CODES, FtpyError, ProtocolError
from ftpy.transport import tls
from ftpy.wire import codec
from ftpy.wire.bases import Request
from ftpy.wire.commands import RunRequest
from ftpy.wire.fields import digest_of
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES, HEADER_BYTES, FrameBuffer
from ftpy.wire.handshake import Challenge, Hello, Limits, Proof, Welcome
from ftpy.wire.messages import REPLIES, GetReply, GetRequest, PutRequest
from ftpy.wire.session import Session, Side
from tests.descriptors import open_files
from tests.rig import FAST, Host, eventually
from tests.rigs.processes import memory_of
from tests.wire.wire_strategies import KINDS, structs, unknown_requests

EXAMPLES = 12
"""Legal messages of each kind, from which all else is made."""
GROWTH_BYTES = 16 * 1024 * 1024
"""What all cases together may add to the memory of a process."""
LIMITS = {0: 2048, 1: 2048, 2: 2048, 3: 2048, 4: 65_536}
"""Longest header after so many frames of the handshake (docs/protocol.md, limits)."""
ZERO = "A" * 43
TOKENS = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"false", b"0", b"-", b"1.0", b"1e5", b"-0", b"01"),
    *(
        b"\\u0000",
        b"\\ud800",
        b"\\udc00",
        b"\\",
        b"\x00",
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b" ",
        b"\n",
    ),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"1" * 5000, b"NaN", b"Infinity"),
    *(b'"cmd":"put",', b'"id":1,', b'"id":0,', b'"ok":true,', b'"length":5,', b'"path":"..",', b'"\\u0069d":1,', b"{}"),
    *(b"[" * 2000, b"[" * 20_000, b'{"a":' * 2000, b"[" * 40 + b"]" * 40, b'"x":' + b"[" * 33 + b"]" * 33 + b","),
)


# ------------------------------------------------------------------ in process


class Place(NamedTuple):
    """A moment in a session, from one end's view, and what it is called."""

    name: str
    session: Session
    limit: int = HEADER_BYTES


Snapshot = tuple[Any, ...]


def snapshot(session: Session) -> Snapshot:
    """All that moves."""
    ways = [(way.lane, way.due, way.length) for way in (session.incoming, session.outgoing)]
    more = (session._alone, session._continued)
    return (session.state, tuple(session._pending), session._most_pending, *ways, session.adds_crc, more)


def restore(session: Session, before: Snapshot) -> None:
    """Back to that."""
    session.state, pending, session._most_pending = before[:3]
    session._pending.clear()
    session._pending.extend(pending)
    for way, (lane, due, length) in zip((session.incoming, session.outgoing), before[3:5], strict=True):
        way.lane, way.due, way.length = lane, due, length
    session.adds_crc = before[5]
    session._alone, session._continued = before[6]


def begun(own: Side, *said: Any) -> Session:
    """A session after these messages, each from the side whose it is; bytes are a body's."""
    session = Session(own)
    peer = Side.SERVER if own is Side.CLIENT else Side.CLIENT
    for message in said:
        speaker = Side.CLIENT if isinstance(message, Hello | Proof | Request) else Side.SERVER
        if isinstance(message, int):
            session.incoming.body(message)
        elif speaker is peer:
            session.receive(codec.encode(message))
        else:
            session.send(message)
    return session


def places() -> list[Place]:
    """Every state, of both ends, with each request under way, in each lane."""
    hello = Hello(protocol=1, user="alice", client_nonce=ZERO, binding="none")
    challenge, proof = Challenge(server_nonce=ZERO), Proof(client_proof=ZERO)
    welcome = Welcome(
        server_proof=ZERO,
        server="",
        time_ns=0,
        limits=Limits(inline_bytes=1, requests=2),
        digests=["md5"],
        rights=[],
    )
    shaken = (hello, challenge, proof, welcome)
    get = GetRequest(id=1, path="x")
    put = PutRequest(id=1, path="x", mtime_ns=0, length=5)
    reply = GetReply(id=1, file_size=5, offset=0, length=5, mtime_ns=0, mode=0, etag="0" * 32, md5=None, blake3=None)
    found = [
        *(Place(f"server after {count}", begun(Side.SERVER, *shaken[:count]), LIMITS[count]) for count in (0, 2, 4)),
        *(Place(f"client after {count}", begun(Side.CLIENT, *shaken[:count]), LIMITS[count]) for count in (1, 3, 4)),
        Place("server full", begun(Side.SERVER, *shaken, get, GetRequest(id=2, path="y"))),
        Place("server beside a run", begun(Side.SERVER, *shaken, RunRequest(id=1, command="x"))),
        Place("server in a body", begun(Side.SERVER, *shaken, put)),
        Place("server before a trailer", begun(Side.SERVER, *shaken, put, 5)),
        Place("client in a body", begun(Side.CLIENT, *shaken, get, reply)),
        Place("client before a trailer", begun(Side.CLIENT, *shaken, get, reply, 5)),
    ]
    for kind in REPLIES:
        request = example_request(kind)
        found.append(Place(f"client waits for {kind.__name__}", begun(Side.CLIENT, *shaken, request)))
    return found


def example_request(kind: type[Request]) -> Request:
    """A request of this kind, with id 1 and no body."""
    given = {
        "path": "x",
        "to": "y",
        "command": "x",
        "upload": "0" * 32,
        "operation": "0" * 32,
        "by": "1" * 32,
        "tree": "0" * 32,
        **dict.fromkeys(("files", "folders", "file_bytes"), 0),
        "part": 0,
        "length": 0,
        "mtime_ns": 0,
        "digest": digest_of("md5", "0" * 32),
    }
    needed = {
        field.name: given[field.name] for field in msgspec.structs.fields(kind) if field.required and field.name != "id"
    }
    return kind(id=1, **needed)


def corpus(number: int) -> list[bytes]:
    """Legal headers of every kind, as hypothesis makes them."""
    found: list[bytes] = []
    for strategy in [*map(structs, KINDS), unknown_requests()]:

        @seed(number)
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def collect(message: Any) -> None:
            header = codec.encode(message)
            if len(header) < 4096:
                found.append(header)

        collect()
    # What is legal in a place is what ids are asked for there.
    return [*found, *(header.replace(b'"id":', b'"id":1,"was":', 1) for header in found), *with_id_1(found)]


def with_id_1(headers: Sequence[bytes]) -> Iterator[bytes]:
    """The same with the id that is due."""
    for header in headers:
        fields = json.loads(header)
        if "id" in fields:
            yield msgspec.json.encode(fields | {"id": 1})


class Mutator:
    """Headers made from others: bytes turned, left out, put in, doubled; pieces of two joined."""

    def __init__(self, rng: random.Random, headers: Sequence[bytes]) -> None:
        self._random, self._headers = rng.random, headers

    def header(self, fitting: Sequence[bytes] = ()) -> bytes:
        """One, half of the time made of those that are ``fitting``."""
        random_, headers = self._random, self._headers
        if fitting and random_() < 0.5:
            headers = fitting
        header = headers[int(random_() * len(headers))]
        if random_() < 0.08:
            return header if random_() < 0.7 else codec.add_crc(header)
        data = bytearray(header)
        for _ in range(1 + int(random_() * random_() * 4)):
            at, what = int(random_() * (len(data) + 1)), random_()
            if what < 0.3 and at < len(data):
                data[at] ^= 1 << int(random_() * 8)
            elif what < 0.45:
                del data[at : at + 1 + int(random_() * 8)]
            elif what < 0.8:
                data[at:at] = TOKENS[int(random_() * len(TOKENS))]
            elif what < 0.9:
                data[at:at] = data[: int(random_() * len(data))]
            else:
                other = headers[int(random_() * len(headers))]
                data[at:] = other[int(random_() * len(other)) :]
        return bytes(data) if random_() < 0.9 else codec.add_crc(bytes(data))

    def prefix(self, header: bytes) -> bytes:
        """Its length, now and then another."""
        size = len(header)
        if self._random() < 0.05:
            size = int(
                (0, 1, size - 1, size + 1, 2048, 2049, 65_536, 65_537, 2**31, 2**32 - 1)[int(self._random() * 10)]
            )
        return max(0, size).to_bytes(4, "little")


@dataclass
class Verdicts:
    """What came of many cases."""

    cases: int = 0
    accepted: int = 0
    seconds: float = 0.0
    grown: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Verdicts) -> None:
        """Those of another process."""
        self.cases += other.cases
        self.accepted += other.accepted
        self.seconds = max(self.seconds, other.seconds)
        self.grown = max(self.grown, other.grown)
        self.violations += other.violations

    def line(self) -> str:
        """The figures."""
        return (
            f"rig-frames: {self.cases:,} headers in {self.seconds:.0f} s, {self.accepted:,} legal where they came,"
            f" memory {self.grown / 2**20:+.1f} MiB; {len(self.violations)} violations"
        )


def judge(place: Place, prefix: bytes, header: bytes) -> tuple[bool, str | None]:
    """Whether it was taken, and what is wrong with that; the session is as before."""
    session = place.session
    before, limit = snapshot(session), session.header_limit
    if limit != place.limit:
        return False, f"headers of {limit} bytes are let in where {place.limit} are the most"
    size = int.from_bytes(prefix, "little")
    try:
        buffer = FrameBuffer()
        buffer.feed(prefix + header)
        found = buffer.next_header(limit)
    except ProtocolError:
        return False, None if not 1 <= size <= limit else "a frame of a legal length is refused"
    if not 1 <= size <= limit:
        return False, f"a frame of {size} bytes passes where {limit} are the most"
    if (found is None) != (size > len(header)) or (found is not None and found != header[:size]):
        return False, "another header than the one that was framed"
    if found is None:
        return False, None
    try:
        message = session.receive(found)
    except ProtocolError as error:
        wrong = None
        if snapshot(session) != before:
            wrong = "a refused header moved the state"
        if len(str(error)) > 500:
            wrong = f"it takes {len(str(error))} characters to say what is wrong"
        restore(session, before)
        return False, wrong
    after = snapshot(session)
    restore(session, before)
    again = session.receive(codec.encode(message))
    # But for the CRC-32, which is no part of what is said.
    wrong = (
        None
        if (again, snapshot(session)[:5]) == (message, after[:5])
        else "what was taken reads otherwise when said again"
    )
    restore(session, before)
    return True, wrong


def fits(place: Place, header: bytes) -> bool:
    """Whether it is legal there."""
    with contextlib.suppress(Exception):  # what else is raised is for a case to meet
        return judge(place, len(header).to_bytes(4, "little"), header)[0]
    return False


def play(count: int, number: int, headers: Sequence[bytes] | None = None) -> Verdicts:
    """So many mangled headers, each in some place of a session."""
    rng = random.Random(number)
    headers = headers or corpus(number)
    mutator, everywhere, verdicts = Mutator(rng, headers), places(), Verdicts()
    fitting = {place.name: [header for header in headers if fits(place, header)] for place in everywhere}
    began, warm = time.monotonic(), 0
    for case in range(count):
        place = everywhere[int(rng.random() * len(everywhere))]
        header = mutator.header(fitting[place.name])
        prefix = mutator.prefix(header)
        try:
            taken, wrong = judge(place, prefix, header)
        except Exception as error:
            taken, wrong = False, f"{type(error).__name__}: {str(error)[:200]}"
            everywhere = places()
        verdicts.accepted += taken
        if wrong is not None:
            verdicts.violations.append(f"{place.name}: {wrong}: {prefix.hex()} {header[:300]!r} (seed {number})")
            if len(verdicts.violations) > 20:
                break
        if case == 20_000:
            warm = memory_of(os.getpid())["VmRSS"]
    verdicts.cases, verdicts.seconds = case + 1, time.monotonic() - began
    if warm:
        verdicts.grown = memory_of(os.getpid())["VmRSS"] - warm
        if verdicts.grown > GROWTH_BYTES:
            verdicts.violations.append(f"the process grew by {verdicts.grown} bytes")
    return verdicts


# ------------------------------------------------------------------ a live server

SERVED_SECONDS = 20.0
"""Within this a good client has its answers, also on a machine that is busy with other things."""
LIVE_SECONDS = 10.0
"""A server that neither answers nor closes for so long has lost."""


@dataclass
class Live:
    """What came of many connections."""

    connections: int = 0
    refused: int = 0
    answered: int = 0
    rounds: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures."""
        return (
            f"rig-frames: {self.connections:,} connections in {self.seconds:.0f} s, {self.refused:,} told"
            f" protocol-error, {self.answered:,} replies, {self.rounds} rounds of a good client, slowest"
            f" {self.slowest:.2f} s; {len(self.violations)} violations"
        )


class Defects(logging.Handler):
    """Log lines with a traceback, or of a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.exc_info or record.levelno >= logging.ERROR:
            self.found.append(f"{record.getMessage()} {record.exc_info}")


@contextmanager
def defects() -> Iterator[list[str]]:
    """What the server's log says of defects meanwhile."""
    log, handler = logging.getLogger("ftpy"), Defects()
    log.addHandler(handler)
    try:
        yield handler.found
    finally:
        log.removeHandler(handler)


def usage() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return open_files(), threading.active_count()


def flood(host: Host, count: int, number: int, headers: Sequence[bytes] | None = None) -> Live:
    """So many connections, half of them authenticated, that say some mangled frames; a good client beside them."""
    rng = random.Random(number)
    headers = headers or corpus(number)
    mutator, live = Mutator(rng, headers), Live()
    before, after = (
        [header for header in headers if fits(place, header)]
        for place in places()
        if place.name in ("server after 0", "server after 4")
    )
    began = time.monotonic()
    serve_good_client(host, live)
    gc.collect()  # what goes meanwhile would hide what is left
    base = usage()
    with defects() as found, beside(lambda: serve_good_client(host, live)):
        for _ in range(count):
            authenticated = rng.random() < 0.5
            frames = [mutator.header(after if authenticated else before) for _ in range(rng.choice([1, 1, 2, 4]))]
            data = b"".join(mutator.prefix(header) + header for header in frames)
            wrong = say(host, live, data, authenticated=authenticated)
            live.connections += 1
            if wrong is not None:
                live.violations.append(f"{wrong}: {data[:300]!r} (seed {number})")
    live.violations += found
    try:
        eventually(lambda: all(now <= then for now, then in zip(usage(), base, strict=True)), 30.0)
    except AssertionError:
        live.violations.append(f"descriptors and threads are {usage()} where they were {base}")
    live.seconds = time.monotonic() - began
    return live


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """``work`` over and over in another thread."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.2):
            work()

    thread = threading.Thread(target=run, name="good-client")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def serve_good_client(host: Host, live: Live) -> None:
    """put, get and ls, each right and in time."""
    began = time.monotonic()
    source, back = host.folder / "good", host.folder / "back"
    source.write_bytes(b"good" * 1000)
    back.unlink(missing_ok=True)
    try:
        with host.client("bob", transfer=FAST) as client:
            client.put(source, "good")
            client.get("good", back)
            names = {str(info.path) for info in client.ls()}
    except FtpyError as error:
        live.violations.append(f"a good client failed: {error}")
        return
    if "good" not in names or Path(back).read_bytes() != source.read_bytes():
        live.violations.append("a good client got something else than it had put")
    live.rounds += 1
    live.slowest = max(live.slowest, time.monotonic() - began)
    if live.slowest > SERVED_SECONDS:
        live.violations.append(f"a good client waited {live.slowest:.1f} s")


def say(host: Host, live: Live, data: bytes, *, authenticated: bool) -> str | None:
    """Say it on a connection of its own and hear all that the server answers: what is wrong with that."""
    connection = None
    try:
        if authenticated:
            connection = Connection.open(host.profile(), FAST)
            sock = connection.channel.stream._sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16))
        else:
            address, _, port = host.address.rpartition(":")
            sock = socket.create_connection((address, int(port)))
            if host.tls:
                sock = tls.client_context().wrap_socket(sock)
        sock.settimeout(LIVE_SECONDS)
        heard = hear(sock, data)
    except TimeoutError:
        return "neither answered nor closed"
    except FtpyError as error:
        return f"no connection: {error}"
    finally:
        if connection is not None:
            connection.close()
        elif "sock" in locals():
            sock.close()
    return check_answers(live, heard, HEADER_BYTES if authenticated else HANDSHAKE_HEADER_BYTES)


def hear(sock: socket.socket, data: bytes) -> bytes:
    """Say it, end our half, hear the rest; a server may reset what it does not read."""
    heard = b""
    try:
        sock.sendall(data)
        socket.socket.shutdown(sock, socket.SHUT_WR)  # beneath TLS, which goes on in the other direction
        while piece := sock.recv(65_536):
            heard += piece
    except TimeoutError:
        raise
    except OSError:
        pass  # closed while we spoke
    return heard


def check_answers(live: Live, heard: bytes, limit: int) -> str | None:
    """Whole frames, bodies between them, and no word of a defect."""
    buffer = FrameBuffer(max(4096, len(heard)))
    buffer.feed(heard)
    while (header := buffer.next_header(limit)) is not None:
        fields = json.loads(header)
        live.answered += 1
        if fields.get("ok") is False:
            code = fields["error"]
            live.refused += code == "protocol-error"
            if code == "internal" or (code not in CODES and code != "protocol-error"):
                return f"the server says {code}"
        elif "length" in fields:
            buffer.take(fields["length"])
    return None
