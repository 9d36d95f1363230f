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

from benchmark.calling import Errand
from benchmark.contenders import CLIENTS, CONTENDERS
from benchmark.interrupting import signals_held
from benchmark.servers import Server, machine_seconds
from benchmark.sites import Failed, Site, last_line
from benchmark.sources import check_same, make_source, place, remove, sample_tree
from benchmark.works import Work

CALM_CORES = 0.15
"""What other processes may use of a core beside a run that counts as undisturbed."""
CALM_SECONDS = 0.5
"""How long they must have been that calm before a run begins."""


def say(text: str) -> None:
    """Speak on standard error; the tables alone go to standard output."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Sample:
    """One timed run of one whole client process, as measured; all but ``round`` and ``files`` in seconds.

    ``files``: how many of the work's it moved.
    """

    contender: str
    verb: str
    round: int
    files: int
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
    with log.open("wb") as out, contextlib.ExitStack() as stack:
        begin = time.perf_counter()
        with signals_held():
            client = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=site.env, start_new_session=True
            )
            stack.callback(stop_client, client)
        watchdog = threading.Timer(limit, kill_group, (client.pid,))
        stack.callback(watchdog.cancel)
        watchdog.start()
        _, status, usage = os.wait4(client.pid, 0)  # Popen.wait with a time limit only looks every 50 ms
        seconds = time.perf_counter() - begin
        client.returncode = os.waitstatus_to_exitcode(status)
    if seconds >= limit:
        raise Failed(f"{Path(argv[0]).name} took more than {limit:g} s and was stopped")
    if client.returncode:
        raise Failed(f"{Path(argv[0]).name} ended with {client.returncode}: {last_line(log.read_text())}")
    return seconds, usage.ru_utime + usage.ru_stime


def stop_client(client: subprocess.Popen[bytes]) -> None:
    """End a client that was not waited for to its end."""
    if client.returncode is None:
        kill_group(client.pid)
        client.wait()


def kill_group(pid: int) -> None:
    """Kill a client and what it forked."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@dataclass
class Bench:
    """One work in one folder: what is sent, where it goes, and what was measured."""

    folder: Path
    work: Work
    verbs: Sequence[str]
    limit: float
    patience: float
    on_disk: bool
    servers: dict[str, Server] = field(default_factory=dict)
    contenders: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def make_sources(self) -> None:
        """What is put, and the samples of it."""
        make_source(self.folder / "source", self.work.shape, self.work.files, self.work.size)
        for name in self.work.sampled:
            if name in self.contenders:
                sample_tree(self.folder / "source", self.folder / f"sample-{name}", self.work.sampled[name])

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
        """put, then get of what was put, so that ftpy's server knows its digest from then."""
        server = self.servers[CONTENDERS[name].kind]
        sample = self.folder / f"sample-{name}"
        source = sample if sample.exists() else self.folder / "source"
        stored, fetched = server.site.files / "stored", self.folder / "fetched"
        samples = []
        try:
            if "put" in CONTENDERS[name].verbs:
                samples.append(self._measure(name, "put", number, source, (source, stored)))
            else:
                place(source, stored)
            if "get" in self.verbs:
                samples.append(self._measure(name, "get", number, source, (fetched, fetched)))
        finally:
            remove(stored)
            remove(fetched)
        return [sample for sample in samples if sample.verb in self.verbs]

    def _measure(self, name: str, verb: str, number: int, source: Path, paths: tuple[Path, Path]) -> Sample:
        local, arrived = paths
        contender, server = CONTENDERS[name], self.servers[CONTENDERS[name].kind]
        errand = Errand(verb, local, "stored", self.work.tree)
        argv = CLIENTS[contender.client].call(server.site, errand, contender.options)
        if self.on_disk:
            os.sync()  # nobody pays for what the run before left to be written
        machine, served, carried = machine_seconds(), server.processor_seconds(), server.line_seconds()
        seconds, client_cpu = run_client(argv, server.site, self.limit)
        server_cpu, line_cpu = server.processor_seconds() - served, server.line_seconds() - carried
        other_cpu = max(0.0, machine_seconds() - machine - client_cpu - server_cpu - line_cpu)
        server.settle()
        check_same(source, arrived)
        files = self.work.sampled.get(name, self.work.files)
        part = "" if files == self.work.files else f" for {files} of {self.work.files} files"
        say(f"round {number or 'of warming up'}: {verb} {name} {seconds:.3f} s{part}")
        return Sample(name, verb, number, files, seconds, client_cpu, server_cpu, other_cpu)
