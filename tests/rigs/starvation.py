"""A server that runs out of descriptors, threads or memory, what it costs meanwhile, and how soon all is well again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from blake3 import blake3

from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.errors import FtpyError
from ftpy.wire.codec import encode
from ftpy.wire.fields import Trailer
from ftpy.wire.framing import frame
from ftpy.wire.messages import LsRequest, PartReply, PartRequest, PutRequest, StatRequest, UploadReply
from tests.rig import Daemon, Host
from tests.rigs.processes import (
    MIB,
    SERVED_SECONDS,
    SETTLE_SECONDS,
    Usage,
    reset_peak,
    served_within,
    until,
    usage_of,
    write_noise,
)

AGAIN_SECONDS = 5.0
"""Promise: so soon after what was used up is free again a fresh client has put, got and listed, seconds."""
MOST_CPU = 0.06
"""Of one core, while nothing can be done: accept is tried ten times a second, which is some 0.01. One that spins takes
what it gets, on a busy machine no more than 0.2."""
BODY_BYTES = 16 * MIB
"""The most that an inline put may hold in memory."""
WINDOWS = 3
"""The processor time is that of the best of so many: who spins does so in all, who was busy with the last ones that
came does not."""
LOG_LINES = 200
"""More than that of one starvation is a flood."""
QUICK = Transfer(stall_seconds=20.0, connect_seconds=1.0, retries=0)
PATIENT = Transfer(stall_seconds=20.0, connect_seconds=5.0, retries=8)

ROOMY = f"""
[limits]
connections = 5000
connections_per_address = 5000
connections_unauthenticated = 5000
handshake_seconds = 60
inline_bytes = {BODY_BYTES}
"""
"""No limit of ours comes before the system's."""


@dataclass(frozen=True)
class Kind:
    """What runs out: Python that runs in the server first, and clients that use all of it up."""

    before: str
    exhaust: Callable[[Host, ExitStack], None]


def _strangers(host: Host, stack: ExitStack) -> None:
    name, _, port = host.address.rpartition(":")
    for _ in range(400):
        stack.enter_context(socket.create_connection((name, int(port)), timeout=5))


def _bodies(host: Host, stack: ExitStack) -> None:
    """Authenticated clients, each in the middle of a body that is held in memory; until no more is to be had."""
    for number in range(40):
        with contextlib.suppress(FtpyError, OSError):
            connection = Connection.open(host.profile(), QUICK)
            stack.callback(connection.close)
            request = PutRequest(id=1, path=f"body-{number}", file_size=BODY_BYTES, mtime_ns=1, length=BODY_BYTES)
            connection.channel.stream.send(frame(encode(request)) + bytes(1024))


KINDS = {
    "descriptors": Kind(
        before="import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))",
        exhaust=_strangers,
    ),
    "threads": Kind(  # RLIMIT_NPROC does not bind root
        before="""
import threading
name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
start = getattr(threading, name)
def limited(*given, **named):
    if threading.active_count() > 60:
        raise RuntimeError("can't start new thread")
    return start(*given, **named)
setattr(threading, name, limited)
""",
        exhaust=_strangers,
    ),
    "memory": Kind(
        before=f"""
import resource
from ftpy.server import accepting
statm = open("/proc/self/statm")  # the sandbox lets nobody open it later
class Server(accepting.Server):
    def serve(self):
        used = int(statm.read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + {300 * MIB}, -1))
        super().serve()
from ftpy.server import server
server.Server = Server
""",
        exhaust=_bodies,
    ),
}
SPINNING = "from ftpy.server import serving\nserving.STARVED_SECONDS = 0\n"
"""The control: a server that tries again at once."""


