"""Trees that are put as one thing, on this disk: staged out of sight, put in place by one rename, gone back from.

::

    .ftpy/trees/<id>/about          whose it is, for which path, and the inode of ``tree`` (``About``)
                     tree/          what was put so far
                <id>.sealed/        the same while it is counted and put in place: nobody puts into it
                <id>.new/           the same before it is complete
    .ftpy/previous/<key>/about      as it was when it was staged
                         tree/      what was there before; missing where nothing was

An id begins with a key of its owner and path, by which a tree is found again, and ends with a token of whoever goes
on with it: who takes it over gives the folder another name, and what the one before still sends finds nothing.

The swap exchanges ``tree`` and what is at the path: one rename, after which the same folder holds the tree of before.
So a crash leaves nothing to guess: where the ``tree`` of a sealed one is not the inode that ``about`` names, or is
missing, it is in place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, NamedTuple

from ftpy.errors import (
    AlreadyExists,
    Incomplete,
    InvalidPath,
    NoPrevious,
    NotADirectory,
    QuotaExceeded,
    RequestError,
    UnknownTree,
    Unsupported,
)
from ftpy.files import RemotePath, display
from ftpy.storage.area import Area, made_private
from ftpy.storage.base import Quota, StagedTree, ignore
from ftpy.storage.beneath import Directory
from ftpy.storage.exchanging import Exchange, can_exchange, count_and_sync
from ftpy.storage.feed import Happening, arrived, deleted
from ftpy.storage.leaving import Leaving
from ftpy.storage.places import PREVIOUS, TREE, TREES
from ftpy.storage.publishing import Publication, Publisher, entry
from ftpy.storage.refusals import translating
from ftpy.storage.removing import Remover
from ftpy.storage.treebase import Census, Swapped, Trees
from ftpy.storage.treefolder import ABOUT, Folder, write_about
from ftpy.storage.usage import weight

_ID = re.compile(r"[0-9a-f]{32}")
_SEALED, _NEW = ".sealed", ".new"
_KEY_DIGITS = 16
"""Of an id: the rest is a token."""
MOST_STAGED = 10_000
"""Staged trees below one root: all their names are read to find one, some 5 ms for so many."""

log = logging.getLogger("ftpy.storage")


def _key(*what: str) -> str:
    named = json.dumps(what).encode("ascii")
    return hashlib.blake2b(named, digest_size=_KEY_DIGITS // 2, person=b"ftpy tree").hexdigest()


def _with_token(key: str) -> str:
    return key + secrets.token_hex((32 - _KEY_DIGITS) // 2)


class Turn(NamedTuple):
    """While nobody else publishes: the group of publications, and what goes."""

    publication: Publication
    leaving: Leaving


class LocalTrees(Trees):
    """The staged and the kept trees of one storage. Safe in any thread and process."""

    def __init__(
        self, area: Area, publisher: Publisher, remover: Remover, check_name: Callable[[RemotePath], None]
    ) -> None:
        self._publisher, self._remover, self._check_name = publisher, remover, check_name
        with ExitStack() as opened:
            self._staged = opened.enter_context(made_private(area.top, TREES))
            self._previous = opened.enter_context(made_private(area.top, PREVIOUS))
            self._opened = opened.pop_all()
        self._can_exchange: bool | None = None
        """Whether this disk can exchange two folders; found out once."""

    def close(self) -> None:
        """Close the folders."""
        self._opened.close()

    # ---------------------------------------------------------------- staging

    def stage(
        self, owner: str, path: RemotePath, *, condition: Literal["absent"] | None = None, quota: Quota | None = None
    ) -> tuple[StagedTree, bool]:
        """A tree to put into: what this owner has staged for this path before, or a new one."""
        _check_not_root(path)
        self._check_name(path)
        with translating(path), self._alone() as turn:
            self._check_target(turn.publication, path, condition)
            key = _key(owner, *path.parts)
            tree = StagedTree(owner, path, _with_token(key))
            found = self._with_key(key)
            if found is None:
                self._make(tree, quota)
            else:
                self._staged.rename(found, self._staged, tree.id)
                with self._staged.open_dir(tree.id) as folder:
                    self._renew(folder, tree)
            self._staged.sync()
            return tree, found is not None

    def _with_key(self, key: str) -> str | None:
        """The folder of the staged tree that has this key: there is one at most, sealed or not."""
        return next((name for name in self._staged.names() if name.startswith(key)), None)

    def _make(self, tree: StagedTree, quota: Quota | None) -> None:
        if len(self._staged.names()) >= MOST_STAGED:
            raise QuotaExceeded(f"{MOST_STAGED:,} trees are staged already; they go when nobody goes on with them")
        usage, new = self._publisher.usage, tree.id + _NEW
        try:
            with usage.adding(0, 3, quota):
                self._staged.mkdir(new, 0o700)
                with self._staged.open_dir(new) as folder:
                    folder.mkdir(TREE)
                    size = write_about(folder, tree)
                self._staged.rename(new, self._staged, tree.id)
        except BaseException:
            if entry(self._staged, new) is not None:
                self._count(*usage.measure(RemotePath((*self._staged.path.parts, new))))
            raise
        self._count(size, 0)

    def _renew(self, folder: Directory, tree: StagedTree) -> None:
        """Say whose it is now."""
        try:
            write_about(folder, tree)
        except BaseException:
            left = [weight(folder.lstat(name)) for name in folder.names() if name not in (ABOUT, TREE)]
            self._count(sum(left), len(left))
            raise

    def _count(self, size: int, files: int) -> None:
        """A note of ours, or what a failure has left, is there: it counts, and is refused to nobody."""
        usage = self._publisher.usage
        try:
            with usage.adding(size, files):
                pass
        except RequestError:
            usage.distrust()

    def find(self, owner: str, path: RemotePath, tree_id: str) -> StagedTree:
        """The staged tree of this id; it does not expire yet."""
        if not _ID.fullmatch(tree_id):
            raise UnknownTree
        with translating(path), Folder(self._staged, tree_id) as folder:
            about = folder.about
            tree = StagedTree(owner, about.path, tree_id)
            if not about.fits(tree):
                raise UnknownTree
            os.utime(folder.directory.fd)
        tree.check_holds(path)
        return tree

    def discard(self, tree: StagedTree, *, on_removed: Callable[[int], None] = ignore) -> None:
        """Destroy a staged tree."""
        with translating(tree.path), self._alone(on_removed) as turn:
            turn.leaving.take(self._staged, self._owned(tree))

    def _owned(self, tree: StagedTree) -> str:
        """The folder of a staged tree. Raises UnknownTree."""
        name = self._with_key(tree.id[:_KEY_DIGITS])
        if name is None:
            raise UnknownTree
        with Folder(self._staged, name) as folder:
            if not folder.about.fits(tree):
                raise UnknownTree
        return name

    # ---------------------------------------------------------------- the swap

    def swap(
        self,
        tree: StagedTree,
        census: Census,
        *,
        condition: Literal["absent"] | None = None,
        quota: Quota | None = None,
        on_counted: Callable[[int], None] = ignore,
    ) -> Swapped:
        """Put a tree in place, if it is complete."""
        with translating(tree.path):
            sealed = self._seal(tree)
            if isinstance(sealed, Swapped):
                return sealed
            try:
                with Folder(self._staged, sealed) as folder:
                    _check_complete(tree.path, count_and_sync(folder.directory, TREE, on_counted), census)
                return self._put_in_place(tree, sealed, condition, quota)
            except BaseException:
                self._unseal(tree, sealed)
                raise

    def _seal(self, tree: StagedTree) -> str | Swapped:
        """The name under which nobody puts anything into it any more, while it is counted and put in place.

        Or what was done for this very tree, if it was: the answer may have been lost. One that is sealed already is
        sealed anew: whoever was at work on that, a dead process or for a client that asks again, gets no further.
        """
        sealed = _with_token(tree.id[:_KEY_DIGITS]) + _SEALED
        with self._alone() as turn:
            try:
                owned = self._owned(tree)
            except UnknownTree:
                return self._done_before(tree, turn.publication)
            self._staged.rename(owned, self._staged, sealed)
            self._staged.sync()  # no crash may lose this, and have what follows
        return sealed

    def _done_before(self, tree: StagedTree, publication: Publication) -> Swapped:
        with Folder(self._previous, _key(*tree.path.parts)) as kept:
            if not kept.about.fits(tree):
                raise UnknownTree
            kept.directory.sync()  # whoever did it may have died before it was durable
            publication.found(tree.path)
            publication.check_synced()
            return Swapped(replaced=kept.tree() is not None)

    def _unseal(self, tree: StagedTree, sealed: str) -> None:
        """It is not in place: it goes on as before, unless another has taken it over meanwhile."""
        with self._alone():
            if entry(self._staged, sealed) is not None:
                self._staged.rename(sealed, self._staged, tree.id)

    def _put_in_place(
        self, tree: StagedTree, sealed: str, condition: Literal["absent"] | None, quota: Quota | None
    ) -> Swapped:
        with self._alone() as turn:
            with Folder(self._staged, sealed) as folder:  # UnknownTree: taken over while it was counted
                replaced = self._check_target(turn.publication, tree.path, condition)
                self._exchange(turn.publication, folder, tree.path, replaced, quota)
            with _done_all_the_same(tree.path):
                self._keep(sealed, tree.path, turn.leaving)
        return Swapped(replaced=replaced is not None)

    def _exchange(
        self,
        publication: Publication,
        folder: Folder,
        path: RemotePath,
        replaced: os.stat_result | None,
        quota: Quota | None,
    ) -> None:
        """The one moment: the tree in a folder of ours and what is at ``path`` swap places."""
        usage, lies = self._publisher.usage, RemotePath((*folder.directory.path.parts, TREE))
        coming = folder.directory.lstat(TREE)
        parent = publication.making(path.parent, quota)
        self._publisher.check_device(parent.lstat("."))
        exchange = Exchange(folder.directory, TREE, coming, parent, path.name, replaced)
        planned: list[Happening] = [deleted(path, replaced)] if replaced is not None else []
        with (
            self._publisher.feed.recording([*planned, arrived(path, coming)], alone=True) as record,
            usage.changing() as change,
        ):
            exchange.make()
            record.done()
            publication.changed(path.parent)
            try:
                folder.directory.sync()
                publication.check_synced()
            except (OSError, RequestError):
                # A crash may bring back what was there before, and nobody was told that it is gone.
                exchange.undo()
                record.undone()
                raise
            if change.tells(lies, path):
                change.moved(lies, path, *usage.measure(path))
                if replaced is not None:
                    change.moved(path, lies, *usage.measure(lies))

    def _keep(self, name: str, path: RemotePath, leaving: Leaving) -> None:
        """A staged folder holds what was there before: that is gone back to, and what was until now goes."""
        key = _key(*path.parts)
        if entry(self._previous, key) is not None:
            leaving.take(self._previous, key)
        self._staged.rename(name, self._previous, key)
        with self._previous.open_dir(key) as folder:
            os.utime(folder.fd)
        self._previous.sync()
        self._staged.sync()

    # ---------------------------------------------------------------- back

    def rollback(self, path: RemotePath, *, quota: Quota | None = None) -> Swapped:
        """Swap what is at ``path`` with what was there before the last swap."""
        _check_not_root(path)
        with translating(path), self._alone() as turn:
            replaced = self._check_target(turn.publication, path, None)
            with self._kept(path) as folder:
                self._exchange(turn.publication, folder, path, replaced, quota)
                with _done_all_the_same(path):
                    os.utime(folder.directory.fd)
                    if replaced is None:
                        turn.leaving.take(self._previous, _key(*path.parts))
        return Swapped(replaced=replaced is not None)

    def _kept(self, path: RemotePath) -> Folder:
        """Where what was before is. Raises NoPrevious."""
        with ExitStack() as opened:
            try:
                folder = opened.enter_context(Folder(self._previous, _key(*path.parts)))
            except UnknownTree:
                raise NoPrevious(f"{display(str(path))}: nothing is kept there to go back to") from None
            if folder.tree() is None:
                raise NoPrevious(f"{display(str(path))}: nothing was there before the tree that was put in place")
            opened.pop_all()
        return folder

    # ---------------------------------------------------------------- sweeping

    def sweep(self, *, expire_seconds: float, trash_seconds: float) -> int:
        """Destroy what nobody goes on with, and what was kept for long enough."""
        limits = ((self._staged, expire_seconds), (self._previous, trash_seconds))
        now, swept = time.time(), 0
        with self._alone() as turn:
            for within, seconds in limits:
                for name in within.names():
                    if now - within.lstat(name).st_mtime > seconds:
                        turn.leaving.take(within, name)
                        swept += 1
        if swept:
            log.info("%d trees expired", swept, extra={"event": "trees-swept", "fields": {"trees": swept}})
        return swept

    # ---------------------------------------------------------------- what all do

    @contextmanager
    def _alone(self, on_removed: Callable[[int], None] = ignore) -> Iterator[Turn]:
        """Nothing is published meanwhile; what a crash has left half done is done, or gone."""
        with (
            self._remover.leaving(on_removed) as leaving,
            self._publisher.publication(exclusive=True) as publication,
        ):
            for name in self._staged.names():
                if not _ID.fullmatch(name):
                    self._settle(name, leaving)
            leaving.count()
            yield Turn(publication, leaving)

    def _settle(self, name: str, leaving: Leaving) -> None:
        """See to a folder that its process may have left in the middle of something."""
        if not name.endswith(_SEALED):
            leaving.take(self._staged, name)
            return
        try:
            with Folder(self._staged, name) as folder:
                if not folder.is_swapped:
                    return
                path = folder.about.path
        except UnknownTree:
            leaving.take(self._staged, name)
        else:
            self._keep(name, path, leaving)

    def _check_target(
        self, publication: Publication, path: RemotePath, condition: Literal["absent"] | None
    ) -> os.stat_result | None:
        """What a tree would take the place of, if it may. Raises AlreadyExists, NotADirectory, Unsupported."""
        try:
            found = entry(publication.existing(path.parent), path.name)
        except FileNotFoundError:
            return None
        if found is None:
            return None
        if condition == "absent":
            raise AlreadyExists(f"{display(str(path))}: something is already there")
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectory(f"{display(str(path))}: not a folder, and a tree takes the place of one only")
        self._publisher.check_device(found)
        if self._can_exchange is None:
            self._can_exchange = can_exchange(self._staged)
        if not self._can_exchange:
            what = "the server's disk cannot exchange two folders in one step, and readers could find neither"
            raise Unsupported(f"{display(str(path))}: {what}; remove it first, or put without --atomic")
        return found


@contextmanager
def _done_all_the_same(path: RemotePath) -> Iterator[None]:
    """Something fails after a tree is in place, durably: that is the operator's business, and seen to later."""
    try:
        yield
    except (OSError, RequestError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        log.error(
            "%s: in place, but what it replaced is not put away: %s",
            display(str(path)),
            reason,
            extra={"event": "tree-left", "fields": {"path": display(str(path)), "error": reason}},
        )


def _check_complete(path: RemotePath, found: Census, census: Census) -> None:
    if found != census:
        raise Incomplete(
            f"{display(str(path))}: {found.files} files of {found.size} bytes in {found.folders} folders are staged,"
            f" not {census.files} of {census.size} in {census.folders}"
        )


def _check_not_root(path: RemotePath) -> None:
    if not path.parts:
        raise InvalidPath("the root itself cannot be put in place as a tree")
