"""Removing: a folder is taken out of sight in one step, durably, before anything in it is destroyed.

What is on its way out lies in ``.ftpy/removed`` under names of this process; what is left of a dead one is swept.
"""

from __future__ import annotations

import logging
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from ftpy.errors import RequestError
from ftpy.files import RemotePath, display
from ftpy.storage.area import AREA, Area, made_private
from ftpy.storage.base import Closing, Removed
from ftpy.storage.clearing import Clearing
from ftpy.storage.feed import Record, deleted
from ftpy.storage.publishing import Place, Publisher
from ftpy.storage.refusals import translating
from ftpy.storage.usage import weight

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

    def rm(self, path: RemotePath, *, recursive: bool, on_removed: Callable[[int], None]) -> Removed:
        """Remove what is at ``path``. Raises RequestError."""
        with translating(path), self._publisher.standing(path) as place:
            if not place.is_folder or not recursive:
                return self._remove(place)
            name = self._take_out(place)
        try:
            clearing = self._clear([name], on_removed)
        finally:
            self._under_way.discard(name)
        if clearing.left:
            self._tell(clearing, path)
        return clearing.removed

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
        return self._publisher.feed.recording([deleted(place.path, place.found)], alone=True, needed=False)

    def _take_out(self, place: Place) -> str:
        """The name that a folder has out of sight; when this returns, it is gone from its path for good."""
        name, usage = self._area.new_name()[1], self._publisher.usage
        self._under_way.add(name)
        try:
            with ExitStack() as recording:
                record = recording.enter_context(self._recording(place))
                with usage.changing() as change:
                    self._hide(place, name)
                    record.done()
                    try:
                        place.check_gone()
                    except RequestError:
                        # A crash might bring it back, so nothing of it may be destroyed; nor is it to stay away.
                        self._folder.rename_noreplace(name, place.directory, place.path.name)
                        record.undone()
                        raise
                    recording.close()  # others need not wait while it is measured
                    # It counts for nobody from now on, however long it takes to destroy it.
                    change.removed(place.path, *usage.measure(RemotePath((AREA, REMOVED, name))))
        except BaseException:
            self._under_way.discard(name)
            raise
        return name

    def _hide(self, place: Place, name: str) -> None:
        leaf, mode = place.path.name, stat.S_IMODE(place.found.st_mode)
        try:
            place.directory.rename(leaf, self._folder, name)
        except PermissionError:
            if mode & 0o200:
                raise
            # Its entry for the folder above would change: that takes the right to write to itself (rename(2)).
            place.directory.chmod_directory(leaf, mode | 0o200)
            try:
                place.directory.rename(leaf, self._folder, name)
            except OSError:
                place.directory.chmod_directory(leaf, mode)
                raise

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
