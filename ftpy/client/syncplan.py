"""What a sync is to do: a pure function of two listings, whose result is shown and then carried out as it is.

One side is the source, the other the target, which is to become equal to it. Nothing is deleted unless that is asked
for, and then not too much of it (``Plan.check``).
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from msgspec import Struct, field

from ftpy.client.trees import SAME_TIME_NS, same_time
from ftpy.errors import SyncRefused
from ftpy.files import RemotePath

Kind = Literal["file", "directory", "passed", "other"]
"""``passed``: something of the source that is passed over, a link say, in whose place the target keeps what it has."""

MOST_DELETED = 50
"""Percent of the target's files that a sync deletes unless it is told more."""


class Item(Struct, frozen=True):
    """Something on one side, below what is synced; not ``meant``: a pattern leaves it out."""

    path: RemotePath
    kind: Kind
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    etag: str | None = None
    meant: bool = True


class Rules(Struct, frozen=True):
    """How to plan: ``delete`` what the source lacks; ``keep_newer`` files of the target; compare ``by_digest``.

    ``only_some`` files are meant: then folders are never removed. ``ahead_ns`` is how far the target's clock is ahead.
    """

    delete: bool = False
    keep_newer: bool = False
    by_digest: bool = False
    only_some: bool = False
    ahead_ns: int = 0


Digest = Callable[[Item], str | None]


class Contents(NamedTuple):
    """How the digest of a file is had, of the ``source`` and of the ``target``, by one algorithm; None: not at all.

    It costs: a file is read, or its server asked. Each file is asked for once at most.
    """

    source: Digest
    target: Digest


Do = Literal["make", "move", "add", "replace", "delete", "remove"]
"""Make a folder, move a file to its new name, add or replace a file, delete a file, remove a folder."""


class Step(Struct, frozen=True):
    """One thing to do to the target, at ``path``; a move comes from ``origin``.

    ``etag`` is the version that the target must still have there, where it has one; ``newer``: what is replaced is
    newer than what comes.
    """

    do: Do
    path: RemotePath
    size: int = 0
    origin: RemotePath | None = None
    etag: str | None = None
    newer: bool = False


