"""What ``powercut`` asks for besides single files: trees at once, the trash and undo, folders, empty files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpy.client.client import Client
from ftpy.client.trees import TreeOptions
from ftpy.errors import IoError
from ftpy.wire.messages import RmReply, RmRequest
from tests.rigs.book import version_of_bytes, visible
from tests.rigs.feeding import Belief

if TYPE_CHECKING:
    from ftpy.client.events import Event
    from tests.rigs.powercut import Worker

Tree = dict[str, bytes]
FILES = 8
"""Of a tree that is put at once; and one more, which no other version has."""


def put_at_once(worker: Worker, client: Client) -> bool:
    """A tree in place of another, each file of which tells its version."""
    rng = worker.rng
    path, number = f"{worker.name_of_folder}/whole", rng.randrange(10**9)
    tree = {f"d{each % 3}/{each}": b"%d" % number for each in range(FILES)} | {f"only-{number}": b"%d" % number}
    source = worker.source.with_name(f"{worker.source.name}-whole")
    shutil.rmtree(source, ignore_errors=True)
    for name, data in tree.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    begun = _begin(worker, path, tree)
    for told in client.put_tree(source, path, TreeOptions(atomic=True)).failures:
        assert told.error is not None
        raise told.error
    _acknowledge(worker, begun)
    worker.wholes = [tree, *worker.wholes[:1]]
    return True


def rollback(worker: Worker, client: Client) -> bool:
    """Back to the tree before, of two that this life of the server has seen."""
    while len(worker.wholes) < 2:
        put_at_once(worker, client)
    begun = _begin(worker, f"{worker.name_of_folder}/whole", worker.wholes[1])
    assert client.rollback(f"{worker.name_of_folder}/whole").replaced
    _acknowledge(worker, begun)
    worker.wholes.reverse()
    return True


def _begin(worker: Worker, path: str, tree: Tree) -> list[str]:
    """All of a tree comes to ``path``, and all else that is known there goes: the paths."""
    coming = {f"{path}/{name}": version_of_bytes(data) for name, data in tree.items()}
    paths = [*coming, *(known for known in worker.book.copy() if known.startswith(f"{path}/") and known not in coming)]
    for each in paths:
        worker.book.begin(each, coming.get(each))
    return paths


def _acknowledge(worker: Worker, paths: list[str]) -> None:
    for each in paths:
        worker.book.acknowledge(each)


def remove_kept(worker: Worker, client: Client) -> bool:
    """A file goes into the trash, and half of the time comes back."""
    if (path := worker.there(("small", "grouped", "large"))) is None:
        return False
    was = worker.book.copy()[path].acknowledged
    operation = client.begin("a power cut")
    worker.book.begin(path, None)
    client._persist(
        lambda live: live.call(RmRequest(id=live.next_id(), path=path, recursive=True, operation=operation), RmReply)
    )
    worker.book.acknowledge(path)
    if worker.rng.random() < 0.5:
        worker.book.begin(path, was)
        if (undone := client.undo(operation)).left:
            raise IoError(f"left alone: {undone.paths}")
        worker.book.acknowledge(path)
    return True


def make_folder(worker: Worker, client: Client) -> bool:
    """A folder and the one above it."""
    path = f"{worker.name_of_folder}/made-{worker.rng.randrange(10**9)}/below"
    client.mkdir(path, parents=True)
    worker.folders.add(path)
    return True


def touch(worker: Worker, client: Client) -> bool:
    """An empty file."""
    path = f"{worker.name_of_folder}/touched-{worker.rng.randrange(10**9)}"
    worker.book.begin(path, version_of_bytes(b""))
    client.touch(path)
    worker.book.acknowledge(path)
    return True


WHOLES: tuple[Callable[[Any, Client], bool], ...] = (
    put_at_once,
    put_at_once,
    rollback,
    rollback,
    remove_kept,
    make_folder,
    touch,
)


def mixes(root: Path) -> list[str]:
    """A sentence for each tree that was put at once and is not one version, whole."""
    faults = []
    for whole in root.glob("client-*/whole"):
        found = {name: path.read_bytes() for name, path in visible(whole).items()}
        if len(set(found.values())) != 1 or len(found) != FILES + 1:
            faults.append(f"{whole.relative_to(root)} is a mix: {found}")
    return faults


class RootBelief(Belief):
    """What a reader of the feed believes who looks into each folder that is said to be published."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def hear(self, event: Event) -> None:
        """One event more."""
        super().hear(event)
        path = str(event.path)
        if event.kind == "published" and (self._root / path).is_dir():
            self.files.discard(path)
            self.files |= {f"{path}/{name}" for name in visible(self._root / path)}

    def faults(self) -> list[str]:
        """A sentence for each path about which feed and disk differ."""
        there = set(visible(self._root))
        return [f"{path} is there and not in the feed" for path in sorted(there - self.files)[:5]] + [
            f"{path} is in the feed and not there" for path in sorted(self.files - there)[:5]
        ]
