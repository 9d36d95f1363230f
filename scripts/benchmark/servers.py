"""Servers as processes of ours: started, watched, stopped by their ids; processor time from /proc."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.contenders import KINDS
from benchmark.interrupting import signals_held
from benchmark.sites import START_SECONDS, Failed, Site, free_port, last_line
from benchmark.works import Line

STOP_SECONDS = 40.0
"""How long a server may take to end after SIGTERM: ftpy drains for 30 s at most."""
SETTLE_SECONDS = 5.0
"""How long what a server forked for one client may outlive that client."""
REST_SECONDS = 0.5
"""How long a server that was just started may go on forking."""


def processor_seconds(stat: Sequence[str]) -> float:
    """User and system time of one process and of its children that ended, from the fields of its stat."""
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")


def process_stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from the third field (state) on; None where there is no such process, or no /proc."""
    try:
        text = os.fsdecode(Path(f"/proc/{pid}/stat").read_bytes())
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the second field is a name and may hold anything


def process_tree(root: int) -> dict[int, list[str]]:
    """``root`` and what descends from it: pid -> stat."""
    every = [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc/self") else []
    stats = {pid: stat for pid in every if (stat := process_stat(pid)) is not None}
    tree = {root: stats[root]} if root in stats else {}
    grown = -1
    while len(tree) != grown:
        grown = len(tree)
        tree |= {pid: stat for pid, stat in stats.items() if int(stat[1]) in tree}
    return tree


def machine_seconds() -> float:
    """Processor seconds that anyone has used on this machine, without interrupts and idle time; 0 without /proc."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return 0.0
    user, nice, system, steal = (int(fields[at]) for at in (1, 2, 3, 8))
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")


class LineProcess:
    """A long line before a port of 127.0.0.1, as a process of its own (longline.py); use it in a ``with``."""

    def __init__(self, line: Line, port: int) -> None:
        self._line, self._target = line, port
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        """Its own, for clients."""

    def __enter__(self) -> LineProcess:
        window = [] if self._line.window is None else ["--window", str(self._line.window)]
        script = [sys.executable, str(Path(__file__).with_name("longline.py"))]
        argv = [*script, "--to", f"127.0.0.1:{self._target}", "--rtt", str(self._line.rtt), *window]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self.__exit__()
            raise Failed("the long line did not start")
        self.port = int(said.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def processor_seconds(self) -> float:
        """What it used up to now."""
        stat = process_stat(self._process.pid) if self._process is not None else None
        return processor_seconds(stat) if stat is not None else 0.0


class Server:
    """A server process of ours, a long line before it where one is asked for; use it in a ``with``.

    Raises Failed where it does not come up.
    """

    def __init__(
        self,
        name: str,
        work: Path,
        programs: Mapping[str, str],
        line: Line | None = None,
        workers: int | None = None,
    ) -> None:
        self.name, self.kind = name, KINDS[name]
        self.site = Site(work / name, free_port(), programs, workers=workers)
        self.site.files.mkdir(parents=True)
        self._log = self.site.folder / "server.log"
        self._line = LineProcess(line, self.site.port) if line is not None else None
        self._made: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._resting = 1
        self.pid = 0
        """Of the process that was started, also after it ended."""

    def __enter__(self) -> Server:
        try:
            argv = self.kind.server(self.site)
            if (needed := self.kind.lacking(argv)) is not None:
                os.mkdir(needed, 0o755)
                self._made = needed
            with self._log.open("wb") as log, signals_held():
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.site.env, start_new_session=True
                )
            self.pid = self._process.pid
            self._wait_until_it_accepts(self._process)
            if self._line is not None:
                self._line.__enter__()
                self.site = dataclasses.replace(self.site, line_port=self._line.port)
            self.kind.pair(self.site)
            self.settle(REST_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_it_accepts(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.site.port), 1.0).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failed(f"the {self.name} server did not start: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its log."""
        return last_line(self._log.read_text(errors="replace"))

    def processor_seconds(self) -> float:
        """Of it and all that it forked: what a child used moves to its parent when it ends, so the sum only grows."""
        return sum(map(processor_seconds, process_tree(self.pid).values()))

    def line_seconds(self) -> float:
        """Processor seconds of the long line before it."""
        return self._line.processor_seconds() if self._line is not None else 0.0

    def settle(self, most: float = SETTLE_SECONDS) -> None:
        """Wait until what it forked for the last client is gone, so that it does not run beside the next.

        What is there after ``most`` seconds all the same are its workers: from then on they belong to it.
        """
        end = time.monotonic() + most
        while (count := len(process_tree(self.pid))) > self._resting and time.monotonic() < end:
            time.sleep(0.01)
        self._resting = max(1, count)

    def stop(self) -> None:
        """Stop it, what it forked, and the line, each by its process id."""
        if self._line is not None:
            self._line.__exit__()
        if self._process is not None:
            tree = process_tree(self._process.pid)
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for pid, stat in tree.items():
                # The time it started tells a survivor from a newcomer with its number.
                if (now := process_stat(pid)) is not None and now[19] == stat[19]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self._process = None
        if self._made is not None:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                os.rmdir(self._made)
            self._made = None
