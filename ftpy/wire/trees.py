"""Trees that are put as one thing: staged, swapped in, discarded, gone back from (docs/protocol.md, 23)."""

from __future__ import annotations

from typing import Literal

from ftpy.wire.bases import PathRequest, Reply
from ftpy.wire.fields import Hex32, Size

TreeId = Hex32


class StageRequest(PathRequest, frozen=True, kw_only=True, tag="stage"):
    """A tree that is to be put at the path, out of sight: a new one, or what this user has left staged for it."""

    condition: Literal["absent"] | None = None


class SwapRequest(PathRequest, frozen=True, kw_only=True, tag="swap"):
    """Put a staged tree in place, if it holds exactly so many files, folders, and bytes in all files."""

    tree: TreeId
    files: Size
    folders: Size
    file_bytes: Size
    condition: Literal["absent"] | None = None


class DiscardRequest(PathRequest, frozen=True, kw_only=True, tag="discard"):
    """Destroy a staged tree."""

    tree: TreeId


class RollbackRequest(PathRequest, frozen=True, kw_only=True, tag="rollback"):
    """Swap what is at the path with the tree that was there before the last swap."""


class StageReply(Reply, frozen=True, kw_only=True):
    """The tree that ``put`` and ``mkdir`` may name; ``resumed``: something may be in it already."""

    tree: TreeId
    resumed: bool


class SwapReply(Reply, frozen=True, kw_only=True):
    """It is in place, durably; whether another was ``replaced``, which is kept."""

    replaced: bool


class DiscardReply(Reply, frozen=True, kw_only=True):
    """It is gone."""


class RollbackReply(Reply, frozen=True, kw_only=True):
    """The tree of before is in place, durably; whether another was ``replaced``, which is kept in its turn."""

    replaced: bool
