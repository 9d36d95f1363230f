"""What a sync replaces and deletes on this side is kept there, in ``.ftpy/trash`` of its target, and can be undone.

It is the same trash as a server's (``storage.trash``). Where the targets are is noted in a file of the client's own,
so that an id alone finds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator

from ftpy.client.landing import Landing
from ftpy.client.operations import chosen
from ftpy.client.results import Kept, LeftAlone, Undone
from ftpy.client.source import local_error
from ftpy.config.client import client_config_path
from ftpy.durable import locked, replace_file
from ftpy.errors import FtpyError, LocalFileError, RequestError
from ftpy.files import RemotePath, display, is_unfinished
from ftpy.storage.area import AREA, made_private
from ftpy.storage.base import Closing, KnownInode
from ftpy.storage.keeping import Keeper, Keeping
from ftpy.storage.operations import OperationKey
from ftpy.storage.record import Identity, identity
from ftpy.storage.removing import Remover, take
from ftpy.storage.trash import TRASH, Trash
from ftpy.storage.undoing import Undoing
from ftpy.storage.usage import Usage
from ftpy.storage.versions import inode_of

OWNER = "-"
"""Whose operations they are, where nobody else's are."""
KEEP_SECONDS = 30 * 86400.0
"""How long what is kept on this side stays, as on a server by default; swept when a sync comes there."""
MOST_NOTED = 1_000
"""Targets that are remembered, the last ones."""


def notes_path() -> str:
    """``targets.jsonl`` beside the client's settings."""
    return os.path.join(os.path.dirname(client_config_path()), "targets.jsonl")


