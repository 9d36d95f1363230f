"""What an operation keeps of a publication: all is said and kept, durably, before anything is done.

Under the lock of publications: ``coming`` and ``going`` for each thing that is about to come or go, then ``seal``, then
the effects, then ``settle``. What is replaced is linked into the trash first, so that readers see the old or the new;
what goes is moved there. A crash in between leaves a step on record that was never taken, which a look tells.
"""

from __future__ import annotations

import contextlib
import os
import stat

from ftpy.errors import IsADirectory, Unsupported
from ftpy.files import RemotePath, display
from ftpy.storage.base import Closing, Quota
from ftpy.storage.beneath import NO_LINKS, Directory
from ftpy.storage.operations import OperationKey
from ftpy.storage.publishing import Publication, entry
from ftpy.storage.record import FOLDER, Identity, Step, identity
from ftpy.storage.remembered import Remembered
from ftpy.storage.trash import Folder, Trash
from ftpy.storage.usage import Usage
from ftpy.storage.versions import NO_DIGESTS, Digests, Version, version_of


class Keeper:
    """Opens what operations keep in; ``remembered`` None where no digests are."""

    def __init__(self, trash: Trash, usage: Usage, remembered: Remembered | None) -> None:
        self.trash, self.usage, self.remembered = trash, usage, remembered

    def keeping(self, key: OperationKey, publication: Publication, quota: Quota | None = None) -> Keeping:
        """For one operation, in one publication, its record held to a quota. Raises UnknownOperation, OSError."""
        return Keeping(self.trash.open(key), publication, self.usage, self.remembered, quota)


class Keeping(Closing):
    """One operation in one publication. All raise OSError, RequestError."""

    def __init__(
        self,
        folder: Folder,
        publication: Publication,
        usage: Usage,
        remembered: Remembered | None = None,
        quota: Quota | None = None,
    ) -> None:
        self.folder = folder
        self._publication, self._usage, self._remembered, self._quota = publication, usage, remembered, quota
        self._steps: list[Step] = []
        self._made: set[RemotePath] = set()
        self._came: dict[RemotePath, Step] = {}
        self._linked: list[str] = []
        """What was linked since it was sealed last."""
        self._gone = False
        self._known: dict[str, Digests] = {}
        """What is known of the files that are kept, by the names that they have there."""
        self._again: list[tuple[Version, Digests]] = []

    def close(self) -> None:
        """Close the folder; where it is counted, nothing in it is a second name of what was not replaced after all."""
        try:
            if self._usage.counts:
                for place, step in self._came.items():
                    if step.kept is not None:
                        self._let_go_unless_replaced(place, step.kept)
        except OSError:
            self._usage.distrust()  # once that is forgotten it would count as gone
        finally:
            self.folder.close()

    def coming(self, place: RemotePath, new: Identity, origin: RemotePath | None = None) -> Step:
        """This is about to come to a place: what is there now is kept, and folders will be made."""
        if (before := self._came.get(place)) is not None:
            # Of several in one publication nobody sees but the last; what was there before all of them is kept.
            return self._say(Step(place, before.old, new, before.kept, origin))
        self.making(place.parent)
        directory = self._existing(place.parent)
        old = entry(directory, place.name) if directory is not None else None
        kept = None
        if old is not None:
            assert directory is not None
            if stat.S_ISDIR(old.st_mode):
                raise IsADirectory(f"{display(str(place))}: that is a directory")
            kept = self._link(directory, place)
            self._note(kept, old)
        self._came[place] = step = Step(place, None if old is None else identity(old), new, kept, origin)
        return self._say(step)

    def going(self, place: RemotePath, found: os.stat_result) -> Step:
        """This is about to go from a place, to ``folder`` under the step's ``kept`` name."""
        kept = self.folder.new_name()
        self._note(kept, found)
        self._gone = True
        return self._say(Step(place, identity(found), None, kept))

    def coming_back(self, place: RemotePath, found: os.stat_result) -> Step:
        """What another operation kept, as it was found there, is about to come back to a place."""
        return self.coming(place, identity(found))

    def returning(self, place: RemotePath, found: os.stat_result) -> Step:
        """The same for a place that something is about to be moved away from."""
        return self._say(Step(place, None, identity(found)))

    def restored(self, name: str, into: Directory, before: os.stat_result) -> None:
        """What was kept or moved is in a place again, where it has become another version: digests stay known."""
        if self._remembered is not None and stat.S_ISREG(before.st_mode):
            known = self._remembered.look(version_of(before))
            if known != NO_DIGESTS:
                self._again.append((version_of(into.lstat(name)), known))

    def making(self, folder: RemotePath) -> None:
        """This folder, and those above it, are about to be made where they are missing."""
        missing = []
        while folder.parts and folder not in self._made and self._existing(folder) is None:
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            self._made.add(path)
            self._say(Step(path, None, FOLDER))

    def seal(self) -> None:
        """Make what was said and kept so far durable: now it may be done. Raises QuotaExceeded."""
        if self._steps:
            try:
                if self._linked:
                    self.folder.directory.sync()
                self.folder.append(self._steps, self._usage, self._quota)
            except BaseException:
                self._let_go()
                raise
            self._linked, self._steps = [], []

    def settle(self) -> None:
        """It is done, if not all of it: names that came into the trash are durable, digests stay known."""
        if self._gone:
            self.folder.directory.sync()
        if self._remembered is not None:
            known = [*self._again]
            for kept, digests in self._known.items():
                found = entry(self.folder.directory, kept)
                if found is not None:
                    known.append((version_of(found), digests))
            if known:
                self._remembered.keep(known)

    def _let_go_unless_replaced(self, place: RemotePath, kept: str) -> None:
        here = entry(self._publication.existing(place.parent), place.name)
        there = entry(self.folder.directory, kept)
        if here is not None and there is not None and os.path.samestat(here, there):
            self.folder.directory.unlink(kept)

    def _let_go(self) -> None:
        """What is not on record is not kept: a second name of what stays would count, once it is forgotten, as gone."""
        for kept in self._linked:
            with contextlib.suppress(OSError):
                self.folder.directory.unlink(kept)
        self._linked = []

    def _say(self, step: Step) -> Step:
        self._steps.append(step)
        return step

    def _note(self, kept: str, found: os.stat_result) -> None:
        if self._remembered is not None and stat.S_ISREG(found.st_mode):
            known = self._remembered.look(version_of(found))
            if known != NO_DIGESTS:
                self._known[kept] = known

    def _existing(self, path: RemotePath) -> Directory | None:
        try:
            return self._publication.existing(path)
        except FileNotFoundError:
            return None

    def _link(self, directory: Directory, place: RemotePath) -> str:
        kept = self.folder.new_name()
        try:
            directory.link(place.name, self.folder.directory, kept)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            what = "this disk cannot keep what is replaced: it has no hard links, or the file is not the server's own"
            raise Unsupported(f"{display(str(place))}: {what}") from error
        self._linked.append(kept)
        return kept
