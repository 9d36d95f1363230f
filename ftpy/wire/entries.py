"""One file in a listing as it travels, and what it becomes on either side."""

from __future__ import annotations

from ftpy.files import FileInfo, FileType, RemotePath
from ftpy.wire.fields import Base64, Etag, Hex32, Hex64, Message, Mode, Size, Time
from ftpy.wire.spelling import path_to_wire, wire_to_path


class Entry(Message, frozen=True, kw_only=True):
    """One file in a listing, or the answer to stat: ``name`` below what was listed."""

    name: str = ""
    name_b64: Base64 | None = None
    type: FileType
    size: Size
    mtime_ns: Time
    mode: Mode
    etag: Etag | None = None
    md5: Hex32 | None = None
    blake3: Hex64 | None = None


def info_to_entry(info: FileInfo, below: RemotePath) -> Entry:
    """``info`` as an entry of a listing of ``below``."""
    return Entry(
        **path_to_wire(RemotePath(info.path.parts[len(below.parts) :]), "name"),
        type=info.type,
        size=info.size,
        mtime_ns=info.mtime_ns,
        mode=info.mode,
        etag=info.etag,
        md5=info.md5,
        blake3=info.blake3,
    )


def entry_to_info(entry: Entry, below: RemotePath) -> FileInfo:
    """A listing's entry with its whole path. Raises InvalidPath: a server's names are not trusted either."""
    return FileInfo(
        path=below.join(wire_to_path(entry.name, entry.name_b64)),
        type=entry.type,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        mode=entry.mode,
        etag=entry.etag,
        md5=entry.md5,
        blake3=entry.blake3,
    )
