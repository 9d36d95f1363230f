"""The uploads of a storage: found by owner and file, shared by connections, swept when nobody comes back."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial

from ftpy.digests import PartDigestName
from ftpy.errors import ShuttingDown, UnknownUpload
from ftpy.files import FileInfo
from ftpy.storage.area import Area
from ftpy.storage.base import Condition, KnownDigest, NewFile, Upload
from ftpy.storage.locking import open_locked
from ftpy.storage.partwriting import LocalPartWriter
from ftpy.storage.publishing import Publisher
from ftpy.storage.remembered import Remembered
from ftpy.storage.upload import LiveUpload

log = logging.getLogger("ftpy.storage")

_ID = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"([0-9a-f]{32})\.(data|journal)")


def upload_id(owner: str, file: NewFile) -> str:
    """What is put again finds its upload by this, in one step; an unknown size cannot be found again."""
    if file.file_size is None:
        return secrets.token_hex(16)
    named = json.dumps([owner, file.path.parts, file.file_size, file.mtime_ns])
    return hashlib.blake2b(named.encode("ascii"), digest_size=16, person=b"ftpy upload").hexdigest()


class LocalUpload(Upload):
    """One holder's hand on a ``LiveUpload``, with the condition of its own put: another's must not take it away."""

    def __init__(
        self, live: LiveUpload, condition: Condition, hold: Callable[[], None], let_go: Callable[[], None]
    ) -> None:
        self._live, self._condition, self._hold, self._let_go = live, condition, hold, let_go
        self._closed = False
        self.id = live.id
        self.file_size = live.meta.file.file_size
        self.part_size = live.meta.part_size

    def close(self) -> None:
        """Let go; the last hand closes files and threads."""
        if not self._closed:
            self._closed = True
            self._let_go()

    def missing(self) -> list[tuple[int, int]]:
        """Ranges of parts that are not stored."""
        return self._live.missing()

    def part(self, number: int, length: int, digest: PartDigestName = "blake3") -> LocalPartWriter:
        """Begin to store a part."""
        self._hold()  # a part keeps the files open even when its connection's hand lets go first
        try:
            return self._live.part(number, length, digest, self._let_go)
        except BaseException:
            self._let_go()
            raise

    def commit(self, digest: KnownDigest, file_size: int | None) -> FileInfo:
        """Verify and publish."""
        return self._live.commit(digest, file_size, self._condition)

    @property
    def verified(self) -> int:
        """Bytes hashed so far."""
        return self._live.verified

    def abort(self) -> None:
        """Drop it."""
        self._live.abort()


class Uploads:
    """The registry: one ``LiveUpload`` an id while anyone holds it. Safe in any thread; raises RequestError."""

    def __init__(self, area: Area, publisher: Publisher, remembered: Remembered) -> None:
        self._area, self._publisher, self._remembered = area, publisher, remembered
        self._live: dict[str, LiveUpload] = {}
        self._lock = threading.Lock()
        self._interrupted = False

    def open(self, owner: str, file: NewFile) -> LocalUpload:
        """The upload for this file, found or begun."""
        live = self._hold(upload_id(owner, file), owner, file)
        try:
            live.renew(file)
            return self._hand(live, file.condition)
        except BaseException:
            self._let_go(live)
            raise

    def find(self, owner: str, wanted: str) -> LocalUpload:
        """The owner's upload of this id."""
        if not _ID.fullmatch(wanted):
            raise UnknownUpload
        live = self._hold(wanted, owner, None)
        if live.meta.owner != owner:
            self._let_go(live)
            raise UnknownUpload
        return self._hand(live, live.meta.file.condition)

    def ids(self) -> list[str]:
        """Ids of all that are unfinished, sorted."""
        names = map(_FILE.fullmatch, self._area.uploads.names())
        return sorted(name[1] for name in names if name and name[2] == "data")

    def interrupt(self) -> None:
        """Let commits that wait for a digest end; nothing is opened from now on."""
        with self._lock:
            self._interrupted = True
            live = list(self._live.values())
        for upload in live:
            upload.interrupt()

    def wait(self) -> None:
        """Wait for commits and syncs under way."""
        with self._lock:
            live = list(self._live.values())
        for upload in live:
            upload.wait()

    def sweep(self, expire_seconds: float) -> int:
        """Remove uploads whose journal was not written for that long, and halves of what is gone. Raises OSError."""
        names = map(_FILE.fullmatch, self._area.uploads.names())
        found = {name[1] for name in names if name}
        return sum(self._sweep(one, expire_seconds) for one in found if self._expired(one, expire_seconds))

    def _expired(self, found: str, expire_seconds: float) -> bool:
        try:
            journal = self._area.uploads.lstat(f"{found}.journal")
            self._area.uploads.lstat(f"{found}.data")
        except FileNotFoundError:
            return True  # one without the other: a crash between two removals
        return journal.st_size == 0 or time.time() - journal.st_mtime > expire_seconds

    def _sweep(self, found: str, expire_seconds: float) -> bool:
        """Remove an upload that nobody holds: whether it went."""
        lock = open_locked(self._area.uploads, f"{found}.journal", create=True)
        if lock is None:
            return False
        try:
            if not self._expired(found, expire_seconds):
                return False  # somebody went on with it just before it was ours
            self._area.uploads.unlink(f"{found}.data", missing_ok=True)
            self._area.uploads.unlink(f"{found}.journal", missing_ok=True)
        finally:
            os.close(lock)
        log.info("an upload expired", extra={"event": "upload-swept", "fields": {"upload": found}})
        return True

    # ---------------------------------------------------------------- holding

    def _hold(self, wanted: str, owner: str, file: NewFile | None) -> LiveUpload:
        while True:
            with self._lock:
                if self._interrupted:
                    raise ShuttingDown
                live = self._live.get(wanted)
                if live is None or live.gone:
                    live = LiveUpload(wanted, self._area, self._publisher, self._remembered)
                    self._live[wanted] = live
                live.holders += 1
            try:
                with live.lifecycle:
                    if not live.is_open and not live.gone:
                        live.open(owner, file)
            except BaseException:
                self._let_go(live)
                raise
            if not live.gone:
                return live
            self._let_go(live)

    def _hand(self, live: LiveUpload, condition: Condition) -> LocalUpload:
        return LocalUpload(live, condition, partial(self._hold_again, live), partial(self._let_go, live))

    def _hold_again(self, live: LiveUpload) -> None:
        with self._lock:
            live.holders += 1

    def _let_go(self, live: LiveUpload) -> None:
        """One holder less; the last one closes. Who comes while it closes waits, and opens it again."""
        with self._lock:
            live.holders -= 1
            if live.holders:
                return
        with live.lifecycle:
            if self._is_held(live):
                return
            live.close()
            with self._lock:
                if not live.holders and self._live.get(live.id) is live:
                    del self._live[live.id]

    def _is_held(self, live: LiveUpload) -> bool:
        with self._lock:
            return live.holders > 0
