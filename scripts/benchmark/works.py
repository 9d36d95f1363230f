"""What is to be done: the works, who takes part in each, and what the figures are held against."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmark.contenders import VERBS

GIB = 2**30
MIB = 2**20
PLACES = ("tmpfs", "disk")


@dataclass(frozen=True)
class Line:
    """A long line: seconds there and back, and bytes that a connection may have under way (None: any number)."""

    rtt: float
    window: int | None = None

    def __str__(self) -> str:
        window = "" if self.window is None else f", window {self.window / MIB:g} MiB"
        return f"{self.rtt * 1000:g} ms round trip{window}"


@dataclass(frozen=True)
class Aim:
    """What a contender shall reach in these verbs: at most ``bound`` of the fastest rival's time, or a figure itself.

    ``measure`` is one of results.MEASURES.
    """

    contender: str
    bound: float
    rivals: tuple[str, ...] = ()
    measure: str = "ratio"
    verbs: tuple[str, ...] = VERBS


@dataclass(frozen=True)
class Work:
    """Something to put and to get; sizes in bytes, of all files together.

    ``shape`` is one of sources.SHAPES. ``per_round`` is how often it is done for each round that was asked for (less
    than 1 for what takes minutes), ``warms`` whether a round before them does not count. ``sampled`` says who gets so
    many of the files only, because all would take an hour. ``on_disk`` takes part besides where the place is a disk.
    """

    name: str
    shape: str
    files: int
    size: int
    contenders: tuple[str, ...]
    aims: tuple[Aim, ...]
    group: str = ""
    line: Line | None = None
    places: tuple[str, ...] = PLACES
    verbs: tuple[str, ...] = VERBS
    per_round: float = 1.0
    warms: bool = True
    sampled: Mapping[str, int] = field(default_factory=dict)
    on_disk: tuple[str, ...] = ()

    @property
    def tree(self) -> bool:
        """Whether it is a folder with files, not one file."""
        return self.shape != "file"

    def rounds(self, asked: int) -> int:
        """How many rounds count."""
        return max(1, math.ceil(asked * self.per_round))

    def title(self) -> str:
        """In a few words, for headings."""
        what = f"{self.files:,} files, {as_size(self.size)}" if self.tree else f"one file of {as_size(self.size)}"
        return what if self.line is None else f"{what}, {self.line}"

    def scaled(self, size: int | None, files: int | None) -> Work:
        """The same with another size (of one big file) or another number of files (of a tree)."""
        if self.tree and files is not None:
            sampled = {name: min(count, files) for name, count in self.sampled.items()}
            return dataclasses.replace(self, files=files, size=self.size * files // self.files, sampled=sampled)
        if not self.tree and size is not None and self.name != "small":
            return dataclasses.replace(self, size=size)
        return self


def as_size(size: int) -> str:
    """``1 GiB``, ``120 MB``, ``1 kB``: the unit that makes the shortest number."""
    units = {"GiB": GIB, "MiB": MIB, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}
    fits = {unit: f"{size / count:.4g} {unit}" for unit, count in units.items() if size >= count}
    return min(fits.values(), key=len) if fits else f"{size} B"


def tree_over(rtt: float, sampled: int) -> Work:
    """The tree over a long line; scp, some round trips a file, gets ``sampled`` of the files."""
    ours = ("ftpy-md5", "ftpy-tls-md5")
    aims = (
        Aim("ftpy-md5", 1.0, ("rsync",)),
        *(Aim(name, 0.02, ("scp",)) for name in ours),
    )
    return dataclasses.replace(
        TREE,
        name=f"tree-{rtt * 1000:g}ms",
        group="long",
        line=Line(rtt),
        contenders=(*ours, "rsync", "scp"),
        aims=aims if rtt == LONGEST else (),
        places=("tmpfs",),
        per_round=0.6,
        warms=False,
        sampled={"scp": sampled},
        on_disk=(),
    )


LONGEST = 0.1
"""Seconds there and back on the line that the aims are for."""

BIG = Work(
    name="big",
    shape="file",
    files=1,
    size=GIB,
    contenders=(
        *("ftpy-md5", "rsync-md5", "ftpy-blake3", "rsync", "vsftpd", "nginx", "pyftpdlib", "aria2"),
        *("ftpy-tls-md5", "ftpy-tls-blake3", "scp", "rclone"),
    ),
    on_disk=("rsync-fsync",),
    aims=(
        Aim("ftpy-md5", 0.9, ("rsync-md5",), verbs=("put",)),
        Aim("ftpy-md5", 0.72, ("rsync-md5",), verbs=("get",)),
        Aim("ftpy-blake3", 0.75, ("rsync",)),
        Aim("ftpy-blake3", 1.0, ("vsftpd", "nginx")),
        Aim("ftpy-tls-md5", 0.95, ("scp",)),
        Aim("ftpy-tls-blake3", 0.5, ("scp",)),
    ),
)
TREE = Work(
    name="tree",
    shape="tree",
    files=8_000,
    size=120_000_000,
    contenders=("ftpy-md5", "ftpy-blake3", "rsync", "ftpy-tls-md5", "scp", "lftp", "rclone"),
    on_disk=("rsync-fsync",),
    sampled={"rclone": 160},  # it asks a new shell on the host for each file's digest
    aims=(
        *(Aim(name, 1.0, ("rsync",)) for name in ("ftpy-md5", "ftpy-blake3")),
        *(Aim(name, 0.15, ("scp",)) for name in ("ftpy-md5", "ftpy-blake3", "ftpy-tls-md5")),
        *(Aim(name, 0.2, ("lftp",)) for name in ("ftpy-md5", "ftpy-blake3")),
    ),
)
SMALL = Work(
    name="small",
    shape="file",
    files=1,
    size=1_000,
    contenders=("ftpy-md5", "ftpy-tls-md5", "rsync", "scp", "vsftpd", "nginx"),
    aims=(
        Aim("ftpy-md5", 0.12, measure="seconds"),
        Aim("ftpy-tls-md5", 1.0, ("scp",)),
    ),
    places=("tmpfs",),
    verbs=("get",),
    per_round=5.0,  # a tenth of a second each: one is too few to say anything
)
MANY = Work(
    name="many",
    shape="equal",
    files=100_000,
    size=100_000 * 4_096,
    contenders=("ftpy-md5", "ftpy-blake3", "rsync-fsync", "rsync"),
    aims=(
        *(Aim(name, 3_000, measure="files/s", verbs=("put",)) for name in ("ftpy-md5", "ftpy-blake3")),
        *(Aim(name, 1.5, ("rsync-fsync",)) for name in ("ftpy-md5", "ftpy-blake3")),
    ),
    places=("disk",),  # on tmpfs nothing is durable
    per_round=0.6,
    warms=False,
)
BIG_OVER = Work(
    name="big-100ms",
    shape="file",
    files=1,
    size=GIB,
    line=Line(LONGEST, 2 * MIB),
    group="long",
    contenders=("ftpy-md5", "ftpy-md5-one", "rsync", "aria2"),
    aims=(Aim("ftpy-md5", 0.25, ("ftpy-md5-one",)),),  # four times one connection's rate
    places=("tmpfs",),
    per_round=0.6,
    warms=False,
)

WORKS = {
    work.name: work
    for work in (BIG, TREE, SMALL, MANY, tree_over(0.01, 400), tree_over(0.05, 100), tree_over(LONGEST, 80), BIG_OVER)
}
GROUPS = {"long": tuple(work.name for work in WORKS.values() if work.group == "long"), "all": tuple(WORKS)}
USUAL = ("big", "tree", "small")
"""What is done where nothing was asked for: some minutes."""


def find_works(pattern: str) -> list[str]:
    """The names of works that a name, a group or a pattern means."""
    return list(GROUPS.get(pattern, ())) or fnmatch.filter(WORKS, pattern)
