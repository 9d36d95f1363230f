"""Giving something another path: one rename under the publication lock, and both folders made durable."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Literal

from ftpy.errors import AlreadyExists, InvalidRequest
from ftpy.files import RemotePath, display
from ftpy.storage.base import KnownVersion, Moved
from ftpy.storage.beneath import Directory
from ftpy.storage.feed import moved
from ftpy.storage.publishing import Place, Publication, Publisher, entry
from ftpy.storage.record import identity
from ftpy.storage.refusals import refusal, translating
from ftpy.storage.remembered import Remembered
from ftpy.storage.usage import ROOT, weight
from ftpy.storage.versions import NO_DIGESTS, Digests, file_info, version_of

if TYPE_CHECKING:
    from ftpy.storage.keeping import Keeping


def move(
    publisher: Publisher,
    remembered: Remembered,
    path: RemotePath,
    to: RemotePath,
    condition: Literal["absent"] | None,
    *,
    version: KnownVersion | None = None,
    keep: Callable[[Publication], AbstractContextManager[Keeping]] | None = None,
) -> Moved:
    """Rename what is at ``path``, if it is that ``version``; ``keep`` what it replaces. Raises RequestError."""
    if to.parts[: len(path.parts)] == path.parts:
        raise _into_itself(path)
    exclusive = keep is not None
    with (
        translating(path),
        publisher.standing(path, version=version, exclusive=exclusive) as place,
        translating(to),
        ExitStack() as opened,
    ):
        into = place.publication.existing(to.parent)
        publisher.check_device(into.lstat("."))
        replaced = entry(into, to.name)
        if replaced is not None and os.path.samestat(replaced, place.found):
            raise AlreadyExists(f"{display(str(to))}: one and the same file as {display(str(path))}")
        known = remembered.look(version_of(place.found)) if stat.S_ISREG(place.found.st_mode) else NO_DIGESTS
        noreplace = condition == "absent" or place.is_folder
        keeping = None
        if keep is not None:
            if replaced is not None and noreplace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            keeping = opened.enter_context(keep(place.publication))
            keeping.coming(to, identity(place.found), path)
            keeping.seal()
        with publisher.feed.recording(lambda: [moved(path, to, place.look())], alone=True) as record:
            with publisher.usage.changing() as change:
                _rename(place, into, to, noreplace=noreplace)
                record.done()
                if replaced is not None and keep is not None:
                    change.moved(to, ROOT, weight(replaced))
                elif replaced is not None:
                    change.removed(to, weight(replaced))
                if change.tells(path, to):
                    weighs = publisher.usage.measure(to) if place.is_folder else (weight(place.found), 1)
                    change.moved(path, to, *weighs)
            found = into.lstat(to.name)
            place.publication.changed(to.parent)
            place.check_gone()
        if keeping is not None:
            keeping.settle()
    kept = _keep(remembered, place.found, found, known)
    return Moved(file_info(to, found, kept), file_info(to, replaced) if replaced is not None else None)


def _rename(place: Place, into: Directory, to: RemotePath, *, noreplace: bool) -> None:
    try:
        if noreplace:
            # A folder, too: rename(2) would put it in the place of an empty one.
            place.directory.rename_noreplace(place.path.name, into, to.name)
        else:
            place.directory.rename(place.path.name, into, to.name)
    except FileNotFoundError as error:
        raise refusal(error, place.path) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # so a disk says it that folds case
            raise _into_itself(place.path) from error
        raise


def _keep(remembered: Remembered, before: os.stat_result, after: os.stat_result, known: Digests) -> Digests:
    """Remember under the new version what was known of the old one: of a rename only ctime tells.

    Nothing of ours writes to a published file, and who else does changes its size or its mtime, or gives it another
    inode. (Who then set the mtime back, in the moment between two looks at it, would not be noticed.)
    """
    unchanged = version_of(after)[:-1] == version_of(before)[:-1]
    if known == NO_DIGESTS or not unchanged:
        return NO_DIGESTS
    remembered.keep([(version_of(after), known)])
    return known


def _into_itself(path: RemotePath) -> InvalidRequest:
    return InvalidRequest(f"{display(str(path))}: cannot be moved to itself, nor into itself")
