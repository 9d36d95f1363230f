"""The folders that are served, each by one storage that all its users share."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from ftpy.config.server import ServerConfig, exposed_by
from ftpy.errors import Busy, InternalError, RequestError
from ftpy.server import sandbox
from ftpy.server.accounts import Account
from ftpy.storage.area import AREA
from ftpy.storage.counting import CountedUsage
from ftpy.storage.feed import NOBODYS
from ftpy.storage.feedbook import FeedBook
from ftpy.storage.following import start_thread
from ftpy.storage.local import LocalStorage
from ftpy.storage.sharing import Link, Neighbours

log = logging.getLogger("ftpy.server")


class _Root:
    """A folder that is served, and its storage once somebody needed it, until another folder takes its place."""

    def __init__(self) -> None:
        self.opening = threading.Lock()  # one for each: a disk that hangs keeps only its own users waiting
        self.storage: LocalStorage | None = None


class Roots:
    """Every storage that is open. Safe in any thread.

    ``settings`` is the file that ``config`` came from, if any: no user may reach it. One of several processes sees
    the others as ``neighbours`` of a root. What is stored counts where somebody's quota asks for it: ``quota_roots``
    gives the roots of those (None: the server's), the same object while nothing changes.
    """

    def __init__(
        self,
        config: ServerConfig,
        settings: str | None,
        neighbours: Callable[[str], Neighbours] | None,
        quota_roots: Callable[[], frozenset[str | None]],
    ) -> None:
        self._config, self._settings, self._neighbours = config, settings, neighbours
        self._quota_roots = quota_roots
        self.feed = FeedBook(config.state, most=config.events.most) if config.events.days else None
        """The feed of all of them, if one is kept."""
        self._counted: tuple[frozenset[str | None], frozenset[str]] = (frozenset(), frozenset())
        self._lock = threading.Lock()
        self._roots: dict[str, _Root] = {}
        self._users: Counter[LocalStorage] = Counter()
        """How many use each storage that is in use."""
        self._displaced: set[LocalStorage] = set()
        """Those in use whose root is elsewhere by now, or gone: closed when nobody uses them any more."""
        self._passing: set[LocalStorage] = set()
        """Those that are open for a sweep alone."""

    def reload(self, config: ServerConfig) -> None:
        """Other settings count from now on, but for the root and the state folder."""
        self._config = config
        for storage in self.storages():
            storage.portable_names = config.portable_names

    def storage_for(self, account: Account) -> LocalStorage:
        """The storage of this user's root, to be ``let_go``; users with one root share it.

        Raises Busy, InternalError.
        """
        root = account.root or self._config.root
        try:
            if unfit := self._unfit(root):  # asked at every login: users and links change while the server runs
                raise InternalError(unfit)
            return self.open(root)
        except Busy:
            raise
        except RequestError as error:
            fields = {"user": account.name, "root": root, "reason": str(error)}
            log.error("root-unusable", extra={"event": "root-unusable", "fields": fields})
            raise InternalError("the server cannot open your folder; its log says why") from error

    def _unfit(self, root: str) -> str | None:
        """Why a folder may not be served, if it may not."""
        if exposed := exposed_by(self._config, root, self._settings):
            return f"the server's own `{exposed}` lies below it, so the user could read or change it"
        if not sandbox.admits(root):
            return "it lies outside the sandbox that was made when the server started; restart it"
        return None

    def real_root(self, account: Account) -> str:
        """The real path of this user's root."""
        return os.path.realpath(account.root or self._config.root)

    def open(self, root: str) -> LocalStorage:
        """The storage of a folder, to be ``let_go``. Raises RequestError."""
        real = os.path.realpath(root)
        with self._lock:
            place = self._roots.setdefault(real, _Root())
        with place.opening:
            if place.storage is not None and not place.storage.is_in_place():
                self._displace(real, place)
            if place.storage is None:
                place.storage = self._made(real)
                place.storage.portable_names = self._config.portable_names  # a reload may not have seen it
            with self._lock:
                self._users[place.storage] += 1
            return place.storage

    def _made(self, real: str) -> LocalStorage:
        return LocalStorage(
            real,
            self._config.state,
            portable_names=self._config.portable_names,
            neighbours=self._neighbours(real) if self._neighbours else None,
            usage=CountedUsage(real, self._config.state, self._counted_roots),
            feed=self.feed.of(real) if self.feed else NOBODYS,
        )

    def _displace(self, real: str, place: _Root) -> None:
        """The folder that a storage has open is no longer at its path: another one is to be opened there."""
        assert place.storage is not None
        log.warning("root-replaced", extra={"event": "root-replaced", "fields": {"root": real}})
        with self._lock:
            storage, place.storage = place.storage, None
            self._displaced.add(storage)
            self._users[storage] += 1
        self.let_go(storage)

    def let_go(self, storage: LocalStorage) -> None:
        """Whoever was given it needs it no more. It stays open for who comes next, unless its root is elsewhere."""
        with self._lock:
            self._users[storage] -= 1
            if self._users[storage]:
                return
            del self._users[storage]
            if storage not in self._displaced:
                return
            self._displaced.remove(storage)
        storage.close()

    def known(self, roots: Iterable[str]) -> list[str]:
        """The real paths of the server's root, of these, and of all that are open, sorted."""
        return sorted({*map(os.path.realpath, [self._config.root, *roots]), *self.by_root()})

    def sweep(self, real: str, *, expire_seconds: float, trash_seconds: float) -> int:
        """Drop what expired below a root, also where nobody was since the start; a folder without any is left alone.

        Raises RequestError.
        """
        with self._lock:
            place = self._roots.get(real)
            storage = place.storage if place is not None else None
            if storage is not None:
                self._users[storage] += 1
        if storage is not None:
            try:
                if storage.is_in_place():
                    return storage.sweep(expire_seconds=expire_seconds, trash_seconds=trash_seconds)
            finally:
                self.let_go(storage)
        if not os.path.isdir(os.path.join(real, AREA)) or self._unfit(real):
            return 0
        with self._made(real) as passing:
            with self._lock:
                self._passing.add(passing)
            try:
                return passing.sweep(expire_seconds=expire_seconds, trash_seconds=trash_seconds)
            finally:
                with self._lock:
                    self._passing.remove(passing)

    def _counted_roots(self) -> frozenset[str]:
        named, real = self._counted
        if (now := self._quota_roots()) is not named:
            real = frozenset(os.path.realpath(root or self._config.root) for root in now)
            self._counted = now, real
        return real

    def by_root(self) -> dict[str, LocalStorage]:
        """Those that are open, by their folder's real path."""
        with self._lock:
            return {root: place.storage for root, place in self._roots.items() if place.storage is not None}

    def storages(self) -> list[LocalStorage]:
        """Those that are open for users."""
        with self._lock:
            displaced = list(self._displaced)
        return [*self.by_root().values(), *displaced]

    def interrupt(self) -> None:
        """The time to drain is over."""
        with self._lock:
            passing = list(self._passing)
        for storage in [*self.storages(), *passing]:
            storage.interrupt()

    def close(self) -> None:
        """Close all, after those who use them have ended."""
        self.interrupt()  # whoever sweeps closes what that is open for
        for storage in self.storages():
            storage.close()
        if self.feed is not None:
            self.feed.close()

    def welcome(self, root: str, link: Link) -> None:
        """Another process asks for an upload of this root that is open here."""
        try:
            self.by_root()[root].welcome(link)
        except (KeyError, RequestError):
            link.close()  # not open any more, or no thread for it: who asked tries again

    def look_after_remote(self) -> None:
        """Another process has ended: let go of uploads that it had open."""
        for storage in self.storages():
            storage.look_after_remote()
        if self.feed is not None:
            with contextlib.suppress(Busy):  # the hourly sweep does it, too
                start_thread(self._settle, "ftpy-settle")  # it waits for what is being published

    def _settle(self) -> None:
        with contextlib.suppress(RequestError):  # it has been said
            self.settle_events()

    def settle_events(self) -> None:
        """Find out what became of what dead processes were about to do. Raises IoError."""
        if self.feed is not None:
            self.feed.settle()

    def sweep_events(self) -> None:
        """Forget events as the settings say. Raises IoError, OSError."""
        if self.feed is None:
            FeedBook(self._config.state).forget()
            return
        if gone := self.feed.sweep(days=self._config.events.days):
            log.info("events-swept", extra={"event": "events-swept", "fields": {"events": gone}})
