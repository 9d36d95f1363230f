"""Real server and client processes, and what they cost: for rigs that kill, measure and attack. Loopback only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ftpy.config.client import save_profile
from ftpy.toml import to_toml
from tests.rig import Fault, Host, Proxy

MIB = 1024 * 1024
SERVED_SECONDS = 2.0
"""Promise 5: within this time of any fault a fresh client can put, get and ls, seconds."""
START_SECONDS = 20.0
SETTLE_SECONDS = 15.0
"""How long a server may take until threads and descriptors are back at their base, seconds."""
REST_SECONDS = 0.5
"""How long nothing may begin or end for a server to count as at rest, seconds."""
HAS_PROC = os.path.exists("/proc/self/status")


def served_within() -> float:
    """SERVED_SECONDS as the clock on the wall counts them where others have most of the processors, seconds."""
    load = os.getloadavg()[0]  # of the last minute: it comes after what has just begun
    with contextlib.suppress(FileNotFoundError):
        load = max(load, float(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
    return SERVED_SECONDS * max(1.0, load / (os.cpu_count() or 1))


def program(name: str) -> str:
    """The command beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is neither beside {sys.executable} nor on the PATH")
    return found


@dataclass(frozen=True)
class Usage:
    """What a process holds: open descriptors, threads, and memory in bytes (see ``memory_of``)."""

    descriptors: int
    threads: int
    resident: int
    peak: int


def memory_of(pid: int) -> dict[str, int]:
    """The memory lines of /proc/PID/status, bytes. What the page cache holds for read and written files is in none.

    VmRSS = RssAnon + RssFile (programs and libraries that are mapped) + RssShmem (shared memory that is mapped);
    VmHWM is the greatest VmRSS since the start, or since the mark was reset. Empty once the process has ended.
    """
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}


def usage_of(pid: int) -> Usage:
    """What the process holds now."""
    memory = memory_of(pid)
    return Usage(
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        resident=memory["VmRSS"],
        peak=memory["VmHWM"],
    )


def reset_peak(pid: int) -> None:
    """Let VmHWM count from now on (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass
class ProcessHost(Host):
    """A ``Host`` whose server is a process of its own, ``ftpy-server run``, on one port for all its lives."""

    process: subprocess.Popen[bytes] | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.address = self.listen
        self.client_config = self.folder / "client.toml"
        self.log = self.folder / "server.log"
        self.save_profile("default")

    def save_profile(self, name: str, user: str = "alice", address: str | None = None) -> None:
        """A profile for the ``ftpy`` command."""
        save_profile(self.client_config, name, self.profile(user, address))

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self.process is not None
        return self.process.pid

    def spawn(self) -> None:
        """Start the server; it is not listening yet."""
        config = self.folder / "server.toml"
        config.write_text(to_toml(msgspec.structs.replace(self.config, workers=self.workers), comments=False))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [program("ftpy-server"), "run", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self.spawn()
        self.wait_listening()

    def wait_listening(self) -> None:
        """Raises TimeoutError when it does not come up."""
        host, _, port = self.listen.rpartition(":")
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                assert self.process is not None and self.process.poll() is None, self.log.read_text()[-2000:]
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def kill_worker(self, rng: random.Random) -> int:
        """kill -9 one of the workers, if there is one with an upload open that one: its process id."""
        while True:
            workers = [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
            victim = rng.choice([pid for pid in workers if has_upload(pid)] or workers)
            with contextlib.suppress(ProcessLookupError):  # one that was killed before, and is gone only now
                os.kill(victim, signal.SIGKILL)
                return victim

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        process, self.process = self.process, None
        assert process is not None
        kill(process)

    def stop(self) -> bool:
        """SIGTERM: whether it drained and left with exit code 0."""
        process, self.process = self.process, None
        if process is None:
            return True
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(self.limits.drain_seconds + 20) == 0
        except subprocess.TimeoutExpired:
            kill(process)
            return False

    def ftpy(
        self, *arguments: str, server: str = "default", under: Sequence[str] = (), **options: Any
    ) -> subprocess.Popen[str]:
        """A client process, ``ftpy …``, or a command that is to start it ``under`` itself; its output is captured."""
        environment = dict(os.environ) | {"FTPY_CONFIG": str(self.client_config), "FTPY_SERVER": server}
        return subprocess.Popen(
            [*under, program("ftpy"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )

    def usage(self) -> Usage:
        """What the server process holds."""
        return usage_of(self.pid)

    def at_rest(self) -> Usage:
        """What it holds once descriptors and threads have stayed the same for REST_SECONDS."""
        seen, since = self.usage(), time.monotonic()
        end = since + SETTLE_SECONDS
        while time.monotonic() < min(end, since + REST_SECONDS):
            time.sleep(0.02)
            now = self.usage()
            if (now.descriptors, now.threads) != (seen.descriptors, seen.threads):
                since = time.monotonic()
            seen = now
        return seen

    def settled(self, base: Usage) -> Usage:
        """What it holds once descriptors and threads are at ``base`` or under, or when waiting any longer is vain."""
        until(lambda: self.usage().descriptors <= base.descriptors and self.usage().threads <= base.threads)
        return self.usage()


def has_upload(pid: int) -> bool:
    """Whether a process has an upload's data open."""
    with contextlib.suppress(OSError):  # the process is gone
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if "/.ftpy/uploads/" in os.readlink(f"/proc/{pid}/fd/{descriptor}"):
                    return True
    return False


def kill(process: subprocess.Popen[Any]) -> None:
    """kill -9 by its id, and reap it."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def until(holds: Callable[[], bool], seconds: float = SETTLE_SECONDS, pause_seconds: float = 0.02) -> bool:
    """Wait until something holds, asking again after each pause: whether it came to that."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(pause_seconds)
    return True


def told_by(violations: Iterable[str], signs: Iterable[str]) -> str | None:
    """The first sentence that has one of the signs of a control: another may tell of a slow machine, and is none."""
    return next((sentence for sentence in violations if any(sign in sentence for sign in signs)), None)


@contextlib.contextmanager
def serving(folder: Path, **options: Any) -> Iterator[ProcessHost]:
    """A host whose server process runs while the ``with`` lasts."""
    host = ProcessHost(folder, **options)
    host.start()
    try:
        yield host
    finally:
        host.stop()


class Meter(Proxy):
    """Passes everything on and counts it; when one end breaks, the other is broken as well, like a dead process."""

    def __init__(self, target: str) -> None:
        super().__init__(target, (Fault(), Fault()))

    def start_over(self) -> None:
        """Count from zero."""
        for passed in self.by_connection:
            passed[:] = 0, 0

    def _pump(self, source: socket.socket, sink: socket.socket, fault: Fault, passed: list[int], way: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                passed[way] += len(data)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def write_noise(path: Path, size: int, seed: str) -> Path:
    """A file of ``size`` bytes of which no two MiB are equal: what lands in a wrong place is noticed."""
    block = hashlib.shake_128(seed.encode()).digest(MIB)
    with open(path, "wb") as file:
        for number in range(-(-size // MIB)):
            count = min(MIB, size - number * MIB)
            file.write((number.to_bytes(8, "little") + seed.encode() + block)[:count])
    return path


def outcome(process: subprocess.Popen[str], seconds: float) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object on standard output, and standard error of a client process."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        return -9, {}, f"not done after {seconds} s"
    return process.returncode, json.loads(out) if out.strip() else {}, err
