"""The verbs of operations: begin, operations, undo, forget. What undoing takes is what the reversed steps take."""

from __future__ import annotations

from itertools import islice

from ftpy.files import RemotePath
from ftpy.server.context import Context
from ftpy.server.rights import Permissions
from ftpy.storage.base import Removed
from ftpy.storage.operations import Allows, Effect, LeftAlone, Operation, OperationKey, Undone
from ftpy.wire.operations import (
    MOST_LEFT,
    PAGE_OPERATIONS,
    BeginReply,
    BeginRequest,
    ForgetReply,
    ForgetRequest,
    LeftEntry,
    OperationEntry,
    OperationsReply,
    OperationsRequest,
    UndoReply,
    UndoRequest,
)
from ftpy.wire.spelling import path_to_wire

PAGE_BYTES = 32 * 1024
"""A page, or the paths of an undo, are cut at about this many bytes, safely inside the longest header."""

NEEDS: dict[Effect, tuple[str, ...]] = {
    "add": ("write",),
    "replace": ("write", "replace"),
    "take": ("delete",),
    "move": ("list", "read", "delete"),
}
"""The rights that an effect of undoing takes at its path, and everywhere below it."""


def handle_begin(request: BeginRequest, context: Context) -> BeginReply:
    """Begin an operation."""
    key = _key(request.operation, context)
    quota = context.account.quota
    context.channel.promptly(lambda: context.storage.begin(key, request.what, quota=quota), progress=lambda: 0)
    context.remember(request.operation)
    return BeginReply(id=request.id, keep_seconds=int(context.config.trash_days * 86400))


def handle_operations(request: OperationsRequest, context: Context) -> OperationsReply:
    """List this user's operations in pages; the last one says that it is complete."""
    found = context.storage.operations(context.account.owner)
    page: list[OperationEntry] = []
    size = 0
    while operations := context.channel.patiently(lambda: list(islice(found, PAGE_OPERATIONS)), progress=lambda: 0):
        for operation in operations:
            cost = 6 * len(operation.what) + 256
            if page and (len(page) >= PAGE_OPERATIONS or size + cost > PAGE_BYTES):
                context.channel.send(OperationsReply(id=request.id, operations=page, complete=False))
                page, size = [], 0
            page.append(_entry(operation))
            size += cost
    return OperationsReply(id=request.id, operations=page, complete=True)


def handle_undo(request: UndoRequest, context: Context) -> UndoReply:
    """Reverse an operation, as far as it is still as the operation left it."""
    key, by = _key(request.operation, context), _key(request.by, context)
    allows = _allows(context.account.permissions)
    looked_at = 0

    def on_step(steps: int) -> None:
        nonlocal looked_at
        looked_at = steps
        context.act.more = {"looked_at": steps}  # for one that is broken off

    def undo() -> Undone:
        context.storage.check_operation(key)
        quota = context.account.quota
        context.storage.begin(by, f"undo {key.id}", quota=quota and quota.stretched)
        undone = context.storage.undo(key, by, allows, on_step=on_step, quota=quota)
        context.act.more = {"steps": undone.steps, "already": undone.already, "left": undone.left_alone}
        context.act.done()  # here: also when the client has left meanwhile
        return undone

    undone = context.channel.patiently(undo, progress=lambda: looked_at)
    return UndoReply(
        id=request.id, steps=undone.steps, already=undone.already, left=undone.left_alone, paths=_told(undone.left)
    )


def handle_forget(request: ForgetRequest, context: Context) -> ForgetReply:
    """Destroy what an operation keeps."""
    done = 0

    def on_removed(names: int) -> None:
        nonlocal done
        done = names

    def forget() -> Removed:
        went = context.storage.forget(_key(request.operation, context), on_removed=on_removed)
        context.operations.discard(request.operation)
        context.act.more = {"files": went.files, "folders": went.folders}
        context.act.done(went.size)
        return went

    went = context.channel.patiently(forget, progress=lambda: done)
    return ForgetReply(id=request.id, names=went.files + went.folders)


def _key(operation: str, context: Context) -> OperationKey:
    return OperationKey(context.account.owner, operation)


def _allows(permissions: Permissions) -> Allows:
    def allows(effect: Effect, path: RemotePath) -> bool:
        return permissions.below(path).issuperset(NEEDS[effect])

    return allows


def _entry(operation: Operation) -> OperationEntry:
    return OperationEntry(
        operation=operation.id,
        what=operation.what,
        time_ns=operation.time_ns,
        added=operation.added,
        replaced=operation.replaced,
        deleted=operation.deleted,
        moved=operation.moved,
        made=operation.made,
    )


def _told(left: list[LeftAlone]) -> list[LeftEntry]:
    """The first of them, as many as a header holds."""
    told: list[LeftEntry] = []
    size = 0
    for one in left[:MOST_LEFT]:
        size += 6 * (len(str(one.path)) + len(str(one.error))) + 128
        if size > PAGE_BYTES:
            break
        told.append(LeftEntry(**path_to_wire(one.path), error=one.error.code, message=str(one.error)[:1024]))
    return told
