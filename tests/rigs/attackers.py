"""Clients that hold a server up: silent, slow, stuck in the middle of TLS, idle by the thousand."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from ftpy.client.connection import Connection
from ftpy.config.addresses import parse_address
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.transport import tls
from ftpy.wire.codec import encode
from ftpy.wire.framing import frame
from ftpy.wire.messages import PutRequest
from tests.rigs.processes import MIB, ProcessHost, Usage, served_within, until, write_noise

ROOMY = Limits(connections=4000, connections_per_address=4000, connections_unauthenticated=400, handshake_seconds=10.0)
"""A server that does not refuse the sessions of this rig, which all come from one address."""
TICK_SECONDS = 1.0
"""The slow ones send one byte in this time."""
SPARE_DESCRIPTORS = 200
SESSION_BYTES = 64 * 1024
"""What a connection may cost the server, bytes: 61 KiB were measured with TLS and 37 without, of 1,000 as of 3,000."""
RESIDENT_SLACK = 32 * MIB
"""What may stay in use afterwards, bytes, and for every 1,000 sessions beyond the first as much again: 14 MiB stayed of
1,000, 35 of 3,000. It covers the good client's transfers as well, which hold 12 MiB."""
PATIENT = Transfer(stall_seconds=20.0, connect_seconds=20.0, retries=0)


def client_hello() -> bytes:
    """The first flight of a TLS handshake as our client makes it."""
    outgoing = ssl.MemoryBIO()
    half = tls.client_context().wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


class Attackers:
    """Open connections that nobody needs; use it in a ``with``. One thread drips for all of the slow ones."""

    def __init__(self, host: ProcessHost) -> None:
        self._host = host
        address = parse_address(host.address)
        self._target = (address.host, address.port)
        self._sockets: list[socket.socket] = []
        self._idle: list[Connection] = []
        self._drips: list[tuple[Connection | socket.socket, bytes]] = []
        self._stop = threading.Event()
        self._dripper = threading.Thread(target=self._drip, name="dripper")
        self._dripper.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._dripper.join()
        for sock in self._sockets:
            sock.close()
        for connection in self._idle:
            connection.close()

    def _dial(self) -> socket.socket:
        sock = socket.create_connection(self._target, timeout=PATIENT.connect_seconds)
        self._sockets.append(sock)
        return sock

    def silent(self, count: int) -> None:
        """Connect and say nothing."""
        for _ in range(count):
            self._dial()

    def stuck(self, count: int) -> None:
        """Send half of what TLS begins with (of a frame, on plain TCP), and then nothing."""
        for _ in range(count):
            opening = self._opening()
            self._dial().sendall(opening[: len(opening) // 2])

    def slow(self, count: int) -> None:
        """Send what TLS begins with, or a hello, one byte a second."""
        for _ in range(count):
            self._drips.append((self._dial(), self._opening()))

    def _opening(self) -> bytes:
        return client_hello() if self._host.tls else frame(b'{"cmd":"hello","protocol":1,"user":"alice"}')

    def idle(self, count: int) -> None:
        """Prove who we are, and then nothing."""
        for _ in range(count):
            self._idle.append(Connection.open(self._host.profile(), PATIENT))

    def slow_puts(self, count: int) -> None:
        """Prove who we are, begin a put, and send its body one byte a second."""
        self.idle(count)
        for number, connection in enumerate(self._idle[-count:]):
            request = PutRequest(id=1, path=f"slow-{number}", file_size=MIB, mtime_ns=1, length=MIB)
            connection.channel.stream.send(frame(encode(request)))
            self._drips.append((connection, bytes(MIB)))

    def _drip(self) -> None:
        at = 0
        while not self._stop.wait(TICK_SECONDS):
            for peer, data in list(self._drips):
                with contextlib.suppress(Exception):  # the server may have had enough of it, which is its right
                    if isinstance(peer, Connection):
                        peer.channel.stream.send(data[at : at + 1])
                    else:
                        peer.send(data[at : at + 1])
            at += 1


@dataclass
class Report:
    """How long a good client took, seconds by verb; what the server held; sentences for what must not be."""

    sessions: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    base: Usage | None = None
    full: Usage | None = None
    after: Usage | None = None
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures."""
        slowest = ", ".join(f"{verb} {max(seconds):.2f} s" for verb, seconds in self.seconds.items())
        held = ""
        if self.base and self.full and self.after:
            held = "; server: " + " -> ".join(
                f"{usage.resident / MIB:.0f} MiB {usage.descriptors} descriptors {usage.threads} threads"
                for usage in (self.base, self.full, self.after)
            )
        rounds = len(self.seconds.get("ls", []))
        return (
            f"rig-attackers: {self.sessions} idle sessions, {rounds} rounds of a good client, slowest: {slowest}{held}"
            f"; {len(self.violations)} violations"
        )


def allow_descriptors(count: int) -> int:
    """Raise this process's soft limit of open files, and with it its children's: how many it may have now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def serve_good_client(host: ProcessHost, report: Report) -> None:
    """Connect, put, get and ls, each in time."""
    source, back = host.folder / "good", host.folder / "good-back"
    write_noise(source, 2 * MIB, "good")
    back.unlink(missing_ok=True)
    with host.client(transfer=PATIENT) as client:
        client.close()
        for verb, act in (
            ("connect", client.__enter__),
            ("put", lambda: client.put(source, "good")),
            ("get", lambda: client.get("good", back)),
            ("ls", lambda: list(client.ls())),
        ):
            began = time.monotonic()
            act()
            seconds = time.monotonic() - began
            report.seconds.setdefault(verb, []).append(seconds)
            if seconds > served_within():
                report.violations.append(f"a good client waited {seconds:.2f} s for {verb}")
    if back.read_bytes() != source.read_bytes():
        report.violations.append("a good client got other bytes than it had put")


def rig_attackers(host: ProcessHost, sessions: int, rounds: int, strangers: int = 40) -> Report:
    """A good client before, during and after ``sessions`` idle sessions and ``strangers`` of each other kind."""
    report = Report(sessions=sessions)
    serve_good_client(host, report)
    base = report.base = host.at_rest()
    with Attackers(host) as attackers:
        attackers.idle(sessions)
        attackers.slow_puts(3)
        attackers.silent(strangers)
        attackers.stuck(strangers)
        attackers.slow(strangers)
        report.full = host.usage()
        for _ in range(rounds):
            serve_good_client(host, report)
            time.sleep(0.2)
    host.settled(base)
    most = base.resident + RESIDENT_SLACK * max(1000, sessions) // 1000
    until(lambda: host.usage().resident <= most)  # what a crowd has cost is given back a second after it has left
    report.after = host.usage()
    serve_good_client(host, report)
    if report.after.descriptors > base.descriptors or report.after.threads > base.threads:
        report.violations.append(f"not back at its base: {report.after} where {base} is the base")
    if report.after.resident > most:
        report.violations.append(
            f"memory is not back at its base: {report.after.resident} bytes where {most} are the most"
        )
    most += report.full.threads * SESSION_BYTES
    if report.full.resident > most:
        report.violations.append(f"all at once cost {report.full.resident} bytes where {most} are the most")
    if host.uploads or (host.root / "slow-0").exists():
        report.violations.append("something of the slow puts was kept")
    return report
