"""Many good clients at work, ten thousand that connect and reset, and slow ones at every point where one can stop.

The good ones meet no error; the slow ones are gone when their time is over; the server is back at its base afterwards.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.config.addresses import parse_address
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.errors import FtpyError
from ftpy.transport import tls
from ftpy.wire.bases import Request
from ftpy.wire.codec import encode
from ftpy.wire.framing import frame
from ftpy.wire.handshake import Binding, Hello
from ftpy.wire.messages import GetRequest, LsRequest, PartRequest, PutRequest, UploadReply
from ftpy.wire.spelling import b64encode
from tests.rigs.attackers import RESIDENT_SLACK, client_hello
from tests.rigs.book import version_of_bytes
from tests.rigs.processes import MIB, ProcessHost, Usage, until, write_noise

ROOMY = Limits(connections=4000, connections_per_address=4000, connections_unauthenticated=400)
SOON = msgspec.structs.replace(ROOMY, handshake_seconds=5.0, stall_seconds=5.0, idle_seconds=5.0)
"""For a few clients: times that a test can wait for, and that honest clients never need."""
LATER = msgspec.structs.replace(ROOMY, handshake_seconds=15.0, stall_seconds=15.0, idle_seconds=30.0)
"""For hundreds, which are threads of one process: each has to wait for its turn."""
LATE_SECONDS = 20.0
"""How much later than its limit says a slow one may be gone: the machine is busy with all the others."""
PATIENT = Transfer(stall_seconds=60.0, connect_seconds=60.0, retries=0, streams=1)
"""A good client tells every failure; that it may have to wait is no failure."""
FILES = 20
"""Files that each good client puts over and over."""
LARGE = 9 * MIB
"""Two parts, bytes; small enough that two hundred of them fit."""


@dataclass
class Report:
    """What the rig has seen; ``violations`` are sentences, none of which may be there."""

    active: int = 0
    transfers: int = 0
    resets: int = 0
    stalled: dict[str, float] = field(default_factory=dict)
    """Seconds until the server had had enough, by the point where it was stopped at."""
    seconds: float = 0.0
    base: Usage | None = None
    full: Usage | None = None
    after: Usage | None = None
    violations: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """The figures."""
        assert self.base and self.full and self.after
        held = " -> ".join(
            f"{usage.resident / MIB:.0f} MiB {usage.descriptors} descriptors {usage.threads} threads"
            for usage in (self.base, self.full, self.after)
        )
        slow = f"{len(self.stalled)} kinds of slow ones gone after at most {max(self.stalled.values()):.1f} s"
        return (
            f"{name}: {self.active} clients, {self.transfers} transfers in {self.seconds:.0f} s, {self.resets} resets, "
            f"{slow}; server: {held}; {len(self.violations)} violations"
        )


# ------------------------------------------------------------------ good clients


class Good(threading.Thread):
    """Puts, gets and lists in a folder of its own, over one connection after the other, until it is stopped."""

    def __init__(self, host: ProcessHost, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"good-{number}")
        self._host, self._number, self._stopped = host, number, stop
        self._rng = random.Random(number)
        self.transfers = 0
        self.error: str | None = None

    def run(self) -> None:
        """Every error is one."""
        try:
            while not self._stopped.is_set():
                with self._host.client(transfer=PATIENT) as client:
                    for _ in range(10):
                        if not self._stopped.is_set():
                            self._move(client)
        except (FtpyError, AssertionError) as error:
            self.error = f"good client {self._number}: {type(error).__name__}: {error}"

    def _move(self, client: Client) -> None:
        rng = self._rng
        path = f"good-{self._number}/{rng.randrange(FILES)}"
        source, back = (self._host.folder / f"{self.name}-{what}" for what in ("source", "back"))
        data = rng.randbytes(LARGE if rng.random() < 0.02 else rng.choice([0, 1, 1000, 100_000]))
        source.write_bytes(data)
        client.put(source, path)
        client.get(path, back, force=True)
        assert version_of_bytes(back.read_bytes()) == version_of_bytes(data), f"{path} came back as other bytes"
        assert path in {str(info.path) for info in client.ls(f"good-{self._number}")}, f"{path} is not listed"
        self.transfers += 2


# ------------------------------------------------------------------ bad ones


def reset(host: ProcessHost, count: int, rng: random.Random) -> int:
    """Connect and reset, at once or after some bytes: how many did."""
    address = parse_address(host.address)
    opening = client_hello() if host.tls else frame(b'{"cmd":"hello","protocol":1,"user":"alice"}')
    for number in range(count):
        sock = socket.create_connection((address.host, address.port), timeout=PATIENT.connect_seconds)
        with sock, contextlib.suppress(ConnectionError):  # a server that was faster is as well
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 2:
                sock.sendall(opening[: rng.randrange(len(opening) + 1)])
    return count


def _stranger(host: ProcessHost) -> socket.socket:
    address = parse_address(host.address)
    return socket.create_connection((address.host, address.port), timeout=PATIENT.connect_seconds)


def _encrypted(host: ProcessHost) -> socket.socket:
    sock = _stranger(host)
    pin = host.profile().certificate_sha256
    return tls.connect(sock, bytes.fromhex(pin), PATIENT.connect_seconds) if pin else sock


def _half_tls(host: ProcessHost) -> socket.socket:
    sock = _stranger(host)
    sock.sendall(client_hello()[:100])
    return sock


def _hello(host: ProcessHost, share: float) -> socket.socket:
    sock = _encrypted(host)
    binding: Binding = "tls-cert-sha256" if host.tls else "none"
    data = frame(encode(Hello(protocol=1, user="alice", client_nonce=b64encode(bytes(32)), binding=binding)))
    sock.sendall(data[: int(len(data) * share)])
    return sock


def _session(host: ProcessHost, *requests: Request, body: int = 0, share: float = 1.0) -> Connection:
    """An authenticated connection, stopped after a share of the last request, or so far into its body."""
    connection = Connection.open(host.profile(), PATIENT)
    data = b"".join(frame(encode(request)) for request in requests)
    connection.channel.stream.send(data[: int(len(data) * share)] + bytes(body))
    return connection


def _part(host: ProcessHost) -> Connection:
    connection = Connection.open(host.profile(), PATIENT)
    put = PutRequest(id=1, path="slow-part", file_size=LARGE, mtime_ns=time.time_ns())
    upload = connection.call(put, UploadReply).upload
    connection.channel.stream.send(frame(encode(PartRequest(id=2, upload=upload, part=0, length=8 * MIB))) + bytes(MIB))
    return connection


def _put(size: int) -> PutRequest:
    return PutRequest(id=1, path="slow-put", file_size=size, mtime_ns=1, length=size)


STALLS: dict[str, tuple[bool, Callable[[ProcessHost], socket.socket | Connection]]] = {
    "connected": (False, _stranger),
    "in the middle of TLS": (True, _half_tls),
    "before hello": (True, _encrypted),
    "in the middle of hello": (False, lambda host: _hello(host, 0.5)),
    "before the proof": (False, lambda host: _hello(host, 1.0)),
    "idle": (False, _session),
    "in the middle of a header": (False, lambda host: _session(host, LsRequest(id=1), share=0.5)),
    "before a body": (False, lambda host: _session(host, _put(1000))),
    "in the middle of a body": (False, lambda host: _session(host, _put(1000), body=500)),
    "before a trailer": (False, lambda host: _session(host, _put(1000), body=1000)),
    "in the middle of a part": (False, _part),
    "before it reads a file": (False, lambda host: _session(host, GetRequest(id=1, path="large"))),
    "before it reads a thousand listings": (
        False,
        lambda host: _session(host, *(LsRequest(id=n + 1, recursive=True) for n in range(1000))),
    ),
}
"""Where a client can stop, whether that is so with TLS only, and how it gets there."""


class Stalled(threading.Thread):
    """One slow client: comes to its point, and waits until the server has closed."""

    def __init__(self, host: ProcessHost, point: str, patience_seconds: float) -> None:
        super().__init__(name=f"stalled {point}")
        self._host, self.point, self._patience_seconds = host, point, patience_seconds
        self.seconds: float | None = None

    def run(self) -> None:
        """Wait for the end without reading: what the server sends fills the buffers between."""
        peer = STALLS[self.point][1](self._host)
        sock = peer.channel.stream._sock if isinstance(peer, Connection) else peer
        port, server_port = sock.getsockname()[1], parse_address(self._host.address).port
        until(lambda: _is_open(server_port, port), 1.0, 0.001)  # its end may not have heard yet that ours is
        began = time.monotonic()
        try:
            if until(lambda: not _is_open(server_port, port), self._patience_seconds):
                self.seconds = time.monotonic() - began
        finally:
            peer.close()


def _is_open(server_port: int, port: int) -> bool:
    """Whether the server's end of the connection from ``port`` is established: its socket is told of by the kernel.

    At our end that could not be seen: with no room left here, not even the end of what was sent arrives.
    """
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if (int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)) == (server_port, port):
            return state == "01"
    return False


# ------------------------------------------------------------------ the rig


def rig_load(
    host: ProcessHost, active: int, seconds: float, resets: int, seed: int, *, late_seconds: float = LATE_SECONDS
) -> Report:
    """``active`` good clients for so long, and meanwhile ``resets`` and one slow client at every point."""
    patience_seconds = host.limits.idle_seconds + late_seconds
    report = Report(active=active)
    write_noise(host.root / "large", 64 * MIB, "large")
    for number in range(500):
        (host.root / f"file-{number}").touch()
    stop = threading.Event()
    warm = Good(host, active, stop)
    with host.client(transfer=PATIENT) as client:
        warm._move(client)
    base = report.base = host.at_rest()
    good = [Good(host, number, stop) for number in range(active)]
    slow = [
        Stalled(host, point, patience_seconds) for point, (needs_tls, _) in STALLS.items() if host.tls or not needs_tls
    ]
    began = time.monotonic()
    for thread in [*good, *slow]:
        thread.start()
    report.resets = reset(host, resets, random.Random(seed))
    report.full = host.usage()
    for stalled in slow:
        stalled.join()
        if stalled.seconds is None:
            report.violations.append(f"a client that stopped {stalled.point} was never closed")
        else:
            report.stalled[stalled.point] = stalled.seconds
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    stop.set()
    for thread in good:
        thread.join()
    report.seconds = time.monotonic() - began
    report.transfers = sum(thread.transfers for thread in good)
    report.violations += [thread.error for thread in good if thread.error]
    host.settled(base)
    most = base.resident + RESIDENT_SLACK
    until(lambda: host.usage().resident <= most)
    report.after = host.usage()
    if report.after.descriptors > base.descriptors or report.after.threads > base.threads:
        report.violations.append(f"not back at its base: {report.after} where {base} is the base")
    if report.after.resident > most:
        report.violations.append(f"memory is not back at its base: {report.after.resident} bytes, {most} at most")
    return report
