"""What was sent where, what was acknowledged of it, and the checker that holds a disk against that.

The checker reads the disk itself, beside the server: what it compares with is what was sent, never what ftpy says.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3


@dataclass(frozen=True)
class Version:
    """One content that was sent: its size and BLAKE3."""

    size: int
    blake3: str


State = Version | None
"""What may be at a path; None: nothing."""


@dataclass
class Truth:
    """What is true of a path: the state acknowledged last, and those that it may have come to since."""

    acknowledged: State = None
    under_way: tuple[State, ...] = ()

    @property
    def allowed(self) -> list[State]:
        """What a reader may see."""
        return [self.acknowledged, *self.under_way]


@dataclass(frozen=True)
class Move:
    """A file on its way from one path to another: in the end it is at exactly one of them."""

    source: str
    target: str
    version: Version


@dataclass
class Book:
    """Every path that something was asked of, and what is true of it. Safe in any thread.

    One thread works on a path at a time, and begins anew only when it has heard of what it began before.
    """

    truths: dict[str, Truth] = field(default_factory=dict)
    acknowledgements: int = 0
    _moves: set[Move] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, path: str, state: State) -> None:
        """A put begins, or with None a removal."""
        with self._lock:
            truth = self.truths.setdefault(path, Truth())
            truth.under_way = (*truth.under_way, state)

    def acknowledge(self, path: str) -> None:
        """What was begun last at ``path`` was acknowledged."""
        with self._lock:
            self._acknowledge(path)
            self.acknowledgements += 1

    def _acknowledge(self, path: str) -> None:
        self.truths[path] = Truth(self.truths[path].under_way[-1])

    def begin_move(self, source: str, target: str) -> Move:
        """A move begins, of what was acknowledged at its source."""
        version = self.truths[source].acknowledged
        assert version is not None
        move = Move(source, target, version)
        is_told_apart = version not in self.truths.get(target, Truth()).allowed  # two empty files are alike
        self.begin(source, None)
        self.begin(target, version)
        with self._lock:
            if is_told_apart:
                self._moves.add(move)
        return move

    def acknowledge_move(self, move: Move) -> None:
        """A move was acknowledged."""
        with self._lock:
            self._acknowledge(move.source)
            self._acknowledge(move.target)
            self._moves.discard(move)
            self.acknowledgements += 1

    def refuse(self, *paths: str) -> None:
        """What was begun last there was refused before anything was done: it never happens."""
        with self._lock:
            for path in paths:
                truth = self.truths[path]
                truth.under_way = truth.under_way[:-1]
            self._moves = {move for move in self._moves if (move.source, move.target) != paths}

    def copy(self) -> dict[str, Truth]:
        """What is true now."""
        with self._lock:
            return {path: Truth(truth.acknowledged, truth.under_way) for path, truth in self.truths.items()}

    def settle(self, root: Path) -> list[str]:
        """Nothing is under way any more, so what is there now is what counts from here: what is wrong with it."""
        faults = self.faults(root)
        with self._lock:
            found = {path: version_of(file) for path, file in visible(root).items()}
            self.truths = {path: Truth(found.get(path)) for path in self.truths}
            self._moves = set()
        return faults

    def faults(self, root: Path) -> list[str]:
        """A sentence for each thing that is not as it must be below ``root``."""
        with self._lock:
            moves = list(self._moves)
        truths = self.copy()  # before the disk: an acknowledgement that is read meanwhile is of what is under way here
        files = visible(root)
        found = {path: version_of(file) for path, file in files.items()}
        faults = [f"{path} is visible and was never put" for path in found if path not in truths]
        for path, truth in truths.items():
            if (seen := found.get(path)) not in truth.allowed:
                faults.append(_fault(path, seen, truth))
        for move in moves:
            places = [path for path in (move.source, move.target) if found.get(path) == move.version]
            if len(places) != 1:
                faults.append(f"{move.source}, which was being moved to {move.target}, is at {places or 'neither'}")
        return faults


def _fault(path: str, seen: State, truth: Truth) -> str:
    if seen is None:
        return f"{path} was acknowledged and is gone"
    if truth.allowed == [None]:
        return f"{path} was removed and is back: {seen}"
    return f"{path} is torn or old: {seen} where {truth} is known"


def version_of(path: Path) -> Version:
    """What is on disk: of one file, also where another takes its place meanwhile."""
    while True:
        before = path.stat()
        found = Version(before.st_size, blake3().update_mmap(path).hexdigest())
        if os.path.samestat(before, path.stat()):
            return found


def version_of_bytes(data: bytes) -> Version:
    """The version that these bytes are."""
    return Version(len(data), blake3(data).hexdigest())


def visible(root: Path) -> dict[str, Path]:
    """Every file that a reader could see. The staging area is not looked into: what is in it goes meanwhile."""
    found: dict[str, Path] = {}
    for where, folders, files in os.walk(root):
        at = Path(where)
        if at == root and ".ftpy" in folders:
            folders.remove(".ftpy")
        found |= {(at / name).relative_to(root).as_posix(): at / name for name in files}
    return found