class Plan(Struct, frozen=True):
    """The ``steps``, in an order in which they can be carried out, and what was found besides."""

    steps: tuple[Step, ...] = ()
    identical: int = 0
    """Files that are the same on both sides."""
    newer: tuple[RemotePath, ...] = ()
    """Files of the target that stay because they are newer."""
    conflicts: tuple[RemotePath, ...] = ()
    """Where one side has a folder and the other none, and nothing may be deleted; all below is left as it is."""
    source_files: int = 0
    target_files: int = 0

    def count(self, *kinds: Do) -> int:
        """How many steps there are of these kinds."""
        return sum(step.do in kinds for step in self.steps)

    @property
    def size(self) -> int:
        """Bytes that are to be transferred."""
        return sum(step.size for step in self.steps if step.do in ("add", "replace"))

    def check(self, *, unread: str = "", most_deleted: int = MOST_DELETED) -> None:
        """Raises SyncRefused for a plan that would delete what it had better not.

        ``unread`` says what of either side could not be read. ``most_deleted`` percent of the target's files may go.
        """
        deleted = self.count("delete")
        if not deleted and not self.count("remove", "move"):  # what is moved is gone from where it was
            return
        if unread:
            raise SyncRefused(f"{unread}, so nothing is deleted; nothing was changed")
        if not self.source_files:
            raise SyncRefused("the source is empty, so nothing is deleted; nothing was changed")
        if deleted * 100 > most_deleted * self.target_files:
            percent = -(-deleted * 100 // self.target_files)
            raise SyncRefused(
                f"{deleted:,} of the target's {self.target_files:,} files would be deleted, which is over"
                f" {most_deleted}%; --max-delete {percent}% allows it; nothing was changed"
            )


class _Planner(Struct):
    """The state of one planning; ``there`` and ``here`` by path."""

    here: dict[RemotePath, Item]
    there: dict[RemotePath, Item]
    rules: Rules
    contents: Contents
    unmeant: set[RemotePath]
    """Folders of the target with something in them that a pattern leaves out."""
    blocked: set[RemotePath] = field(default_factory=set)
    cleared: set[RemotePath] = field(default_factory=set)
    """Places whose target gives way to something of another kind, with all below."""
    come: dict[RemotePath, Step] = field(default_factory=dict)
    made: list[RemotePath] = field(default_factory=list)
    identical: int = 0
    newer: list[RemotePath] = field(default_factory=list)
    conflicts: list[RemotePath] = field(default_factory=list)


def make_plan(source: Iterable[Item], target: Iterable[Item], rules: Rules, contents: Contents) -> Plan:
    """What makes ``target`` equal ``source``, as far as the rules go."""
    here = {item.path: item for item in sorted(source, key=lambda item: item.path)}
    there = {item.path: item for item in sorted(target, key=lambda item: item.path)}
    unmeant = {way for item in there.values() if not item.meant for way in _ways(item.path)}
    planner = _Planner(here, there, rules, Contents(*map(functools.cache, contents)), unmeant)
    for item in here.values():
        if not any(way in planner.blocked for way in _ways(item.path)):
            _look(planner, item)
    gone = _gone(planner) if rules.delete else {}
    moves = _moves(planner, gone)
    return Plan(
        steps=tuple(_ordered(planner, gone, moves)),
        identical=planner.identical,
        newer=tuple(planner.newer),
        conflicts=tuple(planner.conflicts),
        source_files=sum(item.kind == "file" for item in here.values()),
        target_files=sum(item.meant and item.kind != "directory" for item in there.values()),
    )


def _look(planner: _Planner, item: Item) -> None:
    """What becomes of one thing of the source."""
    other = planner.there.get(item.path)
    if item.kind == "passed":
        planner.blocked.add(item.path)
    elif other is not None and (item.kind == "directory") != (other.kind == "directory"):
        _change_kind(planner, item, other)
    elif item.kind == "directory":
        if other is None:
            planner.made.append(item.path)
    elif other is None:
        planner.come[item.path] = Step("add", item.path, item.size)
    elif _same(planner, item, other):
        planner.identical += 1
    else:
        newer = other.mtime_ns - planner.rules.ahead_ns > item.mtime_ns and not same_time(other.mtime_ns, item.mtime_ns)
        if newer and planner.rules.keep_newer:
            planner.newer.append(item.path)
        else:
            planner.come[item.path] = Step("replace", item.path, item.size, etag=other.etag, newer=newer)


def _same(planner: _Planner, item: Item, other: Item) -> bool:
    if other.kind != "file" or item.size != other.size:
        return False
    if not planner.rules.by_digest:
        return same_time(item.mtime_ns, other.mtime_ns)
    digest = planner.contents.source(item)
    return digest is not None and digest == planner.contents.target(other)


def _change_kind(planner: _Planner, item: Item, other: Item) -> None:
    """A file where the target has a folder, or the other way round: the target's goes first, if it may."""
    if not planner.rules.delete or not other.meant or item.path in planner.unmeant:
        planner.conflicts.append(item.path)
        planner.blocked.add(item.path)
        return
    planner.cleared.add(item.path)
    if item.kind == "directory":
        planner.made.append(item.path)
    else:
        planner.come[item.path] = Step("add", item.path, item.size)


def _gone(planner: _Planner) -> dict[RemotePath, Item]:
    """What of the target is to go: what the source lacks, or has in another kind; no folder that something stays in."""
    gone = {}
    staying: set[RemotePath] = set()
    for item in reversed(planner.there.values()):  # what is in a folder before the folder
        lacking = item.path not in planner.here or item.path in planner.cleared
        protected = not planner.blocked.isdisjoint([item.path, *_ways(item.path)])
        goes = lacking and item.meant and not protected
        if item.kind == "directory" and item.path not in planner.cleared:
            goes = goes and item.path not in staying and not planner.rules.only_some
        if goes:
            gone[item.path] = item
        else:
            staying.update(_ways(item.path))
    return gone


def _moves(planner: _Planner, gone: dict[RemotePath, Item]) -> list[Step]:
    """Files that only have other names: each takes one of those that come and one of those that go."""
    leaving = _Leaving(planner)
    for item in sorted(gone.values(), key=lambda item: item.path):
        if item.kind == "file" and item.size and item.path not in planner.cleared:
            leaving.add(item)
    moves = []
    for step in list(planner.come.values()):
        if step.do != "add" or not planner.cleared.isdisjoint([step.path, *_ways(step.path)]):
            continue
        if (old := leaving.take(planner.here[step.path])) is not None:
            moves.append(Step("move", step.path, step.size, old.path, old.etag))
            del planner.come[step.path], gone[old.path]
    return moves


Group = tuple[int, int]
"""A size, and a time so coarse that what is one time lies in one of these or in the next; 0 where no time counts."""


class _Leaving:
    """Files that are to go, found by what they are: no two are compared that could not be one and the same."""

    def __init__(self, planner: _Planner) -> None:
        self._contents, self._by_digest = planner.contents, planner.rules.by_digest
        self._groups: dict[Group, list[Item]] = {}
        self._known: dict[Group, dict[str | None, deque[Item]]] = {}
        """The same by their digests, of groups that somebody wanted one of."""

    def _group(self, item: Item) -> Group:
        return item.size, 0 if self._by_digest else item.mtime_ns // SAME_TIME_NS

    def add(self, item: Item) -> None:
        """One more."""
        self._groups.setdefault(self._group(item), []).append(item)

    def take(self, new: Item) -> Item | None:
        """One that is the same as ``new`` but for its path, for nobody else from now on."""
        size, tick = self._group(new)
        for group in ((size, tick - 1), (size, tick), (size, tick + 1)):
            if group not in self._groups or (digest := self._contents.source(new)) is None:
                continue
            same = self._in(group).get(digest, deque())
            for old in same:
                if self._by_digest or same_time(old.mtime_ns, new.mtime_ns):
                    same.remove(old)
                    return old
        return None

    def _in(self, group: Group) -> dict[str | None, deque[Item]]:
        if group not in self._known:
            known = self._known[group] = {}
            for item in self._groups[group]:
                known.setdefault(self._contents.target(item), deque()).append(item)
        return self._known[group]


def _ordered(planner: _Planner, gone: dict[RemotePath, Item], moves: list[Step]) -> Iterator[Step]:
    """Folders that moves need, moves, what is in the way, folders, files, what is left to delete."""
    needed = {way for step in moves for way in _ways(step.path)}
    yield from (Step("make", path) for path in planner.made if path in needed)
    yield from moves
    for in_the_way in (True, False):
        if not in_the_way:
            yield from (Step("make", path) for path in planner.made if path not in needed)
            yield from planner.come.values()
        for path, item in gone.items():
            if (not planner.cleared.isdisjoint([path, *_ways(path)])) == in_the_way:
                kind: Do = "remove" if item.kind == "directory" else "delete"
                yield Step(kind, path, item.size, etag=item.etag)


def _ways(path: RemotePath) -> list[RemotePath]:
    """The folders that a path is in, the nearest first."""
    return [RemotePath(path.parts[:depth]) for depth in range(len(path.parts) - 1, 0, -1)]