@dataclass
class Report:
    """What a starvation cost, and sentences for what must not be."""

    kind: str
    cpu: float = 0.0
    """Processor time while starved, of one core."""
    again_seconds: float = 0.0
    said: int = 0
    base: Usage | None = None
    after: Usage | None = None
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures."""
        held = ""
        if self.base and self.after:
            held = "".join(
                f", {usage.descriptors} descriptors {usage.threads} threads {usage.resident // MIB} MiB {when}"
                for usage, when in ((self.base, "before"), (self.after, "after"))
            )
        return (
            f"rig-starvation: {self.kind}: {self.cpu:.3f} of a core while starved, {self.said} lines said, served "
            f"{self.again_seconds:.2f} s after{held}; {len(self.violations)} violations"
        )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_share(pid: int, seconds: float) -> float:
    """How much of one core a process uses for so long."""
    began, spent = time.monotonic(), cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - spent) / (time.monotonic() - began)


def ran_out(daemon: Daemon) -> bool:
    """Whether something did."""
    return "accept-failed" in daemon.log or "out of memory" in daemon.log


def serve_good_client(host: Host, transfer: Transfer) -> None:
    """Put, get, ls, and the same bytes back. Raises FtpyError."""
    source, back = host.folder / "good", host.folder / "good-back"
    write_noise(source, 3 * MIB, "good")
    back.unlink(missing_ok=True)
    with host.client(transfer=transfer) as client:
        client.put(source, "good")
        client.get("good", back)
        assert "good" in [str(info.path) for info in client.ls()]
    assert back.read_bytes() == source.read_bytes()


def rig_starvation(host: Host, kind: str, seconds: float = 1.5, *, control: bool = False) -> Report:
    """Let a server run out of something for so long."""
    report = Report(kind)
    recipe = KINDS[kind]
    with Daemon(host, ROOMY, before=recipe.before + "\n" + (SPINNING if control else "")) as daemon:
        assert daemon.process is not None
        pid = daemon.process.pid
        serve_good_client(host, PATIENT)
        time.sleep(0.3)
        report.base = usage_of(pid)
        lines = daemon.log.count("\n")
        with ExitStack() as stack:
            recipe.exhaust(host, stack)
            until(lambda: ran_out(daemon))
            report.cpu = min(cpu_share(pid, seconds / WINDOWS) for _ in range(WINDOWS))
            with contextlib.suppress(FtpyError):  # it may be served or not; it must come to an end
                serve_good_client(host, QUICK)
        began = time.monotonic()
        try:
            serve_good_client(host, PATIENT)
        except FtpyError as error:
            report.violations.append(f"a good client was not served afterwards: {error}")
        report.again_seconds = time.monotonic() - began
        _judge(report, daemon, pid, lines)
    return report


def _judge(report: Report, daemon: Daemon, pid: int, lines: int) -> None:
    base = report.base
    assert base is not None and daemon.process is not None
    if daemon.process.poll() is not None:
        report.violations.append(f"the server died: {daemon.log[-2000:]}")
        return
    until(
        lambda: usage_of(pid).descriptors <= base.descriptors and usage_of(pid).threads <= base.threads, SETTLE_SECONDS
    )
    report.after = after = usage_of(pid)
    log = daemon.log
    report.said = log.count("\n") - lines
    if report.again_seconds > AGAIN_SECONDS * served_within() / SERVED_SECONDS:
        report.violations.append(f"a good client waited {report.again_seconds:.1f} s afterwards")
    if report.cpu > MOST_CPU:
        report.violations.append(f"it spins: {report.cpu:.2f} of a core while nothing could be done")
    if after.descriptors > base.descriptors or after.threads > base.threads:
        report.violations.append(f"not back at its base: {after} where {base} is the base")
    if "Traceback" in log or '"traceback"' in log:
        report.violations.append("a traceback: " + log[log.index("Traceback") - 500 :][:3000])
    if report.said > LOG_LINES + 2 * 400:  # one for each connection that left is its own, not the server's
        report.violations.append(f"{report.said} lines were said")
    if not ran_out(daemon):
        report.violations.append("nothing ran out: this proves nothing")


# ------------------------------------------------------------------ what one connection can make a server hold

UPLOADS = 64
"""As many as one connection may hold open (server/context.py)."""
HELD_BYTES = {"requests": 8 * MIB, "unread": 8 * MIB, "group": 24 * MIB, "uploads": 160 * MIB}
"""The most that one authenticated connection may cost, by what it does. Buffers of uploads that rest are let go after
0.1 s: what is measured depends on how fast they are fed one after the other; all at once would be 256 MiB."""


def _requests(connection: Connection) -> None:
    """As many requests as may be under way, sent in one piece, and no answer read."""
    train = b"".join(frame(encode(StatRequest(id=number + 1, path="good"))) for number in range(16_384))
    _push(connection, train)


def _unread(connection: Connection) -> None:
    """Listings that nobody reads."""
    train = b"".join(frame(encode(LsRequest(id=number + 1, path="many"))) for number in range(1000))
    _push(connection, train)


def _group(connection: Connection) -> None:
    """Small files, of which as many as may be wait for each other, in memory or not."""
    data = os.urandom(MIB)
    digest = Trailer(md5=hashlib.md5(data, usedforsecurity=False).hexdigest())
    put = (
        frame(encode(PutRequest(id=1, path="group", file_size=MIB, mtime_ns=1, length=MIB)))
        + data
        + frame(encode(digest))
    )
    _push(connection, put * 40)


def _uploads(connection: Connection) -> None:
    """As many uploads as may be open, each with its first part hashed and half of one more on the way: in the last."""
    for number in range(UPLOADS):
        request = PutRequest(id=number + 1, path=f"upload-{number}", file_size=64 * MIB, mtime_ns=1)
        reply = connection.call(request, UploadReply)
        data = bytes(reply.part_size)
        connection.channel.send(PartRequest(id=number + 1, upload=reply.upload, part=0, length=len(data)))
        connection.channel.send_body(memoryview(data))
        connection.channel.send(Trailer(blake3=blake3(data).hexdigest()))
        connection.wait(PartReply)
    connection.channel.send(PartRequest(id=UPLOADS + 1, upload=reply.upload, part=1, length=len(data)))
    connection.channel.send_body(memoryview(data)[: len(data) // 2])


def _push(connection: Connection, data: bytes) -> None:
    """Send as much as the server takes within a while, and read nothing."""
    sock: socket.socket = connection.channel.stream._sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 1, 0))
    with contextlib.suppress(OSError):
        sock.sendall(data)


HOARDS: dict[str, Callable[[Connection], None]] = {
    "requests": _requests,
    "unread": _unread,
    "group": _group,
    "uploads": _uploads,
}


def rig_hoard(host: Host, kind: str) -> tuple[int, int]:
    """Let one connection make a server hold as much as it can: bytes at the peak, and threads, both above idle."""
    many = host.root / "many"
    many.mkdir()
    for number in range(2000):
        (many / f"{number:050}").touch()
    with Daemon(host) as daemon:
        assert daemon.process is not None
        pid = daemon.process.pid
        serve_good_client(host, PATIENT)
        connection = Connection.open(host.profile(), PATIENT)
        try:
            base = usage_of(pid)
            reset_peak(pid)
            HOARDS[kind](connection)
            time.sleep(0.5)
            usage = usage_of(pid)
            return usage.peak - base.resident, usage.threads - base.threads
        finally:
            connection.close()
