"""Unfinished uploads as they lie on disk, for another process to look at: nothing is locked, made or changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ftpy.files import RemotePath
from ftpy.storage.area import AREA
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.journal import parse

_SUFFIX = ".journal"


class Unfinished(NamedTuple):
    """One upload: ``size`` in bytes (None: not known yet), ``stored`` bytes of verified parts, its journal's mtime."""

    owner: str
    path: RemotePath
    size: int | None
    stored: int
    touched: float


def unfinished(root: str) -> Iterator[Unfinished]:
    """Every upload below ``root``, open or not. Raises OSError; a root without uploads has none."""
    with Beneath(root) as beneath:
        try:
            with beneath.root.open_dir(AREA) as area, area.open_dir("uploads") as uploads:
                names = sorted(name for name in uploads.names() if name.endswith(_SUFFIX))
                yield from filter(None, (_look(uploads, name) for name in names))
        except FileNotFoundError:
            return


def _look(uploads: Directory, name: str) -> Unfinished | None:
    """What one journal says; None where it is finished by now, or has not begun."""
    try:
        descriptor = uploads.open_file(name)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        touched = os.fstat(descriptor).st_mtime
        contents = parse(file.read())
    if contents.meta is None:
        return None
    stored = sum(part.length for part in contents.parts.values())
    wanted = contents.meta.file
    return Unfinished(contents.meta.owner, wanted.path, wanted.file_size, stored, touched)
