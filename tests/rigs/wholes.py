"""More requests of ``syscalls``: those that make, replace or bring back many names at once, as one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.client.lines import Alone
from ftpy.client.putting import FilePut, Put
from ftpy.client.source import Source
from ftpy.client.trees import TreeOptions
from ftpy.errors import Changed
from ftpy.files import RemotePath
from ftpy.wire.bases import Reply
from ftpy.wire.messages import RmReply, RmRequest
from ftpy.wire.trees import DiscardReply, DiscardRequest, StageReply, StageRequest, SwapReply, SwapRequest
from tests.rigs.nursery import AT_ONCE, ForkedHost
from tests.rigs.requests import Request

MTIME_NS = 1_234_567_890_000_000_000
NAMES = ("a", "d/b", "d/e/c")
Tree = dict[str, bytes]


def version(text: str) -> Tree:
    """A tree in which every file is of one version."""
    return {name: f"{text} {name}\n".encode() for name in NAMES}


OLD, NEW = version("old"), version("new")
GONE: Tree = {}


def write(tree: Tree, folder: Path) -> None:
    """Nothing else is there then."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read(folder: Path) -> Tree:
    """What a reader sees."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call(client: Client, make: Callable[..., Any], kind: type[Reply], **fields: Any) -> Any:
    """One request, as it is on the wire."""
    return client._persist(lambda live: live.call(make(id=live.next_id(), **fields), kind))


def put_into(client: Client, tree: str, path: str, source: Path) -> None:
    """A file into a staged tree."""
    put = Put(RemotePath.parse(path), "md5", None, lambda _: None, tree=tree)

    def send(live: Connection) -> None:
        FilePut(put, Source(str(source), "md5")).send(Alone(live))

    client._persist(send)


class Whole(Request):
    """Something about the folder ``whole``, which has OLD or NEW in it or is not there."""

    done: Tree = NEW
    """What is there when it is done."""

    def __init__(self, host: ForkedHost) -> None:
        super().__init__(host)
        self.whole, self.path = self.folder / "whole", f"{self.name}/whole"
        self.here = host.folder / f"{self.name}-source"

    def fault(self, done: bool) -> str | None:
        """All of the one, or all of the other."""
        found = read(self.whole)
        if done and found != self.done:
            return f"it was acknowledged, and {found} is there"
        return None if found in (OLD, NEW, {}) else f"a mix is there: {found}"

    def settle(self, client: Client) -> str | None:
        """The same, prepared anew, is done."""
        self.prepare()
        self.ask(client)
        return self.fault(True)

    def staged(self) -> list[str]:
        """What is left of trees."""
        return [path.name for path in (self.host.root / ".ftpy" / "trees").iterdir()]


class PutAtOnce(Whole):
    """A tree in place of another: staged, put, counted, swapped."""

    name = "put-at-once"
    needed_syncs = 0  # by which thread each is made nobody says: see ``swap-tree``

    def prepare(self) -> None:
        """The old one there, by another hand; the new one here."""
        write(OLD, self.whole)
        write(NEW, self.here)

    def ask(self, client: Client) -> None:
        """Put it."""
        result = client.put_tree(self.here, self.path, TreeOptions(atomic=True))
        for told in result.failures:
            assert told.error is not None
            raise told.error
        assert result.swapped

    def fault(self, done: bool) -> str | None:
        """Never nothing, either."""
        return super().fault(done) or (None if self.whole.is_dir() else "neither tree is there")

    def settle(self, client: Client) -> str | None:
        """The same put goes on and leaves nothing; a rollback brings back what was there before it."""
        before = read(self.whole)
        self.ask(client)
        if left := self.staged():
            return f"staged trees are left: {left}"
        if fault := self.fault(True):
            return fault
        client.rollback(self.path)
        return None if read(self.whole) == before else f"after a rollback {read(self.whole)} is there"


class SwapTree(PutAtOnce):
    """A tree that is staged, in place of another."""

    name = "swap-tree"
    needed_syncs = 3  # sealed, and both folders of the exchange; what is put away later is not asked about

    def prepare(self) -> None:
        """It is staged, and the old one is there."""
        super().prepare()
        with self.host.client(transfer=AT_ONCE) as client:
            self.tree = call(client, StageRequest, StageReply, path=self.path).tree
            for name in NEW:
                put_into(client, self.tree, f"{self.path}/{name}", self.here / name)

    def ask(self, client: Client) -> None:
        """Swap them."""
        size = sum(map(len, NEW.values()))
        counts = {"files": len(NEW), "folders": 2, "file_bytes": size}
        call(client, SwapRequest, SwapReply, path=self.path, tree=self.tree, **counts)

    def settle(self, client: Client) -> str | None:
        """Asked again it says that it is done, or does it."""
        self.ask(client)
        return self.fault(True)


class Rollback(Whole):
    """Back to the tree before."""

    name = "rollback"
    done = OLD

    def prepare(self) -> None:
        """The old one was replaced by the new one."""
        write(NEW, self.here)
        write(OLD, self.whole)
        with self.host.client(transfer=AT_ONCE) as client:
            client.put_tree(self.here, self.path, TreeOptions(atomic=True))

    def ask(self, client: Client) -> None:
        """Go back."""
        client.rollback(self.path)

    def settle(self, client: Client) -> str | None:
        """Another one returns."""
        before = read(self.whole)
        self.ask(client)
        found = read(self.whole)
        return None if found == (NEW if before == OLD else OLD) else f"after another rollback {found} is there"


class Discard(Whole):
    """A staged tree with a file in it."""

    name = "discard"
    done = OLD

    def prepare(self) -> None:
        """It is staged; something else is there."""
        write(OLD, self.whole)
        with self.host.client(transfer=AT_ONCE) as client:
            self.tree = call(client, StageRequest, StageReply, path=self.path).tree
            self.here.write_bytes(b"x")
            put_into(client, self.tree, f"{self.path}/a", self.here)

    def ask(self, client: Client) -> None:
        """Discard it."""
        call(client, DiscardRequest, DiscardReply, path=self.path, tree=self.tree)

    def fault(self, done: bool) -> str | None:
        """It is out of sight as before, or no more."""
        if done and (left := self.staged()):
            return f"it was discarded, and is there: {left}"
        return super().fault(True)  # what is in sight stays


class Mkdir(Whole):
    """A folder, with those above it."""

    name = "mkdir"
    done = GONE

    def prepare(self) -> None:
        """Nothing is there."""
        shutil.rmtree(self.whole, ignore_errors=True)

    def ask(self, client: Client) -> None:
        """Make it."""
        client.mkdir(f"{self.path}/a/b", parents=True)

    def fault(self, done: bool) -> str | None:
        """There once it is acknowledged."""
        return "it was made, and is not there" if done and not (self.whole / "a/b").is_dir() else None


class Touch(Whole):
    """The time of a file."""

    name = "touch"

    def prepare(self) -> None:
        """A file of now."""
        Request.prepare(self)

    def ask(self, client: Client) -> None:
        """Give it another time."""
        client.touch(f"{self.name}/file", MTIME_NS)

    def fault(self, done: bool) -> str | None:
        """Its content stays."""
        if done and (self.folder / "file").stat().st_mtime_ns != MTIME_NS:
            return "it was given a time, and has another"
        return None if self.there() == self.old else "its content is another"


class TouchNew(Touch):
    """An empty file."""

    name = "touch-new"

    def prepare(self) -> None:
        """Nothing is there."""
        (self.folder / "file").unlink(missing_ok=True)

    def fault(self, done: bool) -> str | None:
        """There once it is acknowledged, with its time."""
        there = self.there()
        if done and (there is None or (self.folder / "file").stat().st_mtime_ns != MTIME_NS):
            return "it was made, and is not there, or with another time"
        return None if there in (None, b"") else "something is in it"


class RmKept(Whole):
    """A folder that goes into the trash, as a sync with --delete does it."""

    name = "rm-kept"
    done = GONE

    def prepare(self) -> None:
        """It is there, and the operation is begun."""
        write(OLD, self.whole)
        with self.host.client(transfer=AT_ONCE) as client:
            self.operation = client.begin("a rig")

    def ask(self, client: Client) -> None:
        """Remove it."""
        call(client, RmRequest, RmReply, path=self.path, recursive=True, operation=self.operation)

    def settle(self, client: Client) -> str | None:
        """An undo brings it back, wherever it was interrupted."""
        done = client.undo(self.operation)
        for operation in (done.by, self.operation):
            client.forget(operation)
        found = read(self.whole)
        return None if found == OLD and not done.left else f"after an undo {found} is there, {done.left} left alone"


class Undo(RmKept):
    """The same folder comes back."""

    name = "undo"
    done = OLD

    def prepare(self) -> None:
        """It was removed."""
        super().prepare()
        with self.host.client(transfer=AT_ONCE) as client:
            super().ask(client)

    def ask(self, client: Client) -> None:
        """Bring it back."""
        done = client.undo(self.operation)
        if done.left:
            raise Changed(f"left alone: {done.paths}")


WHOLES: tuple[type[Request], ...] = (
    PutAtOnce,
    SwapTree,
    Rollback,
    Discard,
    Mkdir,
    Touch,
    TouchNew,
    RmKept,
    Undo,
)
