"""Removing: a folder is taken out of sight in one step, durably, before anything in it is destroyed.

What is on its way out lies in ``.ftpy/removed`` under names of this process; what is left of a dead one is swept.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from ftpy.errors import RequestError, UnknownOperation
from ftpy.files import DEPTH, RemotePath, display
from ftpy.storage.area import AREA, Area, made_private
from ftpy.storage.base import Closing, KnownVersion, Quota, Removed, ignore
from ftpy.storage.beneath import Directory
from ftpy.storage.clearing import Clearing
from ftpy.storage.feed import Record, deleted
from ftpy.storage.leaving import Leaving
from ftpy.storage.operations import OperationKey
from ftpy.storage.publishing import Place, Publisher
from ftpy.storage.refusals import translating
from ftpy.storage.trash import Trash
from ftpy.storage.usage import ROOT, Change, weight

if TYPE_CHECKING:
    from ftpy.storage.keeping import Keeper

REMOVED = "removed"
"""The folder of the staging area for what is on its way out."""

log = logging.getLogger("ftpy.storage")


class Remover(Closing):
    """Removes files and folders, and sweeps what was not destroyed to the end. Safe in any thread."""

    def __init__(self, area: Area, publisher: Publisher) -> None:
        self._area, self._publisher = area, publisher
        self._folder = made_private(area.top, REMOVED)
        self._under_way: set[str] = set()
        self._stopped = threading.Event()

    def close(self) -> None:
        """Close the folder."""
        self._folder.close()

    def interrupt(self) -> None:
        """Nothing more is destroyed: what is out of sight is left to the next start."""
        self._stopped.set()

    def rm(
        self,
        path: RemotePath,
        *,
        recursive: bool,
        on_removed: Callable[[int], None],
        version: KnownVersion | None = None,
    ) -> Removed:
        """Remove what is at ``path``. Raises RequestError."""
        with translating(path), ExitStack() as counting:
            with self._publisher.standing(path, version=version) as place:
                if not place.is_folder or not recursive:
                    return self._remove(place)
                name, change = self._take_out(place, counting)
            try:
                # It counts for nobody from now on, however long it takes to destroy it.
                change.removed(path, *self.weigh(name))
            except BaseException:
                self._under_way.discard(name)  # the next sweep destroys it
                raise
        return self.destroy([name], on_removed, path)

    def keep(
        self,
        keeper: Keeper,
        key: OperationKey,
        path: RemotePath,
        *,
        recursive: bool,
        version: KnownVersion | None = None,
        quota: Quota | None = None,
    ) -> Removed:
        """Take what is at ``path`` away, into what an operation keeps, within the ``quota``. Raises RequestError."""
        usage = self._publisher.usage
        with translating(path), keeper.trash.open(key) as trash:
            with self._publisher.standing(path, version=version, exclusive=True) as place:
                if place.is_folder and not recursive:
                    _check_empty(place)
                with keeper.keeping(key, place.publication, quota) as keeping, self._recording(place) as record:
                    step = keeping.going(path, place.found)
                    keeping.seal()
                    assert step.kept is not None
                    with usage.changing() as change:
                        measured = None
                        if change.tells(path, ROOT):
                            measured = usage.measure(path) if place.is_folder else (weight(place.found), 1)
                        take(place.directory, path.name, place.found, keeping.folder.directory, step.kept)
                        record.done()
                        if measured is not None:
                            change.moved(path, ROOT, *measured)
                    keeping.settle()
                    place.check_gone()
            return _census(trash.directory, step.kept, place.found)  # others need not wait while it is looked at

    def forget(self, trash: Trash, key: OperationKey, on_removed: Callable[[int], None]) -> Removed:
        """Destroy what an operation keeps. Raises RequestError."""
        with translating(ROOT), trash.open(key):
            return self._destroy(trash, key.id, on_removed)

    def sweep_trash(self, trash: Trash, seconds: float, owner: str | None = None) -> int:
        """Destroy what operations, of one ``owner`` or of all, keep that nothing was added to for so long: how many.

        Raises OSError.
        """
        swept = 0
        for name in trash.expired(seconds, owner):
            with contextlib.suppress(UnknownOperation):  # somebody was faster, or has gone on with it
                self._destroy(trash, name, ignore, seconds)
                log.info("an operation expired", extra={"event": "operation-swept", "fields": {"operation": name}})
                swept += 1
        return swept

    def _destroy(
        self, trash: Trash, operation: str, on_removed: Callable[[int], None], seconds: float = -math.inf
    ) -> Removed:
        """Destroy what an operation keeps, if for so long nothing was added to it. Raises UnknownOperation, OSError."""
        with self.leaving(on_removed) as leaving, self._publisher.publication(exclusive=True):
            if not trash.has_expired(operation, seconds):  # asked under the lock, where nobody can go on with it
                raise UnknownOperation
            leaving.take(trash.folder, operation)
        return leaving.removed

    def leaving(self, on_removed: Callable[[int], None] = ignore) -> Leaving:
        """For what is to be destroyed."""
        return Leaving(self, self._publisher.usage, on_removed)

    def take_in(self, within: Directory, name: str) -> str:
        """Take something of ours out of another folder of the staging area, durably: its name here. Raises OSError."""
        taken = self._area.new_name()[1]
        self._under_way.add(taken)
        try:
            within.rename(name, self._folder, taken)
            within.sync()
        except BaseException:
            self._under_way.discard(taken)
            raise
        return taken

    def weigh(self, name: str) -> tuple[int, int]:
        """What counts of something that is out of sight: nobody can change it, so nobody has to wait for that."""
        return self._publisher.usage.measure(RemotePath((AREA, REMOVED, name)))

    def destroy(self, names: list[str], on_removed: Callable[[int], None], path: RemotePath | None = None) -> Removed:
        """Destroy what is out of sight: what went."""
        try:
            clearing = self._clear(names, on_removed)
        finally:
            self._under_way.difference_update(names)
        if clearing.left:
            self._tell(clearing, path)
        return clearing.removed

    def has_taken(self, directory: Directory) -> bool:
        """Whether it is on its way out, or what it lies in: not all that was in it need be in it still."""
        return directory.is_below(self._folder, self._area.root)

    def sweep(self) -> int:
        """Destroy what was left out of sight, by dead processes or by us: how many names went. Raises OSError."""
        gone = 0
        for ours, names in self._area.owned(self._folder):
            clearing = self._clear([name for name in names if not ours or name not in self._under_way])
            gone += clearing.removed.files + clearing.removed.folders
            if clearing.left:
                self._tell(clearing)
        if gone:
            log.info("removed %d names", gone, extra={"event": "removed-swept", "fields": {"names": gone}})
        return gone

    def _remove(self, place: Place) -> Removed:
        """Remove a file, or a folder if it is empty."""
        name, size = place.path.name, weight(place.found)
        with self._recording(place) as record:
            with self._publisher.usage.changing() as change:
                if place.is_folder:
                    place.directory.rmdir(name)
                else:
                    place.directory.unlink(name)
                record.done()
                change.removed(place.path, size)
            place.check_gone()
        return Removed(files=int(not place.is_folder), folders=int(place.is_folder), size=size)

    def _recording(self, place: Place) -> AbstractContextManager[Record]:
        """Who removes is not kept from it where the disk has no room for the event."""
        return self._publisher.feed.recording(lambda: [deleted(place.path, place.look())], alone=True, needed=False)

    def _take_out(self, place: Place, counting: ExitStack) -> tuple[str, Change]:
        """The name that a folder has out of sight; when this returns, it is gone from its path for good.

        What it counted is to be told to the change, which lasts as long as ``counting``.
        """
        name, usage = self._area.new_name()[1], self._publisher.usage
        self._under_way.add(name)
        try:
            with self._recording(place) as record:
                change: Change = counting.enter_context(usage.changing())
                take(place.directory, place.path.name, place.found, self._folder, name)
                record.done()
                try:
                    place.check_gone()
                except RequestError:
                    # A crash might bring it back, so nothing of it may be destroyed; nor is it to stay away.
                    self._folder.rename_noreplace(name, place.directory, place.path.name)
                    record.undone()
                    raise
        except BaseException:
            self._under_way.discard(name)
            raise
        return name, change

    def _clear(self, names: list[str], on_removed: Callable[[int], None] | None = None) -> Clearing:
        clearing = Clearing(
            self._folder,
            lambda: self._area.new_name()[1],
            device=self._publisher.device,
            is_stopped=self._stopped.is_set,
            **({"on_removed": on_removed} if on_removed else {}),
        )
        for name in names:
            clearing.clear(name)
        return clearing

    @staticmethod
    def _tell(clearing: Clearing, path: RemotePath | None = None) -> None:
        fields: dict[str, object] = {"names": clearing.left, "path": display(str(path))} if path else {}
        reason = clearing.error.strerror if clearing.error else "?"
        log.error(
            "%d removed names could not be destroyed: %s",
            clearing.left,
            reason,
            extra={"event": "removed-left", "fields": {**fields, "names": clearing.left, "error": reason}},
        )


def take(directory: Directory, leaf: str, found: os.stat_result, into: Directory, name: str) -> None:
    """Take what was found away, out of sight. Raises OSError."""
    try:
        directory.rename(leaf, into, name)
    except PermissionError:
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o200 or not stat.S_ISDIR(found.st_mode):
            raise
        # A folder's entry for the one above it would change: that takes the right to write to itself (rename(2)).
        directory.chmod_directory(leaf, mode | 0o200)
        try:
            directory.rename(leaf, into, name)
        except OSError:
            directory.chmod_directory(leaf, mode)
            raise


def _check_empty(place: Place) -> None:
    with place.directory.open_dir(place.path.name) as folder:
        if folder.names():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))


def _census(directory: Directory, name: str, found: os.stat_result, depth: int = 0) -> Removed:
    """How much has gone there, as deep as a path of ours can reach."""
    if not stat.S_ISDIR(found.st_mode):
        return Removed(files=1, folders=0, size=weight(found))
    files = size = 0
    folders = 1
    with contextlib.suppress(OSError), directory.open_dir(name) as folder:
        for one in folder.names() if depth < DEPTH else ():
            inner = _census(folder, one, folder.lstat(one), depth + 1)
            files, folders, size = files + inner.files, folders + inner.folders, size + inner.size
    return Removed(files, folders, size)
