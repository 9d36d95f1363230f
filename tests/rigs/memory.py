"""What a put and a get cost in memory on either side, and that it does not grow with the file, or the number of files.

Counted is VmHWM, the kernel's own high-water mark of a process's resident memory: anonymous memory, mapped
programs and libraries, mapped shared memory (``processes.memory_of``). For the server the mark is read after the
transfer; the client's comes from who waits for its end (getrusage(2)), a small process, for a child's mark begins with
what its parent has. The page cache of the files themselves is the kernel's and belongs to no process.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rigs.processes import MIB, ProcessHost, outcome, reset_peak

MOST_ABOVE_IDLE = 96 * MIB
"""Bytes that a transfer may cost either side above what it holds at rest."""
MOST_GROWTH = 16 * MIB
"""Bytes by which the cost of a large file may exceed that of a small one: flat in the size."""
MOST_GROWTH_OF_TREES = 32 * MIB
"""The same for many files and few: few may be through before as many are under way as may be (16,384)."""
FILES_IN_A_FOLDER = 1000
MARKED = """
import os, resource, sys
code = os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
"""Runs a command and says at the end, on standard error, its high-water mark in KiB."""
TRANSFER_SECONDS = 1800.0
VERBS = ("put", "get")


@dataclass
class Report:
    """Peaks above idle in bytes, by (side, verb, size); sentences for what must not be. Sizes are in ``unit``s."""

    unit: str = "bytes"
    most_growth: int = MOST_GROWTH
    idle: dict[str, int] = field(default_factory=dict)
    peaks: dict[tuple[str, str, int], int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The figures, MiB."""
        idle = ", ".join(f"{side} {count / MIB:.0f}" for side, count in self.idle.items())
        peaks = ", ".join(
            f"{side} {verb} of {size:,} {self.unit}: {count / MIB:.1f}"
            for (side, verb, size), count in self.peaks.items()
        )
        return f"rig-memory (MiB): idle {idle}; above idle {peaks}; {len(self.violations)} violations"


def rig_memory(host: ProcessHost, sizes: tuple[int, int]) -> Report:
    """put and get of a sparse file of each size, the smaller first; ``host`` has just been started."""
    report = Report()
    source = host.folder / "source"
    _sparse(source, 0)
    _, client = _run(host, "put", str(source), "empty")
    report.idle = {"server": host.at_rest().resident, "client": client}
    for size in sizes:
        _sparse(source, size)
        _measure(host, report, size, source)
    _judge(report, sizes)
    return report


def rig_tree_memory(host: ProcessHost, counts: tuple[int, int]) -> Report:
    """put -r and get -r of folders with so many empty files, the smaller first; ``host`` has just been started."""
    report = Report(unit="files", most_growth=MOST_GROWTH_OF_TREES)
    source, target = host.folder / "source", host.folder / "target"
    _sparse(source, 0)
    _, client = _run(host, "put", str(source), "empty")
    report.idle = {"server": host.at_rest().resident, "client": client}
    source.unlink()
    for count in counts:
        _tree(source, count)
        for verb, pair in (("put", (source, "tree")), ("get", ("tree", target))):
            reset_peak(host.pid)
            code, _, _, client = _client(host, verb, "-q", "-r", *map(str, pair))
            report.peaks["server", verb, count] = host.usage().peak - report.idle["server"]
            report.peaks["client", verb, count] = client - report.idle["client"]
            if code:
                report.violations.append(f"{verb} of {count} files ended with {code}")
            if verb == "put":
                shutil.rmtree(source)  # the machine's memory holds them all
        arrived = sum(len(files) for _, _, files in os.walk(target))
        if arrived != count:
            report.violations.append(f"a get of {count} files brought {arrived}")
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(host.root / "tree", ignore_errors=True)
    _judge(report, counts)
    return report


def _tree(top: Path, count: int) -> None:
    for number in range(count):
        folder = top / f"{number // FILES_IN_A_FOLDER:05}"
        if number % FILES_IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        os.close(os.open(folder / f"file-{number:08}", os.O_CREAT | os.O_WRONLY))


def _measure(host: ProcessHost, report: Report, size: int, source: Path) -> None:
    target = host.folder / "target"
    for verb, pair in (("put", (str(source), "file")), ("get", ("file", str(target)))):
        reset_peak(host.pid)
        digest, client = _run(host, verb, *pair)
        server = host.usage().peak
        report.peaks["server", verb, size] = server - report.idle["server"]
        report.peaks["client", verb, size] = client - report.idle["client"]
        if digest != _zeros_md5(size):
            report.violations.append(f"{verb} of {size} bytes ended with {digest}")
    if target.exists():
        if target.stat().st_size != size:
            report.violations.append(f"a get of {size} bytes brought {target.stat().st_size}")
        target.unlink()


def _judge(report: Report, sizes: tuple[int, int]) -> None:
    small, large = sizes
    for (side, verb, size), above in report.peaks.items():
        if above > MOST_ABOVE_IDLE:
            report.violations.append(f"{side} {verb} of {size} {report.unit}: {above / MIB:.1f} MiB above idle")
        if size == large and above - report.peaks[side, verb, small] > report.most_growth:
            growth = (above - report.peaks[side, verb, small]) / MIB
            report.violations.append(f"{side} {verb}: {growth:.1f} MiB more for {large} {report.unit} than for {small}")


def _sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def _run(host: ProcessHost, *arguments: str) -> tuple[str | None, int]:
    """Run a client process to its end: the md5 that it says, and its high-water mark in bytes."""
    code, said, error, peak = _client(host, arguments[0], "--json", *arguments[1:])
    return (said.get("md5") if code == 0 else f"{code}: {error.strip()}"), peak


def _client(host: ProcessHost, *arguments: str) -> tuple[int, dict[str, Any], str, int]:
    """Exit code, JSON object, standard error and high-water mark in bytes of a client process."""
    process = host.ftpy(*arguments, under=[sys.executable, "-I", "-S", "-c", MARKED])
    code, said, error = outcome(process, TRANSFER_SECONDS)
    error, _, mark = error.rstrip().rpartition("\n")
    return code, said, error, int(mark) * 1024


def _zeros_md5(size: int) -> str:
    block, hasher = bytes(MIB), hashlib.md5()
    for _ in range(size // MIB):
        hasher.update(block)
    hasher.update(block[: size % MIB])
    return hasher.hexdigest()
