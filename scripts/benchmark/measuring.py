"""One client run after the other: timed whole, and what arrived compared byte by byte."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.contenders import CONTENDERS
from benchmark.servers import Server, machine_seconds
from benchmark.sites import Failed, Site, last_line

VERBS = ("put", "get")
MIB = 1024 * 1024
CALM_CORES = 0.15
"""What other processes may use of a core beside a run that counts as undisturbed."""
CALM_SECONDS = 0.5
"""How long they must have been that calm before a run begins."""


def say(text: str) -> None:
    """Speak on standard error; the table alone goes to standard output."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Sample:
    """One timed run of one whole client process; all numbers but ``round`` in seconds."""

    contender: str
    verb: str
    round: int
    seconds: float
    client_processor_seconds: float
    server_processor_seconds: float
    other_processor_seconds: float

    @property
    def calm(self) -> bool:
        """Whether other processes left the machine to us."""
        return self.other_processor_seconds < CALM_CORES * self.seconds


def wait_until_calm(end: float) -> None:
    """Wait until other processes leave this machine to us, at most until ``end`` (of the monotonic clock)."""
    while time.monotonic() < end:
        before = machine_seconds()
        time.sleep(CALM_SECONDS)
        if machine_seconds() - before < CALM_CORES * CALM_SECONDS:
            return


def run_client(argv: Sequence[str], site: Site, limit: float) -> tuple[float, float]:
    """Run a client to its end: seconds, and processor seconds with all that it forked. Raises Failed."""
    log = site.folder / "client.log"
    with log.open("wb") as out:
        begin = time.perf_counter()
        client = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=site.env, start_new_session=True
        )
        watchdog = threading.Timer(limit, kill_group, (client.pid,))
        watchdog.start()
        try:
            _, status, usage = os.wait4(client.pid, 0)  # Popen.wait with a time limit only looks every 50 ms
            seconds = time.perf_counter() - begin
            client.returncode = os.waitstatus_to_exitcode(status)
        finally:
            watchdog.cancel()
            if client.returncode is None:
                kill_group(client.pid)
                client.wait()
    if seconds >= limit:
        raise Failed(f"{Path(argv[0]).name} took more than {limit:g} s and was stopped")
    if client.returncode:
        raise Failed(f"{Path(argv[0]).name} ended with {client.returncode}: {last_line(log.read_text())}")
    return seconds, usage.ru_utime + usage.ru_stime


def kill_group(pid: int) -> None:
    """Kill a client and what it forked."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def check_same(source: Path, arrived: Path) -> None:
    """Compare byte by byte. Raises Failed."""
    ours, theirs = memoryview(bytearray(MIB)), memoryview(bytearray(MIB))
    with source.open("rb", buffering=0) as left, arrived.open("rb", buffering=0) as right:
        while count := left.readinto(ours):
            if right.readinto(theirs) != count or ours[:count] != theirs[:count]:
                raise Failed(f"{arrived.name} is not what was sent")
        if right.read(1):
            raise Failed(f"{arrived.name} is longer than what was sent")


@dataclass
class Bench:
    """The file, where it goes, and what was measured."""

    work: Path
    verbs: Sequence[str]
    limit: float
    patience: float
    on_disk: bool
    servers: dict[str, Server] = field(default_factory=dict)
    contenders: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @property
    def source(self) -> Path:
        """What is put."""
        return self.work / "source"

    def make_source(self, size: int) -> None:
        """Random bytes, which nothing on the way can make smaller."""
        with self.source.open("wb", buffering=0) as out:
            for at in range(0, size, MIB):
                out.write(os.urandom(min(MIB, size - at)))

    def play_round(self, number: int) -> None:
        """Every contender once, each time in another order; round 0 warms up and does not count."""
        turn = number % max(1, len(self.contenders))
        for name in self.contenders[turn:] + self.contenders[:turn]:
            try:
                samples = self._play_calmly(name, number)
            except Failed as error:
                say(f"{name}: {error}; left out from here on")
                self.failed[name] = str(error)
                self.contenders.remove(name)
            else:
                self.samples += samples if number else []

    def _play_calmly(self, name: str, number: int) -> list[Sample]:
        """Play when others leave the machine to us, and again where they did not, as long as patience lasts."""
        end = time.monotonic() + self.patience
        while True:
            if number:
                wait_until_calm(end)
            samples = self._play(name, number)
            if not number or time.monotonic() >= end or all(sample.calm for sample in samples):
                return samples
            say(f"{name} was disturbed; again")

    def _play(self, name: str, number: int) -> list[Sample]:
        """put, then get of what was put, so that ftpy's server knows that file's digest from then."""
        server = self.servers[CONTENDERS[name].kind]
        stored, fetched = server.site.files / "file", self.work / "fetched"
        try:
            put = self._measure(name, "put", number, server, (self.source, stored))
            get = self._measure(name, "get", number, server, (fetched, fetched)) if "get" in self.verbs else None
        finally:
            for path in (stored, fetched):
                path.unlink(missing_ok=True)
        return [sample for sample in (put, get) if sample is not None and sample.verb in self.verbs]

    def _measure(self, name: str, verb: str, number: int, server: Server, paths: tuple[Path, Path]) -> Sample:
        local, arrived = paths
        argv = server.kind.client(server.site, verb, CONTENDERS[name].options, local, "file")
        if self.on_disk:
            os.sync()  # nobody pays for what the run before left to be written
        machine, before = machine_seconds(), server.processor_seconds()
        seconds, client_cpu = run_client(argv, server.site, self.limit)
        server_cpu = server.processor_seconds() - before
        other_cpu = max(0.0, machine_seconds() - machine - client_cpu - server_cpu)
        server.settle()
        try:
            check_same(self.source, arrived)
        except OSError as error:
            raise Failed(f"{arrived.name}: {error.strerror}") from error
        say(f"round {number or 'of warming up'}: {verb} {name} {seconds:.3f} s")
        return Sample(name, verb, number, seconds, client_cpu, server_cpu, other_cpu)
