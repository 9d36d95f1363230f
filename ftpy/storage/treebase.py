"""The contract of trees that are put as one thing: staged out of sight, put in place at once, gone back from."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from ftpy.files import RemotePath
from ftpy.storage.base import Closing, Quota, StagedTree, ignore


class Census(Struct, frozen=True):
    """What a tree holds: ``files`` of ``size`` bytes together, and ``folders``, itself not among them."""

    files: int
    folders: int
    size: int


class Swapped(Struct, frozen=True):
    """A tree is in place; whether another one was there before, which is kept."""

    replaced: bool


class Trees(Closing, abc.ABC):
    """The staged trees of one storage, and those that were there before. Safe in any thread; raises RequestError."""

    @abc.abstractmethod
    def stage(
        self, owner: str, path: RemotePath, *, condition: Literal["absent"] | None = None, quota: Quota | None = None
    ) -> tuple[StagedTree, bool]:
        """A tree for ``path`` that files, folders and uploads may name; true: it is what this owner has left there.

        Who goes on with it takes it over: whoever did before is refused with UnknownTree from then on.
        Raises AlreadyExists, NotADirectory where something else than a folder is, Unsupported where none could be
        replaced at once, InvalidPath for the root.
        """

    @abc.abstractmethod
    def find(self, owner: str, path: RemotePath, tree_id: str) -> StagedTree:
        """The owner's tree of this id, for something at or below its path. Raises UnknownTree, InvalidPath."""

    @abc.abstractmethod
    def discard(self, tree: StagedTree, *, on_removed: Callable[[int], None] = ignore) -> None:
        """Destroy a staged tree; ``on_removed`` hears how many names went so far. Raises UnknownTree."""

    @abc.abstractmethod
    def swap(
        self,
        tree: StagedTree,
        census: Census,
        *,
        condition: Literal["absent"] | None = None,
        quota: Quota | None = None,
        on_counted: Callable[[int], None] = ignore,
    ) -> Swapped:
        """Put a tree in place in one step, if it holds exactly what ``census`` says; durable when it returns.

        What was there is kept, and what was kept before destroyed. ``on_counted`` hears how many names were counted.
        The same again, for a tree that is in place, says the same again.
        Raises Incomplete, UnknownTree, and what ``stage`` raises; then the tree is staged as before.
        """

    @abc.abstractmethod
    def rollback(self, path: RemotePath, *, quota: Quota | None = None) -> Swapped:
        """Swap what is at ``path`` with what was there before the last swap, in one step; durable when it returns.

        A second one returns. Raises NoPrevious, NotADirectory, Unsupported.
        """

    @abc.abstractmethod
    def sweep(self, *, expire_seconds: float, trash_seconds: float) -> int:
        """Destroy what was staged and is untouched for that long, and what was kept longer: how many trees went."""
