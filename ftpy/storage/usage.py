"""How much lies below a root: asked for before anything is stored, told of all that goes.

What counts is what is on disk: every file and folder below a root, uploads and staged files with their full size.
``Usage`` itself counts nothing and lets everything pass; ``counting`` has the one that counts.
"""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from ftpy.files import RemotePath
from ftpy.storage.base import Quota

ROOT: Final = RemotePath()
"""Where the staging area counts: below the root, and below no folder in it that somebody else has as a root."""


class Change:
    """What an effect on the disk means for the counts; this one is told in vain."""

    def removed(self, path: RemotePath, size: int, files: int = 1) -> None:
        """``files`` files and folders of ``size`` bytes in all are no longer at ``path`` or below it."""

    def moved(self, source: RemotePath, target: RemotePath, size: int, files: int = 1) -> None:
        """They were at or below ``source`` and are now at ``target``."""

    def tells(self, source: RemotePath, target: RemotePath) -> bool:  # noqa: ARG002
        """Whether ``moved`` makes a difference to anyone: a folder need not be measured in vain."""
        return False


_IN_VAIN: Final = Change()
_NOTHING: Final[AbstractContextManager[Change]] = nullcontext(_IN_VAIN)


class Usage:
    """What the storage of one root tells. Every method is safe in any thread and process."""

    @property
    def counts(self) -> bool:
        """Whether anybody wants to know: then what replaces or removes holds the lock of publications alone."""
        return False

    def adding(
        self,
        size: int,  # noqa: ARG002
        files: int = 1,  # noqa: ARG002
        quota: Quota | None = None,  # noqa: ARG002
        path: RemotePath = ROOT,  # noqa: ARG002
    ) -> AbstractContextManager[Change]:
        """A ``with`` around what makes ``size`` bytes and ``files`` files or folders at ``path``.

        They count from its beginning, unless it ends with an exception. Raises QuotaExceeded.
        """
        return _NOTHING

    def changing(self) -> AbstractContextManager[Change]:
        """A ``with`` around what removes or moves; it is told what went while it lasts. Not within another one."""
        return _NOTHING

    def measure(self, path: RemotePath) -> tuple[int, int]:  # noqa: ARG002
        """Bytes, files and folders of a folder that nobody changes, itself included; nothing unless it ``counts``."""
        return 0, 0

    def used(self, quota: Quota) -> tuple[int, int]:  # noqa: ARG002
        """Bytes, files and folders below the root, counted now where they were not before. Raises IoError."""
        return 0, 0

    def distrust(self) -> None:
        """Something may have gone uncounted: count anew before anything is added."""

    def recount(self) -> None:
        """Compare with the disk, and count anew where that differs."""

    def close(self) -> None:
        """Let go."""


def weight(status: os.stat_result) -> int:
    """What an entry counts, bytes: a file its length, a folder or a link nothing."""
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
