"""The journal of an upload: append-only lines that survive a crash at any byte.

::

    M {json}                     what is being put; the last one counts
    P <number> <length> <digest> a part was written and verified, but not made durable; BLAKE3, or "xxh128 <digest>"
    X <number>                   what was said of this part before is void
    S <bytes>                    every line that ends within the first <bytes> is durable, data and all

A line counts only if all of it matches: torn, zero-filled and odd lines are passed over. What was torn is ended by
``-`` before anything is written behind it, so that it swallows nothing and never counts later either. ``S`` is written
after the data's sync and before the journal's own, so wherever an ``S`` can be read, what it covers is there.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from ftpy.digests import DIGEST_NAMES, HEX_LENGTH, PartDigestName
from ftpy.errors import InvalidPath
from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.base import Condition, KnownDigest, KnownInode, KnownVersion, NewFile, StagedTree
from ftpy.storage.operations import OperationKey
from ftpy.storage.uploadbase import MOST_PARTS

_PART = re.compile(rb"P (0|[1-9][0-9]{0,4}) ([1-9][0-9]{0,18}) (?:([0-9a-f]{64})|xxh128 ([0-9a-f]{32}))")
_VOID = re.compile(rb"X (0|[1-9][0-9]{0,4})")
_DURABLE = re.compile(rb"S ([1-9][0-9]{0,18})")
_META = re.compile(rb"M (\{.*\})")
_HEX = re.compile(r"[0-9a-f]+")
_TREE = re.compile(r"[0-9a-f]{32}")
_END_OF_TORN = b"-\n"  # no line ends so: also one that lacks nothing but its end stays void

# The data's size never changes while parts come in, so its times need not be synced with it.
sync_data = getattr(os, "fdatasync", syscalls.fsync)


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that was written: its bytes, its digest (BLAKE3 or XXH3-128), and whether a sync has covered it."""

    length: int
    digest: str
    durable: bool = False

    @property
    def digest_name(self) -> PartDigestName:
        """Which digest it is; their lengths tell."""
        return "blake3" if len(self.digest) == HEX_LENGTH["blake3"] else "xxh128"


@dataclass(frozen=True, slots=True)
class Meta:
    """What an upload is for."""

    owner: str
    file: NewFile
    part_size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal says; ``meta`` None where it says nothing of use."""

    meta: Meta | None
    parts: dict[int, StoredPart]


def parse(text: bytes) -> Contents:
    """Read a journal, however it ended."""
    meta: Meta | None = None
    parts: dict[int, tuple[StoredPart, int]] = {}
    durable_to = 0
    end = 0
    for line in text.split(b"\n")[:-1]:
        end += len(line) + 1
        if match := _PART.fullmatch(line):
            number, length, digest = int(match[1]), int(match[2]), (match[3] or match[4]).decode("ascii")
            if number < MOST_PARTS:
                parts[number] = StoredPart(length, digest), end
        elif match := _DURABLE.fullmatch(line):
            # No honest S covers more than what came before it.
            durable_to = max(durable_to, min(int(match[1]), end - len(line) - 1))
        elif match := _VOID.fullmatch(line):
            parts.pop(int(match[1]), None)
        elif match := _META.fullmatch(line):
            meta = _meta(match[1]) or meta
    return Contents(
        meta,
        {
            number: StoredPart(part.length, part.digest, durable=at <= durable_to)
            for number, (part, at) in sorted(parts.items())
        },
    )


class Journal:
    """An open journal. One thread at a time; all raise OSError."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0
        self._torn = False

    def read(self) -> Contents:
        """What it says; from then on it can be appended to."""
        text = b""
        while piece := os.pread(self.fd, 1 << 20, len(text)):
            text += piece
        self.size = len(text)
        self._torn = bool(text) and not text.endswith(b"\n")
        return parse(text)

    def clear(self) -> None:
        """Forget everything."""
        os.ftruncate(self.fd, 0)
        self.size, self._torn = 0, False

    def meta(self, meta: Meta) -> None:
        """Note what the upload is for, from now on."""
        self._append(b"M %s\n" % json.dumps(_fields(meta), separators=(",", ":")).encode("ascii"))

    def part(self, number: int, part: StoredPart) -> None:
        """Note a part that was written and verified."""
        # Named, for the first half of a torn BLAKE3 must not pass for the other one.
        digest = part.digest if part.digest_name == "blake3" else f"xxh128 {part.digest}"
        self._append(b"P %d %d %s\n" % (number, part.length, digest.encode("ascii")))

    def void(self, number: int) -> None:
        """Note that a part is not there after all."""
        self._append(b"X %d\n" % number)

    def durable(self, size: int) -> None:
        """Note that what the first ``size`` bytes say is durable, durably; the data was synced before."""
        self._append(b"S %d\n" % size)
        sync_data(self.fd)

    def touch(self) -> None:
        """Someone cares for this upload: it does not expire yet."""
        os.utime(self.fd)

    def _append(self, line: bytes) -> None:
        if self._torn:
            line = _END_OF_TORN + line
        written = os.write(self.fd, line)
        self.size += written
        self._torn = written != len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fields(meta: Meta) -> dict[str, Any]:
    file = meta.file
    return {
        "owner": meta.owner,
        "path": file.path.parts,
        "file_size": file.file_size,
        "mtime_ns": file.mtime_ns,
        "mode": file.mode,
        "part_size": meta.part_size,
        "digest": file.digest,
        "condition": _spelt(file.condition),
        "operation": None if file.operation is None else file.operation.id,
        "tree": None if file.tree is None else [file.tree.id, len(file.tree.path.parts)],
    }


