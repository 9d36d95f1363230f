"""The part of ``Client`` that makes one folder equal another: sync."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ftpy.client.base import PathLike, remote_path
from ftpy.client.operations import Operations
from ftpy.client.transfers import Transfers

if TYPE_CHECKING:
    from ftpy.client.syncing import SyncOptions, SyncResult


class Syncs(Transfers, Operations):
    """Planned from two complete listings, and undone as one operation."""

    def sync(
        self,
        local: str | os.PathLike[str],
        path: PathLike,
        options: SyncOptions | None = None,
        *,
        pull: bool = False,
    ) -> SyncResult:
        """Make the folder ``path`` on the server equal the folder ``local``, or with ``pull`` the other way round.

        What is replaced or deleted is kept where it was: on the server, or in ``local``. A step that fails is told in
        the result and does not stop the others; nothing is deleted behind one.
        Raises SyncRefused for a plan that would delete too much, LocalFileError for ``local`` itself, Unsupported where
        the server keeps nothing, and what ends a connection for good.
        """
        from ftpy.client.syncing import Push, SyncOptions

        options = options or SyncOptions(digest=self._transfer.digest)
        if pull:
            from ftpy.client.pulling import Pull

            return Pull(self, os.fspath(local), remote_path(path), options).run()
        return Push(self, os.fspath(local), remote_path(path), options).run()
