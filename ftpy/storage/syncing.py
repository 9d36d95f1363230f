"""Making an upload's parts durable in the background: writeback overlaps with receiving."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ftpy.errors import Busy
from ftpy.storage.base import MIB
from ftpy.storage.following import start_thread
from ftpy.storage.journal import sync_data
from ftpy.storage.uploadfiles import UploadFiles
from ftpy.timing import SYNC

log = logging.getLogger("ftpy.storage")

SYNC_BYTES = 64 * MIB
"""New bytes that start a sync in the background."""
MOST_UNSYNCED = 4 * SYNC_BYTES
"""Bytes from which on a part waits for the disk: what is read again after a crash stays bounded."""


class Syncing:
    """The syncs of one upload, one at a time, each in a thread; ``lock`` is the upload's and guards its journal.

    ``failed`` is told of an error, by the thread.
    """

    def __init__(
        self, upload_id: str, files: UploadFiles, lock: threading.Lock, failed: Callable[[OSError], None]
    ) -> None:
        self._id, self._files, self._lock, self._failed = upload_id, files, lock, failed
        self._unsynced = 0
        self._thread: threading.Thread | None = None
        self._name_is_durable = False

    def begin(self, unsynced: int) -> None:
        """The files were opened; so many bytes of them no sync has covered."""
        self._unsynced = unsynced

    def written(self, count: int) -> bool:
        """So many bytes more (lock held): whether who sends them is to wait for the disk."""
        self._unsynced += count
        self._start(SYNC_BYTES)
        return self._unsynced >= MOST_UNSYNCED

    def all_written(self) -> None:
        """No more will come (lock held): what is left is synced while the digest is waited for."""
        self._start(SYNC_BYTES // 4)

    def wait(self) -> None:
        """Wait for the sync under way, without the lock."""
        if (thread := self._thread) is not None:
            with SYNC:
                thread.join()

    def _start(self, least: int) -> None:
        if self._thread is None and self._unsynced >= least:
            try:
                self._thread = start_thread(self._run, "ftpy-sync")
            except Busy as error:  # the next part tries again, and the commit syncs whatever is left
                log.warning("%s", error, extra={"event": "sync-put-off", "fields": {"upload": self._id}})

    def _run(self) -> None:
        with self._lock:
            covered, synced = self._files.journal.size, self._unsynced
        try:
            sync_data(self._files.data)
            if not self._name_is_durable:
                self._files.folder.sync()
                self._name_is_durable = True
            with self._lock:
                self._files.journal.durable(covered)
        except OSError as error:
            # Never tried again, and dropped at once: the kernel has forgotten the pages that it could not write,
            # but still shows them to who reads, so that nothing of it could be believed later.
            self._failed(error)
        with self._lock:
            self._unsynced -= synced
            self._thread = None
