"""How much lies below a folder, as the disk has it.

A tree is as deep as whoever moved it together liked. So there is one descriptor and no recursion: the way back up is
``..``, and where that leads elsewhere than it came from the count has failed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ftpy.errors import IoError
from ftpy.files import RESERVED_PREFIX
from ftpy.storage import syscalls
from ftpy.storage.area import AREA
from ftpy.storage.places import PREVIOUS, TREES
from ftpy.storage.trash import TRASH
from ftpy.storage.usage import weight

_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_UNENTERED = (FileNotFoundError, NotADirectoryError, PermissionError)
"""Gone since it was listed, replaced, or nobody's, like lost+found."""


def measure(root: str) -> tuple[int, int]:
    """Bytes and number of all that counts below a folder; links are counted, never followed. Raises IoError."""
    size = files = 0
    try:
        for fd, names in _folders(root):
            for name in names:
                try:
                    size += weight(os.lstat(name, dir_fd=fd))
                except FileNotFoundError:
                    continue  # removed since it was listed
                files += 1
    except OSError as error:
        raise IoError(f"what is stored cannot be counted: {error.strerror}") from error
    return size, files


_Kind = Literal["plain", "area", "stored", "kept", "one kept"]
"""Of a folder: one of a user's, a staging area, one of those in it for what is stored, for operations and trees; one
of these.
"""
_IN_AREA: dict[str, _Kind] = {
    "staged": "stored",
    "uploads": "stored",
    TRASH: "kept",
    TREES: "kept",
    PREVIOUS: "kept",
}
"""What of a staging area counts."""


class _Level(NamedTuple):
    """A folder on the way down, and those in it that are still to be looked into."""

    kind: _Kind
    status: os.stat_result
    due: list[tuple[str, _Kind]]


def _folders(root: str) -> Iterator[tuple[int, list[str]]]:
    """Every folder, open, and the names in it that count."""
    here = os.open(root, _FLAGS)
    try:
        due, names = _look(here, "plain")
        way = [_Level("plain", os.fstat(here), due)]
        yield here, names
        while way:
            if way[-1].due:
                name, kind = way[-1].due.pop()
                if (inner := _entered(name, here)) is None:
                    continue
                syscalls.close(here)
                here = inner
                due, names = _look(here, kind)
                way.append(_Level(kind, os.fstat(here), due))
                yield here, names
                continue
            way.pop()
            if way:
                outer = os.open("..", _FLAGS, dir_fd=here)
                syscalls.close(here)
                here = outer
                if not os.path.samestat(os.fstat(here), way[-1].status):
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    finally:
        syscalls.close(here)


def _entered(name: str, here: int) -> int | None:
    """A folder, open; None where it cannot be entered."""
    try:
        inner = os.open(name, _FLAGS, dir_fd=here)
    except _UNENTERED:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # a link took its place
            return None
        raise
    try:
        os.lstat(".", dir_fd=inner)
    except PermissionError:  # its names can be read, and nothing more
        syscalls.close(inner)
        return None
    except BaseException:
        syscalls.close(inner)
        raise
    return inner


def _look(here: int, kind: _Kind) -> tuple[list[tuple[str, _Kind]], list[str]]:
    """The folders to look into, and all that counts: in a staging area what is stored or kept there."""
    with os.scandir(here) as entries:
        kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    folders = [name for name, is_folder in kinds.items() if is_folder]
    match kind:
        case "area":
            return [(name, _IN_AREA[name]) for name in folders if name in _IN_AREA], []
        case "stored":
            return [], [name for name, is_folder in kinds.items() if not is_folder and _is_stored(name)]
        case "kept":
            return [(name, "one kept") for name in folders], folders
        case "one kept":
            return [(name, "plain") for name in folders], list(kinds)
    due = [(name, _of(name)) for name in folders if name == AREA or not _is_ours(name)]
    return due, [name for name in kinds if not _is_ours(name)]


def _of(name: str) -> _Kind:
    return "area" if name == AREA else "plain"


def _is_ours(name: str) -> bool:
    return name.startswith(RESERVED_PREFIX)


def _is_stored(name: str) -> bool:
    """Whether a file of the staging area is somebody's: the data of an upload, or a small file (``token-number``)."""
    return name.endswith(".data") or "-" in name
