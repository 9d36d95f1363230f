"""touch and df: what is asked beside the moving of files."""

from __future__ import annotations

import time

from ftpy.server.context import Context
from ftpy.storage.base import Quota, Touched
from ftpy.wire.upkeep import DfReply, DfRequest, TouchReply, TouchRequest


def handle_touch(request: TouchRequest, context: Context, *, replacing: bool) -> TouchReply:
    """Give a file or folder a time, or make an empty file; not ``replacing``: only where nothing is."""
    path = request.remote_path()
    mtime_ns = time.time_ns() if request.mtime_ns is None else request.mtime_ns

    def touch() -> Touched:
        touched = context.storage.touch(
            path, mtime_ns, create=request.create, replacing=replacing, quota=context.account.quota
        )
        context.act.more = {"created": touched.created}
        context.act.done()  # here: also when the client has left meanwhile
        return touched

    touched = context.channel.patiently(touch, progress=lambda: 0)
    return TouchReply(id=request.id, mtime_ns=touched.info.mtime_ns, created=touched.created)


def handle_df(request: DfRequest, context: Context) -> DfReply:
    """How much room there is, and how much of their quota this user has used."""
    quota, most = context.account.quota, context.account.quota or Quota()
    room = context.storage.room()
    used: tuple[int, int] | tuple[None, None] = (None, None)
    if quota is not None:
        used = context.channel.patiently(lambda: context.storage.used(quota), progress=lambda: 0)
    return DfReply(
        id=request.id,
        disk_bytes=room.bytes,
        disk_free_bytes=room.free_bytes,
        disk_files=room.files,
        disk_free_files=room.free_files,
        quota_bytes=most.bytes,
        quota_files=most.files,
        used_bytes=used[0],
        used_files=used[1],
    )
