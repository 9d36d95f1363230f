"""SIGTERM under load: what runs finishes, what is cut off goes on after the restart, nothing acknowledged is lost.

Beside eight uploads and a tree without end (``crowd``) a put and a get at a steady pace are half done when the signal
comes, another put has no chance to be done in time, and sessions sit idle. Two of three times the server is left to
drain; the third time a second signal comes.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.client.results import OnProgress, Progress
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.errors import FtpyError
from ftpy.storage.uploadbase import PART_BYTES
from tests.rig import is_free
from tests.rigs.book import version_of
from tests.rigs.crowd import Keeper
from tests.rigs.kill import PATIENT, base_of, check_base, connected
from tests.rigs.kill import Report as Kills
from tests.rigs.nursery import ForkedHost, Nursery
from tests.rigs.processes import MIB, until, write_noise

DRAIN_SECONDS = 8.0
PACED_BYTES, PACE = 16 * MIB, 4 * MIB
"""A put and a get of so many bytes at so many a second: when they are half done, two seconds are left of each."""
SLOW_BYTES, SLOW_PACE = 64 * MIB, 4 * MIB
"""A put that takes twice as long as a drain."""
IDLE = 20
IDLE_SECONDS = DRAIN_SECONDS / 2
"""By then who only waits has been let go."""
AT_ONCE_SECONDS = 3.0
"""How long a server may take to end after the second signal, on a machine that is busy."""
LAST_SECONDS = 10.0
"""How long it may take beyond ``DRAIN_SECONDS``, the same way."""
ONCE = Transfer(stall_seconds=20.0, connect_seconds=10.0, retries=0, streams=1)
"""A paced transfer is not tried again: either it is allowed to finish, or it was cut off."""


@dataclass
class Report:
    """What was seen; ``violations`` are sentences, none of which may be there."""

    drains: list[float] = field(default_factory=list)
    """Seconds from the signal to the end."""
    twice: list[float] = field(default_factory=list)
    """The same from a second signal."""
    idle: list[float] = field(default_factory=list)
    """Seconds until the last idle session was let go."""
    finished: int = 0
    """Paced transfers that were half done at a signal, and finished."""
    cut: int = 0
    """Slow ones that were cut off, and went on where they stood."""
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """The figures."""
        slowest = [f"{max(times):.1f}" if times else "-" for times in (self.drains, self.idle, self.twice)]
        return (
            f"{name}: {len(self.drains)} drains (at most {slowest[0]} s; idle sessions gone after {slowest[1]} s), "
            f"{len(self.twice)} ended by a second signal ({slowest[2]} s); {self.finished} transfers finished, "
            f"{self.cut} were cut off and went on; "
            f"{self.acknowledged} puts acknowledged; {len(self.violations)} violations"
        )


Moving = Callable[[Client, OnProgress], object]


class Paced(threading.Thread):
    """A transfer of ``size`` bytes, as steady as its client's pace."""

    def __init__(self, host: ForkedHost, name: str, size: int, pace: int, transfer: Transfer, move: Moving) -> None:
        super().__init__(name=name)
        self._client = host.client(transfer=transfer, limit=pace, notify=self._lost)
        self._size, self._move = size, move
        self._done = 0
        self.is_cut = False
        """Whether its connection was lost and made again."""
        self.went_on_at = size
        """The least that was stored when it went on, bytes."""
        self.error: FtpyError | None = None

    def run(self) -> None:
        """To the end, or until it fails."""
        try:
            with self._client as client:
                self._move(client, self._look)
        except FtpyError as error:
            self.error = error

    def _look(self, progress: Progress) -> None:
        self._done = progress.done
        if self.is_cut and progress.phase == "sending":
            self.went_on_at = min(self.went_on_at, progress.done)

    def _lost(self, _: str) -> None:
        self.is_cut = True

    @property
    def is_half_done(self) -> bool:
        """Whether that much has moved; or it has ended."""
        return self._done >= self._size // 2 or not self.is_alive()


