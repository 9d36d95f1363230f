"""kill -9 of server, worker or client at random moments of a put; one checker (``book``) after each.

Promises 1, 2, 4, 5, 7 of what must hold are asked for.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ftpy.client.client import Client
from ftpy.client.parts import BYTES_IN_FLIGHT
from ftpy.config.client import Transfer
from ftpy.errors import FtpyError
from ftpy.files import FileInfo
from ftpy.storage.journal import parse
from ftpy.storage.uploadbase import PART_BYTES
from tests.rigs.book import Book, Truth, version_of
from tests.rigs.processes import MIB, Meter, ProcessHost, Usage, kill, outcome, served_within, until, write_noise

PUT_SECONDS = 120.0
"""How long a put may take in all, kill and restart included, before it counts as hanging."""
PARTS_IN_FLIGHT = BYTES_IN_FLIGHT // PART_BYTES
"""Parts that a client sends ahead of the answers: what is sent again after a lost connection, at most."""
TLS_OVERHEAD = 0.005
"""What TLS records and frames add to the bytes of a put, at most, as a share."""
TOO_LATE = "after the acknowledgement"
RESIDENT_SLACK = 32 * MIB
"""What the allocator may keep of memory that was freed: buffers of the last large put, bytes."""
PATIENT = Transfer(stall_seconds=10.0, connect_seconds=5.0, retries=30)


@dataclass
class Report:
    """What a rig has seen; ``violations`` are sentences, none of which may be there."""

    kills: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    parts: list[int] = field(default_factory=list)
    """Parts that lay in unfinished uploads at each kill."""
    resent: list[float] = field(default_factory=list)
    """Parts sent more than once in a round, where the bytes were metered."""
    served: list[float] = field(default_factory=list)
    """Seconds from the fault until a fresh client had put, got and listed."""
    violations: list[str] = field(default_factory=list)

    @property
    def in_the_middle(self) -> int:
        """Kills that came before the client had its acknowledgement."""
        return self.kills - self.stages.get(TOO_LATE, 0)

    def stage(self, name: str) -> None:
        """Where a kill hit."""
        self.kills += 1
        self.stages[name] = self.stages.get(name, 0) + 1

    def line(self, name: str) -> str:
        """The figures."""
        stages = ", ".join(f"{count} {stage}" for stage, count in sorted(self.stages.items()))
        resent = f"; sent again at most {max(self.resent):.2f} parts" if self.resent else ""
        parts = f"; {statistics.median(self.parts):.0f} parts lay in uploads" if self.parts else ""
        served = ""
        if self.served:
            served = f"; fresh client after {statistics.median(self.served):.2f} s, at most {max(self.served):.2f} s"
        return (
            f"{name}: {self.kills} kills ({stages}), {self.acknowledged} puts acknowledged{parts}{resent}{served}; "
            f"{len(self.violations)} violations"
        )


def check_disk(host: ProcessHost, book: Book, report: Report) -> None:
    """Every acknowledged put is there, and whatever is visible is one whole version that was sent."""
    report.violations += book.faults(host.root)


def check_served(host: ProcessHost, book: Book, report: Report, since: float) -> None:
    """A fresh client puts, gets and lists in time; the listing holds what may be there and nothing unfinished."""
    probe = host.folder / "probe"
    write_noise(probe, 4096, f"probe {since}")
    version = version_of(probe)
    book.begin("probe", version)
    back = host.folder / "probe-back"
    back.unlink(missing_ok=True)
    with connected(host, since) as client:
        client.put(probe, "probe")
        book.acknowledge("probe")
        client.get("probe", back)
        before = book.copy()
        listed = {str(info.path): info for info in client.ls(recursive=True)}
    seconds = time.monotonic() - since
    report.served.append(seconds)
    if seconds > served_within():
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
        report.violations.append(f"a fresh client was served after {seconds:.2f} s ({load})")
    if version_of(back) != version:
        report.violations.append("a get brought other bytes than the put before it")
    _check_listing(listed, before, book.copy(), report)


def _check_listing(
    listed: dict[str, FileInfo], before: dict[str, Truth], truths: dict[str, Truth], report: Report
) -> None:
    # What was acknowledged while it was listed may be there as it was before or after, or as it was between.
    meanwhile = {path for path in truths if truths[path].acknowledged is not before.get(path, Truth()).acknowledged}
    for path, truth in truths.items():
        if None not in truth.allowed and path not in listed and path not in meanwhile:
            report.violations.append(f"{path} was acknowledged and is not listed")
    for path, info in listed.items():
        if path in meanwhile:
            continue
        sizes = [version.size for version in truths.get(path, Truth()).allowed if version is not None]
        if info.type == "file" and info.size not in sizes:
            report.violations.append(f"{path} is listed, unfinished or never put: {info}")


def connected(host: ProcessHost, since: float) -> Client:
    """A client as soon as the server takes one."""
    while True:
        client = host.client()
        try:
            return client.__enter__()
        except FtpyError:
            client.close()
            if time.monotonic() - since > PUT_SECONDS:
                raise
            time.sleep(0.01)


def stored_parts(host: ProcessHost) -> int:
    """Parts that the journals of unfinished uploads know of."""
    journals = (host.root / ".ftpy" / "uploads").glob("*.journal")
    return sum(len(parse(_read(path)).parts) for path in journals)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def wait_for_moment(host: ProcessHost, client: subprocess.Popen[str], parts: int, rng: random.Random) -> None:
    """Wait until a random part is stored, or (one time in six) all of them, and then a random moment more."""
    wanted = parts if rng.random() < 1 / 6 else rng.randrange(parts)
    uploads = host.root / ".ftpy" / "uploads"
    until(
        lambda: client.poll() is not None or (any(uploads.glob("*.data")) and stored_parts(host) >= wanted), PUT_SECONDS
    )
    time.sleep(rng.uniform(0, 0.08 if wanted == parts else 0.05))


class Puts:
    """Rounds of one large put each: from one of a few sources to one of a few paths, and what is due of it."""

    def __init__(self, host: ProcessHost, meter: Meter, rng: random.Random, sizes: tuple[int, ...]) -> None:
        self.host, self.meter, self.rng = host, meter, rng
        self.book, self.report = Book(), Report()
        self.base = base_of(host, self.book)
        folder = host.folder / "sources"
        folder.mkdir(exist_ok=True)
        self.sources = [write_noise(folder / f"source-{i}", size, f"source {i}") for i, size in enumerate(sizes)]
        self.versions = {source: version_of(source) for source in self.sources}
        host.save_profile("metered", address=meter.address)

    def begin(self) -> None:
        """Choose a source, a path and a way; start the client."""
        self.source = self.rng.choice(self.sources)
        self.path = f"large/{self.rng.randrange(3)}"
        self.version = self.versions[self.source]
        self.parts = -(-self.version.size // PART_BYTES)
        self.metered = bool(self.report.kills % 2)
        self.meter.start_over()
        self.book.begin(self.path, self.version)
        self.client = self.run()

    def run(self) -> subprocess.Popen[str]:
        """The command, the same every time."""
        server = "metered" if self.metered else "default"
        return self.host.ftpy("put", "--json", str(self.source), self.path, server=server)

    def finish(self, client: subprocess.Popen[str], *, anew: bool = False) -> int:
        """The client must end well, and what it says must be true: the bytes that it found already stored.

        ``anew``: the file was published before this client began, so that it may send all of it.
        """
        code, said, error = outcome(client, PUT_SECONDS)
        if code != 0 or not said.get("ok"):
            self.report.violations.append(f"the put of {self.path} ended with {code}: {error.strip()[-300:]}")
            return 0
        self.book.acknowledge(self.path)
        check_disk(self.host, self.book, self.report)
        if self.host.uploads:
            self.report.violations.append(f"uploads are left after {self.path} was finished: {self.host.uploads}")
        if self.metered and not anew:
            extra = self.meter.passed[0] - self.version.size * (1 + TLS_OVERHEAD)
            self.report.resent.append(max(0.0, extra / PART_BYTES))
            if extra > PARTS_IN_FLIGHT * PART_BYTES:
                self.report.violations.append(f"{extra / PART_BYTES:.1f} parts of {self.path} were sent again")
        return int(said["resumed"])

    def check_resumed(self, resumed: int, stored: int) -> None:
        """``resumed`` bytes against ``stored`` parts that the journal had."""
        if resumed < (stored - PARTS_IN_FLIGHT) * PART_BYTES:
            self.report.violations.append(f"resumed at {resumed} bytes where {stored} parts were stored")


def server_round(puts: Puts) -> None:
    """kill -9 of the server in the middle of a put; the same client must finish by itself once it is back."""
    puts.begin()
    wait_for_moment(puts.host, puts.client, puts.parts, puts.rng)
    puts.host.kill()
    # With the server dead nothing moves any more: what is on disk now is what the fault left.
    check_disk(puts.host, puts.book, puts.report)
    stored = stored_parts(puts.host)
    puts.report.stage(_stage(puts, stored))
    since = time.monotonic()
    puts.host.spawn()
    check_served(puts.host, puts.book, puts.report, since)
    puts.finish(puts.client)


def worker_round(puts: Puts) -> None:
    """kill -9 of the worker that serves a put, in the middle of it; the same client must finish by itself."""
    puts.begin()
    wait_for_moment(puts.host, puts.client, puts.parts, puts.rng)
    stored = stored_parts(puts.host)
    puts.report.stage(_stage(puts, stored))
    puts.host.kill_worker(puts.rng)
    check_served(puts.host, puts.book, puts.report, time.monotonic())
    puts.finish(puts.client)


def client_round(puts: Puts) -> None:
    """kill -9 of the client in the middle of a put; the same command must go on where it stood."""
    puts.begin()
    wait_for_moment(puts.host, puts.client, puts.parts, puts.rng)
    stored = stored_parts(puts.host)
    puts.report.stage(_stage(puts, stored))
    kill(puts.client)
    check_served(puts.host, puts.book, puts.report, time.monotonic())
    puts.host.settled(puts.base)  # a commit that was under way has ended now, this way or the other
    check_disk(puts.host, puts.book, puts.report)
    published = not puts.host.uploads  # in spite of the kill: there is nothing to resume
    again = puts.run()
    resumed = puts.finish(again, anew=published)
    if not published:
        puts.check_resumed(resumed, stored)


def _stage(puts: Puts, stored: int) -> str:
    if puts.client.poll() is not None:
        return TOO_LATE
    if not puts.host.uploads:
        return "published, not acknowledged"
    return "in parts" if stored < puts.parts else "in the commit"


def rig_large(host: ProcessHost, rounds: int, sizes: tuple[int, ...], victim: str, seed: int) -> Report:
    """``rounds`` kills of the ``victim``, "server", "worker" or "client", in the middle of a put; those that come too
    late are checked like the others and counted extra. Afterwards every file comes back by get, verified."""
    one_round = {"server": server_round, "worker": worker_round, "client": client_round}[victim]
    with Meter(host.address) as meter:
        puts = Puts(host, meter, random.Random(seed), sizes)
        while puts.report.in_the_middle < rounds:
            one_round(puts)
    _get_all(host, puts.book, puts.report)
    check_base(host, puts.base, puts.report)
    puts.report.acknowledged = puts.book.acknowledgements
    return puts.report


def _get_all(host: ProcessHost, book: Book, report: Report) -> None:
    with host.client(transfer=PATIENT) as client:
        for path, truth in sorted(book.copy().items()):
            target = host.folder / "back"
            client.get(path, target, force=True)
            if version_of(target) != truth.acknowledged:
                report.violations.append(f"{path} comes back as other bytes than were acknowledged")
            target.unlink()


# ------------------------------------------------------------------ many small ones


class Writer(threading.Thread):
    """Puts small files (a few above the inline limit) over and over to names of its own, until it is stopped."""

    def __init__(self, host: ProcessHost, book: Book, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"writer-{number}")
        self._host, self._book, self._number, self._stop_event = host, book, number, stop
        self._rng = random.Random(number)
        self.error: str | None = None

    def run(self) -> None:
        """Every failure that the client raises is one: its retries are meant to see a restart through."""
        source = self._host.folder / f"writer-{self._number}"
        try:
            with self._host.client(transfer=PATIENT) as client:
                while not self._stop_event.is_set():
                    self._put(client, source)
        except FtpyError as error:
            self.error = f"writer {self._number}: {type(error).__name__}: {error}"

    def _put(self, client: Client, source: Path) -> None:
        rng = self._rng
        size = rng.choice([0, 1, rng.randrange(65536), rng.randrange(65536), MIB + rng.randrange(MIB)])
        source.write_bytes(rng.randbytes(size))
        path = f"small/{self._number}/{rng.randrange(60)}"
        self._book.begin(path, version_of(source))
        client.put(source, path)
        self._book.acknowledge(path)


def rig_small(host: ProcessHost, rounds: int, seed: int, writers: int = 3) -> Report:
    """``rounds`` kills of the server under many small puts; nothing acknowledged may be lost."""
    rng, book, report, stop = random.Random(seed), Book(), Report(), threading.Event()
    base = base_of(host, book)
    threads = [Writer(host, book, number, stop) for number in range(writers)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(rounds):
            time.sleep(rng.uniform(0.1, 0.8))
            host.kill()
            report.stage("under small puts")
            check_disk(host, book, report)
            since = time.monotonic()
            host.spawn()
            check_served(host, book, report, since)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PUT_SECONDS)
    report.violations += [thread.error for thread in threads if thread.error]
    check_disk(host, book, report)
    _get_all(host, book, report)
    if left := os.listdir(host.root / ".ftpy" / "uploads"):
        report.violations.append(f"uploads are left: {left}")
    check_base(host, base, report)
    report.acknowledged = book.acknowledgements
    return report


# ------------------------------------------------------------------ what is left


def base_of(host: ProcessHost, book: Book) -> Usage:
    """What a server holds that has served one client and is at rest."""
    check_served(host, book, Report(), time.monotonic())
    return host.at_rest()


def check_base(host: ProcessHost, base: Usage, report: Report) -> None:
    """Descriptors, threads and memory of the server are back at ``base``."""
    host.settled(base)
    until(lambda: host.usage().resident <= base.resident + RESIDENT_SLACK)  # it gives back once all are gone
    now = host.usage()
    if now.descriptors > base.descriptors or now.threads > base.threads:
        report.violations.append(f"not back at its base: {now} where {base} is the base")
    if now.resident > base.resident + RESIDENT_SLACK:
        report.violations.append(f"memory is not back at its base: {now.resident} bytes where {base.resident} are")
