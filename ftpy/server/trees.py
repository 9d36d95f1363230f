"""The verbs of trees that are put as one thing: stage, swap, discard, rollback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from ftpy.server.context import Context
from ftpy.storage.base import StagedTree
from ftpy.storage.treebase import Census, Swapped
from ftpy.wire.trees import (
    DiscardReply,
    DiscardRequest,
    RollbackReply,
    RollbackRequest,
    StageReply,
    StageRequest,
    SwapReply,
    SwapRequest,
)

T = TypeVar("T")


def handle_stage(request: StageRequest, context: Context, *, replacing: bool) -> StageReply:
    """Open a staged tree, or take over what this user has left of one; not ``replacing``: only where nothing is."""
    path, condition = request.remote_path(), _condition(request.condition, replacing=replacing)

    def stage() -> tuple[StagedTree, bool]:
        owner, quota = context.account.owner, context.account.quota
        tree, resumed = context.storage.trees.stage(owner, path, condition=condition, quota=quota)
        context.act.more = {"tree": tree.id, "resumed": resumed}
        context.act.done()  # here: also when the client has left meanwhile
        return tree, resumed

    tree, resumed = context.channel.patiently(stage, progress=lambda: 0)
    return StageReply(id=request.id, tree=tree.id, resumed=resumed)


def handle_swap(request: SwapRequest, context: Context, *, replacing: bool) -> SwapReply:
    """Put a staged tree in place if it is what was meant; not ``replacing``: only where nothing is."""
    tree = StagedTree(context.account.owner, request.remote_path(), request.tree)
    census = Census(request.files, request.folders, request.file_bytes)
    condition = _condition(request.condition, replacing=replacing)

    def swap(counted: Callable[[int], None]) -> Swapped:
        quota = context.account.quota
        swapped = context.storage.trees.swap(tree, census, condition=condition, quota=quota, on_counted=counted)
        context.act.more = {"files": census.files, "replaced": swapped.replaced}
        context.act.done(census.size)
        return swapped

    return SwapReply(id=request.id, replaced=_counting(context, swap).replaced)


def handle_discard(request: DiscardRequest, context: Context) -> DiscardReply:
    """Destroy a staged tree."""
    tree = StagedTree(context.account.owner, request.remote_path(), request.tree)

    def discard(removed: Callable[[int], None]) -> None:
        context.storage.trees.discard(tree, on_removed=removed)
        context.act.done()

    _counting(context, discard)
    return DiscardReply(id=request.id)


def handle_rollback(request: RollbackRequest, context: Context) -> RollbackReply:
    """Swap what is at a path with what was there before the last swap."""
    path = request.remote_path()

    def rollback() -> Swapped:
        swapped = context.storage.trees.rollback(path, quota=context.account.quota)
        context.act.more = {"replaced": swapped.replaced}
        context.act.done()
        return swapped

    return RollbackReply(id=request.id, replaced=context.channel.patiently(rollback, progress=lambda: 0).replaced)


def _condition(wanted: Literal["absent"] | None, *, replacing: bool) -> Literal["absent"] | None:
    return wanted if replacing else "absent"


def _counting(context: Context, work: Callable[[Callable[[int], None]], T]) -> T:
    """Do what tells how far it is."""
    done = 0

    def on_done(names: int) -> None:
        nonlocal done
        done = names

    return context.channel.patiently(lambda: work(on_done), progress=lambda: done)