class Drains:
    """One server and one crowd, and one SIGTERM after the other."""

    def __init__(self, host: ForkedHost, keeper: Keeper, report: Report, seed: int) -> None:
        self._host, self._keeper, self._report = host, keeper, report
        self._rng = random.Random(seed)
        self._source = write_noise(host.folder / "paced", PACED_BYTES, f"paced {seed}")
        self._large = write_noise(host.folder / "slow", SLOW_BYTES, f"slow {seed}")
        self._version = version_of(self._source)
        self._keeper.book.begin("paced/get", self._version)
        with host.client() as client:
            client.put(self._source, "paced/get")
        self._keeper.book.acknowledge("paced/get")

    def drain(self) -> None:
        """The signal in the middle of all; the server ends by itself, and what it promised has come true."""
        back = self._host.folder / "paced-back"
        back.unlink(missing_ok=True)

        def get(client: Client, look: OnProgress) -> None:
            client.get("paced/get", back, on_progress=look)

        slow = self._put(self._large, "paced/slow", SLOW_PACE, PATIENT)
        paced = [
            self._put(self._source, "paced/put", PACE, ONCE),
            Paced(self._host, "get", PACED_BYTES, PACE, ONCE, get),
        ]
        with ExitStack() as stack:
            idle = [Connection.open(self._host.profile(), ONCE) for _ in range(IDLE)]
            for connection in idle:
                stack.callback(connection.close)
            for transfer in (slow, *paced):
                transfer.start()
            until(lambda: all(transfer.is_half_done for transfer in paced), 60)
            running = [transfer for transfer in paced if transfer.is_alive()]
            os.kill(self._host.server, signal.SIGTERM)
            began = time.monotonic()
            self._see_idle_go(idle, began)
        code = self._host.reap()
        self._see_end(code, time.monotonic() - began)
        self._see_finished(paced, running, back)
        self._look("with the server gone")
        self._host.spawn()
        self._see_resumed(slow)

    def _put(self, source: Path, path: str, pace: int, transfer: Transfer) -> Paced:
        version = version_of(source)

        def put(client: Client, look: OnProgress) -> None:
            self._keeper.book.begin(path, version)
            client.put(source, path, on_progress=look)
            self._keeper.book.acknowledge(path)

        return Paced(self._host, "put", version.size, pace, transfer, put)

    def _see_idle_go(self, idle: list[Connection], began: float) -> None:
        for connection in idle:
            try:
                connection.channel.receive(silence_seconds=DRAIN_SECONDS)
            except FtpyError:
                pass  # broken off is as good
        self._report.idle.append(time.monotonic() - began)
        if self._report.idle[-1] > IDLE_SECONDS:
            self._report.violations.append(f"an idle session was let go after {self._report.idle[-1]:.1f} s")

    def _see_end(self, code: int, seconds: float) -> None:
        self._report.drains.append(seconds)
        if code != 0:
            self._report.violations.append(f"the server left with exit code {code}")
        if seconds > DRAIN_SECONDS + LAST_SECONDS:
            self._report.violations.append(f"the drain took {seconds:.1f} s")
        last = [line for line in self._host.log.read_text().splitlines() if line.split()[2:3] == ["stopped"]][-1]
        if not last.endswith("all_ended=true"):
            self._report.violations.append(f"the server left connections hanging: {last}")

    def _see_finished(self, paced: list[Paced], running: list[Paced], back: Path) -> None:
        for transfer in paced:
            transfer.join()
        self._report.finished += sum(transfer.error is None for transfer in running)
        for transfer in paced:
            if transfer.error is not None:
                self._report.violations.append(f"a {transfer.name} that had time to finish was cut: {transfer.error}")
        if paced[-1].error is None and version_of(back) != self._version:
            self._report.violations.append("a get brought other bytes")

    def _see_resumed(self, slow: Paced) -> None:
        """What had no time was cut off, and goes on by itself where it stood."""
        slow.join()
        if slow.error is not None:
            self._report.violations.append(f"a put that was cut off did not go on: {slow.error}")
        elif slow.is_cut and slow.went_on_at < PART_BYTES:
            self._report.violations.append(f"a put that was cut off went on at {slow.went_on_at} bytes")
        self._report.cut += slow.is_cut

    def twice(self) -> None:
        """A second signal while it drains ends it at once."""
        time.sleep(self._rng.uniform(0, 0.5))
        os.kill(self._host.server, signal.SIGTERM)
        until(lambda: self._host.log.read_text().splitlines()[-1].split()[2:3] == ["draining"] or self._is_draining())
        time.sleep(self._rng.uniform(0, 0.3))
        began = time.monotonic()
        os.kill(self._host.server, signal.SIGTERM)
        code = self._host.reap()
        self._report.twice.append(time.monotonic() - began)
        if code not in (-signal.SIGTERM, 0):  # it may just have been done
            self._report.violations.append(f"after the second signal the server left with exit code {code}")
        if self._report.twice[-1] > AT_ONCE_SECONDS:
            self._report.violations.append(f"after the second signal it took {self._report.twice[-1]:.1f} s")
        self._look("after a second signal")
        until(lambda: is_free(self._host.listen))  # a worker that was killed in a sync has it until that is over
        self._host.spawn()

    def _is_draining(self) -> bool:
        return "draining" in self._host.log.read_text()[-4096:]

    def _look(self, when: str) -> None:
        faults = self._keeper.book.faults(self._host.root)
        self._report.violations += [f"{fault} ({when})" for fault in faults]


def rig_drain(folder: Path, rounds: int, workers: int, seed: int, build: str = "") -> Report:
    """``rounds`` times SIGTERM under load and a restart; at the end all is there and nothing is left."""
    report, kills = Report(), Kills()
    with Nursery(build) as nursery:
        host = ForkedHost(folder, nursery=nursery, workers=workers, limits=Limits(drain_seconds=DRAIN_SECONDS))
        keeper = None
        try:
            host.spawn()
            connected(host, time.monotonic()).close()
            keeper = Keeper(host, kills, folder / "sources", seed)
            base = base_of(host, keeper.book)
            drains = Drains(host, keeper, report, seed)
            keeper.start()
            for number in range(rounds):
                (drains.twice if number % 3 == 1 else drains.drain)()
                connected(host, time.monotonic()).close()
            done = keeper.book.acknowledgements
            until(lambda: keeper.book.acknowledgements > done, 30)  # whoever was cut off goes on
            keeper.kill()
            host.settled(base)
            kills.violations += keeper.book.settle(host.root)
            if workers == 1:  # a parent holds nothing but its children
                check_base(host, base, kills)
            report.acknowledged = keeper.book.acknowledgements
            if report.acknowledged == done:
                report.violations.append("nobody went on after the last restart")
        finally:
            if keeper is not None:
                keeper.close()
            host.stop()
    report.violations += kills.violations
    return report
