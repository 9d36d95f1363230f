"""The n-th system call of the server fails, for every n until none is left to fail; strace(1) does it.

One server serves all: strace comes to it for one request, with one fault, and leaves again. It counts per thread, so
one run may fail the n-th call of several. close(2) fails in another way (``closing``).
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ftpy.client.client import Client
from ftpy.config.server import Limits
from ftpy.errors import ConnectionFailed, FtpyError, InternalError, RequestError
from ftpy.wire.spelling import b64encode
from tests.rigs.closing import PLAN, FailedClose
from tests.rigs.kill import connected
from tests.rigs.nursery import AT_ONCE, INLINE, ForkedHost, Nursery
from tests.rigs.processes import served_within, told_by, until
from tests.rigs.requests import REQUESTS, Request
from tests.rigs.wholes import WHOLES

ATTACH_SECONDS = 10.0
HANG_SECONDS = 20.0
"""When a request counts as hanging: the server is killed then."""
MOST = 500
"""A call that fails more often than this within one request is made without end."""

CONTROLS = {
    "deaf-sync": ("fsync", "though a sync had failed"),
    "retried-sync": ("fsync", "though a sync had failed"),
    "believed-close": ("close", "no word for it"),
}
"""Broken builds: the call that must fail with EIO, and what a sentence that tells them has in it."""

_DISK = ("EIO", "ENOSPC", "EDQUOT", "EINTR")
_LINE = ("EINTR", "ECONNRESET", "EIO")
FAULTS: dict[str, tuple[str, ...]] = {
    "openat": ("EIO", "ENOSPC", "EDQUOT", "EINTR", "EMFILE"),
    "openat2": ("EIO", "EINTR", "EMFILE"),
    "write": _DISK,
    "pwrite64": _DISK,
    "fsync": _DISK,
    "fdatasync": _DISK,
    "syncfs": _DISK,
    "rename": _DISK,
    "renameat": _DISK,
    "renameat2": _DISK,
    "unlink": ("EIO", "ENOSPC", "EINTR"),
    "unlinkat": ("EIO", "ENOSPC", "EINTR"),
    "fallocate": _DISK,
    "close": _DISK,
    "read": ("EIO", "EINTR"),
    "pread64": ("EIO", "EINTR"),
    "preadv": ("EIO", "EINTR"),
    "sendfile": ("EIO", "EINTR"),
    "mkdir": _DISK,
    "mkdirat": _DISK,
    "fstat": ("EIO",),
    "newfstatat": ("EIO",),
    "fstatfs": ("EIO",),
    "ftruncate": _DISK,
    "fchmod": _DISK,
    "utimensat": _DISK,
    "link": ("EIO", "ENOSPC"),
    "linkat": ("EIO", "ENOSPC"),
    "getdents64": ("EIO",),
    "flock": ("EIO", "EINTR", "ENOLCK"),
    "sendto": _LINE,
    "recvfrom": _LINE,
    "clone3": ("EAGAIN",),
}
"""Calls, and the errors with which each may fail; sockets are read and written by recvfrom and sendto, TLS by read and
write."""


def missing() -> str | None:
    """What this machine lacks, by trying; None where it has all."""
    if shutil.which("strace") is None:
        return "needs strace on the PATH (package strace)"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with Injection(sleeper.pid, "read", "EIO", 1, Path(os.devnull)):
            return None
    except OSError as error:
        return f"strace cannot trace here: {error}"
    finally:
        sleeper.kill()
        sleeper.wait()


class Tracing:
    """strace is at a process while the ``with`` lasts."""

    def __init__(self, pid: int, options: list[str]) -> None:
        self._command = ["strace", *options, "-p", str(pid)]

    def __enter__(self) -> Self:
        self._strace = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        said = self._strace.stderr.readline()
        if "attached" not in said:
            self._strace.kill()
            self._strace.communicate()
            raise OSError(said.strip() or "it ended at once")
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.send_signal(signal.SIGINT)  # it lets go of the process, and ends
        self._strace.communicate(timeout=ATTACH_SECONDS)


class Injection(Tracing):
    """While the ``with`` lasts, the ``number``-th ``call`` of each thread of a process fails."""

    def __init__(self, pid: int, call: str, error: str, number: int, output: Path) -> None:
        what = f"inject={call}:error={error}:when={number}"
        super().__init__(pid, ["-f", "-o", str(output), "-e", f"trace={call}", "-e", what])
        self._output = output
        self.count = 0
        """How many calls have failed."""

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._output.is_file():
            self.count = self._output.read_text(errors="replace").count("(INJECTED)")


@dataclass
class Report:
    """What the rig has seen; ``violations`` are sentences, none of which may be there."""

    runs: int = 0
    fired: int = 0
    """Runs in which a call failed."""
    by_request: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    """How requests ended under a fault: "done", a code, "connection lost"."""
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self, name: str) -> str:
        """The figures."""
        each = ", ".join(f"{count} {word}" for word, count in self.by_request.items())
        outcomes = ", ".join(f"{count} {word}" for word, count in sorted(self.outcomes.items()))
        return (
            f"{name}: {self.runs} requests in {self.seconds:.0f} s, {self.fired} with a failed call ({each}); "
            f"ended: {outcomes}; {len(self.violations)} violations"
        )


SYNCS = frozenset(["fsync", "fdatasync", "syncfs"])
_CALL = re.compile(r"^\d+ +(\w+)\(", re.MULTILINE)


# ------------------------------------------------------------------ the rig


class Rig:
    """A server, and faults for it one after the other."""

    def __init__(self, host: ForkedHost, report: Report) -> None:
        self.host, self.report = host, report
        self._trace, self._plan = host.folder / "trace", host.folder / "plan"
        self._probe = host.folder / "probe"
        host.root.mkdir(exist_ok=True)
        self.requests = {kind.name: kind(host) for kind in REQUESTS + WHOLES}
        self._start()

    def _start(self) -> None:
        """Start the server and let it do everything once: from then on nothing is new to it."""
        self.host.spawn()
        connected(self.host, time.monotonic()).close()
        for request in self.requests.values():
            request.prepare()
            with host_client(self.host) as client:
                request.ask(client)
        self._served(time.monotonic(), "at the start")
        self._base = self.host.at_rest()

    @contextlib.contextmanager
    def _patience(self, what: str) -> Iterator[None]:
        """Kill the server when it does not come to an end, and start another one."""
        server, hung = self.host.pid, threading.Event()

        def end() -> None:
            hung.set()
            os.kill(server, signal.SIGKILL)

        timer = threading.Timer(HANG_SECONDS, end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            if hung.is_set():
                self._violation(f"{what}: hangs")
                self.host.kill()
                self._start()

    def calls(self, request: Request) -> list[str]:
        """The calls of FAULTS that a request makes."""
        request.prepare()
        self._trace.unlink(missing_ok=True)
        options = ["-f", "-o", str(self._trace), "-e", "trace=" + ",".join(f"?{call}" for call in FAULTS)]
        with host_client(self.host) as client, Tracing(self.host.pid, options):
            request.ask(client)
        made = set(_CALL.findall(self._trace.read_text(errors="replace"))) | {"close"}
        return [call for call in FAULTS if call in made]

    def exhaust(self, request: Request, call: str, error: str, most: int = MOST) -> None:
        """Let the first, the second, the third … ``call`` fail, until none is left or ``most`` have."""
        for number in range(1, most + 1):
            if not self._run(request, call, error, number):
                return
        if most == MOST:
            self._violation(f"{request.name}: {call} does not end after {most} times {error}")

    def _violation(self, sentence: str) -> None:
        self.report.violations.append(sentence)

    def _run(self, request: Request, call: str, error: str, number: int) -> bool:
        """One request under one fault: whether anything failed."""
        what = f"{request.name}, {call} number {number}: {error}"
        request.prepare()
        self._trace.unlink(missing_ok=True)
        injection: Injection | FailedClose
        if call == "close":
            injection = FailedClose(self._plan, error, number)
        else:
            injection = Injection(self.host.pid, call, error, number, self._trace)
        with self._patience(what):
            with host_client(self.host) as client, injection:
                outcome = self._ask(request, client, what)
            self._judge(request, (call, error, number), what, outcome, injection.count)
        return injection.count > 0

    def _judge(self, request: Request, case: tuple[str, str, int], what: str, outcome: str, failed: int) -> None:
        """What became of a request of whose calls so many ``failed``, and of the server."""
        since, (call, error, number) = time.monotonic(), case
        self.report.runs += 1
        if failed:
            self.report.fired += 1
            self.report.by_request[request.name] = self.report.by_request.get(request.name, 0) + 1
            self.report.outcomes[outcome] = self.report.outcomes.get(outcome, 0) + 1
        done = outcome == "done"
        if done and call in SYNCS and error != "EINTR" and failed and number <= request.needed_syncs:
            self._violation(f"{what}: acknowledged, though a sync had failed")
        if not failed and not done:
            self._violation(f"{what}: nothing failed, and it ended with {outcome}")
        if fault := request.fault(done):
            self._violation(f"{what}: ended with {outcome}: {fault}")
        self._served(since, what)
        self._settle(request, what)
        self._check_base(what)

    def _ask(self, request: Request, client: Client, what: str) -> str:
        try:
            request.ask(client)
        except InternalError as refused:
            self._violation(f"{what}: the server has no word for it: {refused}")
            return refused.code
        except RequestError as refused:
            if "Traceback" in str(refused) or str(self.host.root) in str(refused):
                self._violation(f"{what}: the client hears of the server's inside: {refused}")
            return refused.code
        except ConnectionFailed:
            return "connection lost"
        return "done"

    def _settle(self, request: Request, what: str) -> None:
        try:
            with host_client(self.host) as client:
                fault = request.settle(client)
        except FtpyError as error:
            fault = f"afterwards: {type(error).__name__}: {error}"
        if fault:
            self._violation(f"{what}: {fault}")

    def _served(self, since: float, what: str) -> bool:
        """A fresh client puts, gets and lists in time: whether it could at all."""
        self._probe.write_bytes(f"{since}".encode())
        try:
            with host_client(self.host) as client:
                client.put(self._probe, "probe")
                client.get("probe", self._probe, force=True)
                list(client.ls())
        except FtpyError as error:
            if what != "at the start":
                self._violation(f"{what}: a fresh client is not served: {type(error).__name__}: {error}")
            return False
        if (seconds := time.monotonic() - since) > served_within():
            self._violation(f"{what}: a fresh client was served after {seconds:.2f} s")
        return True

    def _check_base(self, what: str) -> None:
        def at_base() -> bool:
            now = self.host.usage()
            return now.descriptors <= self._base.descriptors and now.threads <= self._base.threads

        if not until(at_base, 5.0):
            now = self.host.usage()
            self._violation(f"{what}: not back at its base: {now} where {self._base} is the base")
            self._base = now
        staged = [path.name for path in (self.host.root / ".ftpy" / "staged").iterdir() if "-" in path.name]
        if staged:
            self._violation(f"{what}: staged files are left: {staged}")
            for name in staged:
                (self.host.root / ".ftpy" / "staged" / name).unlink()

    def check_log(self) -> None:
        """No secret is in it, every line is one event, and nothing came as a surprise."""
        log = self.host.log.read_text(errors="replace")
        for key in self.host.keys.values():
            if b64encode(key) in log or key.hex() in log:
                self._violation("a key is in the log")
        for word in ("Traceback", "Logging error", "Exception in thread", "connection-failed", "internal"):
            lines = [line for line in log.splitlines() if word in line]
            if lines:
                self._violation(f"{len(lines)} times {word!r} in the log, first: {lines[0][:1000]}")


@contextlib.contextmanager
def host_client(host: ForkedHost) -> Iterator[Client]:
    """A client that tells every failure."""
    with host.client(transfer=AT_ONCE) as client:
        yield client


def rig_syscalls(
    folder: Path,
    only: Callable[[str, str, str], bool] = lambda *_: True,
    *,
    build: str = "",
    tls: bool = False,
    seconds: float = float("inf"),
    seed: int = 0,
    most: int = MOST,
    signs: Collection[str] = (),
) -> Report:
    """Every request x call x error that ``only`` wants, in random order, until ``seconds`` are over.

    ``most``: at most that many n of each. ``signs``: end with a violation that has one of these in it.
    """
    report, began = Report(), time.monotonic()
    folder.mkdir()
    FailedClose.prepare(folder / "plan")
    environment = {PLAN: str(folder / "plan")}
    with Nursery("small-parts", build, "failing-close", environment=environment) as nursery:
        host = ForkedHost(folder, tls=tls, limits=Limits(inline_bytes=INLINE), nursery=nursery)
        host.accounts.change("alice", quota_bytes=2**40, quota_files=2**30)  # far away, but counted
        try:
            rig = Rig(host, report)
            cases = [
                (request, call, error)
                for request in rig.requests.values()
                for call in rig.calls(request)
                for error in FAULTS[call]
                if only(request.name, call, error)
            ]
            random.Random(seed).shuffle(cases)
            end = time.monotonic() + seconds  # of cases: on a busy machine what comes before takes its time
            for case in cases:
                if time.monotonic() > end or told_by(report.violations, signs):
                    break
                rig.exhaust(*case, most=most)
            rig.check_log()
        finally:
            host.kill()
    report.seconds = time.monotonic() - began
    return report
