"""The uploads of a storage: found by owner and file, shared by connections, swept when nobody comes back.

Where several processes serve one root, the first that opens an upload owns it, and the others reach it there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from ftpy.digests import PartDigestName
from ftpy.errors import Busy, ShuttingDown, UnknownUpload
from ftpy.files import FileInfo
from ftpy.storage import syscalls
from ftpy.storage.area import Area
from ftpy.storage.base import KnownDigest, NewFile, Quota
from ftpy.storage.keeping import Keeper
from ftpy.storage.locking import open_locked
from ftpy.storage.owning import Guest
from ftpy.storage.partwriting import LocalPartWriter
from ftpy.storage.places import TREES
from ftpy.storage.publishing import Publisher
from ftpy.storage.remembered import Remembered
from ftpy.storage.remote import RemoteUpload
from ftpy.storage.sharing import Asked, Elsewhere, Link, Neighbours
from ftpy.storage.upload import LiveUpload
from ftpy.storage.uploadbase import Upload

log = logging.getLogger("ftpy.storage")

HANDOVER_SECONDS = 2.0
"""How long an upload may be locked that no process answers for: one has just opened or closed it, or is ending."""
LOOK_SECONDS = 0.01
"""How often it is looked at meanwhile."""

_ID = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"([0-9a-f]{32})\.(data|journal)")


def upload_id(owner: str, file: NewFile) -> str:
    """What is put again finds its upload by this, in one step; an unknown size cannot be found again."""
    if file.file_size is None:
        return secrets.token_hex(16)
    named = json.dumps([owner, file.path.parts, file.file_size, file.mtime_ns, *([] if file.tree is None else [TREES])])
    return hashlib.blake2b(named.encode("ascii"), digest_size=16, person=b"ftpy upload").hexdigest()


class LocalUpload(Upload):
    """One holder's hand on a ``LiveUpload``, with what its own put said: another's must not take that away."""

    def __init__(
        self,
        live: LiveUpload,
        file: NewFile,
        quota: Quota | None,
        hold: Callable[[], None],
        let_go: Callable[[], None],
    ) -> None:
        self.live, self._file, self.quota, self._hold, self._let_go = live, file, quota, hold, let_go
        self._closed = False
        self.id = live.id
        self.path, self.tree = live.meta.file.path, file.tree
        self.file_size = live.meta.file.file_size
        self.part_size = live.meta.part_size

    def close(self) -> None:
        """Let go; the last hand closes files and threads."""
        if not self._closed:
            self._closed = True
            self._let_go()

    def missing(self) -> list[tuple[int, int]]:
        """Ranges of parts that are not stored."""
        return self.live.missing()

    def part(self, number: int, length: int, digest: PartDigestName = "blake3") -> LocalPartWriter:
        """Begin to store a part."""
        self._hold()  # a part keeps the files open even when its connection's hand lets go first
        try:
            return self.live.part(number, length, digest, self.quota, self._let_go)
        except BaseException:
            self._let_go()
            raise

    def commit(self, digest: KnownDigest, file_size: int | None, *, replacing: bool = True) -> FileInfo:
        """Verify and publish."""
        wanted = self._file
        if not replacing and wanted.tree is None:  # what is staged is one's own
            wanted = replace(wanted, condition="absent")
        return self.live.commit(digest, file_size, wanted, self.quota)

    @property
    def verified(self) -> int:
        """Bytes hashed so far."""
        return self.live.verified

    @property
    def is_lost(self) -> bool:
        """Whether it was published or dropped, by whomever."""
        return self.live.gone

    def abort(self) -> None:
        """Drop it."""
        self.live.abort()


class Uploads:
    """The registry: one ``LiveUpload`` an id while anyone holds it. Safe in any thread; raises RequestError."""

    def __init__(
        self, area: Area, publisher: Publisher, remembered: Remembered, keeper: Keeper, neighbours: Neighbours | None
    ) -> None:
        self._area, self._publisher, self._remembered, self._keeper = area, publisher, remembered, keeper
        self._neighbours = neighbours
        self._live: dict[str, LiveUpload] = {}
        self._guests: set[Guest] = set()
        self._remote: set[RemoteUpload] = set()
        self._lock = threading.Lock()
        self._interrupted = False

    def open(self, owner: str, file: NewFile, quota: Quota | None = None) -> Upload:
        """The upload for this file, found or begun."""
        return self._reach(Asked(upload_id(owner, file), owner, file, quota))

    def find(self, owner: str, wanted: str, quota: Quota | None = None) -> Upload:
        """The owner's upload of this id."""
        if not _ID.fullmatch(wanted):
            raise UnknownUpload
        return self._reach(Asked(wanted, owner, quota=quota))

    def _opened(self, live: LiveUpload, asked: Asked) -> LocalUpload:
        """The hand of a put, or of whoever finds the upload by its id; ``live`` is held for it."""
        try:
            if asked.file is not None:
                live.renew(asked.file)
                return self._hand(live, asked.file, asked.quota)
            if live.meta.owner != asked.owner:
                raise UnknownUpload
            return self._hand(live, live.meta.file, asked.quota)
        except BaseException:
            self._let_go(live)
            raise

    def ids(self) -> list[str]:
        """Ids of all that are unfinished, sorted."""
        names = map(_FILE.fullmatch, self._area.uploads.names())
        return sorted(name[1] for name in names if name and name[2] == "data")

    def interrupt(self) -> None:
        """Let commits that wait for a digest end; nothing is opened from now on."""
        with self._lock:
            self._interrupted = True
            live, remote = list(self._live.values()), list(self._remote)
        for upload in live:
            upload.interrupt()
        for hand in remote:
            hand.interrupt()

    def wait(self) -> None:
        """Wait for commits and syncs under way; hands from other processes end."""
        with self._lock:
            live, guests = list(self._live.values()), list(self._guests)
        for guest in guests:
            guest.end()
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
            syscalls.close(lock)
        log.info("an upload expired", extra={"event": "upload-swept", "fields": {"upload": found}})
        return True

    # ---------------------------------------------------------------- other processes

    def _reach(self, asked: Asked) -> Upload:
        """The upload, open here or in another process. Raises Busy where it is locked and nobody answers for it."""
        deadline = time.monotonic() + HANDOVER_SECONDS
        while True:
            try:
                return self._opened(self._hold(asked), asked)
            except Elsewhere:
                pass
            if (there := self._there(asked)) is not None:
                return there
            if self._neighbours is None or time.monotonic() > deadline:
                raise Busy("another process of this server is at work on this upload; try again later")
            time.sleep(LOOK_SECONDS)

    def _there(self, asked: Asked) -> RemoteUpload | None:
        link = self._neighbours.link(asked.id) if self._neighbours is not None else None
        if link is None:
            return None
        hand = RemoteUpload.take(link, asked, self._forget)
        if hand is None:
            return None
        with self._lock:
            self._remote.add(hand)
            interrupted = self._interrupted
        if interrupted:
            hand.close()
            raise ShuttingDown
        return hand

    def _forget(self, hand: RemoteUpload) -> None:
        with self._lock:
            self._remote.discard(hand)

    def welcome(self, link: Link) -> None:
        """Another process asks for an upload that is open here. Raises Busy, ShuttingDown."""
        with self._lock:
            if self._interrupted:
                raise ShuttingDown
            self._guests.add(Guest(link, self._find_open, self._farewell))

    def _farewell(self, guest: Guest) -> None:
        with self._lock:
            self._guests.discard(guest)

    def _find_open(self, asked: Asked) -> LocalUpload | None:
        with self._lock:
            live = self._live.get(asked.id)
            # One that is being opened or closed is not open: its descriptors may be another file's before they are
            # sent. Who asks looks again.
            if live is None or not live.lifecycle.acquire(blocking=False):
                return None
            try:
                if live.gone or not live.is_open:
                    return None
                live.holders += 1
            finally:
                live.lifecycle.release()
        return self._opened(live, asked)

    def look_after_remote(self) -> None:
        """Some process has ended: let go of uploads that it had open."""
        with self._lock:
            remote = list(self._remote)
        for hand in remote:
            hand.look()

    # ---------------------------------------------------------------- holding

    def _hold(self, asked: Asked) -> LiveUpload:
        while True:
            with self._lock:
                if self._interrupted:
                    raise ShuttingDown
                live = self._live.get(asked.id)
                if live is None or live.gone:
                    live = LiveUpload(asked.id, self._area, self._publisher, self._remembered, self._keeper)
                    self._live[asked.id] = live
                live.holders += 1
            try:
                with live.lifecycle:
                    if not live.is_open and not live.gone:
                        live.open(asked.owner, asked.file, asked.quota)
                        if self._neighbours is not None:
                            self._neighbours.claim(asked.id)
            except BaseException:
                self._let_go(live)
                raise
            if not live.gone:
                return live
            self._let_go(live)

    def _hand(self, live: LiveUpload, file: NewFile, quota: Quota | None) -> LocalUpload:
        return LocalUpload(live, file, quota, partial(self._hold_again, live), partial(self._let_go, live))

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
                    if self._neighbours is not None:
                        self._neighbours.release(live.id)

    def _is_held(self, live: LiveUpload) -> bool:
        with self._lock:
            return live.holders > 0
