"""touch and df: what is asked beside the moving of files (docs/protocol.md, 18)."""

from __future__ import annotations

from ftpy.wire.bases import PathRequest, Reply, Request
from ftpy.wire.fields import Size, Time


class TouchRequest(PathRequest, frozen=True, kw_only=True, tag="touch"):
    """Give a file or folder the time ``mtime_ns``, the server's now where it is null; unless ``create``, only that.

    With ``create`` an empty file is made where nothing is.
    """

    mtime_ns: Time | None = None
    create: bool = True


class TouchReply(Reply, frozen=True, kw_only=True):
    """It has this time, durably; whether it was ``created`` for that."""

    mtime_ns: Time
    created: bool


class DfRequest(Request, frozen=True, kw_only=True, tag="df"):
    """How much room there is."""


class DfReply(Reply, frozen=True, kw_only=True):
    """Bytes, and files and folders: of the disk and free on it, most that the user may have, counted of that now.

    None where there is no such limit, or nobody counts.
    """

    disk_bytes: Size | None
    disk_free_bytes: Size | None
    disk_files: Size | None
    disk_free_files: Size | None
    quota_bytes: Size | None
    quota_files: Size | None
    used_bytes: Size | None
    used_files: Size | None