def _spelt(condition: Condition) -> object:
    assert not isinstance(condition, KnownInode)  # no client can name one
    if isinstance(condition, KnownVersion):
        return ["etag", condition.etag]
    return [condition.name, condition.hex] if isinstance(condition, KnownDigest) else condition


def _meta(text: bytes) -> Meta | None:
    """The fields of an M line, or None where they are not what we wrote."""
    try:
        fields = json.loads(text)
        path = RemotePath.parse("/".join(fields["path"]))
        size, mode, part_size = fields["file_size"], fields["mode"], fields["part_size"]
        sound = (
            isinstance(fields["owner"], str)
            and (size is None or (type(size) is int and size >= 0))
            and (mode is None or (type(mode) is int and 0 <= mode <= 0o777))
            and type(fields["mtime_ns"]) is int
            and type(part_size) is int
            and part_size > 0
            and fields["digest"] in DIGEST_NAMES
        )
        if not sound:
            return None
        condition, operation = _condition(fields["condition"]), fields.get("operation")
        key = None if operation is None else OperationKey(fields["owner"], str(operation))
        tree = _tree(fields["owner"], path, fields.get("tree"))
        file = NewFile(path, size, fields["mtime_ns"], mode, fields["digest"], condition, key, tree)
        return Meta(fields["owner"], file, part_size)
    except (ValueError, KeyError, TypeError, RecursionError, InvalidPath):
        return None


def _tree(owner: str, path: RemotePath, value: Any) -> StagedTree | None:
    if value is None:
        return None
    tree_id, depth = value
    if not isinstance(tree_id, str) or not _TREE.fullmatch(tree_id):
        raise ValueError("no tree")
    return StagedTree(owner, RemotePath(path.parts[: int(depth)]), tree_id)


def _condition(value: Any) -> Condition:
    if value is None or value == "absent":
        return value  # type: ignore[no-any-return]
    name, digest = value
    if name == "etag":
        return KnownVersion(str(digest))
    if name not in DIGEST_NAMES or len(digest) != HEX_LENGTH[name] or not _HEX.fullmatch(digest):
        raise ValueError("no condition")
    return KnownDigest(name, digest)