class KeptHere(Closing):
    """The trash of one folder on this side, which a ``landing`` is in. Raises LocalFileError."""

    def __init__(self, landing: Landing) -> None:
        if not landing.groups:
            raise LocalFileError(
                f"{display(landing.target)}: this system cannot keep what a sync replaces or deletes here"
            )
        self.landing = landing
        with self._translating():
            self.trash = Trash(made_private(landing.area.top, TRASH), Usage())
        self._keeper = Keeper(self.trash, Usage(), None)

    def close(self) -> None:
        """Close it."""
        self.trash.close()

    @contextlib.contextmanager
    def _translating(self, path: RemotePath | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise local_error(self.landing.name(path or RemotePath()), error) from None
        except RequestError as error:
            raise self.landing.translated(error, path or RemotePath()) from None

    def begin(self, operation: str, what: str) -> None:
        """Begin an operation here, and note where; what is older than it is kept for goes."""
        with self._translating():
            with Remover(self.landing.area, self.landing.publisher) as remover:
                remover.sweep_trash(self.trash, KEEP_SECONDS, OWNER)  # a server here may keep its users' for longer
            self.trash.begin(OperationKey(OWNER, operation), display(what))
        note(self.landing.target)

    @contextlib.contextmanager
    def keeping(self, operation: str) -> Iterator[Keeping]:
        """What the operation keeps of what happens in the ``with``."""
        key = OperationKey(OWNER, operation)
        with self._translating(), self.landing.publisher.publication(exclusive=True) as publication:
            with self._keeper.keeping(key, publication) as keeping:
                yield keeping
                keeping.settle()
            publication.check_synced()

    def check(self, path: RemotePath, known: Identity | None) -> os.stat_result:
        """What is there, if it is still what was listed. Raises LocalFileError."""
        found = self.landing.lstat(path)
        if found is None or (known is not None and not known.fits(found)):
            raise LocalFileError(f"{display(self.landing.name(path))}: it was changed since it was listed")
        return found

    def announce(
        self, operation: str, files: list[tuple[RemotePath, int, int, Identity | None]]
    ) -> list[FtpyError | KnownInode | None]:
        """These files (path, size, time) are about to come, in place of what was listed: that is kept.

        For each what failed, or what is kept: nothing else may be replaced. None: nothing was there.
        """
        announced: list[FtpyError | KnownInode | None] = []
        with self.keeping(operation) as keeping:
            for path, size, mtime_ns, known in files:
                try:
                    with self._translating(path):
                        if known is not None:
                            self.check(path, known)
                        kept = keeping.coming(path, Identity("file", size, mtime_ns)).kept
                        announced.append(None if kept is None else inode_of(keeping.folder.directory.lstat(kept)))
                except FtpyError as error:
                    announced.append(error)
            keeping.seal()
        return announced

    def make(self, operation: str, path: RemotePath) -> None:
        """Make a folder."""
        with self.keeping(operation) as keeping:
            keeping.making(path)
            keeping.seal()
            self.landing.open_dir(path).close()

    def move(self, operation: str, origin: RemotePath, to: RemotePath, known: Identity | None) -> None:
        """Give a file another path, where nothing is."""
        found = self.check(origin, known)
        with self.keeping(operation) as keeping, self._translating(to):
            keeping.coming(to, identity(found), origin)
            keeping.seal()
            with self.landing.open_dir(origin.parent) as source, self.landing.open_dir(to.parent) as into:
                source.rename_noreplace(origin.name, into, to.name)
                into.sync()
                source.sync()

    def delete(self, operation: str, path: RemotePath, known: Identity | None) -> None:
        """Take a file, or a folder with nothing in it that anybody sees, away."""
        found = self.check(path, known)
        with self.keeping(operation) as keeping, self._translating(path), self.landing.open_dir(path.parent) as parent:
            if stat.S_ISDIR(found.st_mode):
                with parent.open_dir(path.name) as folder:
                    if not all(map(is_unfinished, folder.names())):  # that goes along
                        raise LocalFileError(f"{display(self.landing.name(path))}: the folder is not empty")
            step = keeping.going(path, found)
            keeping.seal()
            assert step.kept is not None
            take(parent, path.name, found, keeping.folder.directory, step.kept)
            parent.sync()

    def operations(self) -> list[Kept]:
        """Those of this folder, the newest first."""
        with self._translating():
            return [
                Kept(
                    one.id,
                    one.what,
                    one.time_ns,
                    one.added,
                    one.replaced,
                    one.deleted,
                    one.moved,
                    one.made,
                    self.landing.target,
                )
                for one in self.trash.operations(OWNER)
            ]

    def undo(self, operation: str, by: str) -> Undone:
        """Reverse an operation, as the operation ``by``. Raises UnknownOperation."""
        keys = OperationKey(OWNER, operation), OperationKey(OWNER, by)
        with self._translating():
            self.trash.begin(keys[1], f"undo {operation}")
            undone = Undoing(self.landing.publisher, self._keeper, keys, lambda *_: True, lambda _: None).run()
        left = [LeftAlone(one.path, self.landing.translated(one.error, one.path)) for one in undone.left]
        return Undone(operation, by, undone.steps, undone.already, len(left), left)

    def forget(self, operation: str) -> int:
        """Destroy what an operation keeps: how many names went."""
        with self._translating(), Remover(self.landing.area, self.landing.publisher) as remover:
            went = remover.forget(self.trash, OperationKey(OWNER, operation), lambda _: None)
        return went.files + went.folders


@contextlib.contextmanager
def kept_in(target: str) -> Iterator[KeptHere]:
    """The trash of a folder on this side."""
    with Landing(target) as landing, KeptHere(landing) as kept:
        yield kept


def note(target: str) -> None:
    """Remember that something is kept in this folder. Where that fails it is only not listed."""
    real, path = os.path.realpath(target), notes_path()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with locked(path):
            targets = [one for one in targets_noted() if one != real][1 - MOST_NOTED :]
            lines = [json.dumps({"target": one}) + "\n" for one in [*targets, real]]
            replace_file(path, "".join(lines).encode("ascii"), 0o600)


def targets_noted() -> list[str]:
    """Folders on this side that something was kept in, as far as they are still there."""
    found = []
    with contextlib.suppress(OSError), open(notes_path(), encoding="ascii") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found.append(str(json.loads(line)["target"]))
    return [one for one in found if os.path.isdir(os.path.join(one, AREA, TRASH))]


def operations_here() -> list[Kept]:
    """All that can be undone on this side, the newest first."""
    found: list[Kept] = []
    for target in targets_noted():
        with contextlib.suppress(LocalFileError), kept_in(target) as kept:
            found += kept.operations()
    return sorted(found, key=lambda one: one.time_ns, reverse=True)


def find_here(prefix: str) -> Kept | None:
    """The operation on this side whose id begins so; None where there is none. Raises UnknownOperation for several."""
    found = {one.id: one for one in operations_here() if one.id.startswith(prefix)}
    return found[chosen(prefix, list(found))] if found else None
