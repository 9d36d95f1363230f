"""What of the staging area goes: out of sight at once, counted off and destroyed when nobody waits for that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ftpy.storage.base import Removed, ignore
from ftpy.storage.beneath import Directory
from ftpy.storage.usage import ROOT, Change, Usage

if TYPE_CHECKING:
    from ftpy.storage.removing import Remover


class Leaving:
    """A ``with`` around the lock of publications, under which things are taken; they are destroyed when it ends.

    ``on_removed`` hears how many names went so far; ``removed`` says at the end what did.
    """

    def __init__(self, remover: Remover, usage: Usage, on_removed: Callable[[int], None] = ignore) -> None:
        self._remover, self._usage, self._on_removed = remover, usage, on_removed
        self._taken: list[str] = []
        self._uncounted: list[str] = []
        self._change: Change | None = None
        self._counting = ExitStack()
        self.removed = Removed(0, 0, 0)

    def take(self, within: Directory, name: str) -> None:
        """Take something of ours out of another folder of the staging area, durably. Raises OSError, RequestError."""
        if self._change is None:
            self._change = self._counting.enter_context(self._usage.changing())
        name = self._remover.take_in(within, name)
        self._taken.append(name)
        self._uncounted.append(name)

    def count(self) -> None:
        """From now on it counts no more: to be done before anything else is added or changed."""
        with self._counting:  # which can be used again
            while self._uncounted:
                assert self._change is not None
                self._change.removed(ROOT, *self._remover.weigh(self._uncounted.pop()))
            self._change = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self.count()
        finally:
            self.removed = self._remover.destroy(self._taken, self._on_removed)
