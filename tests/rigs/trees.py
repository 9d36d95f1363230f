"""A folder tree as facts that can be compared: what a verb may not touch must be equal before and after."""

from __future__ import annotations

import os
import stat
from pathlib import Path

Facts = dict[str, tuple[object, ...]]


def facts_of(top: Path, *, without: tuple[Path, ...] = ()) -> Facts:
    """Every name below ``top``: inode, mode, links, owner, size, times of change, and the content.

    ``without`` are folders that are left out, with their own facts. The time of the last access is not counted.
    """
    facts: Facts = {}
    skipped = {os.fspath(path) for path in without}
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in skipped]
        facts[folder] = _facts(folder, names=len(folders) + len(files))
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.join(folder, name)
            facts[path] = _facts(path)
    return facts


def _facts(path: str, names: int = 0) -> tuple[object, ...]:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content: object = names
    if kind == stat.S_IFREG:
        content = Path(path).read_bytes()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    return (
        status.st_ino,
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        content,
    )
