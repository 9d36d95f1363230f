"""Reversing an operation, newest step first, as an operation of its own: what has to give way is kept in its turn.

A step is reversed only where its place is as the operation left it; where it is as it was before there is nothing to
do, and anything else is left alone and told. So it can be broken off anywhere and asked again. Steps that do not touch
each other's places share their syncs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from ftpy.errors import Changed, NotEmpty, NotFound, PermissionDenied, RequestError
from ftpy.files import RemotePath, display, is_unfinished
from ftpy.storage.base import Quota
from ftpy.storage.beneath import Directory
from ftpy.storage.feed import Happening, deleted, moved, published
from ftpy.storage.keeping import Keeper, Keeping
from ftpy.storage.operations import MOST_LEFT, Allows, Effect, LeftAlone, OperationKey, Undone
from ftpy.storage.publishing import Publication, Publisher, entry
from ftpy.storage.record import Step, identity
from ftpy.storage.refusals import refusal, translating
from ftpy.storage.removing import take
from ftpy.storage.trash import TRASH, Folder
from ftpy.storage.usage import ROOT, weight

MOST_TOGETHER = 256
"""Steps reversed under one lock, with one sync of each folder."""

Doing = Callable[[], None]


class Planned(NamedTuple):
    """A step, what was found at its place, and what is to be done to reverse it."""

    step: Step
    found: os.stat_result | None
    doing: Doing


def happening(operation: str, step: Step, found: os.stat_result | None) -> Happening:
    """What the feed of events is to tell of reversing a step of this operation."""
    if step.kept is not None and (step.origin is None or found is None):
        return published(step.place, f"{TRASH}/{operation}/{step.kept}")
    assert found is not None
    return deleted(step.place, found) if step.origin is None else moved(step.place, step.origin, found)


class Undoing:
    """The first of the ``keys`` being reversed, as the second; ``on_step`` hears how many steps were looked at.

    What is written down is held to the ``quota``.
    """

    def __init__(
        self,
        publisher: Publisher,
        keeper: Keeper,
        keys: tuple[OperationKey, OperationKey],
        allows: Allows,
        on_step: Callable[[int], None],
        *,
        quota: Quota | None = None,
    ) -> None:
        self._publisher, self._keeper = publisher, keeper
        self._key, self._by = keys
        self._allows, self._on_step = allows, on_step
        self._quota = quota
        self._steps = self._already = self._left_alone = 0
        self._left: list[LeftAlone] = []

    def run(self) -> Undone:
        """Reverse it. Raises UnknownOperation, IoError, …: then part of it may have been reversed."""
        with translating(ROOT), self._keeper.trash.open(self._key) as old:
            for batch in _batches(old.steps()):
                self._reverse(old, batch)
                self._on_step(self._steps + self._already + self._left_alone)
        return Undone(self._steps, self._already, self._left_alone, self._left)

    def _reverse(self, old: Folder, batch: list[Step]) -> None:
        publisher = self._publisher
        with ExitStack() as opened:
            publication = opened.enter_context(publisher.publication(exclusive=True))
            self._keeper.trash.open(self._key).close()  # forgotten meanwhile, what is in it counts no more
            keeping = opened.enter_context(self._keeper.keeping(self._by, publication, self._quota))
            reversal = _Reversal(old.directory, publication, keeping, publisher, self._allows)
            doings: list[Planned] = []
            for step in batch:
                self._attempt(step, lambda step=step: self._plan(step, reversal, doings))  # type: ignore[misc]
            keeping.seal()
            planned = [happening(old.id, step, found) for step, found, _ in doings]
            record = opened.enter_context(publisher.feed.recording(planned, alone=True))
            happened = []
            for (step, _, doing), one in zip(doings, planned, strict=True):
                if self._attempt(step, doing):
                    self._steps += 1
                    happened.append(one)
                    record.happened = happened
            keeping.settle()
            publication.check_synced()
            old.directory.sync()

    def _plan(self, step: Step, reversal: _Reversal, doings: list[Planned]) -> None:
        doing = reversal.plan(step)
        if doing is None:
            reversal.found(step)
            self._already += 1
        else:
            doings.append(Planned(step, reversal.look(step.place), doing))

    def _attempt(self, step: Step, work: Doing) -> bool:
        try:
            work()
            return True
        except OSError as error:
            self._leave(step, refusal(error, step.place))
        except RequestError as error:
            self._leave(step, error)
        return False

    def _leave(self, step: Step, error: RequestError) -> None:
        self._left_alone += 1
        if len(self._left) < MOST_LEFT:
            self._left.append(LeftAlone(step.place, error.with_traceback(None)))


class _Reversal:
    """How steps are reversed in one publication: looked at and announced by ``plan``, done by what that returns."""

    def __init__(
        self, old: Directory, publication: Publication, keeping: Keeping, publisher: Publisher, allows: Allows
    ) -> None:
        self._old, self._publication, self._keeping = old, publication, keeping
        self._usage, self._allows = publisher.usage, allows

    def plan(self, step: Step) -> Doing | None:
        """What is to be done when all is sealed; None where it is as it was before. Raises OSError, RequestError."""
        now = self.look(step.place)
        if step.origin is not None:
            return self._move_back(step, step.origin, now)
        if (now is None) if step.old is None else step.old.fits(now):
            return None
        if (now is not None) if step.new is None else not step.new.fits(now):
            raise Changed(f"{display(str(step.place))}: it was changed since")
        if step.new is None:
            return self._bring_back(step)
        assert now is not None
        return self._take_away(step, now) if step.old is None else self._swap_back(step, now)

    def found(self, step: Step) -> None:
        """It is as it was before: whoever undid it may have died before that was durable. Raises OSError."""
        self._publication.found(step.place)
        if step.origin is not None:
            self._publication.found(step.origin)

    def look(self, path: RemotePath) -> os.stat_result | None:
        """What is there now."""
        try:
            return entry(self._publication.existing(path.parent), path.name)
        except (FileNotFoundError, NotADirectoryError):  # the latter: what was a folder is a file by now
            return None

    def _kept(self, step: Step) -> os.stat_result:
        found = entry(self._old, step.kept) if step.kept is not None else None
        if found is None or step.old is None or not step.old.fits(found):
            raise NotFound(f"{display(str(step.place))}: it is no longer in the trash")
        return found

    def _may(self, effect: Effect, path: RemotePath) -> None:
        if not self._allows(effect, path):
            raise PermissionDenied(f"{display(str(path))}: you may not do there what undoes it")

    def _bring_back(self, step: Step) -> Doing:
        """What went comes back."""
        found = self._kept(step)
        self._may("add", step.place)
        self._keeping.coming_back(step.place, found)
        return partial(self._bring, step, found)

    def _bring(self, step: Step, found: os.stat_result, *, replaced: os.stat_result | None = None) -> None:
        assert step.kept is not None
        into = self._publication.making(step.place.parent)
        with self._usage.changing() as change:
            if replaced is None:
                self._old.rename_noreplace(step.kept, into, step.place.name)
            else:
                if not identity(replaced).fits(self.look(step.place)):  # on a client's side nobody else takes the lock
                    raise Changed(f"{display(str(step.place))}: it was changed since")
                self._old.rename(step.kept, into, step.place.name)
                change.moved(step.place, ROOT, weight(replaced))
            if change.tells(ROOT, step.place):
                change.moved(ROOT, step.place, *self._measured(step.place, found))
        self._publication.changed(step.place.parent)
        self._keeping.restored(step.place.name, into, found)

    def _take_away(self, step: Step, now: os.stat_result) -> Doing:
        """What was new goes; a folder that was made, if nothing is in it."""
        directory = self._publication.existing(step.place.parent)
        if step.new is not None and step.new.type == "directory" and step.new.ino is None:
            with directory.open_dir(step.place.name) as folder:
                if not all(map(is_unfinished, folder.names())):  # that goes along
                    raise NotEmpty(f"{display(str(step.place))}: something is in the folder")
        self._may("take", step.place)
        kept = self._keeping.going(step.place, now).kept
        assert kept is not None
        return partial(self._take, step.place, now, kept)

    def _take(self, place: RemotePath, now: os.stat_result, kept: str) -> None:
        directory = self._publication.existing(place.parent)
        with self._usage.changing() as change:
            if change.tells(place, ROOT):
                change.moved(place, ROOT, *self._measured(place, now))
            take(directory, place.name, now, self._keeping.folder.directory, kept)
        self._publication.changed(place.parent)

    def _swap_back(self, step: Step, now: os.stat_result) -> Doing:
        """What was replaced takes its place again."""
        found = self._kept(step)
        self._may("replace", step.place)
        self._keeping.coming_back(step.place, found)
        return partial(self._bring, step, found, replaced=now)

    def _move_back(self, step: Step, origin: RemotePath, now: os.stat_result | None) -> Doing | None:
        """What was moved goes back, and what it had replaced comes back."""
        assert step.new is not None
        there = self.look(origin)
        if step.new.fits(there) and ((now is None) if step.old is None else step.old.fits(now)):
            return None
        if step.new.fits(there) and now is None:
            return self._bring_back(step)  # broken off between the two
        if not step.new.fits(now):
            raise Changed(f"{display(str(step.place))}: it was changed since")
        assert now is not None
        if there is not None:
            raise Changed(f"{display(str(origin))}: something else is there by now")
        found = self._kept(step) if step.old is not None else None
        self._may("move", step.place)
        self._may("add", origin)
        if found is not None:
            self._may("add", step.place)
        self._keeping.coming(origin, identity(now), step.place)
        if found is not None:
            self._keeping.returning(step.place, found)
        return partial(self._move, step, origin, now, found)

    def _move(self, step: Step, origin: RemotePath, now: os.stat_result, found: os.stat_result | None) -> None:
        directory = self._publication.existing(step.place.parent)
        into = self._publication.making(origin.parent)
        with self._usage.changing() as change:
            measured = self._measured(step.place, now) if change.tells(step.place, origin) else None
            directory.rename_noreplace(step.place.name, into, origin.name)
            if measured is not None:
                change.moved(step.place, origin, *measured)
        self._keeping.restored(origin.name, into, now)
        self._publication.changed(step.place.parent)
        self._publication.changed(origin.parent)
        if found is not None:
            self._bring(step, found)

    def _measured(self, path: RemotePath, found: os.stat_result) -> tuple[int, int]:
        return self._usage.measure(path) if identity(found).type == "directory" else (weight(found), 1)


def _batches(steps: Iterator[Step]) -> Iterator[list[Step]]:
    """Steps that touch each other's places come in different ones, in their order."""
    batch: list[Step] = []
    touched: set[RemotePath] = set()
    above: set[RemotePath] = set()
    for step in steps:
        places = [step.place] if step.origin is None else [step.place, step.origin]
        ways = [RemotePath(place.parts[:depth]) for place in places for depth in range(1, len(place.parts) + 1)]
        if len(batch) >= MOST_TOGETHER or not touched.isdisjoint(ways) or not above.isdisjoint(places):
            yield batch
            batch, touched, above = [], set(), set()
        batch.append(step)
        touched.update(places)
        above.update(ways)
    if batch:
        yield batch
